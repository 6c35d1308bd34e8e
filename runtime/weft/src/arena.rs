//! Memory of the helper threads.
//!
//! These threads live for a fraction of a millisecond, to do background work. On one heap they and the main thread
//! would often wait for each other. So each has an arena, from which it takes piece after piece; only the last piece
//! can be given back. What does not fit comes from the heap.
//!
//! Invariants: a thread only takes from its own arena, and no two threads share one. Any thread may give a piece back,
//! which has no effect unless it is the last one of that thread's own arena.

use std::alloc::Layout;
use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicUsize, Ordering};

/// More than any of our threads needs. Untouched memory costs nothing.
const SIZE: usize = 1 << 20;

/// How many threads have an arena; others use the heap.
const COUNT: usize = 4;

#[repr(align(4096))]
struct Arenas(UnsafeCell<[[u8; SIZE]; COUNT]>);

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: only addresses are computed from it here; each piece of memory belongs to the caller that got it.
unsafe impl Sync for Arenas {}

static ARENAS: Arenas = Arenas(UnsafeCell::new([[0; SIZE]; COUNT]));

/// The number of threads seen so far. The first one is the main thread.
static SEEN: AtomicUsize = AtomicUsize::new(0);

/// The rest of a thread's arena, as offsets in `ARENAS`.
#[derive(Debug, Clone, Copy)]
enum Rest {
    Unseen,
    None,
    Some { next: usize, end: usize },
}

thread_local! {
    static REST: Cell<Rest> = const { Cell::new(Rest::Unseen) };
}

fn start() -> *mut u8 {
    ARENAS.0.get().cast()
}

/// Returns the offset of an address in `ARENAS`, if it is there.
fn offset(at: *const u8) -> Option<usize> {
    at.addr().checked_sub(start().addr()).filter(|offset| *offset < SIZE * COUNT)
}

/// Returns whether a piece is from an arena.
pub(crate) fn contains(at: *const u8) -> bool {
    offset(at).is_some()
}

/// Returns the next piece of this thread's arena, if it has one with enough space.
pub(crate) fn alloc(layout: Layout) -> Option<*mut u8> {
    let (next, end) = match REST.get() {
        Rest::Some { next, end } => (next, end),
        Rest::None => return None,
        Rest::Unseen => claim()?,
    };
    // Arenas are page-aligned; requests for more alignment use the heap.
    let at = next.checked_next_multiple_of(layout.align()).filter(|_| layout.align() <= 4096)?;
    let after = at.checked_add(layout.size()).filter(|after| *after <= end)?;
    REST.set(Rest::Some { next: after, end });
    Some(start().wrapping_add(at))
}

fn claim() -> Option<(usize, usize)> {
    let arena = SEEN.fetch_add(1, Ordering::Relaxed).checked_sub(1).filter(|arena| *arena < COUNT);
    let Some(arena) = arena else {
        REST.set(Rest::None);
        return None;
    };
    Some((arena * SIZE, (arena + 1) * SIZE))
}

/// Gives a piece back.
pub(crate) fn dealloc(at: *const u8, layout: Layout) {
    if let (Rest::Some { next, end }, Some(offset)) = (REST.get(), offset(at))
        && offset + layout.size() == next
        && end - next < SIZE
        && offset >= end - SIZE
    {
        REST.set(Rest::Some { next: offset, end });
    }
}

/// Resizes the last piece in place.
pub(crate) fn grow(at: *const u8, layout: Layout, size: usize) -> bool {
    if let (Rest::Some { next, end }, Some(offset)) = (REST.get(), offset(at))
        && offset + layout.size() == next
        && offset >= end - SIZE
        && let Some(after) = offset.checked_add(size).filter(|after| *after <= end)
    {
        REST.set(Rest::Some { next: after, end });
        return true;
    }
    // A smaller piece may stay in place.
    size <= layout.size()
}

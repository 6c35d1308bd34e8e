//! Memory of the threads beside the main one.
//!
//! They live for a fraction of a millisecond, to do something in the background. On one heap they and the main thread would
//! spend a good part of that waiting for each other. So each has some memory of its own, from which it takes piece after
//! piece; only the last piece can be given back. What does not fit comes from the heap.
//!
//! Invariants: a thread takes only from its own arena, and no two threads have the same; a piece may be given back by any
//! thread, which means nothing if it is not the last one of that thread's own arena.

use std::alloc::Layout;
use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicUsize, Ordering};

/// More than a thread of ours needs. What is not touched costs nothing.
const SIZE: usize = 1 << 20;

/// As many threads have one; the others use the heap.
const COUNT: usize = 4;

#[repr(align(4096))]
struct Arenas(UnsafeCell<[[u8; SIZE]; COUNT]>);

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: only addresses are made of it here; what is at them belongs to who was given them.
unsafe impl Sync for Arenas {}

static ARENAS: Arenas = Arenas(UnsafeCell::new([[0; SIZE]; COUNT]));

/// Threads seen so far. The first one is the main thread.
static SEEN: AtomicUsize = AtomicUsize::new(0);

/// What is left of a thread's arena, as offsets in `ARENAS`.
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

/// Where in `ARENAS` an address is, if it is.
fn offset(at: *const u8) -> Option<usize> {
    at.addr().checked_sub(start().addr()).filter(|offset| *offset < SIZE * COUNT)
}

/// Whether a piece is from an arena.
pub(crate) fn has(at: *const u8) -> bool {
    offset(at).is_some()
}

/// The next piece of this thread's arena, if it has one and there is enough left of it.
pub(crate) fn alloc(layout: Layout) -> Option<*mut u8> {
    let (next, end) = match REST.get() {
        Rest::Some { next, end } => (next, end),
        Rest::None => return None,
        Rest::Unseen => claim()?,
    };
    // Arenas are aligned to pages; what wants more than that gets it from the heap.
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

/// Makes the last piece larger or smaller where it is.
pub(crate) fn grow(at: *const u8, layout: Layout, size: usize) -> bool {
    if let (Rest::Some { next, end }, Some(offset)) = (REST.get(), offset(at))
        && offset + layout.size() == next
        && offset >= end - SIZE
        && let Some(after) = offset.checked_add(size).filter(|after| *after <= end)
    {
        REST.set(Rest::Some { next: after, end });
        return true;
    }
    // A smaller piece may stay where it is.
    size <= layout.size()
}

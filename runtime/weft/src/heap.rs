//! The allocator of the statically linked binary, for Rust and for C (SQLite) alike.
//!
//! musl's own gives memory back to the kernel whenever it can, and then faults it in again: 220 system calls and 150 page
//! faults in one ADD, a fifth of its time. dlmalloc keeps what it has, which for a process of some milliseconds is right.
//!
//! Invariants: one heap under one lock, entered by Rust through `GlobalAlloc` and by C through the functions that musl wants
//! replaced together; C's blocks start with a header, since C does not say how large what it frees is.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::Dlmalloc;

#[global_allocator]
static HEAP: Heap = Heap(Mutex::new(Dlmalloc::new()));

struct Heap(Mutex<Dlmalloc>);

impl Heap {
    fn lock(&self) -> MutexGuard<'_, Dlmalloc> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: dlmalloc's contract is `GlobalAlloc`'s, with size and alignment spelled out. It does not unwind, and neither do a
// lock and an unlock.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size and power of two will do.
        unsafe { self.lock().malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe { self.lock().calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller has it from us, with this layout.
        unsafe { self.lock().free(at, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller has it from us, with this layout.
        unsafe { self.lock().realloc(at, layout.size(), layout.align(), size) }
    }
}

/// What stands before a block of C's.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Header {
    /// Of the block as the heap knows it.
    whole: Layout,
    /// From its start to what C got.
    offset: usize,
    /// What C asked for.
    size: usize,
}

const HEADER: usize = size_of::<Header>();

/// What every object of C is content with.
const ALIGN: usize = align_of::<Header>();

#[expect(unsafe_code, reason = "an allocator is")]
fn give(size: usize, align: usize, zeroed: bool) -> *mut c_void {
    let align = align.max(ALIGN);
    // A multiple of the alignment, so that what follows is aligned as well.
    let offset = HEADER.next_multiple_of(align);
    let Some(Ok(whole)) = size.checked_add(offset).map(|size| Layout::from_size_align(size, align)) else {
        return ptr::null_mut();
    };
    // SAFETY: the layout has a size, that of the header at least. The header lies within the block, right before what C gets.
    unsafe {
        let start = if zeroed { HEAP.alloc_zeroed(whole) } else { HEAP.alloc(whole) };
        if start.is_null() {
            return ptr::null_mut();
        }
        let given = start.add(offset);
        given.cast::<Header>().sub(1).write(Header { whole, offset, size });
        given.cast()
    }
}

/// # Safety
/// It came from `give`, and not back yet.
#[expect(unsafe_code, reason = "an allocator is")]
unsafe fn header(given: *mut c_void) -> Header {
    // SAFETY: `give` put one there.
    unsafe { given.cast::<Header>().sub(1).read() }
}

#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    give(size, ALIGN, false)
}

#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    count.checked_mul(size).map_or(ptr::null_mut(), |size| give(size, ALIGN, true))
}

/// # Safety
/// As C has it: null, or what one of these functions gave.
#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
unsafe extern "C" fn free(given: *mut c_void) {
    if given.is_null() {
        return;
    }
    // SAFETY: the caller's word; the block is the heap's, with the layout it was asked for with.
    unsafe {
        let Header { whole, offset, .. } = header(given);
        HEAP.dealloc(given.cast::<u8>().sub(offset), whole);
    }
}

/// # Safety
/// As for `free`.
#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(given: *mut c_void, size: usize) -> *mut c_void {
    if given.is_null() {
        return malloc(size);
    }
    // SAFETY: the caller's word. The header moves with the block; only what it says of sizes changes.
    unsafe {
        let Header { whole, offset, .. } = header(given);
        let Some(Ok(wanted)) = size.checked_add(offset).map(|size| Layout::from_size_align(size, whole.align())) else {
            return ptr::null_mut();
        };
        let start = HEAP.realloc(given.cast::<u8>().sub(offset), whole, wanted.size());
        if start.is_null() {
            return ptr::null_mut();
        }
        let given = start.add(offset);
        given.cast::<Header>().sub(1).write(Header { whole: wanted, offset, size });
        given.cast()
    }
}

#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if align.is_power_of_two() { give(size, align, false) } else { ptr::null_mut() }
}

#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    aligned_alloc(align, size)
}

/// # Safety
/// As C has it: `out` is a place for a pointer.
#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    const EINVAL: c_int = 22;
    const ENOMEM: c_int = 12;
    if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
        return EINVAL;
    }
    let given = give(size, align, false);
    if given.is_null() {
        return ENOMEM;
    }
    // SAFETY: the caller's word.
    unsafe { out.write(given) };
    0
}

/// # Safety
/// As for `free`.
#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_usable_size(given: *mut c_void) -> usize {
    // SAFETY: the caller's word.
    if given.is_null() { 0 } else { unsafe { header(given) }.size }
}

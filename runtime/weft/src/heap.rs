//! The allocator of the statically linked binary, for Rust and for C (SQLite) alike.
//!
//! musl's own allocator returns memory to the kernel whenever it can, and then faults it in again: 220 system calls and
//! 150 page faults in one ADD, a fifth of its time. dlmalloc keeps its memory, which is right for a process that lives
//! for some milliseconds.
//!
//! Invariants: there is one heap under one lock. Rust enters it through `GlobalAlloc`, and C through the functions that
//! musl requires to be replaced together. C's blocks start with a header, because C does not pass the size of a freed
//! block.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::hint::spin_loop;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::yield_now;

use dlmalloc::{Allocator, Dlmalloc};

use crate::arena;

#[global_allocator]
static HEAP: Heap =
    Heap { locked: AtomicBool::new(false), inner: UnsafeCell::new(Dlmalloc::new_with_allocator(Pages)) };

/// The initial memory: a call needs less, so that no system call is made under the lock. Untouched memory costs
/// nothing.
const FIRST: usize = 2 << 20;

#[repr(align(4096))]
struct Region(UnsafeCell<[u8; FIRST]>);

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: only the caller that got a part from the heap accesses it.
unsafe impl Sync for Region {}

static REGION: Region = Region(UnsafeCell::new([0; FIRST]));
static REGION_GIVEN: AtomicBool = AtomicBool::new(false);

/// The heap's sources of memory: the region, then the kernel.
struct Pages;

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: memory is handed out once, ensured by the region's flag and by the kernel. The region is marked as foreign,
// so that no part of it is ever returned.
unsafe impl Allocator for Pages {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        const FOREIGN: u32 = 1;
        if size <= FIRST && !REGION_GIVEN.swap(true, Ordering::Relaxed) {
            return (REGION.0.get().cast(), FIRST, FOREIGN);
        }
        // SAFETY: new memory at an address of the kernel's choice.
        let start = unsafe {
            let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            libc::mmap(ptr::null_mut(), size, rights, kind, -1, 0)
        };
        if start == libc::MAP_FAILED { (ptr::null_mut(), 0, 0) } else { (start.cast(), size, 0) }
    }

    fn remap(&self, at: *mut u8, old: usize, new: usize, can_move: bool) -> *mut u8 {
        let flags = if can_move { libc::MREMAP_MAYMOVE } else { 0 };
        // SAFETY: the heap got it from `alloc`, and from the kernel, because it never remaps foreign memory.
        let start = unsafe { libc::mremap(at.cast(), old, new, flags) };
        if start == libc::MAP_FAILED { ptr::null_mut() } else { start.cast() }
    }

    fn free_part(&self, at: *mut u8, old: usize, new: usize) -> bool {
        // SAFETY: as for `remap`; the heap no longer uses what lies beyond `new`.
        unsafe { libc::munmap(at.add(new).cast(), old - new) == 0 }
    }

    fn free(&self, at: *mut u8, size: usize) -> bool {
        // SAFETY: as for `remap`; the heap no longer uses it.
        unsafe { libc::munmap(at.cast(), size) == 0 }
    }

    fn can_release_part(&self, _flags: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        4096
    }
}

/// One heap for all threads. They hold the lock for some dozen nanoseconds, so a waiting thread spins: sleeping and
/// waking up would take a thousand times longer.
struct Heap {
    locked: AtomicBool,
    inner: UnsafeCell<Dlmalloc<Pages>>,
}

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: `with` is the only access to the inside, and admits one thread at a time.
unsafe impl Sync for Heap {}

impl Heap {
    #[expect(unsafe_code, reason = "an allocator is")]
    fn with_lock<T>(&self, work: impl FnOnce(&mut Dlmalloc<Pages>) -> T) -> T {
        let mut tries = 0_u32;
        while self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            tries = tries.wrapping_add(1);
            // The holder may not be running, because this may be the only processor.
            if tries.is_multiple_of(256) { yield_now() } else { spin_loop() }
        }
        // SAFETY: the thread that set the flag has exclusive access until it is cleared. dlmalloc only calls back
        // `Pages`.
        let value = work(unsafe { &mut *self.inner.get() });
        self.locked.store(false, Ordering::Release);
        value
    }
}

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: dlmalloc's contract is that of `GlobalAlloc`, with explicit size and alignment. Neither it nor the lock
// unwinds.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(start) = arena::alloc(layout) {
            return start;
        }
        // SAFETY: any size and power of two is valid.
        self.with_lock(|heap| unsafe { heap.malloc(layout.size(), layout.align()) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let Some(start) = arena::alloc(layout) {
            // SAFETY: all of it was just given to us; an arena may reuse memory.
            unsafe { start.write_bytes(0, layout.size()) };
            return start;
        }
        // SAFETY: as in `alloc`.
        self.with_lock(|heap| unsafe { heap.calloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if arena::contains(at) {
            return arena::dealloc(at, layout);
        }
        // SAFETY: the caller got it from us, with this layout.
        self.with_lock(|heap| unsafe { heap.free(at, layout.size(), layout.align()) });
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if arena::contains(at) {
            if arena::grow(at, layout, size) {
                return at;
            }
            // SAFETY: the caller guarantees that the new size makes a valid layout; both blocks are as large as what is
            // copied.
            return unsafe {
                let start = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                if !start.is_null() {
                    ptr::copy_nonoverlapping(at, start, layout.size().min(size));
                    arena::dealloc(at, layout);
                }
                start
            };
        }
        // SAFETY: the caller got it from us, with this layout.
        self.with_lock(|heap| unsafe { heap.realloc(at, layout.size(), layout.align(), size) })
    }
}

/// The header before a block for C.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Header {
    /// The layout of the block in the heap.
    whole: Layout,
    /// The offset from its start to the address that C got.
    offset: usize,
    /// The size that C requested.
    size: usize,
}

const HEADER: usize = size_of::<Header>();

/// The alignment that suffices for every C object.
const ALIGN: usize = align_of::<Header>();

#[expect(unsafe_code, reason = "an allocator is")]
fn allocate(size: usize, align: usize, zeroed: bool) -> *mut c_void {
    let align = align.max(ALIGN);
    // A multiple of the alignment, so that what follows is aligned too.
    let offset = HEADER.next_multiple_of(align);
    let Some(Ok(whole)) = size.checked_add(offset).map(|size| Layout::from_size_align(size, align)) else {
        return ptr::null_mut();
    };
    // SAFETY: the size is at least that of the header. The header lies within the block, right before C's address.
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
/// The pointer came from `give`, and has not been freed.
#[expect(unsafe_code, reason = "an allocator is")]
unsafe fn header(given: *mut c_void) -> Header {
    // SAFETY: `give` put one there.
    unsafe { given.cast::<Header>().sub(1).read() }
}

#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    allocate(size, ALIGN, false)
}

#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    count.checked_mul(size).map_or(ptr::null_mut(), |size| allocate(size, ALIGN, true))
}

/// # Safety
/// As in C: null, or a pointer from one of these functions.
#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
unsafe extern "C" fn free(given: *mut c_void) {
    if given.is_null() {
        return;
    }
    // SAFETY: the caller's guarantee; the block belongs to the heap, with its original layout.
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
    // SAFETY: the caller's guarantee. The header moves with the block; only its sizes change.
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
    if align.is_power_of_two() { allocate(size, align, false) } else { ptr::null_mut() }
}

#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    aligned_alloc(align, size)
}

/// # Safety
/// As in C: `out` points to a pointer.
#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    const EINVAL: c_int = 22;
    const ENOMEM: c_int = 12;
    if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
        return EINVAL;
    }
    let given = allocate(size, align, false);
    if given.is_null() {
        return ENOMEM;
    }
    // SAFETY: the caller's guarantee.
    unsafe { out.write(given) };
    0
}

/// # Safety
/// As for `free`.
#[expect(unsafe_code, reason = "libc's name")]
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_usable_size(given: *mut c_void) -> usize {
    // SAFETY: the caller's guarantee.
    if given.is_null() { 0 } else { unsafe { header(given) }.size }
}

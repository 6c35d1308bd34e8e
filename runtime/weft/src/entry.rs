//! The entry point of the process, which runs before the C library.
//!
//! A position-independent program relocates itself first. That writes to each of its dozens of pages with pointers, and
//! each write causes a page fault. One system call makes the kernel copy all of them at once, together with the first
//! pages of the heap (`heap.rs`), which lies after them and which every call uses.

#![expect(unsafe_code, reason = "entry code is unsafe by nature; each block has a SAFETY comment")]

use std::arch::global_asm;

// Nothing is relocated yet, so this touches no memory, and the stack pointer is unchanged for `_start`. On kernels
// before 5.14 the call fails, which is harmless: the pages are then faulted in one by one.
global_asm!(
    ".globl weft_entry",
    ".hidden weft_entry",
    "weft_entry:",
    // %rdx may hold a function for `_start`.
    "mov r8, rdx",
    "lea rdi, [rip + __init_array_start]",
    "lea rsi, [rip + _edata]",
    "and rdi, -4096",
    "sub rsi, rdi",
    // 64 pages of the heap: an ADD uses more. If the heap is smaller, the kernel stops at its end.
    "add rsi, 0x40000",
    // MADV_POPULATE_WRITE
    "mov edx, 23",
    // madvise
    "mov eax, 28",
    "syscall",
    "mov rdx, r8",
    "jmp _start",
);

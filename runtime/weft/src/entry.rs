//! Where the process begins: before the C library, which comes next.
//!
//! A position independent program relocates itself first. That writes to each of its dozens of pages of pointers, and each write
//! is a page fault of its own. One system call has the kernel copy all of them at once, and with them the first pages of the
//! heap (`heap.rs`), which lies behind them and which every call uses.

#![expect(unsafe_code, reason = "assembly is; SAFETY is argued at the instructions")]

use std::arch::global_asm;

// Nothing is relocated yet, so this touches no memory, and the stack pointer is left as the kernel set it for `_start`. Kernels
// before 5.14 do not know the call, which is as well: then the pages come one by one.
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
    // 64 pages of the heap: an ADD uses more. Where it is smaller, the kernel stops at its end.
    "add rsi, 0x40000",
    // MADV_POPULATE_WRITE
    "mov edx, 23",
    // madvise
    "mov eax, 28",
    "syscall",
    "mov rdx, r8",
    "jmp _start",
);

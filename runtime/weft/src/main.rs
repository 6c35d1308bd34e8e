//! The CNI binary. Everything is in `weft-core`; what it does depends on the name it is called by.

#[cfg(target_env = "musl")]
mod arena;
#[cfg(all(target_env = "musl", target_arch = "x86_64"))]
mod entry;
#[cfg(target_env = "musl")]
mod heap;

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_core::command::main()
}

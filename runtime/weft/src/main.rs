//! The CNI binary. `weft-core` implements everything; the program's name determines what it does.

#[cfg(target_env = "musl")]
mod arena;
#[cfg(all(target_env = "musl", target_arch = "x86_64"))]
mod entry;
#[cfg(target_env = "musl")]
mod heap;

mod faults;

use std::process::ExitCode;

use weft_core::command::{self, Surroundings};

fn main() -> ExitCode {
    faults::install();
    command::main(&Surroundings { stdout_closed: faults::is_stdout_closed(), before_print: faults::before_print })
}

//! The plugin of `weft_cluster::fake` as a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    match weft_cluster::fake::run() {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            std::io::Write::write_all(&mut std::io::stderr(), format!("{error:#}\n").as_bytes()).ok();
            ExitCode::from(99)
        }
    }
}

//! Compiles a policy by running `weftctl`: `weft` itself has no compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Compiles a component by running `weftctl policy compile` once.
///
/// # Errors
/// A text that says which program was run and what it answered.
pub(super) fn compile_with_weftctl(state_dir: &Path, component: &Path) -> Result<(), String> {
    let weftctl = find_weftctl();
    let output = Command::new(&weftctl)
        .arg("policy")
        .arg("compile")
        .arg("--state-dir")
        .arg(state_dir)
        .arg(component)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {} ({error}); install it with `weftctl install`", weftctl.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} policy compile failed: {}", weftctl.display(), stderr.trim()))
}

/// `weftctl` beside weft itself, or where `weftctl install` puts it. PATH is not asked: this runs as root.
fn find_weftctl() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("weftctl"));
    match beside {
        Some(path) if path.is_file() => path,
        _ => PathBuf::from("/usr/local/bin/weftctl"),
    }
}

//! The programs that build components from other languages than Rust: their names, their invocation, and what to
//! install if one is missing.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::project::Language;

/// Debian's C library for WebAssembly.
const DEBIAN_SYSROOT: &str = "/usr/include/wasm32-wasi";

/// Returns what building a language needs, for a README.
pub(super) fn needs(language: Language) -> &'static str {
    match language {
        Language::Rust => "Rust 1.95 or newer (https://rustup.rs) and `rustup target add wasm32-unknown-unknown`",
        Language::Js => "Node.js and `npm install -g componentize-qjs@0.4.5` (or without -g, in this directory)",
        Language::Python => "`pip install componentize-py==0.25.1` (also in a `.venv` of this directory)",
        Language::C => {
            "a C compiler for WebAssembly: `pip install ziglang==0.17.1` (also in a `.venv` of this directory), or Debian's `clang lld wasi-libc libclang-rt-dev-wasm32` (bookworm: \
             `libclang-rt-14-dev-wasm32`), or wasi-sdk with `WASI_SDK_PATH` set"
        }
    }
}

/// Returns what to do before a language can be built here; `None` if nothing is missing.
pub(super) fn missing(language: Language, dir: &Path) -> Option<String> {
    let there = match language {
        // The build itself reports what else is missing.
        Language::Rust => find("cargo", dir).is_some(),
        Language::Js => find("componentize-qjs", dir).is_some(),
        Language::Python => find("componentize-py", dir).is_some(),
        Language::C => c_compiler(dir).is_some(),
    };
    (!there).then(|| format!("install {}", needs(language)))
}

/// Returns a program, or an error that says what to install.
pub(super) fn program(name: &str, language: Language, dir: &Path) -> anyhow::Result<PathBuf> {
    find(name, dir).with_context(|| format!("{name} is not installed: install {}", needs(language)))
}

/// Searches the project's own tool directories first.
fn find(name: &str, dir: &Path) -> Option<PathBuf> {
    let own = ["node_modules/.bin", ".venv/bin"].map(|place| dir.join(place));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = own.into_iter().chain(env::split_paths(&path)).map(|place| place.join(name));
    places.find(|file| file.is_file()).map(|file| std::path::absolute(&file).unwrap_or(file))
}

/// Returns the beginning of a command line that compiles C to a module without WASI, as far as the code does not use
/// it.
pub(super) fn c_compiler(dir: &Path) -> Option<Vec<OsString>> {
    let line = |program: PathBuf, more: &[&str]| {
        let mut line = vec![program.into_os_string()];
        line.extend(more.iter().map(OsString::from));
        line
    };
    if let Some(sdk) = env::var_os("WASI_SDK_PATH") {
        return Some(line(PathBuf::from(sdk).join("bin/clang"), &["--target=wasm32-wasip1"]));
    }
    if let Some(clang) = find("clang", dir).filter(|_clang| Path::new(DEBIAN_SYSROOT).is_dir()) {
        return Some(line(clang, &["--target=wasm32-wasi"]));
    }
    // pip installs it under the second name.
    let zig = ["zig", "python-zig"].into_iter().find_map(|name| find(name, dir));
    zig.map(|zig| line(zig, &["cc", "-target", "wasm32-wasi"]))
}

/// Runs a program in a directory. Shows its output if it fails.
pub(super) fn run(command: &mut Command, dir: &Path) -> anyhow::Result<()> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let output = command
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    bail!("{name} failed ({}):\n{}", output.status, String::from_utf8_lossy(&said).trim())
}

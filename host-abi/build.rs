//! Passes the exact wasmtime version to `engine.rs`: native code of one patch release must never be loaded by another,
//! and wasmtime's own loader only compares the major version.

use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lock = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../Cargo.lock");
    emit(&format!("rerun-if-changed={}", lock.display()));
    let text = fs::read_to_string(&lock).map_err(|e| format!("cannot read {}: {e}", lock.display()))?;
    let version = text
        .split("[[package]]")
        .find(|package| package.contains("\nname = \"wasmtime\"\n"))
        .and_then(|package| package.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"')))
        .ok_or_else(|| format!("{} names no version of wasmtime", lock.display()))?;
    emit(&format!("rustc-env=WEFT_WASMTIME_VERSION={version}"));
    Ok(())
}

fn emit(directive: &str) {
    println!("cargo::{directive}");
}

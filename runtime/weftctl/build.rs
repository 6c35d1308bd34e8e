//! Builds the shipped policies (`guest-plugins/`) as components, so that `weftctl install` contains them, and lists the
//! files that `weftctl policy new` writes.
//!
//! Writes `$OUT_DIR/policies/<name>.wasm` and `$OUT_DIR/policies.rs`, a list of all of them to `include!`:
//! `&[("by-label", include_bytes!(...)), ...]`. A new policy needs no change here. `$OUT_DIR/templates.rs` is a similar
//! list of the files of `sdk/templates` and of the package `sdk/rust`.

#[path = "../../host-abi/src/guest_build.rs"]
#[allow(unreachable_pub, reason = "the file is a public module of weft-host-abi too")]
mod guest_build;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let repository = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    watch(&repository)?;
    let manifest = repository.join("guest-plugins/Cargo.toml");
    let guests = guest_build::build_guests(&manifest, &guests_dir(&out))?;

    let policies = out.join("policies");
    // A policy that was deleted from the sources must not be shipped because of an earlier build.
    if policies.exists() {
        fs::remove_dir_all(&policies).with_context(|| format!("cannot empty {}", policies.display()))?;
    }
    fs::create_dir_all(&policies)?;
    let mut list = String::from("&[\n");
    for guest in guests {
        let path = policies.join(format!("{}.wasm", guest.name));
        fs::write(&path, &guest.component).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(list, "    ({:?}, include_bytes!({:?})),", guest.name, path.display().to_string())?;
    }
    list.push_str("]\n");
    fs::write(out.join("policies.rs"), list)?;
    fs::write(out.join("templates.rs"), templates(&repository.join("sdk"))?)?;
    Ok(())
}

/// `&[("templates/js/ipam/policy.js", include_str!(...)), ...]`.
fn templates(sdk: &Path) -> Result<String> {
    let mut files = Vec::new();
    for part in ["templates", "rust/src", "rust/wit", "rust/Cargo.toml", "rust/Cargo.lock", "rust/README.md"] {
        collect(&sdk.join(part), &mut files)?;
    }
    files.sort();
    let mut list = String::from("&[\n");
    for file in files {
        rerun_if_changed(&file);
        let name = file.strip_prefix(sdk)?.display().to_string();
        writeln!(list, "    ({name:?}, include_str!({:?})),", file.display().to_string())?;
    }
    list.push_str("]\n");
    Ok(list)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    // A new file makes the directory newer.
    rerun_if_changed(path);
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

/// Returns where the guests are compiled: one directory for all variants of this build (checked, tested, built), so
/// that they and their dependencies are compiled once. `OUT_DIR` is `<target>/<profile>/build/<package>/out`.
fn guests_dir(out: &Path) -> PathBuf {
    out.ancestors().nth(4).unwrap_or(out).join("guests")
}

/// Watches everything that goes into a component, but not all of `guest-plugins`: it may contain the author's `target`
/// directory.
fn watch(repository: &Path) -> Result<()> {
    for path in ["sdk/rust/Cargo.toml", "sdk/rust/src", "sdk/rust/wit", "host-abi/wit", "host-abi/src/guest_build.rs"] {
        rerun_if_changed(&repository.join(path));
    }
    for entry in fs::read_dir(repository.join("guest-plugins"))? {
        let entry = entry?;
        if entry.file_name() != "target" {
            rerun_if_changed(&entry.path());
        }
    }
    Ok(())
}

fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

//! Builds components from a guest's crate. Compiled into two places: `weft-host-abi` (feature `compile`), for `weftctl
//! policy build`, and `weftctl`'s build script (by path), for the shipped policies. The build script must not depend on
//! the library, which would compile wasmtime a second time, so this file only uses std, serde_json and wit-component.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target of guests. It has no WASI, so a guest cannot import any by accident.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// Why a guest could not be built.
#[derive(Debug)]
#[non_exhaustive]
pub enum GuestBuildError {
    /// A program could not be started.
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// The compiler's target is not installed.
    NoTarget {
        /// The sysroot according to rustc.
        sysroot: PathBuf,
    },
    /// cargo failed; it has printed why.
    Cargo {
        /// Manifest that was built.
        manifest: PathBuf,
    },
    /// cargo printed something other than its message format.
    Messages {
        /// The line.
        line: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The crate made no `cdylib`.
    NoArtifact {
        /// Manifest that was built.
        manifest: PathBuf,
    },
    /// A core module could not be turned into a component.
    Componentize {
        /// Which.
        name: String,
        /// Why, with causes.
        reason: String,
    },
    /// A built file could not be read.
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl fmt::Display for GuestBuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { program, .. } => write!(f, "cannot run {program}"),
            Self::NoTarget { sysroot } => write!(
                f,
                "the Rust toolchain at {} cannot build policies: run `rustup target add {TARGET}`",
                sysroot.display()
            ),
            Self::Cargo { manifest } => write!(f, "cargo could not build {} for {TARGET}", manifest.display()),
            Self::Messages { line, .. } => write!(f, "cargo printed a line that is not a message: {line}"),
            Self::NoArtifact { manifest } => write!(
                f,
                "{} has no library with crate-type = [\"cdylib\"], so there is no policy in it",
                manifest.display()
            ),
            Self::Componentize { name, reason } => write!(f, "{name} is not a policy component: {reason}"),
            Self::Read { path, .. } => write!(f, "cannot read {}", path.display()),
        }
    }
}

impl std::error::Error for GuestBuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } | Self::Read { source, .. } => Some(source),
            Self::Messages { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A built policy.
#[derive(Debug, Clone)]
pub struct BuiltGuest {
    /// The package's name (`by-label`), which is the policy's.
    pub name: String,
    /// The component.
    pub component: Vec<u8>,
}

/// Wraps a core module with an embedded world (made by wit-bindgen) into a component.
///
/// # Errors
///
/// An error text with causes, if the module does not fit its world or has other imports.
pub fn componentize(core_module: &[u8]) -> Result<Vec<u8>, String> {
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(core_module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| format!("{error:#}"))
}

/// Builds every policy (`cdylib`) of a cargo package or workspace in `target_dir`, with its lock file if it has one.
///
/// # Errors
///
/// [`GuestBuildError`]; cargo's own messages go to standard error.
pub fn build_guests(manifest: &Path, target_dir: &Path) -> Result<Vec<BuiltGuest>, GuestBuildError> {
    check_target()?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_no_current_dir| path.to_owned());
    let (manifest, target_dir) = (&absolute(manifest), &absolute(target_dir));
    let mut cargo = clean_command("cargo");
    cargo
        .args(["build", "--release", "--workspace", "--lib", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", remapped_paths(manifest))
        .stderr(Stdio::inherit());
    // A new project has no lock file yet; later builds are locked to it.
    if manifest.ancestors().skip(1).any(|dir| dir.join("Cargo.lock").is_file()) {
        cargo.arg("--locked");
    }
    // Cargo searches for its configuration from here upwards.
    cargo.current_dir(manifest.parent().unwrap_or(Path::new(".")));
    let output = cargo.output().map_err(|source| GuestBuildError::Start { program: "cargo".to_owned(), source })?;
    if !output.status.success() {
        return Err(GuestBuildError::Cargo { manifest: manifest.to_owned() });
    }
    let mut guests = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.is_empty()) {
        if let Some((name, path)) = artifact(line)? {
            let core = std::fs::read(&path).map_err(|source| GuestBuildError::Read { path, source })?;
            let component =
                componentize(&core).map_err(|reason| GuestBuildError::Componentize { name: name.clone(), reason })?;
            guests.push(BuiltGuest { name, component });
        }
    }
    if guests.is_empty() {
        return Err(GuestBuildError::NoArtifact { manifest: manifest.to_owned() });
    }
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(guests)
}

/// Returns compiler flags that keep this machine's paths (in panic messages) out of a component, so that one source has
/// one digest.
fn remapped_paths(manifest: &Path) -> OsString {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    // The parent directory of the package, which contains path dependencies such as the SDK.
    let around = manifest.parent().and_then(Path::parent).map(Path::to_owned);
    let mut flags = OsString::new();
    for (from, to) in [(cargo_home, "/cargo"), (around, "/src")] {
        if let Some(from) = from.filter(|from| from.parent().is_some()) {
            // Flags are separated by the unit separator.
            flags.push(if flags.is_empty() { "" } else { "\u{1f}" });
            flags.push("--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
    }
    flags
}

/// Returns name and core module, if a line of cargo's output reports a finished `cdylib`.
fn artifact(line: &str) -> Result<Option<(String, PathBuf)>, GuestBuildError> {
    let message: serde_json::Value =
        serde_json::from_str(line).map_err(|source| GuestBuildError::Messages { line: line.to_owned(), source })?;
    let target = &message["target"];
    let is_cdylib = target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"));
    if message["reason"] != "compiler-artifact" || !is_cdylib {
        return Ok(None);
    }
    let files = message["filenames"].as_array().into_iter().flatten().filter_map(|file| file.as_str());
    let wasm = files.map(PathBuf::from).find(|path| path.extension().is_some_and(|extension| extension == "wasm"));
    // cargo uses underscores in library targets; the package has dashes.
    Ok(target["name"].as_str().map(|name| name.replace('_', "-")).zip(wasm))
}

fn check_target() -> Result<(), GuestBuildError> {
    let output = clean_command("rustc")
        .args(["--print", "sysroot"])
        .output()
        .map_err(|source| GuestBuildError::Start { program: "rustc".to_owned(), source })?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir() {
        return Ok(());
    }
    Err(GuestBuildError::NoTarget { sysroot })
}

/// Returns a command without the environment of an outer cargo: its flags, wrappers and package variables belong to the
/// host's build and would reach the guest's. Also drops `CARGO` and `RUSTC`, so that rustup's proxies choose the
/// directory's toolchain.
#[must_use]
pub fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _value) in std::env::vars_os() {
        if leaks(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn leaks(name: &OsString) -> bool {
    const KEEP: [&str; 5] = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_"];
    let name = name.to_string_lossy();
    let of_cargo =
        name == "CARGO" || name.starts_with("CARGO_") || name.starts_with("RUSTC") || name.starts_with("DEP_");
    let of_flags =
        ["RUSTFLAGS", "RUSTDOC", "RUSTDOCFLAGS", "TARGET", "HOST", "OPT_LEVEL", "PROFILE", "DEBUG", "OUT_DIR"];
    (of_cargo && !KEEP.iter().any(|keep| name.starts_with(keep))) || of_flags.contains(&name.as_ref())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn an_outer_cargo_does_not_leak() {
        let leaks = |name: &str| leaks(&OsString::from(name));
        for name in
            ["CARGO", "CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC", "RUSTC_WRAPPER", "OUT_DIR"]
        {
            assert!(leaks(name), "{name}");
        }
        for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_TOOLCHAIN", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_X_INDEX"]
        {
            assert!(!leaks(name), "{name}");
        }
    }

    #[test]
    fn only_finished_cdylibs_are_artifacts() {
        let line = |kind: &str, reason: &str| {
            format!(
                r#"{{"reason": "{reason}", "target": {{"kind": ["{kind}"], "name": "by_label"}}, "filenames": ["/t/by_label.d", "/t/by_label.wasm"]}}"#
            )
        };
        let found = artifact(&line("cdylib", "compiler-artifact")).expect("a message").expect("an artifact");
        assert_eq!(found, ("by-label".to_owned(), PathBuf::from("/t/by_label.wasm")));
        assert!(artifact(&line("lib", "compiler-artifact")).expect("a message").is_none());
        assert!(artifact(&line("cdylib", "build-finished")).expect("a message").is_none());
        assert!(matches!(artifact("warning: hello"), Err(GuestBuildError::Messages { .. })));
    }

    #[test]
    fn a_module_without_a_world_is_no_policy() {
        componentize(b"nonsense").expect_err("not wasm");
    }
}

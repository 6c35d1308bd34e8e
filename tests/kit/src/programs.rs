//! Finds the programs: weft and weftctl where cargo puts them, the reference plugins where Debian puts them.
//!
//! `WEFT_BIN`, `WEFTCTL_BIN`, `CNI_REFERENCE_DIR`, `CNI_CURRENT_DIR`, `WEFT_KUBE_BIN` and `WEFT_HELM_BIN` override the
//! paths.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::{self, Place};
use crate::sandbox;

/// The names by which weft can be called, if they are built in.
pub const NAMES: &[&str] = &[
    "weft",
    "weft-ipam",
    "bridge",
    "ptp",
    "macvlan",
    "ipvlan",
    "vlan",
    "dummy",
    "host-device",
    "tap",
    "loopback",
    "host-local",
    "static",
    "dhcp",
    "tuning",
    "sbr",
    "vrf",
    "bandwidth",
    "flannel",
    "portmap",
    "firewall",
];

/// The directory of Debian's `containernetworking-plugins`.
const REFERENCE: &str = "/usr/lib/cni";

/// The directory in which the `build.sh` scripts of the tests put the programs that they build with Go.
const TOOLS: &str = "/usr/local/lib/weft-test-tools";

/// The directory in which `tests/reference/build.sh` puts the CNI project's current plugins.
const CURRENT: &str = "/usr/local/lib/weft-test-tools/reference";

/// Returns the `weft` binary.
///
/// # Errors
/// Instructions to build it.
pub fn weft() -> Result<PathBuf, String> {
    binary("WEFT_BIN", &weft_place())
}

/// Returns where `cargo weft` puts it, relative to the directory of the tests' own programs.
#[must_use]
pub fn weft_place() -> String {
    format!("../{}-unknown-linux-musl/release/weft", std::env::consts::ARCH)
}

/// Returns the `weftctl` binary.
///
/// # Errors
/// Instructions to build it.
pub fn weftctl() -> Result<PathBuf, String> {
    binary("WEFTCTL_BIN", "weftctl")
}

/// Returns weft with an op in its plan that always fails (an example of `weft-core`, because it needs the library).
///
/// # Errors
/// Instructions to build it.
pub fn weft_failing() -> Result<PathBuf, String> {
    binary("WEFT_FAILING_BIN", "examples/weft-failing").map_err(|_missing| {
        "weft-failing is not built (cargo build --release -p weft-core --example weft-failing)".to_owned()
    })
}

fn binary(variable: &str, name: &str) -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        return if path.is_file() { Ok(path) } else { Err(format!("{variable}={} is not a file", path.display())) };
    }
    // target/release/deps/suite-hash
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let path = here.parent().and_then(Path::parent).unwrap_or(Path::new("/")).join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("there is no {} (cargo weft && cargo weftctl, or set {variable})", path.display()))
    }
}

/// Returns Kubernetes as one program (`tests/cluster/kubernetes`); `WEFT_KUBE_BIN` overrides it.
///
/// # Errors
/// Instructions to build it.
pub fn kubernetes() -> Result<PathBuf, String> {
    built_with_go("WEFT_KUBE_BIN", "kubernetes/kubernetes", "tests/cluster/kubernetes")
}

/// Returns Helm (`tests/helm`); `WEFT_HELM_BIN` overrides it.
///
/// # Errors
/// Instructions to build it.
pub fn helm() -> Result<PathBuf, String> {
    built_with_go("WEFT_HELM_BIN", "helm/helm", "tests/helm")
}

/// Returns whereabouts' CNI program (`tests/whereabouts`); `WEFT_WHEREABOUTS_BIN` overrides it.
///
/// # Errors
/// Instructions to build it.
pub fn whereabouts() -> Result<PathBuf, String> {
    built_with_go("WEFT_WHEREABOUTS_BIN", "whereabouts/whereabouts", "tests/whereabouts")
}

/// Returns a program that the `build.sh` in the directory `source` puts below `TOOLS`; `variable` overrides the path.
fn built_with_go(variable: &str, place: &str, source: &str) -> Result<PathBuf, String> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = named.unwrap_or_else(|| Path::new(TOOLS).join(place));
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("there is no {} ({source}/build.sh builds it, with Go)", path.display()))
    }
}

/// Returns the directory of the reference plugins.
///
/// # Errors
/// What to install.
pub fn reference_dir() -> Result<PathBuf, String> {
    let dir = std::env::var_os("CNI_REFERENCE_DIR").map_or_else(|| PathBuf::from(REFERENCE), PathBuf::from);
    if dir.join("bridge").is_file() {
        Ok(dir)
    } else {
        Err(format!("no reference plugins in {} (apt install containernetworking-plugins)", dir.display()))
    }
}

/// Returns the directory of the CNI project's current plugins, and of its `cnitool`.
///
/// # Errors
/// Instructions to build them.
pub fn current_dir() -> Result<PathBuf, String> {
    let dir = std::env::var_os("CNI_CURRENT_DIR").map_or_else(|| PathBuf::from(CURRENT), PathBuf::from);
    if dir.join("bridge").is_file() {
        Ok(dir)
    } else {
        Err(format!("no plugins in {} (tests/reference/build.sh builds them, with Go)", dir.display()))
    }
}

/// Returns a program in PATH or in the administrators' directories.
///
/// # Errors
/// It is missing.
pub fn tool(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("{name} is not installed (tests/setup.sh installs it)"))
}

/// Returns the top directory of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

/// weft as `weftctl install` installs it, in a directory of its own.
#[derive(Debug)]
pub struct Installation {
    /// Keeps the directory until the value is dropped.
    _root: TempDir,
    bin: PathBuf,
    state: PathBuf,
}

impl Installation {
    /// Installs weft in a scratch directory. `weftctl install` runs once per process, because compiling the policies
    /// takes longer than most tests; later ones get a copy.
    ///
    /// # Errors
    /// A binary is missing, or `weftctl install` fails.
    pub fn new() -> Result<Self> {
        let pristine = Self::pristine()?;
        let (root, bin, state) = layout()?;
        copy_tree(&pristine.bin, &bin)?;
        copy_tree(&pristine.state, &state)?;
        Ok(Self { _root: root, bin, state })
    }

    /// Returns the installation of which all others in this process are copies, for tests that change nothing in it.
    ///
    /// # Errors
    /// As `new`.
    pub fn pristine() -> Result<&'static Self> {
        static FIRST: OnceLock<Result<Installation, String>> = OnceLock::new();
        let first = FIRST.get_or_init(|| Self::install().map_err(|error| format!("{error:#}")));
        first.as_ref().map_err(|error| anyhow::Error::msg(error.clone()))
    }

    fn install() -> Result<Self> {
        let weftctl = weftctl().map_err(anyhow::Error::msg)?;
        let weft = weft().map_err(anyhow::Error::msg)?;
        let (root, bin, state) = layout()?;
        let mut command = Command::new(&weftctl);
        // weftctl itself is installed in its default directory, where weft looks for it when it finds an uncompiled
        // policy.
        command.args(["install", "--weft"]).arg(weft).arg("--bin-dir").arg(&bin).arg("--state-dir").arg(&state);
        process::output(&Place::default(), command, b"", Duration::from_secs(120))?.success("weftctl install")?;
        for name in NAMES {
            if !bin.join(name).exists() {
                bail!("weftctl install made no {name} in {}", bin.display());
            }
        }
        Ok(Self { _root: root, bin, state })
    }

    /// Installs only the names, without policies, for tests that need no installation.
    ///
    /// # Errors
    /// `weft` is missing.
    pub fn names_only() -> Result<Self> {
        let weft = weft().map_err(anyhow::Error::msg)?;
        let (root, bin, state) = layout()?;
        fs::create_dir_all(&bin).context("create bin")?;
        fs::create_dir_all(&state).context("create state")?;
        for name in NAMES {
            symlink(&weft, bin.join(name)).with_context(|| format!("link {name}"))?;
        }
        Ok(Self { _root: root, bin, state })
    }

    /// Returns the installed `weftctl` (in the sandbox's `/usr/local/bin`); a bare installation has none.
    #[must_use]
    pub fn weftctl(&self) -> PathBuf {
        PathBuf::from("/usr/local/bin/weftctl")
    }

    /// Returns the directory of the executables.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Returns the installed state directory: policies, no ledger yet.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }
}

/// Builds a policy of `tests/guests` as its author would, with `weftctl policy build`, and returns the component.
///
/// # Errors
/// It does not build.
pub fn build_guest(name: &str) -> Result<Vec<u8>> {
    let scratch = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
    let file = scratch.path().join(format!("{name}.wasm"));
    let mut command = Command::new(weftctl().map_err(anyhow::Error::msg)?);
    command.args(["policy", "build"]).arg(repository().join("tests/guests").join(name)).arg("--out").arg(&file);
    process::output(&Place::default(), command, b"", Duration::from_secs(300))?.success("weftctl policy build")?;
    fs::read(&file).with_context(|| format!("read {}", file.display()))
}

/// Policies of `tests/guests`, built on first use. Cargo builds one at a time anyway.
#[derive(Debug, Clone, Default)]
pub struct Guests(Arc<Mutex<BTreeMap<&'static str, Vec<u8>>>>);

impl Guests {
    /// Returns the component.
    ///
    /// # Errors
    /// It does not build.
    pub fn get(&self, name: &'static str) -> Result<Vec<u8>> {
        let mut built = self.0.lock().map_err(|_poison| anyhow::anyhow!("building a policy panicked"))?;
        if let Some(component) = built.get(name) {
            return Ok(component.clone());
        }
        let component = build_guest(name)?;
        built.insert(name, component.clone());
        Ok(component)
    }
}

/// Builds the JavaScript policy of `tests/guests/javascript`, or the Python one, as its author would.
///
/// # Errors
/// It does not build.
pub fn build_script_guest(language: &str) -> Result<Vec<u8>> {
    let dir = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
    let guest = repository().join("tests/guests").join(language);
    let wit = repository().join("host-abi/wit").display().to_string();
    let out = dir.path().join("policy.wasm");
    let (here, to) = (guest.display().to_string(), out.display().to_string());
    let script = format!("{here}/policy.js");
    let command: &[&str] = match language {
        "javascript" => {
            &["componentize-qjs", "-w", &wit, "-j", &script, "-n", "ipam-policy", "--sync", "--stub-wasi", "-o", &to]
        }
        _ => &[
            "componentize-py",
            "-d",
            &wit,
            "-w",
            "ipam-policy",
            "componentize",
            "--stub-wasi",
            "-p",
            &here,
            "policy",
            "-o",
            &to,
        ],
    };
    process::run(&Place::default(), command)?;
    fs::read(&out).with_context(|| format!("read {to}"))
}

/// Makes a scratch directory with subdirectories for executables and state.
fn layout() -> Result<(TempDir, PathBuf, PathBuf)> {
    let root = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
    let (bin, state) = (root.path().join("bin"), root.path().join("state"));
    Ok((root, bin, state))
}

/// Copies a directory with owners and modes; links are copied as links.
///
/// # Errors
/// `cp` fails.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.join("."), to.display().to_string());
    fs::create_dir_all(&to).with_context(|| format!("create {to}"))?;
    process::run(&Place::default(), &["cp", "-a", &from.display().to_string(), &to]).map(drop)
}

//! The contenders: weft, the reference plugins, and the raw program; their binaries and their input.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use weft_bench::call::{Plugins, install_weft};
use weft_bench::scene::Scene;

/// The contenders' directories, and the number of rounds.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Number of rounds that count. Rows of slow calls take fewer.
    #[arg(long, default_value_t = 40)]
    pub(crate) rounds: usize,
    /// The directory of the reference plugins.
    #[arg(long, default_value = "/usr/lib/cni")]
    reference: PathBuf,
    /// A directory of plugins to measure instead of weft. With the reference's own directory every ratio must be near
    /// 1, which shows how far this machine's figures can be trusted.
    #[arg(long, value_name = "DIR")]
    instead: Option<PathBuf>,
}

/// The contenders' binaries.
#[derive(Debug)]
pub(crate) struct Contenders {
    options: Options,
    weft: PathBuf,
    weftctl: PathBuf,
    raw: PathBuf,
    policy_cold: PathBuf,
}

/// The contenders, ready to be called.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The number of rounds that count.
    pub(crate) rounds: usize,
    /// The reference plugins.
    pub(crate) reference: Plugins,
    /// weft under its names.
    pub(crate) weft: Plugins,
    /// The operator's tool, unless something else is measured instead of weft.
    pub(crate) weftctl: Option<PathBuf>,
    /// The weft binary, under the same condition.
    pub(crate) weft_binary: Option<PathBuf>,
    /// The raw program.
    pub(crate) raw: PathBuf,
    /// An example of weft's library that times one policy call in a new process without a compiler, as in weft.
    pub(crate) policy_cold: PathBuf,
}

/// weft reads a policy's file again at each call until the file is five seconds old. After that its stamp shows that it
/// is unchanged (`policy/cache/stamp.rs`), which is a node's normal state.
const SETTLED: Duration = Duration::from_secs(6);

// === impl Contenders ===

impl Contenders {
    /// Finds all binaries before anything is set up.
    ///
    /// # Errors
    /// If something is missing; the error says how to get it.
    pub(crate) fn find(options: &Options) -> Result<Self> {
        let found = Self {
            options: options.clone(),
            weft: binary("WEFT_BIN", &format!("../{}-unknown-linux-musl/release/weft", std::env::consts::ARCH))?,
            weftctl: binary("WEFTCTL_BIN", "weftctl")?,
            raw: sibling_binary("weft-bench-raw")?,
            policy_cold: sibling_binary("examples/policy_cold")?,
        };
        let mut needed = vec![(found.raw.as_path(), "cargo build --release -p weft-bench")];
        if found.options.instead.is_none() {
            needed.push((&found.weft, "cargo weft"));
            needed.push((&found.weftctl, "cargo weftctl"));
            needed.push((&found.policy_cold, "cargo build --release -p weft-core --example policy_cold"));
        }
        for (path, remedy) in needed {
            if !path.is_file() {
                bail!("there is no {}; build it: {remedy}", path.display());
            }
        }
        if !found.options.reference.join("bridge").is_file() {
            let dir = found.options.reference.display();
            bail!("there are no reference plugins in {dir}; Debian has them in containernetworking-plugins");
        }
        Ok(found)
    }

    /// Installs weft's names, its state directory and its policies.
    ///
    /// # Errors
    /// If the scratch directory cannot be written, or `weftctl` fails.
    pub(crate) fn install(self, scene: &Scene) -> Result<Ready> {
        let rounds = self.options.rounds;
        let reference = Plugins { dir: self.options.reference, env: Vec::new() };
        if let Some(dir) = self.options.instead {
            let weft = Plugins { dir, env: Vec::new() };
            return Ok(Ready {
                rounds,
                reference,
                weft,
                weftctl: None,
                weft_binary: None,
                raw: self.raw,
                policy_cold: self.policy_cold,
            });
        }
        let (bin, state) = (scene.dir().join("bin"), scene.dir().join("state"));
        let env = vec![("WEFT_STATE_DIR".to_owned(), state.display().to_string())];
        install_weft(&self.weftctl, &self.weft, scene.dir(), &env)?;
        sleep(SETTLED);
        Ok(Ready {
            rounds,
            reference,
            weft: Plugins { dir: bin, env },
            weftctl: Some(self.weftctl),
            weft_binary: Some(self.weft),
            raw: self.raw,
            policy_cold: self.policy_cold,
        })
    }
}

/// Returns a bridge network with host-local addresses, like a node's usual default network.
pub(crate) fn bridge_conf(bridge: &str, subnet: &str, data: &Path, masquerade: bool) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": bridge,
        "type": "bridge",
        "bridge": bridge,
        "isGateway": true,
        "isDefaultGateway": true,
        "ipMasq": masquerade,
        "ipam": ipam(subnet, data),
    })
}

/// Returns a network of which only the IPAM part is called.
pub(crate) fn ipam_conf(name: &str, subnet: &str, data: &Path) -> Value {
    json!({ "cniVersion": "1.0.0", "name": name, "type": "bridge", "ipam": ipam(subnet, data) })
}

fn ipam(subnet: &str, data: &Path) -> Value {
    json!({ "type": "host-local", "dataDir": data, "ranges": [[{ "subnet": subnet }]] })
}

/// Finds a binary of this workspace: from the environment variable, or where cargo puts it, beside this program.
fn binary(variable: &str, name: &str) -> Result<PathBuf> {
    std::env::var_os(variable).map_or_else(|| sibling_binary(name), |path| Ok(PathBuf::from(path)))
}

fn sibling_binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find our own binary")?;
    Ok(own.with_file_name(name))
}

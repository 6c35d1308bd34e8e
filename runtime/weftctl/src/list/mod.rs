//! `weftctl add`, `check`, `del`: do manually what a container runtime does with a network configuration.
//!
//! The rules are those of libcni, the library of runtimes: plugins run in order with the result of the previous one,
//! CHECK and DEL get the cached result, DEL runs in reverse order, and a plugin only gets the capabilities that it
//! declares. The cache is libcni's too, so each can delete what the other added. The suite `weftctl` compares this with
//! `cnitool`.

mod conf;
mod results;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha512};
use weft_core::cni::{CniResult, Verb, Version, check_container_id, check_ifname};
use weft_core::exec::{self, Caller, ExecCall, ExecError, Stderr};

use crate::installed;
use crate::output::Output;
pub(crate) use conf::{List, Plugin};
use results::{Attached, Results};

/// The directory of named network namespaces.
const NETNS_DIR: &str = "/run/netns";

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The network configuration: a list of plugins, or a single one; `-` for stdin.
    conf: PathBuf,
    /// The container's network namespace: a path, or a name that `ip netns` knows.
    #[arg(long, value_name = "NETNS")]
    netns: String,
    /// Container id [default: derived from the network namespace's path, as `cnitool` does].
    #[arg(long, value_name = "ID")]
    container_id: Option<String>,
    /// Interface name.
    #[arg(long, value_name = "NAME", env = "CNI_IFNAME", default_value = "eth0")]
    ifname: String,
    /// `CNI_ARGS`.
    #[arg(long, value_name = "K=V;...", env = "CNI_ARGS", default_value = "")]
    args: String,
    /// Values for plugins that declare the capability (`runtimeConfig`), as a JSON object: `{"portMappings": [...]}`.
    #[arg(long, value_name = "JSON", env = "CAP_ARGS", default_value = "{}")]
    cap_args: String,
    /// Directories of plugins, separated by colons [default: CNI_PATH, or where weft was installed and /opt/cni/bin].
    #[arg(long, value_name = "DIRS", env = "CNI_PATH", hide_env = true)]
    bin_dir: Option<OsString>,
    /// Where libcni keeps the results of attachments.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni")]
    cache_dir: PathBuf,
    /// Time limit per plugin, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// A parsed call.
struct ByHand {
    list: List,
    netns: String,
    container_id: String,
    ifname: String,
    /// From `CNI_ARGS`, or from the cache.
    args: String,
    cap_args: Map<String, Value>,
    path: Vec<PathBuf>,
    results: Results,
    limit: Duration,
}

/// Prints the result in the form that a runtime gets.
pub(crate) fn add(args: &ListArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let call = ByHand::read(args, state)?;
    let mut previous: Option<Value> = None;
    for plugin in call.list.plugins() {
        let conf = call.list.for_plugin(plugin, previous.as_ref(), &call.cap_args);
        let answer = call.exec(Verb::Add, plugin, &conf).inspect_err(|_failed| {
            output.print_note(
                "what the plugins made so far is still there; `weftctl del` removes it, as a runtime would",
            );
        })?;
        let result = serde_json::from_slice(&answer);
        previous =
            Some(result.with_context(|| format!("plugin {:?} answered something that is not JSON", plugin.kind))?);
    }
    let result = previous.context("the list has no plugins")?;
    call.results.write(&call.attached(&result))?;
    output.document(&result)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints nothing if the attachment is as ADD made it.
pub(crate) fn check(args: &ListArgs, state: &Path) -> anyhow::Result<ExitCode> {
    let call = ByHand::read(args, state)?;
    if call.list.version < Version::V0_4_0 {
        bail!("configuration version {} does not support CHECK; it came with 0.4.0", call.list.version);
    }
    if call.list.check_is_disabled() {
        return Ok(ExitCode::SUCCESS);
    }
    let previous = call.cached_result()?;
    for plugin in call.list.plugins() {
        let conf = call.list.for_plugin(plugin, previous.as_ref(), &call.cap_args);
        let checked = call.exec(Verb::Check, plugin, &conf);
        if previous.is_none() {
            checked.with_context(|| call.no_result())?;
        } else {
            checked?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Can be repeated.
pub(crate) fn del(args: &ListArgs, state: &Path) -> anyhow::Result<ExitCode> {
    let call = ByHand::read(args, state)?;
    // An unusable cached result must not prevent the removal of an attachment.
    let previous = if call.list.version < Version::V0_4_0 { None } else { call.cached_result().unwrap_or_default() };
    for plugin in call.list.plugins().rev() {
        let conf = call.list.for_plugin(plugin, previous.as_ref(), &call.cap_args);
        call.exec(Verb::Del, plugin, &conf)?;
    }
    call.results.remove(&call.attached(&Value::Null))?;
    Ok(ExitCode::SUCCESS)
}

// === impl ByHand ===

impl ByHand {
    fn read(args: &ListArgs, state: &Path) -> anyhow::Result<Self> {
        let list = List::read(&crate::plan::read(&args.conf)?)?;
        let netns = netns_path(&args.netns)?;
        let container_id = args.container_id.clone().unwrap_or_else(|| container_id_of(&netns));
        check_container_id(&container_id).and_then(|()| check_ifname(&args.ifname)).map_err(anyhow::Error::msg)?;
        let cap_args = serde_json::from_str(&args.cap_args).context("--cap-args is not a JSON object")?;
        let path = match &args.bin_dir {
            Some(dirs) => std::env::split_paths(dirs).filter(|dir| !dir.as_os_str().is_empty()).collect(),
            None => installed::plugin_dirs(state, &[installed::BIN_DIR]),
        };
        Ok(Self {
            list,
            netns,
            container_id,
            ifname: args.ifname.clone(),
            args: args.args.clone(),
            cap_args,
            path,
            results: Results::new(&args.cache_dir),
            limit: Duration::from_secs(args.timeout),
        })
    }

    fn attached<'a>(&'a self, result: &'a Value) -> Attached<'a> {
        Attached {
            network: &self.list.name,
            container_id: &self.container_id,
            ifname: &self.ifname,
            netns: &self.netns,
            args: &self.args,
            cap_args: &self.cap_args,
            config: &self.list.text,
            result,
        }
    }

    fn no_result(&self) -> String {
        let Self { list, container_id, ifname, .. } = self;
        format!(
            "there is no result of an ADD of {ifname} of container {container_id} on network {:?} (was it added, with the same \
             --container-id and --ifname?)",
            list.name
        )
    }

    /// Returns the result of the ADD, in the configuration's version.
    fn cached_result(&self) -> anyhow::Result<Option<Value>> {
        let Some(cached) = self.results.read(&self.attached(&Value::Null))? else { return Ok(None) };
        let version = self.list.version;
        let converted = CniResult::from_json(&cached, version).and_then(|result| result.to_value(version));
        converted.map(Some).map_err(anyhow::Error::msg).context("the cached result of the ADD cannot be used")
    }

    fn exec(&self, verb: Verb, plugin: &conf::Plugin, conf: &Value) -> anyhow::Result<Vec<u8>> {
        let text = conf.to_string();
        let answer = exec::exec(&ExecCall {
            plugin: &plugin.kind,
            verb: verb.name(),
            container_id: &self.container_id,
            netns: &self.netns,
            ifname: &self.ifname,
            args: &self.args,
            path: &self.path,
            stdin: text.as_bytes(),
            stderr: Stderr::Ours,
            limit: self.limit,
            caller: Caller::Runtime,
        });
        answer.map(|answer| answer.stdout).map_err(|error| {
            let said = match error {
                ExecError::Said(error) => format!("code {}: {error}", error.code),
                other => format!("{:#}", anyhow::Error::from(other)),
            };
            anyhow::anyhow!("plugin type={:?} failed ({}): {said}", plugin.kind, verb.name().to_lowercase())
        })
    }
}

/// Returns a path for a path or a name.
fn netns_path(text: &str) -> anyhow::Result<String> {
    let path = if text.contains('/') { std::path::absolute(text)? } else { Path::new(NETNS_DIR).join(text) };
    path.into_os_string().into_string().ok().context("the namespace's path is not UTF-8")
}

/// Computed like in `cnitool`.
fn container_id_of(netns: &str) -> String {
    let hash = Sha512::digest(netns.as_bytes());
    let hex: String = hash.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    format!("cnitool-{hex}")
}

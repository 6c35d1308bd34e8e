//! `weftctl plan`: what ADD would do. Changes nothing.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use weft_core::attach::{Preview, preview};
use weft_core::cni::{Environment, Verb};
use weft_core::conf::Persona;

use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The network configuration (a single plugin's), or `-` for stdin.
    conf: PathBuf,
    /// The container's network namespace.
    #[arg(long, value_name = "PATH")]
    netns: String,
    /// Container id.
    #[arg(long, value_name = "ID", default_value = "plan")]
    container_id: String,
    /// Interface name.
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    ifname: String,
    /// CNI_ARGS.
    #[arg(long, value_name = "K=V;...", default_value = "")]
    args: String,
}

pub(crate) fn run(args: &PlanArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let conf = read(&args.conf)?;
    let kind = plugin_type(&conf)?;
    let persona = Persona::from_argv0(kind.as_ref())?;
    let env = Environment {
        verb: Verb::Add,
        container_id: args.container_id.clone(),
        netns: args.netns.clone(),
        ifname: args.ifname.clone(),
        args: args.args.clone(),
        path: Vec::new(),
        netns_override: false,
    };
    let context = crate::policy::context(state);
    let mut log = String::new();
    let preview = preview(&context, persona, env, &conf, &mut log);
    for line in log.lines() {
        output.note(line);
    }
    let preview =
        preview.map_err(|error| anyhow::anyhow!("ADD would fail with code {}: {}", error.code(), error.chain()))?;
    output.lines(&document(&preview), &lines(&preview))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a file, or stdin for `-`.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read stdin")?;
        return Ok(bytes);
    }
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn plugin_type(conf: &[u8]) -> anyhow::Result<String> {
    let value: serde_json::Value = serde_json::from_slice(conf).context("the configuration is not JSON")?;
    if value.get("plugins").is_some() {
        anyhow::bail!("this is a list of plugins; give the object of one of them, with the list's name and cniVersion");
    }
    value.get("type").and_then(|kind| kind.as_str()).map(str::to_owned).context("the configuration has no \"type\"")
}

fn document(preview: &Preview) -> serde_json::Value {
    json!({ "plan": preview.plan, "choice": preview.choice, "decision": preview.trace, "notes": preview.notes })
}

fn lines(preview: &Preview) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(choice) = &preview.choice {
        lines.push(format!("delegate   {}, chosen by {} ({})", choice.delegate, choice.policy, choice.digest));
        lines.push(format!("reason     {}", choice.reason));
        lines.extend(choice.settings.iter().map(|(key, value)| format!("set        {key} = {value}")));
    }
    if let Some(trace) = &preview.trace {
        lines.push(format!("policy     {} ({})", trace.policy, trace.digest));
        lines.push(format!("reason     {}", trace.reason));
        for candidates in &trace.candidates {
            let texts = candidates.iter().map(ToString::to_string).collect::<Vec<_>>();
            lines.push(format!("candidates {}", texts.join(", ")));
        }
    }
    for (number, op) in preview.plan.ops.iter().enumerate() {
        lines.push(format!("{:>3}. {op}", number + 1));
    }
    lines.extend(preview.notes.iter().map(|note| format!("note: {note}")));
    lines.push("nothing was changed".to_owned());
    lines
}

//! `weftctl plan`: what ADD would do. Changes nothing.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};
use weft_core::attach::{Preview, preview};
use weft_core::cni::{Environment, Verb};
use weft_core::conf::Persona;
use weft_core::plan::Op;

use crate::list::{List, Plugin};
use crate::output::Output;

/// Ends what is printed for people.
const UNCHANGED: &str = "nothing was changed";

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The network configuration: a list of plugins, or a single one; `-` for stdin.
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
    /// Values for plugins that declare the capability (`runtimeConfig`), as a JSON object: `{"portMappings": [...]}`.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    cap_args: String,
}

/// The plan of a plugin of a list.
struct Planned<'a> {
    plugin: &'a Plugin,
    /// Or why there is none.
    preview: Result<Preview, String>,
}

pub(crate) fn run(args: &PlanArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let text = read(&args.conf)?;
    let conf: Value = serde_json::from_slice(&text).context("the configuration is not JSON")?;
    let cap_args: Map<String, Value> =
        serde_json::from_str(&args.cap_args).context("--cap-args is not a JSON object")?;
    if conf.get("plugins").is_none() && cap_args.is_empty() {
        let kind = conf.get("type").and_then(Value::as_str).context("the configuration has no \"type\"")?;
        let preview = of_plugin(args, state, kind, &text, (&[], output))?;
        output.lines(&document(&preview), &[lines(&preview), vec![UNCHANGED.to_owned()]].concat())?;
        return Ok(ExitCode::SUCCESS);
    }
    let list = List::read(&text)?;
    let planned = of_list(args, state, (&list, &cap_args), output)?;
    let documents: Vec<Value> = planned.iter().map(Planned::document).collect();
    let count = planned.len();
    let numbered = planned.iter().enumerate();
    let mut lines: Vec<String> = numbered.flat_map(|(at, planned)| planned.lines(at + 1, count)).collect();
    lines.push(UNCHANGED.to_owned());
    output.lines(&json!({ "plugins": documents }), &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Plans every plugin on what those before it would make.
fn of_list<'a>(
    args: &PlanArgs,
    state: &Path,
    (list, cap_args): (&'a List, &Map<String, Value>),
    output: Output,
) -> anyhow::Result<Vec<Planned<'a>>> {
    let (mut previous, mut ops): (Option<Value>, Vec<Op>) = (None, Vec::new());
    // The plugin that made something that is unknown beforehand.
    let mut unknown: Option<&str> = None;
    let mut planned = Vec::new();
    for plugin in list.plugins() {
        let preview = match (Persona::from_argv0(plugin.kind.as_ref()), unknown, &previous) {
            (Err(_another), ..) => Err("this is another vendor's plugin: only it knows its plan".to_owned()),
            (Ok(_), Some(before), None) => {
                Err(format!("its plan depends on what {before:?} makes, which is unknown beforehand"))
            }
            (Ok(_), ..) => {
                let conf = list.for_plugin(plugin, previous.as_ref(), cap_args).to_string();
                let preview = of_plugin(args, state, &plugin.kind, conf.as_bytes(), (&ops, output));
                let mut preview = preview.with_context(|| format!("plugin {:?}", plugin.kind))?;
                preview.notes.extend(unknown.map(|before| format!("planned as if {before:?} changed nothing")));
                Ok(preview)
            }
        };
        match &preview {
            Ok(Preview { plan, result: Some(result), .. }) => {
                ops.extend(plan.ops.iter().cloned());
                previous = Some(result.to_value(list.version).map_err(anyhow::Error::msg)?);
            }
            Ok(Preview { result: None, .. }) | Err(_) => unknown = unknown.or(Some(&plugin.kind)),
        }
        planned.push(Planned { plugin, preview });
    }
    Ok(planned)
}

/// Plans a plugin; `before` are the ops of the plugins before it.
fn of_plugin(
    args: &PlanArgs,
    state: &Path,
    kind: &str,
    conf: &[u8],
    (before, output): (&[Op], Output),
) -> anyhow::Result<Preview> {
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
    let preview = preview(&context, persona, env, conf, before, &mut log);
    for line in log.lines() {
        output.print_note(line);
    }
    preview.map_err(|error| anyhow::anyhow!("ADD would fail with code {}: {}", error.code(), error.chain()))
}

impl Planned<'_> {
    fn document(&self) -> Value {
        let mut document = match &self.preview {
            Ok(preview) => document(preview),
            Err(why) => json!({ "plan": null, "notes": [why] }),
        };
        document["type"] = json!(self.plugin.kind);
        document
    }

    fn lines(&self, number: usize, count: usize) -> Vec<String> {
        let head = format!("plugin {number} of {count}: {}", self.plugin.kind);
        let rest = match &self.preview {
            Ok(preview) if preview.plan.ops.is_empty() && preview.notes.is_empty() => vec!["nothing to do".to_owned()],
            Ok(preview) => lines(preview),
            Err(why) => vec![format!("note: {why}")],
        };
        [vec![head], rest, vec![String::new()]].concat()
    }
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

fn document(preview: &Preview) -> Value {
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
    lines
}

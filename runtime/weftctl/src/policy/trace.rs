//! `weftctl policy trace export`: exports recorded policy calls as cases for `weftctl policy test`.
//!
//! Invariant: an exported case can be replayed. A case with redacted names expects what the policy decides with the new
//! names. If the policy cannot decide that from the recorded answers, the case is skipped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use weft_core::attach::Asked;
use weft_core::policy::{Exchange, PolicyStore};

use super::granted::GrantArgs;
use super::replay::{self, Case};
use crate::output::Output;

/// How a call ends that asks a record for more than it has.
const NO_ANSWER: &str = "the record has no answer to";

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Write recorded calls as test cases.
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// A file with traces (from `explain --json`), or a container id or a prefix of it. An empty one selects all.
    trace: String,
    /// The directory for the cases, usually a project's `cases`. Created if it does not exist.
    #[arg(long, value_name = "DIR", default_value = "cases")]
    out: PathBuf,
    /// Replace names of pods, namespaces, nodes and containers, MAC addresses, and what annotations say. Labels, addresses and
    /// the configuration stay: policies decide by them.
    #[arg(long)]
    redact: bool,
    #[command(flatten)]
    grants: GrantArgs,
}

pub(super) fn run(command: &TraceCommand, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let TraceCommand::Export(args) = command;
    let cases = replay::cases(&args.trace, state)?;
    if cases.is_empty() {
        bail!("no recorded policy call matches {:?}; `weftctl ledger ls` shows what attachments there are", args.trace);
    }
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let store = PolicyStore::new(state)?;
    let mut names = Names::default();
    let (mut written, mut left_out) = (Vec::new(), Vec::new());
    for (at, mut case) in cases.into_iter().enumerate() {
        let mut about = format!("decided by {}", case.policy);
        if args.redact {
            // A reference names a registry of the site.
            "decided by the node's policy, names replaced".clone_into(&mut about);
            names.redact(&mut case)?;
        }
        if args.redact || !case.truncated.is_empty() {
            match asked_again(&store, &case, args, state) {
                Ok(now) => case.recorded = now,
                Err(why) => {
                    left_out.push(format!("call {at}: {why}"));
                    continue;
                }
            }
        }
        let path = args.out.join(format!("{}.json", name_of(&case)));
        let document = document(&case, &about);
        let text = serde_json::to_string_pretty(&document).context("cannot encode the case")?;
        // An existing file may have been edited.
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.as_mut().map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))?;
        std::io::Write::write_all(file, format!("{text}\n").as_bytes())?;
        written.push(path.display().to_string());
    }
    left_out.iter().for_each(|line| output.print_note(&format!("left out: {line}")));
    output.lines(&json!({ "written": written, "leftOut": left_out }), &written)?;
    Ok(if written.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Returns the outcome of a call that is not asked quite as on its node.
///
/// # Errors
/// Why it makes no case: the record has no answer to another question of the policy, or the call cannot be repeated.
fn asked_again(
    store: &PolicyStore,
    case: &Case,
    args: &ExportArgs,
    state: &Path,
) -> Result<Map<String, Value>, String> {
    let now = replay::replay_original(store, case, &args.grants, state).map_err(|error| format!("{error:#}"))?;
    let error = now.get("error").and_then(Value::as_str).map(str::to_owned);
    match error {
        // It failed on its node, too.
        Some(_same) if now == case.recorded => Ok(now),
        Some(error) if error.contains(NO_ANSWER) => Err(match case.missing_parts() {
            Some(lacking) => lacking,
            None => format!("without its names the policy asks the ledger something else: {error}"),
        }),
        Some(error) => Err(error),
        None => Ok(now),
    }
}

/// Returns the case's file, as `policy test` reads it.
fn document(case: &Case, about: &str) -> Value {
    let mut recorded = json!({ "asked": case.asked, "ledger": case.ledger });
    if let Some(rules) = &case.rules {
        recorded["rules"] = json!(rules);
    }
    match expectation(&case.recorded) {
        Some(expect) => json!({ "about": about, "recorded": recorded, "expect": expect }),
        // The outcome is not known exactly; `policy test --update` determines it.
        None => json!({ "about": about, "recorded": recorded }),
    }
}

/// Returns the outcome of the call, in a case's form.
fn expectation(outcome: &Map<String, Value>) -> Option<Value> {
    if let Some(candidates) = outcome.get("candidates").and_then(Value::as_array) {
        let first: Vec<_> = candidates.iter().map(|list| list.get(0).cloned().unwrap_or_default()).collect();
        return Some(json!({ "addresses": first, "release": outcome.get("release") }));
    }
    if let Some(delegate) = outcome.get("delegate") {
        let listed = outcome.get("settings").and_then(Value::as_array).into_iter().flatten();
        let settings: Map<String, Value> =
            listed.filter_map(|one| Some((one.get("key")?.as_str()?.to_owned(), one.get("value")?.clone()))).collect();
        return Some(json!({ "delegate": delegate, "settings": settings }));
    }
    if let Some(refused) = outcome.get("refused") {
        return Some(json!({ "refused": refused }));
    }
    let denial = outcome.get("denial")?.as_object()?;
    let (kind, message) = denial.iter().next()?;
    Some(json!({ "denial": kind, "message": message }))
}

/// Returns a file name that is unique among the cases of a node.
fn name_of(case: &Case) -> String {
    let (attachment, kind) = match &case.asked {
        Asked::Addresses(request) => (&request.attachment, "addresses"),
        Asked::Delegate(request) => (&request.attachment, "delegate"),
    };
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(64).collect()
    };
    format!("{}-{}-{}-{kind}", plain(&attachment.network), plain(&attachment.container_id), plain(&attachment.ifname))
}

/// The shortest name that is searched in any text.
const SHORTEST: usize = 3;
/// Keys whose values are names, or texts made of names.
const NAMES: [&str; 7] = ["attachment", "pod", "node", "identities", "owner", "held", "cni_args"];
/// Keys whose values stay: the operator's configuration, labels, and words of weft's own.
const STAY: [&str; 9] =
    ["network", "config", "range_sets", "candidates", "labels", "namespace_labels", "source", "state", "ifname"];

/// Names and their replacements, the same in all cases of an export.
#[derive(Debug, Default)]
struct Names(BTreeMap<String, String>);

// === impl Names ===

impl Names {
    /// Replaces the names of a case everywhere in it.
    fn redact(&mut self, case: &mut Case) -> anyhow::Result<()> {
        let (attachment, pod, node, mac) = match &mut case.asked {
            Asked::Addresses(request) => (&request.attachment, &mut request.pod, &request.node, request.mac.as_deref()),
            Asked::Delegate(request) => (&request.attachment, &mut request.pod, &request.node, None),
        };
        self.assign_replacement("container", &attachment.container_id);
        self.assign_replacement("node", &node.name);
        mac.into_iter().for_each(|mac| self.learn_mac(mac));
        if let Some(pod) = pod {
            self.assign_replacement("namespace", &pod.namespace);
            self.assign_replacement("pod", &pod.name);
            self.assign_replacement("uid", &pod.uid);
            for (_key, value) in &mut pod.annotations {
                "redacted".clone_into(value);
            }
        }
        for exchange in &case.ledger.recorded {
            match exchange {
                Exchange::HeldBy { answer, .. } => {
                    answer.iter().for_each(|claim| self.assign_replacement("owner", &claim.owner))
                }
                Exchange::ClaimedBy { answer: Some(claim), .. } => self.assign_replacement("owner", &claim.owner),
                _ => {}
            }
        }
        case.asked = serde_json::from_value(self.replaced(serde_json::to_value(&case.asked)?, false))?;
        case.ledger = serde_json::from_value(self.replaced(serde_json::to_value(&case.ledger)?, false))?;
        Ok(())
    }

    /// Assigns a replacement to a name. The ordinal of a StatefulSet's pod is kept: policies use it.
    fn assign_replacement(&mut self, kind: &str, name: &str) {
        if name.is_empty() || self.0.contains_key(name) {
            return;
        }
        let ordinal = name.rsplit_once('-').map(|(_, last)| last).filter(|last| last.parse::<u32>().is_ok());
        let ordinal = ordinal.map(|ordinal| format!("-{ordinal}")).unwrap_or_default();
        let stand_in = format!("{kind}{}{ordinal}", self.0.len());
        self.0.insert(name.to_owned(), stand_in);
    }

    /// Assigns a replacement to a MAC address, which is one again.
    fn learn_mac(&mut self, mac: &str) {
        let stand_in = format!("02:00:00:00:{:02x}:{:02x}", (self.0.len() >> 8) & 0xff, self.0.len() & 0xff);
        self.0.entry(mac.to_owned()).or_insert(stand_in);
    }

    /// Returns a value with all names in its texts replaced, except for keys and the operator's configuration. `named` is
    /// whether the texts are names, or made of them.
    fn replaced(&self, value: Value, named: bool) -> Value {
        match value {
            Value::String(text) if named => Value::String(self.in_names(&text)),
            Value::String(text) => Value::String(self.in_text(text)),
            Value::Array(list) => Value::Array(list.into_iter().map(|value| self.replaced(value, named)).collect()),
            Value::Object(map) => {
                let pairs = map.into_iter().map(|(key, value)| {
                    let named = named || NAMES.contains(&key.as_str());
                    let value = if STAY.contains(&key.as_str()) { value } else { self.replaced(value, named) };
                    (key, value)
                });
                Value::Object(pairs.collect())
            }
            other => other,
        }
    }

    /// Replaces whole names, as in `pod:shop/web-2`. A short one would occur everywhere as a part of something else.
    fn in_names(&self, text: &str) -> String {
        let of_name = |c: char| c.is_alphanumeric() || ['.', '-', '_'].contains(&c);
        let mut replaced = String::new();
        for part in text.split_inclusive(|c| !of_name(c)) {
            let name = part.trim_end_matches(|c| !of_name(c));
            let behind = part.get(name.len()..).unwrap_or_default();
            match self.0.get(name) {
                Some(stand_in) => replaced.push_str(stand_in),
                None => replaced.push_str(&self.in_text(name.to_owned())),
            }
            replaced.push_str(behind);
        }
        replaced
    }

    /// Replaces the longest names first, because one may be part of another.
    fn in_text(&self, text: String) -> String {
        let mut names: Vec<_> = self.0.iter().filter(|(name, _stand_in)| name.len() >= SHORTEST).collect();
        names.sort_by_key(|(name, _stand_in)| std::cmp::Reverse(name.len()));
        names.into_iter().fold(text, |text, (name, stand_in)| text.replace(name, stand_in))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_and_what_policies_decide_by_stays() {
        let mut names = Names::default();
        for (kind, name) in [("pod", "web-2"), ("namespace", "shop"), ("owner", "pod:shop/web-2"), ("uid", "ab")] {
            names.assign_replacement(kind, name);
        }
        let value = json!({
            "pod": { "name": "web-2", "namespace": "shop", "labels": [["app", "shop"]] },
            "identities": ["pod:shop/web-2", "other:shop"], "config": "{\"for\": \"shop\"}", "now": 3,
        });
        let text = names.replaced(value, false).to_string();
        assert!(!text.contains("web") && text.matches("shop").count() == 2, "{text}");
        assert!(text.contains("-2\""), "the ordinal: {text}");
        assert!(text.contains(r#"["app","shop"]"#), "{text}");
    }

    #[test]
    fn short_names_go_as_well() {
        let mut names = Names::default();
        for (kind, name) in [("namespace", "db"), ("pod", "a1"), ("node", "10"), ("uid", "u")] {
            names.assign_replacement(kind, name);
        }
        names.learn_mac("aa:bb:cc:dd:ee:ff");
        names.assign_replacement("pod", "pod");
        let value = json!({
            "attachment": { "network": "db", "container_id": "c", "ifname": "a1" },
            "pod": { "name": "a1", "namespace": "db", "uid": "u", "source": "api", "labels": [["tier", "db"]] },
            "node": { "name": "10" }, "mac": "aa:bb:cc:dd:ee:ff", "cni_args": [["K8S_POD_NAMESPACE", "db"], ["IP", "10.0.0.1"]],
            "identities": ["pod:db/a1"], "range": { "start": "10.0.0.1" }, "resolver": { "search": ["a1x.db2"] },
            "held": [{ "owner": "pod:db/a1", "state": "active" }], "owner": "pod",
        });
        let wanted = json!({
            "attachment": { "network": "db", "container_id": "c", "ifname": "a1" },
            "pod": { "name": "pod1", "namespace": "namespace0", "uid": "uid3", "source": "api", "labels": [["tier", "db"]] },
            "node": { "name": "node2" }, "mac": "02:00:00:00:00:04",
            "cni_args": [["K8S_POD_NAMESPACE", "namespace0"], ["IP", "10.0.0.1"]],
            "identities": ["pod5:namespace0/pod1"], "range": { "start": "10.0.0.1" }, "resolver": { "search": ["a1x.db2"] },
            "held": [{ "owner": "pod5:namespace0/pod1", "state": "active" }], "owner": "pod5",
        });
        assert_eq!(names.replaced(value, false), wanted);
    }

    #[test]
    fn outcomes_become_expectations() {
        let of = |value: Value| expectation(value.as_object().expect("an object"));
        let decided = json!({ "candidates": [["10.0.0.2/24", "10.0.0.3/24"]], "release": "free", "reason": "x" });
        assert_eq!(of(decided), Some(json!({ "addresses": ["10.0.0.2/24"], "release": "free" })));
        let denied = json!({ "denial": { "exhausted": "full" } });
        assert_eq!(of(denied), Some(json!({ "denial": "exhausted", "message": "full" })));
        let chosen = json!({ "delegate": "lan", "settings": [{ "key": "mtu", "value": 9000 }] });
        assert_eq!(of(chosen), Some(json!({ "delegate": "lan", "settings": { "mtu": 9000 } })));
        assert_eq!(of(json!({ "refused": "answered x" })), Some(json!({ "refused": "answered x" })));
        assert_eq!(of(json!({ "error": "crashed" })), None);
    }
}

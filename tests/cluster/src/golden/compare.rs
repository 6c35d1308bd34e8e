//! Compares outcomes with recorded ones.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use weft_kit::netns::NetNs;

use super::Then;
use crate::api::Event;
use crate::fake::Call;

/// The compared aspects of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// Whether the verb succeeded.
    Exit,
    /// The result of a verb that succeeded.
    Result,
    /// Calls of plugins in ADD: their order, environment and stdin.
    AddCalls,
    /// The same in DEL.
    DelCalls,
    /// The same in CHECK, STATUS and GC.
    OtherCalls,
    /// Events.
    Events,
    /// The status annotation.
    Status,
    /// The kernel's state.
    Kernel,
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{self:?}").to_lowercase())
    }
}

/// Returns all aspects in which an outcome differs, with the differences.
#[must_use]
pub fn compare(verb: &str, recorded: &Then, now: &Then) -> BTreeMap<Aspect, String> {
    let mut found = BTreeMap::new();
    let mut differ = |aspect: Aspect, left: String, right: String| {
        if left != right {
            found.insert(aspect, format!("{verb}: recorded {left}\n      now {right}"));
        }
    };
    differ(Aspect::Exit, (recorded.exit == 0).to_string(), (now.exit == 0).to_string());
    if recorded.exit == 0 && now.exit == 0 {
        let text = |then: &Then| {
            if then.stdout.is_null() { String::new() } else { render(&then.stdout, &mut Macs::default()) }
        };
        differ(Aspect::Result, text(recorded), text(now));
    }
    let calls = |then: &Then| {
        let mut macs = Macs::default();
        then.delegate_calls.iter().map(|call| call_text(call, &mut macs)).collect::<Vec<_>>().join("\n        ")
    };
    let about = match verb.split(' ').next_back() {
        Some("ADD") => Aspect::AddCalls,
        Some("DEL") => Aspect::DelCalls,
        _ => Aspect::OtherCalls,
    };
    differ(about, calls(recorded), calls(now));
    differ(Aspect::Events, events(recorded), events(now));
    differ(Aspect::Status, status(&recorded.network_status), status(&now.network_status));
    if let (Some(recorded), Some(now)) = (&recorded.kernel, &now.kernel) {
        differ(Aspect::Kernel, render(recorded, &mut Macs::default()), render(now, &mut Macs::default()));
    }
    found
}

/// Hardware addresses that the kernel chose, by order of appearance.
#[derive(Default)]
struct Macs(Vec<String>);

impl Macs {
    fn name(&mut self, mac: &str) -> String {
        let index = self.0.iter().position(|known| known == mac).unwrap_or_else(|| {
            self.0.push(mac.to_owned());
            self.0.len() - 1
        });
        format!("MAC-{index}")
    }
}

/// Renders a value such that only relevant differences are visible: keys sorted, numbers as 64-bit floats, random names
/// and addresses by their order.
fn render(value: &Value, macs: &mut Macs) -> String {
    match value {
        Value::Object(map) => {
            // An empty `dns` is irrelevant; libraries differ in writing it.
            let says =
                |(key, value): &(&String, &Value)| *key != "dns" || value.as_object().is_none_or(|dns| !dns.is_empty());
            let sorted: BTreeMap<&String, &Value> = map.iter().filter(says).collect();
            let parts: Vec<String> =
                sorted.into_iter().map(|(key, value)| format!("{key:?}:{}", render(value, macs))).collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(|item| render(item, macs)).collect::<Vec<_>>().join(","))
        }
        Value::Number(number) => format!("{:e}", number.as_f64().unwrap_or_default()),
        Value::String(text) => {
            let is_mac = text.len() == 17 && text.split(':').count() == 6;
            let chosen =
                is_mac && !text.to_lowercase().starts_with("02:00:00:00") && !text.to_lowercase().starts_with("02:aa");
            if chosen || text.starts_with("@MAC") {
                format!("{:?}", macs.name(text))
            } else if text == "@VETH@" || (text.len() == 12 && text.starts_with("veth")) {
                "\"VETH\"".to_owned()
            } else {
                format!("{text:?}")
            }
        }
        other => other.to_string(),
    }
}

fn call_text(call: &Call, macs: &mut Macs) -> String {
    let mut env: Map<String, Value> = Map::new();
    for (key, value) in &call.env {
        let value = match key.as_str() {
            // weft-pod and Multus both declare unknown keys as acceptable, in different words; and Multus repeats all
            // of them.
            "CNI_ARGS" => pairs(value),
            "CNI_PATH" => distinct(value, ':'),
            _ => value.clone(),
        };
        env.insert(key.clone(), json!(value));
    }
    format!("{} {} {}", call.kind, render(&Value::Object(env), macs), render(&call.stdin, macs))
}

fn pairs(args: &str) -> String {
    let without = args.split(';').filter(|pair| !pair.starts_with("IgnoreUnknown=")).collect::<Vec<_>>().join(";");
    distinct(&without, ';')
}

fn distinct(text: &str, separator: char) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for part in text.split(separator) {
        if !seen.contains(&part) {
            seen.push(part);
        }
    }
    seen.join(&separator.to_string())
}

/// Returns events of added networks; weft reports failures with events of its own.
fn events(then: &Then) -> String {
    let added = |event: &&Event| event.reason == "AddedInterface";
    let texts: Vec<String> =
        then.events.iter().filter(added).map(|event| format!("{}: {}", event.reason, event.message)).collect();
    texts.join("; ")
}

fn status(value: &Value) -> String {
    if value.is_null() { String::new() } else { render(value, &mut Macs::default()) }
}

/// Returns links, global addresses and routes in a sandbox, without lo, link-local and `proto kernel` routes.
pub(super) fn kernel(netns: &NetNs) -> Result<Value> {
    let parsed = |argv: &[&str]| -> Result<Value> {
        let text = netns.run(argv)?.text();
        Ok(if text.trim().is_empty() { json!([]) } else { serde_json::from_str(&text)? })
    };
    let mut links = Vec::new();
    for link in parsed(&["ip", "-j", "addr"])?.as_array().into_iter().flatten() {
        let name = link["ifname"].as_str().unwrap_or_default();
        if name == "lo" {
            continue;
        }
        let addresses: Vec<String> = link["addr_info"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|address| address["scope"] == "global")
            .map(|address| format!("{}/{}", address["local"].as_str().unwrap_or_default(), address["prefixlen"]))
            .collect();
        let up = link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
        links.push(json!({"link": name, "mac": link["address"], "mtu": link["mtu"], "up": up, "addresses": addresses}));
    }
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let text = netns.run(&["ip", family, "route"])?.text();
        let counts = |line: &&str| !line.contains("proto kernel") && !line.starts_with("fe80") && !line.is_empty();
        routes.extend(text.lines().map(str::trim).filter(counts).map(|line| json!(line)));
    }
    Ok(json!({"links": links, "routes": routes}))
}

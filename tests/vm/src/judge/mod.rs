//! Checks whether a transcript is right, and whether two are the same.
//!
//! JSON output is normalised first, so that values that differ from run to run compare equal and can be written in a
//! case: the host's end of container `one`'s interface `eth0` is called `one:eth0`, other random names `veth*`, MAC
//! addresses `<mac>`; indexes and handles are dropped; unordered lists are sorted.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::case::{Case, Look, Step, Subject, Transcript, What};

/// Keys that are not compared: numbers that the kernel assigns.
const NOISE: &[&str] = &["ifindex", "link_index", "link_netnsid", "handle", "ifi_index"];

/// Returns whether this is weft's label on a link of the host, which no other plugin sets. Other aliases are compared.
fn is_label(key: &str, value: &Value) -> bool {
    key == "ifalias" && value.as_str().is_some_and(|alias| alias.starts_with("weft:"))
}

/// Compares a transcript with its case.
///
/// # Errors
/// The first deviation.
pub fn judge(case: &Case, transcript: &Transcript) -> Result<()> {
    for step in &transcript.steps {
        let outcome = judge_step(case, transcript, step);
        outcome.with_context(|| {
            format!("{} (exit {:?})\n{}{}", describe(case, step.what), step.code, step.stdout, step.stderr)
        })?;
    }
    // Last, so that earlier mistakes of the subject are reported first.
    match &transcript.trouble {
        Some(trouble) => bail!("the run stopped: {trouble}"),
        None => Ok(()),
    }
}

fn judge_step(case: &Case, transcript: &Transcript, step: &Step) -> Result<()> {
    let names = Names::read(case, transcript);
    match step.what {
        What::Add(number) => match case.attach.get(number).and_then(|attach| attach.error.as_ref()) {
            None => exits(step, 0),
            Some(_) if step.code == Some(0) => bail!("it succeeds and must not"),
            Some(wanted) if !step.stdout.contains(wanted) => bail!("its error must have: {wanted}"),
            Some(_) => Ok(()),
        },
        What::Look(number) => judge_look(case.look.get(number).context("no such look")?, &names, step),
        What::BeforeDel(number) => judge_look(case.before_del.get(number).context("no such look")?, &names, step),
        What::After(number) => judge_look(case.after.get(number).context("no such look")?, &names, step),
        What::HostLinks => {
            let left = link_names(step)?.into_iter().find(|link| names.host_ends.contains_key(link));
            left.map_or(Ok(()), |link| bail!("{link} is left on the host"))
        }
        What::ContainerLinks(number) => {
            let ifname = &case.attach.get(number).context("no such attachment")?.ifname;
            if link_names(step)?.contains(ifname) {
                bail!("{ifname} is left in the container");
            }
            Ok(())
        }
        What::Check(number) => {
            let excuse = case.attach.get(number).and_then(|attach| attach.reference_check.as_ref());
            let excuse = excuse.filter(|_| transcript.subject == Subject::Reference);
            if excuse.is_some_and(|text| step.stdout.contains(text)) { Ok(()) } else { exits(step, 0) }
        }
        // The reference reads the configuration on DEL too, and rejects it again.
        What::Del(number) | What::DelAgain(number)
            if transcript.subject == Subject::Reference
                && case.attach.get(number).is_some_and(|attach| attach.error.is_some()) =>
        {
            Ok(())
        }
        What::Rollback(_) | What::Killed(_) | What::Setup(_) | What::Del(_) | What::DelAgain(_) => exits(step, 0),
    }
}

fn judge_look(look: &Look, names: &Names, step: &Step) -> Result<()> {
    exits(step, look.exit)?;
    for text in &look.has {
        if !step.stdout.contains(text.as_str()) {
            bail!("it must have: {text}");
        }
    }
    for text in &look.lacks {
        if step.stdout.contains(text.as_str()) {
            bail!("it must not have: {text}");
        }
    }
    let output = || names.normalise(serde_json::from_str(&step.stdout).context("its output is not JSON")?);
    if let Some(wanted) = &look.is {
        let (wanted, output) = (sort_keys(wanted.clone()), output()?);
        if output != wanted {
            bail!("it must be\n{wanted}\nand is\n{output}");
        }
    }
    if let Some(wanted) = &look.contains {
        let output = output()?;
        if !contains(&output, wanted) {
            bail!("it must contain\n{wanted}\nand is\n{output}");
        }
    }
    Ok(())
}

fn exits(step: &Step, wanted: i32) -> Result<()> {
    if step.code == Some(wanted) { Ok(()) } else { bail!("it must exit with {wanted}") }
}

/// Compares two subjects' transcripts of the same case.
///
/// # Errors
/// The first difference.
pub fn compare_transcripts(case: &Case, one: &Transcript, two: &Transcript) -> Result<()> {
    let (names_one, names_two) = (Names::read(case, one), Names::read(case, two));
    for (what, compare) in comparable(case) {
        if !compare {
            continue;
        }
        let find = |transcript: &Transcript| transcript.steps.iter().find(|step| step.what == what).cloned();
        let step_one = find(one).with_context(|| format!("{:?} has no {}", one.subject, describe(case, what)))?;
        let step_two = find(two).with_context(|| format!("{:?} has no {}", two.subject, describe(case, what)))?;
        let (text_one, text_two) = (names_one.comparable(&step_one), names_two.comparable(&step_two));
        if text_one != text_two {
            let (first, second) = (one.subject, two.subject);
            bail!("{} differs\n{first:?}:\n{text_one}\n{second:?}:\n{text_two}", describe(case, what));
        }
    }
    Ok(())
}

fn comparable(case: &Case) -> Vec<(What, bool)> {
    let adds = (0..case.attach.len()).map(|number| (What::Add(number), true));
    let looks = case.look.iter().enumerate().map(|(number, look)| (What::Look(number), look.compare));
    let after = case.after.iter().enumerate().map(|(number, look)| (What::After(number), look.compare));
    adds.chain(looks).chain(after).collect()
}

fn describe(case: &Case, what: What) -> String {
    let attachment = |number: usize| {
        case.attach.get(number).map_or_else(String::new, |attach| format!("{} {}", attach.container, attach.ifname))
    };
    let look = |looks: &[Look], number: usize| {
        looks.get(number).map_or_else(String::new, |look| format!("`{}` in {}", look.run, look.place))
    };
    match what {
        What::Setup(number) => format!("setup: {}", case.setup.get(number).map_or("", String::as_str)),
        What::Rollback(number) => format!("failing at every op of ADD of {}", attachment(number)),
        What::Killed(number) => format!("killing ADD and DEL of {}", attachment(number)),
        What::Add(number) => format!("ADD of {}", attachment(number)),
        What::Look(number) => look(&case.look, number),
        What::BeforeDel(number) => format!("before DEL: {}", look(&case.before_del, number)),
        What::Check(number) => format!("CHECK of {}", attachment(number)),
        What::Del(number) => format!("DEL of {}", attachment(number)),
        What::DelAgain(number) => format!("DEL once more of {}", attachment(number)),
        What::After(number) => format!("after DEL: {}", look(&case.after, number)),
        What::HostLinks => "links of the host after DEL".to_owned(),
        What::ContainerLinks(number) => format!("links of the container after DEL of {}", attachment(number)),
    }
}

fn link_names(step: &Step) -> Result<Vec<String>> {
    let links: Value = serde_json::from_str(&step.stdout).context("read what ip says")?;
    let links = links.as_array().context("a list of links")?;
    Ok(links.iter().filter_map(|link| link["ifname"].as_str()).map(str::to_owned).collect())
}

/// Random names of a run, with their replacements.
struct Names {
    host_ends: BTreeMap<String, String>,
}

// === impl Names ===

impl Names {
    fn read(case: &Case, transcript: &Transcript) -> Self {
        let mut host_ends = BTreeMap::new();
        for step in &transcript.steps {
            let What::Add(number) = step.what else { continue };
            let (Some(attach), Ok(result)) = (case.attach.get(number), serde_json::from_str::<Value>(&step.stdout))
            else {
                continue;
            };
            for interface in result["interfaces"].as_array().into_iter().flatten() {
                let name = interface["name"].as_str().unwrap_or_default();
                let on_host = interface["sandbox"].as_str().unwrap_or_default().is_empty();
                if on_host && is_random(name) {
                    host_ends.insert(name.to_owned(), format!("{}:{}", attach.container, attach.ifname));
                }
            }
        }
        Self { host_ends }
    }

    /// Returns the comparable part of a step: normalised JSON, or else only its end.
    fn comparable(&self, step: &Step) -> String {
        let code = step.code;
        // Of a failure, only the message: the reference has code 999 for all of them.
        if let (What::Add(_), Some(1..)) = (step.what, code) {
            let error = serde_json::from_str::<Value>(&step.stdout).unwrap_or_default();
            return format!("exit {code:?}: {}", error["msg"].as_str().unwrap_or(&step.stdout));
        }
        match serde_json::from_str(&step.stdout).map_err(anyhow::Error::from).and_then(|value| self.normalise(value)) {
            Ok(value) => format!("exit {code:?}\n{value:#}"),
            Err(_) => format!("exit {code:?}"),
        }
    }

    fn normalise(&self, value: Value) -> Result<Value> {
        Ok(sort_keys(self.rename(value)))
    }

    fn rename(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.rename_text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.rename(item)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .filter(|(key, value)| !NOISE.contains(&key.as_str()) && !is_label(key, value))
                // Old reference plugins print an empty one in every result; newer ones and weft do not.
                .filter(|(key, value)| key != "dns" || value.as_object().is_none_or(|dns| !dns.is_empty()))
                .map(|(key, value)| (key, self.rename(value)))
                .collect(),
            other => other,
        }
    }

    fn rename_text(&self, text: &str) -> String {
        if let Some(name) = self.host_ends.get(text) {
            return name.clone();
        }
        if is_random(text) {
            return "veth*".to_owned();
        }
        if is_mac(text) { "<mac>".to_owned() } else { text.to_owned() }
    }
}

/// Returns whether a name is `veth` and eight hexadecimal digits.
fn is_random(name: &str) -> bool {
    name.strip_prefix("veth").is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.len() == 6 && parts.iter().all(is_byte)
}

/// Sorts lists by content: the kernel may list links or VLANs in any order.
fn sort_keys(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(sort_keys).collect();
            items.sort_by_cached_key(Value::to_string);
            Value::Array(items)
        }
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> =
                fields.into_iter().map(|(key, value)| (key, sort_keys(value))).collect();
            fields.into_iter().collect()
        }
        other => other,
    }
}

fn contains(actual: &Value, wanted: &Value) -> bool {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| actual.get(key).is_some_and(|actual| contains(actual, wanted)))
        }
        (Value::Array(actual), Value::Array(wanted)) => {
            wanted.iter().all(|wanted| actual.iter().any(|actual| contains(actual, wanted)))
        }
        _ => actual == wanted,
    }
}

#[cfg(test)]
mod tests;

//! Runs the steps of a case for one subject and writes the transcript.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::chain::{self, Chain};
use super::{Case, Step, leftovers};
use crate::cni::Reply;
use crate::names::Names;
use crate::observe;
use crate::talk::{self, Server};
use crate::world::{Attach, Subject, World};

/// First CNI version with CHECK and with `prevResult` on DEL.
const CHECK_SINCE: &str = "0.4.0";

/// First CNI version whose results have sorted keys.
const SORTED_SINCE: &str = "1.0.0";

/// Runs a case for one subject; the transcript has one member per step.
///
/// # Errors
/// A step did not end as the case requires, something is left behind, or the machine interferes.
pub fn run(case: &Case, version: &str, subject: &Subject) -> Result<Value> {
    let mut runner = Runner::new(case, version, subject)?;
    let steps = case.env.steps.clone().unwrap_or_else(default_steps);
    for (index, step) in steps.iter().enumerate() {
        if step.since.as_deref().is_some_and(|since| version < since) {
            continue;
        }
        let label = format!("{:02} {}", index + 1, step.label());
        let entry = runner.step(step).with_context(|| format!("{}: step {label}", subject.name))?;
        runner.transcript.insert(label, entry);
    }
    let left = runner.finish().with_context(|| format!("{}: clean up", subject.name))?;
    if subject.name == "weft" && !left.is_empty() {
        bail!("{} leaves things behind:\n    {}", subject.name, left.join("\n    "));
    }
    Ok(runner.names.value(&Value::Object(runner.transcript)))
}

/// ADD, observe, CHECK, DEL, observe, DEL again, and then all of it once more: the second round must find no obstacles.
fn default_steps() -> Vec<Step> {
    let a = || Some("a".to_owned());
    let add = Step { add: a(), ..Step::default() };
    let look = Step { observe: true, ..Step::default() };
    let check = Step { check: a(), since: Some(CHECK_SINCE.to_owned()), ..Step::default() };
    let del = Step { del: a(), ..Step::default() };
    [&add, &look, &check, &del, &look, &del, &add, &check, &del, &look].into_iter().cloned().collect()
}

/// What DEL and CHECK need of an added attachment.
#[derive(Debug, Clone)]
struct Added {
    step: Step,
    result: Value,
}

struct Runner<'a> {
    case: &'a Case,
    version: &'a str,
    subject: &'a Subject,
    world: World,
    names: Names,
    chain: Chain,
    /// Raw state before any step.
    before: Value,
    transcript: Map<String, Value>,
    /// By container and interface name.
    added: BTreeMap<(String, String), Added>,
    /// Every address that was handed out.
    addresses: Vec<String>,
    servers: Vec<Server>,
}

impl Step {
    /// Returns the name in a transcript.
    fn label(&self) -> String {
        if let Some((verb, container)) = self.call() {
            return format!("{verb} {container}");
        }
        if let Some(ask) = &self.ask {
            return format!("ask {} {}", ask.from, ask.to);
        }
        if let Some(serve) = &self.serve {
            return format!("serve {}", serve.place);
        }
        match (&self.ping, &self.run, &self.remove) {
            (Some(ping), ..) => format!("ping {} {}", ping.from, ping.to.replace('/', "_")),
            (_, Some(run), _) => format!("run {}", run.place),
            (_, _, Some(container)) => format!("remove {container}"),
            _ => "observe".to_owned(),
        }
    }

    fn call(&self) -> Option<(&'static str, &str)> {
        let verbs = [("ADD", &self.add), ("CHECK", &self.check), ("DEL", &self.del)];
        verbs.into_iter().find_map(|(verb, container)| Some((verb, container.as_deref()?)))
    }
}

impl<'a> Runner<'a> {
    fn new(case: &'a Case, version: &'a str, subject: &'a Subject) -> Result<Self> {
        let mut world = World::new(subject)?;
        let scratch = world.scratch().display().to_string();
        for (name, content) in &case.env.files {
            fs::write(world.scratch().join(name), content).with_context(|| format!("write {name}"))?;
        }
        if case.env.outside {
            world.add_outside()?;
        }
        for run in &case.env.setup {
            world.netns(&run.place)?.line(&run.line)?;
        }
        let chain = Chain::read(&case.conf.replace("$SCRATCH", &scratch), version)?;
        let mut names = Names::default();
        names.keep_name(&case.conf);
        names.keep_name(case.env.args.as_deref().unwrap_or_default());
        for step in case.env.steps.iter().flatten() {
            names.keep_name(step.args.as_deref().unwrap_or_default());
            names.keep_name(&step.conf.as_ref().map(Value::to_string).unwrap_or_default());
        }
        names.set_symbol(&scratch, "$SCRATCH");
        names.set_symbol(&subject.bin.display().to_string(), "$BIN");
        // Create the containers before the first observation, so that the end can be compared with it.
        let containers: Vec<&str> =
            case.env.steps.iter().flatten().filter_map(|step| step.call()).map(|(_, name)| name).collect();
        for name in if containers.is_empty() { vec!["a"] } else { containers } {
            let path = world.container(name)?.path().display().to_string();
            names.set_symbol(&path, &format!("$NETNS({name})"));
        }
        observe::wait_until_settled(&world)?;
        let before = observe::world_state(&world, &mut names)?;
        Ok(Self {
            case,
            version,
            subject,
            world,
            names,
            chain,
            before,
            transcript: Map::new(),
            added: BTreeMap::new(),
            addresses: Vec::new(),
            servers: Vec::new(),
        })
    }

    fn step(&mut self, step: &Step) -> Result<Value> {
        if let Some((verb, container)) = step.call() {
            return self.call(verb, container, step);
        }
        if let Some(ping) = &step.ping {
            return Ok(json!({ "answer": self.world.reaches(&ping.from, &ping.to)? }));
        }
        if let Some(serve) = &step.serve {
            let server = talk::serve(self.world.netns(&serve.place)?, serve.protocol, serve.at)?;
            self.servers.push(server);
            return Ok(json!({}));
        }
        if let Some(ask) = &step.ask {
            let answer = talk::ask(self.world.netns(&ask.from)?, ask.protocol, ask.to, 3)?;
            return Ok(json!({ "answer": answer }));
        }
        if let Some(run) = &step.run {
            self.world.netns(&run.place)?.line(&run.line)?;
            return Ok(json!({}));
        }
        if let Some(container) = &step.remove {
            self.world.remove_container(container);
            return Ok(json!({}));
        }
        self.look()
    }

    /// Returns the state without the parts that the case ignores.
    fn look(&mut self) -> Result<Value> {
        observe::wait_until_settled(&self.world)?;
        let mut state = observe::world_state(&self.world, &mut self.names)?;
        for path in self.case.env.ignore.keys() {
            if let Some((side, section)) = path.split_once('/')
                && let Some(fields) = state.get_mut(side).and_then(Value::as_object_mut)
            {
                fields.remove(section);
            }
        }
        Ok(state)
    }

    fn call(&mut self, verb: &str, container: &str, step: &Step) -> Result<Value> {
        let ifname = step.ifname.clone().unwrap_or_else(|| self.case.env.ifname.clone());
        let reply = self.send(verb, container, &ifname, step)?;
        let failed = !reply.is_ok();
        if failed != step.fails.applies(self.subject.name) {
            let said = String::from_utf8_lossy(&reply.stdout).into_owned();
            bail!("{} instead: {said} {}", if failed { "failed" } else { "succeeded" }, reply.stderr);
        }
        if failed {
            return failure(&reply);
        }
        if verb != "ADD" {
            reply.expect_quiet()?;
            if verb == "DEL" {
                self.added.remove(&(container.to_owned(), ifname));
            }
            return Ok(json!({ "ok": true }));
        }
        let mut result = reply.json()?;
        reply.layout()?;
        if self.subject.name == "weft" && self.version >= SORTED_SINCE && !sorted(&result) {
            bail!("the keys of the result are not sorted: {}", keys(&result));
        }
        let added = Added { step: step.clone(), result: result.clone() };
        self.added.insert((container.to_owned(), ifname), added);
        self.addresses.extend(addresses_of(&result));
        for interface in result.get("interfaces").and_then(Value::as_array).into_iter().flatten() {
            self.names.learn_link(interface.get("name").and_then(Value::as_str).unwrap_or_default());
        }
        observe::learn_links(&self.world, &mut self.names)?;
        observe::mark_borrowed(&self.world, &mut result)?;
        Ok(json!({ "ok": true, "keys": keys(&result), "result": result }))
    }

    /// Makes the call as libcni would: plugin after plugin with the previous result or, for CHECK and DEL, with the
    /// version's `prevResult`. Returns the answer of the last plugin.
    fn send(&mut self, verb: &str, container: &str, ifname: &str, step: &Step) -> Result<Reply> {
        let mut plugins = self.chain.patched(step.conf.as_ref())?;
        if verb == "DEL" {
            plugins.reverse();
        }
        let added = self.added.get(&(container.to_owned(), ifname.to_owned()));
        let known = added.filter(|_| verb != "ADD" && self.version >= CHECK_SINCE && !step.bare);
        let mut previous = known.map(|added| added.result.clone());
        let args = step.args.clone().or_else(|| self.case.env.args.clone());
        let mut last = None;
        for mut conf in plugins {
            if let Some(previous) = &previous {
                conf["prevResult"] = previous.clone();
            }
            let attach = Attach { container, ifname, args: args.as_deref() };
            let kind = self.case.env.plugin.clone().unwrap_or_else(|| chain::kind(&conf).to_owned());
            let mut call = self.world.prepare(verb, &attach, &conf)?;
            if let Some(netns) = &step.netns {
                call.netns = Some(netns.clone());
            }
            let reply = self.world.run(&call, &kind)?;
            if !reply.is_ok() {
                return Ok(reply);
            }
            if verb == "ADD" {
                previous = Some(reply.json()?);
            }
            last = Some(reply);
        }
        last.context("a list without plugins")
    }

    /// Deletes what the steps left attached, and searches for leftovers.
    fn finish(&mut self) -> Result<Vec<String>> {
        for ((container, ifname), added) in std::mem::take(&mut self.added) {
            let reply = self.send("DEL", &container, &ifname, &added.step)?;
            reply.expect_quiet().with_context(|| format!("DEL {container}"))?;
        }
        observe::wait_until_settled(&self.world)?;
        let after = observe::world_state(&self.world, &mut self.names)?;
        leftovers::find(&self.world, &self.before, &after, &self.addresses)
    }
}

/// Returns the compared part of an error: the text, and the code if it is more specific than "internal".
fn failure(reply: &Reply) -> Result<Value> {
    let error = reply.error()?;
    Ok(json!({ "ok": false, "code": error.code, "msg": error.msg, "details": error.details }))
}

/// Returns the addresses of a result of any version, without prefix lengths.
fn addresses_of(result: &Value) -> Vec<String> {
    let new = result.get("ips").and_then(Value::as_array).into_iter().flatten().filter_map(|ip| ip.get("address"));
    let old = ["ip4", "ip6"].into_iter().filter_map(|family| result.get(family)?.get("ip"));
    new.chain(old).filter_map(Value::as_str).filter_map(|text| text.split('/').next()).map(str::to_owned).collect()
}

fn sorted(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.keys().is_sorted() && fields.values().all(sorted),
        Value::Array(items) => items.iter().all(sorted),
        _ => true,
    }
}

/// Returns the keys of a result in printed order: old versions use the order of the specification, new ones sort.
fn keys(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let each = fields.iter().map(|(key, item)| format!("{key}{}", keys(item)));
            format!("{{{}}}", each.collect::<Vec<_>>().join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(keys).collect::<Vec<_>>().join(" ")),
        _ => String::new(),
    }
}

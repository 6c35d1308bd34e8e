//! A pod with a host port behind a firewall: bridge with masquerading, portmap and firewall, called as a runtime calls
//! a list. weft is measured both ways: under the names of the three plugins, and as one call with `"steps"`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use weft_bench::call::{Outcome, Plugins, Target, Verb};
use weft_bench::scene::Scene;

use super::processes::{Counts, traced};
use super::target;
use crate::contenders::{Ready, bridge_conf};
use crate::sample::{Turn, interleave};
use crate::table::{Budget, Figure, Row};

/// The plugins of a list, each with its configuration.
pub(super) struct List<'a> {
    pub(super) plugins: &'a Plugins,
    pub(super) entries: Vec<(&'static str, Value)>,
}

/// Measures the list's timings, and counts the processes it starts.
pub(super) fn measure(scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    let lists = lists(scene, ready);
    let turns = ["chain-weft", "chain-one", "chain-ref"].into_iter().zip(&lists);
    let turns = turns.map(|(name, list)| turn(scene, name, list)).collect::<Result<Vec<_>>>()?;
    let Ok([weft, one, reference]) = <[Turn<'_>; 3]>::try_from(turns) else { bail!("three lists") };
    let samples = interleave(ready.rounds.div_ceil(4), [weft, one, reference])?;
    let mut rows = Vec::new();
    for (at, verb) in ["ADD", "DEL"].into_iter().enumerate() {
        let figure = |which: usize| samples[which].get(at).map(Figure::from_sample).context("no timing");
        let base = || Ok::<_, anyhow::Error>(("reference", figure(2)?));
        let what = format!("chain bridge + masquerade + portmap + firewall {verb}");
        rows.push(Row::compared(&what, figure(0)?, base()?, None));
        rows.push(Row::compared(&format!("the same as one call with steps, {verb}"), figure(1)?, base()?, None));
    }
    rows.extend(started(scene, &lists)?);
    Ok(rows)
}

fn lists<'a>(scene: &Scene, ready: &'a Ready) -> [List<'a>; 3] {
    let bridge = |name: &str, subnet: &str| bridge_conf(name, subnet, &scene.dir().join("host-local"), true);
    let port = |port: u16| json!({ "portMappings": [{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }] });
    let step = |name: &str, kind: &str, runtime: Value| json!({ "cniVersion": "1.0.0", "name": name, "type": kind, "runtimeConfig": runtime });
    let chained = |plugins, name: &str, subnet: &str, host_port: u16| List {
        plugins,
        entries: vec![
            ("bridge", bridge(name, subnet)),
            ("portmap", step(name, "portmap", port(host_port))),
            ("firewall", step(name, "firewall", json!({}))),
        ],
    };
    let mut delegate = bridge("bc-one", "10.91.0.0/16");
    let mut one = json!({ "cniVersion": "1.0.0", "name": "bc-one", "type": "weft", "runtimeConfig": port(8092),
                          "steps": [{ "type": "portmap" }, { "type": "firewall" }] });
    if let Some(delegate) = delegate.as_object_mut() {
        delegate.retain(|key, _| key != "cniVersion" && key != "name");
        one["ipam"] = delegate.remove("ipam").unwrap_or_default();
    }
    one["delegate"] = delegate;
    [
        chained(&ready.weft, "bc-weft", "10.90.0.0/16", 8091),
        List { plugins: &ready.weft, entries: vec![("weft", one)] },
        chained(&ready.reference, "bc-ref", "10.92.0.0/16", 8093),
    ]
}

fn turn<'a>(scene: &Scene, name: &str, list: &'a List<'a>) -> Result<Turn<'a>> {
    let netns = scene.netns(name)?;
    Ok(Box::new(move |round| {
        let target = target(&format!("pod-{round}"), &netns);
        let start = Instant::now();
        let result = list.add(&target)?;
        let added = start.elapsed();
        let start = Instant::now();
        list.del(&target, &result)?;
        Ok::<Vec<Duration>, _>(vec![added, start.elapsed()])
    }))
}

/// Counts the processes that one ADD and one DEL start, beyond the plugins themselves.
fn started(scene: &Scene, lists: &[List<'_>; 3]) -> Result<Vec<Row>> {
    let [weft, one, reference] = lists;
    let mut rows = Vec::new();
    let reference = reference.started(scene, "chain-ref-traced")?;
    for (what, list, name) in [("chain", weft, "chain-weft-traced"), ("one call with steps", one, "chain-one-traced")] {
        let counts = list.started(scene, name)?;
        for ((verb, started), reference) in ["ADD", "DEL"].into_iter().zip(counts).zip(reference) {
            let what = format!("processes started by the {what}, {verb} (reference: {reference})");
            rows.push(Row::uncompared(&what, Figure::single(started, ""), Some(Budget::Exactly(0.0))));
        }
    }
    Ok(rows)
}

// === impl List ===

impl List<'_> {
    /// Runs ADD of each in order, with the result of the previous one. Returns the last result.
    pub(super) fn add(&self, target: &Target) -> Result<Value> {
        self.call_each(false, Value::Null, &mut |plugin, conf, result| {
            let outcome: Outcome = self.plugins.must_call(plugin, Verb::Add, target, conf)?;
            *result = serde_json::from_str(&outcome.stdout).context("a result")?;
            Ok(())
        })
    }

    /// Runs CHECK of each in order, with the final result.
    pub(super) fn check(&self, target: &Target, result: &Value) -> Result<()> {
        let check = &mut |plugin: &str, conf: &str, _result: &mut Value| {
            self.plugins.must_call(plugin, Verb::Check, target, conf).map(drop)
        };
        self.call_each(false, result.clone(), check).map(drop)
    }

    /// Runs DEL of each, last first, with the final result.
    pub(super) fn del(&self, target: &Target, result: &Value) -> Result<()> {
        let del = &mut |plugin: &str, conf: &str, _result: &mut Value| {
            self.plugins.must_call(plugin, Verb::Del, target, conf).map(drop)
        };
        self.call_each(true, result.clone(), del).map(drop)
    }

    fn call_each(
        &self,
        reverse: bool,
        mut result: Value,
        call: &mut dyn FnMut(&str, &str, &mut Value) -> Result<()>,
    ) -> Result<Value> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        if reverse {
            entries.reverse();
        }
        for (plugin, conf) in entries {
            let mut conf = conf.clone();
            if !result.is_null() {
                conf["prevResult"] = result.clone();
            }
            call(plugin, &conf.to_string(), &mut result)?;
        }
        Ok(result)
    }

    fn started(&self, scene: &Scene, name: &str) -> Result<[f64; 2]> {
        let target = target(name, &scene.netns(name)?);
        let log = scene.dir().join("strace-chain");
        let mut sums = [0.0; 2];
        let [added, deleted] = &mut sums;
        let trace = |verb, plugin: &str, conf: &str| -> Result<(Counts, String)> {
            traced(self.plugins, plugin, conf, (verb, &target), &log)
        };
        let result = self.call_each(false, Value::Null, &mut |plugin, conf, result| {
            let (counts, document) = trace(Verb::Add, plugin, conf)?;
            *added += counts.started;
            *result = serde_json::from_str(&document).context("a result")?;
            Ok(())
        })?;
        self.call_each(true, result, &mut |plugin, conf, _result| {
            *deleted += trace(Verb::Del, plugin, conf)?.0.started;
            Ok(())
        })?;
        Ok(sums)
    }
}

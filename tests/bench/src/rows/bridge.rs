//! A pod's usual life: ADD and DEL of bridge + host-local, compared with the reference and with the same netlink
//! messages sent directly.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use weft_bench::call::{Target, run};
use weft_bench::scene::Scene;

use super::{Network, target};
use crate::contenders::{Ready, bridge_conf};
use crate::sample::{Sample, Turn, interleave};
use crate::table::{Figure, Row};

/// Measures bridge and host-local.
pub(super) fn measure(scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    let networks = networks(scene, ready, ["br-weft", "br-ref"], false);
    let netns = scene.netns("raw")?;
    let raw: Turn<'_> = Box::new(|_| raw(&ready.raw, &netns));
    let [weft, reference] = networks.each_ref().map(|network| turn(scene, network));
    let [weft, reference, raw] = interleave(ready.rounds, [weft?, reference?, raw])?;
    let (weft, reference, raw) = (figures(&weft)?, figures(&reference)?, figures(&raw)?);
    Ok(vec![
        Row::compared("bridge + host-local ADD", weft[0].clone(), ("reference", reference[0].clone()), Some(0.35)),
        Row::compared("bridge + host-local ADD", weft[0].clone(), ("raw netlink", raw[0].clone()), Some(1.5)),
        Row::compared("bridge + host-local DEL", weft[1].clone(), ("reference", reference[1].clone()), None),
        Row::compared("bridge + host-local DEL", weft[1].clone(), ("raw netlink", raw[1].clone()), None),
    ])
}

/// Measures the same with masquerading, for which the reference starts iptables.
pub(super) fn measure_masquerade(scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    let networks = networks(scene, ready, ["bm-weft", "bm-ref"], true);
    let [weft, reference] = networks.each_ref().map(|network| turn(scene, network));
    let [weft, reference] = interleave(ready.rounds.div_ceil(2), [weft?, reference?])?;
    let (weft, reference) = (figures(&weft)?, figures(&reference)?);
    Ok(vec![
        Row::compared("bridge + ipMasq ADD", weft[0].clone(), ("reference", reference[0].clone()), None),
        Row::compared("bridge + ipMasq DEL", weft[1].clone(), ("reference", reference[1].clone()), None),
    ])
}

fn networks<'a>(scene: &Scene, ready: &'a Ready, bridges: [&str; 2], masquerade: bool) -> [Network<'a>; 2] {
    let contenders = [(&ready.weft, bridges[0], "10.81.0.0/16"), (&ready.reference, bridges[1], "10.82.0.0/16")];
    contenders.map(|(plugins, bridge, subnet)| {
        let conf = bridge_conf(bridge, subnet, &scene.dir().join("host-local"), masquerade);
        Network { plugins, plugin: "bridge", conf: conf.to_string() }
    })
}

/// Runs ADD, then DEL, in a permanent netns: making and removing one is the runtime's cost, not the plugin's.
fn turn<'a>(scene: &Scene, network: &'a Network<'a>) -> Result<Turn<'a>> {
    let name = serde_json::from_str::<serde_json::Value>(&network.conf)?["name"].to_string();
    let netns = scene.netns(&format!("{}-pod", name.trim_matches('"')))?;
    Ok(Box::new(move |round| {
        let target: Target = target(&format!("pod-{round}"), &netns);
        Ok(vec![network.add(&target)?, network.del(&target)?])
    }))
}

fn raw(program: &Path, netns: &Path) -> Result<Vec<Duration>> {
    Ok(vec![raw_add(program, netns, "vethraw0", "10.83.0.2/16")?, raw_del(program, netns)?])
}

/// Runs ADD by netlink alone.
pub(super) fn raw_add(program: &Path, netns: &Path, host: &str, address: &str) -> Result<Duration> {
    call_raw(program, &["add", &netns.to_string_lossy(), "eth0", host, "br-raw", address, "10.83.0.1/16"])
}

/// Runs DEL by netlink alone.
pub(super) fn raw_del(program: &Path, netns: &Path) -> Result<Duration> {
    call_raw(program, &["del", &netns.to_string_lossy(), "eth0"])
}

fn call_raw(program: &Path, arguments: &[&str]) -> Result<Duration> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let outcome = run(command, "")?;
    if !outcome.status.success() {
        bail!("{} {arguments:?} failed: {}", program.display(), outcome.stderr.trim());
    }
    Ok(outcome.took)
}

fn figures(samples: &[Sample]) -> Result<[Figure; 2]> {
    match samples {
        [add, del] => Ok([Figure::from_sample(add), Figure::from_sample(del)]),
        _ => bail!("{} timings where there should be two", samples.len()),
    }
}

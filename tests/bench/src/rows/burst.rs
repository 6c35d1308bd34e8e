//! A node is drained: many concurrent DELs.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use weft_bench::call::Target;
use weft_bench::scene::Scene;

use super::bridge::{raw_add, raw_del};
use super::{Network, target};
use crate::contenders::{Ready, bridge_conf};
use crate::sample::{Sample, Turn, interleave};
use crate::table::{Figure, Row};

const AT_ONCE: usize = 32;

/// Measures from the start of the first DEL to the end of the last.
pub(super) fn measure(scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    let contenders = [(&ready.weft, "bb-weft", "10.85.0.0/16"), (&ready.reference, "bb-ref", "10.86.0.0/16")];
    let networks = contenders.map(|(plugins, bridge, subnet)| {
        let conf = bridge_conf(bridge, subnet, &scene.dir().join("host-local"), true);
        Network { plugins, plugin: "bridge", conf: conf.to_string() }
    });
    let netns = (0..AT_ONCE).map(|index| scene.netns(&format!("burst-{index}"))).collect::<Result<Vec<_>>>()?;
    let raw: Turn<'_> = Box::new(|_| raw_round(&ready.raw, &netns));
    let [weft, reference] = &networks;
    let [weft, reference, raw] =
        interleave(ready.rounds.div_ceil(8), [turn(weft, &netns), turn(reference, &netns), raw])?;
    let figure = |samples: &[Sample]| samples.first().map(Figure::from_sample).ok_or_else(|| anyhow!("no timing"));
    let what = "32 DELs at once (ipMasq)";
    Ok(vec![
        Row::compared(what, figure(&weft)?, ("reference", figure(&reference)?), Some(0.25)),
        Row::compared(what, figure(&weft)?, ("raw netlink", figure(&raw)?), None),
    ])
}

fn turn<'a>(network: &'a Network<'a>, netns: &'a [PathBuf]) -> Turn<'a> {
    Box::new(move |_| round(network, netns))
}

fn round(network: &Network<'_>, netns: &[PathBuf]) -> Result<Vec<Duration>> {
    let targets: Vec<Target> =
        netns.iter().enumerate().map(|(index, netns)| target(&format!("pod-{index}"), netns)).collect();
    for target in &targets {
        network.add(target)?;
    }
    at_once(&targets, |target| network.del(target))
}

fn raw_round(program: &Path, netns: &[PathBuf]) -> Result<Vec<Duration>> {
    for (index, netns) in netns.iter().enumerate() {
        raw_add(program, netns, &format!("vethraw{index}"), &format!("10.83.1.{}/16", index + 1))?;
    }
    at_once(netns, |netns| raw_del(program, netns))
}

pub(super) fn at_once<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<Duration> + Sync) -> Result<Vec<Duration>> {
    let work = &work;
    let start = Instant::now();
    thread::scope(|scope| {
        let calls: Vec<_> = items.iter().map(|item| scope.spawn(move || work(item))).collect();
        calls.into_iter().try_for_each(|call| call.join().unwrap_or_else(|panic| resume_unwind(panic)).map(drop))
    })?;
    Ok(vec![start.elapsed()])
}

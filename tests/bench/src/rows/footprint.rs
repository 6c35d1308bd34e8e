//! Memory and size.

use std::fs;

use anyhow::{Context, Result};
use weft_bench::call::Verb;
use weft_bench::scene::Scene;

use super::{Network, target};
use crate::contenders::{Ready, bridge_conf};
use crate::launcher::peak_memory;
use crate::table::{Budget, Figure, Row};

/// Measures the peak memory of one call, and the size of the binary.
pub(super) fn measure(scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    let mut peaks = Vec::new();
    let contenders = [(&ready.weft, "bf-weft", "10.89.0.0/16"), (&ready.reference, "bf-ref", "10.90.0.0/16")];
    for (plugins, bridge, subnet) in contenders {
        let conf = bridge_conf(bridge, subnet, &scene.dir().join("host-local"), true).to_string();
        let network = Network { plugins, plugin: "bridge", conf };
        let target = target("pod", &scene.netns(bridge)?);
        let add = peak_memory(plugins, network.plugin, Verb::Add, &target, &network.conf)?;
        let del = peak_memory(plugins, network.plugin, Verb::Del, &target, &network.conf)?;
        peaks.push(Figure::single(add.max(del), "MiB"));
    }
    let [weft, reference] = <[Figure; 2]>::try_from(peaks).ok().context("two contenders")?;
    let what = "peak memory of one call (bridge + ipMasq)";
    let mut rows = vec![
        Row::uncompared(what, weft.clone(), Some(Budget::Figure(24.0))),
        Row::compared(what, weft, ("reference, largest process", reference), None),
    ];
    if let Some(binary) = &ready.weft_binary {
        let bytes = fs::metadata(binary).with_context(|| format!("look at {}", binary.display()))?.len();
        let mib = f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0;
        rows.push(Row::uncompared("size of the binary", Figure::single(mib, "MiB"), None));
    }
    Ok(rows)
}

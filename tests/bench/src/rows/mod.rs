//! The measurements, one file for each group of rows, in the order of the table.

mod bridge;
mod burst;
mod chain;
mod footprint;
mod ipam;
mod pod;
mod policy;
mod processes;
mod scale;

use std::path::Path;

use anyhow::Result;
use weft_bench::call::{Plugins, Target, Verb};
use weft_bench::scene::Scene;

use crate::contenders::Ready;
use crate::table::Row;

/// A group of rows.
type Measure = fn(&Scene, &Ready) -> Result<Vec<Row>>;

/// All groups: their names for `--row`, and their functions.
pub(crate) const ALL: &[(&str, Measure)] = &[
    ("bridge", bridge::measure),
    ("bridge ipMasq", bridge::measure_masquerade),
    ("chain", chain::measure),
    ("pod", pod::measure),
    ("ipam claims", ipam::measure),
    ("policy call", policy::measure),
    ("burst of DELs", burst::measure),
    ("scale", scale::measure),
    ("1,001 host ports", scale::measure_ports),
    ("burst of ADDs", scale::measure_adds),
    ("processes", processes::measure),
    ("footprint", footprint::measure),
];

/// One contender's network: the plugins, the name of the one to call, and its configuration.
struct Network<'a> {
    plugins: &'a Plugins,
    plugin: &'static str,
    conf: String,
}

// === impl Network ===

impl Network<'_> {
    fn add(&self, target: &Target) -> Result<std::time::Duration> {
        Ok(self.plugins.must_call(self.plugin, Verb::Add, target, &self.conf)?.took)
    }

    fn del(&self, target: &Target) -> Result<std::time::Duration> {
        Ok(self.plugins.must_call(self.plugin, Verb::Del, target, &self.conf)?.took)
    }
}

fn target(container: &str, netns: &Path) -> Target {
    Target { container: container.to_owned(), netns: netns.to_owned(), ifname: "eth0".to_owned() }
}

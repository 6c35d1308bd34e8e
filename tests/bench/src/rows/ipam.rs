//! IPAM alone, with ten and with sixty thousand claims in the pool.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use weft_bench::scene::Scene;

use super::{Network, target};
use crate::contenders::{Ready, ipam_conf};
use crate::sample::{Sample, Turn, interleave};
use crate::table::{Figure, Row};

const FEW: u32 = 10;
const MANY: u32 = 60_000;

/// Measures ADD with few and with many claims, for both contenders.
pub(super) fn measure(scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    let [weft_few, reference_few] = networks(scene, ready, ["ten-weft", "ten-ref"], FEW)?;
    let [weft_many, reference_many] = networks(scene, ready, ["many-weft", "many-ref"], MANY)?;
    let [few, many, stock] = interleave(ready.rounds, [turn(&weft_few), turn(&weft_many), turn(&reference_few)])?;
    // With many claims, the reference needs most of a second for each ADD and DEL: it has fewer rounds, which run
    // separately.
    let contenders = [turn(&weft_many), turn(&reference_few), turn(&reference_many)];
    let [many_again, stock_again, stock_many] = interleave(ready.rounds.div_ceil(8), contenders)?;
    let figure = |samples: &[Sample]| samples.first().map(Figure::from_sample).context("no timing");
    Ok(vec![
        Row::compared(
            "IPAM ADD, 60,000 claims in the pool",
            figure(&many)?,
            ("weft with 10 claims", figure(&few)?),
            Some(1.2),
        ),
        Row::compared("IPAM ADD, 10 claims", figure(&few)?, ("reference", figure(&stock)?), None),
        Row::compared("IPAM ADD, 60,000 claims", figure(&many_again)?, ("reference", figure(&stock_many)?), None),
        Row::compared(
            "(the reference itself: 60,000 claims)",
            figure(&stock_many)?,
            ("the reference with 10", figure(&stock_again)?),
            None,
        ),
    ])
}

fn networks<'a>(scene: &Scene, ready: &'a Ready, names: [&str; 2], claims: u32) -> Result<[Network<'a>; 2]> {
    let [weft_name, reference_name] = names;
    let conf = |name: &str| ipam_conf(name, "10.84.0.0/16", &scene.dir().join("host-local")).to_string();
    let data = |name: &str| scene.dir().join("host-local").join(name);
    fill(&data(reference_name), claims)?;
    fill(&data(weft_name), claims)?;
    if let Some(weftctl) = &ready.weftctl {
        import(weftctl, ready, &data(weft_name))?;
    }
    Ok([
        Network { plugins: &ready.weft, plugin: "host-local", conf: conf(weft_name) },
        Network { plugins: &ready.reference, plugin: "host-local", conf: conf(reference_name) },
    ])
}

/// Writes the files that the stock host-local leaves after this many ADDs.
fn fill(dir: &Path, claims: u32) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    // .0 is the network, .1 its gateway.
    let first = Ipv4Addr::new(10, 84, 0, 2).to_bits();
    let mut last = Ipv4Addr::UNSPECIFIED;
    for index in 0..claims {
        last = Ipv4Addr::from_bits(first + index);
        let file: PathBuf = dir.join(last.to_string());
        fs::write(&file, format!("filler-{index}\r\neth0")).with_context(|| format!("write {}", file.display()))?;
    }
    fs::write(dir.join("last_reserved_ip.0"), last.to_string()).context("write last_reserved_ip.0")
}

/// Imports a host-local directory into weft's ledger.
fn import(weftctl: &Path, ready: &Ready, dir: &Path) -> Result<()> {
    let mut command = Command::new(weftctl);
    command.args(["ledger", "import", "host-local"]).arg(dir);
    command.envs(ready.weft.env.iter().map(|(key, value)| (key, value)));
    let output = command.output().with_context(|| format!("start {}", weftctl.display()))?;
    if !output.status.success() {
        bail!("{} ledger import failed: {}", weftctl.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn turn<'a>(network: &'a Network<'a>) -> Turn<'a> {
    Box::new(move |round| {
        let target = target(&format!("pod-{round}"), Path::new("/run/netns/none"));
        let took = network.add(&target)?;
        network.del(&target)?;
        Ok(vec![took])
    })
}

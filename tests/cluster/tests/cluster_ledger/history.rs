//! Random histories, the same for the node's own ledger, for etcd and for an API server: each answer, and the ledger's
//! contents after each step, must agree with a model. The ledger is read with sqlite3 or in etcd.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use crate::chaos::number;
use crate::cluster::Cluster;
use crate::requests::read;
use crate::world::{Node, PATIENCE, Pod};

/// Steps of one history. In these, pools run full and become empty again.
const STEPS: usize = 80;
/// A resting address is not reused within a history.
const REST: u64 = 3600;

/// The expected contents of a ledger.
#[derive(Default)]
struct Model {
    /// Per attachment: its node, whether its addresses rest afterwards, and the addresses.
    held: BTreeMap<usize, (usize, bool, Vec<IpAddr>)>,
    resting: BTreeSet<IpAddr>,
}

/// A running history.
struct History<'a> {
    nodes: Vec<Node>,
    /// The cluster with the claims; `None` for the node's own ledger.
    cluster: Option<&'a Cluster>,
    pods: Vec<Pod>,
    model: Model,
    random: Rng,
}

/// On the ledger of a cluster, with two nodes.
pub(crate) fn of_a_cluster(cluster: &mut Cluster) -> Result<()> {
    let nodes = vec![Node::new(cluster, 1)?, Node::new(cluster, 2)?];
    run(nodes, Some(cluster))
}

/// On the ledger of one node.
pub(crate) fn of_a_node(cluster: &mut Cluster) -> Result<()> {
    run(vec![Node::new(cluster, 1)?], None)
}

fn run(nodes: Vec<Node>, cluster: Option<&Cluster>) -> Result<()> {
    let seed = number("WEFT_HISTORY_SEED").map_or_else(|| fastrand::u64(..), |seed| seed as u64);
    let random = Rng::with_seed(seed);
    let mut history = History { nodes, cluster, pods: Vec::new(), model: Model::default(), random };
    for number in 0..STEPS {
        history.step().with_context(|| format!("step {number} of the history with the seed {seed}"))?;
    }
    history.end().with_context(|| format!("the end of the history with the seed {seed}"))
}

/// Two families, with 13 and 6 addresses.
fn pools() -> [Vec<IpAddr>; 2] {
    let v4 = (2..15).map(|last| IpAddr::from([10, 51, 0, last])).collect();
    let v6 = (2..8).map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])).collect();
    [v4, v6]
}

impl Model {
    fn is_taken(&self, address: &IpAddr) -> bool {
        self.resting.contains(address) || self.held.values().any(|(_node, _rests, held)| held.contains(address))
    }

    fn all_addresses(&self) -> BTreeSet<IpAddr> {
        self.held.values().flat_map(|(_node, _rests, held)| held.clone()).chain(self.resting.clone()).collect()
    }

    fn release(&mut self, attachment: usize) {
        if let Some((_node, true, held)) = self.held.remove(&attachment) {
            self.resting.extend(held);
        }
    }
}

impl History<'_> {
    fn step(&mut self) -> Result<()> {
        match self.random.u8(..10) {
            0..=3 => self.add(false)?,
            4..=5 => self.add(true)?,
            6 => self.add_again()?,
            7..=8 => self.delete()?,
            _ => self.collect()?,
        }
        self.compare()
    }

    /// Makes an attachment, with any address or with one requested by name.
    fn add(&mut self, by_name: bool) -> Result<()> {
        let attachment = self.pods.len();
        self.pods.push(Pod::new(&format!("pod-{attachment}"))?);
        let node = self.random.usize(..self.nodes.len());
        // Only few, because a resting address is lost for the rest of the history.
        let rests = self.random.u8(..12) == 0;
        let mut conf = self.conf(node, rests);
        let [v4, v6] = pools();
        let has_room = |pool: &[IpAddr]| pool.iter().any(|address| !self.model.is_taken(address));
        let mut possible = has_room(&v4) && has_room(&v6);
        let wanted = by_name.then(|| self.random.choice(&v4).copied()).flatten();
        if let Some(wanted) = wanted {
            conf["runtimeConfig"] = json!({"ips": [wanted]});
            possible &= !self.model.is_taken(&wanted);
        }
        let mut reply = self.nodes[node].ipam("ADD", &self.pods[attachment], &conf)?;
        if !possible {
            let error = reply.error()?;
            ensure!([11, 100, 102].contains(&error.code), "{error:?}");
            return Ok(());
        }
        // Retry like a runtime: a busy server may take longer than an ADD waits.
        let end = Instant::now() + PATIENCE;
        while reply.error().is_ok_and(|error| error.code == 11) && Instant::now() < end {
            reply = self.nodes[node].ipam("ADD", &self.pods[attachment], &conf)?;
        }
        let result = reply.result().with_context(|| {
            let log = self.nodes[node].log();
            format!("there was room beside {:?}\n{log}", self.model.all_addresses())
        })?;
        let given = result["ips"].as_array().context("addresses")?.iter();
        let given = given.map(|ip| {
            let text = ip["address"].as_str().unwrap_or_default();
            text.split('/').next().unwrap_or_default().parse::<IpAddr>().with_context(|| result.to_string())
        });
        let given: Vec<IpAddr> = given.collect::<Result<_>>()?;
        ensure!(given.len() == 2 && v4.contains(&given[0]) && v6.contains(&given[1]), "{result}");
        ensure!(wanted.is_none_or(|wanted| wanted == given[0]), "asked for {wanted:?}: {result}");
        ensure!(
            !given.iter().any(|address| self.model.is_taken(address)),
            "{given:?} of {:?}",
            self.model.all_addresses()
        );
        self.model.held.insert(attachment, (node, rests, given));
        Ok(())
    }

    /// Adding an existing attachment again fails.
    fn add_again(&mut self) -> Result<()> {
        let Some((attachment, node)) = self.random_pod() else { return Ok(()) };
        let error = self.nodes[node].ipam("ADD", &self.pods[attachment], &self.conf(node, false))?.error()?;
        ensure!(error.code != 0, "{error:?}");
        Ok(())
    }

    /// DEL, also of attachments that were deleted before.
    fn delete(&mut self) -> Result<()> {
        if self.pods.is_empty() {
            return Ok(());
        }
        let attachment = self.random.usize(..self.pods.len());
        let node = self.model.held.get(&attachment).map_or(0, |(node, _rests, _held)| *node);
        self.nodes[node].ipam_del(&self.pods[attachment], &self.conf(node, false))?;
        self.model.release(attachment);
        Ok(())
    }

    /// GC on a node: all but some of its attachments are gone.
    fn collect(&mut self) -> Result<()> {
        let Some((dead, node)) = self.random_pod() else { return Ok(()) };
        let here = |(_attachment, held): &(&usize, &(usize, bool, Vec<IpAddr>))| held.0 == node;
        let here: Vec<usize> = self.model.held.iter().filter(here).map(|(attachment, _held)| *attachment).collect();
        let valid: Vec<Value> = here
            .iter()
            .filter(|attachment| **attachment != dead)
            .map(|attachment| json!({"containerID": self.pods[*attachment].container(), "ifname": "eth0"}))
            .collect();
        let mut conf = self.conf(node, false);
        conf["cni.dev/valid-attachments"] = json!(valid);
        self.nodes[node].ipam("GC", &self.pods[dead], &conf)?.expect_quiet()?;
        self.model.release(dead);
        Ok(())
    }

    /// Returns an existing attachment, and its node.
    fn random_pod(&mut self) -> Option<(usize, usize)> {
        let all: Vec<(usize, usize)> = self.model.held.iter().map(|(key, held)| (*key, held.0)).collect();
        self.random.choice(&all).copied()
    }

    fn conf(&self, node: usize, rests: bool) -> Value {
        let mut conf = self.nodes[node].conf();
        conf["ipam"]["policy"] = json!("host-local");
        conf["ipam"]["ranges"] = json!([
            [{"subnet": "10.51.0.0/28", "gateway": "10.51.0.1"}],
            [{"subnet": "2001:db8::/64", "gateway": "2001:db8::1", "rangeStart": "2001:db8::2", "rangeEnd": "2001:db8::7"}],
        ]);
        if rests {
            conf["ipam"]["release"] = json!({"cooldown": REST});
        }
        if self.cluster.is_none() {
            conf["ipam"].as_object_mut().map(|ipam| ipam.remove("ledger"));
        }
        conf
    }

    /// Compares the ledger with the model; a cluster's ledger learns of a DEL in the background.
    fn compare(&self) -> Result<()> {
        let expected = self.model.all_addresses();
        let same = || Ok(self.addresses_in_ledger()? == expected);
        wait(PATIENCE, "the model's claims", same)
            .with_context(|| format!("{:?}, not {expected:?}", self.addresses_in_ledger()))
    }

    fn addresses_in_ledger(&self) -> Result<BTreeSet<IpAddr>> {
        let Some(cluster) = self.cluster else {
            let lines = self.nodes[0].sql("SELECT hex(address) FROM claims")?;
            return lines.lines().filter(|line| !line.is_empty()).map(from_hex).collect();
        };
        let address = |claim: &Value| claim["address"].as_str().unwrap_or_default().parse().context("an address");
        read(cluster)?.iter().map(address).collect()
    }

    /// Deletes all attachments.
    fn end(&mut self) -> Result<()> {
        for attachment in 0..self.pods.len() {
            let node = self.model.held.get(&attachment).map_or(0, |(node, _rests, _held)| *node);
            self.nodes[node].ipam_del(&self.pods[attachment], &self.conf(node, false))?;
            self.model.release(attachment);
        }
        self.compare()
    }
}

fn from_hex(text: &str) -> Result<IpAddr> {
    let number = u128::from_str_radix(text, 16).with_context(|| text.to_owned())?;
    Ok(if text.len() == 8 {
        IpAddr::from(u32::try_from(number)?.to_be_bytes())
    } else {
        IpAddr::from(number.to_be_bytes())
    })
}

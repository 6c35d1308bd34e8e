//! Troubles for agents, connections and the cluster. Three threads work at once, one for each.

use std::path::{Path, PathBuf};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use nix::sys::signal::Signal;
use weft_kit::dhcp::wait;
use weft_kit::programs::copy_tree;
use weft_storm::tally::lock;

use super::{Chaos, Fault, ended};

/// How long all agents may take to confirm after a restore.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many revisions that every agent has seen are lost by an unannounced restore.
const LOST: u64 = 100;

/// One kind of trouble; its name is counted.
type Trouble = (&'static str, fn(&Chaos<'_>, &mut Rng) -> Result<()>);

const AGENTS: &[Trouble] =
    &[("agents killed", kill_agent), ("agents stopped", stop_agent), ("clocks moved", move_clock)];
const CONNECTIONS: &[Trouble] = &[
    ("requests held back", |chaos, random| drop_packets(chaos, random, "out", "ip daddr 192.0.2.1 drop")),
    ("answers held back", |chaos, random| drop_packets(chaos, random, "in", "ip saddr 192.0.2.1 drop")),
    ("connections reset", |chaos, random| {
        drop_packets(chaos, random, "out", "ip daddr 192.0.2.1 tcp dport != 0 reject with tcp reset")
    }),
    ("packets lost", |chaos, random| {
        drop_packets(chaos, random, "in", "ip saddr 192.0.2.1 numgen random mod 3 0 drop")
    }),
];
const CLUSTER: &[Trouble] = &[
    ("cluster stopped", stop_cluster),
    ("cluster killed", kill_cluster),
    ("etcd restored", restore),
    ("etcd restored without a word", restore_unannounced),
];

/// Returns every kind of trouble.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    [AGENTS, CONNECTIONS, CLUSTER].into_iter().flatten().map(|(name, _trouble)| *name)
}

impl Chaos<'_> {
    /// Makes trouble until each kind has happened, and there were enough pods.
    pub(super) fn cause_troubles(&self) -> Result<()> {
        if let Some(fault) = self.plan.fault {
            return self.break_a_rule(fault);
        }
        thread::scope(|scope| {
            let hands = [AGENTS, CONNECTIONS, CLUSTER];
            let hands: Vec<_> = hands
                .into_iter()
                .enumerate()
                .map(|(hand, troubles)| {
                    scope.spawn(move || self.or_over(self.cause_in_random_order(troubles, self.random(1000 + hand))))
                })
                .collect();
            hands.into_iter().try_for_each(ended)
        })
    }

    /// Runs each trouble in random order, round after round.
    fn cause_in_random_order(&self, troubles: &[Trouble], mut random: Rng) -> Result<()> {
        let mut turn = troubles.to_vec();
        loop {
            random.shuffle(&mut turn);
            for (name, trouble) in &turn {
                sleep(Duration::from_millis(random.u64(0..800)));
                if !self.goes_on() {
                    return Ok(());
                }
                trouble(self, &mut random).with_context(|| (*name).to_owned())?;
                self.tally.count(name);
            }
            if self.has_enough() {
                return Ok(());
            }
        }
    }

    /// Breaks a rule that weft relies on, so that an oracle has something to detect.
    fn break_a_rule(&self, fault: Fault) -> Result<()> {
        let mut random = self.random(2000);
        while !self.has_enough() && self.tally.violations().is_empty() {
            sleep(Duration::from_millis(300));
            match fault {
                Fault::Stock | Fault::Leak => {}
                Fault::LostCells => self.cluster().remove_cells()?,
                Fault::LyingFence => drop(self.cluster().run_weftctl(&["fence", "node1"])?),
                Fault::LostClaims => {
                    let claims = self.cluster().claims()?;
                    if !claims.is_empty() {
                        self.cluster().remove(&claims[random.usize(..claims.len())])?;
                    }
                }
            }
        }
        Ok(())
    }

    fn node(&self, random: &mut Rng) -> usize {
        random.usize(..self.nodes.len())
    }
}

fn kill_agent(chaos: &Chaos<'_>, random: &mut Rng) -> Result<()> {
    let index = chaos.node(random);
    lock(&chaos.nodes[index]).kill_agent();
    sleep(Duration::from_millis(random.u64(0..1500)));
    lock(&chaos.nodes[index]).start_agent()
}

fn stop_agent(chaos: &Chaos<'_>, random: &mut Rng) -> Result<()> {
    let index = chaos.node(random);
    lock(&chaos.nodes[index]).signal_agent(Signal::SIGSTOP)?;
    sleep(Duration::from_millis(random.u64(0..2500)));
    lock(&chaos.nodes[index]).signal_agent(Signal::SIGCONT)
}

/// Moves a node's clock by an hour, ahead or back: every intent and tombstone becomes old, or begins in the future.
fn move_clock(chaos: &Chaos<'_>, random: &mut Rng) -> Result<()> {
    let index = chaos.node(random);
    lock(&chaos.nodes[index]).move_clock(if random.bool() { 3600 } else { -3600 })
}

/// Drops a node's packets to or from the cluster. TCP retransmits them, so they arrive later, possibly when nobody
/// waits for them any more.
fn drop_packets(chaos: &Chaos<'_>, random: &mut Rng, way: &str, rule: &str) -> Result<()> {
    let index = chaos.node(random);
    let hook = if way == "out" { "output" } else { "input" };
    let rules = format!("table inet cut {{ chain cut {{ type filter hook {hook} priority 0; {rule}; }}; }}");
    lock(&chaos.nodes[index]).nft(&rules)?;
    sleep(Duration::from_millis(random.u64(200..3500)));
    lock(&chaos.nodes[index]).nft("delete table inet cut")
}

fn stop_cluster(chaos: &Chaos<'_>, random: &mut Rng) -> Result<()> {
    let behind = random.bool();
    let signal = |signal| match behind {
        true => chaos.cluster().signal_etcd(signal),
        false => chaos.cluster().signal(signal),
    };
    signal(Signal::SIGSTOP)?;
    sleep(Duration::from_millis(random.u64(0..3500)));
    signal(Signal::SIGCONT)
}

fn kill_cluster(chaos: &Chaos<'_>, random: &mut Rng) -> Result<()> {
    let mut cluster = chaos.cluster_mut();
    cluster.kill();
    sleep(Duration::from_millis(random.u64(0..1000)));
    cluster.start()
}

/// Restores etcd to a recent state as described in `docs/cluster-ledger.md`: no node reaches it before the ledger is
/// frozen.
fn restore(chaos: &Chaos<'_>, random: &mut Rng) -> Result<()> {
    let backup = snapshot(chaos)?;
    sleep(Duration::from_millis(random.u64(500..2500)));
    chaos.claims.during_restore(|| {
        let away = "table inet away { chain away { type filter hook output priority 0; ip daddr 192.0.2.1 drop; }; }";
        chaos.nodes.iter().try_for_each(|node| lock(node).nft(away))?;
        take_back(chaos, &backup)?;
        chaos.cluster().run_weftctl(&["freeze"])?;
        chaos.nodes.iter().try_for_each(|node| lock(node).nft("delete table inet away"))?;
        until_thawed(chaos)
    })
}

/// Restores etcd without a freeze, and nodes reach it at once. Every agent has seen more lost revisions than all of
/// them can write until one of them has frozen the ledger.
fn restore_unannounced(chaos: &Chaos<'_>, _random: &mut Rng) -> Result<()> {
    let backup = snapshot(chaos)?;
    let enough = chaos.cluster().revision()? + LOST;
    let seen = || {
        let behind = chaos.nodes.iter().map(|node| lock(node).seen()).collect::<Result<Vec<_>>>()?;
        Ok(!chaos.goes_on() || behind.into_iter().all(|seen| seen >= enough))
    };
    wait(PATIENCE, "agents that have seen more than the backup", seen)?;
    if !chaos.goes_on() {
        return Ok(());
    }
    chaos.claims.during_restore(|| {
        take_back(chaos, &backup)?;
        until_thawed(chaos)
    })
}

fn take_back(chaos: &Chaos<'_>, backup: &Path) -> Result<()> {
    let mut cluster = chaos.cluster_mut();
    cluster.kill();
    std::fs::remove_dir_all(cluster.data())?;
    std::fs::rename(backup, cluster.data())?;
    cluster.start()
}

fn until_thawed(chaos: &Chaos<'_>) -> Result<()> {
    let mut said = String::new();
    let thawed = wait(PATIENCE, "the thaw", || match chaos.cluster().run_weftctl(&["thaw"]) {
        Ok(_said) => Ok(true),
        Err(error) => {
            said = format!("{error:#}");
            Ok(false)
        }
    });
    if let Err(error) = thawed {
        chaos.tally.violation(format!("after a restore: {error:#}: {said}"));
        bail!("the ledger stays frozen\n{}", chaos.report());
    }
    Ok(())
}

/// Copies etcd's files at one instant, as a crash of the machine would leave them.
fn snapshot(chaos: &Chaos<'_>) -> Result<PathBuf> {
    let cluster = chaos.cluster();
    let backup = cluster.data().with_file_name("backup");
    drop(std::fs::remove_dir_all(&backup));
    cluster.signal_etcd(Signal::SIGSTOP)?;
    let copied = copy_tree(&cluster.data(), &backup);
    cluster.signal_etcd(Signal::SIGCONT)?;
    copied.map(|()| backup)
}

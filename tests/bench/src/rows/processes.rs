//! The processes and system calls of one call, counted by strace. Counts, unlike timings, are the same on a busy
//! machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use weft_bench::call::{Plugins, Target, Verb, run};
use weft_bench::scene::Scene;

use super::{Network, target};
use crate::contenders::{Ready, bridge_conf};
use crate::table::{Budget, Figure, Row};

/// The counts of one call, or of several.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) started: f64,
    calls: f64,
    flushes: f64,
    /// Netlink messages to the kernel.
    pub(super) messages: f64,
}

impl Counts {
    /// Adds those of another call.
    pub(super) fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.calls += other.calls;
        self.flushes += other.flushes;
        self.messages += other.messages;
    }
}

/// Counts ADD and DEL of a bridge with masquerading.
pub(super) fn measure(scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    let weft = counts(scene, &ready.weft, "bs-weft", "10.87.0.0/16")?;
    let reference = counts(scene, &ready.reference, "bs-ref", "10.88.0.0/16")?;
    let mut rows = Vec::new();
    for ((verb, weft), reference) in ["ADD", "DEL"].into_iter().zip(weft).zip(reference) {
        let what = format!("processes started by a bridge + ipMasq {verb} (reference: {})", reference.started);
        rows.push(Row::uncompared(&what, Figure::single(weft.started, ""), Some(Budget::Exactly(0.0))));
        let base = ("reference", Figure::single(reference.calls, ""));
        rows.push(Row::compared(&format!("system calls of it, {verb}"), Figure::single(weft.calls, ""), base, None));
        rows.push(Row::uncompared(&format!("flushes to disk of it, {verb}"), Figure::single(weft.flushes, ""), None));
    }
    Ok(rows)
}

fn counts(scene: &Scene, plugins: &Plugins, bridge: &str, subnet: &str) -> Result<[Counts; 2]> {
    let conf = bridge_conf(bridge, subnet, &scene.dir().join("host-local"), true).to_string();
    let network = Network { plugins, plugin: "bridge", conf };
    let target = target("pod", &scene.netns(bridge)?);
    // The first ADD on a node makes what all later ones find: tables, chains, the bridge. It is not typical.
    network.add(&target)?;
    network.del(&target)?;
    let log = scene.dir().join("strace");
    let once = |verb| traced(plugins, network.plugin, &network.conf, (verb, &target), &log).map(|(counts, _)| counts);
    Ok([once(Verb::Add)?, once(Verb::Del)?])
}

/// Runs one call under strace, and returns its counts and its output.
pub(super) fn traced(
    plugins: &Plugins,
    plugin: &str,
    conf: &str,
    (verb, target): (Verb, &Target),
    log: &Path,
) -> Result<(Counts, String)> {
    let mut command = Command::new("strace");
    plugins.prepare(&mut command, verb, target);
    // Without `-v`, strace leaves out the later messages of a long batch.
    command.args(["-f", "-qq", "-v", "-o"]).arg(log).arg(plugins.dir.join(plugin));
    let outcome = run(command, conf).context("strace (Debian: apt-get install strace)")?;
    if !outcome.status.success() {
        bail!("{} under strace failed: {} {}", verb.name(), outcome.stdout.trim(), outcome.stderr.trim());
    }
    let text = fs::read_to_string(log).context("read what strace wrote")?;
    let float = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let count = |wanted: &dyn Fn(&str) -> bool| float(calls(&text).filter(|c| wanted(c)).count());
    let counts = Counts {
        // The call itself is one.
        started: count(&|call| call.starts_with("execve") && call.ends_with("= 0")) - 1.0,
        calls: count(&|_| true),
        flushes: count(&|call| call.starts_with("fsync(") || call.starts_with("fdatasync(")),
        messages: float(messages(&text)),
    };
    Ok((counts, outcome.stdout))
}

/// Returns the system calls in an strace log, each once: `<pid> name(...) = result`. A call that was interrupted by
/// another thread's has two lines; only the second, which has the result, counts.
fn calls(log: &str) -> impl Iterator<Item = &str> {
    log.lines()
        .filter_map(|line| line.split_once(' ').map(|(_, call)| call.trim_start()))
        .filter(|call| !call.ends_with("<unfinished ...>") && !call.starts_with("+++") && !call.starts_with("---"))
        .map(|call| call.strip_prefix("<... ").unwrap_or(call))
}

/// Returns how many netlink messages a log's calls sent. A call that was interrupted has its messages in the first of its
/// lines.
fn messages(log: &str) -> usize {
    let sent = |line: &&str| {
        let call = line.split_once(' ').map(|(_, call)| call.trim_start()).unwrap_or_default();
        call.starts_with("sendto(") || call.starts_with("sendmsg(")
    };
    log.lines().filter(sent).map(|line| line.matches("nlmsg_len=").count()).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn messages_of_a_batch_count_each() {
        let log = "7 sendto(3, [[{nlmsg_len=20, nlmsg_type=0x10}, \"\"], [{nlmsg_len=52}, \"\"]], 72, 0, NULL, 0 <unfinished ...>\n\
                   8 sendto(4, [{nlmsg_len=32, nlmsg_type=RTM_NEWLINK}, {ifi_index=0}], 32, 0, NULL, 0) = 32\n\
                   7 <... sendto resumed>) = 72\n8 recvfrom(4, [{nlmsg_len=36, nlmsg_type=NLMSG_ERROR}], 8192, 0, NULL, NULL) = 36\n\
                   8 sendto(5, \"text\", 4, 0, NULL, 0) = 4\n";
        assert_eq!(messages(log), 3);
    }

    #[test]
    fn a_call_counts_once() {
        let log = "7 execve(\"/a\", ...) = 0\n7 read(0,  <unfinished ...>\n8 fsync(3) = 0\n7 <... read resumed>\"\") = 0\n\
                   8 --- SIGCHLD {} ---\n8 +++ exited with 0 +++\n7 execve(\"/b\", ...) = -1 ENOENT (No such file)\n";
        assert_eq!(calls(log).count(), 4);
        assert_eq!(calls(log).filter(|call| call.starts_with("execve") && call.ends_with("= 0")).count(), 1);
    }
}

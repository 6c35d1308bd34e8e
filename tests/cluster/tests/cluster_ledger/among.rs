//! One ADD among many claims on one real API server, beside a create of the same size that weft has no part in. Asserts the API
//! server's counts; prints times for the documentation.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use weft_cluster::control_plane::AGENT;
use weft_cluster::kube::Rest;
use weft_kit::dhcp::{Daemon, wait};
use weft_kit::sandbox;

use super::cluster::Cluster;
use super::scale::{conf, is_whole, requests, seed, sent_since};
use super::world::{Node, PATIENCE, Pod};

/// ADDs, and creates without weft, in each round of a phase.
const ADDS: u32 = 40;
/// Rounds of a phase. One collection of the API server's garbage slows a whole round.
const ROUNDS: usize = 5;
/// Among how many claims the first and the last phase are.
const FEW: u32 = 50;
/// The range, and its number of addresses. Even 50,000 claims fill 0.3 % of it, so hardly an ADD meets one of them.
const RANGE: (&str, u32) = ("10.0.0.0/8", 1 << 24);
/// Where claims are.
const CLAIMS: &str = "/apis/ipam.weft.dev/v1alpha1/addressclaims";

/// One ADD takes one write and no read, however many claims others have in its own range. The few claims are measured before
/// and after the many: an API server that has been at work for longer is not the same.
pub(crate) fn one_add(cluster: &mut Cluster) -> Result<()> {
    let many: u32 = if is_whole() { 50_000 } else { 5_000 };
    let before = requests(cluster)?;
    let node = Node::new(cluster, 1)?;
    let lists = || Ok(sent_since(&before, &requests(cluster)?).contains_key("LIST"));
    wait(PATIENCE, "the agent's first sweep", lists).with_context(|| node.log())?;
    let conf = conf(&node, RANGE.0);
    let pods = (0..ADDS).map(|index| Pod::new(&format!("pod-{index}"))).collect::<Result<Vec<_>>>()?;
    let raw = Raw::start(cluster)?;
    let mut phases = Vec::new();
    for (from, count) in [(0, FEW), (FEW, many), (0, FEW)] {
        if from == 0 {
            cluster.remove_claims()?;
        }
        seed(cluster, &node, &conf, (from..count).map(scattered))?;
        phases.push(phase(cluster, &node, (&conf, &pods), (&raw, count))?);
    }
    report(cluster, &phases)
}

/// Returns the address of the numbered claim of others: an odd factor visits every address of the range once.
fn scattered(number: u32) -> Ipv4Addr {
    let offset = number.wrapping_add(1).wrapping_mul(2_654_435_761) % RANGE.1;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + offset)
}

/// What was measured among so many claims.
struct Phase {
    count: u32,
    /// How long the API server was busy with the claims that were written into its etcd.
    busy: Duration,
    adds: Vec<Duration>,
    raws: Vec<Duration>,
    /// Calls of weft that only answer which versions it knows: what a call costs the trial itself.
    starts: Vec<Duration>,
    /// CPU time of the programs during the rounds.
    cpu: Used,
    /// How often the API server collected garbage during the rounds.
    collections: u64,
}

/// Rounds of ADDs and creates without weft by turns.
fn phase(cluster: &Cluster, node: &Node, (conf, pods): (&Value, &[Pod]), (raw, count): (&Raw, u32)) -> Result<Phase> {
    let all = usize::try_from(count)?;
    let given_back = || wait(PATIENCE, "the claims given back", || Ok(cluster.count()? == all));
    given_back()?;
    let sample = cluster.one_claim()?;
    let mut phase = Phase {
        count,
        busy: until_quiet(cluster)?,
        adds: Vec::new(),
        raws: Vec::new(),
        starts: Vec::new(),
        cpu: Vec::new(),
        collections: 0,
    };
    for _round in 0..if is_whole() { ROUNDS } else { 1 } {
        phase.round(cluster, node, (conf, pods), (raw, &sample))?;
        for number in (count..).take(pods.len()) {
            raw.api.delete(&format!("{CLAIMS}/{}", Raw::name(&sample, scattered(number))?))?;
        }
        pods.iter().try_for_each(|pod| node.ipam_del(pod, conf))?;
        given_back()?;
    }
    Ok(phase)
}

impl Phase {
    fn round(
        &mut self,
        cluster: &Cluster,
        node: &Node,
        (conf, pods): (&Value, &[Pod]),
        (raw, sample): (&Raw, &Value),
    ) -> Result<()> {
        let before = requests(cluster)?;
        let (used_before, collected) = (used(cluster, node)?, collections(cluster)?);
        for (number, pod) in (self.count..).zip(pods) {
            self.adds.push(timed(|| node.ipam_add(pod, conf))?);
            self.starts.push(timed(|| node.ipam("VERSION", pod, conf))?);
            let object = Raw::object(sample, scattered(number))?;
            self.raws.push(timed(|| raw.api.create(CLAIMS, &object))?);
        }
        let cpu = used_since(&used_before, &used(cluster, node)?);
        self.collections += collections(cluster)? - collected;
        let so_far = self.cpu.iter().map(|(_what, time)| *time).chain(std::iter::repeat(Duration::ZERO));
        self.cpu = cpu.iter().zip(so_far).map(|((what, time), so_far)| (*what, *time + so_far)).collect();
        let sent = sent_since(&before, &requests(cluster)?);
        let posts = sent.get("POST").copied().unwrap_or_default();
        let reads = sent.iter().filter(|(verb, _)| *verb != "POST").map(|(_, count)| count).sum::<u64>();
        // A taken candidate takes one more create and one read.
        let lost = posts.saturating_sub(2 * u64::from(ADDS));
        let count = self.count;
        ensure!(reads <= lost && lost <= 4, "{ADDS} ADDs and as many creates among {count} claims: {sent:?}");
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "figures for the documentation")]
fn report(cluster: &Cluster, phases: &[Phase]) -> Result<()> {
    let claim = cluster.one_claim()?;
    let size = |part: &str| Ok::<_, anyhow::Error>(STANDARD.decode(claim[part].as_str().context("base64")?)?.len());
    println!("a claim is {} bytes in etcd, with a name of {}", size("value")?, size("key")?);
    println!("medians and lower quartiles, in the order of measurement:");
    for Phase { count, busy, adds, raws, starts, cpu, collections } in phases {
        let fill = f64::from(*count) / f64::from(RANGE.1) * 100.0;
        let times = |times: &[Duration]| format!("{:.1?} and {:.1?}", of_sorted(times, 2), of_sorted(times, 4));
        let each = u32::try_from(adds.len())?;
        let cpu: Vec<String> = cpu.iter().map(|(what, time)| format!("{what} {:.1?}", *time / each)).collect();
        println!(
            "  among {count} claims ({fill:.4} % of the range), {each} times: ADD {}, create without weft {}, VERSION {}; CPU time of all three: {}; {collections} collections of the API server's garbage; it was busy for {busy:.0?} before",
            times(adds),
            times(raws),
            times(starts),
            cpu.join(", ")
        );
    }
    if let [few, many, again] = phases {
        let ratio = |many: &[Duration], few: &[Duration]| {
            let part = |part| of_sorted(many, part).as_secs_f64() / of_sorted(few, part).as_secs_f64();
            format!("{:.2} and {:.2}", part(2), part(4))
        };
        for (what, few) in [("before", few), ("after", again)] {
            let (adds, raws) = (ratio(&many.adds, &few.adds), ratio(&many.raws, &few.raws));
            let starts = ratio(&many.starts, &few.starts);
            println!(
                "  {} claims to {} {what}: ADD {adds}, create without weft {raws}, VERSION {starts}",
                many.count, few.count
            );
        }
    }
    Ok(())
}

/// Returns the time that one of so many parts of all times is below: 2 for the median, 4 for the lower quartile.
fn of_sorted(times: &[Duration], parts: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / parts).copied().unwrap_or_default()
}

/// A client that knows nothing of weft, with the agent's rights.
struct Raw {
    api: Rest,
    _kubectl: Daemon,
}

impl Raw {
    fn start(cluster: &Cluster) -> Result<Self> {
        let socket: PathBuf = sandbox::scratch().join("raw");
        drop(std::fs::remove_file(&socket));
        let kubectl = cluster.plane()?.proxy(&AGENT, &socket)?;
        Ok(Self { api: Rest::new(&socket), _kubectl: kubectl })
    }

    /// Returns the name of a claim for an address, after that of a claim in etcd.
    fn name(sample: &Value, address: Ipv4Addr) -> Result<String> {
        let key = String::from_utf8(STANDARD.decode(sample["key"].as_str().context("base64")?)?)?;
        let (domain, _hex) = key.rsplit('/').next().and_then(|name| name.rsplit_once('-')).context("a name")?;
        Ok(format!("{domain}-{:08x}", u32::from(address)))
    }

    /// Returns a claim for an address as an agent sends it, after a claim in etcd.
    fn object(sample: &Value, address: Ipv4Addr) -> Result<Value> {
        let mut object: Value = serde_json::from_slice(&STANDARD.decode(sample["value"].as_str().context("base64")?)?)?;
        let metadata = object["metadata"].as_object_mut().context("metadata")?;
        metadata.retain(|key, _value| key == "labels");
        metadata.insert("name".to_owned(), Self::name(sample, address)?.into());
        object["spec"]["address"] = address.to_string().into();
        Ok(object)
    }
}

/// Waits until API server and etcd are idle: what was written into etcd reaches the API server's cache later. Returns how long
/// that took.
fn until_quiet(cluster: &Cluster) -> Result<Duration> {
    const LOOK: Duration = Duration::from_secs(2);
    let (start, mut before, mut idle) = (Instant::now(), cluster.plane()?.cpu_times()?, 0);
    wait(PATIENCE, "an API server without work", || {
        thread::sleep(LOOK);
        let now = cluster.plane()?.cpu_times()?;
        let grown: Duration = used_since(&before, &now).iter().map(|(_what, time)| *time).sum();
        before = now;
        idle = if grown < LOOK / 10 { idle + 1 } else { 0 };
        Ok(idle == 2)
    })?;
    Ok(start.elapsed())
}

/// CPU times of programs since their start.
type Used = Vec<(&'static str, Duration)>;

fn used(cluster: &Cluster, node: &Node) -> Result<Used> {
    let mut used = cluster.plane()?.cpu_times()?;
    used.push(("agent", node.cpu_time()?));
    Ok(used)
}

/// Returns how often the API server has collected garbage.
fn collections(cluster: &Cluster) -> Result<u64> {
    let text = cluster.plane()?.kubectl(&["get", "--raw", "/metrics"], "")?;
    let line = text.lines().find_map(|line| line.strip_prefix("go_gc_duration_seconds_count "));
    line.context("a count of collections")?.trim().parse().context("a count of collections")
}

fn used_since(before: &Used, after: &Used) -> Used {
    before.iter().zip(after).map(|((what, before), (_what, after))| (*what, after.saturating_sub(*before))).collect()
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

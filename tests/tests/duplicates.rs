//! A host on the wire uses an address that the ledger allocates: a machine that weft does not know, whose kernel
//! answers for the address. Observed from outside: results, the kernel's links, what tcpdump sees on the wire, pings,
//! and the ledger.

#[path = "duplicates/no_other.rs"]
mod no_other;

use std::net::{SocketAddrV6, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::cni::{CniError, Reply, expect_ok};
use weft_kit::dhcp::{Daemon, PATIENCE, wait};
use weft_kit::netns::NetNs;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, World};
use weft_kit::{process, sandbox};

use self::no_other::{asked_for, four_conflicts, kept_address_is_not_replaced, no_carrier, pool_of_one, refused};

/// Hardware address of the impostor.
const MAC: &str = "02:00:00:00:0b:ad";

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("tcpdump"), Need::Tool("sqlite3")];
    let mut suite = Suite::new();
    suite.test("the_next_address_is_taken", &needs, next_address);
    suite.test("each_family_is_asked_for", &needs, each_family);
    suite.test("a_pool_of_one_address_leaves_nothing", &needs, pool_of_one);
    suite.test("four_conflicts_are_enough", &needs, four_conflicts);
    suite.test("an_address_that_was_asked_for_is_not_replaced", &needs, asked_for);
    suite.test("an_address_that_is_kept_is_not_replaced", &needs, kept_address_is_not_replaced);
    suite.test("switched_off_nothing_is_asked", &needs, switched_off);
    suite.test("an_add_that_is_killed_while_it_asks_leaves_nothing", &needs, killed);
    suite.test("a_flood_does_not_hold_up_an_add", &needs, flood);
    suite.test("without_a_carrier_nobody_can_be_asked", &needs, no_carrier);
    suite.test("delegates_without_neighbours_refuse", &needs, refused);
    let with_macvlan = [&needs[..], &[Need::LinkKind("macvlan")]].concat();
    suite.test("macvlan", &with_macvlan, || on_a_parent(&json!({ "type": "macvlan", "master": "seg0" }), "seg1"));
    suite.test("host_device", &needs, || on_a_parent(&json!({ "type": "host-device", "device": "seg0" }), "seg1"));
    let with_vlan = [&needs[..], &[Need::LinkKindOrVm("vlan")]].concat();
    suite.test("vlan", &with_vlan, || on_a_parent(&json!({ "type": "vlan", "master": "seg0", "vlanId": 7 }), "seg1.7"));
    suite.run()
}

/// A bridge of the host with a machine behind it whose addresses lie in the network's ranges.
struct Segment {
    impostor: NetNs,
}

impl Segment {
    fn new(world: &World, addresses: &[&str]) -> Result<Self> {
        let impostor = NetNs::new("impostor")?;
        let host = world.host();
        host.line("ip link add dup0 type bridge")?;
        host.line("ip link set dup0 up")?;
        host.line(&format!("ip link add port0 type veth peer name lan0 address {MAC} netns {}", impostor.name()))?;
        host.line("ip link set port0 master dup0 up")?;
        impostor.line("ip link set lan0 up")?;
        for address in addresses {
            impostor.line(&format!("ip address add {address} dev lan0"))?;
        }
        Ok(Self { impostor })
    }

    fn goes(&self) -> Result<()> {
        self.impostor.line("ip link set lan0 down").map(drop)
    }
}

fn conf(ranges: &Value) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "dup", "type": "weft", "duplicates": { "detect": true },
            "delegate": { "type": "bridge", "bridge": "dup0" }, "ipam": { "type": "host-local", "ranges": ranges } })
}

fn v4(first: &str, last: &str) -> Value {
    json!([{ "subnet": "10.64.0.0/24", "rangeStart": first, "rangeEnd": last }])
}

fn v6(first: &str, last: &str) -> Value {
    json!([{ "subnet": "fd64::/64", "rangeStart": first, "rangeEnd": last }])
}

/// Returns the addresses of a result, without lengths.
fn addresses(reply: &Reply) -> Result<Vec<String>> {
    let result = reply.result()?;
    let ips = result["ips"].as_array().context("ips")?.iter();
    let text = |ip: &Value| Some(ip["address"].as_str()?.split('/').next()?.to_owned());
    Ok(ips.filter_map(text).collect())
}

fn add(world: &mut World, container: &str, conf: &Value) -> Result<Vec<String>> {
    let reply = world.call("ADD", &Attach::eth0(container), conf)?;
    addresses(&reply).with_context(|| format!("ADD of {container}: {}", reply.stderr))
}

fn refusal(world: &mut World, container: &str, conf: &Value) -> Result<CniError> {
    let error = world.call("ADD", &Attach::eth0(container), conf)?.error()?;
    ensure!(links(world, container)?.is_empty(), "left in the container: {:?}", links(world, container)?);
    Ok(error)
}

/// Returns the names of a container's links, except its loopback.
fn links(world: &mut World, container: &str) -> Result<Vec<String>> {
    let text = world.container(container)?.line("ip -j link show")?.text();
    let links: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    Ok(names.filter(|name| *name != "lo").map(str::to_owned).collect())
}

/// Returns the addresses in conflict, each with the MAC address that answers for it.
fn marks(world: &World) -> Result<Vec<(String, String)>> {
    let listed = world.weftctl(&["ledger", "ls"])?;
    let rows = listed.as_array().context("a list")?.iter().filter(|row| row["state"] == "conflict");
    let text = |row: &Value, key: &str| row[key].as_str().map(str::to_owned).context("a text");
    rows.map(|row| Ok((text(row, "address")?, text(row, "owner")?))).collect()
}

/// Checks that nothing of attachments is left: no journal entry, and no veth on the host but the impostor's.
fn nothing_left(world: &World) -> Result<()> {
    let store = world.state().join("weft.db").display().to_string();
    let rows = process::run(&process::Place::default(), &["sqlite3", &store, "SELECT count(*) FROM journal"])?.text();
    let veths = world.host().line("ip -br link show type veth")?.text();
    let left: Vec<&str> =
        veths.lines().filter(|line| !line.starts_with("port0@") && !line.starts_with("seg")).collect();
    ensure!(rows.trim() == "0" && left.is_empty(), "{rows} entries, links {left:?}");
    let sound = world.weftctl(&["ledger", "repair"])?;
    ensure!(sound == json!({ "found": [], "left": [] }), "{sound}");
    Ok(())
}

/// A capture of a link's packets.
struct Capture {
    daemon: Daemon,
}

impl Capture {
    fn start(world: &World, netns: &NetNs, link: &str) -> Result<Self> {
        let log = world.scratch().join(format!("{}.pcap.txt", netns.name()));
        let argv = ["tcpdump", "-l", "-n", "-e", "--immediate-mode", "-i", link, "arp or icmp6 or vlan"];
        let daemon = Daemon::start(&netns.place(), &argv.map(str::to_owned), &log)?;
        wait(PATIENCE, "tcpdump", || Ok(daemon.log().contains("listening on"))).with_context(|| daemon.log())?;
        Ok(Self { daemon })
    }

    /// Returns how many lines have all of these words.
    fn count(&self, words: &[&str]) -> usize {
        let seen = self.daemon.log();
        seen.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    fn wait_for(&self, words: &[&str]) -> Result<()> {
        wait(PATIENCE, "a packet", || Ok(self.count(words) > 0))
            .with_context(|| format!("{words:?}\n{}", self.daemon.log()))
    }
}

fn next_address() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let segment = Segment::new(&world, &["10.64.0.2/24", "10.64.0.4/24"])?;
    let capture = Capture::start(&world, &segment.impostor, "lan0")?;
    let conf = conf(&json!([v4("10.64.0.2", "10.64.0.5")]));
    let reply = world.call("ADD", &Attach::eth0("one"), &conf)?;
    ensure!(addresses(&reply)? == ["10.64.0.3"], "{:?}", addresses(&reply)?);
    // The log says which address, who has it, and where.
    for word in ["10.64.0.2", MAC, "\"dup\""] {
        ensure!(reply.stderr.contains(word), "{word} is not in the log: {}", reply.stderr);
    }
    ensure!(marks(&world)? == [("10.64.0.2".to_owned(), MAC.to_owned())], "{:?}", marks(&world)?);
    // weft does not announce addresses that it does not use; it probes an allocated address three times, and announces
    // it.
    capture.wait_for(&["who-has 10.64.0.3", "tell 10.64.0.3"])?;
    ensure!(capture.count(&["who-has 10.64.0.2 ", "tell 0.0.0.0"]) == 1, "{}", capture.daemon.log());
    ensure!(capture.count(&["who-has 10.64.0.3 ", "tell 0.0.0.0"]) == 3, "{}", capture.daemon.log());
    ensure!(capture.count(&["tell 10.64.0.2,"]) == 0, "announced another's address: {}", capture.daemon.log());
    ensure!(world.reaches("one", "10.64.0.2")?, "the address that is not ours is reached");
    // weft does not try a marked address again, but it does try one that is not known yet.
    ensure!(add(&mut world, "two", &conf)? == ["10.64.0.5"], "the second pod");
    ensure!(capture.count(&["who-has 10.64.0.2 ", "tell 0.0.0.0"]) == 1, "{}", capture.daemon.log());
    ensure!(marks(&world)?.len() == 2, "{:?}", marks(&world)?);
    expect_ok(&world.call("CHECK", &Attach::eth0("one"), &with_result(&conf, &reply)?)?, "CHECK")?;
    for container in ["one", "two"] {
        expect_ok(&world.call("DEL", &Attach::eth0(container), &conf)?, "DEL")?;
    }
    nothing_left(&world)?;
    // An operator releases the mark.
    segment.goes()?;
    world.weftctl(&["ledger", "release", "dup", "10.64.0.2"])?;
    ensure!(add(&mut world, "three", &conf)? == ["10.64.0.2"], "the freed address");
    // Or it expires.
    let store = world.state().join("weft.db").display().to_string();
    let past = "UPDATE claims SET since = since - 3601, until = until - 3601 WHERE state = 3";
    process::run(&process::Place::default(), &["sqlite3", &store, past])?;
    let rest: Vec<String> =
        ["four", "five", "six"].iter().map(|name| add(&mut world, name, &conf)).collect::<Result<Vec<_>>>()?.concat();
    ensure!(rest.contains(&"10.64.0.4".to_owned()) && marks(&world)?.is_empty(), "{rest:?}");
    Ok(())
}

fn with_result(conf: &Value, reply: &Reply) -> Result<Value> {
    let mut conf = conf.clone();
    conf["prevResult"] = reply.result()?;
    Ok(conf)
}

/// One of two addresses is in use by another host: weft replaces that one, and allocates the other again.
fn each_family() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let segment = Segment::new(&world, &["fd64::2/64 nodad"])?;
    let capture = Capture::start(&world, &segment.impostor, "lan0")?;
    let conf = conf(&json!([v4("10.64.0.2", "10.64.0.9"), v6("fd64::2", "fd64::9")]));
    let given = add(&mut world, "one", &conf)?;
    ensure!(given.get(1).map(String::as_str) == Some("fd64::3"), "{given:?}");
    ensure!(marks(&world)? == [("fd64::2".to_owned(), MAC.to_owned())], "{:?}", marks(&world)?);
    capture.wait_for(&["neighbor advertisement", "fd64::3"])?;
    ensure!(capture.count(&[":: > ff02::1:ff00:3", "who has fd64::3"]) == 3, "{}", capture.daemon.log());
    let told = (capture.count(&["tgt is fd64::2"]), capture.count(&["tgt is fd64::2", MAC]));
    ensure!(told.0 == told.1 && told.0 > 0, "announced another's address: {}", capture.daemon.log());
    ensure!(world.reaches("one", "fd64::2")?, "the address that is not ours is reached");
    segment.impostor.line("ip address add fd64::100/64 dev lan0 nodad")?;
    ensure!(segment.impostor.run(&["ping", "-n", "-c", "3", "-w", "5", "fd64::3"]).is_ok(), "the pod answers");
    expect_ok(&world.call("DEL", &Attach::eth0("one"), &conf)?, "DEL")?;
    nothing_left(&world)
}

fn switched_off() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let segment = Segment::new(&world, &["10.64.0.2/24", "fd64::2/64 nodad"])?;
    let capture = Capture::start(&world, &segment.impostor, "lan0")?;
    let on = conf(&json!([v4("10.64.0.2", "10.64.0.9"), v6("fd64::2", "fd64::9")]));
    let mut off = on.clone();
    off["duplicates"]["detect"] = json!(false);
    let mut without = on.clone();
    without.as_object_mut().context("an object")?.remove("duplicates");
    for conf in [&off, &without] {
        // Now both have the address, which detection would prevent.
        let given = add(&mut world, "one", conf)?;
        capture.wait_for(&["who-has", &format!("tell {}", given[0])])?;
        expect_ok(&world.call("DEL", &Attach::eth0("one"), conf)?, "DEL")?;
    }
    let probes = capture.count(&["tell 0.0.0.0"]) + capture.count(&[":: > ff02::1:ff", "who has fd64::"]);
    ensure!(probes == 0, "{probes} probes: {}", capture.daemon.log());
    ensure!(marks(&world)?.is_empty(), "{:?}", marks(&world)?);
    add(&mut world, "one", &on)?;
    capture.wait_for(&["tell 0.0.0.0"])?;
    capture.wait_for(&[":: > ff02::1:ff", "who has fd64::"])
}

fn killed() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let segment = Segment::new(&world, &[])?;
    let capture = Capture::start(&world, &segment.impostor, "lan0")?;
    let mut conf = conf(&json!([v4("10.64.0.2", "10.64.0.9")]));
    conf["duplicates"]["waitMs"] = json!(5000);
    let mut call = world.prepare("ADD", &Attach::eth0("one"), &conf)?;
    call.limit = Duration::from_secs(2);
    ensure!(world.run(&call, "weft").is_err(), "it was to be killed");
    capture.wait_for(&["who-has 10.64.0.2 ", "tell 0.0.0.0"])?;
    let given = world.container("one")?.line("ip -br -4 address show scope global")?.text();
    ensure!(given.trim().is_empty(), "it has an address before anybody could answer: {given}");
    expect_ok(&world.call("DEL", &Attach::eth0("one"), &conf)?, "DEL")?;
    ensure!(links(&mut world, "one")?.is_empty() && world.claims()?.is_empty(), "{:?}", world.claims()?);
    nothing_left(&world)
}

/// A neighbour sends packets as fast as it can: weft reads them, and still stops on time.
fn flood() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let segment = Segment::new(&world, &["fd64::2/64 nodad"])?;
    let links: Value = serde_json::from_str(&segment.impostor.line("ip -j link show lan0")?.text())?;
    let index = u32::try_from(links[0]["ifindex"].as_u64().context("an index")?)?;
    let done = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&done);
    let sender = segment.impostor.inside(move || {
        let socket = UdpSocket::bind("[::]:0")?;
        let all = SocketAddrV6::new("ff02::1".parse()?, 9, 0, index);
        let mut sent = 0_u64;
        while !ends.load(Ordering::Relaxed) {
            sent += u64::from(socket.send_to(&[0x5a; 64], all).is_ok());
        }
        Ok(sent)
    })?;
    thread::sleep(Duration::from_millis(200));
    let given = add(&mut world, "one", &conf(&json!([v6("fd64::2", "fd64::9")])));
    done.store(true, Ordering::Relaxed);
    let sent = sender.join().map_err(|_panic| anyhow::anyhow!("the sender panicked"))??;
    ensure!(sent > 1000, "no flood: {sent} packets");
    ensure!(given? == ["fd64::3"], "the answer is found among {sent} packets");
    Ok(())
}

/// The delegate's link is on a link of the host, and the impostor is at that link's other end.
fn on_a_parent(delegate: &Value, behind: &str) -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let impostor = NetNs::new("impostor")?;
    world.host().line(&format!("ip link add seg0 type veth peer name seg1 address {MAC} netns {}", impostor.name()))?;
    world.host().line("ip link set seg0 up")?;
    impostor.line("ip link set seg1 up")?;
    if behind != "seg1" {
        impostor.line(&format!("ip link add link seg1 name {behind} type vlan id 7"))?;
        impostor.line(&format!("ip link set {behind} up"))?;
    }
    for address in ["10.64.0.2/24", "10.64.0.100/24", "fd64::2/64", "fd64::100/64"] {
        impostor.line(&format!("ip address add {address} dev {behind}"))?;
    }
    let capture = Capture::start(&world, &impostor, "seg1")?;
    let mut conf = conf(&json!([v4("10.64.0.2", "10.64.0.9"), v6("fd64::2", "fd64::9")]));
    conf["delegate"] = delegate.clone();
    let given = add(&mut world, "one", &conf)?;
    ensure!(given == ["10.64.0.3", "fd64::3"], "{given:?}");
    let marked: Vec<String> = marks(&world)?.into_iter().map(|(address, _mac)| address).collect();
    ensure!(marked == ["10.64.0.2", "fd64::2"], "{marked:?}");
    // Neighbours learn the address whichever way the delegate announces it.
    capture.wait_for(&["who-has 10.64.0.3", "tell 10.64.0.3"])?;
    capture.wait_for(&["neighbor advertisement", "fd64::3"])?;
    for to in ["10.64.0.100", "10.64.0.2", "fd64::100"] {
        ensure!(world.reaches("one", to)?, "{to} is not reached");
    }
    expect_ok(&world.call("DEL", &Attach::eth0("one"), &conf)?, "DEL")?;
    nothing_left(&world)
}

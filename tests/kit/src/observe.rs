//! Observes the kernel's state of a namespace through `ip`, `bridge` and `nft`, in a comparable form.
//!
//! Lists become objects keyed by the identity of an entry; counters, indexes and timers are removed; link indexes
//! become names. Not here: replacing random names (`names`).

mod tables;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use self::tables::{ruleset, shaping, sysctls, vlans};
use crate::names::{Names, is_random_veth};
use crate::netns::NetNs;
use crate::world::World;

/// Fields that change on their own or contain an index.
const NOISE: &[&str] = &[
    "ifindex",
    "link_index",
    "link_netnsid",
    "link",
    "address",
    "addr_info",
    "num_tx_queues",
    "num_rx_queues",
    "bridge_id",
    "root_id",
    "root_port",
    "root_path_cost",
    "topology_change",
    "topology_change_detected",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
    "id",
    "no",
    "designated_port",
    "designated_cost",
    "designated_bridge",
    "designated_root",
    "hold_timer",
    "message_age_timer",
    "forward_delay_timer",
    "topology_change_ack",
    "config_pending",
    "permaddr",
    "broadcast",
    "ifname",
    "master",
    "ifalias",
    "perm_address",
];

/// Flags that depend on a carrier, which a bridge without ports loses at an arbitrary time.
const CARRIER: &[&str] = &["NO-CARRIER", "LOWER_UP", "linkdown"];

/// A link as `ip -d -j address` has it.
#[derive(Debug, Clone)]
struct Link {
    /// Name of its namespace.
    side: String,
    raw: Value,
}

impl Link {
    fn text(&self, field: &str) -> &str {
        self.raw.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    fn number(&self, field: &str) -> Option<u64> {
        self.raw.get(field).and_then(Value::as_u64)
    }

    fn name(&self) -> &str {
        self.text("ifname")
    }

    fn kind(&self) -> &str {
        self.raw.pointer("/linkinfo/info_kind").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Returns the state of a world's host and containers. Learns names, but does not replace them yet.
///
/// # Errors
/// A tool fails or does not print JSON.
pub fn world_state(world: &World, names: &mut Names) -> Result<Value> {
    let links = learn_names(world, names)?;
    let mut state = Map::new();
    state.insert("host".to_owned(), netns(world.host(), "host", &links)?);
    for (name, container) in world.containers() {
        state.insert(name.clone(), netns(container, name, &links)?);
    }
    Ok(Value::Object(state))
}

/// Waits until the kernel has settled: no address is tentative any more, and pairs whose ends are both up have a
/// carrier (which the kernel reports up to a second late).
///
/// # Errors
/// A tool fails, or an address is still tentative after ten seconds.
pub fn wait_until_settled(world: &World) -> Result<()> {
    for round in 0..100 {
        let links = all_links(world)?;
        let tentative = links.iter().any(|link| link.raw.to_string().contains("\"tentative\":true"));
        let late = round < 30 && links.iter().any(|link| carrier_is_late(link, &links));
        if !tentative && !late {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    anyhow::bail!("an address is still tentative after ten seconds")
}

/// Returns whether a veth is up, but its operational state does not reflect its other end's yet.
fn carrier_is_late(link: &Link, links: &[Link]) -> bool {
    let up = |link: &Link| {
        let flags = link.raw.get("flags").and_then(Value::as_array);
        flags.into_iter().flatten().any(|flag| flag == "UP")
    };
    let (own, other_end) = (link.number("ifindex"), link.number("link_index"));
    let peer =
        |other: &&Link| other.kind() == "veth" && other.number("ifindex") == other_end && other.side != link.side;
    let same_side = |other: &&Link| {
        let index = link.raw.get("link").and_then(Value::as_str);
        other.kind() == "veth" && other.side == link.side && Some(other.name()) == index
    };
    if link.kind() != "veth" || !up(link) {
        return false;
    }
    // Indexes are local to a namespace: several links may look like the other end.
    let ends: Vec<&Link> = links.iter().filter(|other| peer(other) || same_side(other)).collect();
    if ends.iter().any(|other| up(other)) {
        return link.text("operstate") != "UP";
    }
    // The kernel reports "lower layer" if the two have different indexes.
    !ends.is_empty() && link.text("operstate") == "DOWN" && own != other_end
}

/// Lists all links and learns their random names and MAC addresses.
///
/// # Errors
/// A tool fails.
pub fn learn_links(world: &World, names: &mut Names) -> Result<()> {
    learn_names(world, names).map(drop)
}

fn learn_names(world: &World, names: &mut Names) -> Result<Vec<Link>> {
    let links = all_links(world)?;
    let mut by_age: Vec<&Link> = links.iter().filter(|link| link.side == "host").collect();
    by_age.sort_by_key(|link| link.number("ifindex"));
    by_age.iter().for_each(|link| names.learn_link(link.name()));
    // A bridge may have the MAC address of a port, which counts as the port's.
    let (bridges, others): (Vec<&Link>, Vec<&Link>) = links.iter().partition(|link| link.kind() == "bridge");
    for link in others.into_iter().chain(bridges) {
        let mac = link.text("address");
        if mac != "00:00:00:00:00:00" && mac.matches(':').count() == 5 {
            names.set_symbol(mac, &format!("mac({}:{})", link.side, names.replace_names(link.name())));
        }
    }
    Ok(links)
}

fn all_links(world: &World) -> Result<Vec<Link>> {
    let mut links = side_links(world.host(), "host")?;
    for (name, container) in world.containers() {
        links.extend(side_links(container, name)?);
    }
    Ok(links)
}

fn side_links(netns: &NetNs, side: &str) -> Result<Vec<Link>> {
    let listed = json_of(netns, &["ip", "-d", "-j", "address"])?;
    let entries = listed.as_array().cloned().unwrap_or_default();
    Ok(entries.into_iter().map(|raw| Link { side: side.to_owned(), raw }).collect())
}

/// Runs a tool that prints JSON; no output at all is an empty list.
fn json_of(netns: &NetNs, argv: &[&str]) -> Result<Value> {
    let output = netns.run(argv)?;
    if output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(json!([]));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("output of {}", argv.join(" ")))
}

fn netns(netns: &NetNs, side: &str, links: &[Link]) -> Result<Value> {
    let mut state = Map::new();
    let own: Vec<&Link> = links.iter().filter(|link| link.side == side).collect();
    state.insert("links".to_owned(), own.iter().map(|link| (link.name().to_owned(), shape(link, links))).collect());
    state.insert("addresses".to_owned(), Value::Object(own.iter().flat_map(|link| addresses(link)).collect()));
    let mut routes = Map::new();
    for family in ["-4", "-6"] {
        for route in list(netns, &["ip", family, "-d", "-j", "route", "show", "table", "all"])? {
            routes.insert(route_key(family, route), Value::Bool(true));
        }
    }
    state.insert("routes".to_owned(), Value::Object(routes));
    let mut rules = Map::new();
    for family in ["-4", "-6"] {
        for rule in list(netns, &["ip", family, "-j", "rule", "show"])? {
            rules.insert(format!("{family} {rule}"), Value::Bool(true));
        }
    }
    state.insert("rules".to_owned(), Value::Object(rules));
    state.insert("shaping".to_owned(), shaping(netns)?);
    state.insert("vlans".to_owned(), vlans(netns)?);
    state.insert("sysctls".to_owned(), sysctls(netns)?);
    state.insert("nft".to_owned(), ruleset(netns)?);
    Ok(Value::Object(state))
}

fn list(netns: &NetNs, argv: &[&str]) -> Result<Vec<Value>> {
    Ok(json_of(netns, argv)?.as_array().cloned().unwrap_or_default())
}

/// Returns a link without noise, and with names for its relations.
fn shape(link: &Link, links: &[Link]) -> Value {
    let mut out = strip(&link.raw).as_object().cloned().unwrap_or_default();
    if let Some(Value::Array(flags)) = out.get_mut("flags") {
        flags.retain(|flag| !CARRIER.contains(&flag.as_str().unwrap_or_default()));
        flags.sort_by_key(ToString::to_string);
    }
    if link.kind() == "bridge" {
        out.remove("operstate");
    }
    // The kernel's text depends on whether both ends happen to have the same index in their namespaces.
    if link.text("operstate") == "LOWERLAYERDOWN" {
        out.insert("operstate".to_owned(), Value::String("DOWN".to_owned()));
    }
    out.insert("mac".to_owned(), Value::String(mac_of(link, links)));
    if let Some(master) = link.raw.get("master") {
        out.insert("master".to_owned(), master.clone());
    }
    if let Some(relative) = relative(link, links) {
        out.insert("relative".to_owned(), Value::String(relative));
    }
    Value::Object(out)
}

/// Returns the MAC address of a link. A bridge with one of its ports' addresses is marked as such, because the port is
/// arbitrary.
fn mac_of(link: &Link, links: &[Link]) -> String {
    let mac = link.text("address");
    let port = |other: &&Link| other.side == link.side && other.text("master") == link.name();
    let borrowed = link.kind() == "bridge" && links.iter().filter(port).any(|other| other.text("address") == mac);
    if borrowed { "mac(of a port)".to_owned() } else { mac.to_owned() }
}

/// Returns the other end of a veth or the parent of a macvlan: the link whose index this one names.
fn relative(link: &Link, links: &[Link]) -> Option<String> {
    if let Some(name) = link.raw.get("link").and_then(Value::as_str) {
        return Some(format!("{}:{name}", link.side));
    }
    let index = link.number("link_index")?;
    let mutual = |other: &&Link| {
        other.number("ifindex") == Some(index)
            && other.side != link.side
            && other.kind() == link.kind()
            && other.number("link_index") == link.number("ifindex")
    };
    let parent = |other: &&Link| other.number("ifindex") == Some(index) && other.side == "host";
    let found = links.iter().find(mutual).or_else(|| links.iter().find(parent));
    Some(found.map_or_else(|| "elsewhere".to_owned(), |other| format!("{}:{}", other.side, other.name())))
}

/// Returns a document without its noise fields.
fn strip(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(key, _)| !NOISE.contains(&key.as_str()));
            Value::Object(kept.map(|(key, item)| (key.clone(), strip(item))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(strip).collect()),
        other => other.clone(),
    }
}

/// Returns the addresses of a link, keyed by link and address.
fn addresses(link: &Link) -> Vec<(String, Value)> {
    let listed = link.raw.get("addr_info").and_then(Value::as_array).cloned().unwrap_or_default();
    listed
        .into_iter()
        .map(|mut address| {
            let key = format!(
                "{} {}/{}",
                link.name(),
                address.get("local").and_then(Value::as_str).unwrap_or_default(),
                address.get("prefixlen").unwrap_or(&Value::Null)
            );
            if let Some(fields) = address.as_object_mut() {
                fields.remove("local");
                fields.remove("prefixlen");
            }
            (key, address)
        })
        .collect()
}

/// Returns a route as one line of canonical text.
fn route_key(family: &str, mut route: Value) -> String {
    if let Some(flags) = route.get_mut("flags").and_then(Value::as_array_mut) {
        flags.retain(|flag| !CARRIER.contains(&flag.as_str().unwrap_or_default()));
        flags.sort_by_key(ToString::to_string);
    }
    let fields: BTreeMap<String, Value> = route.as_object().cloned().unwrap_or_default().into_iter().collect();
    let words: Vec<String> = fields.iter().map(|(key, value)| format!("{key}={}", plain_text(value))).collect();
    format!("{family} {}", words.join(" "))
}

fn plain_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Marks the MAC address of a bridge in a CNI result if it is one of its ports', like `world`.
///
/// # Errors
/// A tool fails.
pub fn mark_borrowed(world: &World, result: &mut Value) -> Result<()> {
    let links = side_links(world.host(), "host")?;
    let interfaces = result.get_mut("interfaces").and_then(Value::as_array_mut);
    for interface in interfaces.into_iter().flatten() {
        let name = interface.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let inside = interface.get("sandbox").is_some();
        let Some(link) = links.iter().find(|link| link.name() == name && link.kind() == "bridge") else { continue };
        let port = |other: &&Link| other.text("master") == name;
        let borrowed = |mac: &str| links.iter().filter(port).any(|other| other.text("address") == mac);
        if let Some(mac) = interface.get("mac").and_then(Value::as_str).map(str::to_owned)
            && !inside
            && borrowed(&mac)
            && borrowed(link.text("address"))
        {
            interface["mac"] = Value::String("mac(of a port)".to_owned());
        }
    }
    Ok(())
}

/// Returns host links with random names: an attachment makes them, and DEL must remove them.
#[must_use]
pub fn random_links(state: &Value) -> Vec<String> {
    let links = state.pointer("/host/links").and_then(Value::as_object);
    links.into_iter().flatten().map(|(name, _)| name.clone()).filter(|name| is_random_veth(name)).collect()
}

//! No other address may be tried: the ADD fails, and nothing is left.

use anyhow::{Result, ensure};
use serde_json::json;
use weft_kit::cni::expect_ok;
use weft_kit::world::{Attach, World};

use super::{MAC, Segment, add, addresses, conf, marks, nothing_left, refusal, v4, v6};

pub(super) fn pool_of_one() -> Result<()> {
    for (ranges, address) in
        [(json!([v4("10.64.0.2", "10.64.0.2")]), "10.64.0.2"), (json!([v6("fd64::2", "fd64::2")]), "fd64::2")]
    {
        let (_installation, mut world) = World::installed()?;
        let plain = if address.contains(':') { "fd64::2/64 nodad" } else { "10.64.0.2/24" };
        let segment = Segment::new(&world, &[plain])?;
        let conf = conf(&ranges);
        let error = refusal(&mut world, "one", &conf)?;
        let text = format!("{MAC} answers for {address}");
        ensure!(error.code == 11 && error.msg.contains(&text), "{} {}; {}", error.code, error.msg, error.details);
        nothing_left(&world)?;
        ensure!(marks(&world)? == [(address.to_owned(), MAC.to_owned())], "{:?}", marks(&world)?);
        segment.goes()?;
        world.weftctl(&["ledger", "release", "dup", address])?;
        ensure!(add(&mut world, "one", &conf)? == [address], "the next try");
    }
    Ok(())
}

pub(super) fn four_conflicts() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let all: Vec<String> = (2..=9).map(|last| format!("10.64.0.{last}/24")).collect();
    let _segment = Segment::new(&world, &all.iter().map(String::as_str).collect::<Vec<_>>())?;
    let error = refusal(&mut world, "one", &conf(&json!([v4("10.64.0.2", "10.64.0.9")])))?;
    let named = |last: u8| error.msg.contains(&format!("{MAC} answers for 10.64.0.{last}"));
    ensure!(error.code == 11 && (2..=5).all(named) && !named(6), "{} {}", error.code, error.msg);
    ensure!(marks(&world)?.len() == 4, "{:?}", marks(&world)?);
    nothing_left(&world)
}

pub(super) fn asked_for() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let segment = Segment::new(&world, &["10.64.0.7/24"])?;
    let mut by_runtime = conf(&json!([v4("10.64.0.2", "10.64.0.9")]));
    by_runtime["runtimeConfig"] = json!({ "ips": ["10.64.0.7/24"] });
    let mut by_name = by_runtime.clone();
    by_name["ipam"] = json!({ "type": "static", "addresses": [{ "address": "10.64.0.7/24" }] });
    by_name["runtimeConfig"] = json!({});
    for conf in [&by_runtime, &by_name] {
        let error = refusal(&mut world, "one", conf)?;
        let text = format!("{MAC} answers for 10.64.0.7");
        ensure!(error.code == 102 && error.msg.contains(&text), "{} {}", error.code, error.msg);
        nothing_left(&world)?;
        ensure!(world.claims()?.is_empty(), "marked: {:?}", world.claims()?);
    }
    // It is not marked, so the next attempt probes it again.
    segment.goes()?;
    for conf in [&by_runtime, &by_name] {
        ensure!(add(&mut world, "one", conf)? == ["10.64.0.7"], "once it is free");
        expect_ok(&world.call("DEL", &Attach::eth0("one"), conf)?, "DEL")?;
    }
    Ok(())
}

/// A pod's first address may be replaced; one that was kept for it may not.
pub(super) fn kept_address_is_not_replaced() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let segment = Segment::new(&world, &["10.64.0.2/24"])?;
    let mut conf = conf(&json!([v4("10.64.0.2", "10.64.0.9")]));
    conf["ipam"]["release"] = json!("keep");
    let pod = |container| Attach {
        args: Some("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0"),
        ..Attach::eth0(container)
    };
    let first = world.call("ADD", &pod("one"), &conf)?;
    ensure!(addresses(&first)? == ["10.64.0.3"], "{:?}", addresses(&first)?);
    expect_ok(&world.call("DEL", &pod("one"), &conf)?, "DEL")?;
    segment.impostor.line("ip address add 10.64.0.3/24 dev lan0")?;
    let error = world.call("ADD", &pod("two"), &conf)?.error()?;
    ensure!(error.code == 102 && error.msg.contains("10.64.0.3"), "{} {}", error.code, error.msg);
    segment.impostor.line("ip address del 10.64.0.3/24 dev lan0")?;
    let again = world.call("ADD", &pod("two"), &conf)?;
    ensure!(addresses(&again)? == ["10.64.0.3"], "{:?}", addresses(&again)?);
    Ok(())
}

pub(super) fn no_carrier() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    world.host().line("ip link add seg0 type veth peer name seg1")?;
    let mut conf = conf(&json!([v4("10.64.0.2", "10.64.0.9")]));
    conf["delegate"] = json!({ "type": "host-device", "device": "seg0" });
    let error = refusal(&mut world, "one", &conf)?;
    ensure!(error.code == 11 && error.msg.contains("no carrier"), "{} {}", error.code, error.msg);
    ensure!(world.host().line("ip link show seg0").is_ok() && world.claims()?.is_empty(), "not undone");
    Ok(())
}

pub(super) fn refused() -> Result<()> {
    let (_installation, mut world) = World::installed()?;
    let ranges = json!([v4("10.64.0.2", "10.64.0.9")]);
    for (kind, why) in [
        ("ptp", "connects only to its host"),
        ("dummy", "has no neighbours"),
        ("tap", "does not run yet"),
        ("ipvlan", "use macvlan"),
    ] {
        let mut conf = conf(&ranges);
        conf["delegate"] = json!({ "type": kind, "master": "up0" });
        if kind != "ipvlan" {
            conf["delegate"] = json!({ "type": kind });
        }
        let error = refusal(&mut world, "one", &conf)?;
        ensure!(error.code == 7 && error.msg.contains(why), "{kind}: {} {}", error.code, error.msg);
        expect_ok(&world.call("DEL", &Attach::eth0("one"), &conf)?, "DEL")?;
    }
    let mut dhcp = conf(&ranges);
    dhcp["ipam"] = json!({ "type": "dhcp" });
    let error = refusal(&mut world, "one", &dhcp)?;
    ensure!(
        error.code == 7 && error.msg.contains("a policy does not decide its addresses"),
        "{} {}",
        error.code,
        error.msg
    );
    // A stock plugin's configuration has the key in `ipam`.
    let mut alone = json!({ "cniVersion": "1.1.0", "name": "dup", "type": "host-local",
                            "ipam": { "type": "host-local", "ranges": ranges, "duplicates": { "detect": true } } });
    let error = refusal(&mut world, "one", &alone)?;
    ensure!(
        error.code == 7 && error.msg.contains("ipam.duplicates") && error.msg.contains("another plugin"),
        "{}",
        error.msg
    );
    alone["ipam"]["duplicates"] = json!({ "detekt": true });
    let error = refusal(&mut world, "one", &alone)?;
    ensure!(error.code == 7 && error.msg.contains("\"detekt\""), "{}", error.msg);
    let mut slow = conf(&ranges);
    slow["duplicates"]["waitMs"] = json!(60_000);
    let error = refusal(&mut world, "one", &slow)?;
    ensure!(error.code == 7 && error.msg.contains("30 to 5000"), "{}", error.msg);
    Ok(())
}

//! What servers offer, and how weft applies it: options, renewal, refusal, both families.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::{self, PATIENCE, wait};
use weft_kit::process;
use weft_kit::world::Attach;

use super::lan::{Lan, ONE, QUICK, RANGE, RANGE6, address};

/// Runs ADD, traffic, CHECK and two DELs; the server sees each of them.
pub(super) fn lease_lifecycle(lan: &Lan, prefix: &str) -> Result<()> {
    let result = lan.add("a")?;
    let own = address(&result)?;
    ensure!(own.starts_with(prefix), "{result}");
    ensure!(
        result.pointer("/ips/0/address").and_then(Value::as_str).is_some_and(|text| text.ends_with("/24")),
        "{result}"
    );
    ensure!(result.pointer("/ips/0/gateway") == Some(&json!("192.168.1.1")), "{result}");
    ensure!(result.pointer("/routes") == Some(&json!([{ "dst": "0.0.0.0/0", "gw": "192.168.1.1" }])), "{result}");
    ensure!(result.pointer("/dns/nameservers") == Some(&json!(["192.168.1.53"])), "{result}");
    ensure!(result.pointer("/dns/domain") == Some(&json!("lan.example")), "{result}");
    lan.leases_become(&[&own])?;
    let shown = lan.inside("a", "ip -j addr show eth0")?;
    let listed = shown.pointer("/0/addr_info").and_then(Value::as_array).cloned().unwrap_or_default();
    ensure!(listed.iter().any(|info| info["local"] == json!(own) && info["prefixlen"] == json!(24)), "{shown}");
    ensure!(lan.world.borrow_mut().reaches("a", "192.168.1.1")?, "a reaches the server");
    lan.expect_quiet("CHECK", "a", Some(&result))?;
    let socket = dhcp::socket(&lan.world.borrow()).display().to_string();
    let status = lan.world.borrow().weftctl(&["agent", "--status", "--socket", &socket])?;
    let text = [
        "/usr/local/bin/weftctl",
        "--state-dir",
        &lan.world.borrow().state().display().to_string(),
        "explain",
        "cid-a",
    ];
    let explained = process::run(&lan.world.borrow().place()?, &text)?.text();
    ensure!(explained.contains("a DHCP server") && explained.contains(&own), "{explained}");
    ensure!(status.pointer("/leases/0/state") == Some(&json!("is running")), "{status}");
    // The stock daemon's client identifier.
    let want = b"\0cid-a/lan/eth0".iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let file = fs::read_to_string(lan.world.borrow().scratch().join("dnsmasq/leases"))?;
    ensure!(file.contains(&want), "{want} in {file}");
    lan.expect_quiet("DEL", "a", Some(&result))?;
    lan.leases_become(&[])?;
    ensure!(lan.server.borrow().count("DHCPRELEASE", &own) == 1, "{}", lan.server.borrow().log());
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "the link is still there");
    ensure!(lan.status()?.is_empty(), "{:?}", lan.status());
    lan.expect_quiet("DEL", "a", None)
}

/// Option 121 replaces routers and other routes; a next hop of 0.0.0.0 means "no next hop".
pub(super) fn classless_routes() -> Result<()> {
    let option = "--dhcp-option=121,0.0.0.0/0,192.168.1.2,10.7.0.0/16,192.168.1.3,10.8.8.8/32,0.0.0.0";
    let lan = Lan::with_options(&[RANGE, option], &[])?;
    let result = lan.add("a")?;
    let want = json!([
        { "dst": "0.0.0.0/0", "gw": "192.168.1.2" },
        { "dst": "10.7.0.0/16", "gw": "192.168.1.3" },
        { "dst": "10.8.8.8/32", "scope": 253 },
    ]);
    ensure!(result["routes"] == want, "{result}");
    let routes = lan.inside("a", "ip -j route")?;
    let has = |dst: &str, gateway: Option<&str>| {
        let same =
            |route: &&Value| route["dst"] == json!(dst) && route.get("gateway").and_then(Value::as_str) == gateway;
        routes.as_array().is_some_and(|routes| routes.iter().any(|route| same(&route)))
    };
    ensure!(has("default", Some("192.168.1.2")), "{routes}");
    ensure!(has("10.7.0.0/16", Some("192.168.1.3")) && has("10.8.8.8", None), "{routes}");
    lan.expect_quiet("CHECK", "a", Some(&result))?;
    lan.expect_quiet("DEL", "a", None)
}

/// Option 33 uses the class of each address, and `priority` sets the metric of every route.
pub(super) fn static_routes_and_priority() -> Result<()> {
    let mut lan = Lan::with_options(&[RANGE, "--dhcp-option=33,10.7.1.0,192.168.1.3"], &[])?;
    lan.conf["ipam"]["priority"] = json!(70);
    let result = lan.add("a")?;
    let want = json!([
        { "dst": "10.0.0.0/8", "gw": "192.168.1.3", "priority": 70 },
        { "dst": "0.0.0.0/0", "gw": "192.168.1.1", "priority": 70 },
    ]);
    ensure!(result["routes"] == want, "{result}");
    let routes = lan.inside("a", "ip -j route show default")?;
    ensure!(routes.pointer("/0/metric") == Some(&json!(70)), "{routes}");
    lan.expect_quiet("DEL", "a", None)
}

/// `provide` takes options by name, by number and from `CNI_ARGS`; with `skipDefault` the client requests only the
/// listed ones.
pub(super) fn provided_options() -> Result<()> {
    let mut lan = Lan::with_options(
        &[RANGE, "--dhcp-vendorclass=set:ours,weft-vendor", "--dhcp-option=tag:ours,option:router,192.168.1.77"],
        &[],
    )?;
    lan.conf["ipam"]["provide"] = json!([
        { "option": "host-name", "value": "unused", "fromArg": "K8S_POD_NAME" },
        { "option": 60, "value": "weft-vendor" },
    ]);
    lan.conf["ipam"]["request"] = json!([{ "option": "subnet-mask", "skipDefault": true }, { "option": "3" }]);
    let attach = Attach { args: Some("IgnoreUnknown=1;K8S_POD_NAME=web-0"), ..Attach::eth0("a") };
    let reply = lan.world.borrow_mut().call("ADD", &attach, &lan.conf)?;
    let result = reply.result()?;
    ensure!(result.pointer("/ips/0/gateway") == Some(&json!("192.168.1.77")), "{result}");
    ensure!(result.get("dns").is_none_or(|dns| dns == &json!({})), "{result}");
    let log = lan.server.borrow().log();
    ensure!(log.contains("client provides name: web-0"), "{log}");
    ensure!(log.contains("requested options: 1:netmask, 3:router"), "{log}");
    lan.expect_quiet("DEL", "a", None)?;
    lan.conf["ipam"]["provide"] = json!([{ "option": "nonsense", "value": "x" }]);
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("Can not parse option \"nonsense\""), "{error:?}");
    Ok(())
}

/// The pool is empty: the error says so, under a stock name in the stock plugin's words, and nothing is left.
pub(super) fn exhausted() -> Result<()> {
    let mut lan = Lan::with_options(&[ONE], QUICK)?;
    let first = lan.add("a")?;
    let error = lan.call("ADD", "b", None)?.error()?;
    ensure!(error.code == 11, "{error:?}");
    ensure!(error.msg.contains("DHCP") && error.msg.contains("within 4 s"), "{error:?}");
    ensure!(lan.world.borrow_mut().container("b")?.line("ip link show eth0").is_err(), "b has a link");
    lan.conf = json!({ "cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br0",
                       "ipam": lan.conf["ipam"].clone() });
    let error = lan.call("ADD", "b", None)?.error()?;
    ensure!(error.msg == "error calling DHCP.Allocate: no more tries", "{error:?}");
    lan.expect_quiet("DEL", "b", None)?;
    lan.expect_quiet("DEL", "a", Some(&first))?;
    lan.leases_become(&[])?;
    let again = lan.add("b")?;
    ensure!(address(&again)? == "192.168.1.5", "{again}");
    lan.expect_quiet("DEL", "b", None)
}

/// Without a mask the network is unknown: ADD fails with the stock daemon's text, and releases the lease.
pub(super) fn no_subnet_mask() -> Result<()> {
    // dnsmasq does not send an option without a value.
    let lan = Lan::with_options(&[ONE, "--dhcp-option=option:netmask"], &[])?;
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.msg == "DHCP option Subnet Mask not found in DHCPACK", "{error:?}");
    lan.leases_become(&[])?;
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "the link is still there");
    Ok(())
}

/// T1 after three seconds: the client renews, and the lease continues.
pub(super) fn renewed() -> Result<()> {
    let lan = Lan::with_options(&[RANGE, "--dhcp-option=option:T1,3"], &[])?;
    let result = lan.add("a")?;
    let own = address(&result)?;
    let server = || lan.server.borrow().count("DHCPACK", &own);
    ensure!(server() == 1, "{}", lan.server.borrow().log());
    wait(PATIENCE, "two renewals", || Ok(server() >= 3))
        .with_context(|| format!("{}\n{}", lan.server.borrow().log(), lan.log()))?;
    // A renewal sends no DHCPDISCOVER.
    ensure!(lan.server.borrow().count("DHCPDISCOVER", "") == 1, "{}", lan.server.borrow().log());
    lan.expect_quiet("CHECK", "a", Some(&result))?;
    lan.expect_quiet("DEL", "a", None)?;
    lan.leases_become(&[])
}

/// The server refuses the renewal: the container must not use the address any longer, so its link goes down.
pub(super) fn refused_at_renewal() -> Result<()> {
    let lan = Lan::with_options(&[ONE, "--dhcp-option=option:T1,4"], QUICK)?;
    let result = lan.add("a")?;
    {
        let mut server = lan.server.borrow_mut();
        server.forget()?;
        server.start(&["--dhcp-range=192.168.1.100,192.168.1.110,255.255.255.0,2m"])?;
    }
    let down = || Ok(!lan.inside("a", "ip -j link show eth0")?.to_string().contains("\"UP\""));
    wait(PATIENCE, "the link to go down", down)
        .with_context(|| format!("{}\n{}", lan.server.borrow().log(), lan.log()))?;
    ensure!(lan.log().contains("is over: the server refused it"), "{}", lan.log());
    let error = lan.call("CHECK", "a", Some(&result))?.error()?;
    ensure!(error.code == 105 && error.msg.contains("is over"), "{error:?}");
    lan.expect_quiet("DEL", "a", None)
}

/// DHCPv6 alone.
pub(super) fn ipv6() -> Result<()> {
    let mut lan = Lan::with_options(
        &[RANGE6, "--dhcp-option=option6:dns-server,[fd00:1::53]", "--dhcp-option=option6:domain-search,lan.example"],
        &[],
    )?;
    lan.conf["ipam"]["ipv4"] = json!(false);
    lan.conf["ipam"]["ipv6"] = json!(true);
    let result = lan.add("a")?;
    let own = address(&result)?;
    ensure!(own.starts_with("fd00:1::1"), "{result}");
    ensure!(result.pointer("/ips/0/address") == Some(&json!(format!("{own}/128"))), "{result}");
    ensure!(result.pointer("/dns/nameservers") == Some(&json!(["fd00:1::53"])), "{result}");
    ensure!(result.pointer("/dns/search") == Some(&json!(["lan.example"])), "{result}");
    lan.leases_become(&[&own])?;
    let shown = lan.inside("a", "ip -j -6 addr show eth0")?.to_string();
    ensure!(shown.contains(&own), "{shown}");
    lan.expect_quiet("CHECK", "a", Some(&result))?;
    lan.kill_agent();
    lan.start_agent(&[])?;
    lan.expect_quiet("DEL", "a", None)?;
    lan.leases_become(&[])
}

/// Gets one address of each family; if one family has no server, the other's lease is released.
pub(super) fn both_families() -> Result<()> {
    let mut lan = Lan::with_options(&[RANGE, RANGE6], QUICK)?;
    lan.conf["ipam"]["ipv6"] = json!(true);
    let result = lan.add("a")?;
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    ensure!(ips.len() == 2 && ips[1]["address"].as_str().is_some_and(|text| text.ends_with("/128")), "{result}");
    ensure!(lan.leases().len() == 2, "{:?}", lan.leases());
    lan.expect_quiet("DEL", "a", Some(&result))?;
    lan.leases_become(&[])?;
    lan.server.borrow_mut().start(&[RANGE])?;
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 11 && error.msg.contains("DHCPv6"), "{error:?}");
    lan.leases_become(&[])
}

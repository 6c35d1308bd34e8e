//! DHCP end to end: dnsmasq as the server, `weftctl agent`, weft by its own name and as the stock plugins, Debian's plugins on
//! top of it, and the agent's death at any time.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_tests::cni::Reply;
use weft_tests::dhcp::{self, Daemon, Server, wait};
use weft_tests::process::{self, Place};
use weft_tests::programs::{self, Installation, reference_dir};
use weft_tests::sandbox;
use weft_tests::suite::{Need, Suite};
use weft_tests::world::{Attach, Subject, World};

/// Ten addresses for two minutes, dnsmasq's shortest time.
const RANGE: &str = "--dhcp-range=192.168.1.5,192.168.1.14,255.255.255.0,2m";
/// One address.
const ONE: &str = "--dhcp-range=192.168.1.5,192.168.1.5,255.255.255.0,2m";
/// IPv6.
const RANGE6: &str = "--dhcp-range=fd00:1::100,fd00:1::1ff,64,2m";
/// Gives up within seconds.
const QUICK: &[&str] = &["--timeout", "2s", "--resendmax", "8s", "--resendtimeout", "4s"];

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("dnsmasq")];
    let macvlan = [&needs[..], &[Need::LinkKind("macvlan")]].concat();
    let reference = [&needs[..], &[Need::Reference]].concat();
    let failing = [&needs[..], &[Need::WeftFailing, Need::Tool("sqlite3")]].concat();
    let stranger = [&needs[..], &[Need::Tool("perl"), Need::Tool("setpriv")]].concat();
    let mut suite = Suite::new();
    suite.test("bridge/life", &needs, || life(&Lan::bridge("weft")?, "192.168.1."));
    suite.test("macvlan/life", &macvlan, || life(&Lan::macvlan()?, "192.168.1."));
    suite.test("stock-names/life", &needs, || life(&Lan::bridge("bridge")?, "192.168.1."));
    suite.test("classless-routes", &needs, classless_routes);
    suite.test("static-routes-and-priority", &needs, static_routes_and_priority);
    suite.test("provided-options-reach-the-server", &needs, provided_options);
    suite.test("exhausted", &needs, exhausted);
    suite.test("no-subnet-mask", &needs, no_subnet_mask);
    suite.test("renewed", &needs, renewed);
    suite.test("refused-at-renewal", &needs, refused_at_renewal);
    suite.test("agent-killed", &needs, agent_killed);
    suite.test("agent-killed-while-asking", &needs, agent_killed_while_asking);
    suite.test("weft-killed-while-asking", &needs, weft_killed_while_asking);
    suite.test("agent-stopped", &needs, agent_stopped);
    suite.test("agent-away", &needs, agent_away);
    suite.test("agent-away-at-del", &needs, agent_away_at_del);
    suite.test("two-agents", &needs, two_agents);
    suite.test("socket-is-for-root", &stranger, socket_is_for_root);
    suite.test("stranger-at-the-socket", &reference, stranger_at_the_socket);
    suite.test("netns-gone", &needs, netns_gone);
    suite.test("same-name-again", &needs, same_name_again);
    suite.test("second-add", &needs, second_add);
    suite.test("three-dels", &needs, three_dels);
    suite.test("gc", &needs, gc);
    suite.test("many-at-once", &needs, many_at_once);
    suite.test("late-failure-gives-back", &needs, late_failure_gives_back);
    suite.test("rollback-at-every-op", &failing, rollback_at_every_op);
    suite.test("ptp-is-refused", &needs, ptp_is_refused);
    suite.test("ipv6", &needs, ipv6);
    suite.test("both-families", &needs, both_families);
    suite.test("by-name-under-debians-bridge", &reference, by_name_under_debians_bridge);
    suite.test("same-result-as-debian", &reference, same_result_as_debian);
    suite.run_threads(Some(6))
}

/// A world with a server, an agent, and a configuration that uses them.
struct Lan {
    world: std::cell::RefCell<World>,
    server: std::cell::RefCell<Server>,
    agent: std::cell::RefCell<Option<Daemon>>,
    conf: Value,
    _installation: Installation,
}

impl Lan {
    fn new(bridge: Option<&str>, options: &[&str], agent: &[&str]) -> Result<Self> {
        let installation = Installation::new()?;
        let world = World::new(&Subject::weft(&installation))?;
        let mut server = Server::connect(&world, bridge)?;
        server.start(options)?;
        let agent = dhcp::agent(&world, agent)?;
        let conf = json!({ "cniVersion": "1.1.0", "name": "lan", "type": "weft", "ipam": dhcp::ipam(&world),
                           "delegate": { "type": "bridge", "bridge": "br0" } });
        Ok(Self {
            world: world.into(),
            server: server.into(),
            agent: Some(agent).into(),
            conf,
            _installation: installation,
        })
    }

    /// `weft` over a bridge, or the stock `bridge` by name.
    fn bridge(kind: &str) -> Result<Self> {
        let dns = ["--dhcp-option=option:dns-server,192.168.1.53", "--dhcp-option=option:domain-name,lan.example"];
        let mut lan = Self::new(Some("br0"), &[&[RANGE], &dns[..]].concat(), &[])?;
        if kind == "bridge" {
            lan.conf = json!({ "cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br0",
                               "ipam": lan.conf["ipam"].clone() });
        }
        Ok(lan)
    }

    fn macvlan() -> Result<Self> {
        let dns = ["--dhcp-option=option:dns-server,192.168.1.53", "--dhcp-option=option:domain-name,lan.example"];
        let mut lan = Self::new(None, &[&[RANGE], &dns[..]].concat(), &[])?;
        lan.conf["delegate"] = json!({ "type": "macvlan", "master": "up0" });
        Ok(lan)
    }

    fn with(options: &[&str], agent: &[&str]) -> Result<Self> {
        Self::new(Some("br0"), options, agent)
    }

    fn call(&self, verb: &str, container: &str, previous: Option<&Value>) -> Result<Reply> {
        let mut conf = self.conf.clone();
        if let Some(previous) = previous {
            conf["prevResult"] = previous.clone();
        }
        self.world.borrow_mut().call(verb, &Attach::eth0(container), &conf)
    }

    fn add(&self, container: &str) -> Result<Value> {
        let reply = self.call("ADD", container, None)?;
        reply
            .result()
            .with_context(|| format!("ADD {container}\nserver: {}\nagent: {}", self.server.borrow().log(), self.log()))
    }

    fn quiet(&self, verb: &str, container: &str, previous: Option<&Value>) -> Result<()> {
        self.call(verb, container, previous)?
            .quiet()
            .with_context(|| format!("{verb} {container}\nagent: {}", self.log()))
    }

    fn log(&self) -> String {
        self.agent.borrow().as_ref().map(Daemon::log).unwrap_or_default()
    }

    fn kill_agent(&self) {
        if let Some(agent) = self.agent.borrow_mut().take() {
            agent.kill();
        }
    }

    fn start_agent(&self, options: &[&str]) -> Result<()> {
        *self.agent.borrow_mut() = Some(dhcp::agent(&self.world.borrow(), options)?);
        Ok(())
    }

    fn status(&self) -> Result<Vec<Value>> {
        Ok(dhcp::status(&self.world.borrow())?.as_array().cloned().unwrap_or_default())
    }

    /// A call that is killed after a while, as a runtime does that has lost patience.
    fn cut_short(&self, verb: &str, container: &str, after: Duration) -> Result<()> {
        let mut world = self.world.borrow_mut();
        let mut call = world.prepare(verb, &Attach::eth0(container), &self.conf)?;
        call.limit = after;
        let error = world.run(&call, "weft").err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains("did not end within"), "{error}");
        Ok(())
    }

    fn inside(&self, container: &str, line: &str) -> Result<Value> {
        let output = self.world.borrow_mut().container(container)?.line(line)?;
        serde_json::from_str(&output.text()).with_context(|| format!("{line}: {}", output.text()))
    }

    fn leases(&self) -> Vec<String> {
        self.server.borrow().leases()
    }

    /// What the server has noted becomes that, soon: it writes its file after it answers.
    fn leases_become(&self, want: &[&str]) -> Result<()> {
        let outcome = wait(Duration::from_secs(5), "the server's lease file", || Ok(self.leases() == want));
        outcome.with_context(|| {
            format!("want {want:?}, have {:?}\n{}\n{}", self.leases(), self.server.borrow().log(), self.log())
        })
    }
}

/// The address of a result, without its prefix length.
fn address(result: &Value) -> Result<String> {
    let text =
        result.pointer("/ips/0/address").and_then(Value::as_str).with_context(|| format!("no address in {result}"))?;
    Ok(text.split('/').next().unwrap_or(text).to_owned())
}

/// ADD, traffic, CHECK, DEL twice; the server hears of it all.
fn life(lan: &Lan, prefix: &str) -> Result<()> {
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
    lan.quiet("CHECK", "a", Some(&result))?;
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
    lan.quiet("DEL", "a", Some(&result))?;
    lan.leases_become(&[])?;
    ensure!(lan.server.borrow().count("DHCPRELEASE", &own) == 1, "{}", lan.server.borrow().log());
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "the link is still there");
    ensure!(lan.status()?.is_empty(), "{:?}", lan.status());
    lan.quiet("DEL", "a", None)
}

/// Option 121 replaces routers and other routes; a next hop of 0.0.0.0 means that there is none.
fn classless_routes() -> Result<()> {
    let option = "--dhcp-option=121,0.0.0.0/0,192.168.1.2,10.7.0.0/16,192.168.1.3,10.8.8.8/32,0.0.0.0";
    let lan = Lan::with(&[RANGE, option], &[])?;
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
    lan.quiet("CHECK", "a", Some(&result))?;
    lan.quiet("DEL", "a", None)
}

/// Option 33 by class, and the metric of `priority` on every route.
fn static_routes_and_priority() -> Result<()> {
    let mut lan = Lan::with(&[RANGE, "--dhcp-option=33,10.7.1.0,192.168.1.3"], &[])?;
    lan.conf["ipam"]["priority"] = json!(70);
    let result = lan.add("a")?;
    let want = json!([
        { "dst": "10.0.0.0/8", "gw": "192.168.1.3", "priority": 70 },
        { "dst": "0.0.0.0/0", "gw": "192.168.1.1", "priority": 70 },
    ]);
    ensure!(result["routes"] == want, "{result}");
    let routes = lan.inside("a", "ip -j route show default")?;
    ensure!(routes.pointer("/0/metric") == Some(&json!(70)), "{routes}");
    lan.quiet("DEL", "a", None)
}

/// `provide` by name, by number and from `CNI_ARGS`; `skipDefault` asks for what is listed and nothing else.
fn provided_options() -> Result<()> {
    let mut lan = Lan::with(
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
    lan.quiet("DEL", "a", None)?;
    lan.conf["ipam"]["provide"] = json!([{ "option": "nonsense", "value": "x" }]);
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("Can not parse option \"nonsense\""), "{error:?}");
    Ok(())
}

/// The pool is empty: the error says so, under a stock name in the stock plugin's words, and nothing is left.
fn exhausted() -> Result<()> {
    let mut lan = Lan::with(&[ONE], QUICK)?;
    let first = lan.add("a")?;
    let error = lan.call("ADD", "b", None)?.error()?;
    ensure!(error.code == 11, "{error:?}");
    ensure!(error.msg.contains("DHCP") && error.msg.contains("within 4 s"), "{error:?}");
    ensure!(lan.world.borrow_mut().container("b")?.line("ip link show eth0").is_err(), "b has a link");
    lan.conf = json!({ "cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br0",
                       "ipam": lan.conf["ipam"].clone() });
    let error = lan.call("ADD", "b", None)?.error()?;
    ensure!(error.msg == "error calling DHCP.Allocate: no more tries", "{error:?}");
    lan.quiet("DEL", "b", None)?;
    lan.quiet("DEL", "a", Some(&first))?;
    lan.leases_become(&[])?;
    let again = lan.add("b")?;
    ensure!(address(&again)? == "192.168.1.5", "{again}");
    lan.quiet("DEL", "b", None)
}

/// Without a mask there is no network: refused with the stock daemon's text, and the lease is given back.
fn no_subnet_mask() -> Result<()> {
    // An option without a value is one that dnsmasq keeps to itself.
    let lan = Lan::with(&[ONE, "--dhcp-option=option:netmask"], &[])?;
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.msg == "DHCP option Subnet Mask not found in DHCPACK", "{error:?}");
    lan.leases_become(&[])?;
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "the link is still there");
    Ok(())
}

/// T1 after three seconds: the server hears of the lease again, and it goes on.
fn renewed() -> Result<()> {
    let lan = Lan::with(&[RANGE, "--dhcp-option=option:T1,3"], &[])?;
    let result = lan.add("a")?;
    let own = address(&result)?;
    let server = || lan.server.borrow().count("DHCPACK", &own);
    ensure!(server() == 1, "{}", lan.server.borrow().log());
    wait(Duration::from_secs(20), "two renewals", || Ok(server() >= 3))
        .with_context(|| format!("{}\n{}", lan.server.borrow().log(), lan.log()))?;
    // By datagrams: a renewal has nothing to discover.
    ensure!(lan.server.borrow().count("DHCPDISCOVER", "") == 1, "{}", lan.server.borrow().log());
    lan.quiet("CHECK", "a", Some(&result))?;
    lan.quiet("DEL", "a", None)?;
    lan.leases_become(&[])
}

/// The server will not have the address any more: the container must not go on with it, so its link goes down.
fn refused_at_renewal() -> Result<()> {
    let lan = Lan::with(&[ONE, "--dhcp-option=option:T1,4"], QUICK)?;
    let result = lan.add("a")?;
    {
        let mut server = lan.server.borrow_mut();
        server.stop();
        fs::remove_file(lan.world.borrow().scratch().join("dnsmasq/leases"))?;
        server.start(&["--dhcp-range=192.168.1.100,192.168.1.110,255.255.255.0,2m"])?;
    }
    let down = || Ok(!lan.inside("a", "ip -j link show eth0")?.to_string().contains("\"UP\""));
    wait(Duration::from_secs(20), "the link to go down", down)
        .with_context(|| format!("{}\n{}", lan.server.borrow().log(), lan.log()))?;
    ensure!(lan.log().contains("is over: the server refused it"), "{}", lan.log());
    let error = lan.call("CHECK", "a", Some(&result))?.error()?;
    ensure!(error.code == 105 && error.msg.contains("is over"), "{error:?}");
    lan.quiet("DEL", "a", None)
}

/// `kill -9` and a new agent: the lease is still there, is renewed, and is given back.
fn agent_killed() -> Result<()> {
    let lan = Lan::with(&[RANGE, "--dhcp-option=option:T1,6"], &[])?;
    let result = lan.add("a")?;
    let own = address(&result)?;
    lan.kill_agent();
    let error = lan.call("CHECK", "a", Some(&result))?.error()?;
    ensure!(error.code == 11 && error.msg.contains("weftctl agent"), "{error:?}");
    lan.start_agent(&[])?;
    lan.quiet("CHECK", "a", Some(&result))?;
    let status = lan.status()?;
    ensure!(status.len() == 1 && status[0]["addresses"] == json!([format!("{own}/24")]), "{status:?}");
    let acks = || lan.server.borrow().count("DHCPACK", &own);
    wait(Duration::from_secs(20), "a renewal by the new agent", || Ok(acks() >= 2)).with_context(|| lan.log())?;
    lan.kill_agent();
    // T1 passes while there is no agent: the next one renews at once.
    std::thread::sleep(Duration::from_secs(7));
    let before = acks();
    lan.start_agent(&[])?;
    wait(Duration::from_secs(3), "the renewal that was due", || Ok(acks() > before)).with_context(|| lan.log())?;
    lan.quiet("DEL", "a", None)?;
    lan.leases_become(&[])?;
    ensure!(lan.server.borrow().count("DHCPRELEASE", &own) == 1, "{}", lan.server.borrow().log());
    Ok(())
}

/// The agent dies under an ADD: an error, code 11, and nothing is left.
fn agent_killed_while_asking() -> Result<()> {
    let lan = Lan::with(&[ONE], &[])?;
    lan.add("a")?;
    let (call, place, plugin) = {
        let mut world = lan.world.borrow_mut();
        let call = world.prepare("ADD", &Attach::eth0("b"), &lan.conf)?;
        (call, world.place()?, world.plugin("weft"))
    };
    let asking = std::thread::spawn(move || call.run(&plugin, &place));
    wait(Duration::from_secs(10), "the agent to ask", || {
        Ok(lan.status()?.iter().any(|lease| lease["state"] == json!("is being asked for")))
    })?;
    lan.kill_agent();
    let Ok(reply) = asking.join() else { bail!("the call panicked") };
    let error = reply?.error()?;
    ensure!(error.code == 11, "{error:?}");
    ensure!(lan.world.borrow_mut().container("b")?.line("ip link show eth0").is_err(), "b has a link");
    lan.start_agent(&[])?;
    lan.quiet("DEL", "b", None)?;
    lan.quiet("DEL", "a", None)?;
    lan.leases_become(&[])
}

/// weft dies under an ADD, with its link made: DEL finds it in the journal, and the agent stops asking.
fn weft_killed_while_asking() -> Result<()> {
    let lan = Lan::with(&[ONE], &[])?;
    lan.add("a")?;
    lan.cut_short("ADD", "b", Duration::from_secs(3))?;
    let up = lan.inside("b", "ip -j link show eth0")?.to_string();
    ensure!(up.contains("\"UP\""), "no link was made: {up}");
    lan.quiet("DEL", "b", None)?;
    ensure!(lan.world.borrow_mut().container("b")?.line("ip link show eth0").is_err(), "b still has its link");
    ensure!(lan.status()?.len() == 1, "{:?}", lan.status());
    lan.quiet("DEL", "a", None)?;
    lan.leases_become(&[])?;
    // And with an address to be had, it is.
    lan.add("b")?;
    lan.quiet("DEL", "b", None)
}

/// SIGTERM: leases stay, the socket goes.
fn agent_stopped() -> Result<()> {
    let lan = Lan::with(&[RANGE], &[])?;
    let result = lan.add("a")?;
    let agent = lan.agent.borrow_mut().take().context("an agent")?;
    agent.stop()?;
    ensure!(!dhcp::socket(&lan.world.borrow()).exists(), "the socket is still there");
    ensure!(lan.leases() == [address(&result)?], "{:?}", lan.leases());
    lan.start_agent(&[])?;
    lan.quiet("CHECK", "a", Some(&result))?;
    lan.quiet("DEL", "a", None)?;
    lan.leases_become(&[])
}

/// No agent: ADD names the socket and the remedy with code 11 before anything changes; STATUS says 50.
fn agent_away() -> Result<()> {
    let lan = Lan::with(&[RANGE], &[])?;
    lan.quiet("STATUS", "a", None)?;
    lan.kill_agent();
    let socket = dhcp::socket(&lan.world.borrow()).display().to_string();
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 11, "{error:?}");
    ensure!(error.msg.starts_with(&format!("error dialing DHCP daemon: dial unix {socket}: connect: ")), "{error:?}");
    ensure!(error.msg.contains("start \"weftctl agent\""), "{error:?}");
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "a link was made");
    let error = lan.call("STATUS", "a", None)?.error()?;
    ensure!(error.code == 50 && error.msg.contains(&socket), "{error:?}");
    lan.quiet("DEL", "a", None)
}

/// DEL does what it can, says what it could not, and succeeds. The agent finds the link gone and forgets.
fn agent_away_at_del() -> Result<()> {
    let lan = Lan::with(&[RANGE, "--dhcp-option=option:T1,4"], &[])?;
    let result = lan.add("a")?;
    lan.kill_agent();
    let reply = lan.call("DEL", "a", Some(&result))?;
    reply.quiet()?;
    ensure!(reply.stderr.contains("ends by itself"), "stderr {:?}", reply.stderr);
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "the link is still there");
    lan.start_agent(&[])?;
    wait(Duration::from_secs(15), "the agent to forget", || Ok(lan.status()?.is_empty())).with_context(|| lan.log())?;
    ensure!(lan.log().contains("forgot the lease"), "{}", lan.log());
    Ok(())
}

/// One agent per store and per socket.
fn two_agents() -> Result<()> {
    let lan = Lan::with(&[RANGE], &[])?;
    let world = lan.world.borrow();
    let place = world.place()?;
    let other = world.scratch().join("other");
    for (state, socket, want) in [
        (world.state(), other.join("agent.sock"), "another agent has"),
        (other.clone(), dhcp::socket(&world), "another agent listens"),
    ] {
        let (state, socket) = (state.display().to_string(), socket.display().to_string());
        let argv = ["/usr/local/bin/weftctl", "--state-dir", &state, "agent", "--socket", &socket];
        let error = process::run(&place, &argv).err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains(want), "{error}");
    }
    Ok(())
}

/// Nobody else may make the agent enter namespaces.
fn socket_is_for_root() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let lan = Lan::with(&[RANGE], &[])?;
    let world = lan.world.borrow();
    let socket = dhcp::socket(&world);
    ensure!(fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o600, "mode of the socket");
    ensure!(fs::metadata(world.state().join("agent.db"))?.permissions().mode() & 0o777 == 0o600, "mode of the store");
    // Opened up by mistake, it still refuses, whatever is asked.
    for dir in socket.ancestors().take_while(|dir| *dir != Path::new("/run")) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    }
    let script = "$s = IO::Socket::UNIX->new(Peer => shift) or die; print <$s>";
    let path = socket.display().to_string();
    let argv = ["setpriv", "--reuid=65534", "--clear-groups", "perl", "-MIO::Socket::UNIX", "-e", script, &path];
    let said = process::run(&world.place()?, &argv)?.text();
    ensure!(said.contains("only root"), "{said}");
    Ok(())
}

/// The stock daemon's socket in the configuration: said as it is.
fn stranger_at_the_socket() -> Result<()> {
    let mut lan = Lan::with(&[RANGE], &[])?;
    let daemon = stock_daemon(&lan)?;
    let path = stock_socket(&lan);
    lan.conf["ipam"]["daemonSocketPath"] = json!(path);
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("the stock DHCP daemon"), "{error:?}");
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "the link is still there");
    daemon.kill();
    Ok(())
}

/// The container goes before DEL. The agent forgets it when it looks again; DEL works with and without it.
fn netns_gone() -> Result<()> {
    let lan = Lan::with(&[RANGE, "--dhcp-option=option:T1,3"], &[])?;
    lan.add("a")?;
    lan.add("b")?;
    lan.world.borrow_mut().remove_container("a");
    wait(Duration::from_secs(15), "the agent to forget", || Ok(lan.status()?.len() == 1)).with_context(|| lan.log())?;
    lan.world.borrow_mut().remove_container("b");
    lan.kill_agent();
    lan.start_agent(&[])?;
    ensure!(lan.status()?.is_empty(), "{:?}", lan.status());
    for container in ["a", "b"] {
        let mut call = lan.world.borrow_mut().prepare("DEL", &Attach::eth0(container), &lan.conf)?;
        call.netns = Some(String::new());
        lan.world.borrow().run(&call, "weft")?.quiet()?;
    }
    Ok(())
}

/// The same id in a new namespace, when DEL never reached the agent: the remembered address is asked for and confirmed.
fn same_name_again() -> Result<()> {
    let lan = Lan::with(&[RANGE], &[])?;
    let first = address(&lan.add("a")?)?;
    let mut call = lan.world.borrow_mut().prepare("DEL", &Attach::eth0("a"), &lan.conf)?;
    // To this DEL the agent is away.
    fs::rename(dhcp::socket(&lan.world.borrow()), lan.world.borrow().scratch().join("hidden"))?;
    call.netns = Some(String::new());
    lan.world.borrow().run(&call, "weft")?.quiet()?;
    fs::rename(lan.world.borrow().scratch().join("hidden"), dhcp::socket(&lan.world.borrow()))?;
    lan.world.borrow_mut().remove_container("a");
    let discovers = lan.server.borrow().count("DHCPDISCOVER", "");
    let second = address(&lan.add("a")?)?;
    ensure!(first == second, "{first} then {second}");
    ensure!(lan.server.borrow().count("DHCPDISCOVER", "") == discovers, "{}", lan.server.borrow().log());
    lan.quiet("DEL", "a", None)?;
    lan.leases_become(&[])
}

/// weft's own: the attachment exists. IPAM alone: the running lease, as the stock plugin has it.
fn second_add() -> Result<()> {
    let mut lan = Lan::with(&[RANGE], &[])?;
    let result = lan.add("a")?;
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 4, "{error:?}");
    ensure!(lan.leases() == [address(&result)?], "{:?}", lan.leases());
    lan.quiet("CHECK", "a", Some(&result))?;
    lan.quiet("DEL", "a", None)?;
    // Another plugin made this link.
    lan.conf = json!({ "cniVersion": "1.0.0", "name": "lan", "type": "dhcp", "ipam": lan.conf["ipam"].clone() });
    let netns = lan.world.borrow_mut().container("i")?.name().to_owned();
    lan.world.borrow().host().line(&format!("ip link add port0 type veth peer name eth0 netns {netns}"))?;
    lan.world.borrow().host().line("ip link set port0 master br0 up")?;
    let first = lan.add("i")?;
    let second = lan.add("i")?;
    ensure!(first == second && first["interfaces"] == Value::Null, "{first} {second}");
    lan.quiet("CHECK", "i", Some(&first))?;
    lan.quiet("DEL", "i", None)?;
    lan.leases_become(&[])?;
    lan.quiet("DEL", "i", None)?;
    let error = lan.call("CHECK", "i", Some(&first))?.error()?;
    ensure!(error.code == 3, "{error:?}");
    Ok(())
}

/// Runs the same call several times at once.
fn at_once(lan: &Lan, verb: &str, containers: &[&str]) -> Result<Vec<Reply>> {
    let mut calls = Vec::new();
    for container in containers {
        let mut world = lan.world.borrow_mut();
        let call = world.prepare(verb, &Attach::eth0(container), &lan.conf)?;
        let (place, plugin) = (world.place()?, world.plugin("weft"));
        calls.push(std::thread::spawn(move || call.run(&plugin, &place)));
    }
    calls.into_iter().map(|call| call.join().map_err(|_panic| anyhow::anyhow!("a call panicked"))?).collect()
}

/// Three DELs of one attachment at once: all succeed, and there is one release.
fn three_dels() -> Result<()> {
    let lan = Lan::with(&[RANGE], &[])?;
    let own = address(&lan.add("a")?)?;
    for reply in at_once(&lan, "DEL", &["a", "a", "a"])? {
        reply.quiet()?;
    }
    lan.leases_become(&[])?;
    ensure!(lan.server.borrow().count("DHCPRELEASE", &own) == 1, "{}", lan.server.borrow().log());
    Ok(())
}

/// What the runtime does not list any more is given back.
fn gc() -> Result<()> {
    let lan = Lan::with(&[RANGE], &[])?;
    lan.add("a")?;
    let kept = address(&lan.add("b")?)?;
    let mut conf = lan.conf.clone();
    conf["cni.dev/valid-attachments"] = json!([{ "containerID": "cid-b", "ifname": "eth0" }]);
    let mut call = lan.world.borrow_mut().prepare("GC", &Attach::eth0("a"), &conf)?;
    (call.container_id, call.netns, call.ifname) = (None, None, None);
    lan.world.borrow().run(&call, "weft")?.quiet()?;
    lan.leases_become(&[&kept])?;
    lan.quiet("DEL", "b", None)
}

/// Eight attachments at once, each with an address of its own.
fn many_at_once() -> Result<()> {
    let lan = Lan::with(&[RANGE], &[])?;
    let containers = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut addresses = Vec::new();
    for reply in at_once(&lan, "ADD", &containers)? {
        addresses.push(address(&reply.result().with_context(|| lan.log())?)?);
    }
    addresses.sort();
    addresses.dedup();
    ensure!(addresses.len() == containers.len(), "{addresses:?}");
    for reply in at_once(&lan, "DEL", &containers)? {
        reply.quiet()?;
    }
    lan.leases_become(&[])
}

/// The address cannot be put on the link: the lease goes back while the link is there.
fn late_failure_gives_back() -> Result<()> {
    let lan = Lan::with(&[ONE, "--dhcp-option=121,10.7.0.0/16,172.31.0.1"], &[])?;
    // The next hop is nowhere near: the kernel refuses the route.
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 103, "{error:?}");
    ensure!(!error.details.contains("undone"), "{error:?}");
    ensure!(lan.server.borrow().count("DHCPRELEASE", "192.168.1.5") == 1, "{}", lan.server.borrow().log());
    lan.leases_become(&[])?;
    ensure!(lan.status()?.is_empty(), "{:?}", lan.status());
    ensure!(lan.world.borrow_mut().container("a")?.line("ip link show eth0").is_err(), "the link is still there");
    ensure!(lan.world.borrow().claims()?.is_empty(), "claims");
    lan.quiet("DEL", "a", None)
}

/// Fails at each op in turn, of the link's plan and of what comes on top: nothing is left on the host, in the container, with
/// the agent or with the server, until an ADD has no op left to fail at.
fn rollback_at_every_op() -> Result<()> {
    const MOST_OPS: usize = 40;
    let mut lan = Lan::with(&[ONE, "--dhcp-option=121,10.7.0.0/16,192.168.1.9"], &[])?;
    lan.conf["delegate"]["isGateway"] = json!(false);
    let weft = lan.world.borrow().plugin("weft");
    fs::remove_file(&weft).context("remove weft")?;
    std::os::unix::fs::symlink(programs::weft_failing().map_err(anyhow::Error::msg)?, &weft)?;
    let links = |place: &str| -> Result<String> {
        let mut world = lan.world.borrow_mut();
        // Names and MAC addresses. The state in between follows a port that went with a delay.
        let text = world.netns(place)?.line("ip -br link")?.text();
        let columns = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        Ok(columns.map(|line| format!("{:?} {:?}\n", line.first(), line.get(2))).collect())
    };
    let before = (links("host")?, links("a")?);
    let mut asked = 0;
    for at in 0..MOST_OPS {
        let mut call = lan.world.borrow_mut().prepare("ADD", &Attach::eth0("a"), &lan.conf)?;
        call.env.push(("WEFT_FAIL_AT".into(), at.to_string().into()));
        let reply = lan.world.borrow().run(&call, "weft")?;
        let acks = lan.server.borrow().count("DHCPACK", "192.168.1.5");
        if reply.ok() {
            ensure!(at > 5 && asked > 3, "only {at} ops, {asked} of them with a lease");
            lan.quiet("DEL", "a", None)?;
            return lan.leases_become(&[]);
        }
        let error = reply.error()?;
        ensure!(error.msg.contains("no-such-link"), "op {at} fails for another reason: {error:?}");
        ensure!((links("host")?, links("a")?) == before, "op {at}: links are left");
        ensure!(lan.status()?.is_empty(), "op {at}: {:?}", lan.status());
        let releases = lan.server.borrow().count("DHCPRELEASE", "192.168.1.5");
        ensure!(releases == acks, "op {at}: {acks} leases and {releases} releases");
        lan.leases_become(&[]).with_context(|| format!("op {at}"))?;
        let store = lan.world.borrow().state().join("weft.db").display().to_string();
        let journal =
            process::run(&Place::default(), &["sqlite3", "-readonly", &store, "SELECT * FROM journal"])?.text();
        ensure!(journal.is_empty(), "op {at}: {journal}");
        asked = acks;
    }
    bail!("no ADD succeeded")
}

/// A link that needs its gateway first.
fn ptp_is_refused() -> Result<()> {
    let mut lan = Lan::with(&[RANGE], &[])?;
    lan.conf["delegate"] = json!({ "type": "ptp" });
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 7 && error.msg.contains("cannot get its addresses by DHCP"), "{error:?}");
    Ok(())
}

/// DHCPv6 alone.
fn ipv6() -> Result<()> {
    let mut lan = Lan::with(
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
    lan.quiet("CHECK", "a", Some(&result))?;
    lan.kill_agent();
    lan.start_agent(&[])?;
    lan.quiet("DEL", "a", None)?;
    lan.leases_become(&[])
}

/// One address of each kind; where one family has no server, the other's lease goes back.
fn both_families() -> Result<()> {
    let mut lan = Lan::with(&[RANGE, RANGE6], QUICK)?;
    lan.conf["ipam"]["ipv6"] = json!(true);
    let result = lan.add("a")?;
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    ensure!(ips.len() == 2 && ips[1]["address"].as_str().is_some_and(|text| text.ends_with("/128")), "{result}");
    ensure!(lan.leases().len() == 2, "{:?}", lan.leases());
    lan.quiet("DEL", "a", Some(&result))?;
    lan.leases_become(&[])?;
    lan.server.borrow_mut().start(&[RANGE])?;
    let error = lan.call("ADD", "a", None)?.error()?;
    ensure!(error.code == 11 && error.msg.contains("DHCPv6"), "{error:?}");
    lan.leases_become(&[])
}

/// Debian's bridge executes weft as `dhcp`.
fn by_name_under_debians_bridge() -> Result<()> {
    let installation = Installation::new()?;
    let mixed = installation.bin().with_file_name("mixed");
    fs::create_dir_all(&mixed).context("create mixed")?;
    let stock = reference_dir().map_err(anyhow::Error::msg)?;
    fs::copy(stock.join("bridge"), mixed.join("bridge")).context("copy bridge")?;
    let mut world = World::new(&Subject { bin: mixed, ..Subject::weft(&installation) })?;
    world.add_path(installation.bin());
    let mut server = Server::connect(&world, Some("br0"))?;
    server.start(&[ONE])?;
    let _agent = dhcp::agent(&world, QUICK)?;
    let conf =
        json!({ "cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br0", "ipam": dhcp::ipam(&world) });
    let result = world.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("192.168.1.5/24")), "{result}");
    ensure!(result.pointer("/ips/0/gateway") == Some(&json!("192.168.1.1")), "{result}");
    ensure!(world.reaches("a", "192.168.1.1")?, "a reaches the server");
    let error = world.call("ADD", &Attach::eth0("b"), &conf)?.error()?;
    ensure!(error.msg == "error calling DHCP.Allocate: no more tries", "{error:?}");
    let mut check = conf.clone();
    check["prevResult"] = result;
    world.call("CHECK", &Attach::eth0("a"), &check)?.quiet()?;
    // It deletes the link first, so the server is never told: but the DEL succeeds, twice.
    world.call("DEL", &Attach::eth0("a"), &conf)?.quiet()?;
    world.call("DEL", &Attach::eth0("a"), &conf)?.quiet()?;
    ensure!(dhcp::status(&world)? == json!([]), "{:?}", dhcp::status(&world));
    Ok(())
}

fn stock_socket(lan: &Lan) -> std::path::PathBuf {
    lan.world.borrow().scratch().join("stock.sock")
}

fn stock_daemon(lan: &Lan) -> Result<Daemon> {
    let world = lan.world.borrow();
    let socket = stock_socket(lan);
    let program = reference_dir().map_err(anyhow::Error::msg)?.join("dhcp");
    let argv =
        [program.display().to_string(), "daemon".to_owned(), "-socketpath".to_owned(), socket.display().to_string()];
    let daemon = Daemon::start(&world.host().place(), &argv, &world.scratch().join("stock.log"))?;
    wait(Duration::from_secs(15), "the stock daemon", || Ok(socket.exists())).with_context(|| daemon.log())?;
    Ok(daemon)
}

/// Debian's bridge, dhcp and daemon against weft under the same names, on the same network. (A destination of option 33 with host
/// bits would fail with stock, which does not mask it.)
fn same_result_as_debian() -> Result<()> {
    let lan = Lan::with(&[RANGE, "--dhcp-option=33,10.0.0.0,192.168.1.3"], &[])?;
    let daemon = stock_daemon(&lan)?;
    let stock = reference_dir().map_err(anyhow::Error::msg)?;
    let mut results = Vec::new();
    let sockets = [("stock", stock_socket(&lan)), ("weft", dhcp::socket(&lan.world.borrow()))];
    for (subject, socket) in sockets {
        let conf = json!({ "cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br0",
                           "ipam": { "type": "dhcp", "daemonSocketPath": socket,
                                     "request": [{ "option": "33" }, { "option": "121" }] } });
        let mut call = lan.world.borrow_mut().prepare("ADD", &Attach::eth0("same"), &conf)?;
        let plugin = if subject == "stock" { stock.join("bridge") } else { lan.world.borrow().plugin("bridge") };
        if subject == "stock" {
            call.path = Some(stock.display().to_string());
        }
        let place = lan.world.borrow().place()?;
        let mut result = call.run(&plugin, &place)?.result().with_context(|| format!("{subject}: {}", daemon.log()))?;
        // The client identifier is the same, so the server gives the same address. Names and MACs are random.
        result["interfaces"] = json!(result["interfaces"].as_array().map(Vec::len));
        // The library of the stock plugins prints an empty object where there is none.
        if result.get("dns") == Some(&json!({})) {
            result.as_object_mut().map(|result| result.remove("dns"));
        }
        results.push(result);
        call.command = Some("DEL".to_owned());
        call.run(&plugin, &place)?.quiet().with_context(|| format!("DEL by {subject}"))?;
    }
    ensure!(results[0] == results[1], "stock {}\nweft  {}", results[0], results[1]);
    daemon.kill();
    Ok(())
}

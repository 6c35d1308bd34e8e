//! DHCP end to end: dnsmasq as the server, `weftctl agent`, weft by its own name and as the stock plugins, Debian's
//! plugins with weft, and an agent that may die at any time.

mod agent;
mod attachments;
mod lan;
mod leases;
mod stock;

use std::process::ExitCode;

use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

use crate::lan::Lan;

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("dnsmasq")];
    let macvlan = [&needs[..], &[Need::LinkKind("macvlan")]].concat();
    let reference = [&needs[..], &[Need::Reference]].concat();
    let failing = [&needs[..], &[Need::WeftFailing, Need::Tool("sqlite3")]].concat();
    let stranger = [&needs[..], &[Need::Tool("perl"), Need::Tool("setpriv")]].concat();
    let mut suite = Suite::new();
    suite.test("bridge/life", &needs, || leases::lease_lifecycle(&Lan::bridge("weft")?, "192.168.1."));
    suite.test("macvlan/life", &macvlan, || leases::lease_lifecycle(&Lan::macvlan()?, "192.168.1."));
    suite.test("stock-names/life", &needs, || leases::lease_lifecycle(&Lan::bridge("bridge")?, "192.168.1."));
    suite.test("classless-routes", &needs, leases::classless_routes);
    suite.test("static-routes-and-priority", &needs, leases::static_routes_and_priority);
    suite.test("provided-options-reach-the-server", &needs, leases::provided_options);
    suite.test("exhausted", &needs, leases::exhausted);
    suite.test("no-subnet-mask", &needs, leases::no_subnet_mask);
    suite.test("renewed", &needs, leases::renewed);
    suite.test("refused-at-renewal", &needs, leases::refused_at_renewal);
    suite.test("agent-killed", &needs, agent::agent_killed);
    suite.test("agent-killed-while-asking", &needs, agent::agent_killed_while_asking);
    suite.test("weft-killed-while-asking", &needs, agent::weft_killed_while_asking);
    suite.test("agent-stopped", &needs, agent::agent_stopped);
    suite.test("agent-away", &needs, agent::agent_away);
    suite.test("agent-away-at-del", &needs, agent::agent_away_at_del);
    suite.test("two-agents", &needs, agent::two_agents);
    suite.test("socket-is-for-root", &stranger, agent::socket_is_for_root);
    suite.test("stranger-at-the-socket", &reference, agent::stranger_at_the_socket);
    suite.test("netns-gone", &needs, attachments::netns_gone);
    suite.test("same-name-again", &needs, attachments::same_name_again);
    suite.test("second-add", &needs, attachments::second_add);
    suite.test("three-dels", &needs, attachments::three_dels);
    suite.test("gc", &needs, attachments::gc);
    suite.test("many-at-once", &needs, attachments::many_at_once);
    suite.test("late-failure-gives-back", &needs, attachments::late_failure_gives_back);
    suite.test("rollback-at-every-op", &failing, attachments::rollback_at_every_op);
    suite.test("ptp-is-refused", &needs, attachments::ptp_is_refused);
    suite.test("ipv6", &needs, leases::ipv6);
    suite.test("both-families", &needs, leases::both_families);
    suite.test("by-name-under-debians-bridge", &reference, stock::by_name_under_debians_bridge);
    suite.test("same-result-as-debian", &reference, stock::same_result_as_debian);
    suite.run_threads(Some(6))
}

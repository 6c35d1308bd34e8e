//! Policies in OCI registries: from a component to an address, with Debian's `docker-registry`, and with `skopeo`,
//! `minisign` and `openssl` as second opinions. Each trial has its own registry, on the loopback of its own namespace.

mod agent;
mod bundle;
mod node;
mod ship;
mod trust;

use std::process::ExitCode;

use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

fn main() -> ExitCode {
    sandbox::enter();
    let mut suite = Suite::new();
    let needs = |tools: &[&'static str]| {
        let mut needs =
            vec![Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("docker-registry"), Need::Tool("skopeo")];
        needs.extend(tools.iter().map(|tool| Need::Tool(tool)));
        needs
    };
    suite.test("round-trip", &needs(&[]), ship::round_trip);
    suite.test("tag-and-lock-file", &needs(&[]), ship::tag_and_lock_file);
    suite.test("version-tags", &needs(&[]), ship::version_tags);
    suite.test("credentials", &needs(&[]), ship::credentials);
    suite.test("plain-http", &needs(&[]), ship::plain_http);
    suite.test("tls", &needs(&["openssl"]), ship::tls);
    suite.test("token-server-without-tls", &needs(&["openssl", "python3"]), ship::token_server_without_tls);
    suite.test("redirects-to-the-node", &needs(&["openssl", "python3"]), ship::redirects_to_the_node);
    suite.test("tampered-layer", &needs(&[]), ship::tampered_layer);
    suite.test("imports-that-lie", &needs(&[]), ship::imports_that_lie);
    suite.test("agent/ahead-of-the-add", &needs(&[]), agent::ahead_of_the_add);
    suite.test("agent/registry-dead", &needs(&[]), agent::registry_dead);
    suite.test("agent/locked-again", &needs(&[]), agent::locked_again);
    suite.test("agent/compiles-again", &needs(&[]), agent::compiles_again);
    suite.test("agent/damaged", &needs(&[]), agent::damaged);
    suite.test("agent/same-manifest-elsewhere", &needs(&["minisign"]), agent::same_manifest_elsewhere);
    suite.test("agent/revoked-key", &needs(&["minisign"]), agent::revoked_key);
    suite.test("agent/asks-no-stranger", &needs(&["python3"]), agent::asks_no_stranger);
    suite.test("trust/minisign", &needs(&["minisign"]), trust::minisign);
    suite.test("trust/sign-what-is-meant", &needs(&["minisign"]), trust::sign_what_is_meant);
    suite.test("trust/cosign", &needs(&["openssl"]), trust::cosign);
    suite.test("trust/ungranted", &needs(&[]), trust::ungranted);
    suite.test("save-and-load", &needs(&["minisign"]), bundle::save_and_load);
    suite.run_threads(Some(4))
}

//! Any input leads to one document: random variables and configurations, bytes that are not UTF-8, input without end, and
//! deep nesting.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use weft_kit::cni::Call;
use weft_kit::programs::NAMES;

use super::{NamesOnly, conf, one_document};

/// Runs random environments with random or nearly right configurations.
pub(super) fn garbage(weft: &NamesOnly) -> Result<()> {
    weft.get()?;
    let config = Config { cases: 600, failure_persistence: None, ..Config::default() };
    let strategy = (
        prop::sample::select(NAMES.to_vec()),
        prop::collection::vec((prop::sample::select(VARIABLES.to_vec()), value()), 0..7),
        input(),
    );
    let outcome = TestRunner::new(config).run(&strategy, |(name, variables, stdin)| {
        let mut call = Call::complete("ADD", &json!({}));
        call.stdin = stdin;
        call.env = variables.into_iter().map(|(name, value)| (name.into(), value)).collect();
        let reply = weft.run(name, &call).map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        one_document(&reply).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    outcome.map_err(|error| anyhow::anyhow!("{error}"))
}

/// Variables a call may have.
const VARIABLES: &[&str] = &[
    "CNI_COMMAND",
    "CNI_COMMAND",
    "CNI_CONTAINERID",
    "CNI_NETNS",
    "CNI_IFNAME",
    "CNI_ARGS",
    "CNI_PATH",
    "CNI_NETNS_OVERRIDE",
];

/// Generates a variable's value: often a plausible one, so that the call gets further.
pub(super) fn value() -> impl Strategy<Value = OsString> {
    let plausible = prop::sample::select(vec![
        "ADD",
        "DEL",
        "CHECK",
        "GC",
        "STATUS",
        "VERSION",
        "",
        "eth0",
        "some-id",
        "/proc/self/ns/net",
        "/dev/null",
        "IgnoreUnknown=1;K8S_POD_NAME=pod",
        "IP=10.0.0.1",
        "MAC=nonsense",
        "a=b=c",
        ";",
        "true",
        "/tmp:/nonexistent",
    ]);
    let random = prop::collection::vec(1_u8..=255, 0..40).prop_map(|bytes| OsStr::from_bytes(&bytes).to_owned());
    prop_oneof![3 => plausible.prop_map(OsString::from), 1 => random]
}

/// Generates stdin: noise, a truncated configuration, or one with replaced parts.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    let cut = (0_usize..400).prop_map(|length| {
        let mut text = sample("bridge").to_string().into_bytes();
        text.truncate(length);
        text
    });
    let changed = (
        prop::sample::select(NAMES.to_vec()),
        prop::collection::vec((prop::sample::select(POINTERS.to_vec()), leaf()), 0..4),
    )
        .prop_map(|(name, changes)| {
            let mut conf = sample(name);
            for (pointer, value) in changes {
                if let Some(place) = conf.pointer_mut(pointer) {
                    *place = value;
                }
            }
            conf.to_string().into_bytes()
        });
    prop_oneof![1 => noise, 1 => cut, 4 => changed]
}

/// Returns a configuration with nearly every key.
fn sample(name: &str) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": name, "bridge": "cni0", "isGateway": true, "ipMasq": false, "mtu": 1400,
        "vlan": 0, "master": "eth9", "mode": "bridge", "delegate": { "type": "bridge", "bridge": "cni1" },
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.1.2.0/24", "gateway": "10.1.2.1" }]],
                  "routes": [{ "dst": "0.0.0.0/0" }], "addresses": [{ "address": "10.1.2.3/24" }] },
        "dns": { "nameservers": ["192.0.2.1"] }, "args": { "cni": { "ips": ["10.1.2.9"], "mac": "02:00:00:00:00:01" } },
        "runtimeConfig": { "ips": ["10.1.2.9/24"], "mac": "02:00:00:00:00:01" }, "prevResult": null,
        "cni.dev/valid-attachments": [{ "containerID": "x", "ifname": "eth0" }]
    })
}

/// Pointers into it.
const POINTERS: &[&str] = &[
    "",
    "/cniVersion",
    "/name",
    "/type",
    "/bridge",
    "/isGateway",
    "/mtu",
    "/vlan",
    "/master",
    "/mode",
    "/delegate",
    "/delegate/type",
    "/ipam",
    "/ipam/type",
    "/ipam/ranges",
    "/ipam/ranges/0",
    "/ipam/ranges/0/0",
    "/ipam/ranges/0/0/subnet",
    "/ipam/ranges/0/0/gateway",
    "/ipam/routes",
    "/ipam/routes/0",
    "/ipam/routes/0/dst",
    "/ipam/addresses",
    "/ipam/addresses/0/address",
    "/dns",
    "/dns/nameservers",
    "/args",
    "/args/cni",
    "/args/cni/ips",
    "/args/cni/mac",
    "/runtimeConfig",
    "/runtimeConfig/ips",
    "/runtimeConfig/mac",
    "/prevResult",
    "/cni.dev~1valid-attachments",
    "/cni.dev~1valid-attachments/0",
];

fn leaf() -> impl Strategy<Value = Value> {
    let fixed = prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!([]),
        json!({}),
        json!([[]]),
        json!([null]),
        json!(""),
        json!("wasm"),
        json!("static"),
        json!("0.3.1"),
        json!("0.2.0"),
        json!("1.0.0"),
        json!("::/0"),
        json!("0.0.0.0/0"),
        json!("10.0.0.0/33"),
        json!("fd00::/64"),
        json!("nonsense"),
        json!("../../etc"),
        json!({ "type": "weft" }),
        json!("\u{0}"),
        json!("ü"),
    ]);
    prop_oneof![4 => fixed, 1 => "\\PC{0,40}".prop_map(Value::String)]
}

/// Passes bytes that are not UTF-8, in stdin and in every variable.
pub(super) fn not_utf8(weft: &NamesOnly) -> Result<()> {
    let mut call = Call::complete("ADD", &conf("1.0.0"));
    call.stdin = b"{\"name\": \"\xff\xfe\", \"cniVersion\": \"1.0.0\"}".to_vec();
    weft.run("bridge", &call)?.error().context("stdin")?;
    for variable in VARIABLES {
        let mut call = Call::complete("ADD", &conf("1.0.0"));
        call.env.push(((*variable).into(), OsStr::from_bytes(b"a\xff\xfe").to_owned()));
        weft.run("bridge", &call)?.error().context(*variable)?;
    }
    Ok(())
}

/// Refuses more input than any configuration has, without reading it all.
pub(super) fn endless(weft: &NamesOnly) -> Result<()> {
    let mut call = Call::complete("ADD", &conf("1.0.0"));
    call.limit = Duration::from_secs(30);
    call.stdin = vec![b' '; 96 << 20];
    let error = weft.run("bridge", &call)?.error()?;
    ensure!(error.code == 6, "code {} ({})", error.code, error.msg);
    Ok(())
}

/// A million brackets lead to an error, not a stack overflow.
pub(super) fn deep_nesting(weft: &NamesOnly) -> Result<()> {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let mut call = Call::complete("ADD", &conf("1.0.0"));
        let (left, right) = (open.repeat(100_000), close.repeat(100_000));
        call.stdin = format!("{{\"name\":\"net\",\"cniVersion\":\"1.0.0\",\"x\":{left}1{right}}}").into_bytes();
        let error = weft.run("bridge", &call)?.error()?;
        ensure!(error.code == 6, "code {} ({})", error.code, error.msg);
    }
    Ok(())
}

//! The interface of the specification and the reference library: environment, versions, error texts, the verbs' version
//! gates, and one JSON document on stdout for any input. Most of it needs no root.
//!
//! Debian's plugins (1.1.1) run the same table where they can, so the expectations are the reference's and not only
//! ours.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_kit::cni::{Call, Reply};
use weft_kit::process::Place;
use weft_kit::programs::{Installation, NAMES, reference_dir};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, Subject, World};

/// Every version of the specification.
const VERSIONS: &[&str] = &["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// weft's names without policies: made when the first trial asks, removed with the last owner.
#[derive(Clone, Default)]
struct Bare(Arc<OnceLock<Result<(Installation, TempDir), String>>>);

impl Bare {
    fn get(&self) -> Result<&(Installation, TempDir)> {
        let made = self.0.get_or_init(|| {
            let scratch = TempDir::new_in(sandbox::scratch()).map_err(|error| error.to_string())?;
            Ok((Installation::bare().map_err(|error| format!("{error:#}"))?, scratch))
        });
        made.as_ref().map_err(|error| anyhow::anyhow!(error.clone()))
    }

    fn run(&self, name: &str, call: &Call) -> Result<Reply> {
        let (installation, scratch) = self.get()?;
        let mut call = call.clone();
        call.env.insert(0, ("WEFT_STATE_DIR".into(), scratch.path().join("state").into()));
        call.run(&installation.bin().join(name), &Place::default())
    }
}

fn main() -> ExitCode {
    // As root, the trials run in a namespace of their own, so that random input cannot affect the machine's network.
    sandbox::enter();
    let bare = Bare::default();
    let mut suite = Suite::new();
    for row in rows() {
        let (own, weft) = (row.clone(), bare.clone());
        suite.test(format!("weft/{}", row.name), &[Need::Weft], move || own.check(&|call| weft.run("bridge", call)));
        if row.known_to_reference {
            let needs = [Need::Reference];
            suite.test(format!("reference/{}", row.name), &needs, move || {
                let plugin = reference_dir().map_err(anyhow::Error::msg)?.join("bridge");
                row.check(&|call| call.run(&plugin, &Place::default()))
            });
        }
    }
    for name in NAMES {
        let weft = bare.clone();
        suite.test(format!("version/{name}"), &[Need::Weft], move || version(&weft, name));
        let weft = bare.clone();
        suite.test(format!("about/{name}"), &[Need::Weft], move || about(name, &|call| weft.run(name, call)));
    }
    for name in ["bridge", "bandwidth", "firewall", "vrf"] {
        suite.test(format!("about/reference/{name}"), &[Need::Reference], move || {
            let plugin = reference_dir().map_err(anyhow::Error::msg)?.join(name);
            about(name, &|call| call.run(&plugin, &Place::default()))
        });
    }
    let weft = bare.clone();
    suite.test("garbage/one-document", &[Need::Weft], move || garbage(&weft));
    let weft = bare.clone();
    suite.test("garbage/not-utf8", &[Need::Weft], move || not_utf8(&weft));
    let weft = bare.clone();
    suite.test("garbage/endless-stdin", &[Need::Weft], move || endless(&weft));
    let weft = bare.clone();
    suite.test("garbage/deep-nesting", &[Need::Weft], move || deep(&weft));
    with_installation(&mut suite);
    suite.run()
}

/// One call and its expected error.
#[derive(Clone)]
struct Row {
    name: &'static str,
    call: Call,
    code: u64,
    msg: &'static str,
    /// `None`: not compared.
    details: Option<&'static str>,
    /// Whether `msg` is only a prefix: the rest comes from a JSON parser.
    prefix: bool,
    known_to_reference: bool,
}

impl Row {
    fn check(&self, run: &dyn Fn(&Call) -> Result<Reply>) -> Result<()> {
        let reply = run(&self.call)?;
        let error = reply.error()?;
        reply.layout()?;
        ensure!(error.code == self.code, "code {} instead of {} ({})", error.code, self.code, error.msg);
        let same = if self.prefix { error.msg.starts_with(self.msg) } else { error.msg == self.msg };
        ensure!(same, "msg {:?} instead of {:?}", error.msg, self.msg);
        if let Some(details) = self.details {
            ensure!(error.details == details, "details {:?} instead of {details:?}", error.details);
        }
        let document = reply.json()?;
        let known = |key: &&String| !matches!(key.as_str(), "code" | "msg" | "details");
        let extra: Vec<_> = document.as_object().into_iter().flat_map(|fields| fields.keys()).filter(known).collect();
        ensure!(extra.is_empty(), "an error object has no {extra:?}");
        Ok(())
    }
}

/// Returns a layer 2 bridge, which needs no policy.
fn conf(version: &str) -> Value {
    json!({ "cniVersion": version, "name": "net", "type": "bridge" })
}

fn row(name: &'static str, code: u64, msg: &'static str, call: Call) -> Row {
    Row { name, call, code, msg, details: Some(""), prefix: false, known_to_reference: true }
}

fn edit(verb: &str, change: impl FnOnce(&mut Call)) -> Call {
    let mut call = Call::full(verb, &conf("1.0.0"));
    change(&mut call);
    call
}

fn stdin(verb: &str, text: &str) -> Call {
    edit(verb, |call| call.stdin = text.as_bytes().to_vec())
}

fn rows() -> Vec<Row> {
    let mut rows = environment_rows();
    rows.extend(value_rows());
    rows.extend(stdin_rows());
    rows.extend(gate_rows());
    rows
}

/// Returns calls with missing variables, which are reported all at once.
fn environment_rows() -> Vec<Row> {
    let only = |verb: &str| Call::new(verb, &conf("1.0.0"));
    vec![
        row("unknown-command", 4, "unknown CNI_COMMAND: FOO", edit("FOO", |_| ())),
        row("lower-case-command", 4, "unknown CNI_COMMAND: add", edit("add", |_| ())),
        row(
            "missing-all-add",
            4,
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing",
            only("ADD"),
        ),
        row(
            "missing-all-check",
            4,
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing",
            only("CHECK"),
        ),
        row("missing-all-del", 4, "required env variables [CNI_CONTAINERID,CNI_IFNAME,CNI_PATH] missing", only("DEL")),
        row(
            "missing-id",
            4,
            "required env variables [CNI_CONTAINERID] missing",
            edit("ADD", |call| call.container_id = None),
        ),
        row(
            "empty-id",
            4,
            "required env variables [CNI_CONTAINERID] missing",
            edit("ADD", |call| call.container_id = Some(String::new())),
        ),
        row("missing-netns", 4, "required env variables [CNI_NETNS] missing", edit("ADD", |call| call.netns = None)),
        row("missing-ifname", 4, "required env variables [CNI_IFNAME] missing", edit("DEL", |call| call.ifname = None)),
        row("missing-path", 4, "required env variables [CNI_PATH] missing", edit("DEL", |call| call.path = None)),
    ]
}

/// Returns calls with wrong values.
fn value_rows() -> Vec<Row> {
    let ifname = |name: &'static str, value: &str, msg| {
        row(name, 4, msg, edit("ADD", |call| call.ifname = Some(value.to_owned())))
    };
    let id = |name: &'static str, value: &'static str| Row {
        details: Some(value),
        ..row(
            name,
            4,
            "invalid characters in containerID",
            edit("ADD", |call| call.container_id = Some(value.to_owned())),
        )
    };
    let strange = "interface name contains / or : or whitespace characters";
    vec![
        id("id-slash", "some/container"),
        id("id-leading-dash", "-container"),
        id("id-space", "some container"),
        Row {
            details: Some("interface name should be less than 16 characters"),
            ..ifname("ifname-too-long", "1234567890123456", "interface name is too long")
        },
        ifname("ifname-dot", ".", "interface name is . or .."),
        ifname("ifname-dots", "..", "interface name is . or .."),
        ifname("ifname-slash", "eth/0", strange),
        ifname("ifname-colon", "eth:0", strange),
        ifname("ifname-space", "eth 0", strange),
        // Values are checked in order: a wrong id is reported although the path is missing (1.1.1 collects first).
        Row {
            known_to_reference: false,
            details: Some("a/b"),
            ..row(
                "wrong-before-missing",
                4,
                "invalid characters in containerID",
                edit("ADD", |call| {
                    call.container_id = Some("a/b".to_owned());
                    call.path = None;
                }),
            )
        },
    ]
}

/// Returns calls whose stdin is no configuration.
fn stdin_rows() -> Vec<Row> {
    let decode = |name, text| Row {
        prefix: true,
        details: None,
        ..row(name, 6, "error unmarshall network config:", stdin("ADD", text))
    };
    let named = |name, text, details| Row {
        details: Some(details),
        ..row(name, 7, "invalid characters found in network name", stdin("ADD", text))
    };
    let missing = |name, text| row(name, 7, "missing network name", stdin("ADD", text));
    vec![
        decode("stdin-empty", ""),
        decode("stdin-no-json", "nonsense"),
        decode("stdin-cut", "{\"cniVersion\": \"1.0.0\", \"name\": \"net\""),
        decode("stdin-list", "[]"),
        decode("stdin-two-documents", "{\"name\":\"net\"} {}"),
        decode("stdin-name-number", "{\"cniVersion\": \"1.0.0\", \"name\": 7}"),
        missing("name-missing", "{\"cniVersion\": \"1.0.0\", \"type\": \"bridge\"}"),
        missing("name-empty", "{\"cniVersion\": \"1.0.0\", \"name\": \"\"}"),
        missing("name-null", "{\"cniVersion\": \"1.0.0\", \"name\": null}"),
        missing("stdin-null", "null"),
        missing("stdin-object", "{}"),
        named("name-slash", "{\"cniVersion\": \"1.0.0\", \"name\": \"a/b\"}", "a/b"),
        named("name-leading-dot", "{\"cniVersion\": \"1.0.0\", \"name\": \".net\"}", ".net"),
        named("name-any-case-key", "{\"cniVersion\": \"1.0.0\", \"NAME\": \"a b\"}", "a b"),
    ]
}

/// Returns versions, and the verbs of each.
fn gate_rows() -> Vec<Row> {
    let with = |verb: &str, version: &str| Call::full(verb, &conf(version));
    let no_check = "config version does not allow CHECK";
    let ours = |row: Row| Row { known_to_reference: false, ..row };
    let supports =
        "config is \"9.9.9\", plugin supports [\"0.1.0\" \"0.2.0\" \"0.3.0\" \"0.3.1\" \"0.4.0\" \"1.0.0\" \"1.1.0\"]";
    vec![
        ours(Row {
            details: Some(supports),
            ..row("version-unknown", 1, "incompatible CNI versions", with("ADD", "9.9.9"))
        }),
        Row { details: None, ..row("version-unknown-any", 1, "incompatible CNI versions", with("ADD", "9.9.9")) },
        Row { details: None, ..row("version-unknown-del", 1, "incompatible CNI versions", with("DEL", "0.3.2")) },
        Row {
            details: None,
            ..row(
                "version-key-any-case",
                1,
                "incompatible CNI versions",
                stdin("ADD", "{\"CNIVERSION\":\"9.9.9\",\"name\":\"net\"}"),
            )
        },
        row("check-0.1.0", 1, no_check, with("CHECK", "0.1.0")),
        row("check-0.3.1", 1, no_check, with("CHECK", "0.3.1")),
        row("check-no-version", 1, no_check, stdin("CHECK", "{\"name\":\"net\",\"type\":\"bridge\"}")),
        ours(row("gc-1.0.0", 1, "config version does not allow GC", with("GC", "1.0.0"))),
        ours(row("gc-0.1.0", 1, "config version does not allow GC", with("GC", "0.1.0"))),
        ours(row("status-1.0.0", 1, "config version does not allow STATUS", with("STATUS", "1.0.0"))),
        ours(row(
            "status-missing-path",
            4,
            "required env variables [CNI_PATH] missing",
            edit("STATUS", |call| call.path = None),
        )),
        ours(row(
            "gc-missing-path",
            4,
            "required env variables [CNI_PATH] missing",
            edit("GC", |call| call.path = None),
        )),
    ]
}

/// VERSION needs nothing, reads nothing, and prints one line. Newer plugins do not support versions that are older than
/// they are.
fn spoken_by(name: &str) -> &'static [&'static str] {
    match name {
        "bandwidth" => &VERSIONS[2..],
        "vrf" => &VERSIONS[3..],
        "firewall" => &VERSIONS[4..],
        _ => VERSIONS,
    }
}

fn version(weft: &Bare, name: &str) -> Result<()> {
    let mut call = Call::new("VERSION", &json!({}));
    for text in [&b"nonsense"[..], b"", b"{\"cniVersion\":\"0.4.0\"}"] {
        call.stdin = text.to_vec();
        let reply = weft.run(name, &call)?;
        ensure!(reply.ok(), "VERSION failed: {:?}", reply.stdout);
        let versions = spoken_by(name).iter().map(|version| format!("\"{version}\"")).collect::<Vec<_>>().join(",");
        let want = format!("{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[{versions}]}}\n");
        ensure!(reply.stdout == want.as_bytes(), "VERSION printed {:?}", String::from_utf8_lossy(&reply.stdout));
    }
    Ok(())
}

/// Called by a person, without CNI_COMMAND: prints what it is to stderr, and succeeds.
fn about(name: &str, run: &dyn Fn(&Call) -> Result<Reply>) -> Result<()> {
    let mut call = Call::new("", &json!({}));
    call.command = None;
    let reply = run(&call)?;
    reply.quiet()?;
    // The reference may be older than the newest version.
    let oldest = format!("CNI protocol versions supported: {}", spoken_by(name)[..2].join(", "));
    ensure!(reply.stderr.contains(&oldest), "stderr: {:?}", reply.stderr);
    Ok(())
}

/// Checks what every call must return, for any input.
fn one_document(reply: &Reply) -> Result<()> {
    match reply.status {
        Some(1) => reply.error().map(drop),
        Some(0) if reply.stdout.is_empty() => Ok(()),
        Some(0) => reply.json().map(drop),
        other => bail!("exit status {other:?}: {:?} {:?}", String::from_utf8_lossy(&reply.stdout), reply.stderr),
    }
}

/// Runs random environments with random or nearly right configurations.
fn garbage(weft: &Bare) -> Result<()> {
    weft.get()?;
    let config = Config { cases: 600, failure_persistence: None, ..Config::default() };
    let strategy = (
        prop::sample::select(NAMES.to_vec()),
        prop::collection::vec((prop::sample::select(VARIABLES.to_vec()), value()), 0..7),
        input(),
    );
    let outcome = TestRunner::new(config).run(&strategy, |(name, variables, stdin)| {
        let mut call = Call::full("ADD", &json!({}));
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
fn value() -> impl Strategy<Value = OsString> {
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
fn not_utf8(weft: &Bare) -> Result<()> {
    let mut call = Call::full("ADD", &conf("1.0.0"));
    call.stdin = b"{\"name\": \"\xff\xfe\", \"cniVersion\": \"1.0.0\"}".to_vec();
    weft.run("bridge", &call)?.error().context("stdin")?;
    for variable in VARIABLES {
        let mut call = Call::full("ADD", &conf("1.0.0"));
        call.env.push(((*variable).into(), OsStr::from_bytes(b"a\xff\xfe").to_owned()));
        weft.run("bridge", &call)?.error().context(*variable)?;
    }
    Ok(())
}

/// Refuses more input than any configuration has, without reading it all.
fn endless(weft: &Bare) -> Result<()> {
    let mut call = Call::full("ADD", &conf("1.0.0"));
    call.limit = Duration::from_secs(30);
    call.stdin = vec![b' '; 96 << 20];
    let error = weft.run("bridge", &call)?.error()?;
    ensure!(error.code == 6, "code {} ({})", error.code, error.msg);
    Ok(())
}

/// A million brackets lead to an error, not a stack overflow.
fn deep(weft: &Bare) -> Result<()> {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let mut call = Call::full("ADD", &conf("1.0.0"));
        let (left, right) = (open.repeat(100_000), close.repeat(100_000));
        call.stdin = format!("{{\"name\":\"net\",\"cniVersion\":\"1.0.0\",\"x\":{left}1{right}}}").into_bytes();
        let error = weft.run("bridge", &call)?.error()?;
        ensure!(error.code == 6, "code {} ({})", error.code, error.msg);
    }
    Ok(())
}

/// Trials with namespaces and policies.
fn with_installation(suite: &mut Suite) {
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl];
    suite.test("status/ready", &needs, || status(&layer3("1.1.0"), None));
    suite.test("status/bad-conf", &needs, || {
        let mut conf = layer3("1.1.0");
        conf["ipam"]["ranges"] = json!([[{ "subnet": "nonsense" }]]);
        status(&conf, Some(7))
    });
    suite.test("gc/valid-attachments", &needs, || gc("cni.dev/valid-attachments", "containerID"));
    suite.test("gc/attachments", &needs, || gc("cni.dev/attachments", "containerID"));
    suite.test("gc/no-list", &needs, gc_without_list);
    suite.test("gc/empty-list", &needs, gc_empty_list);
    for (name, value, allowed) in [
        ("own", None, false),
        ("override-1", Some("1"), true),
        ("override-true", Some("True"), true),
        ("override-0", Some("0"), false),
        ("override-yes", Some("yes"), false),
    ] {
        suite.test(format!("netns/{name}"), &needs, move || own_netns(&installed()?.0, value, allowed));
        // The check is newer than Debian's plugins; what it allows, they allow.
        if allowed {
            suite.test(format!("netns/reference-{name}"), &[Need::Sandbox, Need::Reference], move || {
                own_netns(&Subject::reference()?, value, allowed)
            });
        }
    }
    suite.test("keys/null-and-case", &needs, null_and_case);
    suite.test("result/1.1.0", &needs, newest_result);
}

/// Returns weft with its policies; the second value keeps the files.
fn installed() -> Result<(Subject, Installation)> {
    let installation = Installation::new()?;
    Ok((Subject::weft(&installation), installation))
}

fn layer3(version: &str) -> Value {
    json!({
        "cniVersion": version, "name": "net", "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.1.2.0/24" }]] }
    })
}

fn status(conf: &Value, code: Option<u64>) -> Result<()> {
    let (subject, _installation) = installed()?;
    let world = World::new(&subject)?;
    let mut call = Call::new("STATUS", conf);
    call.path = Some(subject.bin.display().to_string());
    call.env.push(("WEFT_STATE_DIR".into(), world.state().into()));
    let reply = world.run(&call, "bridge")?;
    match code {
        None => reply.quiet(),
        Some(code) => {
            let error = reply.error()?;
            ensure!(error.code == code || error.code == 50, "code {} ({})", error.code, error.msg);
            ensure!(error.msg.contains("nonsense"), "msg names not what is wrong: {}", error.msg);
            Ok(())
        }
    }
}

/// Makes three attachments, and calls GC with a change to the configuration.
fn collected(change: impl FnOnce(&mut Value)) -> Result<Vec<String>> {
    let (subject, _installation) = installed()?;
    let mut world = World::new(&subject)?;
    let conf = layer3("1.1.0");
    for container in ["a", "b", "c"] {
        world.call("ADD", &Attach::eth0(container), &conf)?.result()?;
    }
    let mut gc = conf.clone();
    change(&mut gc);
    for _ in 0..2 {
        let mut call = world.prepare("GC", &Attach::eth0("a"), &gc)?;
        (call.container_id, call.netns, call.ifname) = (None, None, None);
        world.run(&call, "bridge")?.quiet()?;
    }
    let mut alive = Vec::new();
    for (name, netns) in world.containers() {
        if netns.line("ip link show eth0").is_ok() {
            alive.push(name.clone());
        }
    }
    // The collected container's address is free again, the others' are not.
    let again = world.call("ADD", &Attach::eth0("d"), &json_with(&conf, "10.1.2.2"));
    let free = again?.ok();
    ensure!(free != alive.contains(&"a".to_owned()), "the address of a is {}", if free { "free" } else { "taken" });
    Ok(alive)
}

/// Returns the configuration with one requested address.
fn json_with(conf: &Value, ip: &str) -> Value {
    let mut conf = conf.clone();
    conf["args"] = json!({ "cni": { "ips": [ip] } });
    conf
}

fn gc(key: &'static str, id: &'static str) -> Result<()> {
    let alive =
        collected(|conf| conf[key] = json!([{ id: "cid-b", "ifname": "eth0" }, { id: "cid-x", "ifname": "eth0" }]))?;
    ensure!(alive == ["b"], "alive after GC: {alive:?}");
    Ok(())
}

/// Without either key GC does not know which attachments are valid, and changes nothing.
fn gc_without_list() -> Result<()> {
    let alive = collected(|_| ())?;
    ensure!(alive == ["a", "b", "c"], "alive after GC without a list: {alive:?}");
    Ok(())
}

/// An empty list means that nothing is valid.
fn gc_empty_list() -> Result<()> {
    let alive = collected(|conf| conf["cni.dev/valid-attachments"] = json!([]))?;
    ensure!(alive.is_empty(), "alive after GC with an empty list: {alive:?}");
    Ok(())
}

/// CNI_NETNS is the plugin's own namespace.
fn own_netns(subject: &Subject, value: Option<&str>, allowed: bool) -> Result<()> {
    let mut world = World::new(subject)?;
    let conf = json!({ "cniVersion": "1.0.0", "name": "net", "type": "host-local",
                       "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.1.2.0/24" }]] } });
    let own = world.host().path().display().to_string();
    for verb in ["ADD", "DEL"] {
        let mut call = world.prepare(verb, &Attach::eth0("a"), &conf)?;
        call.netns = Some(own.clone());
        call.env.extend(value.map(|value| ("CNI_NETNS_OVERRIDE".into(), value.into())));
        let reply = world.run(&call, "host-local")?;
        // DEL cleans up for any input, or a runtime would repeat it for ever.
        if allowed || verb == "DEL" {
            ensure!(
                reply.ok(),
                "{verb} with CNI_NETNS_OVERRIDE {value:?} failed: {:?}",
                String::from_utf8_lossy(&reply.stdout)
            );
            continue;
        }
        let error = reply.error().context(verb)?;
        ensure!(error.code == 8, "{verb}: code {} ({})", error.code, error.msg);
        let text = "plugin's netns and netns from CNI_NETNS should not be the same";
        ensure!(error.msg == text, "{verb}: msg {:?}", error.msg);
    }
    Ok(())
}

/// Decodes as Go does: case-insensitively, and `null` means absent.
fn null_and_case() -> Result<()> {
    let (subject, _installation) = installed()?;
    let mut world = World::new(&subject)?;
    let conf = json!({
        "CniVersion": "1.1.0", "Name": "net", "TYPE": "weft", "type": "weft", "args": null, "RuntimeConfig": null, "prevresult": null,
        "DELEGATE": { "Type": "bridge", "BRIDGE": "cni7", "isgateway": true, "mtu": null },
        "Ipam": { "TYPE": "host-local", "Subnet": null, "routes": null, "resolvConf": "", "RANGES": [[{ "SUBNET": "10.1.2.0/24", "gateway": null }]] },
        "dns": null, "ledger": null
    });
    let result = world.call("ADD", &Attach::eth0("a"), &conf)?.result()?;
    ensure!(result.pointer("/ips/0/address") == Some(&json!("10.1.2.2/24")), "{result}");
    ensure!(result.pointer("/interfaces/0/name") == Some(&json!("cni7")), "{result}");
    world.call("DEL", &Attach::eth0("a"), &conf)?.quiet()
}

/// The newest version's result, byte for byte except MAC addresses and the random name.
fn newest_result() -> Result<()> {
    let (subject, _installation) = installed()?;
    let mut world = World::new(&subject)?;
    let reply = world.call("ADD", &Attach::eth0("a"), &layer3("1.1.0"))?;
    reply.layout()?;
    let result = reply.result()?;
    let keys: Vec<&String> = result.as_object().context("an object")?.keys().collect();
    ensure!(keys == ["cniVersion", "interfaces", "ips"], "keys {keys:?}");
    let field = |pointer: &str| result.pointer(pointer).cloned().unwrap_or_default();
    let netns = PathBuf::from(field("/interfaces/2/sandbox").as_str().unwrap_or_default());
    ensure!(netns == world.container("a")?.path(), "sandbox {}", netns.display());
    ensure!(field("/cniVersion") == "1.1.0", "{result}");
    ensure!(field("/ips/0") == json!({ "address": "10.1.2.2/24", "gateway": "10.1.2.1", "interface": 2 }), "{result}");
    world.call("DEL", &Attach::eth0("a"), &layer3("1.1.0"))?.quiet()
}

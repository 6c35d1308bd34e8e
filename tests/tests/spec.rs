//! The interface of the specification and the reference library: environment, versions, error texts, the verbs' version
//! gates, and one JSON document on stdout for any input. Most of it needs no root.
//!
//! Debian's plugins (1.1.1) run the same table where they can, so the expectations are the reference's and not only
//! ours.

#[path = "spec/garbage.rs"]
mod garbage;
#[path = "spec/installed.rs"]
mod installed;
#[path = "spec/rows.rs"]
mod rows;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_kit::cni::{Call, Reply};
use weft_kit::process::Place;
use weft_kit::programs::{Installation, NAMES, reference_dir};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

use self::garbage::{deep_nesting, endless, garbage, not_utf8};
use self::installed::with_installation;
use self::rows::rows;

/// Every version of the specification.
const VERSIONS: &[&str] = &["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// weft's names without policies: made when the first trial asks, removed with the last owner.
#[derive(Clone, Default)]
struct NamesOnly(Arc<OnceLock<Result<(Installation, TempDir), String>>>);

impl NamesOnly {
    fn get(&self) -> Result<&(Installation, TempDir)> {
        let made = self.0.get_or_init(|| {
            let scratch = TempDir::new_in(sandbox::scratch()).map_err(|error| error.to_string())?;
            Ok((Installation::names_only().map_err(|error| format!("{error:#}"))?, scratch))
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
    let bare = NamesOnly::default();
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
        suite.test(format!("about/{name}"), &[Need::Weft], move || {
            about_without_command(name, &|call| weft.run(name, call))
        });
    }
    for name in ["bridge", "bandwidth", "firewall", "vrf"] {
        suite.test(format!("about/reference/{name}"), &[Need::Reference], move || {
            let plugin = reference_dir().map_err(anyhow::Error::msg)?.join(name);
            about_without_command(name, &|call| call.run(&plugin, &Place::default()))
        });
    }
    let weft = bare.clone();
    suite.test("garbage/one-document", &[Need::Weft], move || garbage(&weft));
    let weft = bare.clone();
    suite.test("garbage/not-utf8", &[Need::Weft], move || not_utf8(&weft));
    let weft = bare.clone();
    suite.test("garbage/endless-stdin", &[Need::Weft], move || endless(&weft));
    let weft = bare.clone();
    suite.test("garbage/deep-nesting", &[Need::Weft], move || deep_nesting(&weft));
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

fn version(weft: &NamesOnly, name: &str) -> Result<()> {
    let mut call = Call::new("VERSION", &json!({}));
    for text in [&b"nonsense"[..], b"", b"{\"cniVersion\":\"0.4.0\"}"] {
        call.stdin = text.to_vec();
        let reply = weft.run(name, &call)?;
        ensure!(reply.is_ok(), "VERSION failed: {:?}", reply.stdout);
        let versions = spoken_by(name).iter().map(|version| format!("\"{version}\"")).collect::<Vec<_>>().join(",");
        let want = format!("{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[{versions}]}}\n");
        ensure!(reply.stdout == want.as_bytes(), "VERSION printed {:?}", String::from_utf8_lossy(&reply.stdout));
    }
    Ok(())
}

/// Called by a person, without CNI_COMMAND: prints what it is to stderr, and succeeds.
fn about_without_command(name: &str, run: &dyn Fn(&Call) -> Result<Reply>) -> Result<()> {
    let mut call = Call::new("", &json!({}));
    call.command = None;
    let reply = run(&call)?;
    reply.expect_quiet()?;
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

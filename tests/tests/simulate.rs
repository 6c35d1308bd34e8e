//! `weftctl policy simulate`: the same seed gives the same run, and the measurements match the known properties of two
//! shipped policies.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_kit::process::{self, Place};
use weft_kit::programs;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

/// A hang is an error; a slow machine is not.
const LIMIT: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    sandbox::enter();
    let mut suite = Suite::new();
    let needs = [Need::Sandbox, Need::Weftctl];
    suite.test("seed", &needs, seed);
    suite.test("terminal", &[&needs[..], &[Need::Tool("script")]].concat(), terminal);
    suite.test("host-local-against-cluster-wide", &needs, compares_policies);
    suite.test("exhaustion", &needs, exhaustion);
    suite.test("exhaustion-of-one-node", &needs, exhaustion_of_one_node);
    suite.test("keep", &needs, keep);
    suite.test("cooldown", &needs, cooldown);
    suite.test("sets-by-label", &needs, sets_by_label);
    suite.test("pictures", &[&needs[..], &[Need::Tool("python3")]].concat(), pictures);
    suite.test("refusals-and-traps", &needs, refusals_and_traps);
    suite.test("wrong-arguments", &needs, wrong_arguments);
    suite.run_threads(Some(2))
}

/// Runs it in an empty directory. Returns whether it succeeded, its stdout, and its stderr.
fn simulate(dir: &TempDir, arguments: &[&str]) -> Result<(bool, String, String)> {
    let mut command = Command::new(programs::weftctl().map_err(anyhow::Error::msg)?);
    command.current_dir(dir.path()).arg("--state-dir").arg(dir.path().join("state"));
    command.args(["policy", "simulate"]).args(arguments).env_remove("COLUMNS");
    let output = process::output(&Place::default(), command, b"", LIMIT)?;
    Ok((output.status == Some(0), output.text(), output.stderr))
}

/// Returns the JSON answer.
fn report(dir: &TempDir, arguments: &[&str]) -> Result<Value> {
    let (ok, text, stderr) = simulate(dir, &[&["--json"], arguments].concat())?;
    ensure!(ok, "{arguments:?}: {text}{stderr}");
    // A progress bar is for terminals.
    ensure!(stderr.is_empty(), "{stderr}");
    serde_json::from_str(&text).with_context(|| text)
}

fn scratch() -> Result<TempDir> {
    TempDir::new_in(sandbox::scratch()).context("scratch directory")
}

fn number(of: &Value, key: &str) -> Result<f64> {
    of[key].as_f64().with_context(|| format!("{key} in {of}"))
}

/// The same seed gives the same output, byte for byte, in every format.
fn seed() -> Result<()> {
    let dir = scratch()?;
    let course = |seed: &str, more: &[&str]| {
        let common = ["--policy", "cluster-wide", "--nodes", "30", "--pods", "800", "--running", "200", "--seed", seed];
        simulate(&dir, &[&common, more].concat()).map(|(ok, text, stderr)| (ok, text + &stderr))
    };
    let (first, second) =
        (dir.path().join("a.svg").display().to_string(), dir.path().join("b.svg").display().to_string());
    let once = course("7", &["--plot", &first])?;
    ensure!(once.0, "{}", once.1);
    ensure!(once == course("7", &["--plot", &second])?, "the same seed gave another table");
    ensure!(fs::read(&first)? == fs::read(&second)?, "the same seed gave another picture");
    let json = course("7", &["--json"])?;
    ensure!(json == course("7", &["--json"])?, "the same seed gave another document");
    ensure!(course("8", &[])?.1.replace("seed 8", "seed 7") != once.1, "another seed gave the same course");
    let widest = once.1.lines().map(|line| line.chars().count()).max();
    ensure!(widest.is_some_and(|widest| widest <= 80), "a line is {widest:?} columns wide:\n{}", once.1);
    Ok(())
}

/// On a terminal, a bar shows how many pods have been started. The table follows it, and is the same as in a pipe.
fn terminal() -> Result<()> {
    let dir = scratch()?;
    let common = ["--policy", "cluster-wide", "--nodes", "5", "--pods", "400", "--no-fill"];
    let (ok, table, stderr) = simulate(&dir, &common)?;
    ensure!(ok && stderr.is_empty(), "{table}{stderr}");
    let program = programs::weftctl().map_err(anyhow::Error::msg)?;
    let state = dir.path().join("state");
    let line = format!("{} --state-dir {} policy simulate {}", program.display(), state.display(), common.join(" "));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env_remove("COLUMNS").current_dir(dir.path());
    let shown = process::output(&Place::default(), command, b"", LIMIT)?.success("script")?.text();
    ensure!(shown.contains("cluster-wide [") && shown.contains("/400 pods"), "no progress on a terminal: {shown:?}");
    let plain = shown.replace("\r\n", "\n");
    ensure!(plain.ends_with(&table), "the table differs:\n{plain}\n{table}");
    Ok(())
}

/// With the same pods, the shipped policy for many nodes meets far fewer conflicts than the one for one node.
fn compares_policies() -> Result<()> {
    let dir = scratch()?;
    let of =
        report(&dir, &["--policy", "host-local", "--against", "cluster-wide", "--nodes", "100", "--pods", "3000"])?;
    let [host_local, cluster_wide] = [&of["policies"][0], &of["policies"][1]];
    ensure!(host_local["policy"] == "host-local" && cluster_wide["policy"] == "cluster-wide", "{of}");
    for policy in [host_local, cluster_wide] {
        ensure!(policy["pods"] == 3000 && policy["granted"] == 3000, "{policy}");
        ensure!(policy["refused"] == json!({}), "{policy}");
    }
    let (worse, better) = (number(host_local, "conflictsPerClaim")?, number(cluster_wide, "conflictsPerClaim")?);
    ensure!(worse > 10.0 * better && worse > 1.0, "{worse} and {better} conflicts per claim");
    ensure!(number(host_local, "lists")? > 10.0 * number(cluster_wide, "lists")?, "{of}");
    // It also reuses an address later.
    ensure!(
        cluster_wide["reuseClaims"]["median"].as_u64() > host_local["reuseClaims"]["median"].as_u64(),
        "{} and {}",
        host_local["reuseClaims"],
        cluster_wide["reuseClaims"]
    );
    Ok(())
}

/// The first refused pod finds the pool full to the last address, for any policy and any number of nodes.
fn exhaustion() -> Result<()> {
    let dir = scratch()?;
    for policy in ["host-local", "cluster-wide"] {
        let common = ["--policy", policy, "--range", "10.9.0.0/25", "--nodes", "12", "--pods", "300"];
        let of = report(&dir, &common)?;
        // Without the network's, the gateway's and the broadcast address.
        ensure!(of["policies"][0]["exhaustedAt"] == 125, "{policy}: {of}");
        ensure!(of["policies"][0]["sets"][0]["size"] == 125, "{policy}: {of}");
        let of = report(&dir, &[&common[..], &["--no-fill"]].concat())?;
        ensure!(of["policies"][0]["exhaustedAt"] == Value::Null, "{policy}: {of}");
    }
    // Of two families, the smaller one ends the run.
    let of = report(
        &dir,
        &[
            "--policy",
            "host-local",
            "--range",
            "10.9.0.0/27",
            "--range",
            "fd00:9::/64",
            "--nodes",
            "3",
            "--pods",
            "100",
        ],
    )?;
    let sets = &of["policies"][0]["sets"];
    ensure!(sets[0]["takenWhenExhausted"] == 29 && sets[0]["size"] == 29, "{sets}");
    ensure!(sets[1]["takenWhenExhausted"].as_u64() < Some(40), "{sets}");
    Ok(())
}

/// A single node knows all claims, so there are no conflicts.
fn exhaustion_of_one_node() -> Result<()> {
    let dir = scratch()?;
    let of = report(
        &dir,
        &["--policy", "host-local", "--range", "10.9.0.0/25", "--nodes", "1", "--pods", "400", "--burst", "1"],
    )?;
    let of = &of["policies"][0];
    ensure!(of["exhaustedAt"] == 125 && of["conflicts"] == 0 && of["lists"] == 0, "{of}");
    ensure!(of["callsPerPod"] == 1.0, "{of}");
    // Round robin reuses most addresses after one lap over the free ones: with 87 of 125 in use, about 38 claims.
    ensure!(of["reuseClaims"]["median"].as_u64() >= Some(30), "{}", of["reuseClaims"]);
    Ok(())
}

/// Writes a network file with this `ipam` object.
fn network(dir: &TempDir, ipam: &Value) -> Result<String> {
    let network =
        json!({ "cniVersion": "1.1.0", "name": "own", "type": "weft", "delegate": { "type": "dummy" }, "ipam": ipam });
    let file = dir.path().join("network.json");
    fs::write(&file, network.to_string())?;
    Ok(file.display().to_string())
}

/// Pods of a StatefulSet get back what is kept for their names, and only then.
fn keep() -> Result<()> {
    let dir = scratch()?;
    for (release, all) in [("keep", true), ("free", false)] {
        let ipam = json!({ "type": "cluster-wide", "ranges": [[{ "subnet": "10.9.0.0/22" }]], "release": release });
        let file = network(&dir, &ipam)?;
        let of = report(
            &dir,
            &[
                "--policy",
                "cluster-wide",
                "--network",
                &file,
                "--nodes",
                "9",
                "--pods",
                "600",
                "--running",
                "150",
                "--stateful",
                "100",
                "--no-fill",
            ],
        )?;
        let of = &of["policies"][0];
        let (returned, own) = (number(of, "returned")?, number(of, "returnedToOwn")?);
        ensure!(returned > 100.0, "{of}");
        ensure!(
            if all { (returned - own).abs() < 0.5 } else { own < returned / 2.0 },
            "{release}: {own} of {returned}"
        );
    }
    Ok(())
}

/// An address in cooldown is not allocated before its time.
fn cooldown() -> Result<()> {
    let dir = scratch()?;
    let report_with_release = |release: Value| {
        let file = network(
            &dir,
            &json!({ "type": "cluster-wide", "ranges": [[{ "subnet": "10.9.0.0/25" }]], "release": release }),
        )?;
        report(
            &dir,
            &[
                "--policy",
                "cluster-wide",
                "--network",
                &file,
                "--nodes",
                "5",
                "--pods",
                "900",
                "--running",
                "60",
                "--lifetime",
                "100",
                "--stateful",
                "0",
                "--no-fill",
            ],
        )
    };
    let (rested, free) = (report_with_release(json!({ "cooldown": 20 }))?, report_with_release(json!("free"))?);
    let used = |of: &Value| {
        let samples = of["policies"][0]["samples"].as_array().cloned().unwrap_or_default();
        samples.iter().filter_map(|sample| sample["used"].as_f64()).fold(0.0, f64::max)
    };
    let soonest = |of: &Value| of["policies"][0]["reuseSeconds"]["min"].as_u64();
    ensure!(soonest(&rested) >= Some(20) && soonest(&free) < Some(20), "{rested} and {free}");
    ensure!(used(&rested) > used(&free) + 5.0, "{} and {} percent", used(&rested), used(&free));
    Ok(())
}

/// Labels of nodes and pods select range sets, and sets of different sizes fill differently.
fn sets_by_label() -> Result<()> {
    let dir = scratch()?;
    let ipam = json!({ "type": "cluster-wide", "default": "rest",
        "rules": [{ "matchNodeLabels": { "rack": "a" }, "set": "rack-a" }],
        "ranges": [{ "name": "rack-a", "ranges": [{ "subnet": "10.9.0.0/25" }] },
                   { "name": "rest", "ranges": [{ "subnet": "10.9.4.0/22" }] }] });
    let file = network(&dir, &ipam)?;
    let arguments = [
        "--policy",
        "cluster-wide",
        "--network",
        &file,
        "--nodes",
        "10",
        "--pods",
        "600",
        "--running",
        "180",
        "--no-fill",
    ];
    let of = report(&dir, &[&arguments[..], &["--node-label", "rack=a,b"]].concat())?;
    let of = &of["policies"][0];
    let taken: Vec<u64> = [0, 1].iter().filter_map(|place| of["sets"][place]["taken"].as_u64()).collect();
    ensure!(taken.iter().all(|taken| (60..=125).contains(taken)), "half of the nodes each: {taken:?}");
    ensure!(number(of, "evennessOfSets")? < 0.9, "{of}");
    ensure!(of["sets"][0]["name"] == "rack-a", "{of}");
    let of = report(&dir, &arguments)?;
    ensure!(of["policies"][0]["sets"][0]["taken"] == 0, "nobody has the label: {of}");
    Ok(())
}

/// An independent PNG reader: checks every chunk's checksum, and prints the size and the colours.
const READ_PNG: &str = "import struct, sys, zlib
data = open(sys.argv[1], 'rb').read()
assert data[:8] == b'\\x89PNG\\r\\n\\x1a\\n'
at, body = 8, b''
while at < len(data):
    length, kind = struct.unpack('>I4s', data[at:at + 8])
    part = data[at + 8:at + 8 + length]
    assert struct.unpack('>I', data[at + 8 + length:at + 12 + length])[0] == zlib.crc32(kind + part)
    if kind == b'IHDR': size = struct.unpack('>II', part[:8]); assert part[8:] == bytes([8, 2, 0, 0, 0])
    if kind == b'IDAT': body += part
    at += 12 + length
lines = zlib.decompress(body)
step = size[0] * 3 + 1
assert len(lines) == step * size[1] and all(lines[n * step] == 0 for n in range(size[1]))
colours = {lines[n * step + 1 + 3 * x:n * step + 4 + 3 * x].hex() for n in range(size[1]) for x in range(size[0])}
print(*size, *sorted(colours))
";

/// Images have the format of their name, and a line for each policy.
fn pictures() -> Result<()> {
    let dir = scratch()?;
    let common = ["--policy", "host-local", "--against", "cluster-wide", "--nodes", "10", "--pods", "300", "--no-fill"];
    for name in ["plot.svg", "plot.png"] {
        let file = dir.path().join(name);
        let (ok, text, stderr) = simulate(&dir, &[&common[..], &["--plot", &file.display().to_string()]].concat())?;
        ensure!(ok, "{text}{stderr}");
        let bytes = fs::read(&file)?;
        if name.ends_with("svg") {
            let text = String::from_utf8(bytes)?;
            let document = roxmltree::Document::parse(&text)?;
            ensure!(document.root_element().tag_name().name() == "svg", "{text}");
            let words: BTreeSet<&str> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
            for word in ["host-local", "cluster-wide", "conflicts per claim", "fragmentation", "addresses in use"] {
                ensure!(words.contains(word), "{word:?} is not in {words:?}");
            }
        } else {
            let read =
                process::run(&Place::default(), &["python3", "-c", READ_PNG, &file.display().to_string()])?.text();
            ensure!(read.starts_with("1200 800 "), "{read}");
            let colours: BTreeSet<&str> = read.split_whitespace().collect();
            ensure!(colours.contains("005ab5") && colours.contains("dc3220"), "no lines: {read}");
        }
    }
    Ok(())
}

/// A policy that traps, lies or refuses does not stop the simulation: the answer says how many pods failed, and why.
fn refusals_and_traps() -> Result<()> {
    let dir = scratch()?;
    let component = dir.path().join("hostile.wasm");
    fs::write(&component, programs::build_guest("hostile")?)?;
    for (lie, kind, word) in [
        ("outside", "refused", "203.0.113.7"),
        ("route", "refused", "169.254.169.254/32"),
        ("next-hop", "refused", "10.77.0.2"),
        ("gateway-of-the-next-pod", "refused", "10.77.0.3"),
        ("trap", "error", "hostile"),
    ] {
        let ipam = json!({ "type": "wasm", "policy": "file:///x.wasm", "ranges": [[{ "subnet": "10.77.0.0/24" }]], "lie": lie });
        let file = network(&dir, &ipam)?;
        let component = component.display().to_string();
        let of = report(&dir, &["--policy", &component, "--network", &file, "--nodes", "3", "--pods", "40"])?;
        let of = &of["policies"][0];
        ensure!(of["granted"] == 0 && of["refused"] == json!({ kind: 40 }), "{lie}: {of}");
        ensure!(of["why"][kind].as_str().is_some_and(|why| why.contains(word)), "{lie}: {of}");
    }
    Ok(())
}

fn wrong_arguments() -> Result<()> {
    let dir = scratch()?;
    for (arguments, words) in [
        (vec!["--policy", "host-local", "--plot", "plot.gif"], "must end in .svg or .png"),
        (vec!["--policy", "host-local", "--pod-label", "tier"], "a label is KEY=VALUE"),
        (vec!["--policy", "by-label-delegate"], "only policies that pick addresses"),
        (vec!["--policy", "no-such-policy"], "neither a file nor a shipped policy"),
        (vec![], "weftctl policy new"),
    ] {
        let (ok, text, stderr) = simulate(&dir, &arguments)?;
        ensure!(!ok && stderr.contains(words), "{arguments:?}: {text}{stderr}");
    }
    let file = network(&dir, &json!({ "type": "static", "addresses": [{ "address": "10.9.0.1/24" }] }))?;
    let (ok, text, stderr) = simulate(&dir, &["--policy", "static", "--network", &file])?;
    ensure!(!ok && stderr.contains("--range"), "{text}{stderr}");
    Ok(())
}

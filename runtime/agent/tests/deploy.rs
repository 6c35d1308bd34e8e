//! `deploy/`: the image recipe, and the agreement of the chart with the manifests.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// The head of a static x86-64 program.
fn program(path: &Path, last: u8) {
    let mut bytes = vec![0_u8; 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (bytes[16], bytes[18], bytes[20], bytes[52]) = (2, 62, 1, 64);
    bytes.push(last);
    fs::write(path, bytes).unwrap();
}

fn build(dir: &Path, weft: &Path, out: &str) -> Output {
    let mut command = Command::new(deploy().join("image/build.sh"));
    command.arg("--weft").arg(weft).arg("--weftctl").arg(dir.join("weftctl")).arg(dir.join(out));
    command.output().unwrap()
}

#[test]
fn the_image_is_reproducible_and_holds_two_programs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    program(&dir.join("weft"), 1);
    program(&dir.join("weftctl"), 2);
    for out in ["a.tar", "b.tar"] {
        let built = build(dir, &dir.join("weft"), out);
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    assert_eq!(fs::read(dir.join("a.tar")).unwrap(), fs::read(dir.join("b.tar")).unwrap());
    let run = |args: &[&str]| {
        let output = Command::new("tar").current_dir(dir).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let manifest: serde_json::Value = serde_json::from_str(&run(&["-xOf", "a.tar", "manifest.json"])).unwrap();
    let config: serde_json::Value = serde_json::from_str(&run(&["-xOf", "a.tar", "config.json"])).unwrap();
    let layer = manifest[0]["Layers"][0].as_str().unwrap();
    let digest = config["rootfs"]["diff_ids"][0].as_str().unwrap();
    assert_eq!(format!("sha256:{}", layer.trim_end_matches(".tar")), digest);
    assert_eq!(config["architecture"], "amd64");
    run(&["-xf", "a.tar", layer]);
    let files = run(&["-tf", layer]);
    let files: Vec<&str> = files.lines().filter(|name| !name.ends_with('/')).collect();
    assert_eq!(files, ["./etc/passwd", "./usr/local/bin/weft", "./usr/local/bin/weftctl", "./var/run"]);
}

#[test]
fn an_image_has_certificates_where_they_were_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    program(&dir.join("weft"), 1);
    program(&dir.join("weftctl"), 2);
    fs::write(dir.join("roots.pem"), "certificates").unwrap();
    let mut command = Command::new(deploy().join("image/build.sh"));
    command.current_dir(dir).args(["--weft", "weft", "--weftctl", "weftctl", "--ca", "roots.pem", "a.tar"]);
    let built = command.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let run = |args: &[&str]| Command::new("tar").current_dir(dir).args(args).output().unwrap().stdout;
    let manifest: serde_json::Value = serde_json::from_slice(&run(&["-xOf", "a.tar", "manifest.json"])).unwrap();
    let layer = manifest[0]["Layers"][0].as_str().unwrap();
    run(&["-xf", "a.tar", layer]);
    assert_eq!(run(&["-xOf", layer, "./etc/ssl/certs/ca-certificates.crt"]), b"certificates");
}

#[test]
fn a_program_that_needs_a_loader_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    program(&dir.join("weftctl"), 2);
    // This test program is linked to the machine's C library.
    let built = build(dir, &std::env::current_exe().unwrap(), "a.tar");
    assert!(!built.status.success());
    assert!(String::from_utf8_lossy(&built.stderr).contains("is not static"));
    assert!(!dir.join("a.tar").exists());
}

#[test]
fn chart_and_manifests_give_the_same_rights() {
    let rules = |path: &str| {
        let text = fs::read_to_string(deploy().join(path)).unwrap();
        let from = text.find("rules:").unwrap();
        text[from..].split("---").next().unwrap().trim().to_owned()
    };
    for file in ["rbac.yaml", "rbac-ledger.yaml"] {
        let (manifest, template) = (format!("kubernetes/{file}"), format!("helm/weft/templates/{file}"));
        assert_eq!(rules(&manifest), rules(&template));
    }
}

/// Returns group, resource and verbs of every rule of a manifest.
fn granted(file: &str) -> Vec<(String, String, Vec<String>)> {
    let text = fs::read_to_string(deploy().join(file)).unwrap();
    let list = |line: &str, key: &str| -> Option<Vec<String>> {
        let (_key, list) = line.trim().trim_start_matches("- ").split_once(key)?;
        let list = list.trim().strip_prefix('[')?.strip_suffix(']')?;
        Some(list.split(',').map(|item| item.trim().trim_matches('"').to_owned()).collect())
    };
    let (mut granted, mut groups, mut resources) = (Vec::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        groups = list(line, "apiGroups:").unwrap_or(groups);
        resources = list(line, "resources:").unwrap_or(resources);
        for resource in list(line, "verbs:").iter().flat_map(|_verbs| &resources) {
            granted.push((groups[0].clone(), resource.clone(), list(line, "verbs:").unwrap()));
        }
    }
    granted
}

/// `weftctl doctor` checks exactly the granted rights.
#[test]
fn the_listed_rights_are_those_of_the_manifests() {
    let owned = |(group, resource, verbs): &weft_agent::inspect::Right| {
        ((*group).to_owned(), (*resource).to_owned(), verbs.iter().map(|verb| (*verb).to_owned()).collect::<Vec<_>>())
    };
    let listed = |rights: &[weft_agent::inspect::Right]| rights.iter().map(owned).collect::<Vec<_>>();
    assert_eq!(granted("kubernetes/rbac.yaml"), listed(weft_agent::inspect::RIGHTS));
    assert_eq!(granted("kubernetes/rbac-ledger.yaml"), listed(weft_agent::inspect::LEDGER_RIGHTS));
}

/// An installation without the cluster ledger has no rights of it, and reads no ConfigMap.
#[test]
fn a_plain_installation_has_no_rights_of_the_cluster_ledger() {
    for (group, resource, verbs) in granted("kubernetes/rbac.yaml") {
        let of_ledger = group == "ipam.weft.dev" || resource.starts_with("ipamclaims");
        assert!(!of_ledger && !["configmaps", "secrets"].contains(&resource.as_str()), "{verbs:?} {resource} {group}");
    }
}

#[test]
fn the_values_schema_knows_every_value() {
    let chart = deploy().join("helm/weft");
    let schema: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(chart.join("values.schema.json")).unwrap()).unwrap();
    let values = fs::read_to_string(chart.join("values.yaml")).unwrap();
    let keys: Vec<&str> = values
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split(':').next())
        .collect();
    assert!(keys.len() >= 6, "{keys:?}");
    for key in keys {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
}

/// The files that name metrics.
const EXPORTERS: [&str; 3] = ["gauges.rs", "claim/controller.rs", "claim/service/counts.rs"];

/// An alert on a metric that nobody exports would never fire.
#[test]
fn alerts_name_metrics_that_there_are() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let exported: String =
        EXPORTERS.iter().map(|file| fs::read_to_string(source.join(file)).unwrap()).collect::<Vec<_>>().concat();
    let read = |file: &str| fs::read_to_string(deploy().join("alerts").join(file)).unwrap();
    let alerts = format!("{}{}", read("weft.yaml"), read("weft-ledger.yaml"));
    let expressions: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(expressions.len() >= 15, "{expressions:?}");
    for expression in expressions {
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        let named: Vec<&str> = expression.split(|c| !is_part(c)).filter(|word| word.starts_with("weft_")).collect();
        assert!(!named.is_empty(), "{expression}");
        for name in named {
            assert!(exported.contains(&format!("\"{name}\"")), "{name} of {expression}");
        }
    }
}

/// The columns of `kubectl get`, in the usual order, and the category of all objects. The usual column POLICY is left
/// out: a network names its policy, and a pool does not know its networks.
#[test]
fn tables_have_the_usual_columns() {
    let text = fs::read_to_string(deploy().join("crds/ipam.weft.dev.yaml")).unwrap();
    let definitions: Vec<&str> =
        text.split("\n---\n").filter(|part| part.contains("kind: CustomResourceDefinition")).collect();
    assert!(definitions.len() >= 6, "{}", definitions.len());
    for definition in &definitions {
        assert!(definition.contains("categories: [weft]"), "{definition}");
    }
    let columns = |plural: &str| -> Vec<String> {
        let name = format!("name: {plural}.ipam.weft.dev");
        let of = definitions.iter().find(|definition| definition.contains(&name)).unwrap();
        let lines = of.lines().filter_map(|line| line.trim().strip_prefix("- {name: "));
        let shown = lines.filter(|line| line.contains("jsonPath") && !line.contains("priority: 1"));
        shown.map(|line| line.split(',').next().unwrap().to_uppercase()).collect()
    };
    assert_eq!(columns("addressclaims"), ["IP", "POOL", "POD", "IFACE", "NODE", "HOLDERS", "STATE", "AGE"]);
    assert_eq!(columns("addresspools"), ["CIDR", "USED", "FREE", "USED%", "MODE", "READY", "AGE"]);
}

fn is_metric(word: &str) -> bool {
    word.starts_with("weft_") && word.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
}

/// `docs/agent.md` lists every metric.
#[test]
fn every_metric_is_documented() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(crate_dir.join("../../docs/agent.md")).unwrap();
    let mut seen = 0;
    for file in EXPORTERS {
        let source = fs::read_to_string(crate_dir.join("src").join(file)).unwrap();
        for name in source.split('"').filter(|word| is_metric(word)) {
            seen += 1;
            // A pair is written as NAME_{sum,count}.
            let base = name.trim_end_matches("_sum").trim_end_matches("_count");
            assert!(page.contains(name) || page.contains(&format!("{base}_{{sum,count}}")), "{name} of {file}");
        }
    }
    assert!(seen > 25, "{seen}");
}

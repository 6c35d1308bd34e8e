//! The operator's tools: `weftctl` in the agent's container.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster::kube::{Cluster, Node};
use weft_kit::programs;

use super::{definition, on_node, pod, running};

/// `pods` has a row per attachment of every pod, including other vendors' attachments; `explain` works by the pod's
/// name; `ps` and `doctor` work on a node with pods.
pub(super) fn weftctl(cluster: &mut Cluster) -> Result<()> {
    let range = |subnet: u8| json!({"type": "host-local", "ranges": [[{"subnet": format!("10.{subnet}.0.0/24")}]]});
    let ours = json!({"cniVersion": "1.0.0", "name": "ours", "type": "bridge", "bridge": "ours0", "ipam": range(91)});
    let theirs =
        json!({"cniVersion": "1.0.0", "name": "theirs", "type": "vendor", "bridge": "theirs0", "ipam": range(92)});
    let node = cluster.nodes().first().context("no nodes")?;
    // Debian's bridge under a name that is not weft's.
    let vendor = node.file("/opt/cni/bin/vendor");
    if !vendor.exists() {
        std::os::unix::fs::symlink("/usr/lib/cni/bridge", vendor)?;
    }
    cluster.kubectl().apply(&[
        definition("ours", Some(&ours)),
        definition("theirs", Some(&theirs)),
        on_node(node, pod("seen", "ours, theirs", &json!({}))),
    ])?;
    let pods = running(cluster, 1)?;
    let seen = pods.first().context("no pod")?;
    let shown = json_of(cluster, node, &["pods", "default/seen"])?;
    let rows: Vec<_> = shown.as_array().into_iter().flatten().collect();
    let networks: Vec<_> = rows.iter().map(|row| (&row["ifname"], &row["network"])).collect();
    let wanted = [("eth0", "default"), ("net1", "default/ours"), ("net2", "default/theirs")];
    ensure!(
        networks
            == wanted.map(|(link, name)| (json!(link), json!(name))).iter().map(|(a, b)| (a, b)).collect::<Vec<_>>(),
        "{shown:#}"
    );
    for row in &rows {
        let link = row["ifname"].as_str().unwrap_or_default();
        ensure!(row["addresses"] == json!([format!("{}/24", seen.address(link)?)]), "{row}");
        let policies = if link == "net2" { json!([]) } else { json!(["host-local"]) };
        ensure!(row["policies"] == policies, "{row}");
    }
    let table = weftctl_on(cluster, node, &["pods"])?;
    let head: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(head == ["POD", "INTERFACE", "NETWORK", "ADDRESSES", "POLICY", "AGE"], "{table}");
    let why = weftctl_on(cluster, node, &["explain", "seen"])?;
    for part in ["pod default/seen", "eth0", "net2", "vendor (external)", "decided by  host-local"] {
        ensure!(why.contains(part), "no {part:?} in {why}");
    }
    let attachments = json_of(cluster, node, &["ps", "--pod", "seen"])?;
    ensure!(attachments.as_array().is_some_and(|rows| rows.len() == 2), "{attachments:#}");
    let checked = json_of(cluster, node, &["doctor"])?;
    let faults: Vec<_> =
        checked.as_array().into_iter().flatten().filter(|finding| finding["state"] == "fail").collect();
    ensure!(faults.is_empty(), "{faults:#?}");
    let ready = |finding: &&Value| finding["what"] == "agent" && finding["detail"].to_string().contains(node.name());
    ensure!(checked.as_array().into_iter().flatten().any(|finding| ready(&finding)), "{checked:#}");
    Ok(())
}

/// `doctor` finds each problem on the Kubernetes side with its own text, and nothing else.
#[allow(clippy::too_many_lines, reason = "one fault after the other, on one node")]
pub(super) fn doctor(cluster: &mut Cluster) -> Result<()> {
    let node = cluster.nodes().first().context("no nodes")?;
    let find_as = |state: &str, what: &str, words: &[&str]| -> Result<()> {
        let findings = findings(cluster, node)?;
        let found = findings.iter().any(|finding| {
            let text = finding.to_string();
            finding["state"] == state
                && finding["what"].as_str().is_some_and(|it| it.starts_with(what))
                && words.iter().all(|word| text.contains(word))
                && finding["remedy"] != ""
        });
        ensure!(found, "no {what} with {words:?} in {findings:#?}");
        Ok(())
    };
    let find = |what: &str, words: &[&str]| find_as("fail", what, words);
    let healthy = || -> Result<()> {
        let findings = findings(cluster, node)?;
        let faults: Vec<_> = findings.iter().filter(|finding| finding["state"] == "fail").collect();
        ensure!(faults.is_empty(), "{faults:#?}");
        // The agent's pod sees the node's processes, and finds the runtime among them.
        let plugins = findings.iter().find(|finding| finding["what"] == "other vendors' plugins");
        ensure!(plugins.is_none(), "{plugins:#?}");
        for (what, word) in [
            ("API server", "system:serviceaccount:kube-system:weft"),
            ("rights of the agent", "all granted"),
            ("resources", "network-attachment-definitions"),
            ("default network", "10-default.conflist"),
            ("kubelet", "pods"),
        ] {
            let good = |finding: &Value| finding["what"] == what && finding["detail"].to_string().contains(word);
            ensure!(findings.iter().any(good), "no {what} with {word} in {findings:#?}");
        }
        Ok(())
    };
    healthy()?;
    let kubectl = cluster.kubectl();
    let broken = |name: &str, config: &str| {
        json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
               "metadata": {"name": name, "namespace": "default"}, "spec": {"config": config}})
    };
    let unknown = json!({"cniVersion": "1.0.0", "name": "unknown", "type": "weft", "delegate": {"type": "bridge"},
                         "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.95.0.0/24"}]], "rangez": 1}});
    // Its author may not make the node send files to a server.
    let mut untrusted = unknown.clone();
    untrusted["ledger"] = json!({"type": "etcd", "endpoints": ["https://192.0.2.1:2379"]});
    // The addresses of two networks on one link, each of which every node gives out by itself.
    let lan = |name: &str| {
        json!({"cniVersion": "1.0.0", "name": name, "type": "macvlan", "master": "lan9",
               "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.96.0.0/24"}]]}})
        .to_string()
    };
    kubectl.apply(&[
        broken("lan-a", &lan("lan-a")),
        broken("lan-b", &lan("lan-b")),
        broken("untrusted", &untrusted.to_string()),
        broken("no-json", "{\"type\": "),
        broken("no-type", "{\"cniVersion\": \"1.0.0\"}"),
        broken("unknown", &unknown.to_string()),
    ])?;
    find("network default/no-json", &["is not JSON"])?;
    find("network default/no-type", &["neither"])?;
    find("network default/unknown", &["rangez"])?;
    find("network default/untrusted", &["ledger.endpoints", "trustedNamespaces"])?;
    find_as(
        "warn",
        "networks",
        &["network default/lan-a", "network default/lan-b", "10.96.0.0/24", "given out twice"],
    )?;
    find_as("warn", "networks", &["network default/lan-b", "by itself", "kubernetes"])?;
    let made = ["no-json", "no-type", "unknown", "untrusted", "lan-a", "lan-b"];
    kubectl.run(&[&["delete", "net-attach-def", "-n", "default"], &made[..]].concat())?;

    let role = kubectl.get("clusterrole", "default", "weft-agent")?.context("no role")?;
    let mut less = role.clone();
    less["rules"].as_array_mut().context("rules")?.retain(|rule| !rule["resources"].to_string().contains("events"));
    let put = |rules: &Value| -> Result<()> {
        let patch = json!({"rules": rules}).to_string();
        kubectl.run(&["patch", "clusterrole", "weft-agent", "--type=merge", "-p", &patch]).map(drop)
    };
    put(&less["rules"])?;
    let found = find("rights of the agent", &["create events", "patch events", "rbac.yaml"]);
    put(&role["rules"])?;
    found?;

    for (path, what, word) in [
        ("/etc/cni/net.d/00-another.conflist", "configuration", "00-another.conflist"),
        ("/etc/cni/net.d/10-default.conflist", "default network", "10-default.conflist"),
    ] {
        let file = node.file(path);
        let before = fs::read(&file).ok();
        match &before {
            Some(_text) => fs::remove_file(&file).context("remove a file")?,
            // The suite's own pods exist already, and no other is started meanwhile.
            None => node.write(
                path,
                "{\"cniVersion\": \"1.0.0\", \"name\": \"another\", \"plugins\": [{\"type\": \"vendor\"}]}",
            )?,
        }
        let found = find(what, &[word]);
        match before {
            Some(text) => fs::write(&file, text).context("put a file back")?,
            None => fs::remove_file(&file).context("remove a file")?,
        }
        found?;
    }
    healthy()?;
    by_hand(cluster, node)
}

/// On the node itself, with different kubeconfigs: a valid one, one with an unknown token, one whose server is away,
/// and none.
fn by_hand(cluster: &Cluster, node: &Node) -> Result<()> {
    let weftctl = programs::weftctl().map_err(anyhow::Error::msg)?.display().to_string();
    let good = cluster.kubectl().run(&["config", "view", "--raw", "--minify", "-o", "json"])?;
    let good: Value = serde_json::from_str(&good).context("a kubeconfig")?;
    let (mut stranger, mut away) = (good.clone(), good.clone());
    stranger["users"][0]["user"] = json!({"token": "nobody-has-it"});
    away["clusters"][0]["cluster"]["server"] = json!("https://127.0.0.1:1");
    // A network that neither the definition nor a file of the node has; the agent's container does not see those files.
    cluster.kubectl().apply(&[definition("nowhere", None)])?;
    node.write("/etc/cni/multus/net.d/site.conf", &json!({"name": "site", "type": "bridge"}).to_string())?;
    for (kubeconfig, words) in [
        (good.clone(), ["as admin", "all granted"]),
        (good, ["network default/nowhere", "no spec.config, and no file of"]),
        (stranger, ["does not accept the credentials", "make a new one"]),
        (away, ["does not answer", "see that the API server runs"]),
        (json!({}), ["cannot use the credentials", "--kubeconfig"]),
    ] {
        node.write("/etc/weft/kubeconfig", &kubeconfig.to_string())?;
        let argv = [weftctl.as_str(), "doctor", "--kubeconfig", "/etc/weft/kubeconfig", "--node-name", node.name()];
        // It fails if it finds a problem; the error contains its output.
        let said = match node.run(&argv) {
            Ok(output) => output.text(),
            Err(error) => format!("{error:#}"),
        };
        // A table's cells may span several lines.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words {
            ensure!(said.contains(word), "{kubeconfig}: no {word:?} in {said}");
        }
    }
    fs::remove_file(node.file("/etc/cni/multus/net.d/site.conf")).context("remove a file")?;
    cluster.kubectl().run(&["delete", "net-attach-def", "-n", "default", "nowhere"]).map(drop)
}

/// Returns the findings of `doctor` in the container of the node's agent. It fails if it finds a problem.
fn findings(cluster: &Cluster, node: &Node) -> Result<Vec<Value>> {
    let said = match weftctl_on(cluster, node, &["--json", "doctor"]) {
        Ok(text) => text,
        Err(error) => format!("{error:#}"),
    };
    let (from, to) = (said.find('[').context("a list")?, said.rfind(']').context("a list")?);
    serde_json::from_str(&said[from..=to]).with_context(|| said.clone())
}

fn json_of(cluster: &Cluster, node: &Node, arguments: &[&str]) -> Result<Value> {
    let text = weftctl_on(cluster, node, &[&["--json"], arguments].concat())?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// Runs weftctl in the container of the node's agent, like `kubectl exec`.
pub(super) fn weftctl_on(cluster: &Cluster, node: &Node, arguments: &[&str]) -> Result<String> {
    let agent = cluster.agent_of(node)?;
    let enter = ["exec", "-n", "kube-system", &agent, "--", "/usr/local/bin/weftctl"];
    cluster.kubectl().run(&[&enter, arguments].concat())
}

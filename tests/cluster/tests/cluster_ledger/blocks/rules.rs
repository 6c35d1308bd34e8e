//! The API server's own checks of cells and domains.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::dhcp::wait;

use crate::cluster::Cluster;
use crate::objects;
use crate::world::PATIENCE;

/// Returns an AddressBlock: shared without a holder, and a re-assertion with an epoch.
fn cell(first: &str, size: u32, holder: Value, epoch: Option<u64>) -> Value {
    let annotations = epoch.map(|epoch| json!({"ipam.weft.dev/epoch": epoch.to_string()}));
    let mut spec =
        json!({"domain": "cells", "first": first, "size": size, "pool": "cells", "shared": holder.is_null()});
    if !holder.is_null() {
        spec["holder"] = holder;
    }
    let name = format!("cells-{}-cell", first.replace('.', "-"));
    json!({"apiVersion": "ipam.weft.dev/v1alpha1", "kind": "AddressBlock",
        "metadata": {"name": name, "annotations": annotations}, "spec": spec})
}

fn holder(machine: &str, confirmed: u64) -> Value {
    json!({"node": "a", "machine": machine, "storeID": "s", "bootID": "b",
        "nonce": "0123456789abcdef0123456789abcdef", "confirmed": confirmed})
}

/// Immutable fields of cells, domains and pools with blocks; and what a freeze refuses.
pub(crate) fn rules(cluster: &mut Cluster) -> Result<()> {
    let accepts = |what: &str, verb: &str, object: &Value| objects::accepts(cluster, what, verb, object);
    let refuses =
        |what: &str, verb: &str, object: &Value, text: &str| objects::refuses(cluster, what, (verb, object), text);
    let first = "10.0.0.0";
    accepts("a cell", "create", &cell(first, 8, holder("m", 0), None))?;
    accepts("a confirmation", "replace", &cell(first, 8, holder("m", 1), None))?;
    refuses("another machine", "replace", &cell(first, 8, holder("n", 1), None), "stays its machine's")?;
    refuses("another size", "replace", &cell(first, 16, holder("m", 1), None), "never change")?;
    refuses(
        "a cell that becomes shared",
        "replace",
        &cell(first, 8, Value::Null, None),
        "stays shared or a machine's",
    )?;
    refuses("an odd size", "create", &cell("10.0.0.64", 12, holder("m", 0), None), "size")?;
    accepts("a shared cell", "create", &cell("10.0.0.16", 8, Value::Null, None))?;
    let domain = |name: &str, size: u32| {
        json!({"apiVersion": "ipam.weft.dev/v1alpha1", "kind": "LedgerDomain", "metadata": {"name": name},
            "spec": {"domain": "cells", "cellSize": size}})
    };
    accepts("a domain", "create", &domain("cells", 8))?;
    refuses("another size of its cells", "replace", &domain("cells", 16), "never changes")?;
    refuses("another name", "create", &domain("other", 8), "called as its domain")?;
    let pool = |blocks: Value| {
        let mut spec = json!({"ranges": [{"subnet": "10.0.0.0/24"}]});
        if !blocks.is_null() {
            spec["blocks"] = blocks;
        }
        json!({"apiVersion": "ipam.weft.dev/v1alpha1", "kind": "AddressPool", "metadata": {"name": "ruled"}, "spec": spec})
    };
    accepts("a pool with blocks", "create", &pool(json!({"size": 8})))?;
    accepts("a strict one", "replace", &pool(json!({"size": 8, "strict": true})))?;
    refuses("other cells", "replace", &pool(json!({"size": 16})), "never change")?;
    refuses("no cells", "replace", &pool(Value::Null), "never change")?;
    cluster.plane()?.kubectl(&["delete", "addresspool", "ruled"], "")?;
    frozen(cluster, first)?;
    let table = cluster.plane()?.kubectl(&["get", "ledgerdomains"], "")?;
    ensure!(table.contains("cells"), "{table}");
    cluster.plane()?.kubectl(&["delete", "ledgerdomains", "--all"], "").map(drop)
}

/// A frozen ledger accepts only re-assertions of cells: none is taken or confirmed.
fn frozen(cluster: &Cluster, first: &str) -> Result<()> {
    let epoch = cluster.epoch()?;
    let state = |frozen: bool| {
        json!({"apiVersion": "ipam.weft.dev/v1alpha1", "kind": "LedgerState", "metadata": {"name": "cluster"},
            "spec": {"epoch": epoch + 1, "frozen": frozen}})
    };
    objects::accepts(cluster, "a freeze", "apply", &state(true))?;
    let text = "the cluster ledger is frozen";
    let new = cell("10.0.0.32", 8, holder("m", 0), None).to_string();
    // The API server reads the state from its own copy.
    wait(PATIENCE, "the freeze", || {
        match cluster.plane()?.kubectl(&["create", "--dry-run=server", "-f", "-"], &new) {
            Ok(_accepted) => Ok(false),
            Err(error) => Ok(format!("{error:#}").contains(text)),
        }
    })?;
    let confirmation = cell(first, 8, holder("m", 2), None);
    objects::refuses(cluster, "a confirmation while frozen", ("replace", &confirmation), text)?;
    let again = cell("10.0.0.32", 8, holder("m", 0), Some(epoch + 1));
    objects::accepts(cluster, "a re-assertion", "create", &again)?;
    cluster.plane()?.kubectl(&["delete", "addressblocks", "--all"], "").context("deletions while frozen")?;
    objects::accepts(cluster, "the thaw", "apply", &state(false))
}

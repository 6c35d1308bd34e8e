//! Checks that the packet filter has everything that living attachments need.

use std::path::Path;

use weft_core::attach::lost_filters;
use weft_core::store::NodeStore;

use super::Finding;

const WHAT: &str = "packet filter";

pub(super) fn check(state: &Path) -> Vec<Finding> {
    // The check of the journal reports a store that cannot be opened.
    let Ok(Some(store)) = NodeStore::open_read_only(state) else { return Vec::new() };
    let found = match lost_filters(&store) {
        Ok(found) => found,
        Err(error) => return vec![Finding::fail(WHAT, error.chain(), "run as root, on a kernel with nftables")],
    };
    let Some(first) = found.lost.first() else {
        return vec![Finding::ok(WHAT, format!("{} attachments have all they need", found.attachments))];
    };
    let what = first.missing.first().map_or("", String::as_str);
    let detail = format!(
        "nftables elements or rules are missing for {} of {} attachments, such as {what:?} of container {}",
        found.lost.len(),
        found.attachments,
        first.container_id
    );
    vec![Finding::fail(WHAT, detail, "`weftctl repair` shows all, `weftctl repair --apply` puts them back")]
}

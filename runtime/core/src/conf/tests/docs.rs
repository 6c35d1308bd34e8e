//! docs/stock-keys.md lists exactly the keys that a delegate or step reads.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{delegate, step};

/// Returns the keys in the first column of a section's table: those at the top of a
/// configuration.
fn documented(page: &str, kind: &str) -> Option<BTreeSet<String>> {
    let section = page.split("\n## ").skip(1).find(|section| section.lines().next() == Some(kind))?;
    let column = section.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    let names = column.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect::<Vec<_>>());
    Some(names.filter(|name| !name.contains('.') && name.chars().any(char::is_lowercase)).collect())
}

#[test]
fn the_table_of_stock_keys_is_complete() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/stock-keys.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let delegates = delegate::kinds().filter_map(delegate::find).map(|found| (found.kind(), found.keys()));
    let steps = step::kinds().filter_map(step::find).map(|found| (found.kind(), found.keys()));
    for (kind, keys) in delegates.chain(steps) {
        let documented = documented(&page, kind).unwrap_or_else(|| panic!("{kind} has no section"));
        let read: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(documented, read, "{kind}");
    }
}

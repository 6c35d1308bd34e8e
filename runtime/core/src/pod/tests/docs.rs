//! docs/weft-pod.md lists exactly the keys that `weft-pod` reads, and those of Multus that it accepts.

use std::collections::BTreeSet;
use std::path::Path;

use crate::pod::settings::{KEYS, OF_KEPT_MULTUS, WITHOUT_MEANING};

/// Returns the names in the first column of the tables below a heading.
fn documented(page: &str, heading: &str) -> BTreeSet<String> {
    let section = page.split("\n## ").skip(1).find(|section| section.lines().next() == Some(heading)).unwrap();
    let column = section.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    column.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn the_tables_of_keys_are_complete() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/weft-pod.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let set = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(documented(&page, "Keys"), set(KEYS));
    let of_multus = [WITHOUT_MEANING, OF_KEPT_MULTUS, &["auxiliaryCNIChainName"]].concat();
    assert_eq!(documented(&page, "Keys of Multus without an effect on pods"), set(&of_multus));
}

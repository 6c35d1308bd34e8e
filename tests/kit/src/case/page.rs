//! docs/differences.md, written from the cases.

use std::fmt::Write;

use anyhow::Result;

use super::{Differs, general_differences, load_all};

const HEAD: &str = "\
# Differences from the reference plugins

Every case in `tests/cases` runs through Debian's `containernetworking-plugins` (1.1.1) and through weft called by the same
name. Results, error texts and kernel state are the same but for what is listed here. A difference that is not listed fails
`cargo test -p weft-tests --test reference`, and so does an entry that no longer applies. This page is written from
the cases' `differs.json` (`BLESS=1 cargo test -p weft-tests --test layering`).

Where the cases name none, MAC addresses, interface indexes and random link names are compared by what they belong to. Error codes are
compared where the reference says more than 999, and `details` where it has any.
";

/// The page.
///
/// # Errors
/// A case cannot be read.
pub fn differences_page() -> Result<String> {
    let mut page = HEAD.to_owned();
    let general = general_differences()?;
    if !general.is_empty() {
        page.push_str("\n## Everywhere\n\n");
        for why in reasons(&general) {
            writeln!(page, "- {why}")?;
        }
    }
    page.push_str("\n## By case\n\n| case | about | how weft differs, and why |\n|---|---|---|\n");
    for case in load_all()? {
        for why in reasons(&case.differs) {
            writeln!(page, "| `{}` | {} | {why} |", case.name, case.about)?;
        }
    }
    page.push_str("\n## Not compared\n\n| case | part | why |\n|---|---|---|\n");
    for case in load_all()? {
        for (part, why) in &case.env.ignore {
            writeln!(page, "| `{}` | {part} | {why} |", case.name)?;
        }
    }
    Ok(page)
}

/// The reasons, each once, in the order of first appearance.
fn reasons(entries: &[Differs]) -> Vec<&str> {
    let mut reasons: Vec<&str> = Vec::new();
    for entry in entries {
        if !reasons.contains(&entry.why.as_str()) {
            reasons.push(&entry.why);
        }
    }
    reasons
}

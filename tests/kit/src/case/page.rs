//! Writes docs/differences.md from the cases.

use std::fmt::Write;

use anyhow::Result;

use super::{Differs, Edition, general_differences, load_all};

const HEAD: &str = "\
# Differences from the reference plugins

Every case in `tests/cases` runs through two references and through weft called by the same name: Debian's
`containernetworking-plugins` (1.1.1), and the CNI project's current release (1.10.0, `tests/reference`). Results, error texts
and kernel state are the same but for what is listed here, for one reference or for both. A difference that is not listed fails
`cargo test -p weft-tests --test reference`, and so does an entry that no longer applies. This page is written from
the cases' `differs.json` (`BLESS=1 cargo test -p weft-tests --test layering`).

Where the cases name none, MAC addresses, interface indexes and random link names are compared by what they belong to. Error codes are
compared where the reference says more than 999, and `details` where it has any.
";

/// Returns the page.
///
/// # Errors
/// A case cannot be read.
pub fn differences_page() -> Result<String> {
    let mut page = HEAD.to_owned();
    let general = general_differences()?;
    if !general.is_empty() {
        page.push_str("\n## Everywhere\n\n");
        for (from, why) in reasons(&general) {
            writeln!(page, "- {from}: {why}")?;
        }
    }
    page.push_str("\n## By case\n\n| case | about | from | how weft differs, and why |\n|---|---|---|---|\n");
    for case in load_all()? {
        for (from, why) in reasons(&case.differs) {
            writeln!(page, "| `{}` | {} | {from} | {why} |", case.name, case.about)?;
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

/// Returns the distinct reasons in the order of first appearance, with their references.
fn reasons(entries: &[Differs]) -> Vec<(&'static str, &str)> {
    let mut reasons = Vec::new();
    for entry in entries {
        let reason = (entry.reference.map_or("both", Edition::version), entry.why.as_str());
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    reasons
}

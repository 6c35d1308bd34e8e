//! The valid attachments, which GC keeps.

use std::collections::BTreeSet;

use super::{ConfError, Object};

/// Both spellings of the list; libcni sends both.
const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// Returns the list of valid attachments. A malformed entry is an error: if it were skipped, its attachment would be
/// torn down.
pub(super) fn valid_attachments(object: &Object) -> Result<Option<Vec<(String, String)>>, ConfError> {
    let mut found = None;
    let mut seen = BTreeSet::new();
    for key in KEYS {
        let Some(entries) = object.objects(key)? else { continue };
        let list: &mut Vec<_> = found.get_or_insert_default();
        for entry in entries {
            let text = |key: &'static str| {
                let missing = || ConfError::BadValue {
                    key: entry.path_text(key),
                    value: String::new(),
                    want: "present, or GC would remove an attachment that is in use",
                };
                Ok::<_, ConfError>(entry.text(key)?.ok_or_else(missing)?.to_owned())
            };
            let entry = (text("containerID")?, text("ifname")?);
            if seen.insert(entry.clone()) {
                list.push(entry);
            }
        }
    }
    Ok(found)
}

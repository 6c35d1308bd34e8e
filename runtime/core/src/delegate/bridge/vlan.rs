//! VLANs of a bridge port: `vlan` (one, untagged) and `vlanTrunk` (many, tagged).

use std::collections::BTreeSet;

use crate::cni::Object;
use crate::delegate::DelegateError;
use crate::keys;

/// The highest VLAN id.
const MAX_ID: i64 = 4094;

/// `vlan`.
pub(super) fn access(conf: &Object) -> Result<u16, DelegateError> {
    let id = conf.int("vlan").map_err(keys::mistyped)?.unwrap_or_default();
    let fits = u16::try_from(id).ok().filter(|_| (0..=MAX_ID).contains(&id));
    fits.ok_or_else(|| DelegateError::Conf(format!("invalid VLAN ID {id} (must be between 0 and {MAX_ID})")))
}

/// `vlanTrunk`: the ids of all its items, sorted.
pub(super) fn trunk(conf: &Object) -> Result<Option<Vec<u16>>, DelegateError> {
    let Some(items) = conf.objects("vlanTrunk").map_err(keys::mistyped)? else { return Ok(None) };
    let mut ids = BTreeSet::new();
    for item in &items {
        let number = |key| item.int(key).map_err(keys::mistyped);
        match (number("minID")?, number("maxID")?) {
            (Some(min), Some(max)) => {
                let (min, max) = (trunk_id(min, "minID")?, trunk_id(max, "maxID")?);
                if max < min {
                    return Err(DelegateError::Conf("minID is greater than maxID in trunk parameter".to_owned()));
                }
                ids.extend(min..=max);
            }
            (None, None) => {}
            (min, _) => {
                let missing = if min.is_none() { "minID" } else { "maxID" };
                return Err(DelegateError::Conf(format!(
                    "minID and maxID should be configured simultaneously, {missing} is missing"
                )));
            }
        }
        if let Some(id) = number("id")? {
            ids.insert(trunk_id(id, "id")?);
        }
    }
    Ok(Some(ids.into_iter().collect()))
}

fn trunk_id(id: i64, key: &str) -> Result<u16, DelegateError> {
    let fits = u16::try_from(id).ok().filter(|_| (1..=MAX_ID).contains(&id));
    fits.ok_or_else(|| DelegateError::Conf(format!("incorrect trunk {key} parameter")))
}

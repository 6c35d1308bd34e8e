//! Devices of the host for a storm of `host-device`: one for each container, an end of a veth pair, made before its
//! first ADD. After DEL or GC it must be on the host again, under its name.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

use anyhow::Result;
use weft_storm::tally::lock;

use crate::network::ip;

/// Devices that exist.
#[derive(Debug, Default)]
pub(crate) struct Devices(Mutex<BTreeSet<String>>);

// === impl Devices ===

impl Devices {
    /// Returns the device of a container, and makes it the first time.
    pub(crate) fn find(&self, container: &str) -> Result<String> {
        let (device, peer) = names(container);
        if lock(&self.0).insert(device.clone()) {
            ip(&["link", "add", &device, "type", "veth", "peer", "name", &peer])?;
        }
        Ok(device)
    }

    /// Deletes the device of a container, and returns whether it was on the host.
    pub(crate) fn take_away(&self, container: &str) -> Result<bool> {
        let (device, _) = names(container);
        if !lock(&self.0).remove(&device) {
            return Ok(true);
        }
        let home = ip(&["link", "show", &device]).is_ok();
        if home {
            ip(&["link", "del", &device])?;
        }
        Ok(home)
    }
}

/// Returns the names of a pair, within the fifteen letters of a link's name.
fn names(container: &str) -> (String, String) {
    let mut hasher = DefaultHasher::new();
    container.hash(&mut hasher);
    let hash = hasher.finish() & 0xffff_ffff_ffff;
    (format!("d{hash:012x}"), format!("p{hash:012x}"))
}

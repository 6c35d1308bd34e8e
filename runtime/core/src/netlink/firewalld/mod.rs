//! firewalld over D-Bus: the sources of its zones. As with the reference plugin, they are lost when firewalld restarts.

mod dbus;

use std::io;

use self::dbus::{Argument, Bus, CallError};
use super::error::NetlinkError;
use crate::plan::FirewalldSource;

const SERVICE: &str = "org.fedoraproject.FirewallD1";
const PATH: &str = "/org/fedoraproject/FirewallD1";
const ZONES: &str = "org.fedoraproject.FirewallD1.zone";

/// Prefixes of firewalld's errors which mean that there is nothing to do.
const ALREADY_SET: &str = "ZONE_ALREADY_SET";
const NOT_SET: &str = "UNKNOWN_SOURCE";

/// Returns whether firewalld's name has an owner on the bus. Without a bus it has none.
pub(super) fn is_running() -> bool {
    let asked = Bus::connect().and_then(|mut bus| bus.has_owner(SERVICE));
    asked.unwrap_or(false)
}

/// Adds a source. Returns whether it is new.
pub(super) fn add(source: &FirewalldSource) -> Result<bool, NetlinkError> {
    let what = || format!("failed to add the address {} to {} zone", with_length(source), source.zone);
    match call("addSource", source, &with_length(source)) {
        Ok(_) => Ok(true),
        Err(CallError::Refused { text, .. }) if text.contains(ALREADY_SET) => Ok(false),
        Err(error) => Err(refused(what(), error)),
    }
}

/// Removes a source. A missing source or a stopped firewalld is not an error.
pub(super) fn remove(source: &FirewalldSource) -> Result<(), NetlinkError> {
    match call("removeSource", source, &with_length(source)) {
        Ok(_) => Ok(()),
        Err(CallError::Refused { text, .. }) if text.contains(NOT_SET) => Ok(()),
        Err(error) if error.is_away() => Ok(()),
        Err(error) => {
            let what = format!("failed to remove the address {} from {} zone", with_length(source), source.zone);
            Err(refused(what, error))
        }
    }
}

/// Returns whether a source exists.
pub(super) fn has(source: &FirewalldSource) -> Result<bool, NetlinkError> {
    match call("querySource", source, &with_length(source)) {
        Ok(answer) => Ok(answer.unwrap_or(false)),
        Err(error) => {
            let what = format!("failed to find the address {} in {} zone", with_length(source), source.zone);
            Err(refused(what, error))
        }
    }
}

/// Calls a method of zones. Returns the answer if it is a boolean.
fn call(method: &str, source: &FirewalldSource, address: &str) -> Result<Option<bool>, CallError> {
    let mut bus = Bus::connect()?;
    let arguments = [Argument(&source.zone), Argument(address)];
    bus.call(SERVICE, PATH, ZONES, method, &arguments)
}

/// Formats the address like the reference plugin.
fn with_length(source: &FirewalldSource) -> String {
    format!("{}/{}", source.address, if source.address.is_ipv4() { 32 } else { 128 })
}

fn refused(doing: String, error: CallError) -> NetlinkError {
    match error {
        CallError::Io(io) => NetlinkError::File { doing: format!("{doing}: D-Bus"), io },
        CallError::Refused { name, text } => {
            NetlinkError::File { doing, io: io::Error::other(if text.is_empty() { name } else { text }) }
        }
    }
}

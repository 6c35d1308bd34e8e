//! firewalld over D-Bus: the sources of its zones. As with the reference plugin, they are lost when firewalld restarts.
//!
//! Invariant: nobody waits longer than some seconds for firewalld or the bus, however they answer.

mod dbus;

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use self::dbus::{Answer, Argument, Bus, CallError};
use super::error::NetlinkError;
use crate::plan::FirewalldSource;

const SERVICE: &str = "org.fedoraproject.FirewallD1";
const PATH: &str = "/org/fedoraproject/FirewallD1";
const ZONES: &str = "org.fedoraproject.FirewallD1.zone";

/// Prefixes of firewalld's errors which mean that there is nothing to do.
const ALREADY_SET: &str = "ZONE_ALREADY_SET";
const NOT_SET: &str = "UNKNOWN_SOURCE";

/// Time limit of one conversation. firewalld reloads its whole rule set for some calls; an ADD that comes meanwhile is
/// repeated by the runtime.
const PATIENCE_SECONDS: u64 = 5;

/// The way to firewalld of one executor. If firewalld was silent once, it is not asked again: a plan with several
/// sources waits once.
#[derive(Debug, Default)]
pub(super) struct Firewalld {
    silent: Cell<bool>,
}

/// Why a source was not added.
#[derive(Debug)]
pub(super) struct NotAdded {
    pub(super) cause: NetlinkError,
    /// Whether firewalld has not added it and never will. It may do so after weft stopped waiting.
    pub(super) certain: bool,
}

impl Firewalld {
    /// Returns whether firewalld's name has an owner on the bus. Without a bus it has none; a bus that does not answer
    /// is an error.
    pub(super) fn is_running(&self) -> Result<bool, NetlinkError> {
        match self.ask(|bus| bus.has_owner(SERVICE)) {
            Err(error) if error.is_away() => Ok(false),
            answer => answer.map_err(|error| refused("failed to find out whether firewalld runs".to_owned(), error)),
        }
    }

    /// Adds a source. Returns whether it is new.
    pub(super) fn add(&self, source: &FirewalldSource) -> Result<bool, NotAdded> {
        match self.call("addSource", source) {
            Ok(_) => Ok(true),
            Err(CallError::Refused { text, .. }) if text.contains(ALREADY_SET) => Ok(false),
            Err(error) => {
                let certain = !matches!(error, CallError::Unanswered(_));
                let doing = format!("failed to add the address {} to {} zone", with_length(source), source.zone);
                Err(NotAdded { cause: refused(doing, error), certain })
            }
        }
    }

    /// Removes a source. A missing source or a stopped firewalld is not an error.
    pub(super) fn remove(&self, source: &FirewalldSource) -> Result<(), NetlinkError> {
        match self.call("removeSource", source) {
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
    pub(super) fn has_source(&self, source: &FirewalldSource) -> Result<bool, NetlinkError> {
        let answer = self.call("querySource", source).map_err(|error| {
            refused(format!("failed to find the address {} in {} zone", with_length(source), source.zone), error)
        })?;
        Ok(answer.boolean.unwrap_or(false))
    }

    /// Returns the source that an address is, in the zone that has it.
    pub(super) fn source_of(&self, address: IpAddr) -> Result<Option<FirewalldSource>, NetlinkError> {
        let source = FirewalldSource { zone: String::new(), address };
        let text = with_length(&source);
        let arguments = [Argument(&text)];
        let answer = self.ask(|bus| bus.call(SERVICE, PATH, ZONES, "getZoneOfSource", &arguments));
        match answer {
            Ok(answer) if answer.text.is_empty() => Ok(None),
            Ok(answer) => Ok(Some(FirewalldSource { zone: answer.text, address })),
            Err(error) if error.is_away() => Ok(None),
            Err(error) => Err(refused(format!("failed to find the zone of the address {text}"), error)),
        }
    }

    /// Calls a method of zones.
    fn call(&self, method: &str, source: &FirewalldSource) -> Result<Answer, CallError> {
        let address = with_length(source);
        let arguments = [Argument(&source.zone), Argument(&address)];
        self.ask(|bus| bus.call(SERVICE, PATH, ZONES, method, &arguments))
    }

    fn ask<T>(&self, question: impl FnOnce(&mut Bus) -> Result<T, CallError>) -> Result<T, CallError> {
        if self.silent.get() {
            return Err(CallError::Io(io::ErrorKind::TimedOut.into()));
        }
        let deadline = Instant::now() + Duration::from_secs(PATIENCE_SECONDS);
        let answer = Bus::connect(deadline).and_then(|mut bus| question(&mut bus));
        self.silent.set(answer.as_ref().is_err_and(CallError::is_silence));
        answer
    }
}

/// Formats the address like the reference plugin.
fn with_length(source: &FirewalldSource) -> String {
    format!("{}/{}", source.address, if source.address.is_ipv4() { 32 } else { 128 })
}

fn refused(doing: String, error: CallError) -> NetlinkError {
    if error.is_silence() {
        return NetlinkError::FirewalldSilent { doing, seconds: PATIENCE_SECONDS };
    }
    match error {
        CallError::Io(io) | CallError::Unanswered(io) => NetlinkError::File { doing: format!("{doing}: D-Bus"), io },
        CallError::Refused { name, text } => {
            NetlinkError::File { doing, io: io::Error::other(if text.is_empty() { name } else { text }) }
        }
    }
}

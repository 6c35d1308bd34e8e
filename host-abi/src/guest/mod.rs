//! A linked policy: its exports as functions over native types, and the interface that its store must provide.
//!
//! There are two worlds, which only differ in their exports: [`World`] contains what loading and calling a policy need
//! to know about the difference.

mod choice;
mod ipam;

use std::marker::PhantomData;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use wasmtime::AsContextMut;
use wasmtime::component::{Component, HasData, Linker};

pub use choice::{Choice, ChoiceInstance};
pub use ipam::{Ipam, IpamInstance};

use crate::bindings::ipam::weft::policy::{facts, ledger, log, types as wit};
use crate::contract::Kind;
use crate::convert::{self, ConvertError};
use crate::types::{ClaimInfo, FactSource, LastClaim, Range, Usage};

/// The level of a guest's log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// For the person who debugs the policy.
    Debug,
    /// Worth knowing.
    Info,
    /// Something unusual.
    Warn,
}

/// The queries of a guest to its host. An error ends the call.
pub trait Host {
    /// `ledger.claimed-by`.
    ///
    /// # Errors
    ///
    /// Ends the guest's call, as all errors here do.
    fn claimed_by(&mut self, address: IpAddr) -> wasmtime::Result<Option<ClaimInfo>>;
    /// `ledger.next-free`.
    ///
    /// # Errors
    ///
    /// As [`Host::claimed_by`].
    fn next_free(&mut self, range: &Range, from: IpAddr) -> wasmtime::Result<Option<IpAddr>>;
    /// `ledger.usage`.
    ///
    /// # Errors
    ///
    /// As [`Host::claimed_by`].
    fn usage(&mut self, range: &Range) -> wasmtime::Result<Usage>;
    /// `ledger.last-claimed`.
    ///
    /// # Errors
    ///
    /// As [`Host::claimed_by`].
    fn last_claimed(&mut self, range: &Range) -> wasmtime::Result<Option<LastClaim>>;
    /// `ledger.held-by`.
    ///
    /// # Errors
    ///
    /// As [`Host::claimed_by`].
    fn held_by(&mut self, owner: &str) -> wasmtime::Result<Vec<ClaimInfo>>;
    /// `facts.source`.
    ///
    /// # Errors
    ///
    /// As [`Host::claimed_by`].
    fn fact_source(&mut self) -> wasmtime::Result<FactSource>;
    /// `facts.namespace-labels`.
    ///
    /// # Errors
    ///
    /// As [`Host::claimed_by`].
    fn namespace_labels(&mut self) -> wasmtime::Result<Vec<(String, String)>>;
    /// `log.write`.
    ///
    /// # Errors
    ///
    /// As [`Host::claimed_by`].
    fn log(&mut self, level: LogLevel, message: &str) -> wasmtime::Result<()>;
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The guest trapped, or a limit or the host ended it.
    #[error("the call ended without an answer")]
    Ended(#[source] wasmtime::Error),
    /// The guest's answer is not a value of the contract.
    #[error("the answer does not match the contract's types")]
    Malformed(#[source] ConvertError),
}

/// A world of the contract: how it is linked, and the calls of an instance.
pub trait World: 'static {
    /// What its policies decide.
    const KIND: Kind;

    /// A policy whose imports are resolved and whose exports have the contract's types.
    type Linked<T: 'static>: Send + Sync;

    /// An instance of a policy, for one call.
    type Instance: Send;

    /// Resolves a component's imports: the contract's, and those that `linker` already has.
    ///
    /// # Errors
    ///
    /// wasmtime's error, which names the missing import or the export with another type.
    fn link<T: Host + 'static>(component: &Component, linker: &mut Linker<T>) -> wasmtime::Result<Self::Linked<T>>;

    /// Creates an instance in `store`.
    ///
    /// # Errors
    ///
    /// wasmtime's error: the guest's start code trapped or exceeded a limit.
    fn instantiate<T: Send>(
        linked: &Self::Linked<T>,
        store: impl AsContextMut<Data = T>,
    ) -> wasmtime::Result<Self::Instance>;

    /// `config-schema` of the exported interface.
    ///
    /// # Errors
    ///
    /// [`CallError`] if there is no usable answer.
    fn config_schema(instance: &Self::Instance, store: impl AsContextMut) -> Result<String, CallError>;
}

/// Implements the generated traits for any [`Host`].
struct Adapter<'a, T>(&'a mut T);

struct Link<T>(PhantomData<T>);

impl<T: Host + 'static> HasData for Link<T> {
    type Data<'a> = Adapter<'a, T>;
}

// === impl Adapter ===

impl<T: Host> wit::Host for Adapter<'_, T> {}

impl<T: Host> ledger::Host for Adapter<'_, T> {
    fn claimed_by(&mut self, address: wit::IpAddress) -> wasmtime::Result<Option<wit::Claim>> {
        let address = convert::address(address)?;
        Ok(self.0.claimed_by(address)?.as_ref().map(convert::claim))
    }

    fn next_free(&mut self, range: wit::IpRange, from: wit::IpAddress) -> wasmtime::Result<Option<wit::IpAddress>> {
        let (range, from) = (convert::range(range)?, convert::address(from)?);
        Ok(self.0.next_free(&range, from)?.map(convert::to_address))
    }

    fn usage(&mut self, range: wit::IpRange) -> wasmtime::Result<ledger::RangeUsage> {
        let usage = self.0.usage(&convert::range(range)?)?;
        Ok(ledger::RangeUsage { size: usage.size, taken: usage.taken })
    }

    fn last_claimed(&mut self, range: wit::IpRange) -> wasmtime::Result<Option<ledger::LastClaim>> {
        let last = self.0.last_claimed(&convert::range(range)?)?;
        Ok(last.map(|last| ledger::LastClaim { address: convert::to_address(last.address), sequence: last.sequence }))
    }

    fn held_by(&mut self, owner: String) -> wasmtime::Result<Vec<wit::Claim>> {
        Ok(self.0.held_by(&owner)?.iter().map(convert::claim).collect())
    }
}

impl<T: Host> facts::Host for Adapter<'_, T> {
    fn source(&mut self) -> wasmtime::Result<facts::FactSource> {
        Ok(match self.0.fact_source()? {
            FactSource::Runtime => facts::FactSource::Runtime,
            FactSource::ApiServer => facts::FactSource::ApiServer,
        })
    }

    fn namespace_labels(&mut self) -> wasmtime::Result<Vec<wit::Pair>> {
        Ok(convert::pairs(&self.0.namespace_labels()?))
    }
}

impl<T: Host> log::Host for Adapter<'_, T> {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
        };
        self.0.log(level, &message)
    }
}

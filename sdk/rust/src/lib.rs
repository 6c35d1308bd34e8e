//! The SDK for authors of weft policies.
//!
//! A policy is a pure function from a [`Request`] to a [`Decision`] or a [`Denial`]. Implement [`Policy`] for your own
//! type and pass it to [`policy!`]; build the crate as a `cdylib` for `wasm32-unknown-unknown` (`weftctl policy
//! build`). A policy that picks the delegate instead of the addresses implements [`DelegatePolicy`]: see [`choice`].
//!
//! ```
//! use weft_sdk::{Decision, Denial, Ledger, Policy, Problem, ReleaseRule, Request, pool};
//!
//! struct First;
//!
//! impl Policy for First {
//!     fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
//!         let picks = pool::pick(request, &pool::one_of_each_family(request), ledger)?;
//!         let addresses = picks.into_iter().map(|pick| pick.wanted).collect();
//!         Ok(Decision { addresses, routes: Vec::new(), dns: None, release: ReleaseRule::Free, reason: "the next free one".into() })
//!     }
//!
//!     fn validate(_config: &str) -> Vec<Problem> {
//!         Vec::new()
//!     }
//!
//!     fn config_schema() -> String {
//!         r#"{"type": "object"}"#.to_owned()
//!     }
//! }
//!
//! weft_sdk::policy!(First);
//! # #[cfg(feature = "testing")]
//! # {
//! # use weft_sdk::testing::{Network, set};
//! # let mut network = Network::new("{}", vec![set(&["10.1.0.0/24"]), set(&["2001:db8::/64"])]);
//! # let request = network.request("web-0");
//! # assert_eq!(network.add::<First>(&request).expect("addresses").len(), 2);
//! # }
//! ```
//!
//! There is no clock, no randomness and no I/O besides [`Request::now`], [`Request::seed`], the [`Ledger`], [`facts`]
//! and [`log`]: the same request and ledger always lead to the same decision, so a saved trace can be replayed.

pub mod address;
pub mod choice;
pub mod facts;
pub mod log;
pub mod ordinal;
pub mod pool;
pub mod spread;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// The examples of the package's page.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The generated bindings, for [`policy!`]; an author rarely needs them.
#[doc(hidden)]
#[allow(missing_docs, reason = "generated; the WIT file is the documentation")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "ipam-policy",
        pub_export_macro: true,
        default_bindings_module: "weft_sdk::bindings",
        additional_derives: [PartialEq, Eq],
    });
}

pub use choice::DelegatePolicy;

pub use bindings::weft::policy::ledger::{LastClaim, RangeUsage};
pub use bindings::weft::policy::types::{
    Attachment, Claim, ClaimState, Decision, Denial, Dns, IpAddress, IpPrefix, IpRange, Node, Pair, Pod, Problem,
    RangeSet, ReleaseRule, Request, RequestSource, RequestedAddress, Route, WantedAddress,
};

use bindings::weft::policy::ledger as host;

/// The exports of a policy.
pub trait Policy {
    /// Decides which addresses an attachment gets.
    ///
    /// # Errors
    ///
    /// A refusal, whose text reaches the user unchanged.
    fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial>;

    /// Returns the mistakes in an `ipam` object, given as JSON text.
    fn validate(config: &str) -> Vec<Problem>;

    /// Returns the JSON Schema of the `ipam` object.
    fn config_schema() -> String;
}

/// The read-only view of the ledger. It is a trait, so that a policy's logic can be tested natively with a model
/// (feature `testing`); a real policy gets [`HostLedger`]. Every call goes to the host, which limits their number:
/// query, do not scan.
pub trait Ledger {
    /// Returns the claim on an address, or `None` if it is free.
    fn claimed_by(&self, address: IpAddress) -> Option<Claim>;

    /// Returns the lowest free address of `range` that is not below `start`. No wrap-around, and gateways are not
    /// skipped.
    fn next_free(&self, range: &IpRange, start: IpAddress) -> Option<IpAddress>;

    /// Returns the fill level of a range. A gateway inside the range counts in its size, and is not taken.
    fn usage(&self, range: &IpRange) -> RangeUsage;

    /// Returns the last claim in a range.
    fn last_claimed(&self, range: &IpRange) -> Option<LastClaim>;

    /// Returns the claims that an owner holds: active ones of a container id, kept ones of an identity.
    fn held_by(&self, owner: &str) -> Vec<Claim>;
}

/// The host's ledger.
#[derive(Debug, Clone, Copy)]
pub struct HostLedger;

impl Ledger for HostLedger {
    fn claimed_by(&self, address: IpAddress) -> Option<Claim> {
        host::claimed_by(address)
    }

    fn next_free(&self, range: &IpRange, start: IpAddress) -> Option<IpAddress> {
        host::next_free(*range, start)
    }

    fn usage(&self, range: &IpRange) -> RangeUsage {
        host::usage(*range)
    }

    fn last_claimed(&self, range: &IpRange) -> Option<LastClaim> {
        host::last_claimed(*range)
    }

    fn held_by(&self, owner: &str) -> Vec<Claim> {
        host::held_by(owner)
    }
}

/// Exports a [`Policy`] from a component. Use it once per crate.
#[macro_export]
macro_rules! policy {
    ($policy:ty) => {
        #[doc(hidden)]
        struct WeftPolicyExport;

        impl $crate::bindings::exports::weft::policy::ipam::Guest for WeftPolicyExport {
            fn allocate(request: $crate::Request) -> Result<$crate::Decision, $crate::Denial> {
                $crate::log::log_panics();
                <$policy as $crate::Policy>::allocate(&request, &$crate::HostLedger)
            }

            fn validate(config: ::std::string::String) -> ::std::vec::Vec<$crate::Problem> {
                $crate::log::log_panics();
                <$policy as $crate::Policy>::validate(&config)
            }

            fn config_schema() -> ::std::string::String {
                <$policy as $crate::Policy>::config_schema()
            }
        }

        $crate::bindings::export!(WeftPolicyExport with_types_in $crate::bindings);
    };
}

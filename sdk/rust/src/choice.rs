//! For authors of delegate policies: a pure function from a [`ChoiceRequest`] to a [`Choice`] or a [`Denial`].
//!
//! ```
//! use weft_sdk::choice::{Candidate, Choice, ChoiceRequest};
//! use weft_sdk::{DelegatePolicy, Denial, Problem};
//!
//! struct Always;
//!
//! impl DelegatePolicy for Always {
//!     fn choose(request: &ChoiceRequest) -> Result<Choice, Denial> {
//!         let first = request.candidates.first().ok_or_else(|| Denial::InvalidConfig("no delegates".to_owned()))?;
//!         Ok(Choice { name: first.name.clone(), settings: Vec::new(), reason: "it is the first".to_owned() })
//!     }
//!
//!     fn validate(_config: &str, _candidates: &[Candidate]) -> Vec<Problem> {
//!         Vec::new()
//!     }
//!
//!     fn config_schema() -> String {
//!         r#"{"type": "object"}"#.to_owned()
//!     }
//! }
//!
//! weft_sdk::delegate_policy!(Always);
//! ```
//!
//! A delegate policy sees no ledger. Files it depends on are declared by the operator (`"select": {"files": {...}}`) and
//! arrive as text in [`ChoiceRequest::files`].

use crate::{Denial, Problem};

/// The generated bindings, for [`delegate_policy!`](crate::delegate_policy); an author rarely needs them.
#[doc(hidden)]
#[allow(missing_docs, reason = "generated; the WIT file is the documentation")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "delegate-policy",
        pub_export_macro: true,
        default_bindings_module: "weft_sdk::choice::bindings",
        additional_derives: [PartialEq, Eq],
        with: {
            "weft:policy/types@0.1.1": crate::bindings::weft::policy::types,
            "weft:policy/facts@0.1.1": crate::bindings::weft::policy::facts,
            "weft:policy/log@0.1.1": crate::bindings::weft::policy::log,
        },
    });
}

pub use bindings::exports::weft::policy::delegate_choice::{Candidate, Choice, ChoiceRequest, File};

/// The exports of a delegate policy.
pub trait DelegatePolicy {
    /// Chooses a delegate.
    ///
    /// # Errors
    ///
    /// A refusal, whose text reaches the user unchanged.
    fn choose(request: &ChoiceRequest) -> Result<Choice, Denial>;

    /// Returns the mistakes in a `select` object, given as JSON text, with these delegates.
    fn validate(config: &str, candidates: &[Candidate]) -> Vec<Problem>;

    /// Returns the JSON Schema of the `select` object.
    fn config_schema() -> String;
}

/// Exports a [`DelegatePolicy`] from a component. Use it once per crate.
#[macro_export]
macro_rules! delegate_policy {
    ($policy:ty) => {
        #[doc(hidden)]
        struct WeftPolicyExport;

        impl $crate::choice::bindings::exports::weft::policy::delegate_choice::Guest for WeftPolicyExport {
            fn choose(request: $crate::choice::ChoiceRequest) -> Result<$crate::choice::Choice, $crate::Denial> {
                $crate::log::log_panics();
                <$policy as $crate::DelegatePolicy>::choose(&request)
            }

            fn validate(
                config: ::std::string::String,
                candidates: ::std::vec::Vec<$crate::choice::Candidate>,
            ) -> ::std::vec::Vec<$crate::Problem> {
                $crate::log::log_panics();
                <$policy as $crate::DelegatePolicy>::validate(&config, &candidates)
            }

            fn config_schema() -> ::std::string::String {
                <$policy as $crate::DelegatePolicy>::config_schema()
            }
        }

        $crate::choice::bindings::export!(WeftPolicyExport with_types_in $crate::choice::bindings);
    };
}

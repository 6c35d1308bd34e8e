//! Errors of a configuration. If a stock plugin has a text for an error, that text is used.

use super::RangeProblem;
use crate::cni::{CniError, Mistyped, Version, code};
use crate::keys::did_you_mean;

/// An error of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfError {
    /// The program was called by an unknown name.
    #[error("unknown program name {name:?}; weft must be called by one of these names: {known}")]
    UnknownPersona {
        /// The name.
        name: String,
        /// The known names.
        known: String,
    },
    /// The version, or `CNI_ARGS`.
    #[error("{0}")]
    Wire(CniError),
    /// A value of the wrong type.
    #[error("failed to load netconf: {0}")]
    Mistyped(Mistyped),
    /// A value of the right type that has no meaning.
    #[error("{key} is {value:?}, but must be {want}")]
    BadValue {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is expected.
        want: &'static str,
    },
    /// A key of ours that does not exist.
    #[error("unknown key {key:?}{place}: {hint}")]
    UnknownKey {
        /// The key.
        key: String,
        /// ` in "delegate"` and the like; empty at the top.
        place: String,
        /// What to do.
        hint: String,
    },
    /// Several errors.
    #[error("{}", several_text(.0))]
    Several(Vec<ConfError>),
    /// A step that does not exist.
    #[error(
        "unknown step {kind:?} in \"steps\"; known steps: {known}. To use another plugin, add it to the plugin list after weft"
    )]
    UnknownStep {
        /// Its type.
        kind: String,
        /// The existing steps.
        known: String,
    },
    /// A feature that is designed but not implemented.
    #[error("{what} is not supported by this version of weft; {hint}")]
    NotSupported {
        /// What.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// A missing key.
    #[error("{key} is missing: {hint}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What to write.
        hint: &'static str,
    },
    /// An invalid option of `ipam.provide` or `ipam.request`.
    #[error("Can not parse option {text:?}: Can not parse option: strconv.ParseUint: parsing {text:?}: {why}")]
    DhcpOption {
        /// The option as written.
        text: String,
        /// The reason, in the words of the stock plugin's library.
        why: &'static str,
    },
    /// A value that does not fit into an option.
    #[error("the value for DHCP option {option:?} is longer than 255 bytes")]
    DhcpValue {
        /// The option as written.
        option: String,
    },
    /// Two keys that exclude each other.
    #[error("both {one:?} and {other:?} are set; remove one of them")]
    Either {
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// Two delegates of the same name.
    #[error("two delegates have the name {name:?}")]
    DelegateName {
        /// The name.
        name: String,
    },
    /// Duplicate detection is impossible.
    #[error("{key} cannot be used in this network: {why}; remove it")]
    NoDetection {
        /// The key.
        key: String,
        /// Why not.
        why: &'static str,
    },
    /// One of several delegates.
    #[error("delegate {name:?}: {error}")]
    Entry {
        /// Its name.
        name: String,
        /// What is wrong with it.
        error: Box<ConfError>,
    },
    /// An error in the configuration of the monitored policy.
    #[error("\"ipam\" of \"monitor\": {error}")]
    Monitor {
        /// What is wrong with it.
        error: Box<ConfError>,
    },
    /// An error of flannel's own keys.
    #[error("{0}")]
    Flannel(&'static str),
    /// No `ipam` for an IPAM plugin.
    #[error("IPAM config missing 'ipam' key")]
    MissingIpam,
    /// No `ipam.type` for a plugin that requires one.
    #[error("{text}")]
    NoPlugin {
        /// In the stock plugin's words.
        text: &'static str,
    },
    /// A plugin name that would leave `CNI_PATH`.
    #[error("invalid plugin name: {0}")]
    PluginName(String),
    /// `weft-pod` as the plugin of one network.
    #[error(
        "{name:?} attaches all networks of a pod, and cannot be the plugin of one of them; name the plugin that makes the interface"
    )]
    PodPlugin {
        /// The name.
        name: String,
    },
    /// `ipam` for a delegate that uses no addresses.
    #[error("a {kind} takes no addresses: remove \"ipam\"")]
    NoIpamWanted {
        /// The delegate.
        kind: String,
    },
    /// `ipam.policy` names neither a shipped policy nor a URL.
    #[error("{key} is {policy:?}, which is neither a shipped policy nor a URL such as file:///etc/weft/policy.wasm")]
    UnknownPolicy {
        /// The key with the name.
        key: &'static str,
        /// The name.
        policy: String,
    },
    /// `wasm` with the name of a policy that has a type of its own.
    #[error("ipam.policy is {policy:?}, which comes with weft: write \"type\": {policy:?} and no \"policy\"")]
    ShippedPolicy {
        /// The name.
        policy: String,
    },
    /// host-local without ranges.
    #[error("no IP ranges specified")]
    NoRanges,
    /// A range set that cannot be used.
    #[error("invalid range set {index}: {problem}")]
    RangeSet {
        /// The index of the set, in the order of use.
        index: usize,
        /// What is wrong with it.
        problem: RangeProblem,
    },
    /// Two sets that have addresses in common.
    #[error("range set {first} overlaps with {second}")]
    RangeSetsOverlap {
        /// The one.
        first: usize,
        /// The other.
        second: usize,
    },
    /// Two sets of the same name.
    #[error("two range sets have the name {name:?}")]
    RangeSetName {
        /// The name.
        name: String,
    },
    /// More range sets of a family than the CNI version has addresses.
    #[error("CNI version {version} does not support more than 1 address per family")]
    TooManyAddresses {
        /// The configuration's version.
        version: Version,
    },
    /// A requested address that is invalid.
    #[error("{place}invalid IP address {text}")]
    RequestedAddress {
        /// Its place in the stock plugin's words; empty outside of `CNI_ARGS`.
        place: String,
        /// The text.
        text: String,
    },
    /// A declared address without its prefix length.
    #[error("the 'address' field is expected to be in CIDR notation, got: '{text}'")]
    DeclaredAddress {
        /// The text.
        text: String,
    },
}

fn several_text(errors: &[ConfError]) -> String {
    let more = errors.len().saturating_sub(1);
    let first = errors.first().map(ToString::to_string).unwrap_or_default();
    format!("{first} ({more} more in the details)")
}

impl ConfError {
    /// Combines errors into one; `None` if there are none.
    #[must_use]
    pub fn combine(mut errors: Vec<Self>) -> Option<Self> {
        if errors.len() < 2 { errors.pop() } else { Some(Self::Several(errors)) }
    }

    /// Appends one error to errors that were found before.
    #[must_use]
    pub fn append_to(self, mut earlier: Vec<Self>) -> Self {
        if earlier.is_empty() {
            return self;
        }
        earlier.extend(self.into_errors());
        Self::Several(earlier)
    }

    /// Returns the individual errors.
    #[must_use]
    pub fn into_errors(self) -> Vec<Self> {
        match self {
            Self::Several(errors) => errors,
            other => vec![other],
        }
    }

    /// Returns the CNI code.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::UnknownPersona { .. } => code::INVALID_ENVIRONMENT,
            Self::Wire(error) => error.code,
            Self::NotSupported { .. } => code::UNSUPPORTED_FIELD,
            Self::Entry { error, .. } | Self::Monitor { error } => error.code(),
            // At least one of them is a mistake in the configuration.
            Self::Several(_) => code::INVALID_CONFIG,
            Self::Mistyped(_)
            | Self::BadValue { .. }
            | Self::UnknownKey { .. }
            | Self::UnknownStep { .. }
            | Self::Missing { .. }
            | Self::DhcpOption { .. }
            | Self::DhcpValue { .. }
            | Self::Either { .. }
            | Self::DelegateName { .. }
            | Self::Flannel(_)
            | Self::MissingIpam
            | Self::NoPlugin { .. }
            | Self::PluginName(_)
            | Self::PodPlugin { .. }
            | Self::NoIpamWanted { .. }
            | Self::NoDetection { .. }
            | Self::UnknownPolicy { .. }
            | Self::ShippedPolicy { .. }
            | Self::NoRanges
            | Self::RangeSet { .. }
            | Self::RangeSetsOverlap { .. }
            | Self::RangeSetName { .. }
            | Self::TooManyAddresses { .. }
            | Self::RequestedAddress { .. }
            | Self::DeclaredAddress { .. } => code::INVALID_CONFIG,
        }
    }
}

// Not `#[from]`: that would make them sources, but their texts are part of this error's text.
impl From<Mistyped> for ConfError {
    fn from(error: Mistyped) -> Self {
        Self::Mistyped(error)
    }
}

impl From<CniError> for ConfError {
    fn from(error: CniError) -> Self {
        Self::Wire(error)
    }
}

/// Returns the error for an unknown key, with the likely intended key or else `otherwise`.
pub(super) fn unknown_key(key: &str, place: &str, known: &[&str], otherwise: impl FnOnce() -> String) -> ConfError {
    let place = if place.is_empty() { String::new() } else { format!(" in {place:?}") };
    let hint = match did_you_mean(key, known.iter().copied()) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => otherwise(),
    };
    ConfError::UnknownKey { key: key.to_owned(), place, hint }
}

//! The kind of IPAM: `ipam.type`.

use super::persona::is_pod_plugin;
use super::{ConfError, Object, Persona};

/// The kind of IPAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IpamKind {
    /// A shipped policy, by name.
    Shipped(String),
    /// An operator's policy.
    Wasm {
        /// Its URL.
        policy: String,
    },
    /// A DHCP server, through the node's agent.
    Dhcp,
    /// An IPAM plugin of that name in `CNI_PATH`.
    External(String),
}

impl IpamKind {
    /// Returns whether it is the shipped policy of that name.
    #[must_use]
    pub fn is_shipped(&self, name: &str) -> bool {
        matches!(self, Self::Shipped(own) if own == name)
    }

    /// Returns whether a policy decides.
    #[must_use]
    pub fn is_policy(&self) -> bool {
        self.policy().is_some()
    }

    /// Returns the value of `ipam.policy` with which `weft-ipam` does the same.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        match self {
            Self::Shipped(policy) | Self::Wasm { policy } => Some(policy),
            Self::Dhcp | Self::External(_) => None,
        }
    }

    /// Returns the keys of `CNI_ARGS` that the stock plugin of this name reads.
    pub(super) fn cni_args(&self) -> &'static [&'static str] {
        match self {
            Self::Shipped(name) if name == "host-local" => &["IP"],
            Self::Shipped(name) if name == "static" => &["IP", "GATEWAY"],
            _ => &[],
        }
    }
}

/// Returns the kind of IPAM; `None` if the network has no IPAM.
pub(super) fn kind(
    persona: Persona,
    ipam: &Object,
    is_shipped: &dyn Fn(&str) -> bool,
) -> Result<Option<IpamKind>, ConfError> {
    let named = ipam.text("type")?;
    let kind = match (persona, named) {
        (Persona::Ipam("dhcp"), _) => IpamKind::Dhcp,
        (Persona::Ipam(name), _) => IpamKind::Shipped(name.to_owned()),
        (Persona::WeftIpam, _) | (_, Some("weft-ipam")) => by_policy(ipam, is_shipped)?,
        (_, None) => return Ok(None),
        (_, Some("wasm")) => match policy(ipam)? {
            name if is_shipped(name) => return Err(ConfError::ShippedPolicy { policy: name.to_owned() }),
            _ => wasm(ipam)?,
        },
        (_, Some("dhcp")) => IpamKind::Dhcp,
        (_, Some(name)) if is_shipped(name) => IpamKind::Shipped(name.to_owned()),
        (_, Some(name)) => IpamKind::External(plugin_name(name)?),
    };
    Ok(Some(kind))
}

/// Reads `ipam.policy` of `weft-ipam`: a shipped policy's name, or a URL.
fn by_policy(ipam: &Object, is_shipped: &dyn Fn(&str) -> bool) -> Result<IpamKind, ConfError> {
    match policy(ipam)? {
        name if is_shipped(name) => Ok(IpamKind::Shipped(name.to_owned())),
        _ => wasm(ipam),
    }
}

/// Reads `ipam.policy` of `wasm`: a URL.
fn wasm(ipam: &Object) -> Result<IpamKind, ConfError> {
    let policy = policy(ipam)?.to_owned();
    if !policy.contains("://") {
        return Err(ConfError::UnknownPolicy { key: "ipam.policy", policy });
    }
    Ok(IpamKind::Wasm { policy })
}

fn policy(ipam: &Object) -> Result<&str, ConfError> {
    let hint = "name a policy that comes with weft, or say where yours is, as in \"file:///etc/weft/policy.wasm\"";
    ipam.text("policy")?.ok_or(ConfError::Missing { key: "ipam.policy", hint })
}

/// Checks a name to look up in `CNI_PATH`: it must be a plain file name, and not `weft-pod`'s, which would take the
/// network's configuration for its own.
pub(super) fn plugin_name(name: &str) -> Result<String, ConfError> {
    if !is_file_name(name) {
        return Err(ConfError::PluginName(name.to_owned()));
    }
    if is_pod_plugin(name) {
        return Err(ConfError::PodPlugin { name: name.to_owned() });
    }
    Ok(name.to_owned())
}

/// Returns whether a plugin's name stays inside `CNI_PATH`.
pub(crate) fn is_file_name(name: &str) -> bool {
    !name.contains(['/', '\0']) && name != "." && name != ".."
}

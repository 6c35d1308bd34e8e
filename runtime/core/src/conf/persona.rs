//! The plugin that the program stands for, by the name it is called.

use std::ffi::OsStr;
use std::path::Path;

use super::ConfError;
use crate::cni::Version;
use crate::{delegate, step};

/// Stock IPAM plugins that weft replaces.
const IPAM_NAMES: [&str; 3] = ["host-local", "static", "dhcp"];

/// Names of the persona for all networks of a pod.
pub const POD_NAMES: [&str; 3] = ["weft-pod", "multus", "multus-shim"];

/// The suffix of a plugin that was moved aside for weft.
pub const KEPT_SUFFIX: &str = ".before-weft";

/// Returns whether a plugin attaches all networks of a pod: `weft-pod`, or the Multus that it replaced.
#[must_use]
pub fn is_pod_plugin(name: &str) -> bool {
    POD_NAMES.contains(&name.strip_suffix(KEPT_SUFFIX).unwrap_or(name))
}

/// The plugin that the program stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persona {
    /// `weft`: one attachment.
    Weft,
    /// `weft-ipam`: IPAM for other plugins, by policy.
    WeftIpam,
    /// All networks of a pod: `weft-pod`, or Multus under its own names.
    Pod(&'static str),
    /// The name of a delegate: that stock plugin.
    Delegate(&'static str),
    /// The name of a stock IPAM plugin: that plugin.
    Ipam(&'static str),
    /// The name of a step: that stock plugin, chained after another.
    Step(&'static str),
    /// `flannel`: a delegate whose configuration comes from flanneld.
    Flannel,
}

impl Persona {
    /// Returns the persona of a program name, given with or without its directory.
    ///
    /// # Errors
    /// weft cannot be called by that name.
    pub fn from_argv0(argv0: &OsStr) -> Result<Self, ConfError> {
        let name = Path::new(argv0).file_name().unwrap_or(argv0).to_string_lossy();
        Self::all().find(|persona| persona.name() == name).ok_or_else(|| ConfError::UnknownPersona {
            name: name.into_owned(),
            known: Self::all().map(Self::name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Returns every persona.
    pub fn all() -> impl Iterator<Item = Self> {
        let own = [Self::Weft, Self::WeftIpam].into_iter();
        own.chain(POD_NAMES.map(Self::Pod))
            .chain(delegate::kinds().map(Self::Delegate))
            .chain(IPAM_NAMES.map(Self::Ipam))
            .chain(step::kinds().map(Self::Step))
            .chain([Self::Flannel])
    }

    /// Returns the name of its program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Weft => "weft",
            Self::WeftIpam => "weft-ipam",
            Self::Pod(name) | Self::Delegate(name) | Self::Ipam(name) | Self::Step(name) => name,
            Self::Flannel => "flannel",
        }
    }

    /// Returns whether it only prints addresses, and makes no link.
    #[must_use]
    pub fn is_ipam(self) -> bool {
        matches!(self, Self::WeftIpam | Self::Ipam(_))
    }

    /// Returns the oldest supported version of the specification: that of the stock plugin it replaces, if any.
    #[must_use]
    pub fn oldest(self) -> Version {
        match self {
            Self::Step(kind) => step::find(kind).map_or(Version::V0_1_0, step::Step::oldest),
            Self::Weft | Self::WeftIpam | Self::Pod(_) | Self::Delegate(_) | Self::Ipam(_) | Self::Flannel => {
                Version::V0_1_0
            }
        }
    }

    /// Returns whether it replaces a stock plugin, and is therefore equally lenient.
    #[must_use]
    pub fn is_stock(self) -> bool {
        matches!(self, Self::Delegate(_) | Self::Ipam(_) | Self::Step(_) | Self::Flannel)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_are_found_with_and_without_their_directory() {
        let of = |name: &str| Persona::from_argv0(OsStr::new(name));
        assert_eq!(of("/opt/cni/bin/weft"), Ok(Persona::Weft));
        assert_eq!(of("weft-ipam"), Ok(Persona::WeftIpam));
        assert_eq!(of("./bridge"), Ok(Persona::Delegate("bridge")));
        assert_eq!(of("flannel"), Ok(Persona::Flannel));
        assert_eq!(of("host-local"), Ok(Persona::Ipam("host-local")));
        for persona in Persona::all() {
            assert_eq!(of(persona.name()), Ok(persona));
        }
    }

    #[test]
    fn an_unknown_name_is_reported_with_the_known_ones() {
        let text = Persona::from_argv0(OsStr::new("/bin/calico")).unwrap_err().to_string();
        assert_eq!(
            text,
            "unknown program name \"calico\"; weft must be called by one of these names: \
             weft, weft-ipam, weft-pod, multus, multus-shim, bridge, ptp, macvlan, ipvlan, vlan, dummy, host-device, tap, loopback, host-local, static, dhcp, \
             portmap, firewall, tuning, bandwidth, sbr, vrf, flannel"
        );
        assert!(Persona::from_argv0(OsStr::new("")).is_err());
    }
}

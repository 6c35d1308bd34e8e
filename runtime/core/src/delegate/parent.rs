//! The parent link (`master`): named, or found like the stock plugins find it. Shared by `macvlan`, `ipvlan` and
//! `vlan`.

use super::DelegateError;
use crate::cni::{CniResult, Object};
use crate::keys;
use crate::plan::{LinkRef, Need, Observed, Side};

/// The parent according to the configuration.
pub(super) struct Parent {
    /// Its name; `None` if it has to be found.
    name: Option<String>,
    /// Its namespace.
    side: Side,
}

impl Parent {
    /// Reads `master` and `linkInContainer`.
    pub(super) fn read(conf: &Object) -> Result<Self, DelegateError> {
        let in_container = keys::flag(conf, "linkInContainer")?;
        Ok(Self {
            name: conf.text("master").map_err(keys::mistyped)?.map(ToOwned::to_owned),
            side: if in_container { Side::Container } else { Side::Host },
        })
    }

    /// Returns whether the configuration names it.
    pub(super) fn is_named(&self) -> bool {
        self.name.is_some()
    }

    /// Fills in an unnamed parent in a chain: the only interface of the previous result, on the configured side.
    pub(super) fn or_of(mut self, previous: Option<&CniResult>) -> Result<Self, DelegateError> {
        if let (None, Some(previous)) = (&self.name, previous) {
            self.name = match previous.interfaces.as_slice() {
                [only] if !only.name.is_empty() => Some(only.name.clone()),
                _ => {
                    let text = "chained master failure. PrevResult lacks a single named interface";
                    return Err(DelegateError::Conf(text.to_owned()));
                }
            };
        }
        Ok(self)
    }

    /// Returns the needed fact about it; without a name it is the link of the default route.
    pub(super) fn need(&self) -> Need {
        match &self.name {
            Some(name) => Need::Parent(LinkRef { side: self.side, name: name.clone() }),
            None => Need::DefaultRouteLink(self.side),
        }
    }

    /// Returns the parent that was found, and its MTU.
    pub(super) fn parent_link(&self, observed: &Observed) -> Result<(LinkRef, u32), DelegateError> {
        let name = match &self.name {
            Some(name) => name,
            None => observed
                .default_route_links
                .get(&self.side)
                .ok_or_else(|| DelegateError::Host("no default route interface found".to_owned()))?,
        };
        let link = LinkRef { side: self.side, name: name.clone() };
        match observed.links.get(&link) {
            Some(info) => Ok((link, info.mtu)),
            None => Err(DelegateError::Host(format!("failed to lookup master {name:?}: Link not found"))),
        }
    }
}

/// Returns the requested MTU, if any; the parent's is the upper limit.
pub(super) fn bounded_mtu(conf: &Object, of_parent: u32) -> Result<Option<u32>, DelegateError> {
    let asked = conf.int("mtu").map_err(keys::mistyped)?.unwrap_or_default();
    let fits = u32::try_from(asked).ok().filter(|mtu| *mtu <= of_parent);
    let refused = || DelegateError::Conf(format!("invalid MTU {asked}, must be [0, master MTU({of_parent})]"));
    let mtu = fits.ok_or_else(refused)?;
    Ok((mtu != 0).then_some(mtu))
}

/// Checks that `mtu` is a number; its limit is only known once the parent is.
pub(super) fn check_mtu(conf: &Object) -> Result<(), DelegateError> {
    Ok(conf.int("mtu").map_err(keys::mistyped).map(drop)?)
}

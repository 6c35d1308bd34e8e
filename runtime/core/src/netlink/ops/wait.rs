//! Waits for the kernel: duplicate address detection, and bridge ports coming up.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rtnetlink::packet_route::link::State;

use super::link::state_name;
use super::{Operation, Session};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::rtnl::Lookup;
use crate::plan::{Family, LinkRef};

/// With duplicate address detection off, the kernel still needs some microseconds in the background until the address
/// is ready; with detection on, a second or two. So steps start small and grow.
const DAD_FIRST_STEP: Duration = Duration::from_micros(50);
const DAD_LAST_STEP: Duration = Duration::from_millis(10);
const DAD_SECONDS: u64 = 5;

/// A port comes up in well under a millisecond, once the kernel's link watch has run; since 6.8, reading the link
/// triggers it. The total is that of the reference plugin's sleeps: 0, 50, 500, 1000 and 1000 ms.
const PORT_STEP: Duration = Duration::from_millis(1);
const PORT_TOTAL: Duration = Duration::from_millis(2550);

/// Waits until duplicate address detection is over.
pub(super) struct Addresses<'a> {
    pub(super) link: &'a LinkRef,
}

/// Waits until a bridge port is up.
pub(super) struct Port<'a> {
    pub(super) link: &'a str,
}

impl Operation for Addresses<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.wait_addresses(self.link)
    }

    fn changes_links(&self) -> bool {
        false
    }
}

impl Operation for Port<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.wait_port(self.link)
    }

    fn changes_links(&self) -> bool {
        false
    }
}

impl Session<'_> {
    pub(super) fn wait_addresses(&mut self, link: &LinkRef) -> Result<(), NetlinkError> {
        let index = self.index(link)?;
        let rtnl = self.rtnl(link)?;
        let deadline = Instant::now() + Duration::from_secs(DAD_SECONDS);
        let mut step = DAD_FIRST_STEP;
        loop {
            let addresses = rtnl.addresses(index, Some(Family::V6)).doing(|| "could not list addresses")?;
            if let Some(bad) = addresses.iter().find(|address| address.duplicate) {
                return Err(NetlinkError::DuplicateAddress { link: link.name.clone(), address: bad.net });
            }
            if !addresses.iter().any(|address| address.tentative) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                break;
            }
            sleep(step);
            step = DAD_LAST_STEP.min(step * 2);
        }
        // Without carrier, detection never starts, and the addresses become usable when the link comes up.
        let found = rtnl.link(Lookup::Index(index)).doing(|| format!("failed to retrieve link {}", link.name))?;
        if found.is_some_and(|found| found.state == State::Up) {
            return Err(NetlinkError::StillTentative { link: link.name.clone(), seconds: DAD_SECONDS });
        }
        Ok(())
    }

    pub(super) fn wait_port(&mut self, name: &str) -> Result<(), NetlinkError> {
        let link = LinkRef::host(name);
        let index = self.index(&link)?;
        let deadline = Instant::now() + PORT_TOTAL;
        loop {
            let found = self.executor.host.link(Lookup::Index(index)).doing(|| format!("failed to lookup {link}"))?;
            let found = found.ok_or_else(|| NetlinkError::NoLink { link: link.clone() })?;
            let state = found.state;
            if state == State::Up {
                self.settled.insert(link, found);
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(NetlinkError::PortState { state: state_name(state) });
            }
            sleep(PORT_STEP);
        }
    }
}

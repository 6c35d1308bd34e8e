//! Asks the neighbours on a container's link whether they have the addresses that it is about to get.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rtnetlink::packet_route::link::State;

use super::{Operation, Session};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::probe;
use crate::netlink::rtnl::Lookup;
use crate::plan::{LinkRef, Mac, ProbeAddresses};

/// A physical link takes a second or two to come up, any other link much less than a step.
const CARRIER_STEP: Duration = Duration::from_millis(2);
const CARRIER_SECONDS: u64 = 5;

impl Operation for ProbeAddresses {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.probe(self)
    }

    fn changes_links(&self) -> bool {
        false
    }
}

impl Session<'_> {
    fn probe(&mut self, op: &ProbeAddresses) -> Result<(), NetlinkError> {
        let link = LinkRef::container(op.link.as_str());
        let (index, own) = self.carrier(&link)?;
        let container = self.executor.container.as_ref();
        let container = container.ok_or_else(|| NetlinkError::NoContainer { op: op.to_string() })?;
        let (addresses, wait) = (op.addresses.clone(), Duration::from_millis(op.wait_ms.into()));
        let asked = container.netns.run_inside(move || probe::ask(index, own, &addresses, wait))?;
        let doing = || format!("failed to ask the neighbours on {}", op.link);
        let by = asked.map_err(|io| NetlinkError::File { doing: doing(), io })?;
        if by.is_empty() { Ok(()) } else { Err(NetlinkError::InUse { link: op.link.clone(), by }) }
    }

    /// Waits until the link passes packets, because earlier ones are silently lost. Returns index and hardware address.
    fn carrier(&mut self, link: &LinkRef) -> Result<(u32, Mac), NetlinkError> {
        let index = self.index(link)?;
        let rtnl = self.rtnl(link)?;
        let deadline = Instant::now() + Duration::from_secs(CARRIER_SECONDS);
        loop {
            let found = rtnl.link(Lookup::Index(index)).doing(|| format!("failed to lookup {link}"))?;
            let found = found.ok_or_else(|| NetlinkError::NoLink { link: link.clone() })?;
            // Some drivers never report a state.
            if matches!(found.state, State::Up | State::Unknown) {
                let mac = found.mac.ok_or_else(|| NetlinkError::NoMac { link: link.name.clone(), mac: None })?;
                return Ok((index, mac));
            }
            if Instant::now() >= deadline {
                return Err(NetlinkError::NoCarrier { link: link.name.clone(), seconds: CARRIER_SECONDS });
            }
            sleep(CARRIER_STEP);
        }
    }
}

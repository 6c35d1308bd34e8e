//! Probes whether a neighbour on a link has an address: ARP probes for IPv4 (RFC 5227), neighbour solicitations from
//! the unspecified address for IPv6 (RFC 4862), both over our own packet sockets. Why the kernel's detection is not
//! used: `docs/decisions/0031-duplicate-addresses.md`.
//!
//! Invariants: whatever arrives, a probe ends when its time is over. A packet is only read within its bounds. A packet
//! with the link's own hardware address is ignored, because it may be our own probe.

mod arp;
mod nd;
mod socket;

use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::socket::Packets;
pub use self::socket::link_address;
use crate::plan::Mac;

/// How often each address is probed, at equal intervals.
const QUESTIONS: u32 = 3;
/// Larger than any relevant packet.
const BUFFER: usize = 2048;
const BROADCAST: Mac = Mac([0xff; 6]);
#[expect(clippy::cast_possible_truncation, reason = "protocols of Ethernet have 16 bits")]
const ARP: u16 = libc::ETH_P_ARP as u16;
#[expect(clippy::cast_possible_truncation, reason = "protocols of Ethernet have 16 bits")]
const IPV6: u16 = libc::ETH_P_IPV6 as u16;

/// Probes addresses on a link of the calling thread's namespace, for at most `wait`. Returns those in use, with the
/// hardware address of their host. If none is in use, announces that they belong to this link now.
pub(super) fn ask(index: u32, own: Mac, addresses: &[IpAddr], wait: Duration) -> io::Result<Vec<(IpAddr, Mac)>> {
    let mut question = Question::open(index, own, addresses)?;
    let began = Instant::now();
    for round in 1..=QUESTIONS {
        question.send()?;
        question.listen(began + wait * round / QUESTIONS)?;
        if !question.found.is_empty() {
            return Ok(question.found);
        }
    }
    question.announce()?;
    Ok(Vec::new())
}

/// Addresses that are being probed.
struct Question<'a> {
    own: Mac,
    addresses: &'a [IpAddr],
    v4: Option<Packets>,
    v6: Option<Packets>,
    /// Keeps the multicast groups joined to which answers and other nodes' probes are sent: links and switches forward
    /// only those.
    _groups: Option<UdpSocket>,
    found: Vec<(IpAddr, Mac)>,
}

impl<'a> Question<'a> {
    fn open(index: u32, own: Mac, addresses: &'a [IpAddr]) -> io::Result<Self> {
        let six: Vec<Ipv6Addr> = addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(_) => None,
                IpAddr::V6(address) => Some(*address),
            })
            .collect();
        let open = |wanted: bool, protocol| wanted.then(|| Packets::open(index, protocol)).transpose();
        let (v4, v6) = (open(six.len() < addresses.len(), ARP)?, open(!six.is_empty(), IPV6)?);
        let groups = if six.is_empty() { None } else { Some(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?) };
        for (groups, address) in groups.iter().flat_map(|groups| six.iter().map(move |address| (groups, address))) {
            match groups.join_multicast_v6(&nd::solicited_node(*address), index) {
                // Two addresses may have the same group.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                joined => joined?,
            }
        }
        Ok(Self { own, addresses, v4, v6, _groups: groups, found: Vec::new() })
    }

    fn send(&self) -> io::Result<()> {
        for address in self.addresses {
            match (address, &self.v4, &self.v6) {
                (IpAddr::V4(address), Some(packets), _) => packets.send(BROADCAST, &arp::probe(self.own, *address))?,
                (IpAddr::V6(address), _, Some(packets)) => {
                    packets.send(nd::group_mac(nd::solicited_node(*address)), &nd::probe(*address))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn announce(&self) -> io::Result<()> {
        for address in self.addresses {
            match (address, &self.v4, &self.v6) {
                (IpAddr::V4(address), Some(packets), _) => {
                    packets.send(BROADCAST, &arp::announcement(self.own, *address))?;
                }
                (IpAddr::V6(address), _, Some(packets)) => {
                    packets.send(nd::group_mac(nd::ALL_NODES), &nd::announcement(self.own, *address))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads packets until then, or until all addresses are found in use.
    fn listen(&mut self, until: Instant) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        while self.found.len() < self.addresses.len() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let sockets = || [&self.v4, &self.v6].into_iter().flatten();
            let mut waited: Vec<PollFd<'_>> =
                sockets().map(|packets| PollFd::new(packets.as_fd(), PollFlags::POLLIN)).collect();
            // Rounded up, so that the end is not reached by busy looping.
            let millis = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            match poll(&mut waited, PollTimeout::from(millis)) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            // Read one of each at a time, so that a flood does not delay the deadline.
            let mut heard = Vec::new();
            if let Some((packet, _from)) = self.v4.as_ref().map(|v4| v4.receive(&mut buffer)).transpose()?.flatten() {
                heard.extend(arp::claimed(packet).map(|(address, mac)| (IpAddr::V4(address), mac)));
            }
            if let Some((packet, from)) = self.v6.as_ref().map(|v6| v6.receive(&mut buffer)).transpose()?.flatten() {
                heard.extend(nd::claimed(packet).zip(from).map(|(address, mac)| (IpAddr::V6(address), mac)));
            }
            for (address, mac) in heard {
                let is_known = self.found.iter().any(|(known, _mac)| *known == address);
                if mac != self.own && self.addresses.contains(&address) && !is_known {
                    self.found.push((address, mac));
                }
            }
        }
        Ok(())
    }
}

//! Packets of one protocol on one link, without their Ethernet header.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recvfrom, sendto, socket,
};

use crate::plan::Mac;

/// `PACKET_OTHERHOST`: the kernel marks packets for other hosts with this value or a higher one.
const OTHER_HOST: u8 = 3;

/// A socket in the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Packets {
    fd: OwnedFd,
    index: u32,
    protocol: u16,
}

impl Packets {
    /// Opens one for a protocol (`ETH_P_*`).
    pub(super) fn open(index: u32, protocol: u16) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Without a protocol, nothing arrives before it is bound to the link.
        let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
        bind(fd.as_raw_fd(), &link_address(index, protocol, None)?)?;
        Ok(Self { fd, index, protocol })
    }

    pub(super) fn send(&self, to: Mac, packet: &[u8]) -> io::Result<()> {
        let to = link_address(self.index, self.protocol, Some(to.0))?;
        sendto(self.fd.as_raw_fd(), packet, &to, MsgFlags::empty())?;
        Ok(())
    }

    /// Returns the next packet for this link, truncated to the buffer, and its source hardware address. `None` if there
    /// is none.
    pub(super) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<(&'b [u8], Option<Mac>)>> {
        let (length, from) = match recvfrom::<LinkAddr>(self.fd.as_raw_fd(), buffer) {
            Ok(received) => received,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Packets for another VLAN or another node say nothing about this link.
        let is_ours = from.is_none_or(|from| from.pkttype() < OTHER_HOST);
        let packet = buffer.get(..if is_ours { length } else { 0 }).unwrap_or_default();
        Ok(Some((packet, from.and_then(|from| from.addr()).map(Mac))))
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns the link-layer address of a link, or of a neighbour on it.
///
/// # Errors
/// Never in practice: `nix` would have to refuse its input.
pub fn link_address(index: u32, protocol: u16, mac: Option<[u8; 6]>) -> io::Result<LinkAddr> {
    let mut raw = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(index).unwrap_or(i32::MAX),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    if let Some(mac) = mac {
        raw.sll_halen = 6;
        raw.sll_addr[..6].copy_from_slice(&mac);
    }
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
    #[expect(unsafe_code, reason = "nix makes link addresses from raw ones only")]
    // SAFETY: the pointer is to a whole `sockaddr_ll` of the size given, which is copied.
    let address = unsafe { LinkAddr::from_raw(std::ptr::from_ref(&raw).cast(), Some(size)) };
    address.ok_or_else(|| io::Error::other("a link address is none"))
}

//! Sockets of a client: opened inside its namespace, used on the event loop.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrIn6, bind, recvfrom, sendto, setsockopt, socket,
    sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use weft_core::netlink::link_address;
use weft_dhcp::{v4, v6};

const ETH_P_IP: u16 = 0x0800;
/// Larger than any frame from a DHCP server.
const FRAME: usize = 2_048;
const ETHERNET_BROADCAST: [u8; 6] = [0xff; 6];
/// How long a link-local IPv6 address may take to become usable.
const LINK_LOCAL: Duration = Duration::from_secs(10);

/// A socket that is not yet on an event loop.
#[derive(Debug)]
pub(super) enum Opened {
    /// IPv4 packets of one link, whatever their address.
    Packet {
        fd: OwnedFd,
        index: u32,
    },
    Udp6 {
        fd: OwnedFd,
        index: u32,
    },
}

/// A socket on the event loop.
#[derive(Debug)]
pub(super) struct Socket {
    fd: AsyncFd<OwnedFd>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Packet(u32),
    Udp6(u32),
}

/// A received message; for IPv4 packets, with the source MAC address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) payload: Vec<u8>,
    pub(super) mac: Option<[u8; 6]>,
}

// === opening, inside a namespace ===

/// Opens a packet socket on a link that only passes datagrams to the client's port.
pub(super) fn open_packet(index: u32) -> io::Result<Opened> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Without a protocol, nothing arrives before the filter is in place.
    let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
    filter(&fd)?;
    bind(fd.as_raw_fd(), &link_address(index, ETH_P_IP, None)?)?;
    Ok(Opened::Packet { fd, index })
}

/// Opens a datagram socket at the link-local IPv6 address, after waiting for that.
pub(super) fn open_udp6(index: u32, ifname: &str) -> io::Result<Opened> {
    // Runtimes disable IPv6 in containers that get no IPv6 address from them.
    let key = format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6");
    if std::fs::read_to_string(&key)?.trim() != "0" {
        std::fs::write(&key, "0")?;
    }
    let address = link_local(index, ifname)?;
    let udp = UdpSocket::bind(SocketAddrV6::new(address, v6::CLIENT_PORT, 0, index))?;
    udp.set_nonblocking(true)?;
    Ok(Opened::Udp6 { fd: udp.into(), index })
}

fn link_local(index: u32, ifname: &str) -> io::Result<Ipv6Addr> {
    let end = Instant::now() + LINK_LOCAL;
    loop {
        // `/proc/net` is that of the main thread's namespace.
        let table = std::fs::read_to_string("/proc/thread-self/net/if_inet6")?;
        if let Some(address) = table.lines().find_map(|line| usable_link_local(line, index)) {
            return Ok(address);
        }
        if Instant::now() >= end {
            return Err(io::Error::other(format!(
                "{ifname} has no IPv6 address of its own (fe80::/10) that is usable"
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A line of `if_inet6`: address, index, prefix length, scope, flags, name; numbers are hexadecimal.
fn usable_link_local(line: &str, index: u32) -> Option<Ipv6Addr> {
    const SCOPE_LINK: u8 = 0x20;
    const TENTATIVE_OR_FAILED: u32 = 0x40 | 0x08;
    let mut words = line.split_ascii_whitespace();
    let address = Ipv6Addr::from(u128::from_str_radix(words.next()?, 16).ok()?);
    let same = u32::from_str_radix(words.next()?, 16).ok()? == index;
    let scope = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    let flags = u32::from_str_radix(words.next()?, 16).ok()?;
    (same && scope == SCOPE_LINK && flags & TENTATIVE_OR_FAILED == 0).then_some(address)
}

/// Filters in the kernel: passes only first fragments of UDP datagrams to the client's port, so that other traffic of a
/// container does not wake the agent.
fn filter(fd: &OwnedFd) -> io::Result<()> {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const LOAD_HALF_BEHIND: u16 = 0x48;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD_BYTE, 0, 0, 9),
        step(JUMP_EQUAL, 0, 6, 17),
        step(LOAD_HALF, 0, 0, 6),
        step(JUMP_SET, 4, 0, 0x1fff),
        step(LOAD_HEADER_LENGTH, 0, 0, 0),
        step(LOAD_HALF_BEHIND, 0, 0, 2),
        step(JUMP_EQUAL, 0, 1, u32::from(v4::CLIENT_PORT)),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: 9, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap_or_default();
    #[expect(unsafe_code, reason = "no safe wrapper attaches a classic filter")]
    // SAFETY: `program` points at an array of the length it says, both live until the call returns, and the kernel copies
    // them. The descriptor is open: it is borrowed.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(&program).cast(),
            size,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends datagrams from the client's address; replies to it are not read.
#[derive(Debug)]
pub(super) struct Sender(UdpSocket);

impl Sender {
    /// Opens it inside a namespace. Since the port is in use, the kernel does not report answers as unreachable.
    pub(super) fn open(address: Ipv4Addr, ifname: &str) -> io::Result<Self> {
        let udp = UdpSocket::bind(SocketAddrV4::new(address, v4::CLIENT_PORT))?;
        setsockopt(&udp, sockopt::BindToDevice, &ifname.into())?;
        udp.set_nonblocking(true)?;
        Ok(Self(udp))
    }

    /// Sends a DHCPv4 message to a server.
    pub(super) fn send(&self, to: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        self.0.send_to(message, SocketAddrV4::new(to, v4::SERVER_PORT)).map(drop)
    }
}

// === on the event loop ===

impl Socket {
    pub(super) fn new(opened: Opened) -> io::Result<Self> {
        let (fd, kind) = match opened {
            Opened::Packet { fd, index } => (fd, Kind::Packet(index)),
            Opened::Udp6 { fd, index } => (fd, Kind::Udp6(index)),
        };
        #[expect(unsafe_code, reason = "AsyncFd requires that the descriptor stays open")]
        // SAFETY: an `OwnedFd` owns its descriptor, always names the same one, and is moved in here, so it outlives the
        // registration.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd, kind })
    }

    /// Sends a DHCPv4 message through a packet socket, to a neighbour or to all of them.
    pub(super) fn send_frame(
        &self,
        (from, to): (Ipv4Addr, Ipv4Addr),
        mac: Option<[u8; 6]>,
        message: &[u8],
    ) -> io::Result<()> {
        let Kind::Packet(index) = self.kind else { return Err(io::ErrorKind::Unsupported.into()) };
        let frame = v4::write_frame(from, to, message);
        let neighbour = link_address(index, ETH_P_IP, Some(mac.unwrap_or(ETHERNET_BROADCAST)))?;
        sendto(self.fd.as_raw_fd(), &frame, &neighbour, MsgFlags::empty())?;
        Ok(())
    }

    /// Sends a DHCPv6 message to all servers of the link.
    pub(super) fn send_to_all(&self, message: &[u8]) -> io::Result<()> {
        let Kind::Udp6(index) = self.kind else { return Err(io::ErrorKind::Unsupported.into()) };
        let all = SocketAddrV6::new(v6::ALL_SERVERS, v6::SERVER_PORT, 0, index);
        sendto(self.fd.as_raw_fd(), message, &SockaddrIn6::from(all), MsgFlags::empty())?;
        Ok(())
    }

    /// Returns the next DHCP message, and skips everything else.
    pub(super) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            let Ok(mut guard) = ready!(self.fd.poll_read_ready(cx)) else { return Poll::Pending };
            match guard.try_io(|fd| self.receive(fd.get_ref())) {
                Ok(Ok(Some(incoming))) => return Poll::Ready(incoming),
                // Not for a DHCP client.
                Ok(Ok(None)) => {}
                // The link is down, or the server is unreachable: the next try will tell.
                Ok(Err(_passing)) => {}
                Err(_would_block) => {}
            }
        }
    }

    fn receive(&self, fd: &OwnedFd) -> io::Result<Option<Incoming>> {
        let mut buffer = [0; FRAME];
        let raw = fd.as_fd().as_raw_fd();
        match self.kind {
            Kind::Packet(_) => {
                let (length, from) = recvfrom::<LinkAddr>(raw, &mut buffer)?;
                let Ok(datagram) = v4::read_frame(buffer.get(..length).unwrap_or_default()) else { return Ok(None) };
                let mac = from.and_then(|from| from.addr());
                Ok(Some(Incoming { payload: datagram.payload.to_vec(), mac }))
            }
            Kind::Udp6(_) => {
                let (length, _from) = recvfrom::<()>(raw, &mut buffer)?;
                Ok(Some(Incoming { payload: buffer.get(..length).unwrap_or_default().to_vec(), mac: None }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_counts_once_it_is_usable() {
        let line = |flags: &str| format!("fe800000000000000000000000000001 0a 40 20 {flags}     eth0");
        assert_eq!(usable_link_local(&line("80"), 10), "fe80::1".parse().ok());
        assert_eq!(usable_link_local(&line("80"), 11), None);
        assert_eq!(usable_link_local(&line("c0"), 10), None);
        assert_eq!(usable_link_local(&line("88"), 10), None);
        assert_eq!(usable_link_local("fd000000000000000000000000000001 0a 40 00 80     eth0", 10), None);
        assert_eq!(usable_link_local("", 10), None);
    }
}

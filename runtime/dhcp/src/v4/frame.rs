//! IPv4 and UDP around a message, for the packet socket of a client without an address.

use std::net::Ipv4Addr;

use crate::Malformed;

/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;
/// Where servers listen.
pub const SERVER_PORT: u16 = 67;

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
/// More fragments follow, or it is not the first one.
const FRAGMENT: u16 = 0x3fff;

/// A received datagram for the client's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Sender.
    pub from: Ipv4Addr,
    /// What it carries.
    pub payload: &'a [u8],
}

/// Returns an IPv4 packet with a client's datagram.
#[must_use]
pub fn write_frame(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    // A message is far below 64 KiB: the configuration limits its options.
    let length = |size: usize| u16::try_from(size).unwrap_or(u16::MAX).to_be_bytes();
    let total = IP_HEADER + UDP_HEADER + payload.len();
    let mut ip = Vec::with_capacity(total);
    // The precedence that other clients use: internet control, low delay.
    ip.extend([0x45, 0x10]);
    ip.extend(length(total));
    ip.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    let check = checksum(sum(&ip, 0));
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let udp_at = ip.len();
    ip.extend(CLIENT_PORT.to_be_bytes());
    ip.extend(SERVER_PORT.to_be_bytes());
    ip.extend(length(UDP_HEADER + payload.len()));
    ip.extend([0, 0]);
    ip.extend(payload);
    let pseudo = pseudo_header(from, to, ip.len() - udp_at);
    // Zero would mean "no checksum".
    let check = match checksum(sum(&ip[udp_at..], pseudo)) {
        0 => u16::MAX,
        other => other,
    };
    ip[udp_at + 6..udp_at + 8].copy_from_slice(&check.to_be_bytes());
    ip
}

/// Parses an IPv4 packet that should contain a datagram from a server.
///
/// # Errors
/// It does not contain one.
pub fn read_frame(packet: &[u8]) -> Result<Datagram<'_>, Malformed> {
    let fixed = packet.get(..IP_HEADER).ok_or(Malformed::Short)?;
    let header = usize::from(fixed[0] & 0x0f) * 4;
    if fixed[0] >> 4 != 4 || header < IP_HEADER {
        return Err(Malformed::Field("IP version or header length"));
    }
    let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    // Padding may follow the packet.
    let packet = packet.get(..usize::from(word(2))).ok_or(Malformed::Short)?;
    let (ip, udp) = packet.split_at_checked(header).ok_or(Malformed::Short)?;
    if fixed[9] != UDP || word(6) & FRAGMENT != 0 {
        return Err(Malformed::NotOurs);
    }
    if checksum(sum(ip, 0)) != 0 {
        return Err(Malformed::Checksum);
    }
    let head = udp.get(..UDP_HEADER).ok_or(Malformed::Short)?;
    if [head[2], head[3]] != CLIENT_PORT.to_be_bytes() {
        return Err(Malformed::NotOurs);
    }
    let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
    let udp = udp.get(..length).ok_or(Malformed::Short)?;
    let payload = udp.get(UDP_HEADER..).ok_or(Malformed::Field("UDP length"))?;
    let address = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
    let (from, to) = (address(12), address(16));
    let stored = u16::from_be_bytes([head[6], head[7]]);
    let pseudo = pseudo_header(from, to, udp.len());
    // On virtual links a checksum may still be left to the hardware: the field then has the pseudo header's sum.
    let left_to_hardware = stored == fold(pseudo);
    if stored != 0 && !left_to_hardware && checksum(sum(udp, pseudo)) != 0 {
        return Err(Malformed::Checksum);
    }
    Ok(Datagram { from, payload })
}

fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, length: usize) -> u32 {
    let start = u32::from(UDP) + u32::try_from(length).unwrap_or(u32::MAX >> 8);
    sum(&to.octets(), sum(&from.octets(), start))
}

/// Sums words; a packet is too short for an overflow.
fn sum(bytes: &[u8], start: u32) -> u32 {
    bytes
        .chunks(2)
        .fold(start, |sum, pair| sum + (u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

fn checksum(sum: u32) -> u16 {
    !fold(sum)
}

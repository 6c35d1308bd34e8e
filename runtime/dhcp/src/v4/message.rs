//! The BOOTP message with its options, on the wire.
//!
//! Parsing is lenient where servers are known to be sloppy (missing end option, options of zero length) and strict
//! where a wrong guess would be a wrong lease.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::option;
use crate::Malformed;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Fixed fields and the magic cookie.
const HEADER: usize = 240;
/// The minimum size that old relays forward.
const MIN_SIZE: usize = 300;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
const PAD: u8 = 0;
const END: u8 = 255;
const BROADCAST: u16 = 0x8000;

/// Message types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A client looks for servers.
    Discover = 1,
    /// A server's proposal.
    Offer = 2,
    /// The client requests, or wants to keep, an address.
    Request = 3,
    /// The client found that the address is in use.
    Decline = 4,
    /// Granted.
    Ack = 5,
    /// Refused.
    Nak = 6,
    /// The client no longer needs the address.
    Release = 7,
    /// Options only.
    Inform = 8,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            _ => return None,
        })
    }
}

/// A DHCPv4 message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Whether it is from a server to a client.
    pub reply: bool,
    /// Transaction id.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// Whether the client cannot be reached at an address yet.
    pub broadcast: bool,
    /// The client's address, if it has one.
    pub ciaddr: Ipv4Addr,
    /// The client's address, assigned by the server.
    pub yiaddr: Ipv4Addr,
    /// The relay.
    pub giaddr: Ipv4Addr,
    /// The client's hardware address.
    pub mac: [u8; 6],
    /// Options by code; the parts of long ones are joined (RFC 3396).
    pub options: BTreeMap<u8, Vec<u8>>,
}

impl Message {
    /// Creates a client's message of a kind without options.
    #[must_use]
    pub fn new(kind: Kind, xid: u32, mac: [u8; 6]) -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        let options = BTreeMap::from([(option::MESSAGE_TYPE, vec![kind as u8])]);
        Self { reply: false, xid, secs: 0, broadcast: false, ciaddr: none, yiaddr: none, giaddr: none, mac, options }
    }

    /// Returns its kind, if it has one.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        match self.options.get(&option::MESSAGE_TYPE)?.as_slice() {
            [code] => Kind::from_code(*code),
            _ => None,
        }
    }

    /// Returns an option that is one address.
    #[must_use]
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.options.get(&code)?.as_slice().try_into().ok()?;
        Some(octets.into())
    }

    /// Serializes it.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = vec![if self.reply { 2 } else { 1 }, 1, 6, 0];
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend(self.secs.to_be_bytes());
        bytes.extend(if self.broadcast { BROADCAST } else { 0 }.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, Ipv4Addr::UNSPECIFIED, self.giaddr] {
            bytes.extend(address.octets());
        }
        bytes.extend(self.mac);
        bytes.resize(FILE.end, 0);
        bytes.extend(MAGIC);
        // The type comes first, because some servers and most people look there.
        let first = self.options.get_key_value(&option::MESSAGE_TYPE);
        let others = self.options.iter().filter(|(code, _)| **code != option::MESSAGE_TYPE);
        for (code, value) in first.into_iter().chain(others) {
            let pieces: Vec<&[u8]> =
                if value.is_empty() { vec![&[]] } else { value.chunks(usize::from(u8::MAX)).collect() };
            for piece in pieces {
                // At most 255 by construction.
                bytes.extend([*code, u8::try_from(piece.len()).unwrap_or(u8::MAX)]);
                bytes.extend(piece);
            }
        }
        bytes.push(END);
        bytes.resize(bytes.len().max(MIN_SIZE), PAD);
        bytes
    }

    /// Parses a message.
    ///
    /// # Errors
    /// It is not a message.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let header = bytes.get(..HEADER).ok_or(Malformed::Short)?;
        let octets = |at: usize| -> [u8; 4] { [header[at], header[at + 1], header[at + 2], header[at + 3]] };
        let reply = match header[0] {
            1 => false,
            2 => true,
            _ => return Err(Malformed::Field("operation")),
        };
        if octets(236) != MAGIC {
            return Err(Malformed::Field("magic cookie"));
        }
        // Only Ethernet: other kinds of addresses are unknown.
        if header[1] != 1 || header[2] != 6 {
            return Err(Malformed::NotOurs);
        }
        let mut mac = [0; 6];
        mac.copy_from_slice(&header[28..34]);
        let mut options = BTreeMap::new();
        read_options(&bytes[HEADER..], &mut options)?;
        // Overload: first the field `file`, then `sname`.
        let overload = match options.get(&option::OVERLOAD).map(Vec::as_slice) {
            Some([which]) => *which,
            _ => 0,
        };
        if overload & 1 != 0 {
            read_options(&header[FILE], &mut options)?;
        }
        if overload & 2 != 0 {
            read_options(&header[SNAME], &mut options)?;
        }
        Ok(Self {
            reply,
            xid: u32::from_be_bytes(octets(4)),
            secs: u16::from_be_bytes([header[8], header[9]]),
            broadcast: u16::from_be_bytes([header[10], header[11]]) & BROADCAST != 0,
            ciaddr: octets(12).into(),
            yiaddr: octets(16).into(),
            giaddr: octets(24).into(),
            mac,
            options,
        })
    }
}

fn read_options(mut bytes: &[u8], options: &mut BTreeMap<u8, Vec<u8>>) -> Result<(), Malformed> {
    loop {
        match bytes {
            [] | [END, ..] => return Ok(()),
            [PAD, rest @ ..] => bytes = rest,
            [code, length, rest @ ..] => {
                let (value, after) = rest.split_at_checked(usize::from(*length)).ok_or(Malformed::Short)?;
                options.entry(*code).or_default().extend(value);
                bytes = after;
            }
            [_code] => return Err(Malformed::Short),
        }
    }
}

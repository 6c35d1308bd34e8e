//! DHCPv6 messages: those options that a client for one address needs.

use std::net::Ipv6Addr;

use crate::{Malformed, names};

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDRESS: u16 = 5;
const REQUEST: u16 = 6;
const PREFERENCE: u16 = 7;
const ELAPSED: u16 = 8;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const DNS_SERVERS: u16 = 23;
const DOMAIN_SEARCH: u16 = 24;
/// A client has to request it (RFC 8415, 21.24). It limits delays that this client never reaches, because it gives up
/// earlier.
const SOLICIT_MAX_RT: u16 = 82;

/// Message types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A client looks for servers.
    Solicit = 1,
    /// A server's proposal.
    Advertise = 2,
    /// The client requests what was advertised.
    Request = 3,
    /// The client wants to keep its address; for the server that gave it.
    Renew = 5,
    /// The same, for any server.
    Rebind = 6,
    /// A server's answer.
    Reply = 7,
    /// The client no longer needs the address.
    Release = 8,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Solicit,
            2 => Self::Advertise,
            3 => Self::Request,
            5 => Self::Renew,
            6 => Self::Rebind,
            7 => Self::Reply,
            8 => Self::Release,
            _ => return None,
        })
    }
}

/// A status code and its text.
pub type Status = (u16, String);

/// An address of an IA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IaAddress {
    /// The address.
    pub address: Ipv6Addr,
    /// Preferred lifetime in seconds.
    pub preferred: u32,
    /// Valid lifetime in seconds.
    pub valid: u32,
    /// An error of this address.
    pub status: Option<Status>,
}

/// An identity association for non-temporary addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IaNa {
    /// The client's id for it.
    pub id: u32,
    /// T1 in seconds.
    pub t1: u32,
    /// T2 in seconds.
    pub t2: u32,
    /// Addresses in order.
    pub addresses: Vec<IaAddress>,
    /// An error of this IA.
    pub status: Option<Status>,
}

/// A DHCPv6 message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: Kind,
    /// Transaction id: 24 bits.
    pub xid: u32,
    /// The client's DUID.
    pub client: Vec<u8>,
    /// The server's DUID.
    pub server: Option<Vec<u8>>,
    /// Hundredths of a second since the exchange began.
    pub elapsed: Option<u16>,
    /// Whether two messages are enough.
    pub rapid_commit: bool,
    /// How strongly the server wants to be chosen.
    pub preference: u8,
    /// The IA.
    pub ia: Option<IaNa>,
    /// An error of the message.
    pub status: Option<Status>,
    /// Name servers.
    pub name_servers: Vec<Ipv6Addr>,
    /// Search list.
    pub search: Vec<String>,
    /// Whether to request name servers and search list.
    pub ask: bool,
}

impl Message {
    /// Creates a message of a kind without options.
    #[must_use]
    pub fn new(kind: Kind, xid: u32, client: &[u8]) -> Self {
        Self {
            kind,
            xid: xid & 0x00ff_ffff,
            client: client.to_vec(),
            server: None,
            elapsed: None,
            rapid_commit: false,
            preference: 0,
            ia: None,
            status: None,
            name_servers: Vec::new(),
            search: Vec::new(),
            ask: false,
        }
    }

    /// Serializes it.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = self.xid.to_be_bytes().to_vec();
        bytes[0] = self.kind as u8;
        put_option(&mut bytes, CLIENT_ID, &self.client);
        if let Some(server) = &self.server {
            put_option(&mut bytes, SERVER_ID, server);
        }
        if let Some(elapsed) = self.elapsed {
            put_option(&mut bytes, ELAPSED, &elapsed.to_be_bytes());
        }
        if self.rapid_commit {
            put_option(&mut bytes, RAPID_COMMIT, &[]);
        }
        if self.preference != 0 {
            put_option(&mut bytes, PREFERENCE, &[self.preference]);
        }
        if let Some(ia) = &self.ia {
            put_option(&mut bytes, IA_NA, &ia.write());
        }
        if let Some(status) = &self.status {
            put_status(&mut bytes, status);
        }
        if !self.name_servers.is_empty() {
            let addresses: Vec<u8> = self.name_servers.iter().flat_map(Ipv6Addr::octets).collect();
            put_option(&mut bytes, DNS_SERVERS, &addresses);
        }
        if !self.search.is_empty() {
            put_option(&mut bytes, DOMAIN_SEARCH, &names::write(&self.search));
        }
        if self.ask {
            let codes: Vec<u8> =
                [DNS_SERVERS, DOMAIN_SEARCH, SOLICIT_MAX_RT].iter().flat_map(|code| code.to_be_bytes()).collect();
            put_option(&mut bytes, REQUEST, &codes);
        }
        bytes
    }

    /// Parses a message.
    ///
    /// # Errors
    /// It is not a message, or not one for clients.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let [kind, a, b, c, options @ ..] = bytes else { return Err(Malformed::Short) };
        let kind = Kind::from_code(*kind).ok_or(Malformed::NotOurs)?;
        let mut message = Self::new(kind, u32::from_be_bytes([0, *a, *b, *c]), &[]);
        each_option(options, |code, value| {
            match code {
                CLIENT_ID => message.client = value.to_vec(),
                SERVER_ID => message.server = Some(value.to_vec()),
                ELAPSED => message.elapsed = Some(read_u16(value)?),
                RAPID_COMMIT => message.rapid_commit = true,
                PREFERENCE => message.preference = *value.first().ok_or(Malformed::Short)?,
                // One is requested; additional ones are for others.
                IA_NA if message.ia.is_none() => message.ia = Some(IaNa::read(value)?),
                STATUS => message.status = Some(status(value)?),
                DNS_SERVERS => message.name_servers = value.chunks_exact(16).filter_map(address).collect(),
                DOMAIN_SEARCH => message.search = names::read(value).unwrap_or_default(),
                REQUEST => message.ask = true,
                _ => {}
            }
            Ok(())
        })?;
        Ok(message)
    }
}

impl IaNa {
    fn write(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = [self.id, self.t1, self.t2].iter().flat_map(|word| word.to_be_bytes()).collect();
        for address in &self.addresses {
            let mut inner = address.address.octets().to_vec();
            inner.extend(address.preferred.to_be_bytes());
            inner.extend(address.valid.to_be_bytes());
            if let Some(status) = &address.status {
                put_status(&mut inner, status);
            }
            put_option(&mut bytes, IA_ADDRESS, &inner);
        }
        if let Some(status) = &self.status {
            put_status(&mut bytes, status);
        }
        bytes
    }

    fn read(value: &[u8]) -> Result<Self, Malformed> {
        let (head, options) = value.split_at_checked(12).ok_or(Malformed::Short)?;
        let mut ia = Self { id: word(head, 0), t1: word(head, 4), t2: word(head, 8), ..Self::default() };
        each_option(options, |code, value| {
            match code {
                IA_ADDRESS => {
                    let (head, options) = value.split_at_checked(24).ok_or(Malformed::Short)?;
                    let mut read = IaAddress {
                        address: address(&head[..16]).ok_or(Malformed::Short)?,
                        preferred: word(head, 16),
                        valid: word(head, 20),
                        status: None,
                    };
                    each_option(options, |code, value| {
                        if code == STATUS {
                            read.status = Some(status(value)?);
                        }
                        Ok(())
                    })?;
                    ia.addresses.push(read);
                }
                STATUS => ia.status = Some(status(value)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(ia)
    }
}

fn put_option(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    bytes.extend(code.to_be_bytes());
    // Everything that a client writes is far shorter.
    bytes.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(value);
}

fn put_status(bytes: &mut Vec<u8>, (code, text): &Status) {
    let mut value = code.to_be_bytes().to_vec();
    value.extend(text.as_bytes());
    put_option(bytes, STATUS, &value);
}

fn each_option(mut bytes: &[u8], mut take: impl FnMut(u16, &[u8]) -> Result<(), Malformed>) -> Result<(), Malformed> {
    while let [a, b, c, d, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let (value, after) = rest.split_at_checked(length).ok_or(Malformed::Short)?;
        take(u16::from_be_bytes([*a, *b]), value)?;
        bytes = after;
    }
    if bytes.is_empty() { Ok(()) } else { Err(Malformed::Short) }
}

fn status(value: &[u8]) -> Result<Status, Malformed> {
    let (code, text) = value.split_at_checked(2).ok_or(Malformed::Short)?;
    Ok((read_u16(code)?, String::from_utf8_lossy(text).into_owned()))
}

fn read_u16(value: &[u8]) -> Result<u16, Malformed> {
    value.try_into().map(u16::from_be_bytes).map_err(|_not_two| Malformed::Field("option length"))
}

fn word(value: &[u8], at: usize) -> u32 {
    let four = value.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map_or(0, u32::from_be_bytes)
}

fn address(value: &[u8]) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = value.try_into().ok()?;
    Some(octets.into())
}

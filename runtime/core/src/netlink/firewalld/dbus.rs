//! As much of D-Bus as it takes to call a method with strings: the system bus, authentication by user id, messages in little
//! endian (the D-Bus specification, "Message Protocol").
//!
//! Whatever comes back is taken apart with checks: the bus is no part of weft.

use std::env;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

/// Where the system bus is unless `DBUS_SYSTEM_BUS_ADDRESS` says otherwise.
const DEFAULT: &str = "unix:path=/run/dbus/system_bus_socket";

/// How long the other side may take. firewalld reloads its whole rule set for some calls.
const PATIENCE: Duration = Duration::from_secs(25);

/// No message that answers us is as long as this.
const LONGEST: usize = 1 << 20;

/// Message types and header fields.
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// `NO_AUTO_START`: a service that is not running is not to be started for our sake.
const NO_AUTO_START: u8 = 2;

const BUS: (&str, &str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");

/// A string.
#[derive(Debug, Clone, Copy)]
pub(super) struct Argument<'a>(pub(super) &'a str);

/// Why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// The bus cannot be reached or spoke nonsense.
    Io(io::Error),
    /// The other side refused.
    Refused {
        /// The error's name.
        name: String,
        /// What it says.
        text: String,
    },
}

/// A connection to the system bus.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
}

/// An answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    kind: u8,
    reply_to: u32,
    error: String,
    signature: String,
    body: Vec<u8>,
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl CallError {
    /// Whether nobody is there to be asked.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Io(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused),
            Self::Refused { name, .. } => {
                name == "org.freedesktop.DBus.Error.ServiceUnknown"
                    || name == "org.freedesktop.DBus.Error.NameHasNoOwner"
            }
        }
    }
}

// === impl Bus ===

impl Bus {
    /// Connects to the system bus.
    pub(super) fn connect() -> Result<Self, CallError> {
        let addresses = env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_default();
        let addresses = if addresses.is_empty() { DEFAULT } else { &addresses };
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("no address in {addresses:?} can be used"));
        for address in addresses.split(';') {
            match open(address).and_then(authenticate) {
                Ok(stream) => {
                    let mut bus = Self { stream, serial: 0 };
                    bus.call(BUS.0, BUS.1, BUS.2, "Hello", &[])?;
                    return Ok(bus);
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    /// Whether somebody has a name on the bus.
    pub(super) fn has_owner(&mut self, name: &str) -> Result<bool, CallError> {
        Ok(self.call(BUS.0, BUS.1, BUS.2, "NameHasOwner", &[Argument(name)])?.unwrap_or(false))
    }

    /// Calls a method with strings. The answer is returned where it is a boolean.
    pub(super) fn call(
        &mut self,
        service: &str,
        path: &str,
        interface: &str,
        method: &str,
        arguments: &[Argument<'_>],
    ) -> Result<Option<bool>, CallError> {
        self.serial += 1;
        let bytes = method_call(self.serial, (service, path, interface, method), arguments);
        self.stream.write_all(&bytes)?;
        loop {
            let message = self.read()?;
            if message.reply_to != self.serial {
                continue;
            }
            return match message.kind {
                METHOD_RETURN => Ok(message.boolean()),
                ERROR => Err(CallError::Refused { text: message.text(), name: message.error }),
                _ => continue,
            };
        }
    }

    fn read(&mut self) -> io::Result<Message> {
        let mut start = [0; 16];
        self.stream.read_exact(&mut start)?;
        let (fields, body) = lengths(&start)?;
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.stream.read_exact(&mut rest)?;
        Message::read(&start, fields, &rest).ok_or_else(nonsense)
    }
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the bus sent a message that makes no sense")
}

/// Lengths of a message's header fields and body.
fn lengths(start: &[u8; 16]) -> io::Result<(usize, usize)> {
    let &[order, _, _, _, a, b, c, d, _, _, _, _, e, f, g, h] = start;
    let number = |bytes| if order == b'B' { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    let (body, fields) = (number([a, b, c, d]) as usize, number([e, f, g, h]) as usize);
    if !matches!(order, b'l' | b'B') || body > LONGEST || fields > LONGEST {
        return Err(nonsense());
    }
    Ok((fields, body))
}

/// Opens the socket of an address such as `unix:path=/run/dbus/system_bus_socket`.
fn open(address: &str) -> io::Result<UnixStream> {
    let unusable = || io::Error::new(io::ErrorKind::NotFound, format!("D-Bus address {address:?} cannot be used"));
    let options = address.strip_prefix("unix:").ok_or_else(unusable)?;
    let mut options = options.split(',').filter_map(|option| option.split_once('='));
    let stream = options.find_map(|(key, value)| match key {
        "path" => Some(UnixStream::connect(value)),
        "abstract" => {
            Some(SocketAddr::from_abstract_name(value).and_then(|address| UnixStream::connect_addr(&address)))
        }
        _ => None,
    });
    let stream = stream.ok_or_else(unusable)??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The bus knows who is at the other end of its socket; it only has to be claimed.
fn authenticate(mut stream: UnixStream) -> io::Result<UnixStream> {
    let user = nix::unistd::geteuid().to_string();
    let hex: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < 1024 {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    if !line.starts_with(b"OK ") {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the bus refuses the user of this process"));
    }
    stream.write_all(b"BEGIN\r\n")?;
    Ok(stream)
}

// === writing ===

fn method_call(serial: u32, to: (&str, &str, &str, &str), arguments: &[Argument<'_>]) -> Vec<u8> {
    let (service, path, interface, method) = to;
    let mut body = Vec::new();
    for Argument(text) in arguments {
        put_string(&mut body, text);
    }
    let mut fields = Vec::new();
    for (code, kind, text) in [
        (FIELD_PATH, b'o', path),
        (FIELD_INTERFACE, b's', interface),
        (FIELD_MEMBER, b's', method),
        (FIELD_DESTINATION, b's', service),
    ] {
        align(&mut fields, 8);
        fields.extend([code, 1, kind, 0]);
        put_string(&mut fields, text);
    }
    if !arguments.is_empty() {
        align(&mut fields, 8);
        fields.extend([FIELD_SIGNATURE, 1, b'g', 0]);
        fields.push(u8::try_from(arguments.len()).unwrap_or(u8::MAX));
        fields.extend(arguments.iter().map(|_| b's'));
        fields.push(0);
    }
    let mut message = vec![b'l', METHOD_CALL, NO_AUTO_START, 1];
    for number in [size(&body), serial, size(&fields)] {
        message.extend(number.to_le_bytes());
    }
    message.extend(fields);
    align(&mut message, 8);
    message.extend(body);
    message
}

fn size(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    align(bytes, 4);
    bytes.extend(size(text.as_bytes()).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

// === reading ===

/// A place in a message; alignment counts from its beginning.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Cursor<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn string(&mut self) -> Option<String> {
        let length = self.number()? as usize;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(text)
    }
}

impl Message {
    /// Takes a message apart; `rest` is what follows the first 16 bytes.
    fn read(start: &[u8; 16], fields: usize, rest: &[u8]) -> Option<Self> {
        let big = start.first() == Some(&b'B');
        let mut message = Self { kind: *start.get(1)?, ..Self::default() };
        // The header's length is a multiple of 8 up to here, so alignment may count from `rest`.
        let mut cursor = Cursor { bytes: rest.get(..fields)?, at: 0, big };
        while cursor.at < fields {
            cursor.align(8);
            if cursor.at >= fields {
                break;
            }
            let code = cursor.byte()?;
            let kind = cursor.signature()?;
            match (code, kind.as_str()) {
                (FIELD_ERROR_NAME, "s") => message.error = cursor.string()?,
                (FIELD_REPLY_SERIAL, "u") => message.reply_to = cursor.number()?,
                (FIELD_SIGNATURE, "g") => message.signature = cursor.signature()?,
                (_, "s" | "o") => drop(cursor.string()?),
                (_, "u") => drop(cursor.number()?),
                (_, "g") => drop(cursor.signature()?),
                _ => return None,
            }
        }
        message.body = rest.get(fields.next_multiple_of(8)..)?.to_vec();
        if big && !message.body.is_empty() {
            // Nobody answers in another order than we asked in; the body would have to be turned round.
            return None;
        }
        Some(message)
    }

    fn boolean(&self) -> Option<bool> {
        let mut cursor = Cursor { bytes: &self.body, at: 0, big: false };
        if self.signature.starts_with('b') { Some(cursor.number()? != 0) } else { None }
    }

    /// The first argument, if it is a text.
    fn text(&self) -> String {
        let mut cursor = Cursor { bytes: &self.body, at: 0, big: false };
        let text = if self.signature.starts_with('s') { cursor.string() } else { None };
        text.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn reply(kind: u8, signature: &str, body: &[u8]) -> Vec<u8> {
        let mut fields = vec![FIELD_REPLY_SERIAL, 1, b'u', 0];
        fields.extend(7_u32.to_le_bytes());
        if kind == ERROR {
            align(&mut fields, 8);
            fields.extend([FIELD_ERROR_NAME, 1, b's', 0]);
            put_string(&mut fields, "org.example.Error");
        }
        align(&mut fields, 8);
        fields.extend([FIELD_SIGNATURE, 1, b'g', 0, u8::try_from(signature.len()).unwrap()]);
        fields.extend(signature.bytes());
        fields.push(0);
        let mut message = vec![b'l', kind, 0, 1];
        for number in [size(body), 1, size(&fields)] {
            message.extend(number.to_le_bytes());
        }
        message.extend(fields);
        align(&mut message, 8);
        message.extend(body);
        message
    }

    fn parsed(bytes: &[u8]) -> Option<Message> {
        let (start, rest) = bytes.split_first_chunk::<16>()?;
        let (fields, body) = lengths(start).ok()?;
        let rest = rest.get(..fields.checked_next_multiple_of(8)?.checked_add(body)?)?;
        Message::read(start, fields, rest)
    }

    #[test]
    fn answers() {
        let message = parsed(&reply(METHOD_RETURN, "b", &1_u32.to_le_bytes())).unwrap();
        assert_eq!((message.reply_to, message.boolean()), (7, Some(true)));
        let mut text = Vec::new();
        put_string(&mut text, "ZONE_ALREADY_SET: trusted");
        let message = parsed(&reply(ERROR, "s", &text)).unwrap();
        assert_eq!(
            (message.error.as_str(), message.text().as_str()),
            ("org.example.Error", "ZONE_ALREADY_SET: trusted")
        );
        assert_eq!(message.boolean(), None);
    }

    #[test]
    fn calls() {
        let bytes = method_call(3, ("org.example", "/o", "org.example.I", "M"), &[Argument("x"), Argument("yy")]);
        let message = parsed(&bytes).unwrap();
        assert_eq!((message.kind, message.signature.as_str(), message.text().as_str()), (METHOD_CALL, "ss", "x"));
        assert_eq!(bytes.len() % 4, 3, "the last string is not padded");
    }

    #[test]
    fn addresses() {
        assert!(open("tcp:host=example.org").is_err());
        assert!(open("unix:path=/nonexistent/socket").is_err());
        assert!(open("unix:").is_err());
    }

    proptest! {
        /// Whatever comes in, it is taken apart or refused.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(message) = parsed(&bytes) {
                message.boolean();
                message.text();
            }
        }

        /// Nor do single bytes out of place hurt.
        #[test]
        fn bent_bytes(at in 0_usize..80, to in any::<u8>()) {
            let mut text = Vec::new();
            put_string(&mut text, "ZONE_ALREADY_SET");
            let mut bytes = reply(ERROR, "s", &text);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            if let Some(message) = parsed(&bytes) {
                message.boolean();
                message.text();
            }
        }
    }
}

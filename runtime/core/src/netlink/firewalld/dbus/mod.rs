//! The part of D-Bus needed to call a method with strings: the system bus, and authentication by user id (the D-Bus
//! specification, "Authentication Protocol"). `message` has the messages.

mod message;

use std::env;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

pub(super) use message::Argument;
use message::{ERROR, METHOD_RETURN, Message, lengths, method_call, nonsense};

/// The system bus, unless `DBUS_SYSTEM_BUS_ADDRESS` names another.
const DEFAULT: &str = "unix:path=/run/dbus/system_bus_socket";

/// Time limit of a call. firewalld reloads its whole rule set for some calls.
const PATIENCE: Duration = Duration::from_secs(25);

const BUS: (&str, &str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");

/// Why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// The bus cannot be reached or violated the protocol.
    Io(io::Error),
    /// The other side refused.
    Refused {
        /// The error's name.
        name: String,
        /// Its text.
        text: String,
    },
}

/// A connection to the system bus.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl CallError {
    /// Returns whether the service is not running.
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

    /// Returns whether a name on the bus has an owner.
    pub(super) fn has_owner(&mut self, name: &str) -> Result<bool, CallError> {
        Ok(self.call(BUS.0, BUS.1, BUS.2, "NameHasOwner", &[Argument(name)])?.unwrap_or(false))
    }

    /// Calls a method with strings. Returns the answer if it is a boolean.
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

/// Authenticates: the bus knows the peer of its socket, so the user id only has to be claimed.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert!(open("tcp:host=example.org").is_err());
        assert!(open("unix:path=/nonexistent/socket").is_err());
        assert!(open("unix:").is_err());
    }
}

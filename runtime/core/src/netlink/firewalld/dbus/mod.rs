//! The part of D-Bus needed to call a method with strings: the system bus, and authentication by user id (the D-Bus
//! specification, "Authentication Protocol"). `message` has the messages.

mod message;

use std::env;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Instant;

pub(super) use message::Argument;
use message::{ERROR, METHOD_RETURN, Message, lengths, method_call, nonsense};

use crate::deadline::{self, DeadlineStream, is_timeout};

/// The system bus, unless `DBUS_SYSTEM_BUS_ADDRESS` names another.
const DEFAULT: &str = "unix:path=/run/dbus/system_bus_socket";

const BUS: (&str, &str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");

/// Why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// The bus cannot be reached, and the call was not made.
    Io(io::Error),
    /// The call was made, and no answer came that can be read.
    Unanswered(io::Error),
    /// The other side refused.
    Refused {
        /// The error's name.
        name: String,
        /// Its text.
        text: String,
    },
}

/// An answer, as far as weft reads it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Its first argument, if it is a boolean.
    pub(super) boolean: Option<bool>,
    /// Its first argument, if it is a text.
    pub(super) text: String,
}

/// A connection to the system bus.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    /// The end of the whole conversation.
    deadline: Instant,
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
            Self::Unanswered(_) => false,
            Self::Refused { name, .. } => {
                name == "org.freedesktop.DBus.Error.ServiceUnknown"
                    || name == "org.freedesktop.DBus.Error.NameHasNoOwner"
            }
        }
    }

    /// Returns whether the bus or the service did not answer in time.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Io(error) | Self::Unanswered(error) if is_timeout(error))
    }
}

// === impl Bus ===

impl Bus {
    /// Connects to the system bus.
    pub(super) fn connect(deadline: Instant) -> Result<Self, CallError> {
        let addresses = env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_default();
        Self::connect_to(if addresses.is_empty() { DEFAULT } else { &addresses }, deadline)
    }

    fn connect_to(addresses: &str, deadline: Instant) -> Result<Self, CallError> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("no address in {addresses:?} can be used"));
        for address in addresses.split(';') {
            match open(address, deadline).and_then(|stream| authenticate(stream, deadline)) {
                Ok(stream) => {
                    let mut bus = Self { stream, deadline, serial: 0 };
                    // What the caller wants was not asked yet.
                    bus.call(BUS.0, BUS.1, BUS.2, "Hello", &[]).map_err(|error| match error {
                        CallError::Unanswered(error) => CallError::Io(error),
                        other => other,
                    })?;
                    return Ok(bus);
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    fn socket(&self) -> DeadlineStream<'_> {
        DeadlineStream { socket: &self.stream, deadline: self.deadline }
    }

    /// Returns whether a name on the bus has an owner.
    pub(super) fn has_owner(&mut self, name: &str) -> Result<bool, CallError> {
        Ok(self.call(BUS.0, BUS.1, BUS.2, "NameHasOwner", &[Argument(name)])?.boolean.unwrap_or(false))
    }

    /// Calls a method with strings.
    pub(super) fn call(
        &mut self,
        service: &str,
        path: &str,
        interface: &str,
        method: &str,
        arguments: &[Argument<'_>],
    ) -> Result<Answer, CallError> {
        self.serial += 1;
        let bytes = method_call(self.serial, (service, path, interface, method), arguments);
        self.socket().write_all(&bytes)?;
        loop {
            let message = self.read().map_err(CallError::Unanswered)?;
            if message.reply_to != self.serial {
                continue;
            }
            return match message.kind {
                METHOD_RETURN => Ok(Answer { boolean: message.boolean(), text: message.first_text() }),
                ERROR => Err(CallError::Refused { text: message.first_text(), name: message.error }),
                _ => continue,
            };
        }
    }

    fn read(&self) -> io::Result<Message> {
        let mut start = [0; 16];
        self.socket().read_exact(&mut start)?;
        let (fields, body) = lengths(&start)?;
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.socket().read_exact(&mut rest)?;
        Message::read(&start, fields, &rest).ok_or_else(nonsense)
    }
}

/// Opens the socket of an address such as `unix:path=/run/dbus/system_bus_socket`.
fn open(address: &str, deadline: Instant) -> io::Result<UnixStream> {
    let unusable = || io::Error::new(io::ErrorKind::NotFound, format!("D-Bus address {address:?} cannot be used"));
    let options = address.strip_prefix("unix:").ok_or_else(unusable)?;
    let mut options = options.split(',').filter_map(|option| option.split_once('='));
    let address = options.find_map(|(key, value)| match key {
        "path" => Some(SocketAddr::from_pathname(value)),
        "abstract" => Some(SocketAddr::from_abstract_name(value)),
        _ => None,
    });
    deadline::connect(&address.ok_or_else(unusable)??, deadline)
}

/// Authenticates: the bus knows the peer of its socket, so the user id only has to be claimed.
fn authenticate(stream: UnixStream, deadline: Instant) -> io::Result<UnixStream> {
    let mut socket = DeadlineStream { socket: &stream, deadline };
    let user = nix::unistd::geteuid().to_string();
    let hex: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
    socket.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < 1024 {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        line.extend(byte);
    }
    if !line.starts_with(b"OK ") {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the bus refuses the user of this process"));
    }
    socket.write_all(b"BEGIN\r\n")?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;

    fn short_deadline() -> Instant {
        Instant::now() + Duration::from_millis(300)
    }

    #[test]
    fn addresses() {
        assert!(open("tcp:host=example.org", short_deadline()).is_err());
        assert!(open("unix:path=/nonexistent/socket", short_deadline()).is_err());
        assert!(open("unix:", short_deadline()).is_err());
    }

    #[test]
    fn a_silent_bus_is_not_an_absent_one() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("unix:path={}", dir.path().join("bus").display());
        let error = Bus::connect_to(&address, short_deadline()).unwrap_err();
        assert!(error.is_away() && !error.is_silence(), "{error:?}");

        let listener = UnixListener::bind(dir.path().join("bus")).unwrap();
        let error = Bus::connect_to(&address, short_deadline()).unwrap_err();
        assert!(error.is_silence() && !error.is_away(), "{error:?}");
        assert!(matches!(error, CallError::Io(_)), "nothing was asked: {error:?}");
        drop(listener);
    }

    #[test]
    fn a_call_without_an_answer_is_an_uncertain_one() {
        let (stream, mut theirs) = UnixStream::pair().unwrap();
        let deadline = short_deadline();
        let mut bus = Bus { stream, deadline, serial: 0 };
        let trickle = std::thread::spawn(move || {
            // The head of an answer that never ends, one byte at a time.
            for byte in [b'l', 2, 0, 1].into_iter().chain([0; 12]) {
                std::thread::sleep(Duration::from_millis(50));
                theirs.write_all(&[byte]).ok();
            }
        });
        let error = bus.call("org.example", "/", "org.example", "Add", &[]).unwrap_err();
        assert!(matches!(error, CallError::Unanswered(_)) && error.is_silence(), "{error:?}");
        trickle.join().unwrap();
    }
}

//! A firewalld for tests: a service of its name on a real `dbus-daemon`, with zones whose sources and answers are like
//! firewalld's. Written independently from the D-Bus specification, so that weft's messages are parsed by other code.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// The service's name.
const NAME: &str = "org.fedoraproject.FirewallD1";

/// Zone and address of every source.
type Sources = Arc<Mutex<BTreeSet<(String, String)>>>;

/// A bus with a firewalld, until it is dropped.
#[derive(Debug)]
pub struct Firewalld {
    bus: Child,
    socket: PathBuf,
    sources: Sources,
}

impl Drop for Firewalld {
    fn drop(&mut self) {
        // The service's connection ends with the bus.
        drop(self.bus.kill());
        drop(self.bus.wait());
    }
}

impl Firewalld {
    /// Starts both; the bus keeps its socket in `dir`.
    ///
    /// # Errors
    /// `dbus-daemon` cannot be run.
    pub fn start(dir: &Path) -> Result<Self> {
        let socket = dir.join("bus");
        let conf = dir.join("bus.conf");
        let text = format!(
            "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_type=\"method_call\"/>\
             <allow send_destination=\"*\"/><allow receive_sender=\"*\"/></policy></busconfig>",
            socket.display()
        );
        std::fs::write(&conf, text).context("write bus.conf")?;
        let bus = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", conf.display()))
            .args(["--nofork", "--nopidfile", "--nosyslog"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start dbus-daemon")?;
        let this = Self { bus, socket, sources: Sources::default() };
        let mut service = Service::connect(&this.socket)?;
        service.call(&bus_call("Hello"), &[])?;
        service.call(&bus_call("RequestName"), &[Value::Text(NAME), Value::Number(0)])?;
        let sources = Arc::clone(&this.sources);
        thread::spawn(move || while service.serve(&sources).is_ok() {});
        Ok(this)
    }

    /// Returns the value for `DBUS_SYSTEM_BUS_ADDRESS`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket.display())
    }

    /// Returns zone and address of every source.
    #[must_use]
    pub fn sources(&self) -> BTreeSet<(String, String)> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A value in a message.
enum Value<'a> {
    Text(&'a str),
    Number(u32),
}

/// Fields of a message: path, interface, member, destination.
type Target<'a> = [(u8, &'a str); 4];

fn bus_call(member: &str) -> Target<'_> {
    [(1, "/org/freedesktop/DBus"), (2, "org.freedesktop.DBus"), (3, member), (6, "org.freedesktop.DBus")]
}

/// The relevant part of a message.
#[derive(Debug, Default)]
struct Message {
    kind: u8,
    serial: u32,
    sender: String,
    member: String,
    texts: Vec<String>,
}

struct Service {
    stream: UnixStream,
    serial: u32,
}

impl Service {
    fn connect(socket: &Path) -> Result<Self> {
        for _try in 0..200 {
            if let Ok(mut stream) = UnixStream::connect(socket) {
                // "0" in hexadecimal: root.
                stream.write_all(b"\0AUTH EXTERNAL 30\r\n")?;
                let mut answer = [0; 4];
                stream.read_exact(&mut answer)?;
                ensure!(&answer[..3] == b"OK ", "the bus refuses us");
                let mut byte = [0];
                while byte != *b"\n" {
                    stream.read_exact(&mut byte)?;
                }
                stream.write_all(b"BEGIN\r\n")?;
                return Ok(Self { stream, serial: 0 });
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("dbus-daemon does not listen on {}", socket.display())
    }

    fn send(&mut self, kind: u8, header: &[u8], signature: &str, values: &[Value<'_>]) -> Result<()> {
        let mut body = Vec::new();
        for value in values {
            pad(&mut body, 4);
            match value {
                Value::Text(text) => write_text(&mut body, text),
                Value::Number(number) => body.extend(number.to_le_bytes()),
            }
        }
        let mut fields = header.to_vec();
        if !signature.is_empty() {
            pad(&mut fields, 8);
            fields.extend([8, 1, b'g', 0, u8::try_from(signature.len())?]);
            fields.extend(signature.bytes());
            fields.push(0);
        }
        self.serial += 1;
        let mut bytes = vec![b'l', kind, 0, 1];
        for number in [u32::try_from(body.len())?, self.serial, u32::try_from(fields.len())?] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(&fields);
        pad(&mut bytes, 8);
        bytes.extend(body);
        self.stream.write_all(&bytes).context("write to the bus")
    }

    fn call(&mut self, target: &Target<'_>, values: &[Value<'_>]) -> Result<()> {
        let mut header = Vec::new();
        for (code, text) in target {
            pad(&mut header, 8);
            header.extend([*code, 1, if *code == 1 { b'o' } else { b's' }, 0]);
            write_text(&mut header, text);
        }
        let signature: String =
            values.iter().map(|value| if matches!(value, Value::Text(_)) { 's' } else { 'u' }).collect();
        self.send(1, &header, &signature, values)?;
        // Until the return of the call; signals may come in between.
        while self.read()?.kind != 2 {}
        Ok(())
    }

    /// Answers one call.
    fn serve(&mut self, sources: &Sources) -> Result<()> {
        let message = self.read()?;
        if message.kind != 1 {
            return Ok(());
        }
        // Others ask for introspection; the answer is that there is no such method.
        let [zone, address] = match message.texts.as_slice() {
            [zone, address] => [zone.as_str(), address.as_str()],
            _ => ["", ""],
        };
        let source = (zone.to_owned(), address.to_owned());
        let mut held = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let mut header = vec![5, 1, b'u', 0];
        header.extend(message.serial.to_le_bytes());
        pad(&mut header, 8);
        header.extend([6, 1, b's', 0]);
        write_text(&mut header, &message.sender);
        let asked = message.texts.first().map_or("", String::as_str);
        let zone_of = held.iter().find(|(_zone, address)| address == asked).map(|(zone, _address)| zone.clone());
        let done = match message.member.as_str() {
            "getZoneOfSource" => Ok(Value::Text(zone_of.as_deref().unwrap_or_default())),
            "addSource" if !held.insert(source.clone()) => {
                Err(format!("ZONE_ALREADY_SET: '{address}' already bound to '{zone}'"))
            }
            "removeSource" if !held.remove(&source) => Err(format!("UNKNOWN_SOURCE: '{address}' not in any zone")),
            "querySource" => Ok(Value::Number(u32::from(held.contains(&source)))),
            "addSource" | "removeSource" => Ok(Value::Text(zone)),
            other => Err(format!("firewalld has no {other:?}")),
        };
        match done {
            Ok(value) => {
                let signature = if matches!(value, Value::Text(_)) { "s" } else { "b" };
                self.send(2, &header, signature, &[value])
            }
            Err(text) => {
                pad(&mut header, 8);
                header.extend([4, 1, b's', 0]);
                write_text(&mut header, "org.fedoraproject.FirewallD1.Exception");
                self.send(3, &header, "s", &[Value::Text(&text)])
            }
        }
    }

    fn read(&mut self) -> Result<Message> {
        let mut start = [0; 16];
        self.stream.read_exact(&mut start).context("read from the bus")?;
        let word = |at: usize| -> Result<usize> {
            let bytes = start.get(at..at + 4).context("a word")?;
            Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
        };
        let (body, fields) = (word(4)?, word(12)?);
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.stream.read_exact(&mut rest).context("read from the bus")?;
        let mut message = Message { kind: start[1], serial: u32::try_from(word(8)?)?, ..Message::default() };
        let mut at = 0;
        let mut signature = String::new();
        while at < fields {
            at = at.next_multiple_of(8);
            let (code, kind) = (rest[at], rest[at + 2]);
            at += 4;
            let text = match kind {
                b's' | b'o' => read_text(&rest, &mut at)?,
                b'g' => {
                    let length = usize::from(rest[at]);
                    let text = String::from_utf8_lossy(&rest[at + 1..at + 1 + length]).into_owned();
                    at += length + 2;
                    text
                }
                _ => {
                    at += 4;
                    String::new()
                }
            };
            match code {
                3 => message.member = text,
                7 => message.sender = text,
                8 => signature = text,
                _ => {}
            }
        }
        let mut at = fields.next_multiple_of(8);
        if signature.chars().all(|kind| kind == 's') {
            for _text in signature.chars() {
                let text = read_text(&rest, &mut at)?;
                message.texts.push(text);
            }
        }
        Ok(message)
    }
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn write_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(u32::try_from(text.len()).unwrap_or_default().to_le_bytes());
    bytes.extend(text.bytes());
    bytes.push(0);
}

fn read_text(bytes: &[u8], at: &mut usize) -> Result<String> {
    *at = at.next_multiple_of(4);
    let length = bytes.get(*at..*at + 4).context("a text's length")?;
    let length = u32::from_le_bytes(length.try_into()?) as usize;
    let text = bytes.get(*at + 4..*at + 4 + length).context("a text")?;
    *at += length + 5;
    Ok(String::from_utf8_lossy(text).into_owned())
}

//! TCP and UDP conversations between namespaces: a server that answers with the address it sees, and a client.
//!
//! Sockets are opened on threads that enter the namespace and end; a socket stays in its namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use serde::Deserialize;

use crate::netns::NetNs;

/// How long one try may take.
const PATIENCE: Duration = Duration::from_millis(700);

/// How often a server checks whether it should stop.
const PAUSE: Duration = Duration::from_millis(5);

/// The protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A server, which stops when it is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Runs a function inside a namespace, on a thread that ends with it.
fn inside<T: Send + 'static>(netns: &NetNs, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let file: OwnedFd = std::fs::File::open(netns.path()).context("open the namespace")?.into();
    let body = move || {
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
        work()
    };
    thread::spawn(body).join().map_err(|_panic| anyhow!("a thread in a namespace panicked"))?
}

/// Starts a server that answers every caller with the caller's address.
///
/// # Errors
/// The address cannot be bound.
pub fn serve(netns: &NetNs, protocol: Protocol, address: SocketAddr) -> Result<Server> {
    let stop = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&stop);
    let thread = match protocol {
        Protocol::Tcp => {
            let listener = inside(netns, move || TcpListener::bind(address).context("listen"))?;
            listener.set_nonblocking(true)?;
            thread::spawn(move || tcp(&listener, &ends))
        }
        Protocol::Udp => {
            let socket = inside(netns, move || UdpSocket::bind(address).context("bind"))?;
            socket.set_read_timeout(Some(PAUSE))?;
            thread::spawn(move || udp(&socket, &ends))
        }
    };
    Ok(Server { stop, thread: Some(thread) })
}

fn tcp(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, from)) => drop(stream.write_all(from.ip().to_canonical().to_string().as_bytes())),
            Err(_nobody) => thread::sleep(PAUSE),
        }
    }
}

fn udp(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(from.ip().to_canonical().to_string().as_bytes(), from));
        }
    }
}

/// Asks a server for the address it sees; `None` if nobody answers within some tries.
///
/// # Errors
/// The namespace cannot be entered.
pub fn ask(netns: &NetNs, protocol: Protocol, to: SocketAddr, tries: u32) -> Result<Option<String>> {
    inside(netns, move || {
        for _try in 0..tries {
            let start = Instant::now();
            let answer = match protocol {
                Protocol::Tcp => ask_tcp(to),
                Protocol::Udp => ask_udp(to),
            };
            if answer.is_some() {
                return Ok(answer);
            }
            thread::sleep(Duration::from_millis(100).saturating_sub(start.elapsed()));
        }
        Ok(None)
    })
}

fn ask_tcp(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

fn ask_udp(to: SocketAddr) -> Option<String> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    // Connected, so that answers from other addresses are ignored.
    socket.connect(to).ok()?;
    socket.send(b"?").ok()?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(buffer.get(..length)?).into_owned())
}

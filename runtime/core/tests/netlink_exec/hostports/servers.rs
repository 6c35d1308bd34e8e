//! Servers in one namespace and clients in another, for host ports.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::*;

/// Answers every client with the client's address, until dropped.
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(thread::JoinHandle::join);
    }
}

pub(super) fn serve_tcp(ns: &Ns, port: u16) -> Server {
    let listener = ns.run(|| TcpListener::bind(("::", port)).expect("listen"));
    listener.set_nonblocking(true).expect("nonblocking");
    let stop = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&stop);
    let thread = thread::spawn(move || {
        while !ends.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, from)) => drop(write!(stream, "{}", from.ip().to_canonical())),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    });
    Server { stop, thread: Some(thread) }
}

pub(super) fn serve_udp(ns: &Ns, port: u16) -> Server {
    let socket = ns.run(|| UdpSocket::bind(("::", port)).expect("bind"));
    socket.set_read_timeout(Some(Duration::from_millis(5))).expect("timeout");
    let stop = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&stop);
    let thread = thread::spawn(move || {
        let mut buffer = [0; 16];
        while !ends.load(Ordering::Relaxed) {
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(from.ip().to_canonical().to_string().as_bytes(), from).ok();
            }
        }
    });
    Server { stop, thread: Some(thread) }
}

/// Returns the client address that the server behind an address sees, or `None` if nobody answers.
pub(super) fn ask(from: &Ns, to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().expect("address and port");
    let stream = from.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(700)));
    let mut stream = stream.ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(700))).expect("timeout");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

pub(super) fn client(from: &Ns) -> UdpSocket {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").expect("bind"));
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
    socket
}

pub(super) fn ask_udp(socket: &UdpSocket, to: &str) -> Option<String> {
    let mut buffer = [0; 64];
    for _try in 0..3 {
        socket.send_to(b"?", to).expect("send");
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            return Some(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
    None
}

pub(super) fn expect_answer(from: &Ns, to: &str, want: &str) {
    eventually(&format!("{to} answers with {want}"), || ask(from, to).as_deref() == Some(want));
}

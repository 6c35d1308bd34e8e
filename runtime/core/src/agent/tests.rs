//! The client with agents that are absent, silent, slow, of another program or version, or that answer.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;

use weft_host_abi::types::{Attachment, Dns, Route};

use super::lease::{Reply, Request};
use super::*;

/// Listens once, reads the request, and sends pieces of an answer with pauses in between.
fn agent(pieces: &'static [&'static str], pause: Duration) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let envelope: Envelope = serde_json::from_str(&line).unwrap();
        assert_eq!((envelope.v, envelope.service.as_str()), (1, "lease"));
        let _request: Request = serde_json::from_value(envelope.request).unwrap();
        for piece in pieces {
            (&stream).write_all(piece.as_bytes()).unwrap();
            thread::sleep(pause);
        }
    });
    (dir, socket)
}

fn asked(pieces: &'static [&'static str]) -> Result<Reply, AgentError> {
    let (_dir, socket) = agent(pieces, Duration::from_millis(20));
    ask::<Lease>(&socket, &Request::Status, None)
}

#[test]
fn a_reply_may_come_late_and_in_pieces() {
    assert_eq!(asked(&["\n", "\n", r#"{"v": 1, "reply": "do"#, "ne\"}\n"]).unwrap(), Reply::Done);
}

#[test]
fn failures_are_different_errors() {
    let nowhere = ask::<Lease>(Path::new("/nonexistent/agent.sock"), &Request::Status, None).unwrap_err();
    assert_eq!(nowhere.code(), 11);
    assert_eq!(
        nowhere.to_string(),
        "error dialing DHCP daemon: dial unix /nonexistent/agent.sock: connect: no such file or directory; \
         start \"weftctl agent\" on this node"
    );
    assert!(matches!(asked(&["\n"]).unwrap_err(), AgentError::Broken { .. }));
    let stock = asked(&["HTTP/1.1 400 Bad Request\r\n\r\n"]).unwrap_err();
    assert!(stock.to_string().contains("the stock DHCP daemon"), "{stock}");
    let refused = asked(&[r#"{"v": 1, "error": {"fault": "no-lease", "message": "nobody answered"}}"#]).unwrap_err();
    assert_eq!((refused.to_string().as_str(), refused.code()), ("nobody answered", 11));
    assert_eq!(refused.stock_text(), "error calling DHCP.Allocate: no more tries");
    let newer = asked(&[r#"{"v": 1, "error": {"fault": "of-next-year", "message": "no"}}"#]).unwrap_err();
    assert!(matches!(newer, AgentError::Refused { fault: Fault::Other, .. }), "{newer:?}");
    let other = asked(&[r#"{"v": 1, "reply": {"pod": {}}}"#]).unwrap_err();
    assert!(other.to_string().contains("of one release"), "{other}");
    let (_dir, socket) = agent(&["\n", "\n", "\n", "\n"], Duration::from_millis(200));
    let silent = ask::<Lease>(&socket, &Request::Status, Some(Duration::from_millis(300))).unwrap_err();
    assert!(matches!(silent, AgentError::Silent { .. }), "{silent}");
}

#[test]
fn an_agent_that_does_not_accept_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    // A queue of one, and nobody accepts.
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let mut waiting = Vec::new();
    let limit = Duration::from_millis(300);
    let address = std::os::unix::net::SocketAddr::from_pathname(&socket).unwrap();
    while let Ok(stream) = crate::deadline::connect(&address, std::time::Instant::now() + limit) {
        waiting.push(stream);
    }
    let silent = ask::<Lease>(&socket, &Request::Status, Some(limit)).unwrap_err();
    assert!(matches!(silent, AgentError::Silent { .. }), "{silent}");
}

#[test]
fn messages_survive_the_wire() {
    let attachment = Attachment { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() };
    let wish = Wish { ipv4: true, provide: [(12, "web".into())].into(), request: vec![1, 3], ..Wish::default() };
    let requests = [
        Request::Allocate(Allocate { attachment: attachment.clone(), netns: "/run/netns/x".into(), wish }),
        Request::Check(attachment.clone()),
        Request::Release(attachment),
        Request::Status,
    ];
    for request in requests {
        let text = serde_json::to_string(&request).unwrap();
        assert!(!text.contains('\n'));
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }
    let leased = Leased {
        ips: vec![("192.168.1.5/24".parse().unwrap(), Some("192.168.1.1".parse().unwrap()))],
        routes: vec![Route::new("0.0.0.0/0".parse().unwrap(), None)],
        dns: Dns::default(),
    };
    let reply = Reply::Leased(leased);
    assert_eq!(serde_json::from_str::<Reply>(&serde_json::to_string(&reply).unwrap()).unwrap(), reply);
}

//! The socket with services that answer, fail, panic and never end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::future::pending;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::task::{LocalSet, spawn_blocking};
use weft_core::agent::{AgentError, Service, ask};

use super::*;

/// What the test service does with a request.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Order {
    Answer,
    Panic,
    Hang,
}

struct Echo;
impl Service for Echo {
    const NAME: &'static str = "echo";
    const VERSION: u32 = 2;
    type Request = Order;
    type Reply = String;
}

/// The same name in the version of an older program.
struct OldEcho;
impl Service for OldEcho {
    const NAME: &'static str = "echo";
    const VERSION: u32 = 1;
    type Request = Order;
    type Reply = String;
}

/// A service that this agent does not have.
struct Foreign;
impl Service for Foreign {
    const NAME: &'static str = "foreign";
    const VERSION: u32 = 1;
    type Request = Order;
    type Reply = String;
}

/// A service that is switched off.
struct Off;
impl Service for Off {
    const NAME: &'static str = "off";
    const VERSION: u32 = 1;
    type Request = Order;
    type Reply = String;
}

struct Echoing;
impl Handler for Echoing {
    type Service = Echo;
    async fn handle(&self, request: Order, _deadline: Deadline) -> Result<String, Refusal> {
        match request {
            Order::Answer => Ok("here".to_owned()),
            Order::Panic => panic!("on purpose"),
            Order::Hang => pending().await,
        }
    }
}

/// Runs a blocking caller against a server with the test service.
fn with_server<T: Send + 'static>(caller: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async move {
        let services = Services::default().with_handler(Rc::new(Echoing)).with_disabled::<Off>("give --switch");
        let listener = listen(&socket).unwrap();
        tokio::task::spawn_local(serve(listener, Rc::new(services), Log));
        spawn_blocking(move || caller(socket)).await.unwrap()
    })
}

fn refusal(error: AgentError) -> (Fault, String) {
    match error {
        AgentError::Refused { fault, message } => (fault, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_panic_of_a_service_answers_its_caller_and_nobody_else_notices() {
    with_server(|socket| {
        let hanging = std::thread::spawn({
            let socket = socket.clone();
            move || ask::<Echo>(&socket, &Order::Hang, Some(Duration::from_secs(4)))
        });
        let (fault, message) = refusal(ask::<Echo>(&socket, &Order::Panic, None).unwrap_err());
        assert_eq!(fault, Fault::Internal);
        assert!(message.contains("\"echo\"") && message.contains("on purpose"), "{message}");
        assert_eq!(ask::<Echo>(&socket, &Order::Answer, None).unwrap(), "here");
        let (fault, message) = refusal(hanging.join().unwrap().unwrap_err());
        assert_eq!((fault, message.contains("4000 ms")), (Fault::Deadline, true), "{message}");
    });
}

#[test]
fn unknown_services_and_versions_get_an_error_that_says_what_to_do() {
    with_server(|socket| {
        let (fault, message) = refusal(ask::<OldEcho>(&socket, &Order::Answer, None).unwrap_err());
        assert_eq!(fault, Fault::UnknownVersion);
        assert!(message.contains("speaks version 2") && message.contains("version 1 was"), "{message}");
        let (fault, message) = refusal(ask::<Foreign>(&socket, &Order::Answer, None).unwrap_err());
        assert_eq!(fault, Fault::UnknownService);
        assert!(message.contains("restart \"weftctl agent\""), "{message}");
        let (fault, message) = refusal(ask::<Off>(&socket, &Order::Answer, None).unwrap_err());
        assert_eq!((fault, message.ends_with("give --switch")), (Fault::UnknownService, true), "{message}");
    });
}

#[test]
fn lines_that_are_no_request_get_an_error() {
    use std::io::{Read, Write};
    with_server(|socket| {
        for line in [
            "{\"allocate\": {}}\n",
            "GET / HTTP/1.1\r\n",
            "[\n",
            "{\"v\": -1, \"service\": \"echo\", \"request\": 1}\n",
        ] {
            let mut stream = BlockingStream::connect(&socket).unwrap();
            stream.write_all(line.as_bytes()).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            let answer: Answer = serde_json::from_str(&text).unwrap();
            let Outcome::Error(refusal) = answer.outcome else { panic!("{text}") };
            assert_eq!(refusal.fault, Fault::UnknownVersion, "{line:?}");
        }
        assert_eq!(ask::<Echo>(&socket, &Order::Answer, None).unwrap(), "here");
    });
}

#[test]
fn a_live_agent_keeps_its_socket_and_a_dead_one_loses_it() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let first = listen(&socket).unwrap();
        assert!(listen(&socket).unwrap_err().to_string().contains("another agent listens"));
        drop(first);
        listen(&socket).unwrap();
    });
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "").unwrap();
    runtime.block_on(async { assert!(listen(&socket).unwrap_err().to_string().contains("no socket")) });
}

//! A policy for `wasm32-wasip2`: its standard library imports WASI. It tells in a denial what it sees there, or does what
//! its configuration says.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant, SystemTime};

use weft_sdk::{Decision, Denial, Ledger, Policy, Problem, Request};

struct Ambient;

impl Policy for Ambient {
    fn allocate(request: &Request, _ledger: &dyn Ledger) -> Result<Decision, Denial> {
        match request.config.as_str() {
            "sleep" => std::thread::sleep(Duration::from_secs(3600)),
            "spin" => {
                let start = Instant::now();
                while start.elapsed() < Duration::from_secs(3600) {}
            }
            "read-forever" => loop {
                drop(std::fs::read("/data/table"));
            },
            "print" => {
                println!("to standard output");
                eprintln!("to standard error");
            }
            "write" => {
                let written = std::fs::write("/data/new", "x");
                return Err(Denial::Denied(format!("write: {written:?}")));
            }
            "escape" => {
                let read = std::fs::read("/data/../secret").or_else(|_| std::fs::read("/data/link"));
                return Err(Denial::Denied(format!("escape: {:?}", read.is_ok())));
            }
            _ => {}
        }
        let env: Vec<_> = std::env::vars().collect();
        let args: Vec<_> = std::env::args().collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|now| now.as_secs());
        let random = RandomState::new().build_hasher().finish();
        let table = std::fs::read_to_string("/data/table").unwrap_or_else(|error| error.kind().to_string());
        let socket = std::net::TcpStream::connect("127.0.0.1:80").map(drop).map_err(|error| error.kind().to_string());
        Err(Denial::Denied(format!(
            "env {env:?} args {args:?} now {now:?} random {random} table {table:?} socket {socket:?}"
        )))
    }

    fn validate(_config: &str) -> Vec<Problem> {
        Vec::new()
    }

    fn config_schema() -> String {
        "{}".to_owned()
    }
}

weft_sdk::policy!(Ambient);

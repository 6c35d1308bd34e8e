//! A policy for `wasm32-wasip2`: its standard library imports WASI. Its denial contains what it finds there, or it does
//! what its configuration says.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant, SystemTime};

use weft_sdk::{Decision, Denial, Ledger, Policy, Problem, Request};

struct Ambient;

/// Returns the contents of a directory and of those below it: kinds, lengths, targets of links.
fn list(dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path().display().to_string();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                found.push(format!("{path}/"));
                found.extend(list(&path));
            }
            Ok(kind) if kind.is_symlink() => found.push(format!("{path} -> {:?}", std::fs::read_link(&path).ok())),
            Ok(_) => found.push(format!("{path} {:?}", entry.metadata().map(|meta| meta.len()).ok())),
            Err(error) => found.push(format!("{path} {}", error.kind())),
        }
    }
    found.sort();
    found
}

/// Returns everything that it can reach besides its files: nothing.
fn reachable() -> Vec<String> {
    let mut reached = Vec::new();
    let mut attempt = |what: &str, worked: bool| {
        if worked {
            reached.push(what.to_owned());
        }
    };
    let paths = [
        "/etc/passwd", "/", "..", "/data/..", "/proc/self/environ", "/data/../secret", "/data/link", "/data/absolute", "/data/d/../../secret",
        "/data/loop",
    ];
    for path in paths {
        attempt(path, std::fs::read(path).is_ok() || std::fs::read_dir(path).is_ok() || std::fs::metadata(path).is_ok());
    }
    attempt("write", std::fs::write("/data/table", "x").is_ok() || std::fs::write("/data/new", "x").is_ok());
    attempt("create", std::fs::create_dir("/data/new").is_ok());
    attempt("remove", std::fs::remove_file("/data/table").is_ok() || std::fs::remove_dir("/data/d").is_ok());
    attempt("rename", std::fs::rename("/data/table", "/data/other").is_ok());
    attempt("link", std::fs::hard_link("/data/table", "/data/other").is_ok());
    attempt("append", std::fs::OpenOptions::new().append(true).open("/data/table").is_ok());
    attempt("connect", std::net::TcpStream::connect("127.0.0.1:80").is_ok());
    attempt("listen", std::net::TcpListener::bind("127.0.0.1:0").is_ok());
    attempt("datagrams", std::net::UdpSocket::bind("127.0.0.1:0").is_ok());
    attempt("names", std::net::ToSocketAddrs::to_socket_addrs("localhost:80").is_ok());
    attempt("environment", std::env::vars().next().is_some() || std::env::args().next().is_some());
    reached
}

/// Returns a part of a file.
fn read_end_of_file() -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open("/data/..data/table")?;
    file.seek(SeekFrom::End(-1))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

impl Policy for Ambient {
    fn allocate(request: &Request, _ledger: &dyn Ledger) -> Result<Decision, Denial> {
        // A test passes a word; a network's configuration has it under a key.
        let config = request.config.as_str();
        let word = config.split_once("\"do\":\"").map_or(config, |(_before, after)| after.split('"').next().unwrap_or(after));
        match word {
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
            "list" => return Err(Denial::Denied(format!("list: {:?}", list("/data")))),
            "reach" => return Err(Denial::Denied(format!("reached: {:?}", reachable()))),
            "seek" => return Err(Denial::Denied(format!("seek: {:?}", read_end_of_file()))),
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

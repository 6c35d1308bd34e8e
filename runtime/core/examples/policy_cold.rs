//! Measures the cost of one policy call in a fresh process: engine, load (digest, map, check, link), call.
//!
//! `cargo run --release -p weft-core --features compile --example policy_cold -- STATE_DIR host-local` compiles
//! `STATE_DIR/policies/host-local.wasm` into the cache first. Without `--features compile` it only measures, and this
//! is the figure that counts, because `weft` has no compiler either. With `isolated` at the end, the call is made in a
//! worker.

#![allow(clippy::print_stdout, reason = "it reports to a person")]

use std::error::Error;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_core::policy::{CompileError, Grants, Limits, PolicyRef, PolicyStore};
#[cfg(feature = "compile")]
use weft_core::policy::{Waiting, compiler::compile_in_process};
use weft_host_abi::types::{Attachment, ClaimInfo, LastClaim, LedgerView, Node, Range, RangeSet, Request, Usage};

/// A ledger without claims.
struct Empty;

impl LedgerView for Empty {
    fn claimed_by(&self, _address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        Ok(None)
    }

    fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        Ok(range.contains(from).then_some(from))
    }

    fn usage(&self, _range: &Range) -> Result<Usage, String> {
        Ok(Usage::default())
    }

    fn last_claimed(&self, _range: &Range) -> Result<Option<LastClaim>, String> {
        Ok(None)
    }

    fn held_by(&self, _owner: &str) -> Result<Vec<ClaimInfo>, String> {
        Ok(Vec::new())
    }
}

fn request() -> Result<Request, Box<dyn Error>> {
    let range = Range {
        subnet: "10.1.0.0/24".parse()?,
        first: "10.1.0.1".parse()?,
        last: "10.1.0.254".parse()?,
        gateway: Some("10.1.0.1".parse()?),
    };
    Ok(Request {
        attachment: Attachment { network: "net".into(), container_id: "c1".into(), ifname: "eth0".into() },
        pod: None,
        node: Node::default(),
        identities: vec!["container:c1".into()],
        requested: Vec::new(),
        mac: None,
        cni_args: Vec::new(),
        held: Vec::new(),
        range_sets: vec![RangeSet { name: None, ranges: vec![range] }],
        resolver: None,
        config: r#"{"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}"#
            .into(),
        cni_version: "1.1.0".into(),
        now: 0,
        seed: 0,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let (state, name, isolated) = match arguments.as_slice() {
        [_program, state, name] => (state, name, false),
        [_program, state, name, how] if how == "isolated" => (state, name, true),
        _ => return Err("usage: policy_cold STATE_DIR POLICY [isolated]".into()),
    };
    let grants = Grants { isolated, ..Grants::default() };
    let (state, policy) = (Path::new(state), PolicyRef::shipped(name)?);
    #[cfg(feature = "compile")]
    PolicyStore::new(state)?
        .compile_into_cache(name, &policy.path(state), Waiting::Wait, &|wasm, _| compile_in_process(wasm))?;
    let request = request()?;
    let limits = Limits::default();
    let start = Instant::now();
    let store = PolicyStore::new(state)?;
    let engine = start.elapsed();
    let loaded = store.load(&policy, &grants, &|_ask| Err(CompileError::Failed("compile it first".to_owned())))?;
    let load = start.elapsed() - engine;
    let answer = loaded.allocate(&request, Box::new(Empty), &limits).answered()?;
    let total = start.elapsed();
    let again = Instant::now();
    loaded.allocate(&request, Box::new(Empty), &limits).answered()?;
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    println!(
        "total {:.3} ms: engine {:.3}, load {:.3}, call {:.3} (again {:.3}); fuel {}, host calls {}",
        ms(total),
        ms(engine),
        ms(load),
        ms(total - engine - load),
        ms(again.elapsed()),
        answer.fuel,
        answer.calls,
    );
    Ok(())
}

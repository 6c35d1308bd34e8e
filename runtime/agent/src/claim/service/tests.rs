//! Tests the service's decisions that need no answer of a ledger.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::Future as _;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio::time::Instant;
use weft_core::journal::Record;
use weft_core::ledger::remote::{Answer, IntentAsk, Owner, Seen, scope};
use weft_core::ledger::{ClaimAsk, Want};
use weft_core::store::{Key, Role};
use weft_host_abi::types::{Attachment, ReleaseRule};

use super::{CUT_OFF, Claims, Ledger, Reports, Round};
use crate::Log;
use crate::claim::backend::ReadError;
use crate::claim::record::WrittenRecord;
use crate::claim::{DrainError, GrantError, LedgerState};

const TWO: &str = r#"{"endpoints":["http://192.0.2.1:2379","http://192.0.2.2:2379"],"type":"etcd"}"#;
/// The same servers in another order, and one of them with a new one.
const TURNED: &str = r#"{"endpoints":["http://192.0.2.2:2379","http://192.0.2.1:2379"],"type":"etcd"}"#;
const REPLACED: &str = r#"{"endpoints":["http://192.0.2.3:2379","http://192.0.2.1:2379"],"type":"etcd"}"#;
/// Nothing in common with `TWO`, but with `REPLACED`.
const LATER: &str = r#"{"endpoints":["http://192.0.2.3:2379"],"type":"etcd"}"#;
const ELSEWHERE: &str = r#"{"endpoints":["http://192.0.2.9:2379"],"type":"etcd"}"#;

fn claims() -> (TempDir, Rc<Claims>) {
    let dir = TempDir::new().unwrap();
    let claims = Claims::open_as(dir.path(), ("a", "m-a"), None, Reports::default(), Log).unwrap();
    (dir, claims)
}

fn ledger(claims: &Claims, text: &str) -> Rc<Ledger> {
    let ledger = claims.ledger(text).map_err(|refusal| refusal.message).unwrap();
    ledger.progress.borrow_mut().started = true;
    ledger
}

/// An attachment on a ledger, with an address.
fn add(claims: &Claims, text: &str, number: u8) {
    let attachment =
        Attachment { network: "storage".into(), container_id: format!("c{number}"), ifname: "net1".into() };
    let key = Key { attachment, role: Role::Attachment };
    let address = format!("10.0.0.{number}/24").parse().unwrap();
    let wants = [Want { candidates: vec![(address, None)], gateway: None }];
    let (owner, release, scope) = (Owner::default(), ReleaseRule::Free, scope("default"));
    let intent = IntentAsk {
        key: &key,
        ledger: text,
        domain: "default",
        owner: &owner,
        wants: &wants,
        release: &release,
        now: 1000,
    };
    let mut store = claims.store.borrow_mut();
    let nonce = store.intend::<()>(&intent).unwrap();
    store.note_answer(&nonce, address.addr(), Answer::Granted, None).unwrap();
    let ask = ClaimAsk { key: &key, scope: &scope, identities: &[], wants: &wants, release: &release, now: 1000 };
    store.commit_intent(&ask, &nonce, |_| Ok::<_, ()>(Record::default())).unwrap();
}

#[tokio::test]
async fn a_node_that_was_cut_off_compares_everything_again() {
    let (_dir, claims) = claims();
    let ledger = ledger(&claims, TWO);
    let fails = || Err(DrainError::Read(ReadError("cut".into())));
    // A short failure is not reported.
    claims.report(TWO, &ledger, fails());
    claims.report(TWO, &ledger, Ok(Round::Answered));
    assert!(ledger.progress.borrow().started);
    claims.report(TWO, &ledger, fails());
    ledger.progress.borrow_mut().trouble_since = Instant::now().checked_sub(CUT_OFF * 2);
    claims.report(TWO, &ledger, fails());
    claims.report(TWO, &ledger, Ok(Round::Answered));
    assert!(!ledger.progress.borrow().started);
}

#[tokio::test]
async fn a_machine_that_is_fenced_while_it_runs_grants_nothing() {
    let (_dir, claims) = claims();
    let ledger = ledger(&claims, TWO);
    assert!(ledger.progress.borrow().may_grant().is_ok());
    let spoken = |is_fenced| WrittenRecord { outlives_taint: false, is_fenced };
    claims.note_spoken(TWO, &ledger, spoken(true));
    assert!(matches!(ledger.progress.borrow().may_grant(), Err(GrantError::Fenced)));
    assert!(!ledger.progress.borrow().started, "what it has is compared with the ledger");
    claims.note_spoken(TWO, &ledger, spoken(false));
    assert!(ledger.progress.borrow().may_grant().is_ok());
}

/// The first ledger accepts connections and never answers.
#[tokio::test]
async fn a_ledger_that_hangs_delays_the_work_on_no_other() {
    let (_dir, claims) = claims();
    let (hangs, other) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    for (number, prefix, listener) in [(1, "/a", &hangs), (2, "/b", &other)] {
        let url = format!("http://{}", listener.local_addr().unwrap());
        add(&claims, &json!({"type": "etcd", "endpoints": [url], "prefix": prefix}).to_string(), number);
    }
    let local = LocalSet::new();
    local.spawn_local(Rc::clone(&claims).work());
    let reached = async {
        let (mut held, _from) = hangs.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(held.read(&mut request).await.unwrap() > 0);
        other.accept().await.unwrap();
        // The request to the first one is still under way.
        let more = std::future::poll_fn(|ctx| Poll::Ready(pin!(held.read(&mut request)).poll(ctx))).await;
        assert!(more.is_pending(), "the other ledger had to wait for the first one: {more:?}");
    };
    local.run_until(reached).await;
}

#[tokio::test]
async fn a_ledger_that_this_node_does_not_use_is_forgotten() {
    let (_dir, claims) = claims();
    add(&claims, TWO, 1);
    for text in [TWO, ELSEWHERE] {
        ledger(&claims, text);
    }
    let under_way = ledger(&claims, LATER);
    assert_eq!(claims.known(), [TWO, LATER]);
    drop(under_way);
    assert_eq!((claims.known(), claims.ledgers.borrow().len()), (vec![TWO.to_owned()], 1));
}

#[tokio::test]
async fn obstacles_to_a_confirmation_are_checked_from_time_to_time() {
    let (_dir, claims) = claims();
    let ledger = ledger(&claims, TWO);
    let is_settled = |frozen: bool| {
        let mut progress = ledger.progress.borrow_mut();
        progress.state = LedgerState { epoch: 1, frozen };
        progress.is_settled()
    };
    assert!(!is_settled(false), "epoch 1 is not confirmed");
    // A conflict: all the time while the ledger is frozen, once a minute afterwards.
    Claims::reassert_again(&ledger, true);
    assert_eq!([true, false].map(is_settled), [false, true]);
    ledger.progress.borrow_mut().next_reassert = Some(Instant::now());
    assert!(!is_settled(false));
    ledger.progress.borrow_mut().confirmed = 1;
    assert!(!is_settled(false), "a conflict that is over is noticed too");
    Claims::reassert_again(&ledger, false);
    assert!(is_settled(false));
}

#[tokio::test]
async fn a_ledger_has_several_names() {
    let (_dir, claims) = claims();
    for (number, text) in (1..).zip([TWO, TURNED, REPLACED, LATER, ELSEWHERE]) {
        add(&claims, text, number);
    }
    let mut names = claims.names(TWO).unwrap();
    assert_eq!(names[0], TWO);
    names.sort();
    let mut expected = [TWO, TURNED, REPLACED, LATER];
    expected.sort_unstable();
    assert_eq!(names, expected);
    // Its client works for names that do not answer.
    for text in [TWO, TURNED] {
        ledger(&claims, text);
    }
    let served = claims.names_to_serve(TWO).unwrap();
    assert!(!served.iter().any(|name| name == TURNED) && served.len() == 3, "{served:?}");
    ledger(&claims, TURNED).progress.borrow_mut().trouble = Some("cut".into());
    assert_eq!(claims.names_to_serve(TWO).unwrap().len(), 4);
    // The last one may be the same ledger: as long as it does not answer, nothing is confirmed.
    assert_eq!(claims.unknown_name(TWO).unwrap().as_deref(), Some(ELSEWHERE));
    ledger(&claims, ELSEWHERE);
    assert_eq!(claims.unknown_name(TWO).unwrap(), None);
    // Servers that were started with the defaults have one cluster id.
    for name in [TWO, ELSEWHERE] {
        claims.store.borrow_mut().note_seen(name, &Seen { cluster: 7, ..Seen::default() }).unwrap();
    }
    assert!(!claims.names(TWO).unwrap().contains(&ELSEWHERE.to_owned()));
}

//! The v6 client with a small server, in simulated time; and malformed packets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::net::Ipv6Addr;

use super::*;
use crate::{Lost, Millis, Pace};

const DUID: &[u8] = b"\0\x04client";
const SERVER: &[u8] = b"\0\x03server";

fn address() -> Ipv6Addr {
    "fd00::5".parse().unwrap()
}

fn client() -> Client {
    let settings = Settings { duid: DUID.to_vec(), iaid: 1, pace: Pace::default() };
    Client::acquire(settings, None, 1, 0)
}

fn sent(output: &Output) -> Message {
    match output {
        Output::Send(bytes) => Message::read(bytes).unwrap(),
        other => panic!("{other:?} sends nothing"),
    }
}

fn answer(to: &Message, kind: Kind) -> Message {
    let mut message = Message::new(kind, to.xid, DUID);
    message.server = Some(SERVER.to_vec());
    let given = IaAddress { address: address(), preferred: 60, valid: 120, status: None };
    message.ia = Some(IaNa { id: 1, addresses: vec![given], ..IaNa::default() });
    message.name_servers = vec!["fd00::53".parse().unwrap()];
    message.search = vec!["lan.example".to_owned()];
    message
}

fn status(to: &Message, code: u16) -> Message {
    let mut message = answer(to, Kind::Reply);
    message.ia = Some(IaNa { id: 1, status: Some((code, "no".to_owned())), ..IaNa::default() });
    message
}

fn bound() -> Client {
    let mut client = client();
    let solicit = sent(&client.tick(0)[0]);
    let mut reply = answer(&solicit, Kind::Reply);
    reply.rapid_commit = true;
    assert_eq!(client.receive(10, &reply), [Output::Bound]);
    client
}

fn run(client: &mut Client) -> (Millis, Vec<Output>) {
    let now = client.next().unwrap();
    (now, client.tick(now))
}

#[test]
fn solicit_advertise_request_reply() {
    let mut client = client();
    let solicit = sent(&client.tick(0)[0]);
    assert_eq!((solicit.kind, solicit.rapid_commit, solicit.ask), (Kind::Solicit, true, true));
    assert_eq!(solicit.client, DUID);
    let mut other = answer(&solicit, Kind::Advertise);
    other.server = Some(b"other".to_vec());
    assert_eq!(client.receive(5, &other), []);
    let mut better = answer(&solicit, Kind::Advertise);
    better.preference = 7;
    assert_eq!(client.receive(6, &better), []);
    let (now, outputs) = run(&mut client);
    assert!((1_000..=1_100).contains(&now), "{now}");
    let request = sent(&outputs[0]);
    assert_eq!((request.kind, request.server.as_deref()), (Kind::Request, Some(SERVER)));
    assert_eq!(request.ia.as_ref().unwrap().addresses[0].address, address());
    assert_eq!(client.receive(now + 5, &answer(&request, Kind::Reply)), [Output::Bound]);
    let lease = client.lease().unwrap();
    assert_eq!((lease.address, lease.search.as_slice()), (address(), &["lan.example".to_owned()][..]));
    // The client chooses T1 and T2: 0.5 and 0.8 of the preferred time.
    assert_eq!((lease.renew, lease.rebind), (Some(now + 30_000), Some(now + 48_000)));
    assert_eq!(lease.expires, Some(now + 120_000));
}

#[test]
fn the_highest_preference_is_taken_at_once() {
    let mut client = client();
    let mut advert = answer(&sent(&client.tick(0)[0]), Kind::Advertise);
    advert.preference = 255;
    assert_eq!(sent(&client.receive(3, &advert)[0]).kind, Kind::Request);
}

#[test]
fn two_messages_are_enough_with_rapid_commit() {
    let client = bound();
    assert_eq!(client.lease().unwrap().server, SERVER);
    assert!(!client.listens());
}

#[test]
fn what_is_not_an_answer_changes_nothing() {
    let mut client = client();
    let solicit = sent(&client.tick(0)[0]);
    let good = answer(&solicit, Kind::Advertise);
    let wrong = [
        Message { xid: good.xid ^ 1, ..good.clone() },
        Message { client: b"other".to_vec(), ..good.clone() },
        Message { server: None, ..good.clone() },
        Message { ia: None, ..good.clone() },
        Message { ia: Some(IaNa { id: 2, ..good.ia.clone().unwrap() }), ..good.clone() },
        answer(&solicit, Kind::Reply),
        status(&solicit, 2),
    ];
    for message in wrong {
        assert_eq!(client.receive(1, &message), [], "{message:?}");
    }
    let (_, outputs) = run(&mut client);
    assert_eq!(sent(&outputs[0]).kind, Kind::Solicit);
}

#[test]
fn silence_and_refusal_are_given_up_in_time() {
    for refused in [false, true] {
        let mut client = client();
        let text = loop {
            let (now, outputs) = run(&mut client);
            match &outputs[..] {
                [Output::GaveUp(text)] => break text.clone(),
                [one] if refused => {
                    let mut advert = answer(&sent(one), Kind::Advertise);
                    advert.ia = Some(IaNa { id: 1, status: Some((2, "pool empty".to_owned())), ..IaNa::default() });
                    assert_eq!(client.receive(now, &advert), []);
                }
                [_] => {}
                other => panic!("{other:?}"),
            }
            assert!(now <= 208_000);
        };
        let want = if refused {
            "the DHCPv6 server refused for 208 s: \"pool empty\""
        } else {
            "no DHCPv6 server offered an address within 208 s"
        };
        assert_eq!(text, want);
    }
}

#[test]
fn a_lease_is_renewed_rebound_and_ends() {
    let mut client = bound();
    let (now, outputs) = run(&mut client);
    let renew = sent(&outputs[0]);
    assert_eq!((now, renew.kind, renew.server.as_deref()), (30_000, Kind::Renew, Some(SERVER)));
    let mut renewed = client.clone();
    assert_eq!(renewed.receive(now + 9, &answer(&renew, Kind::Reply)), [Output::Bound]);
    assert_eq!(renewed.lease().unwrap().expires, Some(150_000));
    let end = loop {
        let (now, outputs) = run(&mut client);
        match &outputs[0] {
            Output::Lost(Lost::Expired) => break now,
            one => {
                let message = sent(one);
                let rebinding = now >= 48_000;
                assert_eq!(message.kind, if rebinding { Kind::Rebind } else { Kind::Renew }, "{now}");
                assert_eq!(message.server.is_none(), rebinding);
            }
        }
    };
    assert_eq!(end, 120_000);
}

#[test]
fn a_server_that_forgot_is_asked_for_the_same_address() {
    let mut client = bound();
    let (now, outputs) = run(&mut client);
    let request = sent(&client.receive(now, &status(&sent(&outputs[0]), 3))[0]);
    assert_eq!(request.kind, Kind::Request);
    assert_eq!(request.ia.as_ref().unwrap().addresses[0].address, address());
    let mut refused = client.clone();
    assert_eq!(refused.receive(now, &status(&request, 2)), [Output::Lost(Lost::Refused("no".to_owned()))]);
    let mut moved = answer(&request, Kind::Reply);
    moved.ia.as_mut().unwrap().addresses[0].address = "fd00::9".parse().unwrap();
    assert!(matches!(client.clone().receive(now, &moved)[..], [Output::Lost(Lost::Moved(_))]));
    assert_eq!(client.receive(now, &answer(&request, Kind::Reply)), [Output::Bound]);
}

#[test]
fn a_release_is_repeated_until_it_is_confirmed_but_not_for_long() {
    let mut client = bound();
    assert!(client.release(1_000));
    let release = sent(&client.tick(1_000)[0]);
    assert_eq!((release.kind, release.server.as_deref()), (Kind::Release, Some(SERVER)));
    let mut confirmed = client.clone();
    assert_eq!(confirmed.receive(1_001, &status(&release, 0)), [Output::Released]);
    let end = loop {
        let (now, outputs) = run(&mut client);
        if outputs == [Output::Released] {
            break now;
        }
    };
    assert!(end < 3_000, "{end}");
    assert!(!self::client().release(0));
}

#[test]
fn after_a_restart_overdue_work_is_due_now() {
    let lease = bound().lease().unwrap().clone();
    let settings = Settings { duid: DUID.to_vec(), iaid: 1, pace: Pace::default() };
    let at = |now| {
        let mut client = Client::resume(settings.clone(), lease.clone(), 4, now);
        client.tick(now)
    };
    assert_eq!(at(10_000), []);
    assert_eq!(sent(&at(31_000)[0]).kind, Kind::Renew);
    assert_eq!(sent(&at(50_000)[0]).kind, Kind::Rebind);
    assert_eq!(at(500_000), [Output::Lost(Lost::Expired)]);
}

#[test]
fn messages_are_written_and_read() {
    let mut message = answer(&Message::new(Kind::Solicit, 0x00ab_cdef, DUID), Kind::Reply);
    message.status = Some((5, "use multicast".to_owned()));
    (message.elapsed, message.rapid_commit, message.preference, message.ask) = (Some(77), true, 9, true);
    assert_eq!(Message::read(&message.write()).unwrap(), message);
    // Relayed and truncated messages are not for clients.
    assert!(Message::read(&[12, 0, 0, 0]).is_err());
    let bytes = message.write();
    for length in 0..bytes.len() {
        if let Ok(read) = Message::read(&bytes[..length]) {
            assert_ne!(read, message);
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(tail in proptest::collection::vec(proptest::num::u8::ANY, 0..400), kind in 1_u8..9) {
        let mut client = client();
        let solicit = sent(&client.tick(0)[0]);
        let mut bytes = answer(&solicit, Kind::Advertise).write();
        bytes[0] = kind;
        bytes.extend(&tail);
        if let Ok(message) = Message::read(&bytes) {
            client.receive(1, &message);
        }
        if let Ok(message) = Message::read(&tail) {
            client.receive(1, &message);
        }
    }

    #[test]
    fn any_course_of_events_ends(events in proptest::collection::vec((0_u8..8, 0_u64..200_000), 1..60)) {
        let mut client = client();
        let (mut now, mut last) = (0, None::<Message>);
        for (event, wait) in events {
            now += wait;
            let outputs = match (event, &last) {
                (0, Some(last)) => client.receive(now, &answer(last, Kind::Advertise)),
                (1 | 2, Some(last)) => client.receive(now, &answer(last, Kind::Reply)),
                (3, Some(last)) => client.receive(now, &status(last, 3)),
                (4, Some(last)) => client.receive(now, &status(last, 2)),
                _ => client.tick(now),
            };
            if let Some(Output::Send(_)) = outputs.first() {
                last = Some(sent(&outputs[0]));
            }
            let ended = outputs.iter().any(|output| matches!(output, Output::GaveUp(_) | Output::Lost(_)));
            proptest::prop_assert_eq!(client.next().is_none(), ended);
            if ended {
                return Ok(());
            }
        }
    }
}

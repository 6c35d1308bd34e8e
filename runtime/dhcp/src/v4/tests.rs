//! The v4 client with a small server, in simulated time; and malformed packets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod messages;
mod random;

use std::net::Ipv4Addr;

use super::*;
use crate::{Lost, Millis, Pace};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 5);

fn settings() -> Settings {
    Settings {
        mac: MAC,
        client_id: b"\0cid/net/eth0".to_vec(),
        provide: [(option::HOST_NAME, b"web-0".to_vec())].into(),
        request: vec![1, 3],
        broadcast: false,
        pace: Pace::default(),
    }
}

/// Returns the message that an output sends.
fn sent(output: &Output) -> Message {
    match output {
        Output::Broadcast { bytes, .. } | Output::Unicast { bytes, .. } => Message::read(bytes).unwrap(),
        other => panic!("{other:?} sends nothing"),
    }
}

fn answer(to: &Message, kind: Kind, address: Ipv4Addr) -> Message {
    let mut message = Message::new(kind, to.xid, to.mac);
    message.reply = true;
    message.yiaddr = address;
    message.options.insert(option::SERVER_ID, SERVER.octets().to_vec());
    if kind != Kind::Nak {
        message.options.insert(option::LEASE_TIME, 120_u32.to_be_bytes().to_vec());
        message.options.insert(option::SUBNET_MASK, vec![255, 255, 255, 0]);
        message.options.insert(option::ROUTERS, vec![192, 168, 1, 1]);
    }
    message
}

/// Returns a client with a lease of two minutes, requested at time 1000.
fn bound() -> Client {
    let mut client = Client::acquire(settings(), Purpose::Any(None), 1, 1_000);
    let discover = sent(&client.tick(1_000)[0]);
    let request = sent(&client.receive(1_000, &answer(&discover, Kind::Offer, ADDRESS), None)[0]);
    let done = client.receive(1_100, &answer(&request, Kind::Ack, ADDRESS), Some([2, 0, 0, 0, 0, 9]));
    assert_eq!(done, [Output::Bound]);
    client
}

/// Advances the time until the client does something.
fn run(client: &mut Client) -> (Millis, Vec<Output>) {
    let now = client.next().unwrap();
    (now, client.tick(now))
}

#[test]
fn discover_offer_request_ack() {
    let mut client = Client::acquire(settings(), Purpose::Any(None), 1, 1_000);
    assert_eq!(client.listen(), Listen::Link);
    let outputs = client.tick(1_000);
    let Output::Broadcast { from, .. } = &outputs[0] else { panic!("{outputs:?}") };
    assert!(from.is_unspecified());
    let discover = sent(&outputs[0]);
    assert_eq!((discover.kind(), discover.secs, discover.broadcast), (Some(Kind::Discover), 0, false));
    assert_eq!(discover.options[&option::CLIENT_ID], b"\0cid/net/eth0");
    assert_eq!(discover.options[&option::HOST_NAME], b"web-0");
    assert_eq!(discover.options[&option::PARAMETERS], [1, 3]);
    let request = sent(&client.receive(3_000, &answer(&discover, Kind::Offer, ADDRESS), None)[0]);
    assert_eq!((request.kind(), request.secs, request.xid), (Some(Kind::Request), 2, discover.xid));
    assert_eq!(request.address(option::REQUESTED_ADDRESS), Some(ADDRESS));
    assert_eq!(request.address(option::SERVER_ID), Some(SERVER));
    assert!(request.ciaddr.is_unspecified());
    assert_eq!(client.receive(3_100, &answer(&request, Kind::Ack, ADDRESS), Some(MAC)), [Output::Bound]);
    let lease = client.lease().unwrap();
    assert_eq!(lease.network().unwrap().to_string(), "192.168.1.5/24");
    assert_eq!((lease.renew, lease.rebind, lease.expires), (Some(63_000), Some(105_000), Some(123_000)));
    assert_eq!(lease.server_mac, Some(MAC));
    assert_eq!((client.listen(), client.next()), (Listen::Nowhere, Some(63_000)));
}

#[test]
fn what_is_not_an_answer_changes_nothing() {
    let mut client = Client::acquire(settings(), Purpose::Any(None), 1, 0);
    let discover = sent(&client.tick(0)[0]);
    let good = answer(&discover, Kind::Offer, ADDRESS);
    let mut wrong = vec![
        Message { xid: good.xid ^ 1, ..good.clone() },
        Message { mac: [2, 0, 0, 0, 0, 2], ..good.clone() },
        Message { reply: false, ..good.clone() },
        Message { yiaddr: Ipv4Addr::UNSPECIFIED, ..good.clone() },
        answer(&discover, Kind::Ack, ADDRESS),
        answer(&discover, Kind::Nak, ADDRESS),
    ];
    let mut nameless = good.clone();
    nameless.options.remove(&option::SERVER_ID);
    wrong.push(nameless);
    for message in &wrong {
        assert_eq!(client.receive(10, message, None), [], "{message:?}");
    }
    assert_eq!(sent(&client.receive(10, &good, None)[0]).kind(), Some(Kind::Request));
}

#[test]
fn unanswered_requests_are_repeated_ever_slower_and_given_up_in_time() {
    let mut client = Client::acquire(settings(), Purpose::Any(None), 3, 0);
    let mut times = Vec::new();
    let text = loop {
        let (now, outputs) = run(&mut client);
        match &outputs[..] {
            [Output::GaveUp(text)] => break text.clone(),
            [one] => {
                let message = sent(one);
                assert_eq!(message.kind(), Some(Kind::Discover));
                assert_eq!(u64::from(message.secs), now / 1_000);
                times.push(now);
            }
            other => panic!("{other:?}"),
        }
        assert!(now <= 208_000);
    };
    assert!(times[4] <= 12_000 && times.len() >= 9, "{times:?}");
    assert_eq!(text, "no DHCP server offered an address within 208 s");
    assert_eq!(client.next(), None);
}

#[test]
fn an_offer_that_is_never_confirmed_is_forgotten() {
    let mut client = Client::acquire(settings(), Purpose::Any(None), 1, 0);
    let discover = sent(&client.tick(0)[0]);
    client.receive(0, &answer(&discover, Kind::Offer, ADDRESS), None);
    let mut requests = 0;
    loop {
        let (now, outputs) = run(&mut client);
        let message = sent(&outputs[0]);
        if message.kind() == Some(Kind::Discover) {
            assert!((10_000..10_001).contains(&now), "{now}");
            assert_ne!(message.xid, discover.xid);
            break;
        }
        requests += 1;
    }
    assert!(requests >= 3, "{requests}");
}

#[test]
fn a_refused_request_starts_over_and_does_not_spin() {
    let mut client = Client::acquire(settings(), Purpose::Any(None), 1, 0);
    let mut discover = sent(&client.tick(0)[0]);
    let (mut now, mut rounds) = (0, 0);
    let text = loop {
        let request = sent(&client.receive(now, &answer(&discover, Kind::Offer, ADDRESS), None)[0]);
        let mut nak = answer(&request, Kind::Nak, Ipv4Addr::UNSPECIFIED);
        nak.options.insert(option::TEXT, b"address in use".to_vec());
        let mut outputs = client.receive(now, &nak, None);
        if outputs.is_empty() {
            (now, outputs) = run(&mut client);
        }
        match &outputs[0] {
            Output::GaveUp(text) => break text.clone(),
            one => discover = sent(one),
        }
        rounds += 1;
        assert!(rounds < 200, "a circle");
    };
    assert!(text.contains("address in use"), "{text}");
}

#[test]
fn a_lease_is_renewed_with_its_server() {
    let mut client = bound();
    let (now, outputs) = run(&mut client);
    assert_eq!(now, 61_000);
    let Output::Unicast { from, to, .. } = &outputs[0] else { panic!("{outputs:?}") };
    assert_eq!((*from, *to, client.listen()), (ADDRESS, SERVER, Listen::Address(ADDRESS)));
    let request = sent(&outputs[0]);
    assert_eq!((request.ciaddr, request.secs), (ADDRESS, 0));
    assert!(!request.options.contains_key(&option::REQUESTED_ADDRESS));
    assert!(!request.options.contains_key(&option::SERVER_ID));
    assert_eq!(client.receive(now + 5, &answer(&request, Kind::Ack, ADDRESS), None), [Output::Bound]);
    assert_eq!(client.lease().unwrap().expires, Some(now + 120_000));
    assert_eq!(client.next(), Some(now + 60_000));
}

#[test]
fn a_silent_server_leads_to_rebinding_and_then_to_the_end() {
    let mut client = bound();
    let (mut renewals, mut rebindings) = (0, 0);
    let end = loop {
        let (now, outputs) = run(&mut client);
        match &outputs[0] {
            Output::Unicast { .. } => {
                assert!((61_000..103_000).contains(&now), "{now}");
                renewals += 1;
            }
            Output::Broadcast { from, bytes } => {
                assert!((103_000..121_000).contains(&now), "{now}");
                assert_eq!(*from, ADDRESS);
                assert_eq!(Message::read(bytes).unwrap().ciaddr, ADDRESS);
                assert_eq!(client.listen(), Listen::Link);
                rebindings += 1;
            }
            Output::Lost(Lost::Expired) => break now,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(end, 121_000);
    assert!(renewals >= 3 && rebindings >= 2, "{renewals} {rebindings}");
    assert_eq!((client.next(), client.lease()), (None, None));
}

#[test]
fn another_server_may_rebind() {
    let mut client = bound();
    let request = loop {
        let (_, outputs) = run(&mut client);
        if let Output::Broadcast { .. } = outputs[0] {
            break sent(&outputs[0]);
        }
    };
    let mut ack = answer(&request, Kind::Ack, ADDRESS);
    ack.options.insert(option::SERVER_ID, vec![192, 168, 1, 2]);
    assert_eq!(client.receive(104_000, &ack, None), [Output::Bound]);
    assert_eq!(client.lease().unwrap().server, Ipv4Addr::new(192, 168, 1, 2));
}

#[test]
fn a_refused_renewal_gets_one_chance_for_the_same_address() {
    for same in [true, false] {
        let mut client = bound();
        let (now, outputs) = run(&mut client);
        let nak = answer(&sent(&outputs[0]), Kind::Nak, Ipv4Addr::UNSPECIFIED);
        let discover = sent(&client.receive(now, &nak, None)[0]);
        assert_eq!(discover.kind(), Some(Kind::Discover));
        assert_eq!(discover.address(option::REQUESTED_ADDRESS), Some(ADDRESS));
        let offered = if same { ADDRESS } else { Ipv4Addr::new(192, 168, 1, 77) };
        let outputs = client.receive(now, &answer(&discover, Kind::Offer, offered), None);
        if same {
            let ack = answer(&sent(&outputs[0]), Kind::Ack, ADDRESS);
            assert_eq!(client.receive(now, &ack, None), [Output::Bound]);
        } else {
            assert_eq!(outputs, []);
            let end = loop {
                let (end, outputs) = run(&mut client);
                if let [Output::Lost(Lost::Refused(_))] = &outputs[..] {
                    break end;
                }
            };
            assert_eq!(end, now + 10_000);
        }
    }
}

#[test]
fn an_address_that_changes_is_given_back_and_the_lease_is_over() {
    let mut client = bound();
    let (now, outputs) = run(&mut client);
    let other = Ipv4Addr::new(192, 168, 1, 9);
    let outputs = client.receive(now, &answer(&sent(&outputs[0]), Kind::Ack, other), None);
    let release = sent(&outputs[0]);
    assert_eq!((release.kind(), release.ciaddr), (Some(Kind::Release), other));
    assert_eq!(outputs[1], Output::Lost(Lost::Moved(other.into())));
}

#[test]
fn a_release_names_address_and_server() {
    let Some(output) = bound().release() else { panic!("nothing to release") };
    let Output::Unicast { from, to, mac, .. } = &output else { panic!("{output:?}") };
    assert_eq!((*from, *to, *mac), (ADDRESS, SERVER, Some([2, 0, 0, 0, 0, 9])));
    let release = sent(&output);
    assert_eq!((release.kind(), release.ciaddr), (Some(Kind::Release), ADDRESS));
    assert_eq!(release.address(option::SERVER_ID), Some(SERVER));
    assert_eq!(release.options[&option::CLIENT_ID], b"\0cid/net/eth0");
    assert!(Client::acquire(settings(), Purpose::Any(None), 1, 0).release().is_none());
}

#[test]
fn after_a_restart_overdue_work_is_due_now() {
    let lease = bound().lease().unwrap().clone();
    let mut early = Client::resume(settings(), lease.clone(), 2, 30_000);
    assert_eq!(early.tick(30_000), []);
    assert_eq!(early.next(), Some(61_000));
    let mut renew = Client::resume(settings(), lease.clone(), 2, 70_000);
    assert!(matches!(renew.tick(70_000)[..], [Output::Unicast { .. }]));
    let mut rebind = Client::resume(settings(), lease.clone(), 2, 110_000);
    assert!(matches!(rebind.tick(110_000)[..], [Output::Broadcast { .. }]));
    // The lease is over, but the address is still on the link: one more request, then the client gives up.
    let mut late = Client::resume(settings(), lease, 2, 500_000);
    let request = sent(&late.tick(500_000)[0]);
    assert_eq!((request.kind(), request.ciaddr), (Some(Kind::Request), Ipv4Addr::UNSPECIFIED));
    assert_eq!(request.address(option::REQUESTED_ADDRESS), Some(ADDRESS));
    assert!(!request.options.contains_key(&option::SERVER_ID));
    let mut lucky = late.clone();
    assert_eq!(lucky.receive(500_001, &answer(&request, Kind::Ack, ADDRESS), None), [Output::Bound]);
    let end = loop {
        let (now, outputs) = run(&mut late);
        if outputs == [Output::Lost(Lost::Expired)] {
            break now;
        }
    };
    assert_eq!(end, 510_000);
}

#[test]
fn broadcast_answers_are_requested_until_there_is_an_address() {
    let settings = Settings { broadcast: true, ..settings() };
    let mut client = Client::acquire(settings, Purpose::Any(None), 1, 0);
    let discover = sent(&client.tick(0)[0]);
    let request = sent(&client.receive(0, &answer(&discover, Kind::Offer, ADDRESS), None)[0]);
    client.receive(0, &answer(&request, Kind::Ack, ADDRESS), None);
    assert_eq!((discover.broadcast, request.broadcast), (true, true));
    let (_, outputs) = run(&mut client);
    assert!(!sent(&outputs[0]).broadcast);
}

#[test]
fn a_remembered_address_is_requested_first_and_another_is_accepted() {
    let mut client = Client::acquire(settings(), Purpose::Any(Some(ADDRESS)), 1, 0);
    let request = sent(&client.tick(0)[0]);
    assert_eq!(request.kind(), Some(Kind::Request));
    let nak = answer(&request, Kind::Nak, Ipv4Addr::UNSPECIFIED);
    let discover = sent(&client.receive(10, &nak, None)[0]);
    assert_eq!((discover.kind(), discover.address(option::REQUESTED_ADDRESS)), (Some(Kind::Discover), None));
    let other = Ipv4Addr::new(192, 168, 1, 8);
    let request = sent(&client.receive(10, &answer(&discover, Kind::Offer, other), None)[0]);
    assert_eq!(client.receive(10, &answer(&request, Kind::Ack, other), None), [Output::Bound]);
}

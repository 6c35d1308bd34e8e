//! Random bytes and random events: nothing panics, and every client ends.

use std::net::Ipv4Addr;

use super::super::*;
use super::{ADDRESS, answer, sent, settings};

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..700)) {
        if let Ok(datagram) = read_frame(&bytes) {
            proptest::prop_assert!(datagram.payload.len() < bytes.len());
        }
        if let Ok(message) = Message::read(&bytes) {
            let again = Message::read(&message.write()).unwrap();
            proptest::prop_assert_eq!(again.options.len(), message.options.len());
        }
    }

    #[test]
    fn any_options_are_read_or_refused(tail in proptest::collection::vec(proptest::num::u8::ANY, 0..500)) {
        let mut client = Client::acquire(settings(), Purpose::Any(None), 1, 0);
        let discover = sent(&client.tick(0)[0]);
        let mut bytes = answer(&discover, Kind::Offer, ADDRESS).write();
        bytes.truncate(240);
        bytes.extend([53, 1, 2, 54, 4, 1, 2, 3, 4]);
        bytes.extend(&tail);
        if let Ok(offer) = Message::read(&bytes) {
            client.receive(1, &offer, None);
            let mut ack = offer.clone();
            ack.options.insert(option::MESSAGE_TYPE, vec![5]);
            client.receive(2, &ack, None);
            if let Some(lease) = client.lease() {
                proptest::prop_assert!(lease.network().is_none_or(|net| net.addr() == lease.address));
                proptest::prop_assert!(lease.routes().len() <= 250);
                let names = lease.search().len() + lease.domain().map_or(0, |domain| domain.len());
                proptest::prop_assert!(names + lease.name_servers().len() < 10_000);
            }
        }
    }

    /// For any order of answers and time, the client continues or ends: it neither panics nor gets stuck.
    #[test]
    fn any_course_of_events_ends(events in proptest::collection::vec((0_u8..8, 0_u64..200_000), 1..60)) {
        let mut client = Client::acquire(settings(), Purpose::Any(None), 5, 0);
        let mut now = 0;
        let mut last: Option<Message> = None;
        for (event, wait) in events {
            now += wait;
            let outputs = match (event, &last) {
                (0, Some(last)) => client.receive(now, &answer(last, Kind::Offer, ADDRESS), None),
                (1 | 2, Some(last)) => client.receive(now, &answer(last, Kind::Ack, ADDRESS), None),
                (3, Some(last)) => client.receive(now, &answer(last, Kind::Nak, Ipv4Addr::UNSPECIFIED), None),
                (4, Some(last)) => client.receive(now, &answer(last, Kind::Ack, Ipv4Addr::new(192, 168, 1, 9)), None),
                _ => client.tick(now),
            };
            for output in &outputs {
                if let Output::Broadcast { .. } | Output::Unicast { .. } = output {
                    last = Some(sent(output));
                }
            }
            let ended = outputs.iter().any(|output| matches!(output, Output::GaveUp(_) | Output::Lost(_)));
            proptest::prop_assert_eq!(client.next().is_none(), ended);
            if ended {
                return Ok(());
            }
        }
    }
}

//! The messages: options of an answer become a lease, and frames carry messages.

use std::net::Ipv4Addr;

use super::super::*;
use super::{ADDRESS, MAC, SERVER, answer};

pub(super) fn lease(options: &[(u8, &[u8])]) -> Lease {
    let mut message = answer(&Message::new(Kind::Request, 1, MAC), Kind::Ack, ADDRESS);
    message.options.extend(options.iter().map(|(code, value)| (*code, value.to_vec())));
    Lease::from_ack(&message, SERVER, None, 0)
}

pub(super) fn routes(options: &[(u8, &[u8])]) -> Vec<String> {
    let text = |(net, router): &(ipnet::Ipv4Net, Option<Ipv4Addr>)| match router {
        Some(router) => format!("{net} via {router}"),
        None => net.to_string(),
    };
    lease(options).routes().iter().map(text).collect()
}

#[test]
fn routes_come_from_routers_static_routes_or_classless_ones() {
    assert_eq!(routes(&[]), ["0.0.0.0/0 via 192.168.1.1"]);
    let fixed: &[u8] = &[10, 0, 0, 0, 192, 168, 1, 2, 172, 16, 5, 0, 192, 168, 1, 3, 0, 0, 0, 0, 1, 1, 1, 1];
    let want = ["10.0.0.0/8 via 192.168.1.2", "172.16.0.0/16 via 192.168.1.3", "0.0.0.0/0 via 192.168.1.1"];
    assert_eq!(routes(&[(33, fixed)]), want);
    let classless: &[u8] = &[0, 192, 168, 1, 9, 25, 10, 1, 2, 128, 192, 168, 1, 4, 32, 10, 9, 9, 9, 0, 0, 0, 0];
    let want = ["0.0.0.0/0 via 192.168.1.9", "10.1.2.128/25 via 192.168.1.4", "10.9.9.9/32"];
    assert_eq!(routes(&[(33, fixed), (121, classless)]), want);
    // An invalid length ends the list; nothing is guessed.
    assert_eq!(
        routes(&[(121, &[24, 10, 0, 0, 1, 1, 1, 1, 33, 1, 1, 1, 1, 1, 2, 2, 2, 2])]),
        ["10.0.0.0/24 via 1.1.1.1"]
    );
    assert_eq!(routes(&[(121, &[24, 10])]), Vec::<String>::new());
}

#[test]
fn dns_and_masks_are_read() {
    let lease = lease(&[(6, &[9, 9, 9, 9, 1, 1, 1, 1, 7]), (15, b"lan"), (119, b"\x01a\x03lan\0")]);
    assert_eq!(lease.name_servers(), [Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(1, 1, 1, 1)]);
    assert_eq!((lease.domain().as_deref(), lease.search()), (Some("lan"), vec!["a.lan".to_owned()]));
    let mut bare = lease;
    for (mask, length) in [(vec![255, 255, 255, 128], Some(25)), (vec![255, 0, 255, 0], None), (vec![255], None)] {
        bare.options.insert(option::SUBNET_MASK, mask);
        assert_eq!(bare.network().map(|net| net.prefix_len()), length);
    }
}

#[test]
fn times_that_make_no_sense_are_replaced() {
    let times = |options: &[(u8, &[u8])]| {
        let lease = lease(options);
        (lease.renew, lease.rebind, lease.expires)
    };
    let word = |value: u32| value.to_be_bytes();
    assert_eq!(times(&[]), (Some(60_000), Some(102_000), Some(120_000)));
    assert_eq!(times(&[(58, &word(30)), (59, &word(90))]), (Some(30_000), Some(90_000), Some(120_000)));
    assert_eq!(times(&[(58, &word(100)), (59, &word(90))]), (Some(60_000), Some(90_000), Some(120_000)));
    assert_eq!(times(&[(59, &word(500))]), (Some(60_000), Some(102_000), Some(120_000)));
    assert_eq!(times(&[(51, &word(u32::MAX))]), (None, None, None));
    assert_eq!(times(&[(51, &[1])]), (Some(1_800_000), Some(3_060_000), Some(3_600_000)));
}

#[test]
fn long_options_are_split_and_joined_and_overloaded_fields_are_read() {
    let mut message = Message::new(Kind::Offer, 9, MAC);
    message.options.insert(43, (0..=u8::MAX).chain(0..44).collect());
    let bytes = message.write();
    assert_eq!(Message::read(&bytes).unwrap(), message);
    let mut bytes = Message::new(Kind::Offer, 9, MAC).write();
    bytes.splice(240..300, [52, 1, 3, 53, 1, 2, 255]);
    bytes[108..115].copy_from_slice(&[3, 4, 10, 0, 0, 1, 255]);
    bytes[44..49].copy_from_slice(&[15, 2, b'a', b'b', 255]);
    let read = Message::read(&bytes).unwrap();
    assert_eq!((read.options[&3].as_slice(), read.options[&15].as_slice()), (&[10, 0, 0, 1][..], &b"ab"[..]));
}

#[test]
fn frames_carry_messages() {
    let frame = write_frame(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, b"payload");
    assert_eq!(frame.len(), 35);
    // Ours go to the server's port; a server's the other way.
    assert_eq!(read_frame(&frame), Err(crate::Malformed::NotOurs));
    let mut back = frame.clone();
    back[20..24].copy_from_slice(&[0, 67, 0, 68]);
    assert_eq!(read_frame(&back).unwrap().payload, b"payload");
    let mut padded = back.clone();
    padded.extend([0; 20]);
    assert_eq!(read_frame(&padded).unwrap().payload, b"payload");
    let mut damaged = back.clone();
    damaged[30] ^= 1;
    assert_eq!(read_frame(&damaged), Err(crate::Malformed::Checksum));
    let mut damaged = back.clone();
    damaged[12] ^= 1;
    assert_eq!(read_frame(&damaged), Err(crate::Malformed::Checksum));
    // Left to the hardware: the pseudo header's sum, or no checksum at all.
    let pseudo: u32 = 0xffff + 0xffff + 17 + 15;
    let mut partial = back.clone();
    partial[26..28].copy_from_slice(&u16::try_from((pseudo & 0xffff) + (pseudo >> 16)).unwrap().to_be_bytes());
    assert!(read_frame(&partial).is_ok());
    back[26..28].copy_from_slice(&[0, 0]);
    assert!(read_frame(&back).is_ok());
}

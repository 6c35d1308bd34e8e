//! Attributes and addresses as the bytes that the kernel reads.

use std::net::IpAddr;

use netlink_packet_core::DefaultNla;

/// An attribute as bytes, for nesting where the message crate leaves things raw.
pub(super) fn emitted(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; netlink_packet_core::Emitable::buffer_len(attribute)];
    netlink_packet_core::Emitable::emit(attribute, &mut bytes);
    bytes
}

/// An address in network byte order.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

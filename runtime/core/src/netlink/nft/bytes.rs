//! Attributes and addresses as bytes for the kernel.

use std::net::IpAddr;

use netlink_packet_core::DefaultNla;

/// Returns an attribute as bytes, for nesting where the message crate has no
/// type.
pub(super) fn emitted(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; netlink_packet_core::Emitable::buffer_len(attribute)];
    netlink_packet_core::Emitable::emit(attribute, &mut bytes);
    bytes
}

/// Returns an address in network byte order.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

//! ARP packets for Ethernet and IPv4: builds probes and announcements, and reads which host claims an address.
//!
//! <https://datatracker.ietf.org/doc/html/rfc5227>

use std::net::Ipv4Addr;

use crate::plan::Mac;

/// Bytes in a packet.
const LENGTH: usize = 28;

/// Builds a probe, which asks for an address without claiming one for its sender.
pub(super) fn probe(own: Mac, address: Ipv4Addr) -> [u8; LENGTH] {
    request(own, Ipv4Addr::UNSPECIFIED, address)
}

/// Builds an announcement that its sender has an address.
pub(super) fn announcement(own: Mac, address: Ipv4Addr) -> [u8; LENGTH] {
    request(own, address, address)
}

fn request(Mac([a, b, c, d, e, f]): Mac, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; LENGTH] {
    let ([s0, s1, s2, s3], [t0, t1, t2, t3]) = (sender.octets(), target.octets());
    [0, 1, 8, 0, 6, 4, 0, 1, a, b, c, d, e, f, s0, s1, s2, s3, 0, 0, 0, 0, 0, 0, t0, t1, t2, t3]
}

/// Returns the address that the sender of a packet has, or is about to take, with its hardware address. `None` for
/// other packets.
pub(super) fn claimed(packet: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    // The rest is Ethernet padding.
    let [0, 1, 8, 0, 6, 4, 0, op @ (1 | 2), a, b, c, d, e, f, s0, s1, s2, s3, _, _, _, _, _, _, t0, t1, t2, t3] =
        *packet.first_chunk::<LENGTH>()?
    else {
        return None;
    };
    let (sender, target) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(t0, t1, t2, t3));
    let address = match sender.is_unspecified() {
        true if op == 1 => target,
        true => return None,
        false => sender,
    };
    Some((address, Mac([a, b, c, d, e, f])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

    #[test]
    fn who_has_or_takes_an_address_is_reported() {
        assert_eq!(claimed(&announcement(OTHER, ADDRESS)), Some((ADDRESS, OTHER)));
        assert_eq!(claimed(&probe(OTHER, ADDRESS)), Some((ADDRESS, OTHER)));
        // A host that has an address asks for another one.
        assert_eq!(claimed(&request(OTHER, ADDRESS, Ipv4Addr::new(10, 0, 0, 1))), Some((ADDRESS, OTHER)));
        let mut reply = request(OTHER, ADDRESS, Ipv4Addr::UNSPECIFIED);
        reply[7] = 2;
        assert_eq!(claimed(&[&reply[..], &[0; 18]].concat()), Some((ADDRESS, OTHER)));
    }

    #[test]
    fn what_is_no_arp_packet_says_nothing() {
        let sound = announcement(OTHER, ADDRESS);
        for length in 0..LENGTH {
            assert_eq!(claimed(&sound[..length]), None, "{length} bytes");
        }
        for place in 0..8 {
            let mut broken = sound;
            broken[place] ^= 0x80;
            assert_eq!(claimed(&broken), None, "byte {place}");
        }
        let mut reply = probe(OTHER, ADDRESS);
        reply[7] = 2;
        assert_eq!(claimed(&reply), None, "a reply of nobody");
        let mut reverse = sound;
        reverse[7] = 3;
        assert_eq!(claimed(&reverse), None, "RARP");
    }
}

//! Addresses with a prefix length, as Go reads them.

use std::net::IpAddr;

use ipnet::IpNet;

/// Parses `address/length`; host bits are kept.
///
/// As in Go, an IPv4 octet with leading zeros is refused, because some programs read it as octal (CVE-2021-29923).
/// `IpNet`'s own parser accepts it.
#[must_use]
pub fn read_net(text: &str) -> Option<IpNet> {
    let (address, _length) = text.split_once('/')?;
    address.parse::<IpAddr>().ok()?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::read_net;

    #[test]
    fn as_go_reads_them() {
        let text = |text: &str| read_net(text).map(|net| net.to_string());
        assert_eq!(text("10.8.0.1/24").as_deref(), Some("10.8.0.1/24"));
        assert_eq!(text("fd00:0066::1/64").as_deref(), Some("fd00:66::1/64"));
        for bad in [
            "010.8.0.0/24",
            "10.8.0.010/24",
            "10.8.00.1/24",
            "::ffff:010.8.0.1/120",
            "10.8.0.1",
            "10.8.0.1/33",
            "/24",
            "",
        ] {
            assert_eq!(text(bad), None, "{bad}");
        }
    }
}

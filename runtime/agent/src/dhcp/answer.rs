//! Converts leases to the answer for a CNI call.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use weft_core::agent::{Leased, Wish};
use weft_dhcp::{v4, v6};
use weft_host_abi::types::{Dns, Route};

use crate::dhcp::store::AnyLease;

/// `RT_SCOPE_LINK`: a destination that is reached without a router.
const SCOPE_LINK: u32 = 253;

/// Returns addresses, routes and DNS of an attachment's leases, IPv4 first.
///
/// # Errors
/// A server omitted something that a container requires. The stock daemon's text.
pub(super) fn leased(leases: &[AnyLease], wish: &Wish) -> Result<Leased, String> {
    let mut leased = Leased::default();
    for lease in leases {
        match lease {
            AnyLease::V4(lease) => add_v4(lease, wish, &mut leased)?,
            AnyLease::V6(lease) => add_v6(lease, &mut leased),
        }
    }
    Ok(leased)
}

fn add_v4(lease: &v4::Lease, wish: &Wish, leased: &mut Leased) -> Result<(), String> {
    let network = lease.network().ok_or("DHCP option Subnet Mask not found in DHCPACK")?;
    leased.ips.push((network.into(), lease.router().map(IpAddr::from)));
    let route = |(dst, gw): (ipnet::Ipv4Net, Option<std::net::Ipv4Addr>)| Route {
        priority: wish.priority,
        scope: gw.is_none().then_some(SCOPE_LINK),
        ..Route::new(dst.into(), gw.map(IpAddr::from))
    };
    leased.routes.extend(lease.routes().into_iter().map(route));
    let Dns { nameservers, domain, search, .. } = &mut leased.dns;
    nameservers.extend(lease.name_servers().iter().map(ToString::to_string));
    *domain = lease.domain();
    search.extend(lease.search());
    Ok(())
}

/// An IPv6 lease is only an address: prefix and routers come from router advertisements.
fn add_v6(lease: &v6::Lease, leased: &mut Leased) {
    leased.ips.push((IpNet::V6(Ipv6Net::from(lease.address)), None));
    let Dns { nameservers, search, .. } = &mut leased.dns;
    nameservers.extend(lease.name_servers.iter().map(ToString::to_string));
    for name in &lease.search {
        if !search.contains(name) {
            search.push(name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn v4(options: &[(u8, &[u8])]) -> AnyLease {
        AnyLease::V4(v4::Lease {
            address: "192.168.1.5".parse().unwrap(),
            server: "192.168.1.1".parse().unwrap(),
            server_mac: None,
            obtained: 0,
            renew: None,
            rebind: None,
            expires: None,
            options: options.iter().map(|(code, value)| (*code, value.to_vec())).collect(),
        })
    }

    #[test]
    fn addresses_routes_and_dns_of_both_families() {
        let four = v4(&[
            (1, &[255, 255, 255, 0]),
            (3, &[192, 168, 1, 1]),
            (6, &[192, 168, 1, 1]),
            (119, b"\x03lan\0"),
            (121, &[0, 192, 168, 1, 1, 24, 10, 0, 0, 0, 0, 0, 0]),
        ]);
        let six = AnyLease::V6(v6::Lease {
            address: "fd00::5".parse().unwrap(),
            server: vec![1],
            obtained: 0,
            renew: None,
            rebind: None,
            expires: None,
            name_servers: vec!["fd00::53".parse().unwrap()],
            search: vec!["lan".to_owned(), "v6.lan".to_owned()],
        });
        let wish = Wish { priority: Some(7), ..Wish::default() };
        let leased = leased(&[four, six], &wish).unwrap();
        assert_eq!(leased.ips[0], ("192.168.1.5/24".parse().unwrap(), Some("192.168.1.1".parse().unwrap())));
        assert_eq!(leased.ips[1], ("fd00::5/128".parse().unwrap(), None));
        assert_eq!((leased.routes[0].gw, leased.routes[0].scope), (Some("192.168.1.1".parse().unwrap()), None));
        assert_eq!((leased.routes[1].gw, leased.routes[1].scope), (None, Some(SCOPE_LINK)));
        assert!(leased.routes.iter().all(|route| route.priority == Some(7)));
        assert_eq!(leased.dns.nameservers, ["192.168.1.1", "fd00::53"]);
        assert_eq!(leased.dns.search, ["lan", "v6.lan"]);
    }

    #[test]
    fn without_a_mask_there_is_no_network() {
        let error = leased(&[v4(&[])], &Wish::default()).unwrap_err();
        assert_eq!(error, "DHCP option Subnet Mask not found in DHCPACK");
    }
}

//! The names of whereabouts' objects, which contain networks, nodes, ranges and addresses with every `:` and `/`
//! replaced by `-`.

use std::net::IpAddr;

/// Returns the name of the IPPool of a range; `network` is empty for those without `network_name`.
pub(super) fn of_pool(network: &str, range: &str) -> String {
    prefixed(network, &normalized(range))
}

/// Returns the name of the OverlappingRangeIPReservation of an address.
pub(super) fn of_address(network: &str, address: IpAddr) -> String {
    prefixed(network, &normalized(&address.to_string()))
}

/// Returns the network of an IPPool with that name and range. The name of a node slice's pool also contains its node.
pub(super) fn network_of_pool(name: &str, range: &str, nodes: &[String]) -> Option<String> {
    let before = strip_ending(name, &normalized(range))?;
    let of_node = nodes.iter().filter_map(|node| self::strip_ending(before, node));
    // Use the longest node name: "a" and "x-a" may both be nodes.
    Some(of_node.min_by_key(|network| network.len()).unwrap_or(before).to_owned())
}

/// Returns network and address of a reservation's name. If ambiguous, the network is one that pools name.
pub(super) fn of_reservation(name: &str, networks: &[String]) -> Option<(String, IpAddr)> {
    let of_network = |network: &String| {
        let rest = if network.is_empty() { Some(name) } else { name.strip_prefix(network.as_str())?.strip_prefix('-') };
        Some((network.clone(), address(rest?)?))
    };
    let mut known: Vec<&String> = networks.iter().collect();
    known.sort_by_key(|network| std::cmp::Reverse(network.len()));
    known.into_iter().find_map(of_network).or_else(|| {
        let rests = std::iter::once((0, name)).chain(name.match_indices('-').map(|(at, _)| (at, &name[at + 1..])));
        rests.into_iter().find_map(|(at, rest)| Some((name[..at].to_owned(), address(rest)?)))
    })
}

fn prefixed(network: &str, rest: &str) -> String {
    if network.is_empty() { rest.to_owned() } else { format!("{network}-{rest}") }
}

/// Like in whereabouts, an object's name ends with a letter or digit.
fn normalized(text: &str) -> String {
    let ended = if text.ends_with(':') { format!("{text}0") } else { text.to_owned() };
    ended.replace([':', '/'], "-")
}

/// Returns what precedes an ending and its dash; empty if the ending is everything.
fn strip_ending<'a>(name: &'a str, ending: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(ending)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('-') }
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse().or_else(|_v6| text.replace('-', ":").parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_named_by_network_node_and_range() {
        assert_eq!(of_pool("", "10.0.0.0/24"), "10.0.0.0-24");
        assert_eq!(of_pool("lab", "fd00::/64"), "lab-fd00---64");
        let nodes = ["w-1".to_owned(), "x-w-1".to_owned()];
        let network = |name: &str| network_of_pool(name, "10.0.0.0/28", &nodes);
        assert_eq!(network("10.0.0.0-28").as_deref(), Some(""));
        assert_eq!(network("lab-10.0.0.0-28").as_deref(), Some("lab"));
        assert_eq!(network("w-1-10.0.0.0-28").as_deref(), Some(""));
        assert_eq!(network("lab-x-w-1-10.0.0.0-28").as_deref(), Some("lab"));
        assert_eq!(network("something"), None);
    }

    #[test]
    fn reservations_are_named_by_network_and_address() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(of_address("lab", address("fd00::1")), "lab-fd00--1");
        let read = |name: &str, networks: &[&str]| {
            let networks: Vec<String> = networks.iter().map(|network| (*network).to_owned()).collect();
            of_reservation(name, &networks)
        };
        assert_eq!(read("10.0.0.7", &[""]), Some((String::new(), address("10.0.0.7"))));
        assert_eq!(read("lab-10.0.0.7", &[]), Some(("lab".to_owned(), address("10.0.0.7"))));
        // "ab:fd00::1" would be an address too.
        assert_eq!(read("ab-fd00--1", &["", "ab"]), Some(("ab".to_owned(), address("fd00::1"))));
        assert_eq!(read("fd00--1", &[""]), Some((String::new(), address("fd00::1"))));
        assert_eq!(read("not-an-address-x", &[""]), None);
    }
}

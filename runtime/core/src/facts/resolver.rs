//! Parses a resolv.conf like the stock host-local plugin.

use weft_host_abi::types::Dns;

/// Parses resolv.conf text: lines are trimmed, `#` and `;` start a comment line, and a line needs two fields.
/// `nameserver` uses its first value, the last `domain` line wins, `search` and `options` collect all values.
#[must_use]
pub fn parse_resolver(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut fields = line.split_whitespace();
        let (Some(key), Some(first)) = (fields.next(), fields.next()) else { continue };
        match key {
            "nameserver" => dns.nameservers.push(first.to_owned()),
            "domain" => dns.domain = Some(first.to_owned()),
            "search" => collect(&mut dns.search, first, fields),
            "options" => collect(&mut dns.options, first, fields),
            _ => {}
        }
    }
    dns
}

fn collect<'a>(into: &mut Vec<String>, first: &str, rest: impl Iterator<Item = &'a str>) {
    into.push(first.to_owned());
    into.extend(rest.map(str::to_owned));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_stock_plugin_reads() {
        let dns = parse_resolver(
            "# comment\n; other\nnameserver 192.0.2.1 ignored\n nameserver 2001:db8::1\nnameserver\ndomain a.example\n\
             domain b.example\nsearch one two\nsearch three\noptions ndots:5 rotate\nsortlist x y\n",
        );
        assert_eq!(dns.nameservers, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(dns.domain.as_deref(), Some("b.example"));
        assert_eq!(dns.search, ["one", "two", "three"]);
        assert_eq!(dns.options, ["ndots:5", "rotate"]);
    }
}

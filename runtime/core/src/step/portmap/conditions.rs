//! Conditions of host ports, in the syntax of iptables or of nftables. Pure.
//!
//! weft makes the rules itself, so it has to understand the conditions: source and destination addresses, links, marks,
//! the type of the source address, source ports. Anything else is an error that names it: ignoring a condition would
//! open a port.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::read_net;
use crate::plan::{Condition, Family, Subject};

/// Names of address types, in the order of their numbers (`RTN_*`).
const TYPES: [&str; 9] =
    ["unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit"];

const LOCAL: usize = 2;

const IPTABLES: &str =
    "-s, -d, -i, -o, --sport, -m mark --mark, -m addrtype --src-type, -m comment, each with or without \"!\"";
const NFTABLES: &str =
    "ip saddr, ip daddr, ip6 saddr, ip6 daddr, iifname, oifname, meta mark, th sport, fib saddr type";

/// Parses conditions in either syntax.
pub(super) fn read(words: &[String], family: Family) -> Result<Vec<Condition>, String> {
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if first.starts_with(['-', '!']) {
        Iptables { words: words.iter(), family }.read()
    } else {
        let tokens = tokens(&words.join(" "))?;
        Nftables { tokens: tokens.iter(), family }.read()
    }
}

fn address(text: &str, family: Family) -> Result<IpNet, String> {
    let bad = || format!("{text:?} is not an address or network");
    let net = match text.split_once('/') {
        None => IpNet::from(text.parse::<IpAddr>().map_err(|_bad| bad())?),
        // iptables also takes a netmask.
        Some((start, mask)) if mask.contains(['.', ':']) => {
            let start: IpAddr = start.parse().map_err(|_bad| bad())?;
            let mask: IpAddr = mask.parse().map_err(|_bad| bad())?;
            IpNet::with_netmask(start, mask).map_err(|_bad| bad())?
        }
        Some(_) => read_net(text).ok_or_else(bad)?,
    };
    if Family::from_ip(net.addr()) == family {
        Ok(net.trunc())
    } else {
        Err(format!("{text:?} is of the other family"))
    }
}

/// A number in decimal, hexadecimal (`0x`) or octal (`0`).
fn number(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8),
        None => text.parse(),
    };
    parsed.map_err(|_bad| format!("{text:?} is not a 32-bit number"))
}

fn ports(text: &str, between: char) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once(between).unwrap_or((text, text));
    let port = |text: &str, open: u16| if text.is_empty() { Ok(open) } else { text.parse() };
    match (port(first, 0), port(last, u16::MAX)) {
        (Ok(first), Ok(last)) if first <= last && !text.is_empty() => Ok((first, last)),
        _ => Err(format!("{text:?} is not a port or port range")),
    }
}

fn kind(name: &str) -> Result<u8, String> {
    let found = TYPES.iter().position(|known| known.eq_ignore_ascii_case(name));
    found.and_then(|at| u8::try_from(at).ok()).ok_or_else(|| format!("{name:?} is not an address type"))
}

/// Returns a link's name; `anything` is the wildcard character.
fn link(text: &str, anything: char) -> Result<String, String> {
    let (name, open) = match text.strip_suffix(anything) {
        Some(start) => (start, "*"),
        None => (text, ""),
    };
    let fits = !name.is_empty() && name.len() < 16 && !name.contains(['*', '/']) && name.is_ascii();
    if fits { Ok(format!("{name}{open}")) } else { Err(format!("{text:?} is not a valid link name")) }
}

// === iptables ===

struct Iptables<'a> {
    words: std::slice::Iter<'a, String>,
    family: Family,
}

impl Iptables<'_> {
    fn read(mut self) -> Result<Vec<Condition>, String> {
        let mut conditions = Vec::new();
        while let Some(word) = self.words.next() {
            let (not, option) = match word.as_str() {
                "!" => (true, self.value("!")?),
                option => (false, option.to_owned()),
            };
            conditions.extend(self.option(&option, not)?);
        }
        Ok(conditions)
    }

    fn value(&mut self, option: &str) -> Result<String, String> {
        self.words.next().cloned().ok_or_else(|| format!("{option} needs a value"))
    }

    fn option(&mut self, option: &str, not: bool) -> Result<Option<Condition>, String> {
        let subject = match option {
            "-s" | "--source" | "--src" => Subject::Source { nets: self.nets(option)? },
            "-d" | "--destination" | "--dst" => Subject::Destination { nets: self.nets(option)? },
            "-i" | "--in-interface" => Subject::Input { links: vec![link(&self.value(option)?, '+')?] },
            "-o" | "--out-interface" => Subject::Output { links: vec![link(&self.value(option)?, '+')?] },
            "--sport" | "--source-port" => Subject::SourcePort { ranges: vec![ports(&self.value(option)?, ':')?] },
            "--mark" => {
                let text = self.value(option)?;
                let (value, mask) = text.split_once('/').unwrap_or((&text, "0xffffffff"));
                Subject::Mark { value: number(value)?, mask: number(mask)? }
            }
            "--src-type" => Subject::SourceType { kind: kind(&self.value(option)?)? },
            "--dst-type" if !not && usize::from(kind(&self.value(option)?)?) == LOCAL => return Ok(None),
            // Every host port only applies to addresses of this host.
            "--dst-type" => return Err("host ports are always for addresses of type LOCAL".to_owned()),
            "--comment" => return self.value(option).map(|_text| None),
            "-m" | "--match" => {
                let module = self.value(option)?;
                return match module.as_str() {
                    "mark" | "addrtype" | "comment" | "tcp" | "udp" | "sctp" if !not => Ok(None),
                    _ => Err(unknown(&format!("{option} {module}"), IPTABLES)),
                };
            }
            other => return Err(unknown(other, IPTABLES)),
        };
        Ok(Some(Condition { subject, not }))
    }

    fn nets(&mut self, option: &str) -> Result<Vec<IpNet>, String> {
        let text = self.value(option)?;
        text.split(',').map(|one| address(one, self.family)).collect()
    }
}

fn unknown(what: &str, known: &str) -> String {
    format!("unsupported condition {what:?}; supported: {known}")
}

// === nftables ===

/// Splits at spaces; braces, commas and quoted names are tokens of their own.
fn tokens(text: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '{' | '}' | ',' => 1,
            '"' => rest.chars().skip(1).position(|c| c == '"').map(|at| at + 2).ok_or("a quote is not closed")?,
            _ => rest.find(|c: char| c.is_whitespace() || "{},\"".contains(c)).unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at_checked(length).ok_or("a name has invalid characters")?;
        tokens.push(token.trim_matches('"').to_owned());
        rest = after.trim_start();
    }
    Ok(tokens)
}

struct Nftables<'a> {
    tokens: std::slice::Iter<'a, String>,
    family: Family,
}

impl Nftables<'_> {
    fn read(mut self) -> Result<Vec<Condition>, String> {
        let mut conditions = Vec::new();
        while let Some(token) = self.tokens.next() {
            conditions.push(self.condition(token)?);
        }
        Ok(conditions)
    }

    fn condition(&mut self, first: &str) -> Result<Condition, String> {
        let of_family = match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        match first {
            "ip" | "ip6" if first != of_family => Err(format!("{first:?} is the other family")),
            "ip" | "ip6" => {
                let end = self.token(first)?;
                let (not, values) = self.values(&end)?;
                let nets: Vec<IpNet> =
                    values.iter().map(|value| address(value, self.family)).collect::<Result<_, _>>()?;
                match end.as_str() {
                    "saddr" => Ok(Condition { subject: Subject::Source { nets }, not }),
                    "daddr" => Ok(Condition { subject: Subject::Destination { nets }, not }),
                    other => Err(unknown(&format!("{first} {other}"), NFTABLES)),
                }
            }
            "meta" => {
                let key = self.token(first)?;
                self.meta(&key)
            }
            "iifname" | "oifname" | "iif" | "oif" | "mark" => self.meta(first),
            "th" => {
                let field = self.token(first)?;
                if field != "sport" {
                    return Err(unknown(&format!("th {field}"), NFTABLES));
                }
                let (not, values) = self.values("th sport")?;
                let ranges = values.iter().map(|value| ports(value, '-')).collect::<Result<_, _>>()?;
                Ok(Condition { subject: Subject::SourcePort { ranges }, not })
            }
            "fib" => self.fib(),
            other => Err(unknown(other, NFTABLES)),
        }
    }

    fn meta(&mut self, key: &str) -> Result<Condition, String> {
        match key {
            "iifname" | "iif" | "oifname" | "oif" => {
                let (not, values) = self.values(key)?;
                let links: Vec<String> = values.iter().map(|value| link(value, '*')).collect::<Result<_, _>>()?;
                let input = key.starts_with("iif");
                let subject = if input { Subject::Input { links } } else { Subject::Output { links } };
                Ok(Condition { subject, not })
            }
            "mark" => {
                let mut mask = u32::MAX;
                let mut rest = self.tokens.clone();
                if matches!(rest.next().map(String::as_str), Some("&" | "and")) {
                    self.tokens = rest;
                    mask = number(&self.token("mark &")?)?;
                }
                let (not, values) = self.values("mark")?;
                let [value] = values.as_slice() else { return Err("mark needs one value".to_owned()) };
                Ok(Condition { subject: Subject::Mark { value: number(value)?, mask }, not })
            }
            other => Err(unknown(&format!("meta {other}"), NFTABLES)),
        }
    }

    fn fib(&mut self) -> Result<Condition, String> {
        let (end, what) = (self.token("fib")?, self.token("fib")?);
        let (not, values) = self.values("fib")?;
        match (end.as_str(), what.as_str(), values.as_slice()) {
            ("saddr", "type", [name]) => Ok(Condition { subject: Subject::SourceType { kind: kind(name)? }, not }),
            _ => Err(unknown(&format!("fib {end} {what} {}", values.join(" ")), NFTABLES)),
        }
    }

    fn token(&mut self, after: &str) -> Result<String, String> {
        self.tokens.next().cloned().ok_or_else(|| format!("something is missing after {after:?}"))
    }

    /// An operator, if there is one, and a value or a set of them.
    fn values(&mut self, after: &str) -> Result<(bool, Vec<String>), String> {
        let mut token = self.token(after)?;
        let not = token == "!=";
        if not || token == "==" {
            token = self.token(after)?;
        }
        if token != "{" {
            return Ok((not, vec![token]));
        }
        let mut values = Vec::new();
        loop {
            match self.token("{")?.as_str() {
                "}" if values.is_empty() => return Err("a set is empty".to_owned()),
                "}" => return Ok((not, values)),
                "," => {}
                value => values.push(value.to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn rewritten(text: &str) -> Result<String, String> {
        let family = if text.contains(':') || text.contains("ip6") { Family::V6 } else { Family::V4 };
        let conditions = read(&words(text), family)?;
        Ok(conditions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn both_dialects_say_the_same() {
        for (iptables, nftables, want) in [
            ("-d 192.0.2.1", "ip daddr 192.0.2.1", "destination is 192.0.2.1/32"),
            ("! -s 10.0.0.0/8", "ip saddr != 10.0.0.0/8", "source is not 10.0.0.0/8"),
            (
                "-d 192.0.2.1,192.0.2.7",
                "ip daddr { 192.0.2.1, 192.0.2.7 }",
                "destination is 192.0.2.1/32 or 192.0.2.7/32",
            ),
            ("-i eth+ ! -o wlan0", "iifname eth* oifname != \"wlan0\"", "input is eth*, output is not wlan0"),
            ("-m mark --mark 0x10/0xf0", "meta mark & 0xf0 == 0x10", "mark is 0x10 of 0xf0"),
            ("-m mark ! --mark 7", "mark != 7", "mark is not 0x7 of 0xffffffff"),
            ("-m addrtype ! --src-type LOCAL", "fib saddr type != local", "source type is not 2"),
            ("--sport 1024:65535", "th sport 1024-65535", "source port is 1024-65535"),
            ("-s 2001:db8::/32", "ip6 saddr 2001:db8::/32", "source is 2001:db8::/32"),
        ] {
            assert_eq!(rewritten(iptables).as_deref(), Ok(want), "{iptables}");
            assert_eq!(rewritten(nftables).as_deref(), Ok(want), "{nftables}");
        }
        assert_eq!(
            rewritten("-m comment --comment x -m addrtype --dst-type LOCAL -s 10.1.0.0/255.255.0.0").as_deref(),
            Ok("source is 10.1.0.0/16")
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (text, want) in [
            ("-m set --match-set x src", "unsupported condition \"-m set\""),
            ("-p tcp", "unsupported condition \"-p\""),
            ("-s", "-s needs a value"),
            ("!", "! needs a value"),
            ("-s 2001:db8::1 -d 10.0.0.1", "\"10.0.0.1\" is of the other family"),
            ("! --dst-type LOCAL", "host ports are always"),
            ("-i +", "is not a valid link name"),
            ("ct state new", "unsupported condition \"ct\""),
            ("ip ttl 5", "is not an address"),
            ("ip saddr", "something is missing"),
            ("ip saddr { }", "a set is empty"),
            ("ip saddr { 10.0.0.1", "something is missing"),
            ("iifname \"x", "a quote is not closed"),
            ("ip6 saddr 10.0.0.1", "of the other family"),
            ("th sport 70000", "is not a port"),
            ("mark 0xfffffffff", "is not a 32-bit number"),
        ] {
            let error = rewritten(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    proptest! {
        /// Every input is parsed or refused.
        #[test]
        fn any_condition_words_never_panic(words in prop::collection::vec(".{0,12}", 0..6)) {
            read(&words, Family::V4).ok();
        }

        #[test]
        fn any_known_words(words in prop::collection::vec(
            prop::sample::select(vec!["ip", "saddr", "{", "}", ",", "!=", "10.0.0.1", "mark", "&", "meta", "th", "fib", "type", "\"", "-s", "!", "-m"]), 0..8)) {
            let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            read(&words, Family::V4).ok();
        }
    }
}

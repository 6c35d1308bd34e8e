//! Replaces values that differ between runs by symbols, so that two runs can be compared as text.
//!
//! MAC addresses become `mac(host:cni0)`, random host link names `veth#1` in the order of creation, IPv6 link-local
//! addresses `fe80::(ll)`, paths `$NETNS(a)`. A MAC address in the configuration is kept.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The known values.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Real text to symbol, for texts that are unique everywhere.
    texts: BTreeMap<String, String>,
    /// Texts that are kept.
    literals: Vec<String>,
    /// Random link names seen.
    veths: usize,
}

impl Names {
    /// Keeps the texts in a configuration or arguments: MAC addresses there are requested ones.
    pub fn keep_name(&mut self, text: &str) {
        self.literals.push(text.to_lowercase());
    }

    /// Replaces `real` by `symbol` from now on. The first symbol of a text counts.
    pub fn set_symbol(&mut self, real: &str, symbol: &str) {
        if !real.is_empty() && !self.literals.iter().any(|text| text.contains(&real.to_lowercase())) {
            self.texts.entry(real.to_owned()).or_insert_with(|| symbol.to_owned());
        }
    }

    /// Learns a link's name if it is random, in the order of the calls.
    pub fn learn_link(&mut self, name: &str) {
        if is_random_veth(name) && !self.texts.contains_key(name) {
            self.veths += 1;
            let symbol = format!("veth#{}", self.veths);
            self.set_symbol(name, &symbol);
        }
    }

    /// Returns a text with all known values replaced.
    #[must_use]
    pub fn replace_names(&self, text: &str) -> String {
        let mut out = text.to_owned();
        // Longest first: a path may begin with another.
        let mut known: Vec<_> = self.texts.iter().collect();
        known.sort_by_key(|(real, _)| std::cmp::Reverse(real.len()));
        for (real, symbol) in known {
            out = out.replace(real.as_str(), symbol);
        }
        link_local(&out)
    }

    /// Returns a document with all known values replaced, also in keys.
    #[must_use]
    pub fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.replace_names(text)),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.value(item)).collect()),
            Value::Object(fields) => {
                let renamed: Map<_, _> =
                    fields.iter().map(|(key, item)| (self.replace_names(key), self.value(item))).collect();
                Value::Object(renamed)
            }
            other => other.clone(),
        }
    }
}

/// `veth` and eight hexadecimal digits.
#[must_use]
pub fn is_random_veth(name: &str) -> bool {
    name.strip_prefix("veth")
        .is_some_and(|tail| tail.len() == 8 && tail.chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()))
}

/// Replaces IPv6 link-local addresses (not the prefix `fe80::/64`), which are derived from MAC addresses.
fn link_local(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("fe80::") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = from.find(|c: char| !c.is_ascii_hexdigit() && c != ':').unwrap_or(from.len());
        let (address, after) = from.split_at(end);
        out.push_str(if address == "fe80::" { address } else { "fe80::(ll)" });
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts_are_replaced_everywhere() {
        let mut names = Names::default();
        names.keep_name(r#"{"mac":"02:00:00:00:00:0A"}"#);
        names.learn_link("veth0123abcd");
        names.learn_link("eth0");
        names.set_symbol("aa:bb:cc:dd:ee:ff", "mac(host:veth#1)");
        names.set_symbol("02:00:00:00:00:0a", "mac(a:eth0)");
        let value = serde_json::json!({"veth0123abcd": ["aa:bb:cc:dd:ee:ff", "02:00:00:00:00:0a", "eth0", 4]});
        let want = serde_json::json!({"veth#1": ["mac(host:veth#1)", "02:00:00:00:00:0a", "eth0", 4]});
        assert_eq!(names.value(&value), want);
    }

    #[test]
    fn link_local_addresses_go_and_their_prefix_stays() {
        assert_eq!(link_local("eth0 fe80::1c2:ff:fe00:1/64"), "eth0 fe80::(ll)/64");
        assert_eq!(link_local("fe80::/64"), "fe80::/64");
        assert_eq!(link_local("fd00::1"), "fd00::1");
    }

    #[test]
    fn random_names() {
        assert!(is_random_veth("veth0123abcd"));
        assert!(!is_random_veth("veth0"));
        assert!(!is_random_veth("vethABCDEF01"));
    }
}

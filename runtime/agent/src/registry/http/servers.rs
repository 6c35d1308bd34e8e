//! The servers that requests for a registry may go to: itself, and those that it sends its clients to, by a redirect,
//! for a token, or for an upload.
//!
//! Invariants: a registry with TLS never leads to a server without. A registry of somebody else never leads to this
//! machine or its link: the agent works in the host's network, and reaches services and metadata there that the author
//! of a network must not reach through it.

use std::net::IpAddr;

use reqwest::Url;
use reqwest::redirect::{Action, Attempt, Policy};

/// How many redirects of one request are followed.
const REDIRECTS: usize = 5;

/// The servers of one registry.
#[derive(Debug, Clone)]
pub(in crate::registry) struct Servers {
    registry: Url,
    /// Servers without TLS that the operator named, as `HOST:PORT`.
    plain: Vec<String>,
}

/// A server that a registry leads to and that is not asked, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in crate::registry) struct ForeignServer(pub(in crate::registry) String);

// === impl Servers ===

impl Servers {
    /// `registry` is any address at the registry.
    pub(in crate::registry) fn new(registry: Url, plain: &[String]) -> Self {
        Self { registry, plain: plain.to_vec() }
    }

    /// Returns whether an address is at the registry itself. Only there its credentials are shown.
    pub(super) fn is_registry(&self, url: &Url) -> bool {
        self.registry.origin() == url.origin()
    }

    /// Checks that a server that the registry leads to may be asked.
    pub(super) fn check(&self, url: &Url) -> Result<(), ForeignServer> {
        if self.is_registry(url) {
            return Ok(());
        }
        let (server, has_tls) = (server(url), self.registry.scheme() == "https");
        // The rest of the address is the registry's text, and may be long.
        let astray = |why: &str| Err(ForeignServer(format!("it leads to {}://{server}, {why}", url.scheme())));
        match url.scheme() {
            "https" if is_near(url) => astray("which is on this machine or its link"),
            "https" => Ok(()),
            "http" if !has_tls && self.plain.contains(&server) => Ok(()),
            "http" if has_tls => astray("which has no TLS"),
            "http" => astray(&format!("which has no TLS; if that is intended, say --plain-http {server}")),
            _ => astray("which is no web server"),
        }
    }

    /// Returns the redirects that are followed.
    pub(in crate::registry) fn redirects(&self) -> Policy {
        let servers = self.clone();
        Policy::custom(move |attempt| servers.follow(attempt))
    }

    fn follow(&self, attempt: Attempt<'_>) -> Action {
        if attempt.previous().len() > REDIRECTS {
            return attempt.error(ForeignServer(format!("it sends its clients on more than {REDIRECTS} times")));
        }
        match self.check(attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(astray) => attempt.error(astray),
        }
    }
}

/// Returns `HOST:PORT`.
fn server(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Returns whether a registry (`HOST`, or `HOST:PORT`) is on this machine or its link, by its address or its name.
pub(in crate::registry) fn is_near_registry(registry: &str) -> bool {
    // What has no address as a URL is not asked either.
    Url::parse(&format!("https://{registry}/")).is_ok_and(|url| is_near(&url))
}

/// Returns whether an address is on this machine or its link. Other spellings of numbers are normal in a parsed URL.
fn is_near(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => is_near_address(address.to_canonical()),
        Err(_name) => host == "localhost" || host.ends_with(".localhost"),
    }
}

fn is_near_address(address: IpAddr) -> bool {
    let of_kind = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    of_kind || address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn check(registry: &str, to: &str) -> Result<(), ForeignServer> {
        let plain = ["auth.lan:5001".to_owned(), "127.0.0.1:5001".to_owned()];
        Servers::new(Url::parse(registry).unwrap(), &plain).check(&Url::parse(to).unwrap())
    }

    #[test]
    fn a_registry_with_tls_leads_to_servers_with_tls_elsewhere() {
        let registry = "https://registry.example/v2/";
        for to in ["https://registry.example/token", "https://blobs.example:8443/x?sign=1", "https://10.0.0.7/x"] {
            check(registry, to).unwrap();
        }
        for to in [
            "http://registry.example/token",
            "http://169.254.169.254/latest/meta-data",
            "http://auth.lan:5001/token",
            "ftp://blobs.example/x",
            "https://127.0.0.1:10250/pods",
            "https://2130706433/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://0.0.0.0/",
            "https://169.254.169.254/",
            "https://[fe80::1]/",
            "https://localhost:6443/",
            "https://LOCALHOST./",
            "https://a.localhost/",
        ] {
            check(registry, to).unwrap_err();
        }
        let said = check(registry, "http://auth.lan:5001/token?secret=1").unwrap_err().to_string();
        assert_eq!(said, "it leads to http://auth.lan:5001, which has no TLS");
    }

    #[test]
    fn a_plain_registry_leads_to_itself_and_to_what_the_operator_named() {
        let registry = "http://127.0.0.1:5000/v2/";
        for to in [
            "http://127.0.0.1:5000/token",
            "http://127.0.0.1:5001/token",
            "http://auth.lan:5001/",
            "https://b.example/",
        ] {
            check(registry, to).unwrap();
        }
        for to in
            ["http://127.0.0.1:10248/healthz", "http://localhost:5000/", "http://b.example/", "https://127.0.0.1:6443/"]
        {
            check(registry, to).unwrap_err();
        }
        let said = check(registry, "http://b.example/token").unwrap_err().to_string();
        assert!(said.contains("--plain-http b.example:80"), "{said}");
    }

    #[test]
    fn a_registry_near_is_found_by_its_name() {
        for near in ["127.0.0.1:5000", "localhost:5000", "169.254.169.254", "0:80", "[::1]:5000", "[fe80::1]:443"] {
            assert!(is_near_registry(near), "{near}");
        }
        for far in ["registry.example", "10.0.0.1:5000", "localhost.example:5000", "[2001:db8::1]:443"] {
            assert!(!is_near_registry(far), "{far}");
        }
    }
}

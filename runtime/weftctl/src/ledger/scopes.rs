//! The scopes in which `weftctl ledger rebuild` claims what runs. In a wrong one, the address would be free in the right
//! one, and given out again.
//!
//! The sources, all of them that know it: the configuration with which the attachment was added (libcni's cache), the
//! configurations on the node, and the agent's NetworkAttachmentDefinitions. If none knows it, what is left of the
//! journal. Otherwise a person has to say it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use serde_json::Value;
use weft_core::agent::SOCKET;
use weft_core::store::NodeStore;

use crate::networks::Networks;

#[derive(Debug, Args)]
pub(super) struct ScopeArgs {
    /// The agent's socket: the agent knows the definitions of the cluster.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// Where a network's addresses are unique, as `ledger ls` shows it: NETWORK, NETWORK@DATADIR or cluster/DOMAIN.
    #[arg(long, value_name = "NETWORK=SCOPE", value_parser = parse_scope)]
    scope: Vec<(String, String)>,
    /// If a network's scope is unknown, claim its addresses in every known scope.
    #[arg(long)]
    every_scope: bool,
}

fn parse_scope(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(network, scope)| !network.is_empty() && !scope.is_empty());
    let (network, scope) = pair.ok_or("want NETWORK=SCOPE")?;
    Ok((network.to_owned(), scope.to_owned()))
}

/// What is known about scopes.
pub(super) struct Scopes {
    given: BTreeMap<String, BTreeSet<String>>,
    networks: Networks,
    /// The scopes of networks in what is left of the journal.
    left: BTreeMap<String, BTreeSet<String>>,
    /// All scopes that anybody knows, if unknown networks are claimed in all of them.
    every: Option<BTreeSet<String>>,
    unknown: BTreeSet<String>,
}

impl Scopes {
    /// Looks at the agent and at what is left of the store.
    pub(super) fn look(args: &ScopeArgs, mut networks: Networks, state: &Path) -> Self {
        // Without an agent, the other sources may know enough.
        drop(networks.ask(&args.socket));
        let mut given = BTreeMap::<_, BTreeSet<_>>::new();
        for (network, scope) in &args.scope {
            given.entry(network.clone()).or_default().insert(scope.clone());
        }
        // A file that is not a store knows nothing.
        let store = NodeStore::open_read_only(state).ok().flatten();
        let entries = store.as_ref().and_then(|store| store.entries(None).ok()).unwrap_or_default();
        let mut left = BTreeMap::<_, BTreeSet<_>>::new();
        for entry in entries {
            let scopes = entry.claims.into_iter().map(|(scope, _address)| scope);
            left.entry(entry.key.attachment.network).or_default().extend(scopes);
        }
        left.retain(|_network, scopes| !scopes.is_empty());
        let every = args.every_scope.then(|| {
            let of_store = store.and_then(|store| store.scopes().ok()).unwrap_or_default();
            of_store.into_iter().chain(networks.all_scopes()).collect()
        });
        Self { given, networks, left, every, unknown: BTreeSet::new() }
    }

    /// Returns the scopes of an attachment's addresses. `config` is the configuration with which it was added.
    pub(super) fn find(&mut self, network: &str, config: Option<&Value>, has_addresses: bool) -> Vec<String> {
        if let Some(given) = self.given.get(network) {
            return given.iter().cloned().collect();
        }
        // Both: the next ADD uses the current configuration, which may differ.
        let own = config.map(|config| self.networks.scopes_in(config, network));
        let sources: Vec<Option<BTreeSet<String>>> = own.into_iter().chain(self.networks.scopes(network)).collect();
        let is_known = !sources.is_empty() && sources.iter().all(Option::is_some);
        let mut known: BTreeSet<String> = sources.into_iter().flatten().flatten().collect();
        if is_known {
            return known.into_iter().collect();
        }
        if let Some(left) = self.left.get(network) {
            known.extend(left.iter().cloned());
            return known.into_iter().collect();
        }
        known.insert(network.to_owned());
        match &self.every {
            Some(every) => known.extend(every.iter().cloned()),
            None if has_addresses => drop(self.unknown.insert(network.to_owned())),
            None => {}
        }
        known.into_iter().collect()
    }

    /// Fails if the scope of an address is unknown.
    pub(super) fn ensure_known(&self) -> anyhow::Result<()> {
        if self.unknown.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.unknown.iter().map(String::as_str).collect();
        bail!(
            "nothing was changed: no configuration says where the addresses of these networks are unique, and in a wrong scope they would be given out again: {}; name the directory with their configurations (--conf-dir), start \"weftctl agent\", which knows NetworkAttachmentDefinitions, say it yourself (--scope NETWORK=SCOPE), or claim them in every scope that is known here (--every-scope)",
            names.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scopes(every: Option<BTreeSet<String>>) -> Scopes {
        let conf = tempfile::tempdir().unwrap();
        let known = json!({"name": "file", "type": "weft", "ipam": {"dataDir": "/new"}});
        std::fs::write(conf.path().join("10.conf"), known.to_string()).unwrap();
        let left = [("left".to_owned(), ["left@/data".to_owned()].into())].into();
        let given = [("given".to_owned(), ["cluster/blue".to_owned()].into())].into();
        Scopes { given, networks: Networks::read(conf.path()), left, every, unknown: BTreeSet::new() }
    }

    #[test]
    fn an_address_is_claimed_where_any_source_says() {
        let mut scopes = scopes(None);
        let config = json!({"name": "nad", "type": "weft", "ledger": {"type": "etcd"}, "ipam": {}});
        assert_eq!(scopes.find("nad", Some(&config), true), ["cluster/default"]);
        let before = json!({"name": "file", "type": "weft", "ipam": {"dataDir": "/old"}});
        assert_eq!(scopes.find("file", Some(&before), true), ["file@/new", "file@/old"]);
        assert_eq!(scopes.find("left", None, true), ["left@/data"]);
        assert_eq!(scopes.find("given", Some(&config), true), ["cluster/blue"]);
        scopes.ensure_known().unwrap();
    }

    #[test]
    fn an_address_that_nobody_knows_is_refused_or_claimed_everywhere() {
        let mut alone = scopes(None);
        alone.find("layer-2", None, false);
        alone.ensure_known().unwrap();
        alone.find("nad", None, true);
        // Only the agent knows a pool's domain.
        let pool = json!({"name": "pool", "ledger": {"type": "kubernetes", "pool": "red"}, "ipam": {}});
        alone.find("pool", Some(&pool), true);
        let refused = alone.ensure_known().unwrap_err().to_string();
        assert!(refused.contains("nad, pool;") && refused.contains("--scope"), "{refused}");
        let mut all = scopes(Some(["cluster/blue".to_owned(), "file@/new".to_owned()].into()));
        assert_eq!(all.find("nad", None, true), ["cluster/blue", "file@/new", "nad"]);
        all.ensure_known().unwrap();
    }
}

//! The expected behaviour of the store, without indexes, runs, counters or transactions.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use weft_host_abi::types::{ClaimInfo, ClaimState, LastClaim, LedgerView, Range, ReleaseRule, Usage};

use super::{ClaimAsk, Claimed, Entry, Key, Record, Refused, Subject};
use crate::store;

#[derive(Debug, Clone)]
enum Held {
    Active(Key),
    Cooldown { owner: String, since: u64, until: u64 },
    Kept(String),
}

#[derive(Debug, Default)]
struct State {
    claims: BTreeMap<(String, IpAddr), Held>,
    entries: BTreeMap<Key, Entry>,
    /// Every claim ever made, per scope.
    history: BTreeMap<String, Vec<IpAddr>>,
}

/// The model.
#[derive(Debug)]
pub(super) struct Model {
    state: Rc<RefCell<State>>,
    boot_id: String,
}

impl Model {
    pub(super) fn new() -> Self {
        Self { state: Rc::default(), boot_id: "boot-1".into() }
    }

    fn drop_entry(state: &mut State, key: &Key, now: u64) -> Option<(Vec<(String, IpAddr)>, ReleaseRule)> {
        let entry = state.entries.remove(key)?;
        for at in &entry.claims {
            match &entry.release {
                ReleaseRule::Free | ReleaseRule::Cooldown(0) => {
                    state.claims.remove(at);
                }
                ReleaseRule::Cooldown(rest) => {
                    let owner = key.attachment.container_id.clone();
                    let until = now + u64::from(*rest);
                    state.claims.insert(at.clone(), Held::Cooldown { owner, since: now, until });
                }
                ReleaseRule::Keep(owner) => {
                    state.claims.insert(at.clone(), Held::Kept(owner.clone()));
                }
            }
        }
        Some((entry.claims, entry.release))
    }
}

impl Subject for Model {
    fn claim(&mut self, ask: &ClaimAsk<'_>, record: Record) -> Result<Vec<Claimed>, Refused> {
        let mut state = self.state.borrow_mut();
        if let Some(entry) = state.entries.get(ask.key) {
            return Err(Refused::Exists(entry.claims.iter().map(|(_, address)| *address).collect()));
        }
        let mut claimed: Vec<Claimed> = Vec::new();
        for (index, want) in ask.wants.iter().enumerate() {
            let free = want.candidates.iter().find(|(candidate, _)| {
                let mine = claimed.iter().any(|other| other.address.addr() == candidate.addr());
                !mine
                    && match state.claims.get(&(ask.scope.to_owned(), candidate.addr())) {
                        None => true,
                        Some(Held::Active(_)) => false,
                        Some(Held::Cooldown { since, until, .. }) => *until <= ask.now || *since > ask.now,
                        Some(Held::Kept(owner)) => ask.identities.contains(owner),
                    }
            });
            let (address, _) = free.ok_or(Refused::Lost(index))?;
            claimed.push(Claimed { address: *address, gateway: want.gateway });
        }
        let claims: Vec<_> = claimed.iter().map(|one| (ask.scope.to_owned(), one.address.addr())).collect();
        for at in &claims {
            state.claims.insert(at.clone(), Held::Active(ask.key.clone()));
            state.history.entry(at.0.clone()).or_default().push(at.1);
        }
        let entry = Entry {
            key: ask.key.clone(),
            record,
            boot_id: self.boot_id.clone(),
            created: ask.now,
            claims,
            release: ask.release.clone(),
        };
        state.entries.insert(ask.key.clone(), entry);
        Ok(claimed)
    }

    fn release(&mut self, key: &Key, now: u64) -> Option<(Vec<(String, IpAddr)>, ReleaseRule)> {
        Self::drop_entry(&mut self.state.borrow_mut(), key, now)
    }

    fn release_address(&mut self, scope: &str, address: IpAddr, force: bool) -> bool {
        let mut state = self.state.borrow_mut();
        let at = (scope.to_owned(), address);
        match state.claims.get(&at).cloned() {
            None => false,
            Some(Held::Active(_)) if !force => false,
            Some(held) => {
                state.claims.remove(&at);
                if let Held::Active(key) = held {
                    let entry = state.entries.get_mut(&key).unwrap();
                    entry.claims.retain(|other| *other != at);
                    if entry.claims.is_empty() && key.role == super::Role::Ipam {
                        state.entries.remove(&key);
                    }
                }
                true
            }
        }
    }

    fn purge_expired(&mut self, now: u64) -> u64 {
        let mut state = self.state.borrow_mut();
        let before = state.claims.len();
        state
            .claims
            .retain(|_, held| !matches!(held, Held::Cooldown { since, until, .. } if *until <= now || *since > now));
        (before - state.claims.len()) as u64
    }

    fn reboot(&mut self, boot_id: &str, now: u64) -> Vec<Key> {
        self.boot_id = boot_id.to_owned();
        let mut state = self.state.borrow_mut();
        let old: Vec<Key> = state
            .entries
            .values()
            .filter(|entry| entry.boot_id != boot_id && entry.record.externals.is_empty())
            .map(|entry| entry.key.clone())
            .collect();
        for key in &old {
            Self::drop_entry(&mut state, key, now);
        }
        old
    }

    fn held(&self, scope: &str, identities: &[String], container_id: &str) -> Vec<ClaimInfo> {
        let state = self.state.borrow();
        infos(&state, scope)
            .filter(|info| match info.state {
                ClaimState::Active => info.owner == container_id,
                ClaimState::Kept => identities.contains(&info.owner),
                ClaimState::Cooldown | ClaimState::Conflict => false,
            })
            .collect()
    }

    fn entry(&self, key: &Key) -> Option<Entry> {
        self.state.borrow().entries.get(key).cloned()
    }

    fn shared_elsewhere(&self, key: &Key, shared: &[String]) -> Vec<String> {
        let state = self.state.borrow();
        let elsewhere = |name: &&String| {
            state.entries.values().any(|entry| entry.key != *key && entry.record.shared.contains(name))
        };
        let mut found: Vec<String> = shared.iter().filter(elsewhere).cloned().collect();
        found.sort();
        found.dedup();
        found
    }

    fn view(&self, scope: &str, now: u64) -> Box<dyn LedgerView> {
        // A deep copy, so it is certainly a snapshot.
        let state = self.state.borrow();
        Box::new(Snapshot {
            claims: infos(&state, scope).map(|info| (info.address, info)).collect(),
            expired: state
                .claims
                .iter()
                .filter(|(at, held)| {
                    at.0 == scope
                        && matches!(held, Held::Cooldown { since, until, .. } if *until <= now || *since > now)
                })
                .map(|(at, _)| at.1)
                .collect(),
            history: state.history.get(scope).cloned().unwrap_or_default(),
        })
    }
}

fn infos<'a>(state: &'a State, scope: &'a str) -> impl Iterator<Item = ClaimInfo> + 'a {
    state.claims.iter().filter(move |(at, _)| at.0 == scope).map(|(at, held)| {
        let (owner, ifname, state) = match held {
            Held::Active(key) => {
                (key.attachment.container_id.clone(), key.attachment.ifname.clone(), ClaimState::Active)
            }
            Held::Cooldown { owner, .. } => (owner.clone(), String::new(), ClaimState::Cooldown),
            Held::Kept(owner) => (owner.clone(), String::new(), ClaimState::Kept),
        };
        ClaimInfo { address: at.1, owner, ifname, state }
    })
}

struct Snapshot {
    claims: BTreeMap<IpAddr, ClaimInfo>,
    expired: Vec<IpAddr>,
    history: Vec<IpAddr>,
}

impl LedgerView for Snapshot {
    fn claimed_by(&self, address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        Ok(self.claims.get(&address).filter(|_| !self.expired.contains(&address)).cloned())
    }

    fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        let mut at = Some(if range.contains(from) || from.is_ipv4() != range.first.is_ipv4() {
            from
        } else {
            from.max(range.first)
        });
        while let Some(address) = at.filter(|address| range.contains(*address)) {
            if !self.claims.contains_key(&address) {
                return Ok(Some(address));
            }
            at = store::next(address);
        }
        Ok(None)
    }

    fn usage(&self, range: &Range) -> Result<Usage, String> {
        let taken = self.claims.keys().filter(|address| range.contains(**address)).count() as u64;
        Ok(Usage { size: store::count(range.first, range.last), taken })
    }

    fn last_claimed(&self, range: &Range) -> Result<Option<LastClaim>, String> {
        let found = self.history.iter().enumerate().rfind(|(_, address)| range.contains(**address));
        Ok(found.map(|(index, address)| LastClaim { address: *address, sequence: index as u64 + 1 }))
    }

    fn held_by(&self, owner: &str) -> Result<Vec<ClaimInfo>, String> {
        let held = |info: &&ClaimInfo| info.owner == owner && info.state != ClaimState::Cooldown;
        Ok(self.claims.values().filter(held).take(256).cloned().collect())
    }
}

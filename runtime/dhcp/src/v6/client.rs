//! The client's state machine (RFC 8415, section 18.2): from SOLICIT to a lease, and on to its renewal, release or end.
//!
//! Everything is sent to all servers of the link, as the protocol requires; the message names the intended one.

use super::message::Status;
use super::{IaAddress, IaNa, Kind, Lease, Message, Output, Purpose, Settings};
use crate::pace::Jitter;
use crate::{Lost, Millis};

/// First delay of SOLICIT, REQUEST and RELEASE.
const FIRST: Millis = 1_000;
/// First delay of RENEW and REBIND.
const FIRST_PROLONG: Millis = 10_000;
/// Longest delay of REQUEST.
const REQUEST_MAX: Millis = 30_000;
/// Longest delay of RENEW and REBIND.
const PROLONG_MAX: Millis = 600_000;
/// How often REQUEST is sent.
const REQUEST_TRIES: u32 = 10;
/// How often RELEASE is sent: the link's removal waits for it.
const RELEASE_TRIES: u32 = 2;
/// With this preference, the client does not wait for better ones.
const BEST: u8 = 255;

const SUCCESS: u16 = 0;
const NO_BINDING: u16 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Soliciting,
    Requesting,
    Bound,
    Renewing,
    Rebinding,
    /// The server no longer knows the lease: request the same address once more.
    Restoring,
    Releasing,
    Ended,
}

/// A server's proposal.
#[derive(Debug, Clone)]
struct Advert {
    server: Vec<u8>,
    preference: u8,
    address: IaAddress,
}

/// A DHCPv6 client.
#[derive(Debug, Clone)]
pub struct Client {
    settings: Settings,
    wanted: Purpose,
    state: State,
    lease: Option<Lease>,
    advert: Option<Advert>,
    jitter: Jitter,
    xid: u32,
    /// When the current exchange began.
    began: Millis,
    /// When the current acquisition is abandoned.
    deadline: Millis,
    /// Tries of the current exchange.
    tries: u32,
    delay: Millis,
    next: Millis,
    /// When the last message was sent.
    asked: Millis,
    /// A server's error message.
    refusal: Option<String>,
}

impl Client {
    /// Creates a client that looks for a lease, preferably of that address.
    #[must_use]
    pub fn acquire(settings: Settings, wanted: Purpose, seed: u64, now: Millis) -> Self {
        let deadline = now.saturating_add(settings.pace.resend_timeout);
        let mut jitter = Jitter::new(seed);
        let xid = jitter.word() & 0x00ff_ffff;
        Self {
            settings,
            wanted,
            state: State::Soliciting,
            lease: None,
            advert: None,
            jitter,
            xid,
            began: now,
            deadline,
            tries: 0,
            delay: 0,
            next: now,
            asked: now,
            refusal: None,
        }
    }

    /// Creates a client that resumes a lease from before a restart of the program.
    #[must_use]
    pub fn resume(settings: Settings, lease: Lease, seed: u64, now: Millis) -> Self {
        let mut client = Self::acquire(settings, Some(lease.address), seed, now);
        client.state = State::Bound;
        client.next = lease.renew.unwrap_or(Millis::MAX);
        client.lease = Some(lease);
        client
    }

    /// Returns when `tick` has something to do; `None` if never.
    #[must_use]
    pub fn next(&self) -> Option<Millis> {
        (self.state != State::Ended && self.next != Millis::MAX).then_some(self.next)
    }

    /// Returns the lease, if there is one.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Returns whether answers may arrive.
    #[must_use]
    pub fn listens(&self) -> bool {
        !matches!(self.state, State::Bound | State::Ended)
    }

    /// Begins to give the lease back, until `Output::Released`. Returns false if there is none.
    pub fn release(&mut self, now: Millis) -> bool {
        if self.lease.is_none() {
            self.state = State::Ended;
            return false;
        }
        self.begin(State::Releasing, now);
        true
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Millis) -> Vec<Output> {
        if self.next().is_none_or(|next| now < next) {
            return Vec::new();
        }
        if self.lease.as_ref().and_then(|lease| lease.expires).is_some_and(|end| now >= end) {
            return match self.state {
                State::Releasing => self.end(Output::Released),
                _ => self.lose_lease(Lost::Expired),
            };
        }
        match self.state {
            State::Ended => Vec::new(),
            State::Soliciting => self.solicit(now),
            State::Requesting if self.tries >= REQUEST_TRIES || now >= self.deadline => {
                self.begin(State::Soliciting, now);
                self.solicit(now)
            }
            State::Requesting => self.send(Kind::Request, now, FIRST, REQUEST_MAX),
            State::Bound | State::Renewing => {
                let rebind = self.lease.as_ref().and_then(|lease| lease.rebind).unwrap_or(Millis::MAX);
                if now >= rebind {
                    self.begin(State::Rebinding, now);
                    return self.extend_lease(Kind::Rebind, now, Millis::MAX);
                }
                if self.state == State::Bound {
                    self.begin(State::Renewing, now);
                }
                self.extend_lease(Kind::Renew, now, rebind)
            }
            State::Rebinding => self.extend_lease(Kind::Rebind, now, Millis::MAX),
            State::Restoring if now >= self.deadline => {
                let why = self.refusal.clone().unwrap_or_default();
                self.lose_lease(Lost::Refused(why))
            }
            State::Restoring => {
                let sent = self.send(Kind::Request, now, FIRST, REQUEST_MAX);
                self.next = self.next.min(self.deadline);
                sent
            }
            State::Releasing if self.tries >= RELEASE_TRIES => self.end(Output::Released),
            State::Releasing => self.send(Kind::Release, now, FIRST / 2, FIRST),
        }
    }

    /// Handles a received message. Ignores messages that are not for this client, or that are no answer to its request.
    pub fn receive(&mut self, now: Millis, message: &Message) -> Vec<Output> {
        let Some(server) = message.server.clone().filter(|server| !server.is_empty()) else { return Vec::new() };
        if message.xid != self.xid || message.client != self.settings.duid {
            return Vec::new();
        }
        match (self.state, message.kind) {
            (State::Soliciting, Kind::Advertise) => self.advertised(now, message, server),
            // Rapid commit is only valid if requested, which it was.
            (State::Soliciting, Kind::Reply) if message.rapid_commit => self.replied(now, message, &server),
            (State::Requesting | State::Renewing | State::Rebinding | State::Restoring, Kind::Reply) => {
                self.replied(now, message, &server)
            }
            (State::Releasing, Kind::Reply) => self.end(Output::Released),
            _ => Vec::new(),
        }
    }

    // --- what a client does ---

    fn begin(&mut self, state: State, now: Millis) {
        self.state = state;
        self.xid = self.jitter.word() & 0x00ff_ffff;
        (self.began, self.tries, self.delay, self.next) = (now, 0, 0, now);
    }

    fn solicit(&mut self, now: Millis) -> Vec<Output> {
        if self.tries > 0 && self.advert.is_some() {
            return self.choose(now);
        }
        if now >= self.deadline {
            return self.give_up();
        }
        let sent = self.send(Kind::Solicit, now, FIRST, self.settings.pace.resend_max);
        self.next = self.next.min(self.deadline);
        sent
    }

    /// Requests the best advertisement so far.
    fn choose(&mut self, now: Millis) -> Vec<Output> {
        self.begin(State::Requesting, now);
        self.send(Kind::Request, now, FIRST, REQUEST_MAX)
    }

    fn advertised(&mut self, now: Millis, message: &Message, server: Vec<u8>) -> Vec<Output> {
        let Some(address) = self.usable(message).map(|(_ia, address)| address) else { return Vec::new() };
        if self.advert.as_ref().is_none_or(|best| message.preference > best.preference) {
            self.advert = Some(Advert { server, preference: message.preference, address });
        }
        // The first round collects advertisements; later ones accept the first.
        if message.preference == BEST || self.tries > 1 { self.choose(now) } else { Vec::new() }
    }

    fn replied(&mut self, now: Millis, message: &Message, server: &[u8]) -> Vec<Output> {
        if let Some((ia, address)) = self.usable(message) {
            return self.granted(message, &ia, &address, server);
        }
        let code = message.ia.as_ref().and_then(|ia| ia.status.as_ref()).map(|(code, _)| *code);
        match self.state {
            State::Renewing | State::Rebinding if code == Some(NO_BINDING) => {
                let by_its_own = self.lease.as_ref().is_some_and(|lease| lease.server == server);
                // That another server does not know it means nothing.
                if self.state == State::Rebinding && !by_its_own {
                    return Vec::new();
                }
                self.begin(State::Restoring, now);
                self.deadline = now.saturating_add(self.settings.pace.timeout);
                self.tick(now)
            }
            State::Requesting | State::Soliciting => {
                self.advert = None;
                self.begin(State::Soliciting, now);
                // Not at once: a server that refuses its own advertisements would cause an endless loop.
                self.next = now.saturating_add(self.settings.pace.delay(0, &mut self.jitter)).min(self.deadline);
                Vec::new()
            }
            State::Restoring => {
                let why = self.refusal.clone().unwrap_or_default();
                self.lose_lease(Lost::Refused(why))
            }
            // The server ends the lease: the address is listed with no time left.
            _ if self.ended_by(message) => self.lose_lease(Lost::Refused(self.refusal.clone().unwrap_or_default())),
            _ => Vec::new(),
        }
    }

    fn granted(&mut self, message: &Message, ia: &IaNa, address: &IaAddress, server: &[u8]) -> Vec<Output> {
        if let Some(lease) = &self.lease
            && lease.address != address.address
        {
            return self.lose_lease(Lost::Moved(address.address.into()));
        }
        let lease = Lease::from_reply(message, ia, address, server, self.asked);
        self.next = lease.renew.unwrap_or(Millis::MAX);
        self.lease = Some(lease);
        self.state = State::Bound;
        (self.advert, self.refusal) = (None, None);
        vec![Output::Bound]
    }

    /// Returns the IA of a message with its usable address: of several, the one that this client has.
    fn usable(&mut self, message: &Message) -> Option<(IaNa, IaAddress)> {
        self.record_refusal(message.status.as_ref());
        let ia = message.ia.as_ref()?;
        self.record_refusal(ia.status.as_ref());
        if ia.id != self.settings.iaid || failed(message.status.as_ref()) || failed(ia.status.as_ref()) {
            return None;
        }
        let fine = |given: &&IaAddress| {
            let address = given.address;
            let odd = address.is_unspecified() || address.is_multicast() || address.is_loopback();
            given.valid > 0 && given.preferred <= given.valid && !failed(given.status.as_ref()) && !odd
        };
        let held = self.lease.as_ref().map(|lease| lease.address);
        let mut given = ia.addresses.iter().filter(fine);
        let chosen = given.clone().find(|given| Some(given.address) == held).or_else(|| given.next())?;
        Some((ia.clone(), chosen.clone()))
    }

    fn ended_by(&self, message: &Message) -> bool {
        let held = self.lease.as_ref().map(|lease| lease.address);
        let listed = message.ia.iter().flat_map(|ia| &ia.addresses);
        listed.clone().any(|given| Some(given.address) == held && given.valid == 0)
    }

    fn record_refusal(&mut self, status: Option<&Status>) {
        if let Some((code, text)) = status.filter(|(code, _)| *code != SUCCESS) {
            self.refusal = Some(if text.is_empty() { format!("status {code}") } else { text.clone() });
        }
    }

    fn give_up(&mut self) -> Vec<Output> {
        let seconds = self.settings.pace.resend_timeout / 1_000;
        let text = match &self.refusal {
            Some(text) => format!("the DHCPv6 server refused for {seconds} s: {text:?}"),
            None => format!("no DHCPv6 server offered an address within {seconds} s"),
        };
        self.end(Output::GaveUp(text))
    }

    fn lose_lease(&mut self, why: Lost) -> Vec<Output> {
        self.lease = None;
        self.end(Output::Lost(why))
    }

    fn end(&mut self, with: Output) -> Vec<Output> {
        self.state = State::Ended;
        vec![with]
    }

    // --- messages ---

    /// Sends RENEW or REBIND; the next one is due at the latest at the next stage.
    fn extend_lease(&mut self, kind: Kind, now: Millis, stage: Millis) -> Vec<Output> {
        let sent = self.send(kind, now, FIRST_PROLONG, PROLONG_MAX);
        let end = self.lease.as_ref().and_then(|lease| lease.expires).unwrap_or(Millis::MAX);
        // A lease of minutes must not wait ten seconds.
        let left = stage.min(end).saturating_sub(now);
        self.next = self.next.min(now.saturating_add((left / 2).max(FIRST))).min(stage.min(end));
        sent
    }

    /// Sends, and doubles the delay until the next time (RFC 8415, section 15).
    fn send(&mut self, kind: Kind, now: Millis, first: Millis, max: Millis) -> Vec<Output> {
        let base = if self.tries == 0 { first } else { (self.delay * 2).min(max.max(first)) };
        self.delay = base;
        // A tenth in either direction; the first SOLICIT only later, so that all advertisements have a full second.
        let spread = base / 10;
        let jittered = self.jitter.jittered(base, spread);
        let jittered = if kind == Kind::Solicit && self.tries == 0 { jittered.max(base) } else { jittered };
        self.next = now.saturating_add(jittered);
        self.tries += 1;
        self.asked = now;
        vec![Output::Send(self.message(kind, now).write())]
    }

    fn message(&self, kind: Kind, now: Millis) -> Message {
        let mut message = Message::new(kind, self.xid, &self.settings.duid);
        message.elapsed = Some(u16::try_from(now.saturating_sub(self.began) / 10).unwrap_or(u16::MAX));
        message.rapid_commit = kind == Kind::Solicit;
        message.ask = kind != Kind::Release;
        message.server = match kind {
            Kind::Renew | Kind::Release => self.lease.as_ref().map(|lease| lease.server.clone()),
            Kind::Request if self.state == State::Restoring => self.lease.as_ref().map(|lease| lease.server.clone()),
            Kind::Request => self.advert.as_ref().map(|advert| advert.server.clone()),
            _ => None,
        };
        let held = self.lease.as_ref().map(|lease| lease.address);
        let named = held.or(self.advert.as_ref().map(|advert| advert.address.address)).or(self.wanted);
        let address = |address| IaAddress { address, preferred: 0, valid: 0, status: None };
        let addresses = named.map(address).into_iter().collect();
        message.ia = Some(IaNa { id: self.settings.iaid, addresses, ..IaNa::default() });
        message
    }
}

fn failed(status: Option<&Status>) -> bool {
    status.is_some_and(|(code, _)| *code != SUCCESS)
}

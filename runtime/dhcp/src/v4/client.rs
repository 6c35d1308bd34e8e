//! The client's state machine (RFC 2131, section 4.4): from DISCOVER to a lease, and on to its renewal or its end.
//!
//! Call `tick` when `next` is due, and `receive` for every received message; both return what to do. A client ends when
//! it gives up or loses its lease, and by `release`.

use std::net::Ipv4Addr;

use super::terms::usable;
use super::{Kind, Lease, Listen, Message, Output, Purpose, Settings, option};
use crate::pace::Jitter;
use crate::{Lost, Millis};

/// Minimum delay during a renewal, which otherwise is half of the time until the next stage. RFC 2131 has one minute,
/// with which a single lost packet loses a lease of two minutes.
const MIN_PROLONG: Millis = 4_000;
/// No relay or server may send more than fits an Ethernet frame.
const MAX_SIZE: u16 = 1_472;

#[derive(Debug, Clone)]
enum State {
    Selecting,
    Requesting {
        address: Ipv4Addr,
        server: Ipv4Addr,
        until: Millis,
    },
    /// INIT-REBOOT: confirms a remembered address.
    Rebooting {
        address: Ipv4Addr,
        until: Millis,
    },
    Bound,
    Renewing,
    Rebinding,
    Ended,
}

/// A DHCPv4 client.
#[derive(Debug, Clone)]
pub struct Client {
    settings: Settings,
    purpose: Purpose,
    state: State,
    lease: Option<Lease>,
    jitter: Jitter,
    xid: u32,
    /// When the current acquisition or renewal began: `secs` is relative to it.
    began: Millis,
    /// When the current acquisition is abandoned.
    deadline: Millis,
    /// Tries of the current acquisition.
    tries: u32,
    next: Millis,
    /// When the last message was sent: a lease is relative to it.
    asked: Millis,
    /// For the text of a failure.
    offers: u32,
    refusal: Option<String>,
}

impl Client {
    /// Creates a client that looks for a lease.
    #[must_use]
    pub fn acquire(settings: Settings, purpose: Purpose, seed: u64, now: Millis) -> Self {
        let mut client = Self::idle(settings, purpose, seed, now);
        match purpose {
            Purpose::Any(Some(address)) | Purpose::Keep(address) => client.reboot(address, now),
            Purpose::Any(None) => {}
        }
        client
    }

    /// Creates a client that resumes a lease from before a restart of the program. Overdue work is due at once; a lease
    /// that has ended is requested once more, because the address is still in use.
    #[must_use]
    pub fn resume(settings: Settings, lease: Lease, seed: u64, now: Millis) -> Self {
        let address = lease.address;
        let expired = lease.expires.is_some_and(|end| end <= now);
        let mut client = Self::idle(settings, Purpose::Keep(address), seed, now);
        client.lease = Some(lease);
        if expired {
            client.reboot(address, now);
        } else {
            client.state = State::Bound;
            client.next = client.lease.as_ref().and_then(|lease| lease.renew).unwrap_or(Millis::MAX);
        }
        client
    }

    fn idle(settings: Settings, purpose: Purpose, seed: u64, now: Millis) -> Self {
        let mut jitter = Jitter::new(seed);
        let deadline = now.saturating_add(settings.pace.resend_timeout);
        Self {
            settings,
            purpose,
            state: State::Selecting,
            lease: None,
            xid: jitter.word(),
            jitter,
            began: now,
            deadline,
            tries: 0,
            next: now,
            asked: now,
            offers: 0,
            refusal: None,
        }
    }

    /// Returns when `tick` has something to do; `None` if never.
    #[must_use]
    pub fn next(&self) -> Option<Millis> {
        match self.state {
            State::Ended => None,
            _ if self.next == Millis::MAX => None,
            _ => Some(self.next),
        }
    }

    /// Returns the lease, if there is one.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Returns where answers will arrive.
    #[must_use]
    pub fn listen(&self) -> Listen {
        match self.state {
            State::Bound | State::Ended => Listen::Nowhere,
            State::Selecting | State::Requesting { .. } | State::Rebooting { .. } | State::Rebinding => Listen::Link,
            State::Renewing => self.lease.as_ref().map_or(Listen::Link, |lease| Listen::Address(lease.address)),
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Millis) -> Vec<Output> {
        if self.next().is_none_or(|next| now < next) {
            return Vec::new();
        }
        match self.state.clone() {
            State::Ended => Vec::new(),
            State::Selecting => self.discover(now),
            State::Requesting { address, server, until } => {
                if now >= until.min(self.deadline) {
                    self.start_over(now);
                    return self.discover(now);
                }
                self.request(now, address, Some(server), until)
            }
            State::Rebooting { address, until } => {
                if now >= until.min(self.deadline) {
                    if self.purpose == Purpose::Keep(address) && self.lease.is_some() {
                        return self.lose_lease(Lost::Expired);
                    }
                    self.start_over(now);
                    return self.discover(now);
                }
                self.request(now, address, None, until)
            }
            State::Bound => {
                (self.began, self.xid) = (now, self.jitter.word());
                self.state = State::Renewing;
                self.extend_lease(now)
            }
            State::Renewing | State::Rebinding => self.extend_lease(now),
        }
    }

    /// Handles a received message, from a frame of that MAC address. Ignores messages that are not for this client, or
    /// that are no answer to its request.
    pub fn receive(&mut self, now: Millis, message: &Message, from: Option<[u8; 6]>) -> Vec<Output> {
        if !message.reply || message.xid != self.xid || message.mac != self.settings.mac {
            return Vec::new();
        }
        match (self.state.clone(), message.kind()) {
            (State::Selecting, Some(Kind::Offer)) => self.offered(now, message),
            (State::Requesting { address, server, .. }, Some(Kind::Ack)) => {
                let by = message.address(option::SERVER_ID).unwrap_or(server);
                if by == server { self.granted(message, (server, from), address) } else { Vec::new() }
            }
            (State::Rebooting { address, .. }, Some(Kind::Ack)) => {
                let by = message.address(option::SERVER_ID);
                by.map_or_else(Vec::new, |server| self.granted(message, (server, from), address))
            }
            (State::Renewing | State::Rebinding, Some(Kind::Ack)) => {
                let known = self.lease.as_ref().map(|lease| (lease.server, lease.address));
                let Some((server, address)) = known else { return Vec::new() };
                let server = message.address(option::SERVER_ID).unwrap_or(server);
                self.granted(message, (server, from), address)
            }
            (State::Requesting { server, .. }, Some(Kind::Nak)) => {
                // Only the chosen server counts: another one merely confirms that it was not chosen.
                if message.address(option::SERVER_ID).is_none_or(|by| by == server) {
                    return self.refused(now, message);
                }
                Vec::new()
            }
            (State::Rebooting { .. } | State::Renewing | State::Rebinding, Some(Kind::Nak)) => {
                self.refused(now, message)
            }
            _ => Vec::new(),
        }
    }

    /// Ends the client, and returns what to send so that the server can reassign the address.
    #[must_use]
    pub fn release(mut self) -> Option<Output> {
        let lease = self.lease.take()?;
        self.xid = self.jitter.word();
        Some(self.release_of(lease.address, lease.server, lease.server_mac))
    }

    // --- what a client does ---

    /// Drops all offers and starts over.
    fn start_over(&mut self, now: Millis) {
        self.xid = self.jitter.word();
        self.state = State::Selecting;
        self.next = now;
    }

    /// INIT-REBOOT.
    fn reboot(&mut self, address: Ipv4Addr, now: Millis) {
        self.state = State::Rebooting { address, until: now.saturating_add(self.settings.pace.timeout) };
        self.next = now;
    }

    fn discover(&mut self, now: Millis) -> Vec<Output> {
        if now >= self.deadline {
            return self.give_up();
        }
        let mut message = self.message(Kind::Discover, now);
        if let Purpose::Any(Some(address)) | Purpose::Keep(address) = self.purpose {
            message.options.insert(option::REQUESTED_ADDRESS, address.octets().to_vec());
        }
        self.wait(now, self.deadline);
        vec![self.broadcast(now, Ipv4Addr::UNSPECIFIED, &message)]
    }

    fn offered(&mut self, now: Millis, offer: &Message) -> Vec<Output> {
        self.offers += 1;
        let Some(server) = offer.address(option::SERVER_ID) else { return Vec::new() };
        if !usable(offer.yiaddr) || matches!(self.purpose, Purpose::Keep(address) if address != offer.yiaddr) {
            return Vec::new();
        }
        self.tries = 0;
        let until = now.saturating_add(self.settings.pace.timeout);
        self.state = State::Requesting { address: offer.yiaddr, server, until };
        self.request(now, offer.yiaddr, Some(server), until)
    }

    /// Requests an offered or remembered address.
    fn request(&mut self, now: Millis, address: Ipv4Addr, server: Option<Ipv4Addr>, until: Millis) -> Vec<Output> {
        let mut message = self.message(Kind::Request, now);
        message.options.insert(option::REQUESTED_ADDRESS, address.octets().to_vec());
        if let Some(server) = server {
            message.options.insert(option::SERVER_ID, server.octets().to_vec());
        }
        self.wait(now, until.min(self.deadline));
        vec![self.broadcast(now, Ipv4Addr::UNSPECIFIED, &message)]
    }

    /// Renews with the lease's server, from T2 on with any; after the end, the lease is lost.
    fn extend_lease(&mut self, now: Millis) -> Vec<Output> {
        let Some(lease) = &self.lease else { return self.lose_lease(Lost::Expired) };
        let (address, server, mac) = (lease.address, lease.server, lease.server_mac);
        let (rebind, end) = (lease.rebind.unwrap_or(Millis::MAX), lease.expires.unwrap_or(Millis::MAX));
        if now >= end {
            return self.lose_lease(Lost::Expired);
        }
        let rebinding = now >= rebind;
        self.state = if rebinding { State::Rebinding } else { State::Renewing };
        let stage = if rebinding { end } else { rebind };
        self.next = now.saturating_add(((stage - now) / 2).max(MIN_PROLONG)).min(stage);
        let mut message = self.message(Kind::Request, now);
        message.ciaddr = address;
        if rebinding {
            return vec![self.broadcast(now, address, &message)];
        }
        self.asked = now;
        vec![Output::Unicast { from: address, to: server, mac, bytes: message.write() }]
    }

    fn granted(&mut self, ack: &Message, by: (Ipv4Addr, Option<[u8; 6]>), wanted: Ipv4Addr) -> Vec<Output> {
        let (server, mac) = by;
        if !usable(ack.yiaddr) {
            return Vec::new();
        }
        let kept = match self.purpose {
            Purpose::Keep(address) => Some(address),
            Purpose::Any(_) => None,
        };
        if kept.unwrap_or(wanted) != ack.yiaddr && (kept.is_some() || self.lease.is_some()) {
            // The server has recorded our lease, so release it.
            let unwanted = self.release_of(ack.yiaddr, server, mac);
            let mut outputs = vec![unwanted];
            outputs.extend(self.lose_lease(Lost::Moved(ack.yiaddr.into())));
            return outputs;
        }
        // The answer to a renewal comes through a socket without MAC addresses.
        let known = self.lease.as_ref().filter(|lease| lease.server == server).and_then(|lease| lease.server_mac);
        let lease = Lease::from_ack(ack, server, mac.or(known), self.asked);
        self.purpose = Purpose::Keep(lease.address);
        self.next = lease.renew.unwrap_or(Millis::MAX);
        self.lease = Some(lease);
        self.state = State::Bound;
        (self.offers, self.refusal, self.tries) = (0, None, 0);
        vec![Output::Bound]
    }

    /// Handles a DHCPNAK. A new attachment looks for another address. An attachment in use has `timeout` to get the
    /// same address again: servers that lost their leases first refuse and then offer it.
    fn refused(&mut self, now: Millis, nak: &Message) -> Vec<Output> {
        let text = nak.options.get(&option::TEXT).map(|text| String::from_utf8_lossy(text).into_owned());
        let text = text.unwrap_or_default();
        let in_use = self.lease.is_some();
        let again = self.refusal.replace(text.clone()).is_some();
        if in_use && again {
            return self.lose_lease(Lost::Refused(text));
        }
        if in_use {
            (self.began, self.tries) = (now, 0);
            self.deadline = now.saturating_add(self.settings.pace.timeout);
        } else if matches!(self.state, State::Rebooting { .. }) {
            self.purpose = match self.purpose {
                Purpose::Any(_) => Purpose::Any(None),
                keep @ Purpose::Keep(_) => keep,
            };
        }
        self.start_over(now);
        // Not at once: a server that refuses its own offers would cause an endless loop.
        if !in_use && again {
            self.next = now.saturating_add(self.settings.pace.delay(self.tries, &mut self.jitter)).min(self.deadline);
            self.tries += 1;
            return Vec::new();
        }
        self.discover(now)
    }

    fn give_up(&mut self) -> Vec<Output> {
        if self.lease.is_some() {
            return self.lose_lease(Lost::Refused(self.refusal.clone().unwrap_or_default()));
        }
        self.state = State::Ended;
        let seconds = self.settings.pace.resend_timeout / 1_000;
        let text = match (&self.refusal, self.offers) {
            (Some(text), _) => format!("the DHCP server refused for {seconds} s: {text:?}"),
            (None, 0) => format!("no DHCP server offered an address within {seconds} s"),
            (None, offers) => format!("{offers} DHCP offers came, but no lease was confirmed within {seconds} s"),
        };
        vec![Output::GaveUp(text)]
    }

    fn lose_lease(&mut self, why: Lost) -> Vec<Output> {
        self.state = State::Ended;
        self.lease = None;
        vec![Output::Lost(why)]
    }

    // --- messages ---

    /// Sets the time of the next try, at most `bound`.
    fn wait(&mut self, now: Millis, bound: Millis) {
        let delay = self.settings.pace.delay(self.tries, &mut self.jitter);
        self.tries = self.tries.saturating_add(1);
        self.next = now.saturating_add(delay).min(bound);
    }

    fn broadcast(&mut self, now: Millis, from: Ipv4Addr, message: &Message) -> Output {
        self.asked = now;
        Output::Broadcast { from, bytes: message.write() }
    }

    fn message(&self, kind: Kind, now: Millis) -> Message {
        let mut message = Message::new(kind, self.xid, self.settings.mac);
        message.secs = u16::try_from(now.saturating_sub(self.began) / 1_000).unwrap_or(u16::MAX);
        // A client with an address can be reached there.
        message.broadcast = self.settings.broadcast && self.lease.is_none();
        let options = &mut message.options;
        options.insert(option::CLIENT_ID, self.settings.client_id.clone());
        options.insert(option::MAX_SIZE, MAX_SIZE.to_be_bytes().to_vec());
        if !self.settings.request.is_empty() {
            options.insert(option::PARAMETERS, self.settings.request.clone());
        }
        options.extend(self.settings.provide.clone());
        message
    }

    fn release_of(&mut self, address: Ipv4Addr, server: Ipv4Addr, mac: Option<[u8; 6]>) -> Output {
        let mut message = Message::new(Kind::Release, self.xid, self.settings.mac);
        message.ciaddr = address;
        message.options.insert(option::SERVER_ID, server.octets().to_vec());
        let own = self.settings.provide.get(&option::CLIENT_ID).unwrap_or(&self.settings.client_id);
        message.options.insert(option::CLIENT_ID, own.clone());
        Output::Unicast { from: address, to: server, mac, bytes: message.write() }
    }
}

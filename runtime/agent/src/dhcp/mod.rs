//! Service `lease`: the DHCP leases of this node's attachments.
//!
//! Invariants: an attachment has one task per family at a time; a repeated request returns the running lease. A release
//! is answered when its packet is sent, even if another caller requests the same lease meanwhile.

mod answer;
mod clock;
mod lease_events;
mod lease_link;
mod session;
mod socket;
mod store;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use ipnet::IpNet;
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use weft_core::agent::lease::{Reply, Request};
use weft_core::agent::{AgentStatus, Allocate, Fault, Lease, LeaseStatus, Refusal, Wish};
use weft_core::netlink;
use weft_dhcp::Pace;
use weft_host_abi::types::Attachment;

pub(crate) use self::lease_events::LeaseEvents;
use self::lease_link::{LeaseLink, PlaceError, Visits};
use self::session::{Command, Failure, Handle, Start, State, Subject};
use self::store::AnyLease;
pub(crate) use self::store::LeaseStore;
use super::Log;
use super::server::{Deadline, Handler};

/// After this time, a release is answered in any case.
const RELEASE: Duration = Duration::from_secs(4);
/// The maximum length of a client identifier, without its type octet.
const MAX_ID: usize = 254;

/// The resources of every task.
struct Shared {
    store: LeaseStore,
    visits: Visits,
    pace: Pace,
    boot_id: String,
    /// Where to send events, if the agent serves Kubernetes.
    events: OnceCell<LeaseEvents>,
    log: Log,
}

/// An attachment with its tasks.
struct Held {
    place: LeaseLink,
    wish: Wish,
    sessions: Vec<Handle>,
}

/// All leases.
pub(super) struct Leases {
    shared: Rc<Shared>,
    held: RefCell<BTreeMap<Attachment, Rc<Held>>>,
    prefix: Option<PathBuf>,
}

impl Leases {
    pub(super) fn new(store: LeaseStore, pace: Pace, prefix: Option<PathBuf>, log: Log) -> Rc<Self> {
        let boot_id = netlink::boot_id().unwrap_or_default();
        let shared = Rc::new(Shared { store, visits: Visits::new(), pace, boot_id, events: OnceCell::new(), log });
        Rc::new(Self { shared, held: RefCell::default(), prefix })
    }

    /// Sends events about leases that are over from now on.
    pub(super) fn send_events_with(&self, events: LeaseEvents) {
        drop(self.shared.events.set(events));
    }

    /// Resumes the leases of the previous agent. Leases of another boot, or of a namespace that is gone, are forgotten:
    /// nobody could give them back from where they were used, and they expire by themselves.
    pub(super) fn resume(&self) -> anyhow::Result<()> {
        let (mut resumed, mut forgotten) = (0, 0);
        for row in self.shared.store.read_all()? {
            let is_v4 = row.lease.address().is_ipv4();
            let is_of_this_boot = row.boot_id == self.shared.boot_id;
            let is_gone = is_of_this_boot
                && match lease_link::require(&row.netns, &row.identity) {
                    Ok(()) => false,
                    Err(PlaceError::Gone(_)) => true,
                    // Its session looks again.
                    Err(PlaceError::Failed(why)) => {
                        self.shared.log.info(&format!("cannot look at {}: {why}", name(&row.attachment)));
                        false
                    }
                };
            if is_gone || !is_of_this_boot {
                self.shared.store.remove(&row.attachment, is_v4)?;
                forgotten += 1;
                continue;
            }
            let place = LeaseLink { netns: row.netns, identity: row.identity, ifname: row.attachment.ifname.clone() };
            let start = Start::Resume { lease: row.lease, mac: row.mac };
            let handle = self.start(&row.attachment, &place, &row.wish, is_v4, start);
            let mut held = self.held.borrow_mut();
            let mut sessions = vec![handle];
            if let Some(other) = held.remove(&row.attachment).and_then(Rc::into_inner) {
                sessions.splice(0..0, other.sessions);
            }
            held.insert(row.attachment, Rc::new(Held { place, wish: row.wish, sessions }));
            resumed += 1;
        }
        if resumed + forgotten > 0 {
            self.shared.log.info(&format!("{resumed} leases go on, {forgotten} were of namespaces that are gone"));
        }
        Ok(())
    }

    /// Gets a lease for an attachment.
    async fn allocate(&self, ask: Allocate) -> Result<Reply, Refusal> {
        let Allocate { attachment, netns, wish } = ask;
        let netns = match &self.prefix {
            Some(prefix) => prefix.join(netns.strip_prefix("/").unwrap_or(&netns)),
            None => netns,
        };
        let refused = |text| Refusal::new(Fault::Place, text);
        let path = netns.clone();
        let found = self.shared.visits.run(move || Ok(lease_link::identity_of(&path)?)).await;
        let found = found.map_err(|error| refused(error.to_string()))?;
        let none = || refused(format!("there is no network namespace at {}", netns.display()));
        let identity = found.ok_or_else(none)?;
        let place = LeaseLink { netns, identity, ifname: attachment.ifname.clone() };
        self.sweep();
        let known = self.held.borrow().get(&attachment).cloned();
        let held = match known {
            Some(held) if held.place == place && held.wish == wish && held.is_alive() => held,
            // It is another attachment with the same name, and the server may well assign the same addresses again.
            Some(before) => {
                let remembered = before.sessions.iter().filter_map(|session| address(&session.state())).collect();
                self.end(&attachment, &before, Command::Leave).await;
                self.begin(&attachment, &place, &wish, remembered)
            }
            None => self.begin(&attachment, &place, &wish, Vec::new()),
        };
        let outcome = held.wait_for_leases().await;
        let (fault, text) = match outcome
            .and_then(|leases| answer::leased(&leases, &held.wish).map_err(|text| (Fault::Answer, text)))
        {
            Ok(leased) => return Ok(Reply::Leased(leased)),
            Err(failure) => failure,
        };
        // A part of the requested leases is useless.
        self.end(&attachment, &held, Command::Release).await;
        Err(Refusal::new(fault, text))
    }

    /// Checks that an attachment has all its leases.
    fn check(&self, attachment: &Attachment) -> Result<Reply, Refusal> {
        let Some(held) = self.held.borrow().get(attachment).cloned() else {
            let text = format!("the agent knows no DHCP lease of {}", name(attachment));
            return Err(Refusal::new(Fault::Unknown, text));
        };
        match held.missing_lease_text() {
            None => Ok(Reply::Done),
            Some(why) => Err(Refusal::new(Fault::Lost, format!("the DHCP lease of {} {why}", name(attachment)))),
        }
    }

    /// Gives an attachment's leases back.
    async fn release(&self, attachment: &Attachment) -> Reply {
        let known = self.held.borrow().get(attachment).cloned();
        if let Some(held) = known {
            self.end(attachment, &held, Command::Release).await;
        }
        Reply::Done
    }

    /// Returns all attachments.
    fn status(&self) -> AgentStatus {
        self.sweep();
        let leases = self.held.borrow().iter().map(|(attachment, held)| held.status(attachment)).collect();
        AgentStatus { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id(), leases }
    }

    /// Drops attachments whose tasks have ended: their user is gone, or they got no lease and no caller waits for the
    /// answer. Lost leases are kept for CHECK.
    fn sweep(&self) {
        let done = |session: &Handle| matches!(session.state(), State::Ended | State::Failed(_));
        let over = |held: &Held| held.sessions.iter().all(done);
        self.held.borrow_mut().retain(|_attachment, held| !over(held));
    }

    /// Starts the tasks of an attachment.
    fn begin(&self, attachment: &Attachment, place: &LeaseLink, wish: &Wish, remembered: Vec<IpAddr>) -> Rc<Held> {
        let families = [(true, wish.ipv4), (false, wish.ipv6)];
        let start = |is_v4| {
            let wanted = remembered.iter().copied().find(|address| address.is_ipv4() == is_v4);
            self.start(attachment, place, wish, is_v4, Start::Acquire(wanted))
        };
        let sessions = families.into_iter().filter(|(_, wanted)| *wanted).map(|(is_v4, _)| start(is_v4)).collect();
        let held = Rc::new(Held { place: place.clone(), wish: wish.clone(), sessions });
        self.held.borrow_mut().insert(attachment.clone(), Rc::clone(&held));
        held
    }

    fn start(&self, attachment: &Attachment, place: &LeaseLink, wish: &Wish, is_v4: bool, start: Start) -> Handle {
        let subject = Subject { attachment: attachment.clone(), place: place.clone(), wish: wish.clone() };
        if is_v4 {
            session::start_v4(&self.shared, subject, start)
        } else {
            session::start_v6(&self.shared, subject, start)
        }
    }

    /// Ends the tasks of an attachment and waits for their final state.
    async fn end(&self, attachment: &Attachment, held: &Rc<Held>, command: Command) {
        for session in &held.sessions {
            session.send_command(command);
        }
        for session in &held.sessions {
            let mut watch = session.watch();
            // The sender is dropped with the task, so this ends with it.
            let gone = async { while watch.changed().await.is_ok() {} };
            if timeout(RELEASE, gone).await.is_err() {
                self.shared.log.info(&format!("giving back the lease of {} takes too long", name(attachment)));
            }
            // A task that ended by itself: its lease is lost, or it got none.
            if command == Command::Release
                && let Err(error) = self.shared.store.remove(attachment, session.is_v4)
            {
                self.shared.log.info(&format!("{error:#}"));
            }
        }
        let mut all = self.held.borrow_mut();
        if all.get(attachment).is_some_and(|present| Rc::ptr_eq(present, held)) {
            all.remove(attachment);
        }
    }
}

impl Handler for Leases {
    type Service = Lease;

    async fn handle(&self, request: Request, _deadline: Deadline) -> Result<Reply, Refusal> {
        match request {
            Request::Allocate(ask) => self.allocate(ask).await,
            Request::Check(attachment) => self.check(&attachment),
            Request::Release(attachment) => Ok(self.release(&attachment).await),
            Request::Status => Ok(Reply::Status(self.status())),
        }
    }
}

impl Held {
    /// Returns whether its leases are running or being requested.
    fn is_alive(&self) -> bool {
        self.sessions.iter().all(|session| matches!(session.state(), State::Asking | State::Bound(_)))
    }

    /// Returns why it lacks a lease, as the end of a sentence.
    fn missing_lease_text(&self) -> Option<String> {
        self.sessions.iter().find_map(|session| match session.state() {
            State::Bound(_) => None,
            State::Asking => Some("is being asked for".to_owned()),
            State::Lost(why) | State::Failed(Failure::NoServer(why) | Failure::Place(why)) => {
                Some(format!("is over: {why}"))
            }
            State::Ended => Some("was given back".to_owned()),
        })
    }

    /// Waits until all leases are obtained, or one fails.
    async fn wait_for_leases(&self) -> Result<Vec<AnyLease>, (Fault, String)> {
        let mut leases = Vec::new();
        for session in &self.sessions {
            let mut watch = session.watch();
            while matches!(session.state(), State::Asking) && watch.changed().await.is_ok() {}
            leases.push(match session.state() {
                State::Bound(lease) => lease,
                State::Failed(Failure::NoServer(text)) => return Err((Fault::NoLease, text)),
                State::Failed(Failure::Place(text)) => return Err((Fault::Internal, text)),
                State::Lost(text) => return Err((Fault::NoLease, text)),
                State::Asking | State::Ended => {
                    return Err((Fault::NoLease, "it was given back while it was asked for".to_owned()));
                }
            });
        }
        Ok(leases)
    }

    fn status(&self, attachment: &Attachment) -> LeaseStatus {
        let states: Vec<State> = self.sessions.iter().map(Handle::state).collect();
        let bound = states.iter().filter_map(|state| match state {
            State::Bound(lease) => Some(lease),
            _ => None,
        });
        let now = clock::now();
        let ends = bound.clone().filter_map(AnyLease::expires).min();
        LeaseStatus {
            attachment: attachment.clone(),
            state: self.missing_lease_text().unwrap_or_else(|| "is running".to_owned()),
            addresses: bound.map(network).collect(),
            expires_in: ends.map(|end| end.saturating_sub(now) / 1_000),
        }
    }
}

fn network(lease: &AnyLease) -> IpNet {
    match lease {
        AnyLease::V4(lease) => lease.network().map_or_else(|| IpNet::from(IpAddr::from(lease.address)), IpNet::from),
        AnyLease::V6(lease) => IpNet::from(IpAddr::from(lease.address)),
    }
}

fn address(state: &State) -> Option<IpAddr> {
    match state {
        State::Bound(lease) => Some(lease.address()),
        _ => None,
    }
}

fn name(attachment: &Attachment) -> String {
    let Attachment { network, container_id, ifname } = attachment;
    format!("{ifname} of container {container_id} on {network:?}")
}

/// Returns `<container id>/<network>/<interface>`, by which servers know the attachment, as with the stock daemon.
fn id_text(attachment: &Attachment) -> String {
    format!("{}/{}/{}", attachment.container_id, attachment.network, attachment.ifname)
}

/// Returns the client identifier (option 61), with a type octet that means "not a hardware address".
fn client_id(attachment: &Attachment) -> Vec<u8> {
    let text = id_text(attachment);
    let mut id = vec![0];
    id.extend(text.bytes().take(MAX_ID));
    id
}

/// Returns the DUID: one per attachment, because to a server every container is a separate client. It is a DUID-UUID
/// (RFC 6355) derived from the text of the client identifier, so it lasts as long as the attachment without being
/// stored.
fn duid(attachment: &Attachment) -> Vec<u8> {
    let digest = Sha256::digest(id_text(attachment).as_bytes());
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest[..16]);
    // Version 8 (custom), variant 1.
    uuid[6] = (uuid[6] & 0x0f) | 0x80;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    let mut duid = vec![0, 4];
    duid.extend(uuid);
    duid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_know_an_attachment_by_its_name() {
        let mut attachment = Attachment { network: "net".into(), container_id: "cid".into(), ifname: "eth0".into() };
        assert_eq!(client_id(&attachment), b"\0cid/net/eth0");
        let one = duid(&attachment);
        assert_eq!((one.len(), &one[..2], one == duid(&attachment)), (18, &[0, 4][..], true));
        attachment.ifname = "eth1".into();
        assert_ne!(one, duid(&attachment));
        attachment.container_id = "x".repeat(300);
        assert_eq!(client_id(&attachment).len(), 255);
    }
}

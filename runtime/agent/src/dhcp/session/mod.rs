//! One lease of one attachment, from the first request to its end: a task that provides a client of `weft-dhcp` with
//! sockets, time, and a place in the store.
//!
//! Sockets are open while an answer may come, and for a while after the last request: an open socket would keep the
//! namespace of a removed container alive.

mod four;
mod six;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use weft_core::agent::Wish;
use weft_dhcp::{Lost, Millis};
use weft_host_abi::types::Attachment;

use super::Shared;
use super::lease_link::{LeaseLink, Link, PlaceError};
use super::socket::{Incoming, Opened, Sender, Socket};
use crate::dhcp::clock;
use crate::dhcp::store::{AnyLease, Row};

/// Maximum sleep: timers stop while the node sleeps, but the clock of leases does not.
const NAP: Millis = 60_000;
/// How long a socket stays open after a request.
const OPEN: Millis = 10_000;

/// The state of a lease.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// Being requested.
    Asking,
    /// Running.
    Bound(AnyLease),
    /// No lease was obtained, with the reason.
    Failed(Failure),
    /// It was running and is over, with the reason.
    Lost(String),
    /// Given back, or abandoned.
    Ended,
}

/// Why there is no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No server gave one.
    NoServer(String),
    /// It could not be requested.
    Place(String),
}

/// A command to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Give the lease back and end.
    Release,
    /// End, and keep the lease.
    Leave,
}

/// The subject of a task.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) attachment: Attachment,
    pub(super) place: LeaseLink,
    pub(super) wish: Wish,
}

impl Subject {
    /// Returns a name for the log.
    fn name(&self) -> String {
        let Attachment { network, container_id, ifname } = &self.attachment;
        format!("{ifname} of container {container_id} on {network:?}")
    }
}

/// The initial state of a task.
#[derive(Debug)]
pub(super) enum Start {
    /// Get a lease, preferably of that address.
    Acquire(Option<std::net::IpAddr>),
    /// Resume a lease.
    Resume { lease: AnyLease, mac: [u8; 6] },
}

/// The handle of a task. Dropping it does not end the task.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) is_v4: bool,
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<State>,
}

impl Handle {
    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Sends the task a command. A task that has ended, or has already got a command, ignores it.
    pub(super) fn send_command(&self, command: Command) {
        self.commands.try_send(command).ok();
    }

    /// Returns a receiver that reports whether the lease was obtained.
    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

/// Starts a task for an IPv4 lease.
pub(super) fn start_v4(shared: &Rc<Shared>, subject: Subject, start: Start) -> Handle {
    let (commands, state, handle) = channels(true, &start);
    let session = Session::new(Rc::clone(shared), subject, commands, state);
    tokio::task::spawn_local(four::run(session, start));
    handle
}

/// Starts a task for an IPv6 lease.
pub(super) fn start_v6(shared: &Rc<Shared>, subject: Subject, start: Start) -> Handle {
    let (commands, state, handle) = channels(false, &start);
    let session = Session::new(Rc::clone(shared), subject, commands, state);
    tokio::task::spawn_local(six::run(session, start));
    handle
}

fn channels(is_v4: bool, start: &Start) -> (mpsc::Receiver<Command>, watch::Sender<State>, Handle) {
    let (commands, received) = mpsc::channel(2);
    let initial = match start {
        Start::Acquire(_) => State::Asking,
        Start::Resume { lease, .. } => State::Bound(lease.clone()),
    };
    let (state, watched) = watch::channel(initial);
    (received, state, Handle { is_v4, commands, state: watched })
}

/// The common state of both kinds of task.
struct Session {
    shared: Rc<Shared>,
    subject: Subject,
    commands: mpsc::Receiver<Command>,
    state: watch::Sender<State>,
    /// Receives answers.
    socket: Option<Socket>,
    /// Sends renewals.
    sender: Option<Sender>,
    /// When an idle socket is closed.
    open_until: Millis,
    mac: [u8; 6],
}

/// Opens a socket; called inside the namespace.
type Opener<T> = Box<dyn FnOnce() -> std::io::Result<T> + Send>;

/// An event for which a task waits.
enum Event {
    Due,
    Command(Command),
    Incoming(Incoming),
}

impl Session {
    fn new(
        shared: Rc<Shared>,
        subject: Subject,
        commands: mpsc::Receiver<Command>,
        state: watch::Sender<State>,
    ) -> Self {
        Self { shared, subject, commands, state, socket: None, sender: None, open_until: 0, mac: [0; 6] }
    }

    /// Waits for the first event. Without a due time, only for a command.
    async fn wait(&mut self, next: Option<Millis>) -> Event {
        let now = clock::now();
        if self.socket.is_some() && now >= self.open_until {
            self.close();
        }
        let mut until = next.unwrap_or(Millis::MAX).min(now.saturating_add(NAP));
        if self.socket.is_some() {
            until = until.min(self.open_until);
        }
        let mut sleep = pin!(tokio::time::sleep(Duration::from_millis(until.saturating_sub(now))));
        let (commands, socket) = (&mut self.commands, &self.socket);
        poll_fn(|cx| {
            if let Poll::Ready(command) = commands.poll_recv(cx) {
                // Nobody holds the handle any more: the attachment was dropped.
                return Poll::Ready(Event::Command(command.unwrap_or(Command::Leave)));
            }
            if let Some(socket) = socket
                && let Poll::Ready(incoming) = socket.poll_receive(cx)
            {
                return Poll::Ready(Event::Incoming(incoming));
            }
            sleep.as_mut().poll(cx).map(|()| Event::Due)
        })
        .await
    }

    /// Checks the link and opens a socket in its namespace.
    async fn open<T: Send + 'static>(
        &self,
        opener: impl FnOnce(&LeaseLink, &Link) -> Opener<T> + Send + 'static,
    ) -> Result<(Link, T), PlaceError> {
        // If another process took the link down during use, it had a reason.
        let (place, bring_up) = (self.subject.place.clone(), self.is_new());
        let visit = move || {
            let link = place.look(bring_up)?;
            let opened = place.inside(opener(&place, &link))?;
            Ok((link, opened))
        };
        self.shared.visits.run(visit).await
    }

    /// Listens on a socket.
    fn listen(&mut self, opened: Opened) -> Result<(), PlaceError> {
        self.socket = Some(Socket::new(opened).map_err(|error| PlaceError::Failed(error.to_string()))?);
        self.asked();
        Ok(())
    }

    /// Closes all sockets.
    fn close(&mut self) {
        (self.socket, self.sender) = (None, None);
    }

    /// Notes that a request was sent: keep listening for a while.
    fn asked(&mut self) {
        self.open_until = clock::now().saturating_add(OPEN);
    }

    fn is_new(&self) -> bool {
        *self.state.borrow() == State::Asking
    }

    /// Records a lease: first in the store, then for waiting callers.
    fn bound(&self, lease: AnyLease) {
        let new = self.is_new();
        let Subject { attachment, place, wish } = &self.subject;
        let row = Row {
            attachment: attachment.clone(),
            netns: place.netns.clone(),
            identity: place.identity.clone(),
            boot_id: self.shared.boot_id.clone(),
            mac: self.mac,
            wish: wish.clone(),
            lease: lease.clone(),
        };
        if let Err(error) = self.shared.store.write_lease(&row) {
            // It is used anyway: with a full disk, an address that is not renewed after a restart is the lesser evil.
            self.shared
                .log
                .info(&format!("the lease of {} will not survive a restart: {error:#}", self.subject.name()));
        }
        if new {
            self.shared.log.info(&format!("{} has {}", self.subject.name(), lease.address()));
        }
        self.state.send_replace(State::Bound(lease));
    }

    /// Reports that no lease was obtained.
    fn failed(&self, failure: Failure) {
        let (Failure::NoServer(text) | Failure::Place(text)) = &failure;
        self.shared.log.info(&format!("{} got no address: {text}", self.subject.name()));
        self.state.send_replace(State::Failed(failure));
    }

    /// Ends the lease. The container must not continue to use the address: as with the stock daemon, its link is taken
    /// down.
    async fn end_lost_lease(&self, is_v4: bool, why: &Lost) {
        let place = self.subject.place.clone();
        let down = self.shared.visits.run(move || place.take_down()).await;
        let link = match down {
            Ok(()) => "its link was taken down".to_owned(),
            Err(error) => format!("its link could not be taken down: {error}"),
        };
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        self.shared.log.info(&format!("the {family} lease of {} is over: {why}; {link}", self.subject.name()));
        if let Some(events) = self.shared.events.get() {
            let Attachment { network, ifname, .. } = &self.subject.attachment;
            let text = format!("the {family} lease of {ifname} on network {network:?} is over: {why}; {link}");
            events.send_abandoned(&self.subject.attachment, text).await;
        }
        self.forget(is_v4);
        self.state.send_replace(State::Lost(why.to_string()));
    }

    /// Handles an unusable place. Returns whether to try again later.
    fn displaced(&self, is_v4: bool, error: &PlaceError) -> bool {
        if self.is_new() {
            self.failed(Failure::Place(error.to_string()));
            return false;
        }
        match error {
            PlaceError::Gone(_) => {
                self.shared.log.info(&format!("forgot the lease of {}: {error}", self.subject.name()));
                self.forget(is_v4);
                self.state.send_replace(State::Ended);
                false
            }
            PlaceError::Failed(_) => {
                self.shared.log.info(&format!("cannot renew the lease of {}: {error}", self.subject.name()));
                true
            }
        }
    }

    fn forget(&self, is_v4: bool) {
        if let Err(error) = self.shared.store.remove(&self.subject.attachment, is_v4) {
            self.shared.log.info(&format!("{error:#}"));
        }
    }

    /// Sets the final state of a task that got a command to end.
    fn ended(&self, is_v4: bool, command: Command) {
        if command == Command::Release {
            self.forget(is_v4);
        }
        self.state.send_replace(State::Ended);
    }
}

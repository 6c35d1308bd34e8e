//! One lease of one attachment, from the first question to its end: a task that gives a client of `weft-dhcp` its sockets, its
//! time, and its place in the store.
//!
//! Sockets are open while an answer may come, and for a while after the last question: an open one would keep the namespace
//! of a container that is gone.

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
use super::place::{Link, Place, PlaceError};
use super::socket::{Incoming, Opened, Sender, Socket};
use crate::dhcp::clock;
use crate::dhcp::store::{AnyLease, Row};

/// The clock of sleeps stops while the node sleeps, that of leases does not: look at least this often.
const NAP: Millis = 60_000;
/// How long a socket stays open after a question.
const OPEN: Millis = 10_000;

/// How a lease stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// Being asked for.
    Asking,
    /// Running.
    Bound(AnyLease),
    /// No lease was obtained: why.
    Failed(Failure),
    /// It was running, and is over: why.
    Lost(String),
    /// Given back, or left behind.
    Ended,
}

/// Why there is no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No server gave one.
    NoServer(String),
    /// It could not be asked for.
    Place(String),
}

/// A command to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Give the lease back and end.
    Release,
    /// End, and leave the lease as it is.
    Leave,
}

/// What a task is about.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) attachment: Attachment,
    pub(super) place: Place,
    pub(super) wish: Wish,
}

impl Subject {
    /// For the log.
    fn name(&self) -> String {
        let Attachment { network, container_id, ifname } = &self.attachment;
        format!("{ifname} of container {container_id} on {network:?}")
    }
}

/// How a task begins.
#[derive(Debug)]
pub(super) enum Start {
    /// Get a lease, that address where it can be had.
    Acquire(Option<std::net::IpAddr>),
    /// Go on with one.
    Resume { lease: AnyLease, mac: [u8; 6] },
}

/// A task from outside. Dropping it does not end the task.
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

    /// Sends the task a command. A task that has ended, or got one before, needs none.
    pub(super) fn tell(&self, command: Command) {
        self.commands.try_send(command).ok();
    }

    /// What to wait on until the lease is there or is not.
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

/// What both kinds of task share.
struct Session {
    shared: Rc<Shared>,
    subject: Subject,
    commands: mpsc::Receiver<Command>,
    state: watch::Sender<State>,
    /// What answers come through.
    socket: Option<Socket>,
    /// What renewals go out through.
    sender: Option<Sender>,
    /// When an idle socket is closed.
    open_until: Millis,
    mac: [u8; 6],
}

/// Opens a socket, once inside.
type Opener<T> = Box<dyn FnOnce() -> std::io::Result<T> + Send>;

/// What a task waits for.
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

    /// Waits for whatever comes first. With nothing that is ever due it is a command.
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
                // Nobody holds the handle any more: the attachment was forgotten.
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

    /// Looks at the link and opens a socket in its namespace.
    async fn open<T: Send + 'static>(
        &self,
        opener: impl FnOnce(&Place, &Link) -> Opener<T> + Send + 'static,
    ) -> Result<(Link, T), PlaceError> {
        // The process that took the link down while it was in use had a reason.
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

    /// Closes what is open.
    fn close(&mut self) {
        (self.socket, self.sender) = (None, None);
    }

    /// A question went out: keep listening for a while.
    fn asked(&mut self) {
        self.open_until = clock::now().saturating_add(OPEN);
    }

    fn is_new(&self) -> bool {
        *self.state.borrow() == State::Asking
    }

    /// Notes a lease: in the store first, then for the callers that wait.
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
        if let Err(error) = self.shared.store.put(&row) {
            // It is used all the same: with a full disk, an address that is not renewed after a restart is the lesser evil.
            self.shared
                .log
                .info(&format!("the lease of {} will not survive a restart: {error:#}", self.subject.name()));
        }
        if new {
            self.shared.log.info(&format!("{} has {}", self.subject.name(), lease.address()));
        }
        self.state.send_replace(State::Bound(lease));
    }

    /// No lease was obtained.
    fn failed(&self, failure: Failure) {
        let (Failure::NoServer(text) | Failure::Place(text)) = &failure;
        self.shared.log.info(&format!("{} got no address: {text}", self.subject.name()));
        self.state.send_replace(State::Failed(failure));
    }

    /// The lease is over and the container must not go on using the address: its link goes down, as with the stock daemon.
    async fn lost(&self, is_v4: bool, why: &Lost) {
        let place = self.subject.place.clone();
        let down = self.shared.visits.run(move || place.take_down()).await;
        let link = match down {
            Ok(()) => "its link was taken down".to_owned(),
            Err(error) => format!("its link could not be taken down: {error}"),
        };
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        self.shared.log.info(&format!("the {family} lease of {} is over: {why}; {link}", self.subject.name()));
        self.forget(is_v4);
        self.state.send_replace(State::Lost(why.to_string()));
    }

    /// The place cannot be used. Says whether to try again later.
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

    /// The last state of a task that got the command to end.
    fn ended(&self, is_v4: bool, command: Command) {
        if command == Command::Release {
            self.forget(is_v4);
        }
        self.state.send_replace(State::Ended);
    }
}

//! The IPv6 half: one datagram socket at the link-local address, which sends everything to all servers of the link.

use std::net::IpAddr;

use weft_dhcp::v6::{Client, Message, Output, Settings};

use super::{Command, Event, Failure, Opener, Session, Start};
use crate::dhcp::clock;
use crate::dhcp::duid;
use crate::dhcp::lease_link::{LeaseLink, Link, PlaceError};
use crate::dhcp::socket::{Opened, open_udp6};
use crate::dhcp::store::AnyLease;

/// The client has one IA; its DUID is unique already.
const IAID: u32 = 1;

pub(super) async fn run(mut session: Session, start: Start) {
    let now = clock::now();
    let (pace, seed) = (session.shared.pace, clock::seed());
    let settings = Settings { duid: duid(&session.subject.attachment), iaid: IAID, pace };
    let mut client = match start {
        Start::Resume { lease: AnyLease::V6(lease), mac } => {
            session.mac = mac;
            Client::resume(settings, lease, seed, now)
        }
        Start::Resume { .. } => return,
        Start::Acquire(wanted) => {
            let wanted = wanted.and_then(|address| match address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            });
            Client::acquire(settings, wanted, seed, now)
        }
    };
    let mut ending = None;
    let mut outputs = client.tick(clock::now());
    loop {
        if !carry_out(&mut session, &client, outputs, ending).await {
            return;
        }
        outputs = match session.wait(client.next()).await {
            Event::Due => client.tick(clock::now()),
            Event::Incoming(incoming) => match Message::read(&incoming.payload) {
                Ok(message) => client.receive(clock::now(), &message),
                Err(_not_ours) => Vec::new(),
            },
            Event::Command(Command::Release) if ending.is_none() && client.release(clock::now()) => {
                ending = Some(Command::Release);
                client.tick(clock::now())
            }
            // It is already being released, or there is no lease.
            Event::Command(Command::Release) if ending.is_some() => Vec::new(),
            Event::Command(command) => {
                session.ended(false, ending.unwrap_or(command));
                return;
            }
        };
    }
}

/// Executes the client's outputs. Returns whether there is anything left to do.
async fn carry_out(session: &mut Session, client: &Client, outputs: Vec<Output>, ending: Option<Command>) -> bool {
    for output in outputs {
        match output {
            Output::Send(bytes) => {
                if let Err(error) = send(session, &bytes).await
                    && !is_release_over(session, ending)
                    && !session.displaced(false, &error)
                {
                    return false;
                }
            }
            Output::Bound => {
                if let Some(lease) = client.lease() {
                    session.bound(AnyLease::V6(lease.clone()));
                }
                session.close();
            }
            Output::GaveUp(text) => {
                session.failed(Failure::NoServer(text));
                return false;
            }
            Output::Lost(why) => {
                session.close();
                session.end_lost_lease(false, &why).await;
                return false;
            }
            Output::Released => {
                session.shared.log.info(&format!("{} gave its IPv6 lease back", session.subject.name()));
                session.ended(false, Command::Release);
                return false;
            }
        }
    }
    true
}

/// A lease that is being given back cannot fail any more: the client ends by itself.
fn is_release_over(session: &Session, ending: Option<Command>) -> bool {
    if ending.is_some() {
        session.shared.log.info(&format!("{} could not give its IPv6 lease back", session.subject.name()));
    }
    ending.is_some()
}

async fn send(session: &mut Session, bytes: &[u8]) -> Result<(), PlaceError> {
    if session.socket.is_none() {
        let opener = |place: &LeaseLink, link: &Link| -> Opener<Opened> {
            let (index, ifname) = (link.index, place.ifname.clone());
            Box::new(move || open_udp6(index, &ifname))
        };
        let (link, opened) = session.open(opener).await?;
        session.mac = link.mac;
        session.listen(opened)?;
    }
    session.asked();
    let socket = session.socket.as_ref().ok_or_else(|| PlaceError::Failed("no socket is open".to_owned()))?;
    let ifname = &session.subject.place.ifname;
    socket.send_to_all(bytes).map_err(|error| PlaceError::Failed(format!("cannot send on {ifname}: {error}")))
}

//! The IPv4 half: uses packets until the client has an address, and datagrams for renewals.

use std::net::{IpAddr, Ipv4Addr};

use weft_dhcp::v4::{Client, Listen, Message, Output, Purpose, Settings};

use super::{Command, Event, Failure, Opener, Session, Start};
use crate::dhcp::client_id;
use crate::dhcp::clock;
use crate::dhcp::lease_link::{LeaseLink, Link, PlaceError};
use crate::dhcp::socket::{Opened, Sender, open_packet};
use crate::dhcp::store::AnyLease;

pub(super) async fn run(mut session: Session, start: Start) {
    let mut client = match begin(&mut session, start).await {
        Ok(client) => client,
        Err(error) => {
            session.displaced(true, &error);
            return;
        }
    };
    let mut outputs = client.tick(clock::now());
    loop {
        if !carry_out(&mut session, &client, outputs).await {
            return;
        }
        outputs = match session.wait(client.next()).await {
            Event::Due => client.tick(clock::now()),
            Event::Incoming(incoming) => match Message::read(&incoming.payload) {
                Ok(message) => client.receive(clock::now(), &message, incoming.mac),
                Err(_not_ours) => Vec::new(),
            },
            Event::Command(command) => {
                if command == Command::Release {
                    release(&mut session, client).await;
                }
                session.ended(true, command);
                return;
            }
        };
    }
}

async fn begin(session: &mut Session, start: Start) -> Result<Client, PlaceError> {
    let (now, seed) = (clock::now(), clock::seed());
    match start {
        Start::Resume { lease: AnyLease::V4(lease), mac } => {
            let link = Link { index: 0, mac, is_ipvlan: false };
            Ok(Client::resume(settings(session, &link), lease, seed, now))
        }
        Start::Resume { .. } => Err(PlaceError::Gone("a lease of the other family".to_owned())),
        Start::Acquire(wanted) => {
            let place = session.subject.place.clone();
            let link = session.shared.visits.run(move || place.look(true)).await?;
            let wanted = wanted.and_then(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            });
            Ok(Client::acquire(settings(session, &link), Purpose::Any(wanted), seed, now))
        }
    }
}

fn settings(session: &mut Session, link: &Link) -> Settings {
    session.mac = link.mac;
    let wish = &session.subject.wish;
    Settings {
        mac: link.mac,
        client_id: client_id(&session.subject.attachment),
        provide: wish.provide.iter().map(|(code, value)| (*code, value.clone().into_bytes())).collect(),
        request: wish.request.clone(),
        broadcast: wish.broadcast || link.is_ipvlan,
        pace: session.shared.pace,
    }
}

/// Executes the client's outputs. Returns whether there is anything left to do.
async fn carry_out(session: &mut Session, client: &Client, outputs: Vec<Output>) -> bool {
    for output in outputs {
        let sent = match output {
            Output::Broadcast { from, bytes } => frame(session, (from, Ipv4Addr::BROADCAST), None, &bytes).await,
            Output::Unicast { from, to, mac, bytes } => match client.listen() {
                Listen::Address(address) => datagram(session, address, to, &bytes).await,
                Listen::Link | Listen::Nowhere => frame(session, (from, to), mac, &bytes).await,
            },
            Output::Bound => {
                if let Some(lease) = client.lease() {
                    session.bound(AnyLease::V4(lease.clone()));
                }
                session.close();
                Ok(())
            }
            Output::GaveUp(text) => {
                session.failed(Failure::NoServer(text));
                return false;
            }
            Output::Lost(why) => {
                session.close();
                session.end_lost_lease(true, &why).await;
                return false;
            }
        };
        if let Err(error) = sent
            && !session.displaced(true, &error)
        {
            return false;
        }
    }
    true
}

/// Gives the lease back through the packet socket, to the source of the server's answers: a datagram would wait for an
/// address resolution, and the link may be deleted before.
async fn release(session: &mut Session, client: Client) {
    let Some(Output::Unicast { from, to, mac, bytes }) = client.release() else { return };
    let sent = match mac {
        Some(_) => frame(session, (from, to), mac, &bytes).await,
        None => datagram(session, from, to, &bytes).await,
    };
    let name = session.subject.name();
    session.shared.log.info(&match sent {
        Ok(()) => format!("{name} gave {from} back to {to}"),
        Err(error) => format!("{name} could not give {from} back to {to}: {error}"),
    });
}

/// Sends through the packet socket.
async fn frame(
    session: &mut Session,
    ends: (Ipv4Addr, Ipv4Addr),
    mac: Option<[u8; 6]>,
    bytes: &[u8],
) -> Result<(), PlaceError> {
    listen(session).await?;
    let socket = session.socket.as_ref().ok_or_else(|| PlaceError::Failed("no socket is open".to_owned()))?;
    socket.send_frame(ends, mac, bytes).map_err(|error| failed(&session.subject.place.ifname, &error))
}

/// Sends a datagram from the client's address. The packet socket listens for the answer: a server may broadcast a
/// refusal, which a socket bound to an address does not receive.
async fn datagram(session: &mut Session, from: Ipv4Addr, to: Ipv4Addr, bytes: &[u8]) -> Result<(), PlaceError> {
    listen(session).await?;
    if session.sender.is_none() {
        let opener = move |place: &LeaseLink, _link: &Link| -> Opener<Sender> {
            let ifname = place.ifname.clone();
            Box::new(move || Sender::open(from, &ifname))
        };
        session.sender = Some(session.open(opener).await?.1);
    }
    let sender = session.sender.as_ref().ok_or_else(|| PlaceError::Failed("no socket is open".to_owned()))?;
    sender.send(to, bytes).map_err(|error| failed(&session.subject.place.ifname, &error))
}

/// Opens the packet socket if it is not open.
async fn listen(session: &mut Session) -> Result<(), PlaceError> {
    if session.socket.is_none() {
        let opener = |_place: &LeaseLink, link: &Link| -> Opener<Opened> {
            let index = link.index;
            Box::new(move || open_packet(index))
        };
        let (_link, opened) = session.open(opener).await?;
        session.listen(opened)?;
    }
    session.asked();
    Ok(())
}

fn failed(ifname: &str, error: &std::io::Error) -> PlaceError {
    PlaceError::Failed(format!("cannot send on {ifname}: {error}"))
}

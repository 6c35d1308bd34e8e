//! A minimal netlink client: synchronous, one request at a time. For the raw program and the storm's oracle, which must
//! not share code with what they measure and observe.

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

/// A netlink socket. It stays in the netns it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

// === impl Netlink ===

impl Netlink {
    /// Opens a socket in the netns of the calling thread. It stays there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("open a netlink socket")?;
        socket.bind_auto().context("bind it")?;
        socket.connect(&SocketAddr::new(0, 0)).context("connect it")?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Looks a link up by name.
    ///
    /// # Errors
    /// `ENODEV` if it does not exist.
    pub fn link(&mut self, name: &str) -> Result<LinkMessage> {
        let mut ask = LinkMessage::default();
        ask.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.look_up(ask).with_context(|| format!("look {name} up"))
    }

    /// Looks a link up by index.
    ///
    /// # Errors
    /// `ENODEV` if it does not exist.
    pub fn link_at(&mut self, index: u32) -> Result<LinkMessage> {
        let mut ask = LinkMessage::default();
        ask.header.index = index;
        self.look_up(ask).with_context(|| format!("look link {index} up"))
    }

    fn look_up(&mut self, mut ask: LinkMessage) -> Result<LinkMessage> {
        // Counters are not needed, and are the larger part of an answer.
        ask.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = self.request(RouteNetlinkMessage::GetLink(ask), 0)?;
        match answers.into_iter().next() {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(link),
            other => bail!("an unexpected answer: {other:?}"),
        }
    }

    /// Changes a link.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn set_link(&mut self, link: LinkMessage) -> Result<()> {
        self.acknowledged(RouteNetlinkMessage::NewLink(link), 0)
    }

    /// Sends a request that changes something, and waits until it is done.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn acknowledged(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.request(message, flags | NLM_F_ACK).map(drop)
    }

    /// Sends one request and collects its answers, up to the acknowledgement, the end of the dump, or the single
    /// answer.
    ///
    /// # Errors
    /// The kernel's error, as an `Errno`.
    pub fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut buffer = vec![0; request.buffer_len()];
        request.serialize(&mut buffer);
        self.socket.send(&buffer, 0).context("send")?;

        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full().context("receive")?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).context("read an answer")?;
                rest = rest.get(aligned(answer.header.length)..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(answers),
                        Some(code) => return Err(Errno::from_raw(code.get().wrapping_neg()).into()),
                    },
                    _ => {}
                }
            }
            if flags & (NLM_F_ACK | NLM_F_DUMP) == 0 {
                return Ok(answers);
            }
        }
    }
}

/// Rounds up to a multiple of four, where a datagram's next message starts.
fn aligned(length: u32) -> usize {
    usize::try_from(length).map_or(usize::MAX, |length| length.next_multiple_of(4))
}

//! Traffic control: token bucket filters, the ingress hook of a link, and the filter there that redirects everything.
//!
//! The token bucket's options are encoded here: the crate has no type for them. Sizes are those of the kernel's
//! `linux/pkt_sched.h`.

use netlink_packet_core::{DefaultNla, Emitable};
use rtnetlink::packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key,
    TcU32Selector, TcU32SelectorFlags,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{ChangeMode, Rtnl};
use crate::netlink::fault::Fault;

/// Handle of a link's token bucket.
pub(in crate::netlink) const ROOT_HANDLE: TcHandle = TcHandle { major: 1, minor: 0 };
/// The handle that the kernel gives the ingress hook.
pub(in crate::netlink) const INGRESS_HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// `TCA_OPTIONS`.
const OPTIONS: u16 = 2;
/// `TCA_TBF_PARMS`, `TCA_TBF_RATE64`.
const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
/// Sizes of `struct tc_ratespec`, and of `struct tc_tbf_qopt`: two of those, then limit, buffer and mtu.
const RATESPEC: usize = 12;
const TBF_QOPT: usize = 2 * RATESPEC + 12;
/// Offset of the rate in `struct tc_ratespec`.
const RATE_AT: usize = 8;
/// `ETH_P_ALL`: every frame.
const EVERY_PROTOCOL: u16 = 0x0003;
/// Priority of the redirecting filter.
const PRIORITY: u32 = 1;
/// Microseconds per second, and scheduler ticks per microsecond: since 2.6.31, `/proc/net/psched` reports 1000/64 on
/// every kernel (`PSCHED_SHIFT` is 6).
const MICROS: f64 = 1e6;
const TICKS: f64 = 15.625;
/// How long a packet may wait for tokens, in microseconds, as in the reference plugin.
const LATENCY: f64 = 25_000.0;

/// The parameters of a token bucket filter, in the kernel's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::netlink) struct Tbf {
    /// Bytes per second.
    pub(in crate::netlink) rate: u64,
    /// Duration of the burst at that rate, in ticks.
    pub(in crate::netlink) buffer: u32,
    /// Bytes that may wait.
    pub(in crate::netlink) limit: u32,
}

/// A queueing discipline of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::netlink) struct Qdisc {
    pub(in crate::netlink) kind: String,
    /// Whether it was requested explicitly; the kernel's default has no handle.
    pub(in crate::netlink) explicit: bool,
    /// Its parameters, if it is a token bucket.
    pub(in crate::netlink) tbf: Option<Tbf>,
    /// The complete message, so that it can be restored.
    pub(in crate::netlink) message: TcMessage,
}

fn message(index: u32, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or_default());
    message.header.family = AddressFamily::Unspec;
    message.header.handle = handle;
    message.header.parent = parent;
    message
}

/// Identifies the queueing discipline at the root or at the ingress hook of a link, whatever its kind.
pub(in crate::netlink) fn qdisc_selector(index: u32, parent: TcHandle) -> TcMessage {
    message(index, TcHandle::UNSPEC, parent)
}

/// Returns a token bucket at the root of a link.
pub(in crate::netlink) fn tbf_message(index: u32, tbf: Tbf) -> TcMessage {
    let mut message = message(index, ROOT_HANDLE, TcHandle::ROOT);
    message.attributes.push(TcAttribute::Kind("tbf".to_owned()));
    message.attributes.push(TcAttribute::Other(DefaultNla::new(OPTIONS, tbf.bytes())));
    message
}

/// Returns the ingress hook of a link.
pub(in crate::netlink) fn ingress_message(index: u32) -> TcMessage {
    let mut message = message(index, INGRESS_HANDLE, TcHandle::INGRESS);
    message.attributes.push(TcAttribute::Kind("ingress".to_owned()));
    message
}

/// Returns the filter that redirects all incoming traffic of a link to another.
pub(in crate::netlink) fn redirect_message(from: u32, to: u32) -> TcMessage {
    let mut message = message(from, TcHandle::UNSPEC, INGRESS_HANDLE);
    message.header.info = PRIORITY << 16 | u32::from(EVERY_PROTOCOL.to_be());
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    // A key without a mask matches everything.
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let mut mirror = TcMirror::default();
    mirror.generic = TcActionGeneric::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    message.attributes.push(TcAttribute::Kind(TcFilterU32::KIND.to_owned()));
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::U32(TcFilterU32Option::Selector(selector)),
        TcOption::U32(TcFilterU32Option::ClassId(TcHandle { major: 1, minor: 1 })),
        TcOption::U32(TcFilterU32Option::Action(vec![action])),
    ]));
    message
}

/// Returns the links to which the filters of an ingress hook redirect everything, in order; `None` if one of them does
/// something else.
pub(in crate::netlink) fn redirect_targets(filters: &[TcMessage]) -> Option<Vec<u32>> {
    let mut targets = Vec::new();
    for filter in filters {
        let mut kinds = filter.attributes.iter().filter_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind),
            _ => None,
        });
        if kinds.next().is_none_or(|kind| kind != TcFilterU32::KIND) {
            return None;
        }
        // The kind's own table is listed too, and has neither keys nor actions.
        match (keys(filter), redirection(filter)) {
            (None, None) => {}
            (Some(0), Some(target)) => targets.push(target),
            _ => return None,
        }
    }
    Some(targets)
}

fn u32_options(filter: &TcMessage) -> impl Iterator<Item = &TcFilterU32Option> {
    let options = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().filter_map(|option| match option {
        TcOption::U32(option) => Some(option),
        _ => None,
    })
}

/// Returns the number of bits that a filter compares: 0 if it matches everything.
fn keys(filter: &TcMessage) -> Option<u32> {
    u32_options(filter).find_map(|option| match option {
        TcFilterU32Option::Selector(selector) => Some(selector.keys.iter().fold(0, |bits, key| bits | key.mask)),
        _ => None,
    })
}

/// Returns the link to which the first action of a filter redirects.
fn redirection(filter: &TcMessage) -> Option<u32> {
    let actions = u32_options(filter).find_map(|option| match option {
        TcFilterU32Option::Action(actions) => actions.first(),
        _ => None,
    });
    let options = actions.into_iter().flat_map(|action| &action.attributes).filter_map(|attribute| match attribute {
        TcActionAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))
            if mirror.eaction == TcMirrorActionType::EgressRedir =>
        {
            Some(mirror.ifindex)
        }
        _ => None,
    })
}

// === impl Tbf ===

impl Tbf {
    /// Returns the reference plugin's parameters for a rate in bytes per second and a burst in bytes.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the cast saturates, which is the wanted result for very large rates"
    )]
    pub(in crate::netlink) fn new(rate: u64, burst: u32) -> Self {
        let micros = (f64::from(burst) * MICROS / rate as f64) as u32;
        let buffer = (f64::from(micros) * TICKS) as u32;
        let limit = ((rate as f64 * LATENCY / MICROS) as u32).saturating_add(burst);
        Self { rate, buffer, limit }
    }

    fn bytes(self) -> Vec<u8> {
        let mut parms = vec![0; TBF_QOPT];
        // A rate that does not fit is all ones here, and exact in a separate attribute.
        let short = u32::try_from(self.rate).unwrap_or(u32::MAX);
        let numbers = [(RATE_AT, short), (2 * RATESPEC, self.limit), (2 * RATESPEC + 4, self.buffer)];
        for (at, number) in numbers {
            if let Some(place) = parms.get_mut(at..at + 4) {
                place.copy_from_slice(&number.to_ne_bytes());
            }
        }
        let mut attributes = vec![DefaultNla::new(TBF_PARMS, parms)];
        if u32::try_from(self.rate).is_err() {
            attributes.push(DefaultNla::new(TBF_RATE64, self.rate.to_ne_bytes().to_vec()));
        }
        let mut bytes = vec![0; attributes.as_slice().buffer_len()];
        attributes.as_slice().emit(&mut bytes);
        bytes
    }

    /// Parses the kernel's options of a token bucket.
    fn read(mut bytes: &[u8]) -> Option<Self> {
        let (mut found, mut wide) = (None, None);
        while let [a, b, c, d, ..] = *bytes {
            let length = usize::from(u16::from_ne_bytes([a, b]));
            let value = bytes.get(4..length)?;
            match u16::from_ne_bytes([c, d]) {
                TBF_PARMS => {
                    let number =
                        |at: usize| value.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_ne_bytes);
                    let (rate, limit, buffer) = (number(RATE_AT)?, number(2 * RATESPEC)?, number(2 * RATESPEC + 4)?);
                    found = Some(Self { rate: rate.into(), buffer, limit });
                }
                TBF_RATE64 => wide = value.try_into().ok().map(u64::from_ne_bytes),
                _ => {}
            }
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        found.map(|tbf| Self { rate: wide.unwrap_or(tbf.rate), ..tbf })
    }
}

// === impl Qdisc ===

impl Qdisc {
    fn read(mut message: TcMessage) -> Self {
        let mut kind = String::new();
        let mut tbf = None;
        for attribute in &mut message.attributes {
            match attribute {
                TcAttribute::Kind(name) => kind.clone_from(name),
                // For unknown kinds, the crate returns the whole attribute, and would wrap it again.
                TcAttribute::Options(options) => {
                    if let [TcOption::Other(raw)] = options.as_slice() {
                        let mut bytes = vec![0; raw.buffer_len()];
                        raw.emit(&mut bytes);
                        let value = bytes.get(4..).unwrap_or_default().to_vec();
                        tbf = Some(&kind).filter(|kind| *kind == "tbf").and_then(|_tbf| Tbf::read(&value));
                        *attribute = TcAttribute::Other(DefaultNla::new(OPTIONS, value));
                    }
                }
                _ => {}
            }
        }
        // Its counters are not part of its definition.
        message.attributes.retain(|attribute| {
            matches!(attribute, TcAttribute::Kind(_) | TcAttribute::Options(_))
                || matches!(attribute, TcAttribute::Other(raw) if netlink_packet_core::Nla::kind(raw) == OPTIONS)
        });
        message.header.info = 0;
        Self { kind, explicit: message.header.handle.major != 0, tbf, message }
    }
}

// === impl Rtnl ===

impl Rtnl {
    /// Reads the queueing discipline at the root or at the ingress hook of a link.
    pub(in crate::netlink) fn qdisc(&self, index: u32, parent: TcHandle) -> Result<Option<Qdisc>, Fault> {
        let request = RouteNetlinkMessage::GetQueueDiscipline(qdisc_selector(index, parent));
        let answers = match self.ask_echo(request) {
            // The placeholder of a link that was never up exists but is not shown.
            Err(fault) if fault.is_absent() || fault.errno() == Some(nix::errno::Errno::EINVAL) => return Ok(None),
            other => other?,
        };
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(message) => Some(Qdisc::read(message)),
            _ => None,
        }))
    }

    /// Adds a queueing discipline.
    pub(in crate::netlink) fn add_qdisc(&self, message: TcMessage) -> Result<(), Fault> {
        self.change(RouteNetlinkMessage::NewQueueDiscipline(message), ChangeMode::Create)
    }

    /// Removes a queueing discipline. Returns `false` if it does not exist, or is the kernel's own.
    pub(in crate::netlink) fn delete_qdisc(&self, message: TcMessage) -> Result<bool, Fault> {
        match self.change(RouteNetlinkMessage::DelQueueDiscipline(message), ChangeMode::Set) {
            Ok(()) => Ok(true),
            // EINVAL: there is no ingress hook.
            Err(fault) if fault.is_absent() || fault.errno() == Some(nix::errno::Errno::EINVAL) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Reads the filters at the ingress hook of a link.
    pub(in crate::netlink) fn ingress_filters(&self, index: u32) -> Result<Vec<TcMessage>, Fault> {
        let request = message(index, TcHandle::UNSPEC, INGRESS_HANDLE);
        let answers = match self.dump(RouteNetlinkMessage::GetTrafficFilter(request)) {
            Err(fault) if fault.is_absent() => return Ok(Vec::new()),
            other => other?,
        };
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewTrafficFilter(message) => Some(message),
                _ => None,
            })
            .collect())
    }

    /// Adds a filter.
    pub(in crate::netlink) fn add_filter(&self, message: TcMessage) -> Result<(), Fault> {
        self.change(RouteNetlinkMessage::NewTrafficFilter(message), ChangeMode::Create)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Computed manually from the reference plugin's formulas.
    #[test]
    fn numbers() {
        assert_eq!(Tbf::new(1, 1), Tbf { rate: 1, buffer: 15_625_000, limit: 1 });
        assert_eq!(Tbf::new(2_500_000, 125_000), Tbf { rate: 2_500_000, buffer: 781_250, limit: 187_500 });
        assert_eq!(Tbf::new(3, 7), Tbf { rate: 3, buffer: 36_458_328, limit: 7 });
        assert_eq!(Tbf::new(1, u32::MAX), Tbf { rate: 1, buffer: u32::MAX, limit: u32::MAX });
    }

    #[test]
    fn there_and_back() {
        for rate in [1, 125, u64::from(u32::MAX), 1 << 40] {
            let tbf = Tbf::new(rate, 100_000);
            assert_eq!(Tbf::read(&tbf.bytes()), Some(tbf));
        }
        assert_eq!(Tbf::read(&[]), None);
        assert_eq!(Tbf::read(&[36, 0, 1, 0, 1]), None);
    }

    #[test]
    fn only_hooks_that_redirect_everything_are_ours() {
        let filter = redirect_message(7, 9);
        assert_eq!(redirect_targets(&[]), Some(vec![]));
        assert_eq!(redirect_targets(&[filter.clone(), redirect_message(7, 8)]), Some(vec![9, 8]));
        let mut narrow = filter.clone();
        for attribute in &mut narrow.attributes {
            if let TcAttribute::Options(options) = attribute {
                for option in options {
                    if let TcOption::U32(TcFilterU32Option::Selector(selector)) = option {
                        selector.keys[0].mask = 0xff;
                    }
                }
            }
        }
        assert_eq!(redirect_targets(&[narrow]), None);
        let mut other = filter;
        other.attributes[0] = TcAttribute::Kind("matchall".to_owned());
        assert_eq!(redirect_targets(&[other]), None);
    }
}

//! Measures durations and numbers of messages. Not part of a normal run: `-- --ignored bench --nocapture`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{AddressMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::os::fd::AsRawFd;
use weft_core::netlink::Executor;
use weft_core::plan::{LinkRef, Plan};

use crate::plans::*;
use crate::support::*;

const ROUNDS: usize = 100;

const REASON: Option<&str> = Some("a benchmark: ask for it with --ignored");

pub(crate) fn tests() -> Vec<crate::Test> {
    vec![
        ("bench::bridge_add", REASON, bridge_add),
        ("bench::raw_add", REASON, raw_add),
        ("bench::lookups", REASON, lookups),
    ]
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn with_host(plan: &Plan, host: &str) -> Plan {
    let text = serde_json::to_string(plan).expect("json").replace(HOST_VETH, host);
    serde_json::from_str(&text).expect("json")
}

fn bridge_add() {
    let host = Ns::new();
    let keeper = Ns::new();
    host.run(|| {
        // Steady state: the bridge, its gateway and the tables exist.
        let mut first = Executor::open(Some(keeper.path())).expect("open");
        let _kept = first.apply(&with_host(&bridge_v4(), "vethfirst")).expect("first");
        for (name, plan) in [("bridge v4", bridge_v4()), ("bridge dual stack, all options", bridge_l3())] {
            let (mut open, mut apply, mut teardown) = (Vec::new(), Vec::new(), Vec::new());
            let mut messages = 0;
            for _ in 0..ROUNDS {
                let pod = Ns::new();
                let start = Instant::now();
                let mut executor = Executor::open(Some(pod.path())).expect("open");
                open.push(start.elapsed());
                let start = Instant::now();
                let applied = executor.apply(&plan).unwrap_or_else(|error| panic!("{error}: {}", error.cause));
                apply.push(start.elapsed());
                messages = executor.messages_sent();
                drop(applied);
                let start = Instant::now();
                assert!(executor.teardown(&plan, &BTreeSet::new()).is_empty());
                teardown.push(start.elapsed());
            }
            println!(
                "{name}: {messages} messages, open {:?}, apply {:?}, teardown {:?} (medians of {ROUNDS})",
                median(&mut open),
                median(&mut apply),
                median(&mut teardown)
            );
            per_op(&plan);
        }
    });
}

fn per_op(plan: &Plan) {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); plan.ops.len()];
    for _ in 0..ROUNDS {
        let pod = Ns::new();
        let mut executor = Executor::open(Some(pod.path())).expect("open");
        for (op, times) in plan.ops.iter().zip(&mut times) {
            let single = Plan { ops: vec![op.clone()], ..Plan::default() };
            let start = Instant::now();
            executor.apply(&single).unwrap_or_else(|error| panic!("{error}: {}", error.cause));
            times.push(start.elapsed());
        }
        assert!(executor.teardown(plan, &BTreeSet::new()).is_empty());
    }
    for (op, times) in plan.ops.iter().zip(&mut times) {
        println!("  {:>10.1?}  {op}", median(times));
    }
}

/// The requests of the plan in its steady state, encoded beforehand, over blocking sockets: the kernel's share of the
/// cost. Sysctls are left out.
struct Raw {
    host: Socket,
    pod: Socket,
    filter: Socket,
    buffer: Vec<u8>,
}

/// One of the sockets.
type Choose = fn(&Raw) -> &Socket;

impl Raw {
    fn ask(&mut self, socket: Choose, message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = 1;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.exchange(socket, &bytes, flags)
    }

    fn exchange(&mut self, socket: Choose, bytes: &[u8], flags: u16) -> Vec<u8> {
        socket(self).send_to(bytes, &SocketAddr::new(0, 0), 0).expect("send");
        let mut first = Vec::new();
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            socket(self).recv(&mut buffer, 0).expect("receive");
            let kind = u16::from_ne_bytes([buffer[4], buffer[5]]);
            if kind == 2 {
                assert_eq!(buffer[16..20], [0; 4], "refused");
            }
            if first.is_empty() {
                first.clone_from(&buffer);
            }
            self.buffer = buffer;
            if kind == 2 || kind == 3 || (flags & (NLM_F_ACK | NLM_F_DUMP) == 0) {
                return first;
            }
        }
    }
}

fn raw_add() {
    let (host, keeper) = (Ns::new(), Ns::new());
    // Creating and deleting namespaces holds the kernel's lock for links, so all of them exist from start to end.
    let pods: Vec<Ns> = (0..ROUNDS * 2).map(|_| Ns::new()).collect();
    host.run(|| {
        let mut first = Executor::open(Some(keeper.path())).expect("open");
        let kept = first.apply(&with_host(&bridge_v4(), "vethfirst")).expect("first");
        let bridge = kept.links[&LinkRef::host("weft0")].index;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (round, pod) in pods.iter().enumerate() {
            if round % 2 == 0 {
                let mut executor = Executor::open(Some(pod.path())).expect("open");
                std::thread::sleep(Duration::from_millis(3));
                let start = Instant::now();
                executor.apply(&bridge_v4()).expect("apply");
                ours.push(start.elapsed());
                executor.teardown(&bridge_v4(), &BTreeSet::new());
            } else {
                let sockets = || Socket::new(NETLINK_ROUTE).expect("socket");
                let (near, far) = (sockets(), pod.run(sockets));
                near.set_netlink_get_strict_chk(true).expect("strict");
                let mut filter = Socket::new(netlink_sys::protocols::NETLINK_NETFILTER).expect("socket");
                filter.bind_auto().expect("bind");
                let mut raw = Raw { host: near, pod: far, filter, buffer: Vec::with_capacity(65536) };
                let netns = std::fs::File::open(pod.path()).expect("netns");
                std::thread::sleep(Duration::from_millis(3));
                let start = Instant::now();
                raw.requests(bridge, netns.as_raw_fd());
                theirs.push(start.elapsed());
                first.teardown(&bridge_v4(), &BTreeSet::new());
            }
        }
        let (ours_least, theirs_least) = (ours.iter().min().copied(), theirs.iter().min().copied());
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        println!("least: {:?} and {:?}", ours_least, theirs_least);
        println!("apply {ours:?}, the same requests raw {theirs:?}: {:.2}", ours.as_secs_f64() / theirs.as_secs_f64());
    });
}

impl Raw {
    fn requests(&mut self, bridge: u32, netns: i32) {
        use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkExtentMask};
        let skip = || LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
        let get = |index| {
            RouteNetlinkMessage::GetLink(LinkUnspec::new_with_index(index).append_extra_attribute(skip()).build())
        };
        let (request, ack) = (NLM_F_REQUEST, NLM_F_REQUEST | NLM_F_ACK);
        let create = ack | NLM_F_CREATE | NLM_F_EXCL;
        let (host, pod): (Choose, Choose) = (|raw| &raw.host, |raw| &raw.pod);
        let named = LinkUnspec::new_with_name("weft0").append_extra_attribute(skip()).build();
        self.ask(host, RouteNetlinkMessage::GetLink(named), request);
        let peer = LinkUnspec::new_with_name("eth0").setns_by_fd(netns).build();
        let veth = LinkVeth::new(HOST_VETH, "eth0").up().controller(bridge);
        let veth = veth.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
        let made = self.ask(host, RouteNetlinkMessage::NewLink(veth), create | NLM_F_ECHO);
        let index = u32::from_ne_bytes([made[20], made[21], made[22], made[23]]);
        let address =
            AddressMessageBuilder::<std::net::Ipv4Addr>::new().index(2).address([10, 88, 0, 2].into(), 24).build();
        self.ask(pod, RouteNetlinkMessage::NewAddress(address), create);
        self.ask(pod, RouteNetlinkMessage::NewLink(LinkUnspec::new_with_index(2).up().build()), ack);
        let route =
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway([10, 88, 0, 1].into()).output_interface(2).build();
        self.ask(pod, RouteNetlinkMessage::NewRoute(route), ack | NLM_F_CREATE);
        let mut addresses = rtnetlink::packet_route::address::AddressMessage::default();
        addresses.header.index = bridge;
        addresses.header.family = rtnetlink::packet_route::AddressFamily::Inet;
        self.ask(host, RouteNetlinkMessage::GetAddress(addresses), request | NLM_F_DUMP);
        self.filter_elements();
        self.ask(host, get(index), request);
        self.ask(host, get(bridge), request);
        self.ask(pod, get(2), request);
    }

    /// Two elements in one transaction, by hand.
    fn filter_elements(&mut self) {
        fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
            let length = u16::try_from(value.len() + 4).expect("short");
            let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        }
        fn message(kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) -> Vec<u8> {
            let length = u32::try_from(body.len() + 20).expect("short");
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
            bytes.extend([1, 0, 0, 0, 0, 0, 0, 0, family, 0]);
            bytes.extend(resource.to_be_bytes());
            bytes.extend(body);
            bytes
        }
        const NESTED: u16 = 0x8000;
        let element = |set: &str, key: &[u8], end: Option<&[u8]>| {
            let mut attributes = nla(1 | NESTED, &nla(1, key));
            attributes.extend(end.map(|end| nla(10 | NESTED, &nla(1, end))).unwrap_or_default());
            let list = nla(3 | NESTED, &nla(1 | NESTED, &attributes));
            [nla(1, b"weft\0"), nla(2, set.as_bytes()), list].concat()
        };
        let add = |body: Vec<u8>| message(0xa0c, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0, &body);
        let bytes = [
            message(16, NLM_F_REQUEST, 0, 10, &[]),
            add(element("masq4\0", &[10, 88, 0, 2], None)),
            add(element("masq4_local\0", &[10, 88, 0, 2, 10, 88, 0, 0], Some(&[10, 88, 0, 2, 10, 88, 0, 255]))),
            message(17, NLM_F_REQUEST, 0, 10, &[]),
        ]
        .concat();
        let filter: Choose = |raw| &raw.filter;
        self.exchange(filter, &bytes, NLM_F_ACK);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.filter.recv(&mut buffer, 0).expect("second acknowledgement");
        self.buffer = buffer;
    }
}

fn lookups() {
    use weft_core::plan::Need;
    let (host, pod) = (Ns::new(), Ns::new());
    host.sh("ip link add weft0 type bridge && ip link set weft0 up");
    host.run(|| {
        for _ in 0..3 {
            let mut executor = Executor::open(Some(pod.path())).expect("open");
            let mut times = Vec::new();
            for _ in 0..2000 {
                let start = Instant::now();
                executor.observe(&[Need::Link(LinkRef::host("nolink"))]).expect("observe");
                times.push(start.elapsed());
            }
            println!(
                "missing link: first {:?} second {:?} third {:?} median {:?}",
                times[0],
                times[1],
                times[2],
                median(&mut times.clone())
            );
            let mut times = Vec::new();
            for _ in 0..2000 {
                let start = Instant::now();
                executor.observe(&[Need::Link(LinkRef::host("weft0"))]).expect("observe");
                times.push(start.elapsed());
            }
            println!(
                "link+addresses: first {:?} second {:?} third {:?} median {:?}",
                times[0],
                times[1],
                times[2],
                median(&mut times.clone())
            );
        }
    });
}

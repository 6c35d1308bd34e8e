//! Golden plans. They are compared as JSON, the form in which the journal stores
//! them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod bridge;
mod dummy;
mod fuzz;
mod host_device;
mod ipvlan;
mod loopback;
mod macvlan;
mod ptp;
mod tap;
mod vlan;

use ipnet::IpNet;
use serde_json::{Value, json};
use weft_host_abi::types::{Attachment, Dns, Route};

use super::*;
use crate::cni::{CniResult, Object, read_dns};
use crate::plan::{DeviceLink, FoundDevice, LinkInfo, LinkRef, Mac, Need, Observed, Op, Plan, Side};

/// A call of a delegate; tests change what they are about.
struct Call {
    kind: &'static str,
    conf: Value,
    cni_args: Vec<(String, String)>,
    addressing: Option<Addressing>,
    previous: Option<CniResult>,
    observed: Observed,
    beside: Vec<IpNet>,
}

impl Call {
    fn new(kind: &'static str, conf: Value) -> Self {
        Self {
            kind,
            conf,
            cni_args: Vec::new(),
            addressing: None,
            previous: None,
            observed: Observed::default(),
            beside: Vec::new(),
        }
    }

    fn with_addresses(mut self, ips: &[(&str, Option<&str>)], routes: &[(&str, Option<&str>)]) -> Self {
        let addr = |text: &str| text.parse().unwrap();
        self.addressing = Some(Addressing {
            ips: ips
                .iter()
                .map(|(address, gateway)| Given { address: address.parse().unwrap(), gateway: gateway.map(addr) })
                .collect(),
            routes: routes.iter().map(|(dst, gw)| Route::new(dst.parse().unwrap(), gw.map(addr))).collect(),
            dns: Dns { nameservers: vec!["10.0.0.53".to_owned()], ..Dns::default() },
            unique: true,
            probe_ms: None,
        });
        self
    }

    fn arg(mut self, key: &str, value: &str) -> Self {
        self.cni_args.push((key.to_owned(), value.to_owned()));
        self
    }

    fn with_link(mut self, link: LinkRef, kind: &str, mtu: u32) -> Self {
        let info = LinkInfo { index: 7, mtu, kind: kind.to_owned(), up: true, ..LinkInfo::default() };
        if link.side == Side::Host {
            let name = link.name.clone();
            self.observed.device = Some(FoundDevice::Link(DeviceLink { name, mtu, ..DeviceLink::default() }));
        }
        self.observed.links.insert(link, info);
        self
    }

    fn plan(&self) -> Result<Plan, DelegateError> {
        let conf = Object::from_value(self.conf.clone()).unwrap();
        let delegate = find(self.kind).unwrap();
        delegate.validate(&conf, &self.cni_args)?;
        let attachment =
            Attachment { network: "net".to_owned(), container_id: "c1".to_owned(), ifname: "eth0".to_owned() };
        let dns = read_dns(&conf).unwrap();
        delegate.plan(&Input {
            conf: &conf,
            attachment: &attachment,
            cni_args: &self.cni_args,
            addressing: self.addressing.as_ref(),
            previous: self.previous.as_ref(),
            observed: &self.observed,
            dns: dns.as_ref(),
            beside: &self.beside,
            fresh_ifname: "veth01020304",
            fresh_mac: Mac([2, 0, 0, 0, 0, 9]),
        })
    }

    fn ops(&self) -> Value {
        serde_json::to_value(self.plan().unwrap().ops).unwrap()
    }

    /// The ops of one kind.
    fn ops_of_kind(&self, op: &str) -> Vec<Value> {
        self.ops().as_array().unwrap().iter().filter(|entry| entry["op"] == op).cloned().collect()
    }

    /// Describes the ops, one line each.
    fn lines(&self) -> Vec<String> {
        self.plan().unwrap().ops.iter().map(ToString::to_string).collect()
    }

    fn error(&self) -> String {
        self.plan().unwrap_err().to_string()
    }
}

/// A configuration with another key.
fn with_key(mut conf: Value, key: &str, value: Value) -> Value {
    conf[key] = value;
    conf
}

#[test]
fn every_delegate_is_found_by_its_name() {
    let all = ["bridge", "ptp", "macvlan", "ipvlan", "vlan", "dummy", "host-device", "tap", "loopback"];
    assert_eq!(kinds().collect::<Vec<_>>(), all);
    for kind in kinds() {
        assert_eq!(find(kind).unwrap().kind(), kind);
    }
    assert!(find("ovs").is_none());
}

/// DEL removes a link of the stock plugin in the same way as one of ours.
#[test]
fn the_bare_op_tears_the_same_link_down() {
    for kind in kinds() {
        let delegate = find(kind).unwrap();
        let call = Call::new(kind, json!({"master": "p", "device": "p"}))
            .with_addresses(&[("10.0.0.2/24", Some("10.0.0.1"))], &[]);
        let plan = call.with_link(LinkRef::host("p"), "", 1500).plan().unwrap();
        let links = |op: &Op| match op {
            Op::TakeDevice(taken) => Some((taken.link(), "")),
            Op::LinkUp { link } if link.name == "lo" => Some((link.clone(), "")),
            op => op.made_link().map(|(name, kind)| (LinkRef::container(name), kind)),
        };
        let ours: Vec<_> = plan.ops.iter().filter_map(links).collect();
        assert_eq!(ours, [links(&delegate.link_op("eth0")).unwrap()], "{kind}");
    }
}

#[test]
fn a_plan_survives_the_journal() {
    let call = Call::new("bridge", json!({"isDefaultGateway": true, "ipMasq": true, "vlan": 5, "macspoofchk": true}))
        .with_addresses(&[("10.0.0.2/24", None), ("fd00::2/64", None)], &[]);
    let plan = call.plan().unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn an_empty_address_list_is_an_error_for_all_that_take_addresses() {
    for kind in kinds().filter(|kind| find(kind).is_some_and(|delegate| delegate.ipam() != IpamUse::Never)) {
        let call = Call::new(kind, json!({"master": "p", "device": "p"})).with_addresses(&[], &[]).with_link(
            LinkRef::host("p"),
            "",
            1500,
        );
        assert_eq!(call.error(), "IPAM plugin returned missing IP config", "{kind}");
    }
}

#[test]
fn a_wrong_type_has_the_stock_text() {
    for kind in kinds().filter(|kind| find(kind).is_some_and(|delegate| delegate.keys().contains(&"mtu"))) {
        let text = Call::new(kind, json!({"mtu": "big", "master": "p"})).error();
        assert_eq!(
            text, "failed to load netconf: json: cannot unmarshal string \"big\" into field mtu of type int",
            "{kind}"
        );
    }
}

#[test]
fn the_side_of_a_link_is_part_of_the_storage_format() {
    let value = serde_json::to_value(LinkRef { side: Side::Container, name: "eth0".to_owned() }).unwrap();
    assert_eq!(value, json!({"side": "container", "name": "eth0"}));
}

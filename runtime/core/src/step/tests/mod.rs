//! Golden plans. They are compared as JSON, the form in which the journal stores
//! them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod bandwidth;
mod sbr;
mod tuning;
mod vrf;

use serde_json::{Value, json};
use weft_host_abi::types::Attachment;

use super::*;
use crate::cni::{Object, Version};
use crate::plan::{LinkInfo, LinkRef, Mac, Need, Observed, Op, Peer, ShapeIp};

/// A call of a step, which tests modify.
struct Call {
    kind: &'static str,
    conf: String,
    cni_args: Vec<(String, String)>,
    previous: Option<Previous>,
    before: Vec<Op>,
    observed: Observed,
}

impl Call {
    /// A step chained after something like ptp: a veth pair and an address of each
    /// family.
    fn new(kind: &'static str, conf: &Value) -> Self {
        let ip = |address: &str, gateway: &str| ShapeIp {
            address: address.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            interface: Some(1),
        };
        let previous = Previous {
            interfaces: vec![LinkRef::host("veth1"), LinkRef::container("eth0")],
            ips: vec![ip("10.1.0.5/24", "10.1.0.1"), ip("fd01::5/64", "fd01::1")],
            routes: Vec::new(),
        };
        let mut observed = Observed::default();
        observed.peers.insert(LinkRef::container("eth0"), Peer::Host("veth1".to_owned()));
        let info = LinkInfo {
            index: 2,
            mtu: 1500,
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            kind: "veth".to_owned(),
            up: true,
            tx_queue_length: 1000,
            ..LinkInfo::default()
        };
        observed.links.insert(LinkRef::container("eth0"), info);
        Self {
            kind,
            conf: conf.to_string(),
            cni_args: Vec::new(),
            previous: Some(previous),
            before: Vec::new(),
            observed,
        }
    }

    /// The configuration as text, for what a value cannot show.
    fn with_text(mut self, conf: &str) -> Self {
        self.conf = conf.to_owned();
        self
    }

    fn arg(mut self, key: &str, value: &str) -> Self {
        self.cni_args.push((key.to_owned(), value.to_owned()));
        self
    }

    fn previous(mut self, change: impl FnOnce(&mut Previous)) -> Self {
        change(self.previous.as_mut().unwrap());
        self
    }

    fn without_previous(mut self) -> Self {
        self.previous = None;
        self
    }

    /// Runs in the same plan as an op that makes the link; nothing exists yet.
    fn after_op(mut self, op: Op) -> Self {
        self.before.push(op);
        self.observed = Observed::default();
        self
    }

    fn plan(&self) -> Result<StepPlan, StepError> {
        let conf = Object::from_text(self.conf.as_bytes()).unwrap();
        let step = find(self.kind).unwrap();
        step.validate(&conf, &self.cni_args)?;
        let attachment =
            Attachment { network: "net".to_owned(), container_id: "c1".to_owned(), ifname: "eth0".to_owned() };
        step.needs(&conf, &attachment)?;
        step.plan(&StepInput {
            conf: &conf,
            attachment: &attachment,
            netns: "/run/netns/x",
            cni_args: &self.cni_args,
            previous: self.previous.as_ref(),
            before: &self.before,
            observed: &self.observed,
        })
    }

    fn ops(&self) -> Value {
        serde_json::to_value(self.plan().unwrap().ops).unwrap()
    }

    fn error(&self) -> String {
        self.plan().unwrap_err().to_string()
    }

    /// Returns the error of the configuration's own check.
    fn invalid(&self) -> String {
        let conf = Object::from_text(self.conf.as_bytes()).unwrap();
        match find(self.kind).unwrap().validate(&conf, &self.cni_args) {
            Err(StepError::Conf(text)) => text,
            other => panic!("{other:?}"),
        }
    }
}

fn veth() -> Op {
    Op::CreateVeth { container: "eth0".to_owned(), host: "veth1".to_owned(), mtu: None, mac: None }
}

fn macvlan() -> Op {
    Op::CreateMacvlan {
        name: "eth0".to_owned(),
        parent: LinkRef::host("up0"),
        mode: crate::plan::MacvlanMode::Bridge,
        mtu: None,
        mac: None,
        bc_queue_len: None,
    }
}

#[test]
fn the_registry_is_consistent() {
    let kinds: Vec<_> = kinds().collect();
    for kind in &kinds {
        assert_eq!(find(kind).unwrap().kind(), *kind);
        assert_eq!(kinds.iter().filter(|other| *other == kind).count(), 1);
    }
    assert!(find("nonsense").is_none());
    let oldest = |kind: &str| find(kind).unwrap().oldest();
    assert_eq!(oldest("tuning"), Version::V0_1_0);
    assert_eq!(oldest("sbr"), Version::V0_1_0);
    assert_eq!(oldest("bandwidth"), Version::V0_3_0);
    assert_eq!(oldest("vrf"), Version::V0_3_1);
}

/// Whatever the types of the keys' values, the answer is a plan or an error.
#[test]
fn wrong_types_are_errors() {
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5),
        json!("x"),
        json!([]),
        json!([1]),
        json!({}),
        json!({"a": 1}),
    ];
    for kind in ["tuning", "bandwidth", "sbr", "vrf"] {
        for key in find(kind).unwrap().keys() {
            for value in &values {
                for conf in [
                    json!({ *key: value }),
                    json!({"runtimeConfig": value, *key: value}),
                    json!({"args": {"cni": { *key: value }}}),
                ] {
                    if let Err(error) = Call::new(kind, &conf).plan() {
                        assert!(!error.to_string().is_empty());
                    }
                }
            }
        }
    }
}

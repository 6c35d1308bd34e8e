//! The guarantees of every backend, tested against the real servers. The protocol's tests
//! rely on them.

use std::net::{IpAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use weft_core::ledger::remote::{Owner, Span, Versions};

use super::etcd::{Etcd, EtcdConf};
use super::memory::Memory;
use super::{Backend, Fence, Listing, WriteError};
use crate::claim::block::{BlockHolder, BlockSpec, LedgerDomain};
use crate::claim::object::{ClaimOwner, ClaimSpec, ClaimState, Holder, Identity, LedgerState, Sharing};

fn spec(address: &str, nonce: &str) -> ClaimSpec {
    let owner =
        Owner { kind: "Pod".into(), namespace: "ns".into(), name: "web".into(), uid: "uid".into(), ..Owner::default() };
    let holder = Holder {
        node: "node-a".into(),
        machine: "machine-a".into(),
        store_id: "store".into(),
        boot_id: "boot".into(),
        nonce: nonce.into(),
        ..Holder::default()
    };
    ClaimSpec {
        domain: "default".into(),
        address: address.parse().unwrap(),
        owner: ClaimOwner { owner, network: "storage".into(), interface: "net1".into(), slot: 0 },
        pool: String::new(),
        prefix: 24,
        state: ClaimState::Active,
        sharing: Sharing::Exclusive,
        rest_seconds: 0,
        in_use_by: None,
        holders: vec![holder],
    }
}

/// Checks every guarantee of [`Backend`].
async fn keeps_its_promises(backend: &impl Backend) {
    let (one, other) = (spec("10.0.0.1", "nonce-1"), spec("10.0.0.1", "nonce-2"));
    let name = one.name();
    assert_eq!(backend.get(&name).await.unwrap(), None);

    // The create is the commit.
    let created = backend.create(&one, None).await.unwrap();
    assert_eq!(backend.create(&other, None).await, Err(WriteError::Conflict));
    let read = backend.get(&name).await.unwrap().unwrap();
    assert_eq!((&read.spec, &read.versions, read.deleting), (&one, &created, false));

    // Check both preconditions separately.
    let replaced = backend.replace(&other, &created, None).await.unwrap();
    assert_eq!((replaced.uid == created.uid, replaced.version == created.version), (true, false));
    assert_eq!(backend.replace(&one, &created, None).await, Err(WriteError::Conflict));
    assert_eq!(backend.delete(&name, &created).await, Err(WriteError::Conflict));
    let foreign = Versions { uid: "123456".into(), ..replaced.clone() };
    assert_eq!(backend.delete(&name, &foreign).await, Err(WriteError::Conflict));

    let far = spec("2001:db8::7", "nonce-3");
    backend.create(&far, None).await.unwrap();
    for (listing, expected) in [
        (Listing::All, 2),
        (Listing::Node("node-a"), 2),
        (Listing::Node("node-b"), 0),
        (Listing::Domain("default"), 2),
        (Listing::Domain("defaul"), 0),
    ] {
        assert_eq!(backend.list(listing).await.unwrap().len(), expected, "{listing:?}");
    }

    backend.delete(&name, &replaced).await.unwrap();
    assert_eq!(backend.delete(&name, &replaced).await, Err(WriteError::Conflict));
    // The name is free, and its next object is a new one.
    let again = backend.create(&one, None).await.unwrap();
    assert_ne!(again.uid, created.uid);
    assert_eq!(backend.replace(&other, &replaced, None).await, Err(WriteError::Conflict));

    // A frozen ledger only accepts removals, and re-assertions of its epoch.
    assert_eq!(backend.state().await.unwrap(), LedgerState::default());
    let frozen = LedgerState { epoch: 1, frozen: true };
    backend.set_state(LedgerState::default(), frozen).await.unwrap();
    assert_eq!(backend.set_state(LedgerState::default(), frozen).await, Err(WriteError::Conflict));
    assert_eq!(backend.state().await.unwrap(), frozen);
    let new = spec("10.0.0.2", "nonce-4");
    assert_eq!(backend.create(&new, None).await, Err(WriteError::Frozen));
    let held = backend.create(&new, Some(1)).await.unwrap();
    assert_eq!(backend.replace(&spec("10.0.0.2", "nonce-5"), &held, None).await, Err(WriteError::Frozen));
    let empty = ClaimSpec { state: ClaimState::Conflict, ..new.without_holders(|_holder| true) };
    backend.replace(&empty, &held, None).await.unwrap();
    backend.delete(&name, &again).await.unwrap();
    backend.set_state(frozen, LedgerState { epoch: 1, frozen: false }).await.unwrap();
    backend.create(&one, None).await.unwrap();
    names_alone_say_what_is_taken(backend).await;

    assert_eq!(backend.fence("node-a", ("machine-a", "boot")).await.unwrap(), Fence::None);
    backend.change_node("node-a", |node| node.machine = "machine-a".into()).await.unwrap();
    backend.change_node("node-a", |node| node.fenced_machines.push("machine-a".into())).await.unwrap();
    assert_eq!(backend.fence("node-a", ("machine-a", "boot")).await.unwrap(), Fence::Fenced);
    assert_eq!(backend.fence("node-a", ("machine-b", "boot")).await.unwrap(), Fence::None);
    let nodes = backend.nodes().await.unwrap();
    assert_eq!((nodes.len(), nodes[0].machine.as_str()), (1, "machine-a"));
}

/// 10.0.0.1, 10.0.0.2 and 2001:db8::7 are taken.
async fn names_alone_say_what_is_taken(backend: &impl Backend) {
    let at = |text: &str| -> IpAddr { text.parse().unwrap() };
    // Other domains, whose names lie between those of this one.
    for domain in ["default-0a000001", "default-lab"] {
        let other = ClaimSpec { domain: domain.into(), ..spec("10.0.0.3", "nonce-9") };
        backend.create(&other, None).await.unwrap();
    }
    for last in 4..=8 {
        backend.create(&spec(&format!("10.0.0.{last}"), "nonce-8"), None).await.unwrap();
    }
    let whole = [(at("10.0.0.0"), at("10.0.0.255")), (at("::"), at("ffff::"))];
    let runs = [("10.0.0.1", "10.0.0.2"), ("10.0.0.4", "10.0.0.8"), ("2001:db8::7", "2001:db8::7")];
    let expected: Vec<Span> = runs.iter().map(|(first, last)| (at(first), at(last))).collect();
    let taken = backend.taken("default", &whole).await.unwrap();
    assert_eq!(taken.iter().collect::<Vec<_>>(), expected);
    let some = [(at("10.0.0.2"), at("10.0.0.5"))];
    let parts: Vec<Span> = backend.taken("default", &some).await.unwrap().iter().collect();
    assert_eq!(parts, [(at("10.0.0.2"), at("10.0.0.2")), (at("10.0.0.4"), at("10.0.0.5"))]);
    for (domain, expected) in [("default", true), ("default-lab", true), ("default-0a", false), ("defaul", false)] {
        assert_eq!(backend.has_claims(domain).await.unwrap(), expected, "{domain}");
    }
    assert_eq!(backend.list(Listing::Domain("default")).await.unwrap().len(), 8);
}

fn block(first: &str, nonce: &str) -> BlockSpec {
    let holder = BlockHolder {
        node: "node-a".into(),
        machine: "machine-a".into(),
        store_id: "store".into(),
        boot_id: "boot".into(),
        nonce: nonce.into(),
        confirmed: 0,
    };
    let first = first.parse().unwrap();
    let domain = "default".into();
    BlockSpec { domain, first, size: 16, pool: "blue".into(), shared: false, holder: Some(holder) }
}

/// Checks every guarantee of [`Cells`], on a ledger that is not frozen.
async fn keeps_its_promises_on_cells(backend: &impl Backend) {
    let (one, other) = (block("10.0.0.16", "nonce-1"), block("10.0.0.16", "nonce-2"));
    let name = one.name();
    assert_eq!(backend.block(&name).await.unwrap(), None);

    // The create is the commit, and a claim of the same address is another object.
    let created = backend.create_block(&one, None).await.unwrap();
    assert_eq!(backend.create_block(&other, None).await, Err(WriteError::Conflict));
    let read = backend.block(&name).await.unwrap().unwrap();
    assert_eq!((&read.spec, &read.versions), (&one, &created));

    // Check both preconditions separately.
    let identity = Identity {
        node: "node-a".into(),
        machine: "machine-a".into(),
        store_id: "store".into(),
        boot_id: "boot".into(),
    };
    let confirmed = backend.replace_block(&one.confirmed(&identity), &created).await.unwrap();
    assert_eq!((confirmed.uid == created.uid, confirmed.version == created.version), (true, false));
    assert_eq!(backend.replace_block(&one, &created).await, Err(WriteError::Conflict));
    assert_eq!(backend.delete_block(&name, &created).await, Err(WriteError::Conflict));
    let foreign = Versions { uid: "123456".into(), ..confirmed.clone() };
    assert_eq!(backend.delete_block(&name, &foreign).await, Err(WriteError::Conflict));

    let shared = BlockSpec::new_shared("default", "2001:db8::".parse().unwrap(), (16, "blue"));
    let of_shared = backend.create_block(&shared, None).await.unwrap();
    for (listing, expected) in [
        (Listing::All, 2),
        (Listing::Node("node-a"), 1),
        (Listing::Node("node-b"), 0),
        (Listing::Domain("default"), 2),
        (Listing::Domain("defaul"), 0),
    ] {
        assert_eq!(backend.blocks(listing).await.unwrap().len(), expected, "{listing:?}");
    }
    backend.delete_block(&name, &confirmed).await.unwrap();
    assert_eq!(backend.delete_block(&name, &confirmed).await, Err(WriteError::Conflict));
    let again = backend.create_block(&one, None).await.unwrap();
    assert_ne!(again.uid, created.uid);

    // The first user defines a domain.
    let domain = |cell_size| LedgerDomain { domain: "cells".into(), cell_size };
    assert_eq!(backend.domain("cells").await.unwrap(), None);
    backend.create_domain(&domain(16), None).await.unwrap();
    assert_eq!(backend.create_domain(&domain(32), None).await, Err(WriteError::Conflict));
    assert_eq!(backend.domain("cells").await.unwrap(), Some(domain(16)));

    // A frozen ledger only accepts removals and re-assertions.
    let before = backend.state().await.unwrap();
    let frozen = LedgerState { epoch: before.epoch + 1, frozen: true };
    backend.set_state(before, frozen).await.unwrap();
    let new = block("10.0.0.32", "nonce-3");
    assert_eq!(backend.create_block(&new, None).await, Err(WriteError::Frozen));
    assert_eq!(backend.replace_block(&one.confirmed(&identity), &again).await, Err(WriteError::Frozen));
    let lab = LedgerDomain { domain: "lab".into(), cell_size: 0 };
    assert_eq!(backend.create_domain(&lab, None).await, Err(WriteError::Frozen));
    backend.create_block(&new, Some(frozen.epoch)).await.unwrap();
    backend.create_domain(&lab, Some(frozen.epoch)).await.unwrap();
    backend.delete_block(&name, &again).await.unwrap();
    backend.delete_block(&shared.name(), &of_shared).await.unwrap();
    backend.set_state(frozen, LedgerState { frozen: false, ..frozen }).await.unwrap();
}

#[tokio::test]
async fn the_ledger_of_the_tests_is_a_ledger() {
    keeps_its_promises(&Memory::default()).await;
    keeps_its_promises_on_cells(&Memory::default()).await;
}

/// An etcd of its own.
struct EtcdServer {
    child: Child,
    _dir: TempDir,
    url: String,
}

impl EtcdServer {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let port = |_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let [client, peer] = [0, 1].map(port);
        let (url, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new("etcd");
        command.args(["--data-dir", dir.path().to_str().unwrap(), "--name", "one"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("one={peer}")]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, _dir: dir, url }
    }

    fn conf(&self) -> EtcdConf {
        EtcdConf { endpoints: vec![self.url.clone()], ..EtcdConf::default() }
    }

    async fn ready(&self, backend: &Etcd) {
        for _try in 0..200 {
            if backend.state().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not answer at {}", self.url);
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
#[ignore = "needs etcd, which tests/setup.sh installs; the test command runs it"]
async fn real_etcd_keeps_its_promises() {
    let server = EtcdServer::start();
    let backend = Etcd::new(&server.conf()).unwrap();
    server.ready(&backend).await;
    keeps_its_promises(&backend).await;
    keeps_its_promises_on_cells(&backend).await;
    compares_contents(&backend).await;
}

/// After a restore, revisions come again: a write that was decided on before it is not executed on another content.
async fn compares_contents(backend: &Etcd) {
    let (one, other) = (spec("10.0.0.9", "nonce-1"), spec("10.0.0.9", "nonce-2"));
    let made = backend.create(&one, None).await.unwrap();
    let changed = backend.replace(&other, &made, None).await.unwrap();
    let (old, new) = (made.version.split_once(' ').unwrap(), changed.version.split_once(' ').unwrap());
    // The numbers of the present content, and the content from before.
    let decided = Versions { version: format!("{} {}", new.0, old.1), ..changed.clone() };
    assert_eq!(backend.delete(&one.name(), &decided).await, Err(WriteError::Conflict));
    assert_eq!(backend.replace(&one, &decided, None).await, Err(WriteError::Conflict));
    assert_eq!(backend.get(&one.name()).await.unwrap().unwrap().versions, changed);
    backend.delete(&one.name(), &changed).await.unwrap();
}

#[tokio::test]
#[ignore = "needs etcd, which tests/setup.sh installs; the test command runs it"]
async fn real_etcd_lists_in_pages() {
    let server = EtcdServer::start();
    let mut backend = Etcd::new(&server.conf()).unwrap();
    backend.pages = (2, 2);
    server.ready(&backend).await;
    keeps_its_promises(&backend).await;
    keeps_its_promises_on_cells(&backend).await;
}

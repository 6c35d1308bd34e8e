//! Guests, a state directory, a ledger, and requests.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;
use weft_core::policy::compiler::compile_in_process;
use weft_core::policy::{
    Answer, Choice, CompileAsk, CompileError, Compiled, Grants, Limits, Loaded, PolicyError, PolicyRef, PolicyStore,
    Waiting,
};
use weft_host_abi::guest::World;
use weft_host_abi::guest_build::{BuiltGuest, build_guests, clean_command, componentize};
use weft_host_abi::types::{
    Attachment, ClaimInfo, ClaimState, Decision, LastClaim, LedgerView, Node, Range, RangeSet, Request, Usage,
};

fn manifest_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns one target directory for all guests: they share wit-bindgen, which compiles
/// longest.
fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests")
}

fn built(manifest: &Path) -> Vec<BuiltGuest> {
    build_guests(manifest, &target_dir()).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns a policy of `guest-plugins/`.
pub(crate) fn shipped(name: &str) -> Vec<u8> {
    static GUESTS: OnceLock<Vec<BuiltGuest>> = OnceLock::new();
    let guests = GUESTS.get_or_init(|| built(&manifest_dir().join("../../guest-plugins/Cargo.toml")));
    guests.iter().find(|guest| guest.name == name).expect("such a policy").component.clone()
}

/// Returns the policy that does what its configuration says.
pub(crate) fn scripted() -> Vec<u8> {
    static GUESTS: OnceLock<Vec<BuiltGuest>> = OnceLock::new();
    let guests = GUESTS.get_or_init(|| built(&manifest_dir().join("tests/policy_guests/guests/Cargo.toml")));
    guests[0].component.clone()
}

/// Returns the policy that imports WASI. Its target produces components directly.
pub(crate) fn ambient() -> Vec<u8> {
    static GUEST: OnceLock<Vec<u8>> = OnceLock::new();
    let build = || {
        let manifest = manifest_dir().join("tests/policy_guests/guests/ambient/Cargo.toml");
        let mut cargo = clean_command("cargo");
        cargo.args(["build", "--release", "--locked", "--target", "wasm32-wasip2", "--manifest-path"]).arg(&manifest);
        let status = cargo.arg("--target-dir").arg(target_dir()).status().expect("cargo");
        assert!(status.success(), "run `rustup target add wasm32-wasip2`");
        fs::read(target_dir().join("wasm32-wasip2/release/ambient.wasm")).expect("a component")
    };
    GUEST.get_or_init(build).clone()
}

/// Returns a policy with this body of `allocate` and more module fields, in the text
/// format.
pub(crate) fn handwritten(fields: &str, allocate: &str) -> Vec<u8> {
    let exports = format!(
        r#"(func $allocate (export "weft:policy/ipam@0.1.1#allocate") (param i32) (result i32) {allocate})
           (func (export "weft:policy/ipam@0.1.1#validate") (param i32 i32) (result i32) unreachable)
           (func (export "weft:policy/ipam@0.1.1#config-schema") (result i32) unreachable)"#
    );
    component("ipam-policy", fields, &exports)
}

/// Returns a delegate policy with this body of `choose` and more module fields, in the text
/// format.
pub(crate) fn handwritten_choice(fields: &str, choose: &str) -> Vec<u8> {
    let exports = format!(
        r#"(func $choose (export "weft:policy/delegate-choice@0.1.1#choose") (param i32) (result i32) {choose})
           (func (export "weft:policy/delegate-choice@0.1.1#validate") (param i32 i32 i32 i32) (result i32) unreachable)
           (func (export "weft:policy/delegate-choice@0.1.1#config-schema") (result i32) unreachable)"#
    );
    component("delegate-policy", fields, &exports)
}

fn component(world: &str, fields: &str, exports: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            {fields}
            (global $free (mut i32) (i32.const 1024))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
                (global.set $free (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
            {exports})"#
    );
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"));
    let mut resolve = wit_parser::Resolve::default();
    let (package, _files) = resolve.push_dir(manifest_dir().join("../../host-abi/wit")).expect("the contract");
    let world = resolve.select_world(&[package], Some(world)).expect("the world");
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).expect("metadata");
    componentize(&module).unwrap_or_else(|error| panic!("{error}"))
}

/// A module's usual memory.
pub(crate) const MEMORY: &str = r#"(memory (export "memory") 1)"#;

/// A node's state directory.
pub(crate) struct State {
    pub dir: TempDir,
    pub store: PolicyStore,
}

impl State {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        fs::create_dir(dir.path().join("policies")).expect("policies");
        let store = PolicyStore::new(dir.path()).expect("an engine");
        Self { dir, store }
    }

    /// Installs a component under a name.
    pub(crate) fn install(&self, name: &str, component: &[u8]) -> PolicyRef {
        let policy = PolicyRef::shipped(name).expect("a name");
        fs::write(policy.path(self.dir.path()), component).expect("a file");
        policy
    }

    pub(crate) fn load_with<W: World>(&self, policy: &PolicyRef, grants: &Grants) -> Result<Loaded<W>, PolicyError> {
        self.store.load(policy, grants, &|ask| self.compile_ask(ask))
    }

    /// Compiles in this process.
    pub(crate) fn compile(&self, path: &Path) -> Result<Compiled, PolicyError> {
        self.store.compile_into_cache("p", path, Waiting::Wait, &|wasm, _bounds| compile_in_process(wasm))
    }

    /// Compiles as `load` requests it.
    pub(crate) fn compile_ask(&self, ask: &CompileAsk<'_>) -> Result<(), CompileError> {
        self.compile(ask.component).map(drop).map_err(|error| CompileError::Failed(chain(&error)))
    }

    pub(crate) fn load(&self, policy: &PolicyRef) -> Result<Loaded, PolicyError> {
        self.load_with(policy, &Grants::default())
    }

    /// Loads a policy that picks a delegate.
    pub(crate) fn load_choice(&self, policy: &PolicyRef) -> Result<Loaded<Choice>, PolicyError> {
        self.load_with(policy, &Grants::default())
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }
}

/// Returns an error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Returns a component, loaded from a new state directory.
pub(crate) fn loaded(component: &[u8]) -> (State, Loaded) {
    let state = State::new();
    let policy = state.install("p", component);
    let loaded = state.load(&policy).unwrap_or_else(|error| panic!("{}", chain(&error)));
    (state, loaded)
}

/// Like [`loaded`], for a policy that picks a delegate.
pub(crate) fn loaded_choice(component: &[u8]) -> (State, Loaded<Choice>) {
    let state = State::new();
    let policy = state.install("p", component);
    let loaded = state.load_choice(&policy).unwrap_or_else(|error| panic!("{}", chain(&error)));
    (state, loaded)
}

/// A ledger in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pub taken: BTreeMap<IpAddr, ClaimInfo>,
    pub last: Vec<IpAddr>,
    pub fails: bool,
    pub delay: Duration,
}

impl Ledger {
    /// Claims an address for a container.
    pub(crate) fn claim(&mut self, address: IpAddr, owner: &str) {
        let claim = ClaimInfo { address, owner: owner.into(), ifname: "eth0".into(), state: ClaimState::Active };
        assert!(self.taken.insert(address, claim).is_none(), "{address} was taken already");
        self.last.push(address);
    }

    fn answer<T>(&self, answer: T) -> Result<T, String> {
        std::thread::sleep(self.delay);
        if self.fails { Err("the disk is on fire".to_owned()) } else { Ok(answer) }
    }
}

impl LedgerView for Ledger {
    fn claimed_by(&self, address: IpAddr) -> Result<Option<ClaimInfo>, String> {
        self.answer(self.taken.get(&address).cloned())
    }

    fn next_free(&self, range: &Range, from: IpAddr) -> Result<Option<IpAddr>, String> {
        let mut at = from;
        while range.contains(at) {
            if !self.taken.contains_key(&at) {
                return self.answer(Some(at));
            }
            at = match at {
                IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| IpAddr::V4(next.into())),
                IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| IpAddr::V6(next.into())),
            }
            .ok_or("the end")?;
        }
        self.answer(None)
    }

    fn usage(&self, range: &Range) -> Result<Usage, String> {
        let taken = self.taken.keys().filter(|address| range.contains(**address)).count();
        self.answer(Usage { size: u64::MAX, taken: taken as u64 })
    }

    fn last_claimed(&self, range: &Range) -> Result<Option<LastClaim>, String> {
        let last = self.last.iter().enumerate().rev().find(|(_sequence, address)| range.contains(**address));
        self.answer(last.map(|(sequence, address)| LastClaim { address: *address, sequence: sequence as u64 }))
    }

    fn held_by(&self, owner: &str) -> Result<Vec<ClaimInfo>, String> {
        self.answer(self.taken.values().filter(|claim| claim.owner == owner).cloned().collect())
    }
}

/// Returns a range of `10.1.0.0/24` with the gateway `.1`.
pub(crate) fn range(first: &str, last: &str) -> Range {
    let ip = |text: &str| text.parse().expect("an address");
    Range {
        subnet: "10.1.0.0/24".parse().expect("a net"),
        first: ip(first),
        last: ip(last),
        gateway: Some(ip("10.1.0.1")),
    }
}

/// Returns a request over the whole of `10.1.0.0/24`.
pub(crate) fn request(config: &str) -> Request {
    Request {
        attachment: Attachment { network: "net".into(), container_id: "c1".into(), ifname: "eth0".into() },
        pod: None,
        node: Node { name: "node".into(), labels: Vec::new() },
        identities: vec!["pod:ns/name".into(), "container:c1".into()],
        requested: Vec::new(),
        mac: None,
        cni_args: Vec::new(),
        held: Vec::new(),
        range_sets: vec![RangeSet { name: None, ranges: vec![range("10.1.0.1", "10.1.0.254")] }],
        resolver: None,
        config: config.into(),
        cni_version: "1.1.0".into(),
        now: 1_700_000_000,
        seed: 42,
    }
}

/// Calls a policy with default limits and an empty ledger.
pub(crate) fn call(loaded: &Loaded, config: &str) -> Result<Answer<Decision>, PolicyError> {
    loaded.allocate(&request(config), Box::new(Ledger::default()), &Limits::default()).answered()
}

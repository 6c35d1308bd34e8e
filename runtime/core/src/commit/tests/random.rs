//! Random histories: after every step the store and the model agree.

use proptest::prelude::*;

use super::model::Model;
use super::*;

/// Pools: the middle and both ends of each family, IPv4-mapped addresses, a pool inside another, and a /64.
fn pools() -> Vec<Range> {
    vec![
        range("10.0.0.0", "10.0.0.15"),
        range("10.0.0.4", "10.0.0.9"),
        range("0.0.0.0", "0.0.0.7"),
        range("255.255.255.248", "255.255.255.255"),
        range("::", "::7"),
        range("::ffff:10.0.0.0", "::ffff:10.0.0.7"),
        range("2001:db8::", "2001:db8::ffff:ffff:ffff:ffff"),
        range("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ]
}

/// Returns the address at an offset into a pool, if it exists.
fn nth_address(pool: &Range, offset: u8) -> IpAddr {
    let mut address = pool.first;
    for _ in 0..offset {
        address = crate::store::next(address).filter(|next| pool.contains(*next)).unwrap_or(pool.first);
    }
    address
}

#[derive(Debug, Clone)]
enum Step {
    Claim { scope: bool, owner: u8, ipam: bool, wants: Vec<(u8, Vec<u8>)>, rule: u8, identities: Vec<u8> },
    ClaimNext { scope: bool, owner: u8, pool: u8, rule: u8 },
    Release { owner: u8, ipam: bool },
    ReleaseAddress { scope: bool, pool: u8, offset: u8, force: bool },
    Purge,
    Wait(u8),
    Reboot,
}

fn step() -> impl Strategy<Value = Step> {
    let want = (0_u8..8, prop::collection::vec(0_u8..16, 1..4));
    prop_oneof![
        6 => (any::<bool>(), 0_u8..8, any::<bool>(), prop::collection::vec(want, 0..3), 0_u8..6,
              prop::collection::vec(0_u8..3, 0..2))
            .prop_map(|(scope, owner, ipam, wants, rule, identities)| {
                Step::Claim { scope, owner, ipam, wants, rule, identities }
            }),
        4 => (any::<bool>(), 0_u8..16, 0_u8..8, 0_u8..6)
            .prop_map(|(scope, owner, pool, rule)| Step::ClaimNext { scope, owner, pool, rule }),
        5 => (0_u8..16, any::<bool>()).prop_map(|(owner, ipam)| Step::Release { owner, ipam }),
        1 => (any::<bool>(), 0_u8..8, 0_u8..16, any::<bool>())
            .prop_map(|(scope, pool, offset, force)| Step::ReleaseAddress { scope, pool, offset, force }),
        1 => Just(Step::Purge),
        2 => (0_u8..30).prop_map(Step::Wait),
        1 => Just(Step::Reboot),
    ]
}

fn rule(code: u8) -> ReleaseRule {
    match code {
        0..=2 => ReleaseRule::Free,
        3 => ReleaseRule::Cooldown(20),
        4 => ReleaseRule::Cooldown(0),
        _ => ReleaseRule::Keep("pod:1".into()),
    }
}

fn scope_name(which: bool) -> &'static str {
    if which { "s" } else { "t" }
}

fn attachment(owner: u8, ipam: bool) -> Key {
    Key { role: if ipam { Role::Ipam } else { Role::Attachment }, ..key(&format!("c{owner}")) }
}

/// Both sides of a comparison, and the clock.
struct Pair {
    model: Model,
    disk: OnDisk,
    now: u64,
    boots: u32,
}

impl Pair {
    /// Both declare every pool at the start, so that "the last claim in a range" is exact on both sides.
    fn new() -> Self {
        let mut pair = Self { model: Model::new(), disk: OnDisk::new(), now: 1000, boots: 1 };
        for scope in ["s", "t"] {
            let wants: Vec<Want> =
                pools().iter().map(|pool| want(&[nth_address(pool, 0), nth_address(pool, 3)], pool)).collect();
            let key = key("first");
            let free = ReleaseRule::Free;
            let ask = ClaimAsk { scope, ..ask(&key, &wants, &free) };
            pair.run_on_both(|subject| subject.claim(&ask, Record::default())).unwrap();
            pair.run_on_both(|subject| subject.release(&key, 1000));
        }
        pair
    }

    fn run_on_both<T: PartialEq + std::fmt::Debug>(&mut self, run: impl Fn(&mut dyn Subject) -> T) -> T {
        let expected = run(&mut self.model);
        assert_eq!(run(&mut self.disk), expected);
        expected
    }

    fn apply(&mut self, step: &Step) {
        let now = self.now;
        match step {
            Step::Claim { scope, owner, ipam, wants, rule: code, identities } => {
                let pools = pools();
                let wants: Vec<Want> = wants
                    .iter()
                    .map(|(pool, offsets)| {
                        let pool = &pools[usize::from(*pool)];
                        let addresses: Vec<_> = offsets.iter().map(|offset| nth_address(pool, *offset)).collect();
                        want(&addresses, pool)
                    })
                    .collect();
                let identities: Vec<String> = identities.iter().map(|id| format!("pod:{id}")).collect();
                self.claim(scope_name(*scope), &attachment(*owner, *ipam), (&wants, &identities), &rule(*code));
            }
            Step::ClaimNext { scope, owner, pool, rule: code } => {
                let pool = &pools()[usize::from(*pool)];
                let scope = scope_name(*scope);
                let free = self.run_on_both(|subject| subject.view(scope, now).next_free(pool, pool.first).unwrap());
                let Some(free) = free else { return };
                self.claim(scope, &attachment(*owner, false), (&[want(&[free], pool)], &[]), &rule(*code));
            }
            Step::Release { owner, ipam } => {
                self.run_on_both(|subject| subject.release(&attachment(*owner, *ipam), now));
            }
            Step::ReleaseAddress { scope, pool, offset, force } => {
                let address = nth_address(&pools()[usize::from(*pool)], *offset);
                self.run_on_both(|subject| subject.release_address(scope_name(*scope), address, *force));
            }
            Step::Purge => {
                self.run_on_both(|subject| subject.purge_expired(now));
            }
            Step::Wait(seconds) => self.now += u64::from(*seconds),
            Step::Reboot => {
                self.boots += 1;
                let boot = format!("boot-{}", self.boots);
                self.run_on_both(|subject| subject.reboot(&boot, now));
            }
        }
    }

    fn claim(&mut self, scope: &str, key: &Key, (wants, identities): (&[Want], &[String]), release: &ReleaseRule) {
        let ask = ClaimAsk { key, scope, identities, wants, release, now: self.now };
        let externals = if key.attachment.container_id == "c3" { "[x]" } else { "" };
        let shared = vec![format!("shared {}", key.attachment.container_id), "shared".to_owned()];
        let record = Record { externals: externals.into(), shared, ..Record::default() };
        // A refusal is as good as a claim: only agreement matters.
        drop(self.run_on_both(|subject| subject.claim(&ask, record.clone())));
    }

    fn compare(&self) {
        for scope in ["s", "t"] {
            let (expected, found) = (self.model.view(scope, self.now), self.disk.view(scope, self.now));
            for pool in pools() {
                assert_eq!(found.usage(&pool), expected.usage(&pool), "usage of {pool:?}");
                let address = |view: &dyn LedgerView| view.last_claimed(&pool).unwrap().map(|last| last.address);
                assert_eq!(address(&*found), address(&*expected), "last claim in {pool:?}");
                for offset in 0..16 {
                    let at = nth_address(&pool, offset);
                    assert_eq!(found.claimed_by(at), expected.claimed_by(at), "{at}");
                    assert_eq!(found.next_free(&pool, at), expected.next_free(&pool, at), "from {at}");
                }
            }
            // An undeclared range is counted, too.
            let odd = range("10.0.0.3", "10.0.0.12");
            assert_eq!(found.usage(&odd), expected.usage(&odd));
            for owner in 0..3 {
                let identity = format!("pod:{owner}");
                assert_eq!(found.held_by(&identity), expected.held_by(&identity));
            }
            drop(found);
            for owner in 0..16 {
                let id = format!("c{owner}");
                let identities = ["pod:1".to_owned()];
                assert_eq!(self.disk.held(scope, &identities, &id), self.model.held(scope, &identities, &id));
            }
        }
        for owner in 0..16 {
            for ipam in [false, true] {
                let key = attachment(owner, ipam);
                assert_eq!(self.disk.entry(&key), self.model.entry(&key));
                let names = ["shared".to_owned(), "shared c1".to_owned()];
                assert_eq!(self.disk.shared_elsewhere(&key, &names), self.model.shared_elsewhere(&key, &names));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.apply(step);
            pair.compare();
        }
        assert_sound(pair.disk.dir.path());
    }
}

//! The suite: the behaviour of every implementation of the ledger. It runs on the store and on the
//! model.

use weft_host_abi::types::{ClaimState, ReleaseRule};

use super::model::Model;
use super::*;

fn on_both(case: impl Fn(&mut dyn Subject)) {
    case(&mut Model::new());
    let mut disk = OnDisk::new();
    case(&mut disk);
    assert_sound(disk.dir.path());
}

#[test]
fn next_free_skips_what_is_taken_and_ends_with_the_range() {
    on_both(|subject| {
        let pool = range("10.0.0.2", "10.0.0.5");
        for want in ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"] {
            assert_eq!(claim_next(subject, &key(want), &pool), Some(ip(want)));
        }
        let view = subject.view("s", 1000);
        assert_eq!(view.next_free(&pool, ip("10.0.0.2")).unwrap(), None);
        assert_eq!(view.next_free(&pool, ip("10.0.0.6")).unwrap(), None, "past the range");
        assert_eq!(view.next_free(&pool, ip("::")).unwrap(), None, "another family");
        assert_eq!(view.usage(&pool).unwrap(), usage(4, 4));
        drop(view);

        subject.release(&key("10.0.0.3"), 1000).unwrap();
        let view = subject.view("s", 1000);
        assert_eq!(view.next_free(&pool, ip("10.0.0.0")).unwrap(), Some(ip("10.0.0.3")), "from below the range");
        assert_eq!(view.next_free(&pool, ip("10.0.0.4")).unwrap(), None, "no wrap-around");
        assert_eq!(view.usage(&pool).unwrap(), usage(4, 3));
    });
}

#[test]
fn the_ends_of_both_families_can_be_claimed_and_released() {
    on_both(|subject| {
        for (first, last) in [
            ("0.0.0.0", "0.0.0.1"),
            ("255.255.255.254", "255.255.255.255"),
            ("::", "::1"),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("::ffff:255.255.255.254", "::ffff:255.255.255.255"),
        ] {
            let pool = range(first, last);
            assert_eq!(claim_next(subject, &key(first), &pool), Some(ip(first)));
            assert_eq!(claim_next(subject, &key(last), &pool), Some(ip(last)));
            let view = subject.view("s", 1000);
            assert_eq!(view.next_free(&pool, ip(first)).unwrap(), None);
            assert_eq!(view.usage(&pool).unwrap(), usage(2, 2));
            assert_eq!(view.last_claimed(&pool).unwrap().unwrap().address, ip(last));
            drop(view);
            subject.release(&key(last), 1000).unwrap();
            subject.release(&key(first), 1000).unwrap();
            assert_eq!(subject.view("s", 1000).usage(&pool).unwrap(), usage(2, 0));
        }
    });
}

#[test]
fn a_claim_takes_the_first_free_candidate_and_loses_when_none_is() {
    on_both(|subject| {
        let pool = range("10.0.0.1", "10.0.0.9");
        let free = ReleaseRule::Free;
        let first = [want(&[ip("10.0.0.1")], &pool)];
        subject.claim(&ask(&key("a"), &first, &free), Record::default()).unwrap();
        let two = [want(&[ip("10.0.0.1"), ip("10.0.0.2")], &pool), want(&[ip("10.0.0.2"), ip("10.0.0.3")], &pool)];
        let claimed = subject.claim(&ask(&key("b"), &two, &free), Record::default()).unwrap();
        let addresses: Vec<_> = claimed.iter().map(|one| one.address.addr()).collect();
        assert_eq!(addresses, [ip("10.0.0.2"), ip("10.0.0.3")], "two wants never share an address");
        let lost = [want(&[ip("10.0.0.9")], &pool), want(&[ip("10.0.0.1"), ip("10.0.0.2")], &pool)];
        assert_eq!(subject.claim(&ask(&key("c"), &lost, &free), Record::default()), Err(Refused::Lost(1)));
        assert_eq!(subject.entry(&key("c")), None);
        assert_eq!(subject.view("s", 1000).claimed_by(ip("10.0.0.9")).unwrap(), None, "nothing of a lost ask stays");
    });
}

#[test]
fn a_second_add_of_an_attachment_is_refused_and_says_what_it_has() {
    on_both(|subject| {
        let pool = range("10.0.0.1", "10.0.0.9");
        assert_eq!(claim_next(subject, &key("a"), &pool), Some(ip("10.0.0.1")));
        let wants = [want(&[ip("10.0.0.2")], &pool)];
        let again = subject.claim(&ask(&key("a"), &wants, &ReleaseRule::Free), Record::default());
        assert_eq!(again, Err(Refused::Exists(vec![ip("10.0.0.1")])));
        let ipam = Key { role: Role::Ipam, ..key("a") };
        subject.claim(&ask(&ipam, &wants, &ReleaseRule::Free), Record::default()).unwrap();
        assert_eq!(subject.entry(&ipam).unwrap().claims, [("s".to_owned(), ip("10.0.0.2"))]);
        assert_eq!(subject.entry(&key("a")).unwrap().claims, [("s".to_owned(), ip("10.0.0.1"))]);
    });
}

#[test]
fn an_attachment_without_addresses_has_an_entry() {
    on_both(|subject| {
        let record = Record { netns: "/run/netns/x".into(), plan: "{}".into(), ..Record::default() };
        assert_eq!(subject.claim(&ask(&key("a"), &[], &ReleaseRule::Free), record.clone()).unwrap(), []);
        let entry = subject.entry(&key("a")).unwrap();
        assert_eq!((entry.record, entry.claims, entry.created), (record, vec![], 1000));
        assert_eq!(subject.release(&key("a"), 1001), Some((vec![], ReleaseRule::Free)));
        assert_eq!(subject.release(&key("a"), 1001), None, "a second DEL finds nothing");
    });
}

#[test]
fn scopes_do_not_know_each_other() {
    on_both(|subject| {
        let pool = range("10.0.0.1", "10.0.0.1");
        let wants = [want(&[ip("10.0.0.1")], &pool)];
        let free = ReleaseRule::Free;
        for (scope, owner) in [("s", "a"), ("t", "b")] {
            let key = key(owner);
            let ask = ClaimAsk { scope, ..ask(&key, &wants, &free) };
            subject.claim(&ask, Record::default()).unwrap();
        }
        assert_eq!(subject.view("t", 1000).claimed_by(ip("10.0.0.1")).unwrap().unwrap().owner, "b");
        assert_eq!(subject.view("u", 1000).claimed_by(ip("10.0.0.1")).unwrap(), None);
        assert_eq!(subject.view("u", 1000).last_claimed(&pool).unwrap(), None);
        assert!(!subject.release_address("u", ip("10.0.0.1"), true));
    });
}

#[test]
fn a_resting_address_is_taken_until_its_time_is_over() {
    on_both(|subject| {
        let pool = range("10.0.0.1", "10.0.0.1");
        let wants = [want(&[ip("10.0.0.1")], &pool)];
        let rest = ReleaseRule::Cooldown(60);
        subject.claim(&ask(&key("a"), &wants, &rest), Record::default()).unwrap();
        assert_eq!(subject.release(&key("a"), 2000), Some((vec![("s".into(), ip("10.0.0.1"))], rest.clone())));
        let resting = subject.view("s", 2059).claimed_by(ip("10.0.0.1")).unwrap().unwrap();
        assert_eq!((resting.state, resting.owner.as_str()), (ClaimState::Cooldown, "a"));
        assert_eq!(subject.purge_expired(2059), 0);
        let other = key("b");
        let early = ClaimAsk { now: 2059, ..ask(&other, &wants, &rest) };
        assert_eq!(subject.claim(&early, Record::default()), Err(Refused::Lost(0)));

        assert_eq!(subject.view("s", 2060).claimed_by(ip("10.0.0.1")).unwrap(), None);
        let on_time = ClaimAsk { now: 2060, ..early };
        subject.claim(&on_time, Record::default()).expect("taken over without a purge");
        subject.release(&key("b"), 3000).unwrap();
        assert_eq!(subject.view("s", 9000).next_free(&pool, pool.first).unwrap(), None, "until it is purged");
        assert_eq!(subject.purge_expired(9000), 1);
        assert_eq!(subject.view("s", 9000).next_free(&pool, pool.first).unwrap(), Some(ip("10.0.0.1")));
    });
}

#[test]
fn a_kept_address_goes_to_its_owner_only() {
    on_both(|subject| {
        let pool = range("10.0.0.1", "10.0.0.1");
        let wants = [want(&[ip("10.0.0.1")], &pool)];
        let keep = ReleaseRule::Keep("pod:ns/db-0".into());
        subject.claim(&ask(&key("a"), &wants, &keep), Record::default()).unwrap();
        subject.release(&key("a"), 2000).unwrap();
        let (owner, other) = (["uid:1".to_owned(), "pod:ns/db-0".to_owned()], ["pod:ns/db-1".to_owned()]);
        let held = subject.held("s", &owner, "new");
        assert_eq!(held.len(), 1);
        assert_eq!((held[0].state, held[0].owner.as_str()), (ClaimState::Kept, "pod:ns/db-0"));
        assert_eq!(subject.held("s", &other, "new"), []);
        assert_eq!(subject.view("s", 1000).held_by("pod:ns/db-0").unwrap(), held);

        let key = key("new");
        let stranger = ClaimAsk { identities: &other, ..ask(&key, &wants, &keep) };
        assert_eq!(subject.claim(&stranger, Record::default()), Err(Refused::Lost(0)));
        subject.claim(&ClaimAsk { identities: &owner, ..stranger }, Record::default()).unwrap();
        assert_eq!(subject.view("s", 1000).usage(&pool).unwrap(), usage(1, 1), "still one claim");
        assert_eq!(subject.held("s", &owner, "new")[0].state, ClaimState::Active);
    });
}

#[test]
fn the_last_claim_is_remembered_past_its_release() {
    on_both(|subject| {
        let (low, high) = (range("10.0.0.1", "10.0.0.9"), range("10.0.1.1", "10.0.1.9"));
        assert_eq!(subject.view("s", 1000).last_claimed(&low).unwrap(), None);
        claim_next(subject, &key("a"), &low);
        claim_next(subject, &key("b"), &low);
        claim_next(subject, &key("c"), &high);
        subject.release(&key("b"), 1000).unwrap();
        let view = subject.view("s", 1000);
        let (in_low, in_high) = (view.last_claimed(&low).unwrap().unwrap(), view.last_claimed(&high).unwrap().unwrap());
        assert_eq!((in_low.address, in_high.address), (ip("10.0.0.2"), ip("10.0.1.1")));
        assert!(in_low.sequence < in_high.sequence);
        let both = range("10.0.0.0", "10.0.255.255");
        assert_eq!(view.last_claimed(&both).unwrap().unwrap().address, ip("10.0.1.1"), "of a range nobody declared");
    });
}

#[test]
fn an_operator_can_free_an_address() {
    on_both(|subject| {
        let pool = range("10.0.0.1", "10.0.0.9");
        let ipam = Key { role: Role::Ipam, ..key("a") };
        claim_next(subject, &ipam, &pool);
        claim_next(subject, &key("b"), &pool);
        assert!(!subject.release_address("s", ip("10.0.0.7"), true), "nobody has it");
        assert!(!subject.release_address("s", ip("10.0.0.1"), false), "in use");
        assert!(subject.release_address("s", ip("10.0.0.1"), true));
        assert_eq!(subject.entry(&ipam), None, "an entry for addresses only goes with its last one");
        assert!(subject.release_address("s", ip("10.0.0.2"), true));
        assert_eq!(subject.entry(&key("b")).unwrap().claims, [], "one with a link stays for DEL");
        assert_eq!(subject.view("s", 1000).usage(&pool).unwrap().taken, 0);
    });
}

#[test]
fn a_new_boot_releases_what_the_old_one_left() {
    on_both(|subject| {
        let pool = range("10.0.0.1", "10.0.0.9");
        let keep = ReleaseRule::Keep("pod:ns/db-0".into());
        let claim = |subject: &mut dyn Subject, owner: &str, address: &str, rule: &ReleaseRule, externals: &str| {
            let record = Record { externals: externals.into(), ..Record::default() };
            subject.claim(&ask(&key(owner), &[want(&[ip(address)], &pool)], rule), record).unwrap();
        };
        claim(subject, "a", "10.0.0.1", &ReleaseRule::Free, "");
        claim(subject, "b", "10.0.0.2", &keep, "");
        claim(subject, "c", "10.0.0.3", &ReleaseRule::Free, "[portmap]");
        assert_eq!(subject.reboot("boot-1", 2000), [], "the same boot");
        assert_eq!(subject.reboot("boot-2", 2000), [key("a"), key("b")]);
        let state = |address| subject.view("s", 2000).claimed_by(ip(address)).unwrap().map(|claim| claim.state);
        assert_eq!(state("10.0.0.1"), None);
        assert_eq!(state("10.0.0.2"), Some(ClaimState::Kept));
        assert_eq!(state("10.0.0.3"), Some(ClaimState::Active));
        assert_eq!(subject.entry(&key("c")).unwrap().boot_id, "boot-1");
        claim(subject, "d", "10.0.0.1", &ReleaseRule::Free, "");
        assert_eq!(subject.entry(&key("d")).unwrap().boot_id, "boot-2");
    });
}

#[test]
fn shared_names_are_found_as_long_as_another_entry_has_them() {
    on_both(|subject| {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (owner, shared) in [("a", names(&["x", "y"])), ("b", names(&["y", "z"]))] {
            let record = Record { shared, ..Record::default() };
            subject.claim(&ask(&key(owner), &[], &ReleaseRule::Free), record).unwrap();
        }
        assert_eq!(subject.shared_elsewhere(&key("a"), &names(&["x", "y", "z"])), ["y", "z"]);
        assert_eq!(subject.shared_elsewhere(&key("gone"), &names(&["x", "n"])), ["x"]);
        subject.release(&key("b"), 1000).unwrap();
        assert_eq!(subject.shared_elsewhere(&key("a"), &names(&["x", "y", "z"])), Vec::<String>::new());
    });
}

#[test]
fn a_view_is_a_snapshot_until_its_store_writes() {
    let mut disk = OnDisk::new();
    let pool = range("10.0.0.1", "10.0.0.9");
    let view = disk.store.view("s", 1000).unwrap();
    assert_eq!(view.usage(&pool).unwrap().taken, 0);
    let mut other = NodeStore::open(disk.dir.path(), "boot-1").unwrap();
    let wants = [want(&[ip("10.0.0.1")], &pool)];
    other.claim(&ask(&key("a"), &wants, &ReleaseRule::Free), |_| Ok::<_, ()>(Record::default())).unwrap();
    assert_eq!(view.usage(&pool).unwrap().taken, 0, "another process's claim does not show");
    assert_eq!(view.next_free(&pool, pool.first).unwrap(), Some(ip("10.0.0.1")));
    // The claim still sees it.
    let error = disk.claim(&ask(&key("b"), &wants, &ReleaseRule::Free), Record::default());
    assert_eq!(error, Err(Refused::Lost(0)));
    assert_eq!(view.usage(&pool).unwrap().taken, 1);
    drop(view);
    let view = disk.store.view("s", 1000).unwrap();
    assert_eq!(view.next_free(&pool, pool.first).unwrap(), Some(ip("10.0.0.2")));
    let elsewhere = std::thread::spawn(move || view.usage(&range("10.0.0.1", "10.0.0.9")).unwrap().taken);
    assert_eq!(elsewhere.join().unwrap(), 1, "a view can go to another thread");
}

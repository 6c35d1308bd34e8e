//! The file: modes, versions, files that are not a store, and the size of the log. `damage` breaks files.

mod damage;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;

use super::size::{every_nth_address, fill};
use super::*;
use crate::ledger;
use crate::ledger::ClaimFilter;
use crate::store::{APPLICATION_ID, FILE, LOG_LIMIT, StoreError, VERSION, log_path};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn pool() -> Range {
    range("10.0.0.1", "10.0.255.254")
}

#[test]
fn directory_and_files_are_root_only() {
    let top = scratch();
    let dir = top.path().join("a/b");
    assert!(NodeStore::open_read_only(&dir).unwrap().is_none(), "nothing is made by reading");
    assert!(!dir.exists());
    let mut store = NodeStore::open(&dir, "boot-1").unwrap();
    fill(&mut store, "s", &every_nth_address(&pool(), 3, 1));
    assert_eq!(mode(&dir), 0o700);
    for name in fs::read_dir(&dir).unwrap() {
        let path = name.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
    assert_eq!(store.path(), dir.join(FILE));
}

#[test]
fn a_reader_ignores_an_unfinished_store_and_a_writer_finishes_it() {
    let dir = scratch();
    fs::write(dir.path().join(FILE), b"").unwrap();
    assert!(NodeStore::open_read_only(dir.path()).unwrap().is_none());
    NodeStore::open(dir.path(), "boot-1").unwrap();
    assert_sound(dir.path());
}

#[test]
fn a_reader_sees_everything_and_writes_nothing() {
    let mut disk = OnDisk::new();
    claim_next(&mut disk, &key("a"), &pool());
    let mut reader = NodeStore::open_read_only(disk.dir.path()).unwrap().unwrap();
    assert_eq!(reader.view("s", 1000).unwrap().usage(&pool()).unwrap().taken, 1);
    assert_eq!(reader.entries(None).unwrap().len(), 1);
    let wants = [want(&[ip("10.0.0.2")], &pool())];
    let claimed = reader.claim(&ask(&key("b"), &wants, &ReleaseRule::Free), |_| Ok::<_, ()>(Record::default()));
    assert!(matches!(claimed, Err(ClaimError::Ledger(StoreError::ReadOnly { .. }))), "{claimed:?}");
    assert!(matches!(reader.release(&key("a"), 1), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(reader.purge_expired(1), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(reader.reap_previous_boots(&|_| false, 1), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(reader.maintain(), Err(StoreError::ReadOnly { .. })));
}

#[test]
fn a_foreign_file_is_reported_and_not_changed() {
    type Make<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Make<'_>); 4] = [
        ("garbage", &|path| fs::write(path, "no database, but long enough to be looked at as one".repeat(50)).unwrap()),
        ("another program's database", &|path| {
            Connection::open(path).unwrap().execute_batch("CREATE TABLE t (x); PRAGMA user_version = 1").unwrap();
        }),
        ("a database without a stamp", &|path| {
            Connection::open(path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        }),
        ("a directory", &|path| fs::create_dir(path).unwrap()),
    ];
    for (name, make) in cases {
        let dir = scratch();
        let path = dir.path().join(FILE);
        make(&path);
        let before = fs::read(&path).ok();
        for error in
            [NodeStore::open(dir.path(), "boot-1").unwrap_err(), NodeStore::open_read_only(dir.path()).unwrap_err()]
        {
            match error {
                StoreError::NotAStore { .. } => {
                    assert!(error.to_string().contains("weftctl ledger rebuild"), "{error}")
                }
                StoreError::Link { .. } => assert_eq!(name, "a directory", "{error}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        assert_eq!(fs::read(&path).ok(), before, "{name}");
    }
}

#[test]
fn a_state_directory_that_is_not_a_directory_is_an_error() {
    let dir = scratch();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(NodeStore::open(&file, "boot-1"), Err(StoreError::Directory { .. })));
    assert!(matches!(NodeStore::open_read_only(&file), Err(StoreError::Directory { .. })));
}

#[test]
fn a_newer_format_is_refused_and_an_older_one_is_upgraded_by_writing_only() {
    let disk = OnDisk::new();
    let raw = Connection::open(disk.store.path()).unwrap();
    raw.execute_batch(&format!("PRAGMA user_version = {}", VERSION + 1)).unwrap();
    for error in [
        NodeStore::open(disk.dir.path(), "boot-1").unwrap_err(),
        NodeStore::open_read_only(disk.dir.path()).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Newer { found, known, .. } if found == known + 1), "{error:?}");
    }
    // The only older format: ours before the first table.
    let dir = scratch();
    let raw = Connection::open(dir.path().join(FILE)).unwrap();
    raw.execute_batch(&format!("PRAGMA application_id = {}", APPLICATION_ID)).unwrap();
    drop(raw);
    assert!(matches!(NodeStore::open_read_only(dir.path()), Err(StoreError::Older { found: 0, .. })));
    NodeStore::open(dir.path(), "boot-1").unwrap();
    assert_sound(dir.path());
}

#[test]
fn a_failing_record_leaves_nothing() {
    let mut disk = OnDisk::new();
    claim_next(&mut disk, &key("a"), &pool());
    let before = disk.store.claims(&ClaimFilter::default()).unwrap();
    let wants = [want(&[ip("10.0.0.2")], &pool())];
    let error = disk.store.claim(&ask(&key("b"), &wants, &ReleaseRule::Free), |claimed| {
        assert_eq!(claimed[0].address, host(ip("10.0.0.2")));
        Err::<Record, _>("no plan")
    });
    assert!(matches!(error, Err(ClaimError::Record("no plan"))));
    assert_eq!(disk.store.claims(&ClaimFilter::default()).unwrap(), before);
    assert_eq!(disk.store.entry(&key("b")).unwrap(), None);
    assert_sound(disk.dir.path());
}

#[test]
fn a_record_can_be_replaced() {
    let mut disk = OnDisk::new();
    claim_next(&mut disk, &key("a"), &pool());
    let record = Record {
        netns: "/run/netns/a".into(),
        plan: "{\"ops\":[]}".into(),
        externals: "[]".into(),
        trace: "t".into(),
        shared: vec!["masquerade 10.0.0.1/16".into()],
    };
    disk.store.update_record(&key("a"), &record).unwrap();
    let entry = disk.store.entry(&key("a")).unwrap().unwrap();
    assert_eq!((entry.record, entry.claims.len()), (record.clone(), 1));
    let others = disk.store.shared_elsewhere(&key("b"), &record.shared).unwrap();
    assert_eq!(others.into_iter().collect::<Vec<_>>(), record.shared);
    disk.store.update_record(&key("a"), &Record::default()).unwrap();
    assert!(disk.store.shared_elsewhere(&key("b"), &record.shared).unwrap().is_empty());
    let error = disk.store.update_record(&key("b"), &record).unwrap_err();
    assert!(matches!(error, StoreError::NoEntry { .. }), "{error:?}");
    assert_sound(disk.dir.path());
}

#[test]
fn claims_can_be_listed_by_anything() {
    let mut disk = OnDisk::new();
    claim_next(&mut disk, &key("a"), &pool());
    let wants = [want(&[ip("10.0.0.2")], &pool())];
    let keep = ReleaseRule::Keep("pod:ns/x".into());
    disk.claim(&ask(&key("b"), &wants, &keep), Record::default()).unwrap();
    disk.release(&key("b"), 1500);
    let list = |filter: ClaimFilter| {
        let rows = disk.store.claims(&filter).unwrap();
        rows.into_iter()
            .map(|row| format!("{} {} {} {}", row.address, row.owner, row.ifname, row.since))
            .collect::<Vec<_>>()
    };
    let (active, kept) = ("10.0.0.1 a eth0 1000".to_owned(), "10.0.0.2 pod:ns/x  1500".to_owned());
    assert_eq!(list(ClaimFilter::default()), [active.clone(), kept.clone()]);
    assert_eq!(
        list(ClaimFilter { owner: Some("a".into()), ..ClaimFilter::default() }).as_slice(),
        std::slice::from_ref(&active)
    );
    assert_eq!(
        list(ClaimFilter { address: Some(ip("10.0.0.2")), ..ClaimFilter::default() }).as_slice(),
        std::slice::from_ref(&kept)
    );
    assert_eq!(list(ClaimFilter { network: Some("net".into()), ..ClaimFilter::default() }), [active, kept]);
    assert!(list(ClaimFilter { scope: Some("t".into()), ..ClaimFilter::default() }).is_empty());
}

#[test]
fn a_scope_forgets_the_range_that_was_not_declared_for_longest() {
    let mut disk = OnDisk::new();
    let nth = |n: usize| {
        let first = every_nth_address(&range("10.0.0.0", "10.255.255.255"), n + 1, 16)[n];
        Range { subnet: host(first), first, last: first, gateway: None }
    };
    let count = ledger::MOST + 10;
    for n in 0..count {
        let pool = nth(n);
        let wants = [want(&[pool.first], &pool)];
        disk.claim(&ask(&key(&n.to_string()), &wants, &ReleaseRule::Free), Record::default()).unwrap();
    }
    let raw = Connection::open(disk.store.path()).unwrap();
    let rows: isize = raw.query_row("SELECT count(*) FROM ranges", [], |row| row.get(0)).unwrap();
    assert_eq!(rows.unsigned_abs(), ledger::MOST);
    let view = disk.store.view("s", 1000).unwrap();
    assert_eq!(view.last_claimed(&nth(count - 1)).unwrap().unwrap().address, nth(count - 1).first);
    assert_eq!(view.last_claimed(&nth(0)).unwrap(), None, "forgotten");
    assert_eq!(view.usage(&nth(0)).unwrap(), usage(1, 1), "but still counted");
    drop(view);
    assert_sound(disk.dir.path());
}

#[test]
fn derived_tables_can_be_rebuilt() {
    let mut disk = OnDisk::new();
    for owner in ["a", "b", "c"] {
        let record = Record { shared: vec![owner.to_owned()], ..Record::default() };
        let free = disk.store.view("s", 1).unwrap().next_free(&pool(), pool().first).unwrap().unwrap();
        disk.claim(&ask(&key(owner), &[want(&[free], &pool())], &ReleaseRule::Free), record).unwrap();
    }
    disk.release(&key("b"), 1000);
    let raw = Connection::open(disk.store.path()).unwrap();
    raw.execute_batch("DELETE FROM shared; UPDATE ranges SET taken = 7; DELETE FROM runs WHERE first = x'0a000001'")
        .unwrap();
    let problems = disk.store.integrity().unwrap();
    assert_eq!(problems.len(), 3, "{problems:?}");
    disk.store.repair(1000).unwrap();
    assert_sound(disk.dir.path());
    raw.execute_batch("DELETE FROM journal").unwrap();
    let problems = disk.store.integrity().unwrap();
    assert!(problems.iter().any(|problem| problem.contains("10.0.0.1 in scope \"s\" is active")), "{problems:?}");
}

#[test]
fn the_log_stays_small_over_many_short_processes() {
    let OnDisk { dir, store } = OnDisk::new();
    drop(store);
    let log = log_path(&dir.path().join(FILE));
    let mut largest = 0;
    for round in 0..300 {
        let mut store = NodeStore::open(dir.path(), "boot-1").unwrap();
        let wants = [want(&every_nth_address(&pool(), 300, 1)[round..], &pool())];
        let record = Record { plan: "x".repeat(3000), ..Record::default() };
        store.claim(&ask(&key(&round.to_string()), &wants, &ReleaseRule::Free), |_| Ok::<_, ()>(record)).unwrap();
        drop(store);
        largest = largest.max(fs::metadata(&log).unwrap().len());
    }
    // One transaction may exceed the limit before it is noticed.
    assert!(largest > LOG_LIMIT / 2, "the log is in use: {largest}");
    assert!(largest < LOG_LIMIT * 3 / 2, "{largest}");
    assert_sound(dir.path());
}

#[test]
fn a_reader_that_stays_delays_the_log_but_not_the_writers() {
    let OnDisk { dir, mut store } = OnDisk::new();
    claim_next(&mut OnDisk { dir: scratch(), store: NodeStore::open(dir.path(), "b").unwrap() }, &key("z"), &pool());
    let reader = NodeStore::open_read_only(dir.path()).unwrap().unwrap();
    let view = reader.view("s", 1000).unwrap();
    assert_eq!(view.usage(&pool()).unwrap().taken, 1);
    for round in 0..100 {
        let wants = [want(&every_nth_address(&pool(), 200, 1)[round..], &pool())];
        let record = Record { plan: "x".repeat(3000), ..Record::default() };
        store.claim(&ask(&key(&round.to_string()), &wants, &ReleaseRule::Free), |_| Ok::<_, ()>(record)).unwrap();
    }
    assert_eq!(view.usage(&pool()).unwrap().taken, 1, "its snapshot holds");
    let log = log_path(store.path());
    assert!(fs::metadata(&log).unwrap().len() > LOG_LIMIT);
    drop((view, reader));
    store.release(&key("0"), 1000).unwrap();
    assert!(fs::metadata(&log).unwrap().len() <= LOG_LIMIT, "truncated as soon as nobody is in the way");
}

#[test]
fn the_documentation_has_the_version_of_the_format() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ledger-format.md")).unwrap();
    assert!(page.contains(&format!("Format version: {VERSION}.")), "docs/ledger-format.md has another number");
    assert!(page.contains(&format!("| `user_version` | {VERSION} |")), "its table has another number");
}

/// The store of a running process as SQLite's own command line sees it; `docs/ledger-format.md` has these queries.
#[test]
#[ignore = "needs the sqlite3 command"]
fn the_sqlite3_command_reads_it() {
    let mut disk = OnDisk::new();
    fill(&mut disk.store, "s", &every_nth_address(&pool(), 100, 2));
    let sqlite3 = |query: &str| {
        let path = disk.store.path();
        let output = std::process::Command::new("sqlite3").arg("-readonly").arg(path).arg(query).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(sqlite3("PRAGMA integrity_check"), "ok\n");
    assert_eq!(sqlite3("SELECT count(*), hex(min(address)), hex(max(address)) FROM claims"), "100|0A000001|0A0000C7\n");
    assert_eq!(sqlite3("SELECT count(*) FROM runs WHERE first = last"), "100\n");
    assert_eq!(sqlite3("PRAGMA journal_mode"), "wal\n");
}

#[test]
fn a_full_disk_is_an_error_and_changes_nothing() {
    let mut disk = OnDisk::new();
    claim_next(&mut disk, &key("a"), &pool());
    let before = disk.store.claims(&ClaimFilter::default()).unwrap();
    let most_pages = |store: &NodeStore, pages: u32| {
        store.lock().conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    };
    most_pages(&disk.store, 1);
    let wants = [want(&[ip("10.0.0.2")], &pool())];
    let record = Record { plan: "x".repeat(100_000), ..Record::default() };
    let error = disk.store.claim(&ask(&key("b"), &wants, &ReleaseRule::Free), |_| Ok::<_, ()>(record.clone()));
    assert!(matches!(error, Err(ClaimError::Ledger(StoreError::Full { .. }))), "{error:?}");
    assert_eq!(disk.store.claims(&ClaimFilter::default()).unwrap(), before);
    most_pages(&disk.store, u32::MAX - 1);
    disk.claim(&ask(&key("b"), &wants, &ReleaseRule::Free), record).unwrap();
    assert_sound(disk.dir.path());
}

#[test]
fn a_writer_waits_for_another_and_says_so_when_it_gives_up() {
    let mut disk = OnDisk::new();
    let other = Connection::open(disk.store.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let letting_go = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        other.execute_batch("COMMIT").unwrap();
        other
    });
    assert_eq!(claim_next(&mut disk, &key("a"), &pool()), Some(ip("10.0.0.1")), "it waited");
    let other = letting_go.join().unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    disk.store.lock().conn.busy_timeout(std::time::Duration::from_millis(20)).unwrap();
    let error = disk.store.release(&key("a"), 1000).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
}

#[test]
fn a_caller_may_wait_for_less_than_an_add_does() {
    let mut disk = OnDisk::new();
    assert_eq!(claim_next(&mut disk, &key("a"), &pool()), Some(ip("10.0.0.1")));
    let other = Connection::open(disk.store.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = std::time::Instant::now();
    let patience = std::time::Duration::from_millis(20);
    let error = disk.store.with_patience(patience, |store| store.release(&key("a"), 1000)).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    assert!(began.elapsed() < std::time::Duration::from_secs(15), "it waited as long as an ADD");
    let letting_go = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        other.execute_batch("COMMIT").unwrap();
    });
    assert_eq!(claim_next(&mut disk, &key("b"), &pool()), Some(ip("10.0.0.2")), "then it waits as before");
    letting_go.join().unwrap();
}

#[test]
fn a_cooldown_that_began_in_the_future_is_over() {
    let mut disk = OnDisk::new();
    let year = 365 * 86_400;
    let wants = [want(&[ip("10.0.0.1")], &pool())];
    let rule = ReleaseRule::Cooldown(60);
    disk.claim(&ask(&key("a"), &wants, &rule), Record::default()).unwrap();
    disk.release(&key("a"), 1000 + 16 * year).unwrap();
    // The clock is right again.
    assert!(disk.store.has_expired(1000).unwrap());
    let view = disk.store.view("s", 1000).unwrap();
    assert_eq!(view.claimed_by(ip("10.0.0.1")).unwrap(), None);
    drop(view);
    disk.claim(&ask(&key("b"), &wants, &rule), Record::default()).expect("it may be taken over");
    disk.release(&key("b"), 1000 + 16 * year).unwrap();
    assert_eq!(disk.store.purge_expired(1000).unwrap(), 1);
    assert_eq!(disk.store.claims(&ClaimFilter::default()).unwrap(), []);
    // A cooldown that began now has not expired.
    disk.claim(&ask(&key("c"), &wants, &rule), Record::default()).unwrap();
    disk.release(&key("c"), 1000).unwrap();
    assert!(!disk.store.has_expired(1000).unwrap());
    assert!(disk.claim(&ask(&key("d"), &wants, &rule), Record::default()).is_err());
    assert_sound(disk.dir.path());
}

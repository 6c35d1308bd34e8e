//! Many concurrent processes, and killed processes. Children are this test binary again, running `child`.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use super::size::every_nth_address;
use super::*;
use crate::ledger::ClaimFilter;
use crate::store::{FILE, LOG_LIMIT, StoreError, log_path};

/// The task of a child: directory, name, count, and mode.
const TASK: &str = "WEFT_LEDGER_TEST_TASK";

fn spawn(dir: &Path, name: &str, count: usize, way: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "commit::tests::processes::child", "--ignored"])
        .env(TASK, format!("{}\n{name}\n{count}\n{way}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "is what the other tests run as processes"]
fn child() {
    // Not a test of its own: it does nothing when all ignored tests are run.
    let Ok(task) = std::env::var(TASK) else { return };
    let parts: Vec<&str> = task.split('\n').collect();
    let dir = PathBuf::from(parts[0]);
    let mut worker = Worker::new(&dir, parts[1]);
    while !dir.join("go").exists() {
        std::thread::sleep(Duration::from_micros(200));
    }
    let count: usize = parts[2].parse().unwrap();
    match parts[3] {
        "claim" => (0..count).for_each(|turn| assert!(worker.claim(turn).is_some(), "the pool is large enough")),
        "churn" => worker.churn(count, |turn| turn % 3 == 0),
        "race" => worker.churn(count, |_turn| false),
        other => panic!("no task {other}"),
    }
}

/// The child's side: makes claims, and writes confirmed facts to a file of its own.
struct Worker {
    dir: PathBuf,
    name: String,
    notes: fs::File,
}

impl Worker {
    fn new(dir: &Path, name: &str) -> Self {
        let notes = OpenOptions::new().append(true).create(true).open(dir.join(format!("notes-{name}"))).unwrap();
        Self { dir: dir.to_owned(), name: name.to_owned(), notes }
    }

    /// One write per note, so that a kill leaves whole lines.
    fn note(&mut self, what: &str, turn: usize, address: IpAddr) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        self.notes.write_all(format!("{what} {} {address} {now}\n", self.id(turn)).as_bytes()).unwrap();
    }

    fn id(&self, turn: usize) -> String {
        format!("{}-{turn}", self.name)
    }

    /// Acts like an ADD: a connection, a snapshot, a claim, and another try if the claim was lost. `None` if the pool
    /// is full.
    fn claim(&mut self, turn: usize) -> Option<IpAddr> {
        let mut store = NodeStore::open(&self.dir.join("state"), "boot-1").unwrap();
        let pool = pool();
        let key = key(&self.id(turn));
        loop {
            let free = store.view("s", 1000).unwrap().next_free(&pool, pool.first).unwrap()?;
            let wants = [want(&[free], &pool)];
            let record = Record { plan: "x".repeat(2000), ..Record::default() };
            match store.claim(&ask(&key, &wants, &ReleaseRule::Free), |_| Ok::<_, ()>(record)) {
                Ok(_claimed) => {
                    self.note("claimed", turn, free);
                    return Some(free);
                }
                Err(ClaimError::Lost { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    fn churn(&mut self, count: usize, stays: impl Fn(usize) -> bool) {
        for turn in 0..count {
            let Some(address) = self.claim(turn) else { continue };
            if !stays(turn) {
                self.note("releasing", turn, address);
                let mut store = NodeStore::open(&self.dir.join("state"), "boot-1").unwrap();
                let released = store.release(&key(&self.id(turn)), 1000).unwrap().expect("it was claimed");
                assert_eq!(released.claims, [("s".to_owned(), address)]);
                self.note("released", turn, address);
            }
        }
    }
}

fn pool() -> Range {
    range("10.0.0.1", "10.0.7.255")
}

fn allow_start(dir: &Path) {
    fs::write(dir.join("go"), "").unwrap();
}

/// All notes: (what, id, address, when).
fn notes(dir: &Path) -> Vec<(String, String, IpAddr, u128)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("notes-") {
            for line in fs::read_to_string(path).unwrap().lines() {
                let parts: Vec<&str> = line.split(' ').collect();
                found.push((parts[0].into(), parts[1].into(), ip(parts[2]), parts[3].parse().unwrap()));
            }
        }
    }
    found
}

#[test]
fn sixty_four_processes_claim_from_one_pool_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // The store does not exist yet, so they also create it concurrently.
    let children: Vec<Child> = (0..64).map(|n| spawn(dir.path(), &format!("p{n}"), 8, "claim")).collect();
    allow_start(dir.path());
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let mut claimed: Vec<IpAddr> = notes(dir.path()).into_iter().map(|note| note.2).collect();
    claimed.sort();
    assert_eq!(claimed, every_nth_address(&pool(), 64 * 8, 1), "no address twice, none left out");
    let state = dir.path().join("state");
    assert_sound(&state);
    let store = NodeStore::open(&state, "boot-1").unwrap();
    assert_eq!(store.view("s", 1000).unwrap().usage(&pool()).unwrap().taken, 64 * 8);
    assert_eq!(store.entries(Some("net")).unwrap().len(), 64 * 8);
    let log = fs::metadata(log_path(store.path())).unwrap().len();
    // Above 16 times the limit, every writer waits for readers.
    assert!(log < 32 * LOG_LIMIT, "always busy, yet the log was started over: {log}");
}

#[test]
fn processes_make_the_store_at_once() {
    for round in 0..15 {
        let dir = scratch();
        let children: Vec<Child> = (0..16).map(|n| spawn(dir.path(), &format!("p{n}"), 1, "claim")).collect();
        allow_start(dir.path());
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "round {round}: {output:?}");
        }
        assert_sound(&dir.path().join("state"));
    }
}

#[test]
fn processes_fill_a_pool_to_the_last_address() {
    let dir = tempfile::tempdir().unwrap();
    let children: Vec<Child> = (0..8).map(|n| spawn(dir.path(), &format!("p{n}"), 150, "race")).collect();
    let mut store = NodeStore::open(&dir.path().join("state"), "boot-1").unwrap();
    // All but a few addresses are taken: most claims are races.
    super::size::fill(&mut store, "s", &every_nth_address(&pool(), 2047 - 6, 1));
    allow_start(dir.path());
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    check_oracle(dir.path(), 0);
    let usage = store.view("s", 1000).unwrap().usage(&pool()).unwrap();
    assert_eq!(usage.size - usage.taken, 6, "all of them gave theirs back");
    let last = ask_all(&mut store, 7);
    assert_eq!(last, [true, true, true, true, true, true, false]);
}

/// Claims so many addresses and returns which claims found one.
fn ask_all(store: &mut NodeStore, count: usize) -> Vec<bool> {
    let claim = |index: usize| {
        let Some(free) = store.view("s", 1000).unwrap().next_free(&pool(), pool().first).unwrap() else { return false };
        let wants = [want(&[free], &pool())];
        let key = key(&format!("last-{index}"));
        store.claim(&ask(&key, &wants, &ReleaseRule::Free), |_| Ok::<_, ()>(Record::default())).is_ok()
    };
    (0..count).map(claim).collect()
}

#[test]
fn killed_writers_lose_nothing_and_leave_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    allow_start(dir.path());
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut killed = 0;
    for round in 0..40 {
        let mut children: Vec<Child> =
            (0..6).map(|n| spawn(dir.path(), &format!("r{round}p{n}"), 1000, "churn")).collect();
        for child in &mut children {
            std::thread::sleep(Duration::from_micros(500 + next(25_000)));
            child.kill().unwrap();
            killed += u32::from(!child.wait().unwrap().success());
        }
        if dir.path().join("state").join(FILE).exists() {
            // The state that a crash left, before a writer repairs the log.
            assert_eq!(integrity_of_a_copy(&dir.path().join("state")), Vec::<String>::new(), "round {round}");
        }
    }
    assert!(killed > 100, "they were killed, not finished: {killed}");
    check_oracle(dir.path(), killed as usize);
}

/// Checks a copy, so that the check does not recover the original.
fn integrity_of_a_copy(state: &Path) -> Vec<String> {
    let copy = tempfile::tempdir().unwrap();
    for name in [FILE.to_owned(), format!("{FILE}-wal")] {
        if state.join(&name).exists() {
            fs::copy(state.join(&name), copy.path().join(&name)).unwrap();
        }
    }
    match NodeStore::open_read_only(copy.path()) {
        Ok(Some(store)) => store.integrity().unwrap(),
        Ok(None) => Vec::new(),
        Err(error @ StoreError::NotAStore { .. }) => panic!("{error:?}"),
        Err(error) => vec![error.to_string()],
    }
}

/// Compares the notes with the store. A claim that was acknowledged and is not being released exists. Every existing
/// claim was acknowledged, except for at most one per killed process. Nobody held an address while somebody else did.
fn check_oracle(dir: &Path, killed: usize) {
    let state = dir.join("state");
    assert_sound(&state);
    let store = NodeStore::open(&state, "boot-1").unwrap();
    let rows = store.claims(&ClaimFilter::default()).unwrap();
    let there: BTreeMap<IpAddr, String> = rows.into_iter().map(|row| (row.address, row.owner)).collect();
    let mut holds: BTreeMap<String, (IpAddr, u128, Option<u128>, bool)> = BTreeMap::new();
    for (what, id, address, when) in notes(dir) {
        match what.as_str() {
            "claimed" => drop(holds.insert(id, (address, when, None, false))),
            "releasing" => holds.get_mut(&id).unwrap().2 = Some(when),
            _ => holds.get_mut(&id).unwrap().3 = true,
        }
    }
    assert!(holds.len() > 50, "the children did something: {}", holds.len());
    let mut by_address: BTreeMap<IpAddr, Vec<(u128, u128, &str)>> = BTreeMap::new();
    for (id, (address, from, until, released)) in &holds {
        by_address.entry(*address).or_default().push((*from, until.unwrap_or(u128::MAX), id));
        match (until, released) {
            (None, _) => assert_eq!(there.get(address), Some(id), "{address} was acknowledged"),
            (Some(_), true) => assert_ne!(there.get(address), Some(id), "{address} was released"),
            (Some(_), false) => {}
        }
    }
    for (address, mut times) in by_address {
        times.sort();
        for pair in times.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{address} was held twice at once: {pair:?}");
        }
    }
    let prefilled = |id: &str| id.len() == 64;
    let unknown = there.values().filter(|id| !prefilled(id) && !holds.contains_key(*id)).count();
    assert!(unknown <= killed, "{unknown} claims that no caller knows, {killed} processes killed");
}

//! To and from host-local's directory.

mod export;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::super::HostLocalImport;
use super::*;
use crate::ledger::{ExportReport, HostLocalExport, ImportReport, LedgerError, SkipReason};

fn scope_of(network: &str) -> String {
    format!("scope of {network}")
}

fn import(store: &mut NodeStore, dir: &Path) -> Result<ImportReport, LedgerError> {
    let record = Record { plan: "{}".into(), ..Record::default() };
    store.import_host_local(&HostLocalImport {
        dir,
        scope_of: &scope_of,
        record: &record,
        is_stale: &|attachment, _address| attachment.container_id == "gone",
        is_dead: &|entry| entry.key.attachment.container_id == "dead",
        now: 1000,
    })
}

fn export(store: &NodeStore, dir: &Path, networks: Option<&[String]>) -> Result<ExportReport, LedgerError> {
    let dir_of = |network: &str, _scope: &str| dir.join(network);
    let is_gone = |_network: &str, container_id: &str| container_id == "gone";
    store.export_host_local(&HostLocalExport { dir_of: &dir_of, networks, scope_of: &scope_of, is_gone: &is_gone })
}

/// A network's directory with these files.
fn network(top: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = top.join(name);
    fs::create_dir_all(&dir).unwrap();
    for (name, contents) in files {
        fs::write(dir.join(name), contents).unwrap();
    }
    dir
}

/// All files below a directory, with their contents.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(
                tree(&path)
                    .into_iter()
                    .map(|(name, contents)| (path.file_name().map(PathBuf::from).unwrap().join(name), contents)),
            );
        } else {
            found.insert(path.file_name().unwrap().into(), fs::read(&path).unwrap());
        }
    }
    found
}

const BLUE: &[(&str, &str)] = &[
    ("10.1.0.2", "id1\r\neth0"),
    ("2001:db8::2", "id1\r\neth0"),
    ("10.1.0.3", "id1\r\nnet1"),
    ("10.1.0.9", "old"),
    ("last_reserved_ip.0", "10.1.0.7"),
    ("last_reserved_ip.1", "2001:db8::2"),
    ("lock", ""),
];

fn ipam(network: &str, container_id: &str, ifname: &str) -> Key {
    let attachment = Attachment { network: network.into(), container_id: container_id.into(), ifname: ifname.into() };
    Key { attachment, role: Role::Ipam }
}

/// After a rollback, the stock plugin has given a dead attachment's address to a pod. If that file were skipped, weft
/// would give out the address again.
#[test]
fn a_pod_of_the_stock_plugin_gets_what_a_dead_attachment_has() {
    let dir = scratch();
    let files = [("10.1.0.6", "live\r\neth0"), ("10.1.0.7", "mine\r\neth0"), ("10.1.0.8", "live\r\nnet1")];
    let dir = network(dir.path(), "blue", &files);
    let mut disk = OnDisk::new();
    let (free, rest, scope) = (ReleaseRule::Free, ReleaseRule::Cooldown(60), scope_of("blue"));
    for (owner, address, rule) in
        [("dead", "10.1.0.6", &free), ("mine", "10.1.0.7", &free), ("rested", "10.1.0.8", &rest)]
    {
        let wants = [Want { candidates: vec![(host(ip(address)), None)], gateway: None }];
        disk.claim(&ClaimAsk { scope: &scope, ..ask(&key(owner), &wants, rule) }, Record::default()).unwrap();
    }
    disk.release(&key("rested"), 1000).unwrap();
    let report = import(&mut disk.store, &dir).unwrap();
    let blue = &report.networks[0];
    assert_eq!((blue.imported, blue.already, blue.skipped.len()), (2, 1, 0), "{blue:?}");
    let held = |disk: &OnDisk, key: &Key| disk.entry(key).unwrap().claims;
    assert_eq!(held(&disk, &ipam("blue", "live", "eth0")), [(scope.clone(), ip("10.1.0.6"))]);
    assert_eq!(held(&disk, &ipam("blue", "live", "net1")), [(scope.clone(), ip("10.1.0.8"))]);
    assert_eq!(held(&disk, &key("mine")), [(scope.clone(), ip("10.1.0.7"))]);
    assert_eq!(held(&disk, &key("dead")), []);
    // Its DEL must not release the address.
    disk.release(&key("dead"), 2000).unwrap();
    assert_eq!(held(&disk, &ipam("blue", "live", "eth0")), [(scope, ip("10.1.0.6"))]);
    assert_sound(disk.dir.path());
}

#[test]
fn a_directory_comes_back_byte_for_byte() {
    let (from, to) = (scratch(), scratch());
    network(from.path(), "blue", BLUE);
    network(from.path(), "red", &[("10.1.0.2", "id1\r\neth0"), ("last_reserved_ip.0", "10.1.0.2"), ("lock", "")]);
    fs::create_dir(from.path().join("not-a-network")).unwrap();
    let before = tree(from.path());
    let mut disk = OnDisk::new();
    let report = import(&mut disk.store, from.path()).unwrap();
    let counts: Vec<_> = report.networks.iter().map(|one| (one.network.as_str(), one.imported, one.already)).collect();
    assert_eq!(counts, [("blue", 4, 0), ("red", 1, 0)]);
    assert!(report.networks.iter().all(|one| one.skipped.is_empty()));
    assert_eq!(tree(from.path()), before, "importing changes nothing");
    let again = import(&mut disk.store, from.path()).unwrap();
    assert_eq!((again.networks[0].imported, again.networks[0].already), (0, 4));
    assert_sound(disk.dir.path());

    let report = export(&disk.store, to.path(), None).unwrap();
    assert_eq!(tree(to.path()), before);
    assert_eq!((report.networks[0].written, report.networks[0].unchanged), (6, 0));
    let again = export(&disk.store, to.path(), None).unwrap();
    assert_eq!((again.networks[0].written, again.networks[0].unchanged), (0, 6));
    assert_eq!(tree(to.path()), before);
}

#[test]
fn imported_claims_are_found_and_released_by_del() {
    let from = scratch();
    let dir = network(from.path(), "blue", BLUE);
    let mut disk = OnDisk::new();
    // The network's own directory works too.
    import(&mut disk.store, &dir).unwrap();
    let scope = scope_of("blue");
    let view = disk.store.view(&scope, 1000).unwrap();
    let pool = range("10.1.0.1", "10.1.0.254");
    assert_eq!(view.last_claimed(&pool).unwrap().unwrap().address, ip("10.1.0.7"), "round robin goes on where it was");
    assert_eq!(view.usage(&pool).unwrap().taken, 3);
    drop(view);
    let entry = disk.store.entry(&ipam("blue", "id1", "eth0")).unwrap().unwrap();
    assert_eq!(entry.claims, [(scope.clone(), ip("10.1.0.2")), (scope.clone(), ip("2001:db8::2"))]);
    assert_eq!((entry.record.plan.as_str(), entry.boot_id.as_str()), ("{}", "boot-1"));

    assert_eq!(disk.store.release(&ipam("blue", "id1", "eth9"), 1000).unwrap(), None, "another interface");
    assert_eq!(disk.store.release(&ipam("red", "id1", "eth0"), 1000).unwrap(), None, "another network");
    disk.store.release(&ipam("blue", "id1", "eth0"), 1000).unwrap().unwrap();
    let released = disk.store.release(&ipam("blue", "old", "eth0"), 1000).unwrap().expect("by its container id alone");
    assert_eq!(released.claims, [(scope.clone(), ip("10.1.0.9"))]);
    let left: Vec<IpAddr> =
        disk.store.claims(&Default::default()).unwrap().into_iter().map(|row| row.address).collect();
    assert_eq!(left, [ip("10.1.0.3")]);
    assert_sound(disk.dir.path());
}

#[test]
fn what_is_not_understood_is_reported_and_left_out() {
    let from = scratch();
    let dir = network(
        from.path(),
        "blue",
        &[
            ("10.1.0.2", "id1\r\neth0"),
            ("10.1.0.3", ""),
            ("10.1.0.4", "  \r\n"),
            ("10.1.0.5", "two words\r\neth0"),
            ("10.1.0.6", "id2\r\neth0"),
            ("10.1.0.06", "id3\r\neth0"),
            ("::ffff:10.1.0.7", "id3\r\neth0"),
            ("last_reserved_ip.0", "nonsense"),
            ("last_reserved_ip.one", "10.1.0.2"),
            ("README", "hello"),
        ],
    );
    fs::create_dir(dir.join("10.1.0.8")).unwrap();
    fs::write(dir.join("10.1.0.10"), [0xff, 0xfe]).unwrap();
    fs::write(dir.join("10.1.0.11"), "x".repeat(100_000)).unwrap();
    let mut disk = OnDisk::new();
    let wants = [Want { candidates: vec![(host(ip("10.1.0.6")), None)], gateway: None }];
    let (mine, free, scope) = (key("mine"), ReleaseRule::Free, scope_of("blue"));
    disk.claim(&ClaimAsk { scope: &scope, ..ask(&mine, &wants, &free) }, Record::default()).unwrap();
    let report = import(&mut disk.store, &dir).unwrap();
    let skipped: BTreeMap<String, SkipReason> = report.networks[0]
        .skipped
        .iter()
        .map(|one| (one.file.file_name().unwrap().to_string_lossy().into_owned(), one.reason.clone()))
        .collect();
    let expected = [
        ("10.1.0.3", SkipReason::Empty),
        ("10.1.0.4", SkipReason::Empty),
        ("10.1.0.5", SkipReason::UnknownContents),
        ("10.1.0.6", SkipReason::Taken),
        ("10.1.0.06", SkipReason::UnknownName),
        ("::ffff:10.1.0.7", SkipReason::UnknownName),
        ("last_reserved_ip.0", SkipReason::UnknownContents),
        ("last_reserved_ip.one", SkipReason::UnknownName),
        ("README", SkipReason::UnknownName),
        ("10.1.0.8", SkipReason::UnknownName),
        ("10.1.0.10", SkipReason::UnknownContents),
        ("10.1.0.11", SkipReason::UnknownContents),
    ];
    assert_eq!(skipped, expected.into_iter().map(|(name, reason)| (name.to_owned(), reason)).collect());
    assert_eq!(report.networks[0].imported, 1);
    assert_sound(disk.dir.path());
}

#[test]
fn a_wrong_directory_is_refused_untouched() {
    let top = scratch();
    fs::create_dir(top.path().join("etc")).unwrap();
    fs::write(top.path().join("etc/passwd"), "root").unwrap();
    let before = tree(top.path());
    let mut disk = OnDisk::new();
    for dir in [top.path().to_owned(), top.path().join("etc")] {
        assert!(matches!(import(&mut disk.store, &dir), Err(LedgerError::NotHostLocal { .. })));
    }
    let missing = import(&mut disk.store, &top.path().join("missing"));
    assert!(matches!(missing, Err(LedgerError::HostLocal { .. })), "{missing:?}");
    assert_eq!(tree(top.path()), before);
    let bad = export(&disk.store, top.path(), Some(&["../x".to_owned()]));
    assert!(matches!(bad, Err(LedgerError::BadNetworkName { .. })), "{bad:?}");
}

#[test]
fn the_plugins_lock_is_waited_for() {
    let from = scratch();
    let dir = network(from.path(), "blue", BLUE);
    let file = fs::File::open(dir.join("lock")).unwrap();
    let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let importing = std::thread::spawn({
        let dir = dir.clone();
        move || {
            let mut disk = OnDisk::new();
            import(&mut disk.store, &dir).unwrap().networks[0].imported
        }
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    fs::write(dir.join("10.1.0.50"), "late\r\neth0").unwrap();
    drop(held);
    assert_eq!(importing.join().unwrap(), 5, "it looked after the lock was free");
}

/// The real plugin, as the Debian package installs it.
const PLUGIN: &str = "/usr/lib/cni/host-local";

fn plugin(data_dir: &Path, command: &str, id: &str) -> (bool, String) {
    let conf = format!(
        r#"{{"cniVersion":"0.4.0","name":"blue","type":"host-local","ipam":{{"type":"host-local","dataDir":"{}",
            "ranges":[[{{"subnet":"10.1.0.0/29"}}],[{{"subnet":"2001:db8::/64"}}]]}}}}"#,
        data_dir.display()
    );
    let mut child = Command::new(PLUGIN)
        .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_NETNS", "/x"), ("CNI_IFNAME", "eth0")])
        .env("CNI_PATH", "/usr/lib/cni")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(conf.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
#[ignore = "needs the containernetworking-plugins package"]
fn the_real_plugin_and_the_ledger_understand_each_other() {
    let (from, to) = (scratch(), scratch());
    for id in ["a", "b", "c"] {
        assert!(plugin(from.path(), "ADD", id).0);
    }
    assert!(plugin(from.path(), "DEL", "c").0);
    let mut disk = OnDisk::new();
    import(&mut disk.store, from.path()).unwrap();
    assert_eq!(disk.store.entry(&ipam("blue", "b", "eth0")).unwrap().unwrap().claims.len(), 2);
    export(&disk.store, to.path(), None).unwrap();
    assert_eq!(tree(to.path()), tree(from.path()));
    // The plugin treats our files like its own: it continues after c's address, the last one given out.
    let (done, result) = plugin(to.path(), "ADD", "d");
    assert!(done && result.contains("10.1.0.5/29") && result.contains("2001:db8::5/64"), "{result}");
    let (done, result) = plugin(to.path(), "ADD", "a");
    assert!(!done && result.contains("duplicate allocation is not allowed"), "{result}");
    assert!(plugin(to.path(), "DEL", "a").0 && !to.path().join("blue/10.1.0.2").exists());
}

#[test]
fn a_large_directory_is_imported_in_one_go() {
    let from = scratch();
    let pool = range("10.1.0.0", "10.1.255.255");
    let files: Vec<(String, String)> = super::size::every_nth_address(&pool, 5000, 2)
        .into_iter()
        .enumerate()
        .map(|(n, address)| (address.to_string(), format!("{n:064}\r\neth0")))
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let dir = network(from.path(), "blue", &files);
    let mut disk = OnDisk::new();
    assert_eq!(import(&mut disk.store, &dir).unwrap().networks[0].imported, 5000);
    let view = disk.store.view(&scope_of("blue"), 1000).unwrap();
    assert_eq!(view.usage(&pool).unwrap().taken, 5000);
    assert_eq!(view.next_free(&pool, ip("10.1.0.4")).unwrap(), Some(ip("10.1.0.5")));
    drop(view);
    assert_sound(disk.dir.path());
}

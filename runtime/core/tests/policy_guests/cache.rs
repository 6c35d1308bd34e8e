//! The compiled cache: an entry is used only if it is beyond doubt; otherwise it is made again.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use weft_core::policy::{CompileError, Grants, Ipam, PolicyError, PolicyRef};

use super::support::{State, call, chain, scripted, shipped};

/// Returns a state directory with one compiled policy, and the path of its entry.
fn compiled() -> (State, PolicyRef, PathBuf) {
    let state = State::new();
    let policy = state.install("p", &scripted());
    let made = state.compile(&policy.path(state.dir.path())).expect("compiles");
    assert!(made.fresh && made.entry.is_file());
    (state, policy, made.entry)
}

/// Loads a policy, and returns whether the compiler ran.
fn load_counting(state: &State, policy: &PolicyRef) -> bool {
    let asked = Cell::new(false);
    let loaded = state.store.load(policy, &Grants::default(), &|ask| {
        asked.set(true);
        state.compile_ask(ask)
    });
    let loaded = loaded.unwrap_or_else(|error| panic!("{}", chain(&error)));
    call(&loaded, r#"{"deny": {"denied": "works"}}"#).expect("works");
    asked.get()
}

#[test]
fn a_hit_needs_no_compiler_and_no_write() {
    let (state, policy, entry) = compiled();
    let meta = |path: &PathBuf| fs::metadata(path).expect("meta");
    assert_eq!(meta(&state.cache()).mode() & 0o7777, 0o700);
    assert_eq!(meta(&entry).mode() & 0o7777, 0o600);
    let before = (meta(&entry).ino(), meta(&entry).mtime_nsec());
    assert!(!load_counting(&state, &policy));
    assert_eq!((meta(&entry).ino(), meta(&entry).mtime_nsec()), before);
    let again = state.compile(&policy.path(state.dir.path())).expect("compiles");
    assert!(!again.fresh, "a usable entry is not compiled again");
}

#[test]
fn unusable_cache_entries_are_recompiled() {
    type Tamper = fn(&State, &PathBuf);
    let off: [(&str, Tamper); 10] = [
        ("one bit of the code flipped", |_, entry| {
            let mut bytes = fs::read(entry).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(entry, bytes).unwrap();
        }),
        ("gone", |_, entry| fs::remove_file(entry).unwrap()),
        ("wrong bytes", |_, entry| fs::write(entry, b"\x7fELF forged").unwrap()),
        ("forged with the right seal", |_, entry| {
            let old = fs::read(entry).unwrap();
            let forged = [vec![0x90; 4096], old[old.len() - 80..].to_vec()].concat();
            fs::write(entry, forged).unwrap();
        }),
        ("cut short", |_, entry| {
            let old = fs::read(entry).unwrap();
            fs::write(entry, &old[..old.len() / 2]).unwrap();
        }),
        ("another component's", |state, entry| {
            let other = state.install("other", &shipped("static"));
            let other = state.compile(&other.path(state.dir.path())).unwrap().entry;
            fs::rename(other, entry).unwrap();
        }),
        ("writable for others", |_, entry| fs::set_permissions(entry, fs::Permissions::from_mode(0o666)).unwrap()),
        ("somebody else's", |_, entry| chown(entry, Some(12345), None).unwrap()),
        ("a link", |state, entry| {
            let real = state.dir.path().join("real");
            fs::rename(entry, &real).unwrap();
            symlink(&real, entry).unwrap();
        }),
        ("linked twice", |state, entry| fs::hard_link(entry, state.dir.path().join("second")).unwrap()),
    ];
    for (what, tamper) in off {
        let (state, policy, entry) = compiled();
        tamper(&state, &entry);
        assert!(load_counting(&state, &policy), "{what}: the compiler was not asked");
        assert!(!load_counting(&state, &policy), "{what}: not repaired");
        let meta = fs::symlink_metadata(&entry).unwrap();
        assert!(meta.is_file() && meta.nlink() == 1 && meta.mode() & 0o7777 == 0o600 && meta.uid() == 0, "{what}");
    }
}

#[test]
fn a_fifo_in_place_of_an_entry_does_not_hang() {
    let (state, policy, entry) = compiled();
    fs::remove_file(&entry).unwrap();
    nix::unistd::mkfifo(&entry, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert!(load_counting(&state, &policy));
}

#[test]
fn unusable_entries_are_reported_without_a_compiler() {
    let (state, policy, entry) = compiled();
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o644)).unwrap();
    let error = state
        .store
        .load::<Ipam>(&policy, &Grants::default(), &|_| Err(CompileError::Failed("no compiler here".to_owned())))
        .expect_err("off");
    let text = error.to_string();
    assert!(text.contains("has mode 0644") && text.contains("no compiler here"), "{text}");
    assert!(text.contains("weftctl policy compile"), "{text}");
    let lied = state.store.load::<Ipam>(&policy, &Grants::default(), &|_| Ok(())).expect_err("nothing was compiled");
    assert!(lied.to_string().contains("the compiler reported success, but"), "{lied}");
    let entries = state.store.cache_entries().unwrap();
    assert!(entries.len() == 1 && !entries[0].usable, "{entries:?}");
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    type Tamper = fn(&State);
    let tampering: [(&str, Tamper); 4] = [
        ("mode of the cache", |state| fs::set_permissions(state.cache(), fs::Permissions::from_mode(0o777)).unwrap()),
        ("owner of the cache", |state| chown(state.cache(), Some(12345), None).unwrap()),
        ("mode of the state directory", |state| {
            fs::set_permissions(state.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        }),
        ("a link to elsewhere", |state| {
            let elsewhere = state.dir.path().join("elsewhere");
            fs::rename(state.cache(), &elsewhere).unwrap();
            symlink(&elsewhere, state.cache()).unwrap();
        }),
    ];
    for (what, tamper) in tampering {
        let (state, policy, _entry) = compiled();
        tamper(&state);
        let error = state.load(&policy).expect_err(what);
        assert!(matches!(error, PolicyError::CacheUnsafe { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains("weftctl policy prune --reset"), "{error}");
        state.store.reset_cache().unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
        assert!(load_counting(&state, &policy), "{what}: nothing of the old cache is used");
    }
}

#[test]
fn a_component_that_others_can_write_is_refused() {
    let (state, policy, _entry) = compiled();
    let path = policy.path(state.dir.path());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let error = state.load(&policy).expect_err("writable");
    assert!(matches!(error, PolicyError::Unsafe { .. }) && error.to_string().contains("chmod go-w"), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    chown(&path, Some(12345), None).unwrap();
    let error = state.load(&policy).expect_err("somebody else's");
    assert!(error.to_string().contains("belongs to user 12345"), "{error}");
}

#[test]
fn a_missing_policy_lists_installed_ones() {
    let (state, ..) = compiled();
    let error = state.load(&PolicyRef::shipped("nope").unwrap()).expect_err("not there");
    assert!(matches!(error, PolicyError::NotFound { .. }) && error.to_string().contains("installed are p"), "{error}");
    let error = state.load(&PolicyRef::parse("file:///nope/p.wasm").unwrap()).expect_err("not there");
    assert!(error.to_string().contains("/nope/p.wasm"), "{error}");
    assert!(state.store.has_shipped("p") && !state.store.has_shipped("nope") && !state.store.has_shipped("../p"));
    assert_eq!(state.store.shipped(), ["p"]);
}

#[test]
fn a_replaced_component_is_loaded_next() {
    let state = State::new();
    let file = state.dir.path().join("mine.wasm");
    let policy = PolicyRef::parse(&format!("file://{}", file.display())).unwrap();
    fs::write(&file, scripted()).unwrap();
    let first = state.load(&policy).unwrap().digest().to_owned();
    fs::write(&file, shipped("host-local")).unwrap();
    let second = state.load(&policy).unwrap();
    assert_ne!(second.digest(), first);
    assert!(first.starts_with("sha256:") && first.len() == 71, "{first}");
}

#[test]
fn digests_of_large_components_are_noted_and_notes_are_not_trusted_blindly() {
    let state = State::new();
    // A custom section makes the component large without changing what it does.
    let pad = |byte: u8| {
        let mut component = scripted();
        let body = [vec![1, b'p'], vec![byte; 600 << 10]].concat();
        component.push(0);
        let mut length = body.len();
        while length >= 0x80 {
            component.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        component.push(length as u8);
        component.extend(body);
        component
    };
    let policy = state.install("big", &pad(0));
    let path = policy.path(state.dir.path());
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    let notes = || {
        let names = fs::read_dir(state.cache()).into_iter().flatten().flatten().map(|file| file.path());
        names.filter(|path| path.extension().is_some_and(|extension| extension == "digest")).collect::<Vec<_>>()
    };
    let first = state.load(&policy).unwrap().digest().to_owned();
    assert!(notes().is_empty(), "a file whose ctime is recent may still change within the clock's granularity");
    std::thread::sleep(std::time::Duration::from_secs(7));
    assert_eq!(state.load(&policy).unwrap().digest(), first);
    assert_eq!(notes().len(), 1);
    assert_eq!(state.load(&policy).unwrap().digest(), first, "from the note");
    // Same size, same mtime, other content: ctime differs.
    fs::write(&path, pad(1)).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    assert_ne!(state.load(&policy).unwrap().digest(), first);
    // A note that others could have written is ignored.
    fs::set_permissions(&notes()[0], fs::Permissions::from_mode(0o666)).unwrap();
    assert_ne!(state.load(&policy).unwrap().digest(), first);
}

#[test]
fn many_at_once_compile_once() {
    let state = State::new();
    let policy = state.install("p", &scripted());
    let fresh = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let made = state.compile(&policy.path(state.dir.path())).expect("compiles");
                fresh.fetch_add(usize::from(made.fresh), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(fresh.load(Ordering::Relaxed), 1);
    assert!(!load_counting(&state, &policy));
}

#[test]
fn pruning_leaves_what_is_of_use() {
    let (state, policy, entry) = compiled();
    let of_another_build = state.cache().join(format!("{}-weft+47.0.0+00000000.cwasm", "a".repeat(64)));
    fs::write(&of_another_build, b"old").unwrap();
    fs::write(state.cache().join(".compiling"), b"killed").unwrap();
    let entries = state.store.cache_entries().unwrap();
    assert_eq!(entries.iter().filter(|entry| entry.usable).count(), 1, "{entries:?}");
    assert_eq!(state.store.prune_cache().unwrap().files, 2);
    assert!(entry.is_file() && !of_another_build.exists());
    assert!(!load_counting(&state, &policy));
}

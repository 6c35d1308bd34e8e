//! The lock file, and what a tag means.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn a_tag_means_only_what_the_lock_file_says() {
    let state = tempfile::tempdir().unwrap();
    let reference = "oci://registry.example/net/rack:1";
    let tagged = PolicyRef::parse(reference).unwrap();
    let unlocked = resolve_tag(state.path(), &tagged).unwrap_err();
    assert!(unlocked.to_string().contains("has no digest"), "{unlocked}");
    let mut file = LockFile::default();
    let digest = format!("sha256:{}", "a".repeat(64));
    file.policies.insert(reference.to_owned(), Locked { digest: digest.clone(), version: None, before: None });
    file.write(&LockFile::path(state.path())).unwrap();
    assert_eq!(resolve_tag(state.path(), &tagged).unwrap().to_string(), format!("{reference}@{digest}"));
    assert_eq!(LockFile::read(&LockFile::path(state.path())).unwrap(), file);
}

/// Puts a component on a node under a reference with a digest.
fn add(state: &Path, reference: &str, digest: &str) {
    let policy = PolicyRef::parse(&format!("{reference}@{digest}")).unwrap();
    crate::policy::add_pinned(state, &policy, digest.as_bytes(), None, &|_path| Ok(())).unwrap();
}

#[test]
fn a_tag_resolves_to_the_version_before_until_the_new_one_is_here() {
    let state = tempfile::tempdir().unwrap();
    let (state, path) = (state.path(), LockFile::path(state.path()));
    let reference = "oci://registry.example/net/rack:stable";
    let tagged = PolicyRef::parse(reference).unwrap();
    let [first, second, third] = ["1", "2", "3"].map(|text| super::super::Digest::new(text.as_bytes()).to_string());
    let lock = |digest: &str| {
        LockFile::change(&path, |file| file.put_ahead(state, reference, digest, Some("1.0.0".to_owned()))).unwrap();
    };
    let used = || resolve_tag(state, &tagged).unwrap().to_string();
    let wanted = || locked_to(state, &tagged).unwrap().to_string();
    lock(&first);
    assert!(used().ends_with(&first), "nothing was in use before: {}", used());
    add(state, reference, &first);
    // What was in use stays in use, also over a version that never came.
    for digest in [&second, &third] {
        lock(digest);
        assert!(used().ends_with(&first) && wanted().ends_with(digest.as_str()), "{} {}", used(), wanted());
    }
    settle_lock(state, &tagged).unwrap();
    assert!(used().ends_with(&first), "the new one is not here yet: {}", used());
    let named: Vec<_> = locked_policies(state).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(named, [format!("{reference}@{third}"), format!("{reference}@{first}")]);
    add(state, reference, &third);
    assert!(used().ends_with(&third), "{}", used());
    // A withdrawn policy does not lead back.
    let new = PolicyRef::parse(&format!("{reference}@{third}")).unwrap();
    crate::policy::withdraw(state, &crate::policy::Pin::from_policy(&new).unwrap(), "the key is revoked").unwrap();
    assert!(used().ends_with(&third), "{}", used());
    add(state, reference, &third);
    settle_lock(state, &tagged).unwrap();
    assert_eq!(LockFile::read(&path).unwrap().policies[reference].before, None);
}

#[test]
fn changes_at_once_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/lock.json");
    let digest = format!("sha256:{}", "a".repeat(64));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (path, digest) = (&path, &digest);
            scope.spawn(move || {
                for turn in 0..4 {
                    let entry = Locked { digest: digest.clone(), version: None, before: None };
                    LockFile::change(path, |file| {
                        file.policies.insert(format!("oci://registry.example/p{thread}:{turn}"), entry);
                        Ok::<_, PolicyError>(())
                    })
                    .unwrap();
                }
            });
        }
    });
    assert_eq!(LockFile::read(&path).unwrap().policies.len(), 16);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left there");
    let _held = hold(&path, Duration::ZERO).unwrap();
    let error = hold(&path, Duration::from_millis(50)).unwrap_err().to_string();
    assert!(error.contains("another program"), "{error}");
}

#[test]
fn a_write_follows_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let (path, victim) = (dir.path().join("lock.json"), dir.path().join("victim"));
    fs::write(&victim, "precious").unwrap();
    let link = dir.path().join(format!("lock.json.{}", std::process::id()));
    std::os::unix::fs::symlink(&victim, link).unwrap();
    LockFile::default().write(&path).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(LockFile::read(&path).unwrap(), LockFile::default());
}

#[test]
fn a_damaged_lock_file_is_an_error_that_names_it() {
    let state = tempfile::tempdir().unwrap();
    let path = LockFile::path(state.path());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let tagged = PolicyRef::parse("oci://registry.example/net/rack:1").unwrap();
    for text in ["", "[]", r#"{"version": 2, "policies": {}}"#, r#"{"version": 1, "policies": {}, "more": 1}"#] {
        fs::write(&path, text).unwrap();
        let error = resolve_tag(state.path(), &tagged).unwrap_err().to_string();
        assert!(error.contains("lock.json"), "{text}: {error}");
    }
    let short = r#"{"version": 1, "policies": {"oci://registry.example/net/rack:1": {"digest": "sha256:ab"}}}"#;
    fs::write(&path, short).unwrap();
    assert!(resolve_tag(state.path(), &tagged).unwrap_err().to_string().contains("64"));
}

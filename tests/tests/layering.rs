//! Sizes and lists that the design promises, checked on the source itself. The suite `rooms` checks which file uses
//! which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use weft_kit::programs::repository;
use weft_kit::suite::Suite;

/// Where Rust source is.
const TREES: &[&str] = &["host-abi", "sdk", "guest-plugins", "runtime", "tests"];

/// A file with more lines, without tests, has more than one subject.
const LONGEST: usize = 600;

/// What `weft`, exec'ed as root for every CNI call, must not contain: a compiler, cluster clients, TLS.
const BANNED: &[&str] = &[
    "cranelift",
    "wasmtime-internal-cranelift",
    "wasmtime-internal-winch",
    "kube",
    "k8s-openapi",
    "reqwest",
    "hyper",
    "ureq",
    "rustls",
    "openssl",
    "native-tls",
    "oci",
    "tonic",
    "h2",
    "ring",
    "aws-lc",
    "weft-dhcp",
];

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.test("every-file-says-what-it-owns", &[], || every_file(&opens_with_a_purpose));
    suite.test("modes", &[], modes);
    suite.test("file-sizes", &[], || every_file(&short_enough));
    suite.test("dhcp-does-no-io", &[], dhcp_does_no_io);
    suite.test("namespaces", &[], namespaces);
    suite.test("error-codes", &[], error_codes);
    suite.test("dependency-tree", &[], dependency_tree);
    suite.test("sdk-stands-alone", &[], sdk_stands_alone);
    suite.test("differences-doc", &[], differences_doc);
    suite.test("named-tests-exist", &[], named_tests_exist);
    suite.test("every-kind-is-failed-and-killed", &[], every_kind_is_failed_and_killed);
    suite.run()
}

/// Invariant 9: a thread enters a network namespace in one place, and a mount namespace in another. Both start a thread
/// for it.
fn namespaces() -> Result<()> {
    let allowed = ["netlink/netns.rs", "netlink/identity.rs", "exec/mount_namespace.rs"]
        .map(|file| format!("runtime/core/src/{file}"));
    let mut wrong = Vec::new();
    for file in rust_files(&repository().join("runtime"))? {
        let name = short_path(&file);
        if is_test(&file) || name.contains("/tests/") || allowed.contains(&name) {
            continue;
        }
        let text = fs::read_to_string(&file)?;
        for call in ["setns(", "CLONE_NEWNET", "CLONE_NEWNS"] {
            if text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(call)) {
                wrong.push(format!("{name}: {call} belongs in netlink/netns.rs or exec/mount_namespace.rs"));
            }
        }
    }
    fail_if_any(wrong)
}

/// The modes of weft's own files and directories are written in one place.
fn modes() -> Result<()> {
    const OWNER: &str = "runtime/core/src/private.rs";
    let mut wrong = Vec::new();
    let mut owner = 0;
    for file in rust_files(&repository().join("runtime"))? {
        let name = short_path(&file);
        if is_test(&file) || name.contains("/tests/") {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let code = text.lines().take_while(|line| line.trim() != "mod tests {");
        let literal = |line: &&str| ["0o700", "0o600"].iter().any(|mode| line.contains(mode));
        let found: Vec<&str> = code.filter(literal).collect();
        if name == OWNER {
            owner = found.len();
        } else {
            wrong.extend(found.iter().map(|line| format!("{name}: {} belongs in {OWNER}", line.trim())));
        }
    }
    if owner != 2 {
        bail!("{OWNER} has {owner} modes: the file has moved");
    }
    fail_if_any(wrong)
}

/// Runs a check on every Rust file of the repository and reports all that fail.
fn every_file(check: &dyn Fn(&Path, &str) -> Option<String>) -> Result<()> {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for tree in TREES {
        for file in rust_files(&repository().join(tree))? {
            let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            seen += 1;
            wrong.extend(check(&file, &text).map(|what| format!("{}: {what}", short_path(&file))));
        }
    }
    if seen < 40 {
        bail!("only {seen} Rust files found: the trees have moved");
    }
    fail_if_any(wrong)
}

fn fail_if_any(wrong: Vec<String>) -> Result<()> {
    if wrong.is_empty() { Ok(()) } else { bail!("\n  {}", wrong.join("\n  ")) }
}

fn opens_with_a_purpose(_file: &Path, text: &str) -> Option<String> {
    let first = text.lines().find(|line| !line.starts_with("#!") && !line.trim().is_empty())?;
    let says = first.strip_prefix("//!").is_some_and(|rest| rest.trim().len() > 5);
    (!says).then(|| format!("opens with {first:?} instead of a //! line that says what it owns"))
}

fn short_enough(file: &Path, text: &str) -> Option<String> {
    let lines = code_lines(text);
    (!is_test(file) && lines > LONGEST).then(|| format!("{lines} lines besides tests; {LONGEST} are too many"))
}

/// Returns the number of lines before the test module.
fn code_lines(text: &str) -> usize {
    text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count()
}

fn is_test(file: &Path) -> bool {
    let tests = repository().join("tests");
    file.starts_with(tests.join("tests")) || file.file_name().is_some_and(|name| name == "tests.rs")
}

/// `weft-dhcp`'s clients receive packets and the time: nothing there opens a file, reads a clock, or waits.
fn dhcp_does_no_io() -> Result<()> {
    let doers = ["std::fs", "std::time", "std::thread", "std::io", "std::process", "Socket", "tokio", "nix::"];
    let mut wrong = Vec::new();
    for file in rust_files(&repository().join("runtime/dhcp/src"))? {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let does = |line: &&str| doers.iter().any(|doer| line.contains(doer));
        wrong.extend(code.filter(does).map(|line| format!("{}: {}", short_path(&file), line.trim())));
    }
    fail_if_any(wrong)
}

/// docs/error-codes.md explains exactly the codes that the code can return.
fn error_codes() -> Result<()> {
    let core = repository().join("runtime/core/src");
    let mut names = BTreeMap::new();
    let mut texts = Vec::new();
    for file in rust_files(&core)? {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let text: String = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").collect::<Vec<_>>().join("\n");
        for line in text.lines() {
            if let Some((name, value)) = constant(line) {
                names.insert(name, value);
            }
        }
        texts.push(text);
    }
    let mut used = BTreeSet::new();
    for text in &texts {
        for (name, value) in &names {
            if text.contains(&format!("code::{name}")) {
                used.insert(*value);
            }
        }
        for body in text.split("fn code(&self) -> u32").skip(1) {
            used.extend(numbers(body.split("\n    }").next().unwrap_or_default()));
        }
    }
    let page = repository().join("docs/error-codes.md");
    let page = fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
    let listed: BTreeSet<u32> =
        page.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect();
    if used.len() < 12 {
        bail!("only {used:?} found in the source: the map has moved");
    }
    let (missing, stale): (Vec<_>, Vec<_>) = (used.difference(&listed).collect(), listed.difference(&used).collect());
    if !missing.is_empty() || !stale.is_empty() {
        bail!("docs/error-codes.md does not list {missing:?}, and lists {stale:?}, which no error has");
    }
    Ok(())
}

/// `pub const NAME: u32 = 7;`
fn constant(line: &str) -> Option<(String, u32)> {
    let (name, value) = line.trim().strip_prefix("pub const ")?.split_once(": u32 = ")?;
    Some((name.to_owned(), value.trim_end_matches(';').parse().ok()?))
}

/// Returns the whole numbers in a piece of source, except tuple fields (`.0`) and comments.
fn numbers(source: &str) -> Vec<u32> {
    let code: String =
        source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).filter_map(|word| word.parse().ok()).collect()
}

/// The tests that ARCHITECTURE.md names for its invariants, docs/cluster-ledger.md for its failures, and
/// docs/threat-model.md for its attacks exist, and so do the files. A name that ends with dots is the beginning of
/// several.
fn named_tests_exist() -> Result<()> {
    let mut source = String::new();
    for tree in ["runtime", "tests"] {
        for file in rust_files(&repository().join(tree))? {
            source += &fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        }
    }
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in ["ARCHITECTURE.md", "docs/cluster-ledger.md", "docs/threat-model.md"] {
        let is_threats = page.ends_with("threat-model.md");
        let text = fs::read_to_string(repository().join(page)).with_context(|| format!("read {page}"))?;
        for cell in text.lines().filter_map(|line| line.strip_prefix("| ")?.trim_end_matches(" |").rsplit(" | ").next())
        {
            let quoted = cell.split('`').skip(1).step_by(2).map(|name| name.trim_end_matches("..."));
            if is_threats && cell == "same" {
                wrong.push(format!("{page} has a row whose tests are \"same\": name them"));
            }
            for name in quoted.clone().filter(|name| is_threats && name.contains('/')) {
                if !repository().join(name).exists() {
                    wrong.push(format!("{page} names {name}, which does not exist"));
                }
            }
            for name in quoted.filter(|name| is_test_name(name) || (is_threats && is_short_name(name))) {
                seen += 1;
                if !source.contains(name) {
                    wrong.push(format!("{page} names {name}, which is no test"));
                }
            }
        }
    }
    if seen < 50 {
        bail!("only {seen} names found: the tables have moved");
    }
    fail_if_any(wrong)
}

/// Returns whether a word looks like a test's name, and not like a file or a key.
fn is_test_name(word: &str) -> bool {
    let letters = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
    letters && word.starts_with(|c: char| c.is_ascii_lowercase()) && word.split(['_', '-']).count() >= 3
}

/// Returns whether a word looks like a trial's name of two words.
fn is_short_name(word: &str) -> bool {
    word.contains('-') && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

/// The SDK is a package of its own: the contract in it is the host's, letter by letter, and nothing in it names a path outside.
fn sdk_stands_alone() -> Result<()> {
    let sdk = repository().join("sdk/rust");
    let read = |path: PathBuf| fs::read_to_string(&path).with_context(|| format!("read {}", path.display()));
    if read(sdk.join("wit/policy.wit"))? != read(repository().join("host-abi/wit/policy.wit"))? {
        bail!("sdk/rust/wit/policy.wit differs from host-abi/wit/policy.wit: copy it");
    }
    let mut wrong = Vec::new();
    let manifest = sdk.join("Cargo.toml");
    if read(manifest.clone())?.contains("..") {
        wrong.push(format!("{} names a path outside", short_path(&manifest)));
    }
    for file in rust_files(&sdk.join("src"))? {
        if read(file.clone())?.contains("\"../../") {
            wrong.push(format!("{} names a path outside", short_path(&file)));
        }
    }
    fail_if_any(wrong)
}

/// `cargo tree` of the node binary has no compiler, no cluster client, no HTTP, no TLS.
fn dependency_tree() -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["tree", "--offline", "--locked", "-p", "weft", "-e", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(repository())
        .output()
        .context("run cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    let tree = String::from_utf8_lossy(&output.stdout).into_owned();
    let packages: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    if !packages.contains("wasmtime") {
        bail!("weft does not depend on wasmtime? cargo tree has {} packages", packages.len());
    }
    let banned =
        |package: &&&str| BANNED.iter().any(|name| **package == *name || package.starts_with(&format!("{name}-")));
    // wasmtime's loader uses these data structures; they are no compiler.
    let data = |package: &&&str| matches!(**package, "cranelift-entity" | "cranelift-bitset" | "cranelift-bforest");
    let found: Vec<_> = packages.iter().filter(banned).filter(|package| !data(package)).collect();
    if !found.is_empty() {
        bail!("weft depends on {found:?}");
    }
    Ok(())
}

/// docs/differences.md has the contents of the cases' differs.json. `BLESS=1` writes it.
fn differences_doc() -> Result<()> {
    let path = repository().join("docs/differences.md");
    let want = weft_kit::case::differences_page()?;
    if std::env::var_os("BLESS").is_some() {
        return fs::write(&path, want).with_context(|| format!("write {}", path.display()));
    }
    let have = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    if have != want {
        bail!("docs/differences.md is not what tests/cases say; BLESS=1 writes it");
    }
    Ok(())
}

/// Every delegate and step is in the rollback suite and in the crash storm, or in a case of the virtual machine that
/// does both.
fn every_kind_is_failed_and_killed() -> Result<()> {
    let repository = repository();
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let rollback = read(&repository.join("tests/tests/rollback.rs"))?;
    let storm = read(&repository.join("tests/storm/src/network.rs"))?;
    let mut machine = String::new();
    for entry in fs::read_dir(repository.join("tests/vm/cases")).context("read the cases of the virtual machine")? {
        let case = read(&entry.context("read a directory")?.path())?;
        if case.contains("\"rollback\": true") {
            machine.push_str(&case);
        }
    }
    let mut wrong = Vec::new();
    let mut kinds = Vec::new();
    for module in ["delegate", "step"] {
        for file in rust_files(&repository.join("runtime/core/src").join(module))? {
            let text = read(&file)?;
            let mut after = text.split("fn kind(&self) -> &'static str {").skip(1);
            kinds.extend(
                after.find_map(|body| body.trim_start().strip_prefix('"')?.split('"').next().map(str::to_owned)),
            );
        }
    }
    for kind in &kinds {
        let has = |text: &str| text.contains(&format!("\"{kind}\""));
        if !has(&machine) && !has(&rollback) {
            wrong.push(format!("{kind} is not failed at every op: tests/tests/rollback.rs"));
        }
        // loopback is idempotent.
        if !has(&machine) && !has(&storm) && kind != "loopback" {
            wrong.push(format!("{kind} is never killed: tests/storm/src/network.rs"));
        }
    }
    if kinds.len() < 15 {
        wrong.push(format!("only {kinds:?} were found"));
    }
    fail_if_any(wrong)
}

/// Returns all Rust files below a directory, without build output.
fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if !dir.exists() {
        bail!("{} does not exist", dir.display());
    }
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry.context("read a directory")?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                files.extend(rust_files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn short_path(file: &Path) -> String {
    file.strip_prefix(repository()).unwrap_or(file).display().to_string()
}

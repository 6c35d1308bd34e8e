//! The cases of `cases/` as tests, from the virtual machines' records: `<case>::reference`, `<case>::weft`, and
//! `<case>::same` if both had the same result.
//!
//! Ignored, with the reason, where QEMU or Debian's kernel package is not available; `WEFT_REQUIRE_ALL=1` makes that a
//! failure. `CNI_REFERENCE_DIR`, `WEFT_BIN`, `WEFTCTL_BIN` name other binaries, `WEFT_VM_KERNEL` another (unpacked)
//! kernel package.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use weft_vm::case::{self, Case, Run, Subject};
use weft_vm::fleet;
use weft_vm::judge::{compare_transcripts, judge};
use weft_vm::kernel::Kernel;
use weft_vm::machine::Parts;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cases");
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/vm");

/// The trials of a case.
const VIEWS: [(&str, View); 3] =
    [("reference", View::One(Subject::Reference)), ("weft", View::One(Subject::Weft)), ("same", View::Same)];

/// The machines' records, shared by all trials.
struct Lab {
    parts: Parts,
    runs: Vec<Run>,
    boot: OnceLock<Outcome>,
}

enum Outcome {
    /// No machine can be booted here.
    Impossible(String),
    Failed(String),
    Recorded(fleet::Outcome),
}

/// Which record a trial checks.
#[derive(Clone, Copy)]
enum View {
    One(Subject),
    Same,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = match case::read_all(Path::new(CASES)) {
        Ok(cases) => cases,
        Err(error) => return fail_listing(&arguments, &error),
    };
    let parts = available_parts();
    // The machine runs only what a selected trial needs.
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let wanted = |name: &str| VIEWS.iter().any(|(suffix, _)| format!("{name}::{suffix}").contains(filter));
    let mut runs = Vec::new();
    for (name, case) in cases.iter().filter(|(name, _)| wanted(name)) {
        for subject in [Subject::Reference, Subject::Weft] {
            if find_lack(&parts, case, subject).is_none() {
                runs.push(Run { name: name.clone(), subject, case: case.clone() });
            }
        }
    }
    let lab = Arc::new(Lab { parts, runs, boot: OnceLock::new() });
    let trials = trials(cases, &lab);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trials(cases: BTreeMap<String, Case>, lab: &Arc<Lab>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, case) in cases {
        for (suffix, view) in VIEWS {
            let (name, case, lab) = (name.clone(), case.clone(), Arc::clone(lab));
            trials.push(Trial::ignorable_test(format!("{name}::{suffix}"), move || lab.show(&name, &case, view)));
        }
    }
    trials
}

/// An unreadable list of cases is a failed test, not a crash.
fn fail_listing(arguments: &Arguments, error: &anyhow::Error) -> ExitCode {
    let text = format!("{error:#}");
    libtest_mimic::run(arguments, vec![Trial::test("cases", || Err(text.into()))]).exit_code()
}

// === impl Lab ===

impl Lab {
    fn show(&self, name: &str, case: &Case, view: View) -> Result<Completion, Failed> {
        let subjects = match view {
            View::One(subject) => vec![subject],
            View::Same => vec![Subject::Reference, Subject::Weft],
        };
        if let Some(reason) = subjects.iter().find_map(|subject| find_lack(&self.parts, case, *subject)) {
            return reason.completion();
        }
        let recorded = match self.boot.get_or_init(|| self.boot()) {
            Outcome::Impossible(reason) => return Lack::Machine(reason.clone()).completion(),
            Outcome::Failed(error) => return Err(error.into()),
            Outcome::Recorded(recorded) => recorded,
        };
        let transcript = |subject| {
            let mut all = recorded.transcripts.iter();
            all.find(|one| one.name == name && one.subject == subject)
                .with_context(|| format!("no machine recorded it\n{}", recorded.failures.join("\n")))
        };
        let outcome = match view {
            View::One(subject) => transcript(subject).and_then(|transcript| judge(case, transcript)),
            View::Same => transcript(Subject::Reference).and_then(|reference| {
                transcript(Subject::Weft).and_then(|weft| compare_transcripts(case, reference, weft))
            }),
        };
        outcome.map(|()| Completion::Completed).map_err(|error| format!("{}\n{error:#}", case.about).into())
    }

    fn boot(&self) -> Outcome {
        if !on_path("qemu-system-x86_64") {
            return Outcome::Impossible("no qemu-system-x86_64 (tests/setup.sh all)".to_owned());
        }
        let kernel = match Kernel::obtain(Path::new(CACHE)) {
            Ok(kernel) => kernel,
            Err(error) => return Outcome::Impossible(format!("no kernel: {error:#}")),
        };
        match fleet::run(&kernel, &self.parts, &self.runs, Path::new(CACHE)) {
            Ok(recorded) => Outcome::Recorded(recorded),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    }
}

/// Why something cannot be run here.
enum Lack {
    /// By design, for this reason.
    Meant(String),
    /// Something is not installed.
    Machine(String),
    /// Something is not built.
    Unbuilt(String),
}

// === impl Lack ===

impl Lack {
    fn completion(self) -> Result<Completion, Failed> {
        match self {
            Self::Meant(reason) => Ok(Completion::ignored_with(reason)),
            Self::Machine(reason) if env::var_os("WEFT_REQUIRE_ALL").is_none() => Ok(Completion::ignored_with(reason)),
            Self::Machine(reason) | Self::Unbuilt(reason) => Err(format!("cannot run here: {reason}").into()),
        }
    }
}

fn find_lack(parts: &Parts, case: &Case, subject: Subject) -> Option<Lack> {
    match subject {
        Subject::Weft if parts.weft.is_none() => {
            Some(Lack::Unbuilt("weft or weftctl is not built (cargo weft; cargo weftctl)".to_owned()))
        }
        Subject::Weft if case.rollback && parts.failing.is_none() => Some(Lack::Unbuilt(
            "weft-failing is not built (cargo build --release -p weft-core --example weft-failing)".to_owned(),
        )),
        Subject::Weft => None,
        Subject::Reference => {
            let Some(dir) = &parts.reference else {
                return Some(Lack::Machine("no reference plugins (tests/setup.sh all)".to_owned()));
            };
            if let Some(reason) = &case.not_reference {
                return Some(Lack::Meant(reason.clone()));
            }
            let key = case.reference_needs.as_ref()?;
            let plugin = case.attach.first().and_then(|attach| attach.conf["type"].as_str()).unwrap_or_default();
            match plugin_knows(&dir.join(plugin), key) {
                Ok(true) => None,
                Ok(false) => Some(Lack::Meant(format!("this reference does not know {key}"))),
                Err(error) => Some(Lack::Machine(format!("{error:#}"))),
            }
        }
    }
}

/// Returns whether a Go plugin has a configuration key: its binary contains the key as a struct tag.
fn plugin_knows(plugin: &Path, key: &str) -> Result<bool> {
    let bytes = fs::read(plugin).with_context(|| format!("read {}", plugin.display()))?;
    let tag = format!("json:\"{key}");
    if tag.len() > bytes.len() {
        bail!("{} is no plugin", plugin.display());
    }
    Ok(bytes.windows(tag.len()).any(|window| window == tag.as_bytes()))
}

fn available_parts() -> Parts {
    let beside = |name: &str| Path::new(env!("CARGO_BIN_EXE_weft-vm-init")).with_file_name(name);
    let named = |variable: &str, name: &str| env::var_os(variable).map_or_else(|| beside(name), PathBuf::from);
    let (weft, weftctl) = (
        named("WEFT_BIN", &format!("../{}-unknown-linux-musl/release/weft", std::env::consts::ARCH)),
        named("WEFTCTL_BIN", "weftctl"),
    );
    let reference = env::var_os("CNI_REFERENCE_DIR").map_or_else(|| PathBuf::from("/usr/lib/cni"), PathBuf::from);
    let failing = named("WEFT_FAILING_BIN", "examples/weft-failing");
    Parts {
        failing: failing.is_file().then_some(failing),
        init: PathBuf::from(env!("CARGO_BIN_EXE_weft-vm-init")),
        reference: reference.join("bridge").is_file().then_some(reference),
        weft: (weft.is_file() && weftctl.is_file()).then_some((weft, weftctl)),
    }
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

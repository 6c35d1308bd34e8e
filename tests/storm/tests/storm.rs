//! The storm as tests: weft in each kind of network, and a fake plugin whose bugs the storm must find.
//!
//! A few hundred rounds each; `WEFT_STORM_ROUNDS=20000 cargo test --release -p weft-storm` for a long run,
//! `WEFT_STORM_SEED` to repeat a run's choices.

#![allow(clippy::print_stderr, reason = "what a storm saw goes with its test")]

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

const STORM: &str = env!("CARGO_BIN_EXE_weft-storm");

/// The kinds of network, and rounds that take a few seconds.
const KINDS: &[(&str, &str)] = &[
    ("bridge", "300"),
    ("ptp", "300"),
    ("macvlan", "300"),
    ("tap", "300"),
    ("host-device", "300"),
    ("steps", "200"),
    ("ipam", "600"),
];

/// Bugs, a network kind where each shows, and words of the expected violation.
const BUGS: &[(&str, &str, &str)] = &[
    ("duplicate-result", "ipam", "results: 10.91.0."),
    ("duplicate-link", "ptp", "at the same time"),
    ("leak-link", "ptp", "its netns still has"),
    ("leak-claim", "ipam", "a claim on 10.91.0."),
    ("lose-on-kill", "ipam", "different addresses of 61 can be handed out"),
    ("gc-takes-all", "ptp", "and its netns has []"),
    ("no-retry", "ipam", "a killed ADD is in my way"),
    ("no-lock", "ptp", "the orphaned ADD of"),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each storm needs the whole machine: it times its strikes by how long calls take.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    for (kind, rounds) in KINDS {
        trials.push(trial(format!("weft::{kind}"), move || subject_passes("weft", kind, rounds)));
    }
    for kind in ["ptp", "ipam"] {
        trials.push(trial(format!("oracle::accepts_a_right_plugin::{kind}"), move || {
            subject_passes("fake", kind, "100")
        }));
    }
    for (bug, kind, words) in BUGS {
        trials.push(trial(format!("oracle::notices::{bug}"), move || falls(bug, kind, words)));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A trial that is shown as ignored, with the reason, where it cannot run; `WEFT_REQUIRE_ALL=1` makes that a failure.
fn trial(name: String, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || {
        let missing =
            if nix::unistd::geteuid().is_root() { tool() } else { Some("network namespaces need root".into()) };
        match missing {
            None => run().map(|()| Completion::Completed),
            Some(reason) if std::env::var_os("WEFT_REQUIRE_ALL").is_some() => {
                Err(format!("cannot run here: {reason}").into())
            }
            Some(reason) => Ok(Completion::ignored_with(reason)),
        }
    })
}

/// Returns a program that the storm needs and that is not installed.
fn tool() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let missing = ["ip", "nft", "sqlite3"].into_iter().find(|name| !there(name))?;
    Some(format!("{missing} is not installed (tests/setup.sh installs it)"))
}

/// Runs a storm that the subject must pass.
fn subject_passes(subject: &str, kind: &str, rounds: &str) -> Result<(), Failed> {
    let rounds = std::env::var("WEFT_STORM_ROUNDS").unwrap_or_else(|_| rounds.to_owned());
    let (stood, said) = storm(&["--subject", subject, "--kind", kind, "--rounds", &rounds])?;
    // A passed storm's output is shown with --nocapture; a failed one's is the failure's text.
    if std::env::args().any(|argument| argument == "--nocapture") {
        eprintln!("{said}");
    }
    if stood { Ok(()) } else { Err(said.into()) }
}

/// Runs a storm that must end with a violation, in these words.
fn falls(bug: &str, kind: &str, words: &str) -> Result<(), Failed> {
    let (stood, said) = storm(&["--subject", "fake", "--bug", bug, "--kind", kind, "--rounds", "150"])?;
    let reported = said.lines().any(|line| line.starts_with("VIOLATION") && line.contains(words));
    if stood || !reported {
        return Err(format!("the storm did not notice {bug} (wanted: {words}):\n{said}").into());
    }
    Ok(())
}

fn storm(arguments: &[&str]) -> Result<(bool, String), Failed> {
    let mut command = Command::new(STORM);
    command.args(arguments);
    if let Some(seed) = std::env::var_os("WEFT_STORM_SEED") {
        command.arg("--seed").arg(seed);
    }
    let output = command.output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), said))
}

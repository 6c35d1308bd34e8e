//! The netlink executor against a real kernel, in network namespaces of its own. Needs root; without it, and for what the
//! kernel lacks, tests show as ignored with the reason. `REQUIRE_NETNS=1` makes missing root a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod ops;
mod plans;
mod support;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let mut tests: Vec<(&'static str, Option<&'static str>, fn())> = Vec::new();
    tests.extend(ops::TESTS);
    let root = nix::unistd::geteuid().is_root();
    let required = std::env::var_os("REQUIRE_NETNS").is_some();
    let trials = tests.into_iter().map(|(name, missing, test)| {
        let missing = if root || required { missing } else { Some("needs root") };
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        match missing {
            Some(reason) => trial.with_ignored_flag(true).with_kind(reason),
            None => trial,
        }
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

//! Tests the netlink executor with a real kernel, in its own network namespaces. Needs root; without it, or if the
//! kernel lacks a feature, tests are shown as ignored with the reason. `REQUIRE_NETNS=1` makes missing root a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod addresses;
mod bench;
mod children;
mod concurrency;
mod conditions;
mod devices;
mod filters;
mod filters_many;
mod forwarding;
mod hostports;
mod identity;
mod links;
mod namespaces;
mod neighbours;
mod plans;
mod rollback;
mod routes;
mod steps_sbr;
mod steps_shaping;
mod steps_tuning;
mod support;
mod sysctls;
mod taps;
mod teardown;
mod traffic;
mod vlans;
mod whole;

use libtest_mimic::{Arguments, Trial};

/// The name, the reason why it cannot run here, and the test.
pub(crate) type Test = (&'static str, Option<&'static str>, fn());

fn main() {
    let arguments = Arguments::from_args();
    let root = nix::unistd::geteuid().is_root();
    let required = std::env::var_os("REQUIRE_NETNS").is_some();
    let tests = [
        namespaces::tests(),
        neighbours::tests(),
        links::tests(),
        devices::tests(),
        identity::tests(),
        children::tests(),
        taps::tests(),
        addresses::tests(),
        routes::tests(),
        sysctls::tests(),
        filters::tests(),
        filters_many::tests(),
        forwarding::tests(),
        hostports::tests(),
        conditions::tests(),
        whole::tests(),
        teardown::tests(),
        rollback::tests(),
        concurrency::tests(),
        traffic::tests(),
        vlans::tests(root),
        steps_tuning::tests(),
        steps_sbr::tests(),
        steps_shaping::tests(),
        bench::tests(),
    ];
    let trials = tests.into_iter().flatten().map(|(name, missing, test)| {
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

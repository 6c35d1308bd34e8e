//! Recorded cases of Multus, replayed with `weft-pod` and a real API server and agent (without Kubernetes, with a
//! stand-in). Cases in which Multus follows the rules must have the same outcome, except for the listed differences;
//! other cases are listed too, with the rule.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use weft_cluster::api::Api;
use weft_cluster::golden::{self, Aspect, Bench, Case, Differences};
use weft_cluster::kube::RealApi;
use weft_cluster::standin::StandIn;
use weft_kit::{programs, sandbox};

fn main() -> ExitCode {
    sandbox::enter_with_processes();
    let mut arguments = Arguments::from_args();
    // Cases use the same paths of the one sandbox.
    arguments.test_threads = Some(1);
    let trials = match prepared() {
        Ok(trials) => trials,
        Err(reason) => vec![Trial::ignorable_test("recordings", move || {
            if std::env::var_os("WEFT_REQUIRE_ALL").is_some() && std::env::var_os(golden::DIR_VARIABLE).is_some() {
                return Err(Failed::from(format!("cannot run here: {reason}")));
            }
            Ok(Completion::ignored_with(reason))
        })],
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn prepared() -> Result<Vec<Trial>, String> {
    let dir = golden::directory()?;
    if let Some(reason) = sandbox::refusal() {
        return Err(reason);
    }
    programs::weft()?;
    programs::reference_dir()?;
    let text = |error: anyhow::Error| format!("{error:#}");
    let differences = Arc::new(Differences::read().map_err(text)?);
    let api = Arc::new(Mutex::new(api().map_err(text)?));
    let cases = golden::cases(&dir).map_err(text)?;
    let ids: Vec<String> = cases.iter().map(|case| case.id.clone()).collect();
    let listed = Arc::clone(&differences);
    let mut trials = vec![Trial::test("the-list-names-recorded-cases", move || {
        let wrong: Vec<&str> = listed.cases().filter(|case| !ids.iter().any(|id| id == case)).collect();
        if wrong.is_empty() { Ok(()) } else { Err(Failed::from(format!("no such cases: {wrong:?}"))) }
    })];
    trials.push(Trial::ignorable_test("beside-a-real-api-server", || match programs::kubernetes() {
        Ok(_program) => Ok(Completion::Completed),
        Err(reason) if std::env::var_os("WEFT_REQUIRE_ALL").is_some() => Err(Failed::from(reason)),
        Err(reason) => Ok(Completion::ignored_with(format!("beside a stand-in: {reason}"))),
    }));
    for case in cases {
        let (api, differences) = (Arc::clone(&api), Arc::clone(&differences));
        trials.push(Trial::test(format!("{}-{}", case.id, case.name), move || {
            let api = api.lock().map_err(|_poison| Failed::from("another case panicked"))?;
            check(api.as_ref(), &case, &differences).map_err(|error| Failed::from(format!("{error:#}")))
        }));
    }
    Ok(trials)
}

/// Returns a real API server and agent if Kubernetes is available, otherwise a process that replaces both.
fn api() -> Result<Box<dyn Api>> {
    if programs::kubernetes().is_ok() && programs::weftctl().is_ok() {
        return Ok(Box::new(RealApi::start()?));
    }
    Ok(Box::new(StandIn::start(&PathBuf::from("/run/weft-standin.sock"))?))
}

fn check(api: &dyn Api, case: &Case, differences: &Differences) -> Result<()> {
    let fake = PathBuf::from(env!("CARGO_BIN_EXE_weft-cluster-fake"));
    let outcome = golden::replay(&Bench { api, fake }, case)?;
    let mut found: std::collections::BTreeMap<Aspect, String> = std::collections::BTreeMap::new();
    for (index, recorded, now) in &outcome.verbs {
        let verb = format!("step {index} {}", case.steps[*index].verb);
        for (aspect, text) in golden::compare(&verb, recorded, now) {
            let text = if aspect == Aspect::Exit { format!("{text}\n      {}", now.stdout) } else { text };
            found.entry(aspect).and_modify(|known| *known = format!("{known}\n    {text}")).or_insert(text);
        }
    }
    let listed = differences.for_case(&case.id);
    let surprise: Vec<String> = found
        .iter()
        .filter(|(aspect, _)| !listed.contains(aspect))
        .map(|(aspect, text)| format!("{aspect}: {text}"))
        .collect();
    ensure!(surprise.is_empty(), "differs\n    {}", surprise.join("\n    "));
    let stale: Vec<String> =
        listed.iter().filter(|aspect| !found.contains_key(aspect)).map(ToString::to_string).collect();
    ensure!(stale.is_empty(), "is listed to differ in {} and does not", stale.join(", "));
    Ok(())
}

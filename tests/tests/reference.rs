//! The same confs through Debian's plugins and through weft called by the same name: same results, same kernel state.
//!
//! `WEFT_TEST_SUBJECT=reference` runs the reference against itself: what differs then is chance, and the harness must hide it.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use weft_kit::case::{self, Case, Differs};
use weft_kit::programs::Installation;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::Subject;

/// Link kinds by the plugin that makes them.
const KINDS: &[(&str, &str)] = &[("macvlan", "macvlan"), ("bridge", "bridge"), ("ptp", "veth")];

/// weft, installed once for all cases; removed with the value.
type Shared = Arc<OnceLock<Result<Installation, String>>>;

fn main() -> ExitCode {
    sandbox::enter();
    let shared = Shared::default();
    let mut suite = Suite::new();
    match case::load_all().and_then(|cases| Ok((cases, case::general_differences()?))) {
        Ok((cases, general)) => {
            for case in cases {
                add(&mut suite, &case, &general, &shared);
            }
        }
        Err(error) => suite.test("cases", &[], move || Err(error)),
    }
    suite.run_threads(Some(4))
}

/// Whether the reference stands in for weft.
fn alone() -> bool {
    std::env::var("WEFT_TEST_SUBJECT").is_ok_and(|subject| subject == "reference")
}

fn add(suite: &mut Suite, case: &Case, general: &[Differs], shared: &Shared) {
    let mut needs = vec![Need::Sandbox, Need::Reference];
    if !alone() {
        needs.extend([Need::Weft, Need::Weftctl]);
    }
    // What cannot be understood fails when it runs.
    let kinds = case.kinds().unwrap_or_default();
    needs
        .extend(KINDS.iter().filter(|(name, _)| kinds.iter().any(|kind| kind == name)).map(|(_, l)| Need::LinkKind(l)));
    if case.env.plugin.is_none() {
        needs.extend(kinds.iter().cloned().map(Need::ReferencePlugin));
    }
    for version in case.versions() {
        let (case, general, shared) = (case.clone(), general.to_vec(), Arc::clone(shared));
        suite.test(format!("{}/{version}", case.name), &needs, move || compare(&case, &version, &general, &shared));
    }
}

fn compare(case: &Case, version: &str, general: &[Differs], shared: &Shared) -> Result<()> {
    let reference = case::run(case, version, &Subject::reference()?)?;
    wanted(case, &reference).context("reference")?;
    if alone() {
        let again = case::run(case, version, &Subject::reference()?)?;
        let found = case::differences(&reference, &again);
        return report(case, found.iter().map(ToString::to_string).collect());
    }
    let installed = shared.get_or_init(|| Installation::new().map_err(|error| format!("{error:#}")));
    let installed = installed.as_ref().map_err(|error| anyhow::anyhow!(error.clone()))?;
    let mut weft = case::run(case, version, &Subject::weft(installed))?;
    wanted(case, &weft).context("weft")?;
    like_reference(&reference, &mut weft);
    let found = case::differences(&reference, &weft);
    report(case, case::judge(&found, version, &case.differs, general))
}

fn report(case: &Case, wrong: Vec<String>) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}\n  {}", case.about, wrong.join("\n  "))
}

/// Values that a case wants of both.
fn wanted(case: &Case, transcript: &Value) -> Result<()> {
    for (pointer, want) in &case.want {
        let got = transcript.pointer(pointer).unwrap_or(&Value::Null);
        if got != want {
            bail!("want.json: {pointer} is {got}, want {want}");
        }
    }
    Ok(())
}

/// weft says more about an error than the reference: a code where the reference says 999, details where it has none.
/// What the reference says must be the same.
fn like_reference(reference: &Value, weft: &mut Value) {
    for (label, entry) in weft.as_object_mut().into_iter().flatten() {
        let Some(original) = reference.get(label) else { continue };
        for (field, says_nothing) in [("code", Value::from(999)), ("details", Value::from(""))] {
            if original.get(field) == Some(&says_nothing) && entry.get(field).is_some() {
                entry[field] = says_nothing;
            }
        }
    }
}

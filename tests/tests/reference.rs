//! Runs the same configurations through the reference plugins and through weft called by the same name: results and
//! kernel state are equal.
//!
//! There are two references: Debian's package, and the CNI project's current release (`tests/reference`). weft runs each case once,
//! and is compared with both.
//!
//! `WEFT_TEST_SUBJECT=reference` runs each reference against itself: differences are then random, and the harness must
//! hide them.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use weft_kit::case::{self, Case, Differs, Edition};
use weft_kit::programs::Installation;
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::Subject;

/// Link kinds by the plugin that makes them.
const KINDS: &[(&str, &str)] = &[("macvlan", "macvlan"), ("bridge", "bridge"), ("ptp", "veth")];

/// The number of concurrent cases: they wait more than they compute.
const THREADS: usize = 8;

/// weft's transcript of a case; the first trial that needs it makes it.
type Ours = Arc<OnceLock<Result<Value, String>>>;

fn main() -> ExitCode {
    sandbox::enter();
    let mut suite = Suite::new();
    match case::load_all().and_then(|cases| Ok((cases, Arc::new(case::general_differences()?)))) {
        Ok((cases, general)) => {
            let runs: Vec<(Case, String, Ours)> = cases
                .iter()
                .flat_map(|case| {
                    case.versions().into_iter().map(move |version| (case.clone(), version, Ours::default()))
                })
                .collect();
            // One reference after the other, so that no trial waits for another's weft run.
            for edition in [Edition::Debian, Edition::Current] {
                for (case, version, ours) in &runs {
                    add(&mut suite, edition, case, (version, ours), &general);
                }
            }
        }
        Err(error) => suite.test("cases", &[], move || Err(error)),
    }
    suite.run_threads(Some(THREADS))
}

/// Returns whether the reference stands in for weft.
fn is_alone() -> bool {
    std::env::var("WEFT_TEST_SUBJECT").is_ok_and(|subject| subject == "reference")
}

fn subject(edition: Edition) -> Result<Subject> {
    match edition {
        Edition::Debian => Subject::reference(),
        Edition::Current => Subject::current(),
    }
}

fn add(suite: &mut Suite, edition: Edition, case: &Case, (version, ours): (&str, &Ours), general: &Arc<Vec<Differs>>) {
    let mut needs = vec![Need::Sandbox];
    needs.push(match edition {
        Edition::Debian => Need::Reference,
        Edition::Current => Need::Current,
    });
    if !is_alone() {
        needs.extend([Need::Weft, Need::Weftctl]);
    }
    // A case that cannot be parsed fails when it runs.
    let kinds = case.kinds().unwrap_or_default();
    needs
        .extend(KINDS.iter().filter(|(name, _)| kinds.iter().any(|kind| kind == name)).map(|(_, l)| Need::LinkKind(l)));
    if case.env.plugin.is_none() && edition == Edition::Debian {
        needs.extend(kinds.iter().cloned().map(Need::ReferencePlugin));
    }
    let name = format!("{}/{}/{version}", edition.version(), case.name);
    let (case, version, ours, general) = (case.clone(), version.to_owned(), Arc::clone(ours), Arc::clone(general));
    suite.test(name, &needs, move || compare(edition, &case, (&version, &ours), &general));
}

fn compare(edition: Edition, case: &Case, (version, ours): (&str, &Ours), general: &[Differs]) -> Result<()> {
    let reference = case::run(case, version, &subject(edition)?)?;
    expect_transcript(case, &reference).context("reference")?;
    if is_alone() {
        let again = case::run(case, version, &subject(edition)?)?;
        let found = case::differences(&reference, &again);
        return report(case, found.iter().map(ToString::to_string).collect());
    }
    let ours = ours.get_or_init(|| by_weft(case, version).map_err(|error| format!("{error:#}")));
    let mut weft = ours.as_ref().map_err(|error| anyhow!(error.clone()))?.clone();
    like_reference(&reference, &mut weft);
    let found = case::differences(&reference, &weft);
    report(case, case::judge(&found, (edition, version), &case.differs, general))
}

fn by_weft(case: &Case, version: &str) -> Result<Value> {
    let weft = case::run(case, version, &Subject::weft(Installation::pristine()?))?;
    expect_transcript(case, &weft).context("weft")?;
    Ok(weft)
}

fn report(case: &Case, wrong: Vec<String>) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}\n  {}", case.about, wrong.join("\n  "))
}

/// Checks values that a case expects of every subject.
fn expect_transcript(case: &Case, transcript: &Value) -> Result<()> {
    for (pointer, want) in &case.want {
        let got = transcript.pointer(pointer).unwrap_or(&Value::Null);
        if got != want {
            bail!("want.json: {pointer} is {got}, want {want}");
        }
    }
    Ok(())
}

/// weft's errors have more than the reference's: a code where the reference has 999, and details where it has none. All
/// other fields must be the same.
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

//! Kills ADD and DEL at instants spread over their duration. At any instant, a DEL that runs to its end leaves nothing:
//! neither in the kernel, which is read each time, nor in the ledger, or the case's own ADD, with the same addresses,
//! would fail.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use weft_bench::call::{Verb, write_stdin};
use weft_vm::case::{Step, What};

use super::{Stage, difference};

/// The number of instants in an ADD. Every second one is followed by a DEL that is killed as well.
const INSTANTS: u32 = 12;

/// Kills an attachment's ADD and its DEL repeatedly.
pub(super) fn sweep(stage: &Stage<'_>, number: usize, conf: &Value) -> Result<Step> {
    let what = What::Killed(number);
    let step = |code, stdout| Ok(Step { what, code: Some(code), stdout, stderr: String::new(), millis: 0 });
    let attach = stage.run.case.attach.get(number).context("no such attachment")?;
    let before = stage.observe_everything(&attach.container)?;
    let whole = |verb| stage.call(verb, number, conf, what);
    let (add, del) = (whole(Verb::Add)?, whole(Verb::Del)?);
    if add.code != Some(0) || del.code != Some(0) {
        return step(1, format!("even unharmed they fail: {} {}", add.stdout, del.stdout));
    }
    let part = |millis: u64, at: u32| Duration::from_millis(millis) * at / INSTANTS;
    let mut killed = 0;
    for at in 0..INSTANTS {
        killed += u32::from(kill(stage, (Verb::Add, number), conf, part(add.millis, at))?);
        if at % 2 == 1 {
            killed += u32::from(kill(stage, (Verb::Del, number), conf, part(del.millis, at))?);
        }
        let deleted = whole(Verb::Del)?;
        if deleted.code != Some(0) {
            return step(1, format!("DEL after a kill at {at} of {INSTANTS}: {}", deleted.stdout));
        }
        let after = stage.observe_everything(&attach.container)?;
        if after != before {
            return step(1, format!("killed at {at} of {INSTANTS}: {}", difference(&before, &after)));
        }
    }
    // If no call was killed while it ran, the sweep proves nothing.
    step(i32::from(killed < INSTANTS / 2), format!("{killed} calls killed"))
}

/// Starts a call and kills it after a while. Returns whether it was still running.
fn kill(stage: &Stage<'_>, (verb, number): (Verb, usize), conf: &Value, after: Duration) -> Result<bool> {
    let mut child = stage.command(verb, number, conf)?.spawn().context("start a call")?;
    write_stdin(&mut child, &conf.to_string())?;
    sleep(after);
    let caught = child.try_wait().context("look at it")?.is_none();
    child.kill().context("kill it")?;
    child.wait().context("reap it")?;
    Ok(caught)
}

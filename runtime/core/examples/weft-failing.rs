//! weft with an op in its plan that always fails. It can be called by the same names as weft.
//!
//! `WEFT_FAIL_AT` is the index of the inserted op; past the end of the plan nothing is inserted. `WEFT_FAIL_PLAN` is
//! the index of the plan, if one process makes several (`weft-pod`); without it every plan gets the op.

use std::cell::Cell;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use weft_core::attach::Context;
use weft_core::command::run;
use weft_core::plan::{LinkRef, Op, Plan};

fn main() -> ExitCode {
    let state = std::env::var_os("WEFT_STATE_DIR").map_or_else(|| PathBuf::from("/nonexistent"), PathBuf::from);
    let at = std::env::var("WEFT_FAIL_AT").ok().and_then(|text| text.parse::<usize>().ok());
    let only = std::env::var("WEFT_FAIL_PLAN").ok().and_then(|text| text.parse::<usize>().ok());
    let plans = Cell::new(0);
    let mut context = Context::new(state);
    context.plan_hook = Box::new(move |plan: &mut Plan| {
        let index = plans.replace(plans.get() + 1);
        if let Some(at) = at.filter(|at| *at <= plan.ops.len() && only.is_none_or(|only| only == index)) {
            plan.ops.insert(at, Op::LinkUp { link: LinkRef::host("no-such-link") });
        }
    });
    let program = std::env::args_os().next().unwrap_or_default();
    let output = run(&program, &|name| std::env::var_os(name), &mut std::io::stdin().lock(), &context);
    let written = std::io::stdout().write_all(output.stdout.as_bytes());
    if output.ok && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

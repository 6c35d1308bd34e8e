//! The operator's tool, as an operator uses it: every command, as a table and as JSON, on a scratch machine.

mod by_hand;
mod install;
mod ledger;
mod look;
mod lost;
mod manual;

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_kit::process::{self, Output, Place};
use weft_kit::programs::{self, Installation};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};
use weft_kit::world::{Attach, Subject, World};

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl];
    let mut suite = Suite::new();
    suite.test("install_is_idempotent_and_uninstall_leaves_nothing", &needs, install::install);
    suite.test("install_is_remembered", &needs, install::remembered);
    suite.test("install_on_a_full_disk", &needs, install::full_install);
    suite.test("install_leaves_other_plugins_alone_unless_told", &needs, install::other_plugins);
    suite.test("a_node_gets_the_agents_copies_before_the_programs", &needs, install::copies_first);
    suite.test("a_second_install_removes_what_the_first_one_had_elsewhere", &needs, install::installs_elsewhere);
    suite.test("every_preset_installs_where_its_distribution_looks", &needs, install::presets);
    suite.test("purge_refuses_while_attachments_exist", &needs, install::purge);
    suite.test("uninstall_refuses_while_attachments_exist", &needs, install::uninstall_refuses);
    suite.test("gc_after_a_forced_uninstall", &needs, install::gc_after_forced);
    suite.test("ps_has_one_row_per_attachment", &needs, look::one_row);
    suite.test("plan_changes_nothing", &needs, look::plan);
    suite.test("plan_takes_a_list", &needs, look::plan_list);
    suite.test("explain_says_why", &needs, look::explain);
    suite.test("failures_are_listed", &needs, look::failures);
    suite.test("ledger_ls_and_release", &needs, ledger::ledger);
    suite.test("ledger_import_and_export_round_trip", &needs, ledger::import_export);
    suite.test("a_lost_ledger_is_refused_and_rebuilt", &needs, lost::lost_ledger);
    suite.test("a_lost_ledger_is_refused_whatever_the_attachment_is", &needs, lost::lost_of_every_kind);
    suite.test("a_lost_ledger_is_refused_for_what_only_the_runtime_knows", &needs, lost::lost_in_the_cache);
    suite.test("a_node_beside_another_may_have_a_first_ledger", &needs, lost::not_lost);
    suite.test("a_rebuilt_ledger_knows_the_packet_filter", &needs, lost::rebuilt_filters);
    suite.test("a_healthy_ledger_is_not_moved_aside", &needs, lost::healthy_ledger);
    suite.test("del_and_gc_on_a_full_disk", &needs, ledger::full_disk);
    suite.test("del_and_gc_of_a_large_ledger_on_a_full_disk", &needs, ledger::full_disk_of_a_large_ledger);
    suite.test("ps_pools_gc_and_detach", &needs, look::ps_and_gc);
    suite.test("a_full_pool_is_shown_as_full", &needs, look::pool_sizes);
    suite.test("check_of_what_was_never_added", &needs, look::check_of_nothing);
    suite.test("a_container_without_a_pod_has_its_id", &needs, look::no_pod);
    suite.test("a_pipe_that_nobody_reads_is_no_panic", &needs, look::broken_pipe);
    suite.test("import_and_export_honour_data_dir", &needs, ledger::data_dir);
    suite.test("policy_inspect_compile_check", &needs, manual::policy);
    suite.test("doctor_finds_what_is_wrong", &needs, manual::doctor);
    suite.test("mistakes_are_told_on_stderr_and_in_json", &needs, manual::mistakes);
    suite.test("add_check_and_del_by_hand", &needs, by_hand::by_hand);
    suite.test("by_hand_beside_cnitool", &[&needs[..], &[Need::Current]].concat(), by_hand::beside_cnitool);
    suite.test(
        "libcni_sends_status_to_the_installed_list",
        &[&needs[..], &[Need::Current]].concat(),
        install::status_by_libcni,
    );
    suite.test("schema_for_editors", &[&needs[..], &[Need::Tool("jsonschema")]].concat(), manual::schema);
    suite.test("tables_fit_and_colours_are_for_terminals", &needs, manual::tables);
    suite.test("completion_and_man_pages", &needs, manual::manual);
    suite.run()
}

fn conf() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "ctl", "type": "weft",
            "delegate": { "type": "bridge", "bridge": "ctl0", "isGateway": true },
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.63.0.0/24" }]] } })
}

/// The same with a host port.
fn with_port() -> Value {
    let mut conf = conf();
    conf["steps"] = json!([{ "type": "portmap" }]);
    conf["runtimeConfig"] = json!({ "portMappings": [{ "hostPort": 8086, "containerPort": 80, "protocol": "tcp" }] });
    conf
}

/// Runs a command; a failure is a valid outcome.
fn run(place: &Place, program: &Path, arguments: &[&str]) -> Result<Output> {
    run_with(place, program, arguments, &[])
}

/// Like [`run`], with environment variables.
fn run_with(place: &Place, program: &Path, arguments: &[&str], env: &[(&str, &OsStr)]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).envs(env.iter().copied());
    process::output(place, command, b"", Duration::from_secs(120))
}

fn stdout_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json_of(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).with_context(|| format!("not one JSON document: {}", stdout_text(output)))
}

/// Returns both forms of a command's output: the table, and the document.
fn both_outputs(world: &World, weftctl: &Path, arguments: &[&str]) -> Result<(String, Value)> {
    let state = world.state().display().to_string();
    let arguments = [&["--state-dir", state.as_str()], arguments].concat();
    let place = world.place()?;
    let table = run(&place, weftctl, &arguments)?;
    let document = run(&place, weftctl, &[&["--json"], arguments.as_slice()].concat())?;
    ensure!(table.status == Some(0), "{arguments:?}: {} {}", stdout_text(&table), table.stderr);
    Ok((stdout_text(&table), json_of(&document)?))
}

fn prepare_world() -> Result<(Installation, World)> {
    let installation = Installation::new()?;
    let world = World::new(&Subject::weft(&installation))?;
    Ok((installation, world))
}

/// Returns the address that an ADD allocated.
fn address(reply: &weft_kit::cni::Reply) -> Result<String> {
    let document = reply.json()?;
    let address = document["ips"][0]["address"].as_str();
    Ok(address.with_context(|| format!("no address: {document:#}"))?.to_owned())
}

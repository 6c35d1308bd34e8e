//! Steps. In one process they add their ops to the delegate's plan (`extend`); called as chained plugins they are a plan of
//! their own on what is there already (`add`), and all of an attachment's chained steps share one journal entry.
//!
//! Invariants: that entry lists them in the order of their ADDs, and they are torn down the other way round; what failed and
//! was undone leaves it as it was.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::call::Call;
use super::error::in_full;
use super::{CommandError, del};
use crate::cni::{CniResult, Interface};
use crate::ledger::{AmendError, Entry, Key, NodeStore, Record, Role};
use crate::netlink::{Applied, ApplyError, Executor, Since};
use crate::plan::{LinkRef, Mac, Need, Observed, Op, Plan, ResultShape, ShapeIp, Side};
use crate::step::{self, Previous, StepInput, StepPlan};
use weft_host_abi::types::Attachment;

/// One chained call, as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chained {
    /// The name weft was called by.
    pub(super) by: String,
    /// `CNI_NETNS` of the ADD.
    pub(super) netns: String,
    /// What was done.
    pub(super) plan: Plan,
}

/// A failure, and what could not be put back after it.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) cause: Box<CommandError>,
    pub(super) leftovers: Vec<String>,
}

impl<E: Into<CommandError>> From<E> for Failed {
    fn from(cause: E) -> Self {
        Self { cause: Box::new(cause.into()), leftovers: Vec::new() }
    }
}

/// Steps planned on what is there already.
struct Planned {
    executor: Executor,
    plan: Plan,
    mac: Option<Mac>,
}

// === planning ===

/// Checks the configuration of every step by itself.
pub(super) fn validate(call: &Call<'_>) -> Result<(), CommandError> {
    each(call).try_for_each(|(step, conf)| Ok(step.validate(conf, &call.pairs)?))
}

/// What the steps have to know of the host.
pub(super) fn needs(call: &Call<'_>) -> Result<Vec<Need>, CommandError> {
    let attachment = call.attachment();
    let mut needs = Vec::new();
    for (step, conf) in each(call) {
        step.validate(conf, &call.pairs)?;
        needs.extend(step.needs(conf, &attachment)?);
    }
    Ok(needs)
}

/// Adds the ops of the steps to a delegate's plan.
pub(super) fn extend(call: &Call<'_>, plan: &mut Plan, observed: &Observed) -> Result<(), CommandError> {
    if call.network.steps.is_empty() {
        return Ok(());
    }
    let mut previous = Previous {
        interfaces: plan.result.interfaces.clone(),
        ips: plan.result.ips.clone(),
        routes: plan.result.routes.clone(),
    };
    let StepPlan { interfaces, .. } = plan_all(call, Some(&mut previous), &mut plan.ops, observed)?;
    plan.result.interfaces.extend(interfaces);
    Ok(())
}

/// All steps in order; each sees what those before it add. `ops` has what will have run before them, and gets theirs.
fn plan_all(
    call: &Call<'_>,
    mut previous: Option<&mut Previous>,
    ops: &mut Vec<Op>,
    observed: &Observed,
) -> Result<StepPlan, CommandError> {
    let attachment = call.attachment();
    let mut all = StepPlan::default();
    for (step, conf) in each(call) {
        let planned = step.plan(&StepInput {
            conf,
            attachment: &attachment,
            netns: &call.env.netns,
            cni_args: &call.pairs,
            previous: previous.as_deref(),
            before: ops,
            observed,
        })?;
        if let Some(previous) = previous.as_deref_mut() {
            previous.interfaces.extend(planned.interfaces.iter().cloned());
        }
        ops.extend(planned.ops);
        all.interfaces.extend(planned.interfaces);
        all.mac = planned.mac.or(all.mac);
    }
    Ok(all)
}

fn each<'a>(call: &'a Call<'_>) -> impl Iterator<Item = (&'static dyn step::Step, &'a crate::cni::Object)> {
    call.network.steps.iter().filter_map(|conf| Some((step::find(&conf.kind)?, &conf.conf)))
}

fn previous(result: &CniResult) -> Previous {
    let link = |interface: &Interface| LinkRef {
        side: if interface.sandbox.as_ref().is_some_and(|path| !path.is_empty()) {
            Side::Container
        } else {
            Side::Host
        },
        name: interface.name.clone(),
    };
    Previous {
        interfaces: result.interfaces.iter().map(link).collect(),
        ips: result
            .ips
            .iter()
            .map(|ip| ShapeIp { address: ip.address, gateway: ip.gateway, interface: ip.interface })
            .collect(),
        routes: result.routes.clone(),
    }
}

/// The steps as a plan of their own; `None` where there is nothing to do.
fn plan_on(call: &Call<'_>, before: Option<&CniResult>) -> Result<Option<Planned>, CommandError> {
    let needs = needs(call)?;
    let mut executor = Executor::open(Some(Path::new(&call.env.netns)))?;
    let observed = if needs.is_empty() { Observed::default() } else { executor.observe(&needs)? };
    let mut seen = before.map(previous);
    let mut ops = Vec::new();
    let StepPlan { interfaces, mac, .. } = plan_all(call, seen.as_mut(), &mut ops, &observed)?;
    if ops.is_empty() {
        return Ok(None);
    }
    let container = executor.container_identity()?;
    let result = ResultShape { interfaces, ..ResultShape::default() };
    let mut plan = Plan { ops, container, result, ..Plan::default() };
    (call.context.plan_hook)(&mut plan);
    Ok(Some(Planned { executor, plan, mac }))
}

// === ADD ===

/// What a chained ADD would do, without doing it.
pub(super) fn preview(call: &Call<'_>) -> Result<Plan, CommandError> {
    let before = call.previous()?;
    Ok(plan_on(call, before.as_ref())?.map(|planned| planned.plan).unwrap_or_default())
}

/// ADD as a chained plugin: prints what came before, with what the steps changed in it.
pub(super) fn add(call: &mut Call<'_>) -> Result<String, CommandError> {
    let version = call.network.version;
    let before = call.previous()?;
    let Some(mut planned) = plan_on(call, before.as_ref())? else {
        return Ok(before.unwrap_or_default().to_json(version)?);
    };
    let before = before.unwrap_or_default();
    // Whether it can be said in this version at all, while nothing has been changed.
    before.to_json(version)?;
    let mut store = call.open_store()?;
    let mine =
        Chained { by: call.persona.name().to_owned(), netns: call.env.netns.clone(), plan: planned.plan.clone() };
    let fresh = note(call, &mut store, &mine)?;
    let Failed { cause, mut leftovers } = match apply(call, &mut planned, before) {
        Ok(document) => return Ok(document),
        Err(failed) => failed,
    };
    if leftovers.is_empty() && fresh {
        leftovers.extend(forget(call, &mut store, |listed| listed != &mine).err().map(|error| error.chain()));
    }
    if leftovers.is_empty() { Err(*cause) } else { Err(CommandError::Leftovers { cause, leftovers }) }
}

/// The steps after an external delegate, in its journal entry.
pub(super) fn on_top(
    call: &Call<'_>,
    store: &mut NodeStore,
    record: Record,
    result: CniResult,
) -> Result<String, Failed> {
    let planned = if call.network.steps.is_empty() { None } else { plan_on(call, Some(&result))? };
    let Some(mut planned) = planned else { return Ok(result.to_json(call.network.version)?) };
    let text = serde_json::to_string(&planned.plan).map_err(CommandError::Encode)?;
    let record = Record { plan: text, shared: planned.plan.shared(), ..record };
    store.update_record(&call.key(), &record)?;
    apply(call, &mut planned, result)
}

/// Netlink, then the result.
fn apply(call: &Call<'_>, planned: &mut Planned, before: CniResult) -> Result<String, Failed> {
    let (cause, leftovers) = match planned.executor.apply(&planned.plan) {
        Ok(applied) => match changed(call, before, planned, &applied).to_json(call.network.version) {
            Ok(document) => return Ok(document),
            Err(cause) => (cause.into(), planned.executor.undo(applied)),
        },
        Err(ApplyError { op, cause, leftovers, .. }) => (CommandError::Op { op: op.into(), source: cause }, leftovers),
    };
    let leftovers = leftovers.iter().map(|left| in_full(left)).collect();
    Err(Failed { cause: Box::new(cause), leftovers })
}

/// What came before, with the steps' changes.
fn changed(call: &Call<'_>, mut result: CniResult, planned: &Planned, applied: &Applied) -> CniResult {
    for link in &planned.plan.result.interfaces {
        result.interfaces.push(Interface {
            name: link.name.clone(),
            mac: applied.links.get(link).and_then(|info| info.mac).map(|mac| mac.to_string()),
            sandbox: (link.side == Side::Container).then(|| call.env.netns.clone()),
            ..Interface::default()
        });
    }
    if let Some(mac) = planned.mac {
        for interface in result.interfaces.iter_mut().filter(|interface| interface.name == call.env.ifname) {
            interface.mac = Some(mac.to_string());
        }
    }
    result
}

// === the journal entry ===

/// The chained steps of an entry.
pub(super) fn listed(entry: &Entry) -> Result<Vec<Chained>, CommandError> {
    read(&entry.record, &entry.key.attachment)
}

fn read(record: &Record, attachment: &Attachment) -> Result<Vec<Chained>, CommandError> {
    serde_json::from_str(&record.plan)
        .map_err(|source| CommandError::Journal { attachment: attachment.clone(), source })
}

fn write(listed: &[Chained]) -> Result<Option<Record>, CommandError> {
    let Some(first) = listed.first() else { return Ok(None) };
    let shared: BTreeSet<String> = listed.iter().flat_map(|chained| chained.plan.shared()).collect();
    Ok(Some(Record {
        netns: first.netns.clone(),
        plan: serde_json::to_string(listed).map_err(CommandError::Encode)?,
        shared: shared.into_iter().collect(),
        ..Record::default()
    }))
}

/// Adds a call to the entry; whether it was not there. The very same call again (a runtime that repeats itself) is the same
/// thing, and stays if this time fails.
fn note(call: &Call<'_>, store: &mut NodeStore, mine: &Chained) -> Result<bool, CommandError> {
    let key = call.key();
    let mut fresh = true;
    let amended = store.amend(&key, crate::facts::now()?, |record| {
        let mut listed = record.map_or(Ok(Vec::new()), |record| read(&record, &key.attachment))?;
        fresh = !listed.contains(mine);
        if fresh {
            listed.push(mine.clone());
        }
        write(&listed)
    });
    amended.map_err(AmendError::into_command).map(|()| fresh)
}

/// Drops calls from the entry; the entry goes with the last one.
fn forget(call: &Call<'_>, store: &mut NodeStore, keep: impl Fn(&Chained) -> bool) -> Result<(), CommandError> {
    let key = call.key();
    let amended = store.amend(&key, crate::facts::now()?, |record| {
        let mut listed = record.map_or(Ok(Vec::new()), |record| read(&record, &key.attachment))?;
        listed.retain(&keep);
        write(&listed)
    });
    amended.map_err(AmendError::into_command)
}

impl AmendError<CommandError> {
    fn into_command(self) -> CommandError {
        match self {
            Self::Change(error) => error,
            Self::Ledger(error) => error.into(),
        }
    }
}

// === DEL, GC ===

/// Undoes the calls of an entry that were made under a name, or all of them, last first. Returns what went wrong; what
/// is left stays in the entry.
pub(super) fn remove(call: &mut Call<'_>, store: &mut NodeStore, entry: &Entry, by: Option<&str>) -> Vec<String> {
    let listed = match listed(entry) {
        Ok(listed) => listed,
        Err(error) => return vec![error.chain()],
    };
    let ours = |chained: &Chained| by.is_none_or(|name| chained.by == name);
    let mut problems = Vec::new();
    let mut left = Vec::new();
    for (at, chained) in listed.iter().enumerate().rev().filter(|(_, chained)| ours(chained)) {
        let others = listed.iter().enumerate().filter(|(other, _)| *other < at || !ours(&listed[*other]));
        let needed: BTreeSet<String> = others.flat_map(|(_, other)| other.plan.shared()).collect();
        let found = del::tear_down_plan(call, store, entry, &chained.netns, &chained.plan, needed);
        if !found.is_empty() {
            left.push(chained.clone());
        }
        problems.extend(found);
    }
    let key = entry.key.clone();
    let amended = crate::facts::now().map_err(CommandError::from).and_then(|now| {
        let change = |record: Option<Record>| {
            let mut now_listed = record.map_or(Ok(Vec::new()), |record| read(&record, &key.attachment))?;
            now_listed.retain(|chained| !ours(chained) || left.contains(chained));
            write(&now_listed)
        };
        store.amend(&key, now, change).map_err(AmendError::into_command)
    });
    problems.extend(amended.err().map(|error| error.chain()));
    problems
}

// === CHECK ===

/// What the chained steps of an attachment changed of what was there before them.
pub(super) fn since(store: &NodeStore, attachment: &Attachment) -> Result<Since, CommandError> {
    let key = Key { attachment: attachment.clone(), role: Role::Steps };
    let listed = store.entry(&key)?.map_or(Ok(Vec::new()), |entry| listed(&entry))?;
    Ok(Since::default().and(listed.iter().flat_map(|chained| &chained.plan.ops)))
}

/// CHECK as a chained plugin: what its calls did is still there. Where the journal knows of none, there must have been
/// nothing to do.
pub(super) fn check(call: &mut Call<'_>) -> Result<(), CommandError> {
    let before = call.previous()?;
    validate(call)?;
    let store = call.open_store()?;
    let name = call.persona.name();
    let listed = store.entry(&call.key())?.map_or(Ok(Vec::new()), |entry| listed(&entry))?;
    let since = Since::default().and(listed.iter().flat_map(|chained| &chained.plan.ops));
    let mine: Vec<Chained> = listed.into_iter().filter(|chained| chained.by == name).collect();
    if mine.is_empty() {
        return match plan_on(call, before.as_ref())? {
            None => Ok(()),
            Some(_) => Err(CommandError::UnknownAttachment(call.attachment())),
        };
    }
    if before.is_none() {
        return Err(CommandError::PrevResultMissing);
    }
    let mut executor = Executor::open(Some(Path::new(&call.env.netns)))?;
    let mut differences = Vec::new();
    for chained in &mine {
        differences.extend(executor.check_since(&chained.plan, &since)?.iter().map(ToString::to_string));
    }
    if differences.is_empty() { Ok(()) } else { Err(CommandError::Differs { differences }) }
}

//! Computes what ADD would do, without doing it, for `weftctl plan`.

use super::beside::Beside;
use super::call::Call;
use super::error::AttachError;
use super::fallback::Standing;
use super::node::{Context, Node};
use super::stage::Stage;
use super::trace::{ChoiceTrace, Trace};
use super::{choose, decide, pool, steps};
use crate::cni::Environment;
use crate::conf::{IpamKind, LedgerKind, Persona};
use crate::delegate::{Addressing, Given};
use crate::plan::Plan;
use crate::store::NodeStore;

/// An ADD that was planned but not executed.
#[derive(Debug, Clone)]
pub struct Preview {
    /// The ops in order, and the result's shape.
    pub plan: Plan,
    /// How the delegate was chosen, where a policy did.
    pub choice: Option<ChoiceTrace>,
    /// How the policy decided, where one did.
    pub trace: Option<Trace>,
    /// What is unknown until ADD runs.
    pub notes: Vec<String>,
}

/// Plans an ADD. Nothing is claimed, written or changed; the store is read if it exists.
///
/// # Errors
/// Any error that ADD would return before it changes something.
pub fn preview(
    context: &Context,
    persona: Persona,
    env: Environment,
    stdin: &[u8],
    log: &mut String,
) -> Result<Preview, AttachError> {
    let call = Call::read(context, persona, env, stdin)?;
    let mut node = Node::new(context);
    let previewed = choose::resolve(&mut node, &call)
        .and_then(pool::resolve)
        .and_then(|call| Ok(Preview { choice: call.choice.clone(), ..resolved(&mut node, &call)? }));
    log.push_str(&node.take_log());
    previewed
}

fn resolved(node: &mut Node<'_>, call: &Call) -> Result<Preview, AttachError> {
    let mut notes = Vec::new();
    if let Some(delegate) = call.network.external_delegate() {
        notes
            .push(format!("the links are made by the external delegate {:?}, whose plan only it knows", delegate.kind));
        return Ok(Preview { plan: Plan::default(), choice: None, trace: None, notes });
    }
    if call.network.is_chained() {
        return Ok(Preview { plan: chained_steps(node.context, call)?, choice: None, trace: None, notes });
    }
    let stage = Stage::read(node.context, call)?;
    let kind = call.network.ipam.as_ref().map(|ipam| ipam.kind.clone());
    match kind {
        Some(IpamKind::External(plugin)) if !stage.ignores_ipam() => {
            notes.push(format!(
                "addresses come from the external IPAM plugin {plugin:?}, which is not asked by a preview"
            ));
            Ok(Preview { plan: Plan::default(), choice: None, trace: None, notes })
        }
        Some(IpamKind::Dhcp) if !stage.ignores_ipam() => {
            notes.push(
                "addresses come from a DHCP server, asked through the link once it is up; a preview does not"
                    .to_owned(),
            );
            Ok(Preview { plan: stage.links(call)?, choice: None, trace: None, notes })
        }
        Some(_) if !stage.ignores_ipam() => by_policy(node, call, &stage, notes),
        _ => Ok(Preview { plan: stage.plan(call, None)?, choice: None, trace: None, notes }),
    }
}

fn by_policy(
    node: &mut Node<'_>,
    call: &Call,
    stage: &Stage<'_>,
    mut notes: Vec<String>,
) -> Result<Preview, AttachError> {
    if matches!(&call.network.terms.ledger, LedgerKind::Cluster(conf) if conf.blocks.is_some()) {
        notes.push(
            "addresses come from this machine's cells; a preview takes none, and looks at the ranges as a whole"
                .to_owned(),
        );
    }
    let mut policy = Standing::load(node, call)?;
    let now = crate::facts::now()?;
    let store = match NodeStore::open_read_only(&node.context.state_dir)? {
        Some(store) => Some(store),
        None => {
            notes.push("this node has no ledger yet; the plan is made against an empty one".to_owned());
            None
        }
    };
    let request = decide::request(node.context, call, store.as_ref(), now)?;
    let decided = policy.decide(call, (store.as_ref(), Beside::default()), request, &mut node.log)?;
    let first = decided.wants.iter().filter_map(|want| {
        want.candidates.first().map(|(address, _)| Given { address: *address, gateway: want.gateway })
    });
    let addressing = Addressing {
        ips: first.collect(),
        routes: decided.routes.clone(),
        dns: decided.dns.clone(),
        unique: true,
        probe_ms: decided.probe_ms,
    };
    let plan = stage.plan(call, Some(&addressing))?;
    decided.check_plan(call, &plan)?;
    Ok(Preview { plan, choice: None, trace: Some(decided.into_trace()), notes })
}

/// Plans a chained ADD.
fn chained_steps(context: &Context, call: &Call) -> Result<Plan, AttachError> {
    let before = call.previous()?;
    Ok(steps::plan_on(context, call, before.as_ref())?.map(|planned| planned.plan).unwrap_or_default())
}

//! Computes what ADD would do, without doing it, for `weftctl plan`.

use super::call::Call;
use super::cluster_view::ClusterView;
use super::error::AttachError;
use super::fallback::Standing;
use super::node::{Context, Node};
use super::stage::Stage;
use super::trace::{ChoiceTrace, Trace};
use super::{choose, decide, pool, result, steps};
use crate::cni::{CniResult, Environment};
use crate::conf::{IpamKind, LedgerKind, Persona};
use crate::delegate::{Addressing, Given};
use crate::netlink::Applied;
use crate::plan::{Op, Plan};
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
    /// The result, as the next plugin of a list would get it; `None` if it is unknown.
    pub result: Option<CniResult>,
}

/// Plans an ADD. Nothing is claimed, written or changed; the store is read if it exists. `before` are the ops of the
/// plugins before this one in a list.
///
/// # Errors
/// Any error that ADD would return before it changes something.
pub fn preview(
    context: &Context,
    persona: Persona,
    env: Environment,
    stdin: &[u8],
    before: &[Op],
    log: &mut String,
) -> Result<Preview, AttachError> {
    let call = Call::read(context, persona, env, stdin)?;
    let mut node = Node::new(context);
    let previewed = choose::resolve(&mut node, &call)
        .and_then(pool::resolve)
        .and_then(|call| Ok(Preview { choice: call.choice.clone(), ..resolved(&mut node, &call, before)? }));
    log.push_str(&node.take_log());
    previewed
}

fn resolved(node: &mut Node<'_>, call: &Call, before: &[Op]) -> Result<Preview, AttachError> {
    if let Some(delegate) = call.network.external_delegate() {
        let note = format!("the links are made by the external delegate {:?}, whose plan only it knows", delegate.kind);
        return Ok(Preview::without_result(Plan::default(), note));
    }
    if call.network.is_chained() {
        let (plan, result) = steps::preview(node.context, call, call.previous()?, before)?;
        return Ok(Preview { plan, choice: None, trace: None, notes: Vec::new(), result });
    }
    let stage = Stage::read(node.context, call)?;
    let kind = call.network.ipam.as_ref().map(|ipam| ipam.kind.clone());
    match kind {
        Some(IpamKind::External(plugin)) if !stage.ignores_ipam() => {
            let note =
                format!("addresses come from the external IPAM plugin {plugin:?}, which is not asked by a preview");
            Ok(Preview::without_result(Plan::default(), note))
        }
        Some(IpamKind::Dhcp) if !stage.ignores_ipam() => {
            let note = "addresses come from a DHCP server, asked through the link once it is up; a preview does not";
            Ok(Preview::without_result(stage.links(call)?, note.to_owned()))
        }
        Some(_) if !stage.ignores_ipam() => by_policy(node, call, &stage),
        _ => {
            let plan = stage.plan(call, None)?;
            let result = result::of_plan(call, &plan, &Applied::default()).ok();
            Ok(Preview { plan, choice: None, trace: None, notes: Vec::new(), result })
        }
    }
}

impl Preview {
    fn without_result(plan: Plan, note: String) -> Self {
        Self { plan, choice: None, trace: None, notes: vec![note], result: None }
    }
}

fn by_policy(node: &mut Node<'_>, call: &Call, stage: &Stage<'_>) -> Result<Preview, AttachError> {
    let mut notes = Vec::new();
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
    let decided = policy.decide(call, (store.as_ref(), ClusterView::default()), request, &mut node.log)?;
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
    let result = result::of_plan(call, &plan, &Applied::default()).ok();
    Ok(Preview { plan, choice: None, trace: Some(decided.into_trace()), notes, result })
}

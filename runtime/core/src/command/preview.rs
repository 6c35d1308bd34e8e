//! What ADD would do, without doing it: for `weftctl plan`.

use super::call::Call;
use super::decide;
use super::stage::Stage;
use super::{ChoiceTrace, CommandError, Context, Trace, choose, steps};
use crate::cni::Environment;
use crate::conf::{IpamKind, Persona};
use crate::delegate::{Addressing, Given};
use crate::ledger::NodeStore;
use crate::plan::Plan;

/// An ADD that was thought through and not done.
#[derive(Debug, Clone)]
pub struct Preview {
    /// The ops in order, and the result's shape.
    pub plan: Plan,
    /// How the delegate was chosen, where a policy did.
    pub choice: Option<ChoiceTrace>,
    /// How the policy decided, where one did.
    pub trace: Option<Trace>,
    /// What cannot be known without doing it.
    pub notes: Vec<String>,
}

/// Thinks an ADD through. Nothing is claimed, written or changed; the store is read where there is one.
///
/// # Errors
/// Whatever ADD would fail with before it changes something.
pub fn preview(
    context: &Context,
    persona: Persona,
    env: Environment,
    stdin: &[u8],
    log: &mut String,
) -> Result<Preview, CommandError> {
    let mut call = Call::new(context, persona, env, stdin, log)?;
    choose::resolve(&mut call)?;
    let choice = call.choice.clone();
    Ok(Preview { choice, ..resolved(&mut call)? })
}

fn resolved(call: &mut Call<'_>) -> Result<Preview, CommandError> {
    let mut notes = Vec::new();
    if let Some(delegate) = call.network.delegate.as_ref().filter(|delegate| !delegate.builtin) {
        notes
            .push(format!("the links are made by the external delegate {:?}, whose plan only it knows", delegate.kind));
        return Ok(Preview { plan: Plan::default(), choice: None, trace: None, notes });
    }
    if call.network.steps_alone {
        return Ok(Preview { plan: steps::preview(call)?, choice: None, trace: None, notes });
    }
    let stage = Stage::read(call)?;
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
        Some(_) if !stage.ignores_ipam() => by_policy(call, &stage, notes),
        _ => Ok(Preview { plan: stage.plan(call, None)?, choice: None, trace: None, notes }),
    }
}

fn by_policy(call: &mut Call<'_>, stage: &Stage, mut notes: Vec<String>) -> Result<Preview, CommandError> {
    let policy = decide::load(call)?;
    let now = crate::facts::now()?;
    let store = match NodeStore::open_read_only(&call.context.state_dir)? {
        Some(store) => Some(store),
        None => {
            notes.push("this node has no ledger yet; the plan is made against an empty one".to_owned());
            None
        }
    };
    let request = decide::request(call, store.as_ref(), now)?;
    let decided = decide::decide(call, &policy, store.as_ref(), request)?;
    let first = decided.wants.iter().filter_map(|want| {
        want.candidates.first().map(|(address, _)| Given { address: *address, gateway: want.gateway })
    });
    let addressing =
        Addressing { ips: first.collect(), routes: decided.routes.clone(), dns: decided.dns.clone(), unique: true };
    let plan = stage.plan(call, Some(&addressing))?;
    Ok(Preview { plan, choice: None, trace: Some(decided.into_trace()), notes })
}

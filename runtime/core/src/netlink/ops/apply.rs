//! Applies a plan: its ops in order, then deferred work.

use std::collections::BTreeMap;

use super::{Session, operation};
use crate::netlink::error::{ApplyError, NetlinkError};
use crate::netlink::fault::Doing;
use crate::netlink::presence::Presence;
use crate::netlink::rtnl::Lookup;
use crate::netlink::{Applied, Executor, survey};
use crate::plan::{LinkInfo, LinkRef, Op, Plan, Side};

impl Executor {
    /// Applies a plan.
    ///
    /// # Errors
    /// The failed op with its cause. Everything before it has been undone; the error lists what could not be.
    pub fn apply(&mut self, plan: &Plan) -> Result<Applied, ApplyError> {
        let mut applied = Applied::default();
        match self.extend(&mut applied, plan) {
            Ok(()) => Ok(applied),
            Err(error) => Err(ApplyError { leftovers: self.undo(applied), ..error }),
        }
    }

    /// Applies additional ops, for a plan whose addresses are only known through its link.
    ///
    /// # Errors
    /// The failed op with its cause. Nothing is undone: `applied` contains what there is to undo.
    pub fn extend(&mut self, applied: &mut Applied, plan: &Plan) -> Result<(), ApplyError> {
        if self.presence.is_none() {
            self.presence = Presence::enter();
        }
        let mut session = Session {
            executor: self,
            plan,
            at: 0,
            links: std::mem::take(&mut applied.known),
            made: std::mem::take(&mut applied.made),
            pins: Vec::new(),
            settled: BTreeMap::new(),
            filtered: false,
            log: std::mem::take(&mut applied.log),
        };
        let outcome = session.run();
        (applied.known, applied.made, applied.log) = (session.links, session.made, session.log);
        match outcome {
            Ok(links) => {
                applied.links = links;
                Ok(())
            }
            Err((at, cause)) => {
                let op = plan.ops.get(at).map_or_else(|| "read the links of the result".to_owned(), Op::to_string);
                Err(ApplyError { at, op: op.into(), cause, leftovers: Vec::new() })
            }
        }
    }
}

impl Session<'_> {
    /// Runs all ops, then deferred work. An error comes with the index of its op.
    fn run(&mut self) -> Result<BTreeMap<LinkRef, LinkInfo>, (usize, NetlinkError)> {
        let plan = self.plan;
        let mut at = 0;
        while let Some(op) = plan.ops.get(at) {
            let jobs = self.container_sysctls(at);
            if jobs.is_empty() {
                self.at = at;
                self.apply(op).map_err(|error| (at, error))?;
                at += 1;
            } else {
                let count = jobs.len();
                self.run_in_container(at, jobs)?;
                at += count;
            }
        }
        self.label();
        let links = self.result_links().map_err(|error| (plan.ops.len(), error))?;
        self.pin_macs(links)
    }

    /// Labels the links that the plan made, each with one message.
    fn label(&self) {
        let Some(label) = &self.plan.label else { return };
        let ours = self.plan.ops.iter().filter_map(survey::labelled).filter(|link| self.made.contains(link));
        for link in ours {
            if let (Some(found), Ok(rtnl)) = (self.links.get(&link), self.rtnl(&link)) {
                rtnl.label(found.index, label);
                if link.side == Side::Container && found.other_netns.is_none() {
                    rtnl.note_host();
                }
            }
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), NetlinkError> {
        let operation = operation(op);
        if operation.changes_links() {
            self.settled.clear();
        }
        operation.apply(self)
    }

    /// Reads the links of the result.
    fn result_links(&mut self) -> Result<BTreeMap<LinkRef, LinkInfo>, NetlinkError> {
        let shape = &self.plan.result;
        let mut found = BTreeMap::new();
        if shape.unmanaged {
            return Ok(found);
        }
        for (at, link) in shape.interfaces.iter().enumerate() {
            let index = self.index(link)?;
            let rtnl = self.rtnl(link)?;
            let doing = || format!("failed to lookup {link}");
            let read = match self.settled.get(link) {
                Some(settled) => Some(settled.clone()),
                None => rtnl.link(Lookup::Index(index)).doing(doing)?,
            };
            let read = read.ok_or_else(|| NetlinkError::NoLink { link: link.clone() })?;
            let addresses = if shape.observed_addresses && at == 0 {
                rtnl.addresses(index, None).doing(doing)?.into_iter().map(|address| address.net).collect()
            } else {
                Vec::new()
            };
            found.insert(link.clone(), read.info(addresses));
        }
        Ok(found)
    }
}

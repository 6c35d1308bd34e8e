//! Sysctls: single ones on either side, IPv6 for a container link, forwarding for the host.

use std::fs;

use super::{Operation, Session};
use crate::netlink::check::{Difference, LaterChanges, StepDifference};
use crate::netlink::error::NetlinkError;
use crate::netlink::inverse::Inverse;
use crate::netlink::sysctl::{Confs, SysctlNamespace};
use crate::netlink::{Executor, sysctl};
use crate::plan::{Family, LinkRef, Op, Side, TuneSysctl};

/// A write to either side.
#[derive(Debug)]
pub(super) enum Job {
    /// One key.
    Write { key: String, value: String, required: bool, remember: bool },
    /// One key from a configuration, which may be write-only or have side effects.
    Tune { key: String, value: String, remember: bool },
    /// IPv6 for a link.
    Ipv6 { link: String, remember: bool },
}

/// Keys with their previous values.
type Old = Vec<(String, String)>;

/// A sysctl, or those that IPv6 on a link needs. Those of the container are normally executed in runs
/// (`container_sysctls`); one that gets here is on its own.
pub(super) struct Write<'a>(pub(super) &'a Op);

/// Forwarding is on for the host.
pub(super) struct Forwarding(pub(super) Family);

impl Operation for Write<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        match self.0 {
            Op::Sysctl { side: Side::Host, .. } => session.host_sysctl(self.0),
            op => Err(NetlinkError::NoContainer { op: op.to_string() }),
        }
    }
}

impl Operation for TuneSysctl {
    fn apply(&self, _session: &mut Session<'_>) -> Result<(), NetlinkError> {
        Err(NetlinkError::NoContainer { op: self.to_string() })
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        found.extend(executor.check_sysctl(self)?.map(Difference::Step));
        Ok(())
    }
}

impl Operation for Forwarding {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.forwarding(self.0)
    }

    fn check(
        &self,
        _executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        check_forwarding(self.0, found)
    }
}

impl Session<'_> {
    /// Returns the run of consecutive container sysctls at `at`, so that one visit to the container executes all of
    /// them.
    pub(super) fn container_sysctls(&self, at: usize) -> Vec<Job> {
        if self.executor.container.is_none() {
            return Vec::new();
        }
        let run = self.plan.ops.iter().skip(at).map_while(|op| match op {
            Op::Sysctl { side: Side::Container, .. } | Op::EnableIpv6 { .. } | Op::TuneSysctl(_) => self.job(op),
            _ => None,
        });
        run.collect()
    }

    /// Runs the jobs of the ops from `at` on.
    pub(super) fn run_in_container(&mut self, at: usize, jobs: Vec<Job>) -> Result<(), (usize, NetlinkError)> {
        let Some(container) = &self.executor.container else { return Ok(()) };
        let (old, failed) = if jobs.iter().all(Job::is_of_a_link) {
            run_all(&jobs, SysctlNamespace::Other(&container.confs))
        } else {
            container.netns.run_inside(move || run_all(&jobs, SysctlNamespace::Own)).map_err(|error| (at, error))?
        };
        self.remember(Side::Container, old);
        failed.map_or(Ok(()), |(job, error)| Err((at + job, error)))
    }

    pub(super) fn host_sysctl(&mut self, op: &Op) -> Result<(), NetlinkError> {
        if let Op::Sysctl { side: Side::Container, .. } = op {
            return Err(NetlinkError::NoContainer { op: op.to_string() });
        }
        let Some(job) = self.job(op) else { return Ok(()) };
        let mut old = Vec::new();
        let outcome = job.run(SysctlNamespace::Own, &mut old);
        self.remember(Side::Host, old);
        outcome
    }

    pub(super) fn forwarding(&mut self, family: Family) -> Result<(), NetlinkError> {
        let (switch, tree) = match family {
            Family::V4 => ("ipv4/ip_forward", "ipv4/conf"),
            Family::V6 => ("ipv6/conf/all/forwarding", "ipv6/conf"),
        };
        if sysctl::read(switch)?.as_deref() == Some("1") {
            return Ok(());
        }
        let unless = self.executor.newcomers(None)?;
        let old = forwarding_state(switch, tree)?;
        sysctl::write(switch, "1")?;
        self.log_shared("restore forwarding", restore_sysctls(Side::Host, old), unless);
        Ok(())
    }

    fn job(&self, op: &Op) -> Option<Job> {
        match op {
            Op::Sysctl { side, key, value, required } => {
                let remember = !self.goes_with_link(*side, key);
                Some(Job::Write { key: key.clone(), value: value.clone(), required: *required, remember })
            }
            Op::TuneSysctl(tune) => {
                let remember = !self.goes_with_link(Side::Container, &tune.key);
                Some(Job::Tune { key: tune.key.clone(), value: tune.value.clone(), remember })
            }
            Op::EnableIpv6 { link } => {
                let made = self.is_made(&LinkRef::container(link.as_str()));
                Some(Job::Ipv6 { link: link.clone(), remember: !made })
            }
            _ => None,
        }
    }

    /// Returns whether a key belongs to a link that the plan made, with which it disappears.
    fn goes_with_link(&self, side: Side, key: &str) -> bool {
        link_of(key).is_some_and(|name| self.is_made(&LinkRef { side, name: name.to_owned() }))
    }

    fn remember(&mut self, side: Side, mut old: Old) {
        if !old.is_empty() {
            // Restore in reverse order.
            old.reverse();
            self.log("restore sysctls", restore_sysctls(side, old));
        }
    }
}

// === impl Job ===

/// Runs jobs up to the first failure, and returns the index of the failed one.
fn run_all(jobs: &[Job], of: SysctlNamespace<'_>) -> (Old, Option<(usize, NetlinkError)>) {
    let mut old = Vec::new();
    let failed = jobs.iter().enumerate().find_map(|(at, job)| Some((at, job.run(of, &mut old).err()?)));
    (old, failed)
}

impl Job {
    /// Returns whether it only needs keys of links.
    fn is_of_a_link(&self) -> bool {
        match self {
            Self::Write { key, .. } | Self::Tune { key, .. } => Confs::is_link_key(key),
            Self::Ipv6 { .. } => true,
        }
    }

    /// Adds the values to restore to `old`, even those of a failed job.
    fn run(&self, of: SysctlNamespace<'_>, old: &mut Old) -> Result<(), NetlinkError> {
        match self {
            Self::Write { key, value, required, remember } => {
                let outcome = write(of, (key, value), *remember, old);
                if *required { outcome } else { outcome.or(Ok(())) }
            }
            Self::Tune { key, value, remember } => tune(of, (key, value), *remember, old),
            Self::Ipv6 { link, remember } => enable_ipv6(of, link, *remember, old),
        }
    }
}

/// Writes a key that has another value.
fn write(
    of: SysctlNamespace<'_>,
    (key, value): (&str, &str),
    remember: bool,
    old: &mut Old,
) -> Result<(), NetlinkError> {
    if !remember {
        return of.write(key, value);
    }
    match of.read(key)? {
        Some(now) if now == value => Ok(()),
        now => {
            of.write(key, value)?;
            old.extend(now.map(|now| (key.to_owned(), now)));
            Ok(())
        }
    }
}

/// Writes a key whatever its value.
fn tune(
    of: SysctlNamespace<'_>,
    (key, value): (&str, &str),
    remember: bool,
    old: &mut Old,
) -> Result<(), NetlinkError> {
    let now = match of.read(key) {
        Ok(now) => now,
        Err(error) if sysctl::is_forbidden(&error) => None,
        Err(error) => return Err(error),
    };
    of.write(key, value)?;
    old.extend(now.filter(|now| remember && now != value).map(|now| (key.to_owned(), now)));
    Ok(())
}

/// Does what the reference plugins do before a link gets its first IPv6 address.
fn enable_ipv6(of: SysctlNamespace<'_>, link: &str, remember: bool, old: &mut Old) -> Result<(), NetlinkError> {
    for name in ["lo", link] {
        let key = format!("ipv6/conf/{name}/disable_ipv6");
        // If it cannot be read, the kernel has no IPv6: adding the address will fail accordingly.
        match of.read(&key) {
            Ok(Some(value)) if value != "0" => {
                of.write(&key, "0")?;
                if remember || name == "lo" {
                    old.push((key, value));
                }
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Ok(()),
        }
    }
    write(of, (&format!("ipv6/conf/{link}/keep_addr_on_down"), "1"), remember, old)
}

/// Returns the link in a key such as `ipv4/conf/eth0/arp_notify`.
fn link_of(key: &str) -> Option<&str> {
    let mut parts = key.split('/');
    let (_family, tree, link) = (parts.next()?, parts.next()?, parts.next()?);
    matches!(tree, "conf" | "neigh").then_some(link)
}

/// Returns everything that enabling forwarding changes: the kernel copies the setting to every link, and for IPv4
/// disables `accept_redirects`. (For IPv6 it also drops default routes learnt from routers; those return with the next
/// advertisement.)
fn forwarding_state(switch: &str, tree: &str) -> Result<Old, NetlinkError> {
    // Restore the switch first: writing it overwrites the individual keys.
    let mut keys = vec![switch.to_owned()];
    if tree == "ipv4/conf" {
        keys.push(format!("{tree}/all/accept_redirects"));
    }
    let listed = fs::read_dir(format!("/proc/sys/net/{tree}"));
    let listed = listed.map_err(|io| NetlinkError::File { doing: format!("open /proc/sys/net/{tree}"), io })?;
    let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    keys.extend(names.filter(|name| name != "all").map(|name| format!("{tree}/{name}/forwarding")));
    let mut old = Vec::with_capacity(keys.len());
    for key in keys {
        // A link may disappear while this runs.
        if let Some(value) = sysctl::read(&key)? {
            old.push((key, value));
        }
    }
    Ok(old)
}

impl Executor {
    /// Compares a value of several numbers by its numbers: if written with spaces, it is read with tabs.
    fn check_sysctl(&self, tune: &TuneSysctl) -> Result<Option<StepDifference>, NetlinkError> {
        let Some(container) = &self.container else {
            return Err(NetlinkError::NoContainer { op: tune.to_string() });
        };
        let key = tune.key.clone();
        let now = match container.netns.run_inside(move || sysctl::read(&key))? {
            // A write-only key keeps no value.
            Err(error) if sysctl::is_forbidden(&error) => return Ok(None),
            other => other?,
        };
        let same = |now: &str| now.split_whitespace().eq(tune.value.split_whitespace());
        Ok(match now {
            Some(now) if same(&now) => None,
            now => Some(StepDifference::Sysctl { key: tune.key.clone(), want: tune.value.clone(), have: now }),
        })
    }
}

impl Executor {
    pub(in crate::netlink) fn write_back(&self, side: Side, old: Vec<(String, String)>) -> Result<(), NetlinkError> {
        let of_links = old.iter().all(|(key, _value)| Confs::is_link_key(key));
        let write = move |of: SysctlNamespace<'_>| {
            let mut first = Ok(());
            for (key, value) in old {
                match of.write(&key, &value) {
                    Err(error) if !error.is_not_found() => first = first.and(Err(error)),
                    _ => {}
                }
            }
            first
        };
        match (side, &self.container) {
            (Side::Host, _) => write(SysctlNamespace::Own),
            (Side::Container, Some(container)) if of_links => write(SysctlNamespace::Other(&container.confs)),
            (Side::Container, Some(container)) => container.netns.run_inside(move || write(SysctlNamespace::Own))?,
            (Side::Container, None) => Ok(()),
        }
    }
}

/// Returns the inverse that restores old values, in order.
pub(super) fn restore_sysctls(side: Side, old: Old) -> Inverse {
    Inverse::from_action(move |executor| executor.write_back(side, old))
}

fn check_forwarding(family: Family, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
    let key = match family {
        Family::V4 => "ipv4/ip_forward",
        Family::V6 => "ipv6/conf/all/forwarding",
    };
    if sysctl::read(key)?.as_deref() != Some("1") {
        found.push(Difference::Forwarding { family });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::link_of;

    #[test]
    fn links_of_keys() {
        assert_eq!(link_of("ipv4/conf/eth0/arp_notify"), Some("eth0"));
        assert_eq!(link_of("ipv6/neigh/eth0.7/gc_stale_time"), Some("eth0.7"));
        assert_eq!(link_of("ipv4/ip_forward"), None);
        assert_eq!(link_of("ipv4/route/eth0/x"), None);
    }
}

//! What a process gives up before it handles an untrusted component: capabilities, its user, files, the network, and
//! all but a few system calls. A worker does this once, at its very start, and cannot undo any of it.
//!
//! Invariants: without the system call filter there is no worker (an error). A kernel without Landlock uses only that
//! filter, which also prevents opening files. A forbidden call fails with `ENOSYS`, so that a library uses its
//! alternative.

use std::collections::BTreeMap;

use caps::CapSet;
use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, getpid, getppid, setgroups, setresgid, setresuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::Cause;

/// The user of a worker: it needs no file and no privilege.
const NOBODY: u32 = 65534;

/// The newest Landlock version whose rights are named here. An older kernel enforces those that it knows.
const LANDLOCK: ABI = ABI::V6;

/// The task of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Calls a policy that is already loaded.
    Run,
    /// Compiles a component; the compiler has threads.
    #[cfg(feature = "compile")]
    Compile,
}

/// System calls of every worker: memory, open descriptors, time, and exit.
const COMMON: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Additional system calls for threads.
#[cfg(feature = "compile")]
const THREADS: &[libc::c_long] =
    &[libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_getaffinity, libc::SYS_clock_nanosleep];

/// Gives up everything that `work` does not need. `parent` is the supervising process: this process ends with it.
///
/// # Errors
///
/// Which part could not be given up. The process must not continue then.
pub(super) fn confine(work: Work, parent: Pid) -> Result<(), Cause> {
    let cannot = |what: &'static str| move |errno: Errno| Cause(format!("cannot {what}: {errno}"));
    let filter = filter(work)?;
    for resource in [Resource::RLIMIT_CORE, Resource::RLIMIT_FSIZE] {
        setrlimit(resource, 0, 0).map_err(cannot("set a limit"))?;
    }
    prctl::set_no_new_privs().map_err(cannot("set no_new_privs"))?;
    give_up_rights()?;
    // A change of user clears this setting, so set it afterwards; and the parent may have died before.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(cannot("ask for the end with the parent"))?;
    if getppid() != parent {
        return Err(Cause("its parent has ended".to_owned()));
    }
    give_up_files()?;
    seccompiler::apply_filter(&filter).map_err(|error| Cause(format!("cannot filter system calls: {error}")))
}

/// Becomes nobody, without capabilities.
fn give_up_rights() -> Result<(), Cause> {
    if Uid::effective().is_root() {
        // A process that may not change this set cannot use it either: no_new_privs is set.
        caps::clear(None, CapSet::Bounding).ok();
        // In a user namespace without such a user, it remains root of that namespace, without capabilities.
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setgroups(&[]).and_then(|()| setresgid(group, group, group)).and_then(|()| setresuid(user, user, user)).ok();
    }
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(|error| Cause(format!("cannot give up capabilities: {error}")))?;
    }
    Ok(())
}

/// Gives up all files, the network, and signals to other processes.
fn give_up_files() -> Result<(), Cause> {
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let restricted = rules
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    restricted.map(drop).map_err(|error| Cause(format!("cannot give up files: {error}")))
}

/// Builds the system call filter.
fn filter(work: Work) -> Result<BpfProgram, Cause> {
    let cannot = |error: seccompiler::BackendError| Cause(format!("cannot make a filter of system calls: {error}"));
    let when = |argument: u8, op: SeccompCmpOp, value: i32| {
        // None of the values is negative.
        let value = u64::from(value.unsigned_abs());
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value).map_err(cannot)?;
        SeccompRule::new(vec![condition]).map(|rule| vec![rule]).map_err(cannot)
    };
    let own = getpid().as_raw();
    let masked = |flag: i32| SeccompCmpOp::MaskedEq(u64::from(flag.unsigned_abs()));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = COMMON.iter().map(|call| (*call, Vec::new())).collect();
    // Forbid new executable mappings.
    rules.insert(libc::SYS_mmap, when(2, masked(libc::PROT_EXEC), 0)?);
    rules.insert(libc::SYS_mprotect, when(2, masked(libc::PROT_EXEC), 0)?);
    // A process uses this to abort itself.
    rules.insert(libc::SYS_tgkill, when(0, SeccompCmpOp::Eq, own)?);
    rules.insert(libc::SYS_tkill, when(0, SeccompCmpOp::Eq, own)?);
    match work {
        Work::Run => {}
        #[cfg(feature = "compile")]
        Work::Compile => {
            rules.extend(THREADS.iter().map(|call| (*call, Vec::new())));
            // Allow threads, but no processes. Filters cannot see the flags of the newer call; without it, the C
            // library uses this one.
            rules.insert(libc::SYS_clone, when(0, masked(libc::CLONE_THREAD), libc::CLONE_THREAD)?);
            rules.insert(libc::SYS_prctl, when(0, SeccompCmpOp::Eq, libc::PR_SET_NAME)?);
        }
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(cannot)?;
    let refused = SeccompAction::Errno(u32::from(u16::try_from(libc::ENOSYS).unwrap_or(1)));
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, arch).map_err(cannot)?;
    BpfProgram::try_from(filter).map_err(cannot)
}

#[cfg(test)]
mod tests;

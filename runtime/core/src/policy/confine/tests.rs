//! What a confined process can still do: each attempt runs inside such a process, which reports the outcome itself.
//!
//! The attempts are system calls with arguments that would work outside, or at least reach the kernel's own checks. The
//! filter returns `ENOSYS`, which none of these calls returns by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code, reason = "tests")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::{Command, Stdio};

use nix::libc::{self, c_long};
use nix::unistd::{Pid, getpid, getppid};

use super::*;

/// Set in the process that is to be confined, to its kind of confinement.
const PROBE: &str = "WEFT_TEST_CONFINE";

/// A path that exists everywhere.
const FILE: &std::ffi::CStr = c"/etc/passwd";
/// A file that would be made here.
const NEW: &std::ffi::CStr = c"weft-confined-file";

/// Returns the error number of a call, or 0.
fn errno(returned: c_long) -> i32 {
    if returned == -1 { Errno::last_raw() } else { 0 }
}

/// Makes a system call with up to six arguments.
fn call(number: c_long, arguments: [usize; 6]) -> i32 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: this test is about these calls. All pointers are to constants or null, and the process ends afterwards.
    errno(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

fn number(value: i32) -> usize {
    usize::try_from(value as u32).unwrap()
}

/// Makes all attempts, by name.
#[allow(clippy::too_many_lines, reason = "one line for each system call")]
fn attempts(file: &File) -> Vec<(&'static str, i32)> {
    let (at, open, new) = (number(libc::AT_FDCWD), FILE.as_ptr() as usize, NEW.as_ptr() as usize);
    let fd = number(file.as_raw_fd());
    let parent = number(getppid().as_raw());
    let own = number(getpid().as_raw());
    let mut address = [0_u8; 110];
    address[0] = 1;
    address[2..12].copy_from_slice(b"/dev/null\0");
    let rwx = number(libc::PROT_READ | libc::PROT_EXEC);
    let private = number(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let mut page = vec![0_u8; 8192];
    let aligned = page.as_mut_ptr() as usize & !4095;
    let argv = [FILE.as_ptr() as usize, 0];
    vec![
        ("openat", call(libc::SYS_openat, [at, open, 0, 0, 0, 0])),
        ("openat for writing", call(libc::SYS_openat, [at, new, number(libc::O_CREAT | libc::O_WRONLY), 0o600, 0, 0])),
        ("openat2", call(libc::SYS_openat2, [at, open, [0_u64; 3].as_ptr() as usize, 24, 0, 0])),
        ("unlinkat", call(libc::SYS_unlinkat, [at, new, 0, 0, 0, 0])),
        ("mkdirat", call(libc::SYS_mkdirat, [at, new, 0o700, 0, 0, 0])),
        ("renameat2", call(libc::SYS_renameat2, [at, new, at, new, 0, 0])),
        ("fchmod", call(libc::SYS_fchmod, [fd, 0o644, 0, 0, 0, 0])),
        ("fchown", call(libc::SYS_fchown, [fd, 0, 0, 0, 0, 0])),
        ("statx", call(libc::SYS_statx, [at, open, 0, 0, page.as_mut_ptr() as usize, 0])),
        ("memfd_create", call(libc::SYS_memfd_create, [open, 0, 0, 0, 0, 0])),
        ("ioctl", call(libc::SYS_ioctl, [fd, number(libc::FIONREAD as i32), page.as_mut_ptr() as usize, 0, 0, 0])),
        ("fcntl", call(libc::SYS_fcntl, [fd, number(libc::F_GETFD), 0, 0, 0, 0])),
        ("dup", call(libc::SYS_dup, [fd, 0, 0, 0, 0, 0])),
        ("socket inet", call(libc::SYS_socket, [number(libc::AF_INET), number(libc::SOCK_STREAM), 0, 0, 0, 0])),
        ("socket netlink", call(libc::SYS_socket, [number(libc::AF_NETLINK), number(libc::SOCK_RAW), 0, 0, 0, 0])),
        ("socket unix", call(libc::SYS_socket, [number(libc::AF_UNIX), number(libc::SOCK_STREAM), 0, 0, 0, 0])),
        ("connect", call(libc::SYS_connect, [fd, address.as_ptr() as usize, 110, 0, 0, 0])),
        ("sendmsg", call(libc::SYS_sendmsg, [fd, page.as_mut_ptr() as usize, 0, 0, 0, 0])),
        ("recvmsg", call(libc::SYS_recvmsg, [fd, page.as_mut_ptr() as usize, 0, 0, 0, 0])),
        ("execve", call(libc::SYS_execve, [open, argv.as_ptr() as usize, 0, 0, 0, 0])),
        ("execveat", call(libc::SYS_execveat, [at, open, argv.as_ptr() as usize, 0, 0, 0])),
        ("clone of the process", call(libc::SYS_clone, [number(libc::SIGCHLD), 0, 0, 0, 0, 0])),
        ("clone3", call(libc::SYS_clone3, [page.as_mut_ptr() as usize, 64, 0, 0, 0, 0])),
        ("unshare", call(libc::SYS_unshare, [number(libc::CLONE_NEWNS), 0, 0, 0, 0, 0])),
        ("setns", call(libc::SYS_setns, [fd, 0, 0, 0, 0, 0])),
        ("mount", call(libc::SYS_mount, [open, open, 0, 0, 0, 0])),
        ("umount2", call(libc::SYS_umount2, [open, 0, 0, 0, 0, 0])),
        ("pivot_root", call(libc::SYS_pivot_root, [open, open, 0, 0, 0, 0])),
        ("chroot", call(libc::SYS_chroot, [open, 0, 0, 0, 0, 0])),
        ("setresuid", call(libc::SYS_setresuid, [0, 0, 0, 0, 0, 0])),
        ("setgroups", call(libc::SYS_setgroups, [0, 0, 0, 0, 0, 0])),
        ("capset", call(libc::SYS_capset, [page.as_mut_ptr() as usize, 0, 0, 0, 0, 0])),
        ("prctl", call(libc::SYS_prctl, [number(libc::PR_SET_DUMPABLE), 1, 0, 0, 0, 0])),
        ("seccomp", call(libc::SYS_seccomp, [0, 0, 0, 0, 0, 0])),
        ("setrlimit", call(libc::SYS_prlimit64, [0, 0, 0, page.as_mut_ptr() as usize, 0, 0])),
        ("ptrace", call(libc::SYS_ptrace, [number(libc::PTRACE_ATTACH as i32), parent, 0, 0, 0, 0])),
        ("process_vm_readv", call(libc::SYS_process_vm_readv, [parent, 0, 0, 0, 0, 0])),
        ("process_vm_writev", call(libc::SYS_process_vm_writev, [parent, 0, 0, 0, 0, 0])),
        ("kill", call(libc::SYS_kill, [parent, 0, 0, 0, 0, 0])),
        ("tgkill of the parent", call(libc::SYS_tgkill, [parent, parent, 0, 0, 0, 0])),
        ("tkill of the parent", call(libc::SYS_tkill, [parent, 0, 0, 0, 0, 0])),
        ("kill of itself", call(libc::SYS_kill, [own, 0, 0, 0, 0, 0])),
        ("pidfd_open", call(libc::SYS_pidfd_open, [parent, 0, 0, 0, 0, 0])),
        ("new code", call(libc::SYS_mmap, [0, 4096, rwx, private, usize::MAX, 0])),
        ("code of data", call(libc::SYS_mprotect, [aligned, 4096, rwx, 0, 0, 0])),
        ("pkey_mprotect", call(libc::SYS_pkey_mprotect, [aligned, 4096, rwx, usize::MAX, 0, 0])),
        ("bpf", call(libc::SYS_bpf, [0, page.as_mut_ptr() as usize, 64, 0, 0, 0])),
        ("perf_event_open", call(libc::SYS_perf_event_open, [page.as_mut_ptr() as usize, 0, 0, 0, 0, 0])),
        ("io_uring_setup", call(libc::SYS_io_uring_setup, [1, page.as_mut_ptr() as usize, 0, 0, 0, 0])),
        ("userfaultfd", call(libc::SYS_userfaultfd, [0, 0, 0, 0, 0, 0])),
        ("keyctl", call(libc::SYS_keyctl, [0, 0, 0, 0, 0, 0])),
        ("add_key", call(libc::SYS_add_key, [open, open, 0, 0, 0, 0])),
        ("finit_module", call(libc::SYS_finit_module, [fd, open, 0, 0, 0, 0])),
        ("kexec_load", call(libc::SYS_kexec_load, [0, 0, 0, 0, 0, 0])),
        ("reboot", call(libc::SYS_reboot, [0, 0, 0, 0, 0, 0])),
        ("sethostname", call(libc::SYS_sethostname, [open, 1, 0, 0, 0, 0])),
        ("settimeofday", call(libc::SYS_settimeofday, [0, 0, 0, 0, 0, 0])),
        ("personality", call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0])),
        ("shmget", call(libc::SYS_shmget, [0, 4096, 0o1600, 0, 0, 0])),
        ("landlock_create_ruleset", call(libc::SYS_landlock_create_ruleset, [0, 0, 1, 0, 0, 0])),
        ("sched_setaffinity", call(libc::SYS_sched_setaffinity, [0, 8, page.as_mut_ptr() as usize, 0, 0, 0])),
    ]
}

/// Not a test: the body of the process that the tests below start.
#[test]
#[ignore = "started by the tests of this module"]
fn probe() {
    let Ok(how) = std::env::var(PROBE) else { return };
    let mut status = File::open("/proc/thread-self/status").unwrap();
    // SAFETY: nobody else uses stdout here; the process ends with this function.
    let mut report = unsafe { File::from_raw_fd(1) };
    let parent = getppid();
    let lines = match how.as_str() {
        "run" => {
            confine(Work::Run, parent).unwrap();
            attempts(&status)
        }
        #[cfg(feature = "compile")]
        "compile" => {
            confine(Work::Compile, parent).unwrap();
            attempts(&status)
        }
        "files" => {
            give_up_rights().unwrap();
            give_up_files().unwrap();
            let open = |path| File::open(path).map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_file| 0);
            let connect = std::net::TcpStream::connect("127.0.0.1:1");
            vec![
                ("open of a file", open("/etc/passwd")),
                ("open of a directory", open("/")),
                ("connect", connect.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_connected| 0)),
                ("kill of the parent", call(libc::SYS_kill, [number(parent.as_raw()), 0, 0, 0, 0, 0])),
            ]
        }
        "orphan" => vec![("confine", i32::from(confine(Work::Run, Pid::from_raw(1)).is_ok()))],
        other => panic!("{other}"),
    };
    // The harness's output has no newline yet.
    let mut text = "\n".to_owned();
    for (name, errno) in lines {
        text.push_str(&format!("attempt {name}={errno}\n"));
    }
    status.read_to_string(&mut text).unwrap();
    report.write_all(text.as_bytes()).unwrap();
    // SAFETY: takes a number. The test harness's exit code is forbidden by now.
    unsafe { libc::_exit(0) }
}

/// Returns the report of a process confined in this way: its attempts, and its state according to the kernel.
fn confined(how: &str) -> (BTreeMap<String, i32>, BTreeMap<String, String>) {
    let mut probe = Command::new(std::env::current_exe().unwrap());
    probe.args(["--exact", "policy::confine::tests::probe", "--ignored", "--nocapture", "--test-threads=1"]);
    let output = probe.env(PROBE, how).stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{:?}: {text}", output.status);
    let attempts = text.lines().filter_map(|line| line.strip_prefix("attempt ")?.split_once('='));
    let account = text.lines().filter_map(|line| line.split_once(":\t"));
    (
        attempts.map(|(name, errno)| (name.to_owned(), errno.parse().unwrap())).collect(),
        account.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    )
}

fn nothing_works(how: &str) {
    let (attempts, account) = confined(how);
    assert!(attempts.len() > 50, "{attempts:?}");
    let others: Vec<_> = attempts.iter().filter(|(_name, errno)| **errno != libc::ENOSYS).collect();
    assert!(others.is_empty(), "{others:?}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(account[set], "0000000000000000", "{set}");
    }
    assert_eq!((account["NoNewPrivs"].as_str(), account["Seccomp"].as_str()), ("1", "2"));
    if Uid::effective().is_root()
        && std::fs::read_to_string("/proc/self/uid_map").unwrap().trim_end().ends_with("4294967295")
    {
        assert_eq!(account["Uid"], "65534\t65534\t65534\t65534");
        assert_eq!(account["Gid"], "65534\t65534\t65534\t65534");
        assert_eq!(account["CapBnd"], "0000000000000000");
    }
}

#[test]
fn a_worker_that_runs_a_policy_can_do_nothing_else() {
    nothing_works("run");
}

#[cfg(feature = "compile")]
#[test]
fn a_compiler_can_do_nothing_else() {
    nothing_works("compile");
}

/// The second barrier, without the first.
#[test]
fn files_the_network_and_other_processes_are_out_of_reach_without_the_filter() {
    // With this flag, the call returns the version.
    if call(libc::SYS_landlock_create_ruleset, [0, 0, 1, 0, 0, 0]) != 0 {
        return;
    }
    let (attempts, _account) = confined("files");
    assert_eq!(attempts["open of a file"], libc::EACCES);
    assert_eq!(attempts["open of a directory"], libc::EACCES);
    assert!([libc::EACCES, libc::ECONNREFUSED].contains(&attempts["connect"]), "{attempts:?}");
    assert_eq!(attempts["kill of the parent"], libc::EPERM);
}

#[test]
fn a_worker_without_its_parent_does_not_begin() {
    let (attempts, _account) = confined("orphan");
    assert_eq!(attempts["confine"], 0);
}

//! Tap devices, through `/dev/net/tun`: the kernel cannot make them over netlink.
//!
//! A device disappears with the file that made it, unless it was made persistent, so an incomplete device is never left
//! behind. The file belongs to the network namespace of the thread that opened it.

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, pipe2};

use super::error::NetlinkError;
use crate::plan::CreateTap;

const DEVICE: &CStr = c"/dev/net/tun";

/// `TUNSETIFF` and its kin (`linux/if_tun.h`): write an int to type `T`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb;
const TUNSETOWNER: libc::Ioctl = 0x4004_54cc;
const TUNSETGROUP: libc::Ioctl = 0x4004_54ce;
const TUNSETIFINDEX: libc::Ioctl = 0x4004_54da;

const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// An existing device of that name is an error; otherwise it would be opened.
const IFF_TUN_EXCL: u16 = 0x8000;

/// Length of `struct ifreq`, of which `TUNSETIFF` reads the name and the flags.
const REQUEST: usize = 40;
const NAME: usize = 16;

/// The thread's context, from which `SELinux` derives the label of devices that it makes. (The kernel states in
/// `selinux_tun_dev_create` that it uses the task's context, and not the one for new sockets.)
const CONTEXT: &CStr = c"/proc/thread-self/attr/current";

/// A device to be made, with everything prepared: nothing is allocated from here on.
#[derive(Debug)]
struct Blueprint {
    request: [u8; REQUEST],
    /// Its index; otherwise the kernel chooses one.
    index: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
}

/// The call that failed. The number is sent through a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Context = 1,
    Open,
    Make,
    Owner,
    Group,
    Persist,
}

type Outcome = Result<(), (Stage, Errno)>;

/// Makes the persistent device in the namespace of the calling thread.
pub(super) fn create(op: &CreateTap, index: Option<u32>) -> Result<(), NetlinkError> {
    let blueprint = Blueprint::new(op, index)?;
    let outcome = match &op.selinux_context {
        None => open().and_then(|file| blueprint.make(file.as_raw_fd())),
        Some(context) => create_in_selinux_context(context, &blueprint)?,
    };
    outcome.map_err(|(stage, errno)| stage.refused(op, errno))
}

fn open() -> Result<File, (Stage, Errno)> {
    let path = std::str::from_utf8(DEVICE.to_bytes()).unwrap_or_default();
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map_err(|error| (Stage::Open, error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))
}

/// Makes the device in another context. The threads of a process share their context, so this needs a process: a fork
/// of this one that executes no other program, makes the device and ends.
fn create_in_selinux_context(context: &str, blueprint: &Blueprint) -> Result<Outcome, NetlinkError> {
    if !selinux_is_on() {
        return Err(NetlinkError::NoSelinux { context: context.to_owned() });
    }
    let failed = |io: io::Error| NetlinkError::File { doing: "failed set socket label".to_owned(), io };
    let context = CString::new(context).map_err(|error| failed(error.into()))?;
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()))?;
    #[expect(unsafe_code, reason = "a child process without another program")]
    // SAFETY: the child is a copy of a process with threads, so it may only make calls that are safe in a signal
    // handler: open, write, ioctl, close and _exit. It allocates nothing and takes no lock: its data was prepared
    // before.
    let child = match unsafe { fork() }.map_err(|errno| failed(errno.into()))? {
        ForkResult::Child => be_child(&context, blueprint, writing.as_fd().as_raw_fd()),
        ForkResult::Parent { child } => child,
    };
    drop(writing);
    let mut answer = [0_u8; 2];
    let read = File::from(reading).read_exact(&mut answer);
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => break,
            Ok(_) => {}
        }
    }
    read.map_err(failed)?;
    let [stage, errno] = answer;
    Ok(match Stage::from_number(stage) {
        None => Ok(()),
        Some(stage) => Err((stage, Errno::from_raw(i32::from(errno)))),
    })
}

/// Runs in the child. Sends two bytes: the stage that failed, or 0, and the errno, which is at most 133.
fn be_child(context: &CStr, blueprint: &Blueprint, pipe: RawFd) -> ! {
    let outcome = enter(context).and_then(|()| {
        let fd = raw_open(DEVICE, libc::O_RDWR | libc::O_CLOEXEC).map_err(|errno| (Stage::Open, errno))?;
        blueprint.make(fd)
    });
    let answer = match outcome {
        Ok(()) => [0, 0],
        Err((stage, errno)) => [stage as u8, u8::try_from(errno as i32).unwrap_or(u8::MAX)],
    };
    #[expect(unsafe_code, reason = "the end of a forked child")]
    // SAFETY: `answer` is two bytes that live until the call returns; `_exit` ends the process without running anything of the
    // program whose copy it is.
    unsafe {
        libc::write(pipe, answer.as_ptr().cast(), answer.len());
        libc::_exit(0)
    }
}

/// Enters a context.
fn enter(context: &CStr) -> Outcome {
    let fd = raw_open(CONTEXT, libc::O_WRONLY | libc::O_CLOEXEC).map_err(|errno| (Stage::Context, errno))?;
    let bytes = context.to_bytes();
    #[expect(unsafe_code, reason = "a plain write in a forked child")]
    // SAFETY: the pointer and the length are those of a slice that lives until the call returns.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    if written < 0 { Err((Stage::Context, Errno::last())) } else { Ok(()) }
}

fn raw_open(path: &CStr, flags: libc::c_int) -> Result<RawFd, Errno> {
    #[expect(unsafe_code, reason = "a plain open in a forked child")]
    // SAFETY: the path ends with a zero and lives until the call returns.
    Errno::result(unsafe { libc::open(path.as_ptr(), flags) })
}

/// Returns whether `SELinux` is enabled in the kernel.
fn selinux_is_on() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.ends_with("\tselinuxfs")))
}

// === impl Blueprint ===

impl Blueprint {
    fn new(op: &CreateTap, index: Option<u32>) -> Result<Self, NetlinkError> {
        let name = op.name.as_bytes();
        let mut request = [0; REQUEST];
        match request.get_mut(..name.len()) {
            Some(room) if name.len() < NAME => room.copy_from_slice(name),
            _ => return Err(Stage::Make.refused(op, Errno::ENAMETOOLONG)),
        }
        if let Some([low, high]) = request.get_mut(NAME..NAME + 2) {
            [*low, *high] = flags(op).to_ne_bytes();
        }
        Ok(Self { request, index, owner: op.owner, group: op.group })
    }

    /// Makes the device of this open file, and makes it persistent.
    fn make(&self, fd: RawFd) -> Outcome {
        if let Some(index) = self.index {
            #[expect(unsafe_code, reason = "TUNSETIFINDEX has no safe wrapper")]
            // SAFETY: it reads an `unsigned int` at the pointer, which is a local that lives until the call returns.
            let chosen = Errno::result(unsafe { libc::ioctl(fd, TUNSETIFINDEX, &raw const index) });
            chosen.map_err(|errno| (Stage::Make, errno))?;
        }
        let mut request = self.request;
        #[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
        // SAFETY: TUNSETIFF reads and writes a `struct ifreq` at the pointer, which has the length of one; the copy lives until
        // the call returns.
        let made = Errno::result(unsafe { libc::ioctl(fd, TUNSETIFF, request.as_mut_ptr()) });
        made.map_err(|errno| (Stage::Make, errno))?;
        if let Some(owner) = self.owner {
            set(fd, TUNSETOWNER, owner).map_err(|errno| (Stage::Owner, errno))?;
        }
        if let Some(group) = self.group {
            set(fd, TUNSETGROUP, group).map_err(|errno| (Stage::Group, errno))?;
        }
        set(fd, TUNSETPERSIST, 1).map_err(|errno| (Stage::Persist, errno))
    }
}

fn set(fd: RawFd, request: libc::Ioctl, value: u32) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "these requests have no safe wrapper")]
    // SAFETY: they take a number, and touch no memory of ours.
    let outcome = unsafe { libc::ioctl(fd, request, libc::c_ulong::from(value)) };
    Errno::result(outcome).map(drop)
}

/// Returns the flags of the stock plugin, which uses `ip tuntap`, or its own code if owner and group are both given.
/// They are only initial values: a program that opens the device sets its own (except for the number of queues).
fn flags(op: &CreateTap) -> u16 {
    let own_way = op.owner.is_some() && op.group.is_some() && op.selinux_context.is_none();
    let queues = if op.multi_queue { IFF_MULTI_QUEUE | IFF_NO_PI } else { 0 };
    IFF_TAP | IFF_TUN_EXCL | queues | if own_way { IFF_VNET_HDR } else { IFF_NO_PI }
}

// === impl Stage ===

impl Stage {
    fn from_number(number: u8) -> Option<Self> {
        use Stage::{Context, Group, Make, Open, Owner, Persist};
        [Context, Open, Make, Owner, Group, Persist].into_iter().find(|stage| *stage as u8 == number)
    }

    fn refused(self, op: &CreateTap, errno: Errno) -> NetlinkError {
        let tap = format!("failed to create tap {:?}", op.name);
        // Here, EBUSY means that the device exists already.
        let errno = if (self, errno) == (Self::Make, Errno::EBUSY) { Errno::EEXIST } else { errno };
        let doing = match self {
            Self::Context => {
                let context = op.selinux_context.as_deref().unwrap_or_default();
                format!("failed set socket label: cannot make the tap device as {context:?}")
            }
            Self::Open => format!("{tap}: open /dev/net/tun"),
            Self::Make => tap,
            Self::Owner => format!("{tap}: owner {}", op.owner.unwrap_or_default()),
            Self::Group => format!("{tap}: group {}", op.group.unwrap_or_default()),
            Self::Persist => format!("{tap}: make it persistent"),
        };
        NetlinkError::Refused { doing, errno, hint: None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn tap() -> CreateTap {
        CreateTap { name: "eth0".into(), ..CreateTap::default() }
    }

    #[test]
    fn flags_are_the_stock_plugins() {
        let both = CreateTap { owner: Some(0), group: Some(0), ..tap() };
        let many = |op: CreateTap| CreateTap { multi_queue: true, ..op };
        assert_eq!(flags(&tap()), IFF_TUN_EXCL | IFF_TAP | IFF_NO_PI);
        assert_eq!(flags(&CreateTap { owner: Some(7), ..tap() }), IFF_TUN_EXCL | IFF_TAP | IFF_NO_PI);
        assert_eq!(flags(&many(tap())), IFF_TUN_EXCL | IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE);
        assert_eq!(flags(&both), IFF_TUN_EXCL | IFF_TAP | IFF_VNET_HDR);
        let labelled = CreateTap { selinux_context: Some("a:b:c".into()), ..both.clone() };
        assert_eq!(flags(&labelled), IFF_TUN_EXCL | IFF_TAP | IFF_NO_PI);
        assert_eq!(flags(&many(both)), IFF_TUN_EXCL | IFF_TAP | IFF_VNET_HDR | IFF_NO_PI | IFF_MULTI_QUEUE);
    }

    #[test]
    fn a_request_has_the_name_and_the_flags() {
        let blueprint = Blueprint::new(&tap(), None).unwrap();
        assert_eq!(blueprint.request[..5], *b"eth0\0");
        assert_eq!(blueprint.request[16..18], flags(&tap()).to_ne_bytes());
        let long = CreateTap { name: "sixteen-letters-".into(), ..tap() };
        assert!(Blueprint::new(&long, None).is_err());
    }

    #[test]
    fn a_stage_survives_the_pipe() {
        use Stage::{Context, Group, Make, Open, Owner, Persist};
        for stage in [Context, Open, Make, Owner, Group, Persist] {
            assert_eq!(Stage::from_number(stage as u8), Some(stage));
        }
        assert_eq!(Stage::from_number(0), None);
    }

    /// The child's work except for the kernel's part: it reports why its context was refused.
    #[test]
    fn a_child_tells_what_failed() {
        let outcome = enter(c"no:such:context");
        assert!(matches!(outcome, Err((Stage::Context, _))), "{outcome:?}");
        let op = CreateTap { selinux_context: Some("a:b:c".into()), ..tap() };
        let text = create(&op, None).unwrap_err().to_string();
        assert_eq!(text.contains("SELinux is not enabled on this node"), !selinux_is_on(), "{text}");
    }
}

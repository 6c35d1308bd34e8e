//! One boot of the virtual machine.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::case::{Run, Subject, Task, Transcript};
use crate::image::Image;
use crate::kernel::{Kernel, contents};

/// Where things are inside.
pub const REFERENCE_DIR: &str = "/reference/bin";
/// weft under its names.
pub const WEFT_DIR: &str = "/weft/bin";
/// `weft-failing` under weft's names.
pub const FAILING_DIR: &str = "/weft/failing";
/// weft's state.
pub const STATE_DIR: &str = "/var/lib/weft";
/// The task, as JSON.
pub const TASK: &str = "/task.json";

/// Modules that every case needs. They are loaded before the first case, because nothing loads modules on demand
/// inside. Implicit dependencies come first: libcrc32c requests an algorithm by its name.
const MODULES: &[&str] = &[
    "crc32c_generic",
    "veth",
    "bridge",
    "8021q",
    "macvlan",
    "macvtap",
    "ipvlan",
    "ipvtap",
    "dummy",
    "vrf",
    "tun",
    "tap",
    "ifb",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nft_redir",
    "nft_reject_inet",
    "nft_limit",
    "nft_fib_inet",
    "nft_meta_bridge",
    "nft_reject_bridge",
    "nf_conntrack_bridge",
    "sch_tbf",
    "sch_ingress",
    "cls_u32",
    "act_mirred",
    "af_packet",
    "virtio_pci",
    "virtio_net",
];

/// Programs with which the cases observe, programs that the reference starts, and a DHCP server.
const PROGRAMS: &[&str] = &["ip", "bridge", "nft", "tc", "dnsmasq"];

/// How long a machine may show no progress. It shows some at least once per call of a plugin, so this is many times
/// what a call takes on a slow and busy machine; the total duration of the cases does not matter.
const PATIENCE: Duration = Duration::from_secs(240);

/// Binaries that go into the machine.
#[derive(Debug)]
pub struct Parts {
    /// The program that is the VM's init.
    pub init: PathBuf,
    /// Directory of the reference plugins, if there are any.
    pub reference: Option<PathBuf>,
    /// weft and weftctl, if they are built.
    pub weft: Option<(PathBuf, PathBuf)>,
    /// `weft-failing`, if it is built: weft that fails at a given op.
    pub failing: Option<PathBuf>,
}

/// What a machine recorded before it ended.
#[derive(Debug)]
pub struct Recorded {
    /// One for each completed run.
    pub transcripts: Vec<Transcript>,
    /// Why the other runs have none, with the end of the console; `None` if all have one.
    pub missing: Option<String>,
}

/// Builds the image, boots it, and returns what it recorded, even if it ended early.
///
/// # Errors
/// If the image cannot be built or QEMU cannot be started.
pub fn run(kernel: &Kernel, parts: &Parts, mut task: Task, dir: &Path) -> Result<Recorded> {
    let initramfs = dir.join("initramfs.cpio");
    image(kernel, parts, &mut task)?.write(&initramfs)?;
    let (console, results) = (dir.join("console"), dir.join("results"));
    let mut machine = boot(&kernel.image, &initramfs, &console, &results)?;
    let ended = wait(&mut machine, &[&console, &results]);
    let transcripts = read(&results)?;
    let is_recorded = |run: &Run| transcripts.iter().any(|one| one.name == run.name && one.subject == run.subject);
    let missing = (!task.runs.iter().all(is_recorded)).then(|| {
        let console = fs::read(&console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        let tail: Vec<&str> = console.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("the machine ended before its last case ({ended:?}); the end of its console:\n{}", tail.join("\n"))
    });
    Ok(Recorded { transcripts, missing })
}

fn image(kernel: &Kernel, parts: &Parts, task: &mut Task) -> Result<Image> {
    let mut image = Image::default();
    image.program(&parts.init, Some(Path::new("/init")))?;
    image.program(Path::new("/bin/busybox"), Some(Path::new("/bin/busybox")))?;
    // Busybox' own shell prefers its applets, `ip` among them, to any PATH.
    image.program(Path::new("/bin/dash"), Some(Path::new("/usr/bin/sh")))?;
    for program in PROGRAMS {
        let path = find_program(program)?;
        image.program(&path, Some(&Path::new("/usr/bin").join(program)))?;
    }
    for module in kernel.modules(MODULES)? {
        let name = module.file_name().context("a module without name")?.to_string_lossy().into_owned();
        let inside = format!("/modules/{name}");
        image.bytes(&inside, contents(&module)?, 0o644);
        task.modules.push(inside);
    }
    if let Some(dir) = &parts.reference {
        for plugin in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
            let path = plugin?.path();
            let name = path.file_name().context("a plugin without name")?;
            image.program(&path, Some(&Path::new(REFERENCE_DIR).join(name)))?;
        }
    }
    if let Some((weft, weftctl)) = &parts.weft {
        image.program(weft, Some(Path::new("/weft/dist/weft")))?;
        image.program(weftctl, Some(Path::new("/weft/dist/weftctl")))?;
        // As on a node. Policies are compiled inside, for the processor that will run them.
        task.prepare
            .push(format!("/weft/dist/weftctl install --bin-dir {WEFT_DIR} --ctl-dir /weft/sbin >/dev/kmsg 2>&1"));
    }
    if let Some(failing) = &parts.failing {
        let inside = "/weft/dist/weft-failing";
        image.program(failing, Some(Path::new(inside)))?;
        let link =
            format!("mkdir {FAILING_DIR}; for f in {WEFT_DIR}/*; do ln -s {inside} {FAILING_DIR}/${{f##*/}}; done");
        task.prepare.push(link);
    }
    // Directories that must exist: a file creates its directory.
    for directory in ["/proc", "/sys", "/dev", "/run", "/tmp", "/var/lib", "/etc"] {
        image.bytes(format!("{directory}/.keep"), Vec::new(), 0o644);
    }
    image.bytes(TASK, serde_json::to_vec(task).context("write the task")?, 0o644);
    Ok(image)
}

/// Finds a program of this machine.
///
/// # Errors
/// If it is in none of the usual places.
fn find_program(name: &str) -> Result<PathBuf> {
    let mut places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().map(|dir| Path::new(dir).join(name));
    places.find(|path| path.is_file()).with_context(|| format!("there is no {name} on this machine"))
}

fn boot(kernel: &Path, initramfs: &Path, console: &Path, results: &Path) -> Result<Child> {
    // QEMU overwrites existing files partly: nothing of an earlier run may remain.
    for file in [console, results] {
        File::create(file).with_context(|| format!("create {}", file.display()))?;
    }
    let serial = |path: &Path| format!("file:{}", path.display());
    let log = File::create(console.with_file_name("qemu.log")).context("create QEMU's log")?;
    let mut qemu = Command::new("qemu-system-x86_64");
    // Emulation is the same everywhere. Some virtual machines offer a /dev/kvm that opens and then hangs, so KVM must
    // be requested.
    let accelerator = std::env::var("WEFT_VM_ACCEL").unwrap_or_else(|_| "tcg".to_owned());
    // One processor: the machines run beside one another, one for each processor here.
    qemu.args(["-accel", &accelerator, "-cpu", "max", "-smp", "1", "-m", "1536"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    // A network card, for cases about devices. Nothing answers on it.
    qemu.args(["-netdev", "user,id=card,restrict=on", "-device"]);
    qemu.arg("virtio-net-pci,netdev=card,mac=02:00:00:00:ff:01,addr=7,romfile=");
    // On a busy machine, the emulated timer's interrupts come too late for the kernel's check of them.
    qemu.args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check rdinit=/init"]);
    qemu.arg("-serial").arg(serial(console)).arg("-serial").arg(serial(results));
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    qemu.spawn().context("start qemu-system-x86_64 (Debian: qemu-system-x86)")
}

/// Waits until the machine switches itself off. Stops it if its outputs have not grown for [`PATIENCE`].
fn wait(machine: &mut Child, outputs: &[&Path]) -> Result<()> {
    let size = || outputs.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum::<u64>();
    let (mut seen, mut since) = (size(), Instant::now());
    while since.elapsed() < PATIENCE {
        if let Some(status) = machine.try_wait().context("wait for QEMU")? {
            return if status.success() { Ok(()) } else { bail!("QEMU failed: {status}") };
        }
        let now = size();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        sleep(Duration::from_millis(50));
    }
    machine.kill().context("stop QEMU")?;
    machine.wait().context("wait for QEMU")?;
    bail!("the machine showed no progress for {PATIENCE:?}")
}

fn read(results: &Path) -> Result<Vec<Transcript>> {
    let text = fs::read_to_string(results).with_context(|| format!("read {}", results.display()))?;
    text.lines()
        .map(str::trim)
        // A machine that crashed may have stopped within a line.
        .filter(|line| line.starts_with('{') && line.ends_with('}'))
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a transcript: {line}")))
        .collect()
}

/// Returns the directory of a subject's plugins inside.
#[must_use]
pub fn plugins_of(subject: Subject) -> &'static str {
    match subject {
        Subject::Reference => REFERENCE_DIR,
        Subject::Weft => WEFT_DIR,
    }
}

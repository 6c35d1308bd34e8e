//! `weftctl install` and `uninstall`.
//!
//! Both first compare the existing state with the wanted state and make a list of steps, then execute the necessary
//! ones. So they can be repeated, `--dry-run` prints exactly this list, and a file of another program is never
//! overwritten (`--replace` moves it aside and `uninstall` moves it back). On a Kubernetes node they hold a lock
//! meanwhile, so that the agent does not restore what they change.

#[cfg(feature = "agent")]
mod kubernetes;
#[cfg(feature = "agent")]
mod leftovers;
mod step;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use weft_core::attach::no_attachments;
use weft_core::conf::Persona;
use weft_core::store::NodeStore;
use weft_host_abi::types::Attachment;

use self::step::{SAVED, Step};
use crate::installed::{BIN_DIR, Installed};
use crate::output::{Output, clean};
use crate::policy::SHIPPED;

/// Where things go.
#[derive(Debug, Args)]
pub(crate) struct Places {
    /// Directory of CNI plugins [default: that of the installation, or /opt/cni/bin, or that of --preset].
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Directory for weftctl itself [default: that of the installation, or /usr/local/bin, or with --kubernetes the directory of CNI
    /// plugins].
    #[arg(long, value_name = "DIR")]
    ctl_dir: Option<PathBuf>,
    /// Show the steps, change nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Places {
    fn bin_dir(&self, preset: Option<PathBuf>) -> PathBuf {
        self.bin_dir.clone().or(preset).unwrap_or_else(|| BIN_DIR.into())
    }

    fn ctl_dir(&self, fallback: Option<&Path>) -> PathBuf {
        self.ctl_dir.clone().unwrap_or_else(|| fallback.unwrap_or(Path::new("/usr/local/bin")).to_owned())
    }
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    places: Places,
    /// The weft binary to install [default: the one beside this weftctl].
    #[arg(long, value_name = "FILE")]
    weft: Option<PathBuf>,
    /// Names to answer to besides weft and weft-ipam [default: every plugin weft replaces].
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    names: Option<Vec<String>>,
    /// Move existing plugins with those names aside instead of leaving them in use.
    #[arg(long)]
    replace: bool,
    #[cfg(feature = "agent")]
    #[command(flatten)]
    kubernetes: kubernetes::KubernetesArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    places: Places,
    /// Also remove the state directory: ledger, journal, policies.
    #[arg(long)]
    purge: bool,
    /// Uninstall even if attachments exist.
    #[arg(long)]
    force: bool,
}

/// A program to install.
#[derive(Debug)]
struct Program {
    #[cfg_attr(not(feature = "agent"), expect(dead_code, reason = "only for a Kubernetes node"))]
    from: PathBuf,
    to: PathBuf,
    content: Vec<u8>,
}

impl Program {
    fn read(from: &Path, to: PathBuf) -> anyhow::Result<Self> {
        let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        Ok(Self { from: from.to_owned(), to, content })
    }
}

/// Installs.
pub(crate) fn install(args: &InstallArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "agent")]
    let _lock = if args.places.dry_run { None } else { kubernetes::lock(state)? };
    let steps = install_steps(args, state)?;
    carry_out(&steps, args.places.dry_run, output)
}

/// Returns the weft that belongs to this program: beside it, or where `cargo weft` puts it if cargo built both.
fn default_weft_path(own: &Path) -> PathBuf {
    let built = format!("{}-unknown-linux-musl/release/weft", std::env::consts::ARCH);
    let of_cargo = own.parent().and_then(Path::parent).map(|target| target.join(built));
    of_cargo.filter(|path| path.is_file()).unwrap_or_else(|| own.with_file_name("weft"))
}

fn install_steps(args: &InstallArgs, state: &Path) -> anyhow::Result<Vec<Step>> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let weft = args.weft.clone().unwrap_or_else(|| default_weft_path(&own));
    if !weft.is_file() {
        bail!("{} does not exist; build it with `cargo weft` or name it with --weft", weft.display());
    }
    #[cfg(feature = "agent")]
    let (preset, kubernetes) = (args.kubernetes.bin_dir(), args.kubernetes.kubernetes);
    #[cfg(not(feature = "agent"))]
    let (preset, kubernetes) = (None, false);
    let before = Installed::read(state);
    let bin_dir = args.places.bin_dir(preset.or_else(|| before.as_ref().map(|before| before.bin_dir.clone())));
    // weft finds weftctl beside itself, in every distribution.
    let beside = kubernetes.then_some(bin_dir.as_path());
    let ctl_dir = args.places.ctl_dir(beside.or(before.as_ref().map(|before| before.ctl_dir.as_path())));
    let programs = [Program::read(&weft, bin_dir.join("weft"))?, Program::read(&own, ctl_dir.join("weftctl"))?];
    let mut steps = vec![
        Step::directory(&bin_dir, 0o755, false)?,
        Step::directory(&ctl_dir, 0o755, false)?,
        Step::directory(state, weft_core::private::DIRECTORY, true)?,
        Step::directory(&state.join("policies"), weft_core::private::DIRECTORY, true)?,
        Step::directory(&state.join("cache"), weft_core::private::DIRECTORY, true)?,
    ];
    // Compiling takes seconds. The programs come after it, and find everything compiled.
    for (name, component) in SHIPPED {
        let file = state.join("policies").join(format!("{name}.wasm"));
        steps.push(Step::write(&file, component, weft_core::private::FILE)?);
        steps.push(Step::compile(&file, component, state)?);
    }
    let names = names(args)?;
    #[cfg(feature = "agent")]
    let last = if kubernetes {
        let paths: Vec<PathBuf> = names.iter().map(|name| bin_dir.join(name)).collect();
        let (before, after) = args.kubernetes.steps(state, &programs, &paths)?;
        steps.extend(before);
        after
    } else {
        steps.extend(kubernetes::copies(state, &programs)?);
        Vec::new()
    };
    #[cfg(not(feature = "agent"))]
    let last = Vec::new();
    for program in &programs {
        steps.push(Step::write(&program.to, &program.content, 0o755)?);
    }
    steps.push(Step::write(
        &Installed::path(state),
        &Installed::record_text(&bin_dir, &ctl_dir)?,
        weft_core::private::FILE,
    )?);
    for name in &names {
        steps.push(Step::name(&bin_dir.join(name), args.replaces())?);
    }
    steps.extend(last);
    Ok(steps)
}

impl InstallArgs {
    /// Returns whether plugins of other vendors are moved aside.
    fn replaces(&self) -> bool {
        #[cfg(feature = "agent")]
        if !self.kubernetes.take_over.is_empty() {
            return true;
        }
        self.replace
    }

    /// Returns the requested stock names. On a Kubernetes node other installers own those names: none, unless taken
    /// over.
    fn wanted_names(&self) -> Option<&[String]> {
        #[cfg(feature = "agent")]
        if self.kubernetes.kubernetes && self.names.is_none() {
            return Some(&self.kubernetes.take_over);
        }
        self.names.as_deref()
    }
}

/// Returns the names to install: all of them, or the requested ones, which must exist.
fn names(args: &InstallArgs) -> anyhow::Result<Vec<&'static str>> {
    let all: Vec<&'static str> = Persona::all().map(Persona::name).filter(|name| *name != "weft").collect();
    // Another program's names, only used if the operator requests them.
    let is_multus = |name: &&'static str| name.starts_with("multus");
    let Some(wanted) = args.wanted_names() else {
        return Ok(all.into_iter().filter(|name| !is_multus(name)).collect());
    };
    for name in wanted {
        if !all.contains(&name.as_str()) {
            bail!("weft does not answer to the name {name:?}; it knows {}", all.join(", "));
        }
    }
    Ok(all
        .into_iter()
        .filter(|name| ["weft-ipam", "weft-pod"].contains(name) || wanted.iter().any(|want| want == name))
        .collect())
}

/// Uninstalls.
pub(crate) fn uninstall(args: &UninstallArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "agent")]
    let _lock = if args.places.dry_run { None } else { kubernetes::lock(state)? };
    #[cfg(feature = "agent")]
    let kubernetes::Removal { mut steps, bin, ctl } = kubernetes::removal(state)?;
    #[cfg(not(feature = "agent"))]
    let (mut steps, bin, ctl) = (Vec::new(), None, None);
    let before = Installed::read(state);
    let ctl = before.as_ref().map(|before| before.ctl_dir.clone()).or(ctl);
    let bin = &args.places.bin_dir(before.map(|before| before.bin_dir).or(bin));
    if !args.force && !args.places.dry_run {
        refuse_with_attachments(state)?;
    }
    for name in Persona::all().map(Persona::name).filter(|name| *name != "weft") {
        steps.push(Step::remove_name(&bin.join(name))?);
        steps.push(Step::restore(&bin.join(format!("{name}{SAVED}")), &bin.join(name))?);
    }
    steps.push(Step::remove_file(&bin.join("weft"))?);
    steps.push(Step::remove_file(&args.places.ctl_dir(ctl.as_deref()).join("weftctl"))?);
    steps.push(Step::remove_file(&Installed::path(state))?);
    if args.purge {
        steps.push(Step::remove_tree(state)?);
    }
    let leaves = args.force && !args.places.dry_run && has_attachments(state);
    let outcome = carry_out(&steps, args.places.dry_run, output)?;
    if leaves {
        output.print_note(&if args.purge { format!("{LEFT}. {PURGED}") } else { format!("{LEFT}. {REMOVED_LATER}") });
    }
    Ok(outcome)
}

/// What a forced `uninstall` leaves.
const LEFT: &str = "weft's host ports, masquerading and shaping of running containers stay, and no other program removes them: \
                    a later container with the same address would get the port";
const REMOVED_LATER: &str = "When such a container has ended, run `weftctl gc` with the program that you installed from; \
                             it needs the state directory";
const PURGED: &str = "--purge has removed the state directory, which `weftctl gc` needs to remove them: reboot the node, or \
                      remove them by hand (`nft list ruleset`)";

/// Returns whether the journal has attachments.
fn has_attachments(state: &Path) -> bool {
    let store = NodeStore::open_read_only(state).ok().flatten();
    store.and_then(|store| store.entries(None).ok()).is_some_and(|entries| !entries.is_empty())
}

/// Refuses to uninstall with attachments: nobody would undo what weft made, and the stock plugins, once moved back,
/// would allocate its addresses again.
fn refuse_with_attachments(state: &Path) -> anyhow::Result<()> {
    /// How many are named.
    const NAMED: usize = 10;
    const DRAIN: &str =
        "Drain the node (`kubectl drain NODE --ignore-daemonsets`, or stop the containers), then uninstall.";
    let Some(store) = NodeStore::open_read_only(state)? else {
        // A lost ledger knows of none.
        return no_attachments().map_err(|what| anyhow!("{what}\n{DRAIN} Where the containers are gone, use --force"));
    };
    let attachments: BTreeSet<Attachment> =
        store.entries(None)?.into_iter().map(|entry| entry.key.attachment).collect();
    if attachments.is_empty() {
        return Ok(());
    }
    let mut text = format!("{} attachments are in the journal of {}:", attachments.len(), state.display());
    for Attachment { network, container_id, ifname } in attachments.iter().take(NAMED) {
        text.push_str(&format!("\n  {} of container {} on {}", clean(ifname), clean(container_id), clean(network)));
    }
    if attachments.len() > NAMED {
        text.push_str(&format!("\n  and {} more (`weftctl ps`)", attachments.len() - NAMED));
    }
    bail!(
        "{text}\n{DRAIN} To leave \
         containers running under the stock plugins, write the claims for those first (`weftctl ledger export host-local`) and \
         use --force. {LEFT}. {REMOVED_LATER}"
    );
}

fn carry_out(steps: &[Step], dry_run: bool, output: Output) -> anyhow::Result<ExitCode> {
    if !dry_run {
        for step in steps {
            step.carry_out()?;
        }
    }
    let rows = steps.iter().map(|step| vec![step.state(dry_run).to_owned(), step.describe(), step.note()]).collect();
    let document: Vec<_> = steps
        .iter()
        .map(|step| serde_json::json!({ "state": step.state(dry_run), "step": step.describe(), "note": step.note() }))
        .collect();
    output.table(&document, &["state", "step", "note"], rows)?;
    Ok(ExitCode::SUCCESS)
}

//! `weftctl install --kubernetes` is killed at one step after another: what a runtime reads and executes is always whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use weft_kit::process::{self, LIMIT, Output, Place};
use weft_kit::programs::{self, Installation};
use weft_kit::sandbox;
use weft_kit::suite::{Need, Suite};

/// The requests that change files, and `write`.
const CHANGES: &str = "write,pwrite64,ftruncate,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,\
                       mkdir,mkdirat,fsync,fdatasync,chmod,fchmod,fchmodat";

fn main() -> ExitCode {
    sandbox::enter();
    let needs = [Need::Sandbox, Need::Weft, Need::Weftctl, Need::Tool("strace")];
    let mut suite = Suite::new();
    suite.test("field-13-an-installer-that-is-killed-at-every-step", &needs, killed_at_every_step);
    suite.run()
}

/// As much of a file's end as is compared; a file that was not written to its end has another length.
const END: u64 = 4096;

/// A file's length and end.
type Content = (u64, Vec<u8>);
type Files = BTreeMap<PathBuf, Content>;

fn content(path: &Path) -> Result<Content> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok((length, end))
}

/// A machine's directories.
struct Machine {
    dir: TempDir,
}

impl Machine {
    /// The policies are compiled already, which is most of an installation's time.
    fn new() -> Result<Self> {
        let machine = Self { dir: TempDir::new_in(sandbox::scratch())? };
        programs::copy_tree(Installation::pristine()?.state(), &machine.path("state"))?;
        fs::remove_file(machine.path("state/installed.json"))?;
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    /// Keeps what an installer changes as it is now. Links are enough, because it replaces files and changes none.
    fn keep(&self) -> Result<()> {
        self.copy("root", "kept")
    }

    /// Makes everything as it was kept.
    fn restore(&self) -> Result<()> {
        self.copy("kept", "root")
    }

    fn copy(&self, from: &str, to: &str) -> Result<()> {
        let at = |top: &str, name: &str| self.dir.path().join(top).join(name);
        // Not the compiled policies: weft trusts no file with two links.
        for name in ["bin", "sbin", "net.d", "state/install", "state/installed.json"] {
            let (from, to) = (at(from, name), at(to, name));
            if to.is_dir() {
                fs::remove_dir_all(&to)?;
            } else if to.exists() {
                fs::remove_file(&to)?;
            }
            if from.exists() {
                fs::create_dir_all(to.parent().context("a directory")?)?;
                let argv = ["cp".to_owned(), "-al".to_owned(), from.display().to_string(), to.display().to_string()];
                process::run(&Place::default(), &argv)?;
            }
        }
        Ok(())
    }

    /// Runs an installation of this program with this default network, killed at its `number`-th change of files.
    fn install(&self, weft: &Path, network: &str, kill: Option<usize>) -> Result<Output> {
        let weftctl = programs::weftctl().map_err(anyhow::Error::msg)?;
        let mut command = match kill {
            None => Command::new(weftctl),
            Some(number) => {
                let mut strace = Command::new("strace");
                strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={CHANGES}"), "-e"]);
                strace.arg(format!("inject={CHANGES}:signal=KILL:when={number}")).arg(weftctl);
                strace
            }
        };
        // With one document at the end, nearly every write is to a file.
        command.arg("--json").arg("--state-dir").arg(self.path("state"));
        command.args(["install", "--kubernetes", "--default-network", network]).arg("--weft").arg(weft);
        command.arg("--bin-dir").arg(self.path("bin")).arg("--ctl-dir").arg(self.path("sbin"));
        command.arg("--conf-dir").arg(self.path("net.d"));
        process::output(&Place::default(), command, b"", LIMIT)
    }

    /// Returns what a runtime and an agent read: the configuration, the program, the agent's copies and their list. A name
    /// that begins with a dot is none of theirs.
    fn files(&self) -> Result<Files> {
        let mut files = BTreeMap::new();
        for dir in ["net.d", "bin", "state/install"] {
            for entry in fs::read_dir(self.path(dir)).into_iter().flatten() {
                let path = entry?.path();
                let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
                if name.starts_with('.') || path.is_symlink() {
                    continue;
                }
                let content = content(&path)?;
                if dir == "net.d" {
                    let text = String::from_utf8_lossy(&content.1);
                    let conf: Value = serde_json::from_str(&text).with_context(|| format!("{name}: {text:?}"))?;
                    ensure!(conf["plugins"][0]["type"] == "weft-pod", "{conf}");
                }
                files.insert(Path::new(dir).join(name), content);
            }
        }
        Ok(files)
    }
}

/// multus#1155: a first installation, and an upgrade of program and configuration. Whatever an installer that is killed
/// leaves, every file is the old or the new one, and the configuration parses. The next installer finishes the work.
fn killed_at_every_step() -> Result<()> {
    let machine = Machine::new()?;
    let [old, new] = ["old", "new"].map(|name| machine.dir.path().join(name));
    for program in [&old, &new] {
        // Nobody executes it here.
        fs::write(program, program.display().to_string())?;
    }
    for (weft, network) in [(&old, "old"), (&new, "new")] {
        machine.keep()?;
        let before = machine.files()?;
        machine.install(weft, network, None)?.success("install")?;
        let after = machine.files()?;
        ensure!(before != after && after.keys().any(|path| path.starts_with("net.d")), "{after:?}");
        let mut kills = 0;
        loop {
            machine.restore()?;
            if machine.install(weft, network, Some(kills + 1))?.status == Some(0) {
                break;
            }
            kills += 1;
            is_whole(&machine.files()?, &before, &after).with_context(|| format!("{network}: kill {kills}"))?;
            if kills % 7 == 0 {
                machine.install(weft, network, None)?.success("the next installer")?;
                ensure!(machine.files()? == after, "{network}: after kill {kills} and the next installer");
                let parts = fs::read_dir(machine.path("net.d"))?.count();
                ensure!(parts == 1, "{network}: {parts} files in net.d after kill {kills}");
            }
        }
        ensure!(kills > 7, "{network}: only {kills} steps: the trace has moved");
    }
    Ok(())
}

/// Checks that every file is that of before or that of after, and that none of before is missing.
fn is_whole(files: &Files, before: &Files, after: &Files) -> Result<()> {
    for (path, content) in files {
        let known = before.get(path) == Some(content) || after.get(path) == Some(content);
        ensure!(known, "{} with {} octets is neither the old nor the new one", path.display(), content.0);
    }
    let missing = before.keys().find(|path| !files.contains_key(*path));
    ensure!(missing.is_none(), "{missing:?} is gone");
    Ok(())
}

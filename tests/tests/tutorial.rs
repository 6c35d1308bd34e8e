//! Runs `docs/tutorial-policy.md`: every command in order, in one shell, as a new user would; the output of each is
//! compared with the page.
//!
//! ````text
//! ```console          commands after "$ " (more lines of one after "> "), each with what it prints
//! ```console fails    the same; the last command has to fail
//! ```LANGUAGE FILE    the content of a file
//! ````
//! `[..]` stands for any text within a line, a line `...` for any lines. A block of any other kind is an error: nobody would run it.
//! With `WEFT_WRITE_TUTORIAL=1` the page gets what was printed where that is something else, for a person to put the placeholders in.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use weft_kit::process::{Place, kill_group};
use weft_kit::programs::{self, repository};
use weft_kit::suite::{Need, Suite};
use weft_kit::{process, sandbox};

/// A hang is an error; a slow machine is not.
const LIMIT: Duration = Duration::from_secs(900);

/// Printed after each command, with its status.
const MARK: &str = "--- tutorial ";

fn main() -> ExitCode {
    sandbox::enter_with_processes();
    let mut suite = Suite::new();
    let tools = ["cargo", "docker-registry", "minisign", "ip"].map(Need::Tool);
    let needs = [&[Need::Sandbox, Need::Weft, Need::Weftctl], &tools[..]].concat();
    suite.test("policy", &needs, || page(&repository().join("docs/tutorial-policy.md")));
    suite.test("reader/matches", &[], reader_matches);
    suite.test("reader/refuses", &[], reader_refuses);
    suite.run_threads(Some(1))
}

/// One command and what it prints.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    line: usize,
    command: String,
    prints: Vec<String>,
    fails: bool,
}

/// A block of the page.
#[derive(Debug, PartialEq, Eq)]
enum Block {
    Console(Vec<Step>),
    File { line: usize, path: String, content: String },
}

/// Returns the blocks of a page.
fn blocks(text: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    while let Some((line, fence)) = lines.next() {
        let Some(info) = fence.strip_prefix("```") else { continue };
        let body: Vec<(usize, &str)> = lines.by_ref().take_while(|(_line, text)| *text != "```").collect();
        blocks.push(match info.split_whitespace().collect::<Vec<_>>()[..] {
            ["console"] => Block::Console(steps(&body, false)?),
            ["console", "fails"] => Block::Console(steps(&body, true)?),
            [_language, path] => {
                let content = body.iter().map(|(_line, text)| format!("{text}\n")).collect();
                Block::File { line, path: path.to_owned(), content }
            }
            _ => bail!("line {line}: a block ```{info} is neither commands nor a file"),
        });
    }
    Ok(blocks)
}

fn steps(body: &[(usize, &str)], fails: bool) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (line, text) in body {
        match (text.strip_prefix("$ "), text.strip_prefix("> "), steps.last_mut()) {
            (Some(command), _, _) => {
                steps.push(Step { line: *line, command: command.to_owned(), prints: Vec::new(), fails: false });
            }
            (_, Some(more), Some(step)) if step.prints.is_empty() => step.command.push_str(&format!("\n{more}")),
            (_, _, Some(step)) => step.prints.push((*text).to_owned()),
            (_, _, None) => bail!("line {line}: output without a command"),
        }
    }
    if let Some(last) = steps.last_mut() {
        last.fails = fails;
    }
    Ok(steps)
}

/// Returns whether the output matches the page.
fn matches(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((dots, rest)) if dots == "..." => (0..=printed.len()).any(|skip| matches(rest, &printed[skip..])),
        Some((line, rest)) => {
            printed.split_first().is_some_and(|(first, more)| line_matches(line, first) && matches(rest, more))
        }
    }
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split("[..]");
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.split_once(part) {
            Some((_any, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The shell that runs every command.
struct Shell {
    child: Child,
    lines: Receiver<String>,
}

impl Shell {
    fn start(home: &Path) -> Result<Self> {
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]).current_dir(home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("HOME", home).env_remove("WEFT_STATE_DIR").env_remove("COLUMNS").env("NO_COLOR", "1");
        // Cargo's own directories are in the home directory that this replaces.
        for (variable, place) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if std::env::var_os(variable).is_none() {
                command.env(variable, PathBuf::from(std::env::var_os("HOME").context("HOME")?).join(place));
            }
        }
        let mut child = std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn().context("bash")?;
        let out = child.stdout.take().context("its output")?;
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(out).split(b'\n').map_while(Result::ok);
            lines.map(|line| String::from_utf8_lossy(&line).trim_end().to_owned()).try_for_each(|line| send.send(line))
        });
        let mut shell = Self { child, lines };
        shell.run("exec 2>&1")?;
        Ok(shell)
    }

    /// Runs a command. Returns its status and its output.
    fn run(&mut self, command: &str) -> Result<(i32, Vec<String>)> {
        let input = self.child.stdin.as_mut().context("its input")?;
        // The script itself is standard input, so nothing else may read it.
        writeln!(input, "{{ {command}\n}} </dev/null\nprintf '\\n{MARK}%s\\n' $?").context("the shell has ended")?;
        let mut printed = Vec::new();
        loop {
            let line = self.lines.recv_timeout(LIMIT);
            let line = line.with_context(|| format!("{command} does not end; it printed {printed:#?}"))?;
            if let Some(status) = line.strip_prefix(MARK) {
                while printed.last().is_some_and(String::is_empty) {
                    printed.pop();
                }
                return Ok((status.parse().with_context(|| format!("status {status:?}"))?, printed));
            }
            printed.push(line);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}

fn page(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let home = TempDir::new_in(sandbox::scratch()).context("scratch directory")?;
    install()?;
    process::run(&Place::default(), &["ip", "link", "set", "lo", "up"])?;
    let mut shell = Shell::start(home.path())?;
    let write = std::env::var_os("WEFT_WRITE_TUTORIAL").is_some();
    let mut wrong = Vec::new();
    let (mut fresh, mut run) = (Vec::new(), 0);
    for block in blocks(&text)? {
        match block {
            Block::File { line, path, content } => {
                let (_status, here) = shell.run("pwd")?;
                let path = Path::new(here.first().context("a directory")?).join(path);
                fs::create_dir_all(path.parent().context("a directory")?)?;
                fs::write(&path, content).with_context(|| format!("line {line}: write {}", path.display()))?;
            }
            Block::Console(steps) => {
                for step in steps {
                    let (status, printed) = shell.run(&step.command)?;
                    let shown = step.prints.join("\n");
                    let said = printed.join("\n");
                    let matching = matches(&step.prints, &printed);
                    if (status != 0) != step.fails {
                        wrong.push(format!("line {}: {}\nends with {status}\n{said}", step.line, step.command));
                    } else if !matching {
                        wrong.push(format!(
                            "line {}: {}\nis to print\n{shown}\nand prints\n{said}",
                            step.line, step.command
                        ));
                    }
                    run += 1;
                    if !matching {
                        fresh.push((step.line + step.command.lines().count() - 1, step.prints.len(), printed));
                    }
                    // The following steps depend on it.
                    ensure!(write || wrong.is_empty(), "{}", wrong.join("\n\n"));
                }
            }
        }
    }
    if write {
        fs::write(path, rewritten(&text, &fresh))?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    ensure!(run > 20, "only {run} commands were found");
    Ok(())
}

/// Installs weft on this (sandboxed) machine, as the quick start does.
fn install() -> Result<()> {
    let mut command = Command::new(programs::weftctl().map_err(anyhow::Error::msg)?);
    command.args(["install", "--weft"]).arg(programs::weft().map_err(anyhow::Error::msg)?);
    process::output(&Place::default(), command, b"", LIMIT)?.success("weftctl install").map(drop)
}

/// Returns the page with the real output in place of the shown one: (line of a command, lines shown after it, lines
/// printed).
fn rewritten(text: &str, fresh: &[(usize, usize, Vec<String>)]) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    for (line, shown, printed) in fresh.iter().rev() {
        lines.splice(*line..line + shown, printed.iter().map(String::as_str));
    }
    lines.join("\n") + "\n"
}

fn reader_matches() -> Result<()> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (shown, printed, same) in [
        ("a [..] c", "a b c", true),
        ("a [..] c", "a b d", false),
        ("[..]:[..]!", "x:y:z!", true),
        ("a", "ab", false),
        ("...\nend", "1\n2\nend", true),
        ("...\nend", "1\n2", false),
        ("1\n...", "1", true),
        ("", "1", false),
    ] {
        ensure!(matches(&lines(shown), &lines(printed)) == same, "{shown:?} and {printed:?}");
    }
    let found = blocks("text\n```console\n$ a \\\n> b\nout\n$ c\n```\n```rust src/x.rs\nfn x() {}\n```\n")?;
    let step = |line, command: &str, prints: &[&str]| Step {
        line,
        command: command.to_owned(),
        prints: prints.iter().map(|text| (*text).to_owned()).collect(),
        fails: false,
    };
    let commands = Block::Console(vec![step(3, "a \\\nb", &["out"]), step(6, "c", &[])]);
    let file = Block::File { line: 8, path: "src/x.rs".to_owned(), content: "fn x() {}\n".to_owned() };
    ensure!(found == [commands, file], "{found:#?}");
    Ok(())
}

/// A block that would not run is an error, and so is a command whose output differs from the page.
fn reader_refuses() -> Result<()> {
    ensure!(blocks("```sh\nrm x\n```\n").is_err(), "a block that nobody runs");
    ensure!(blocks("```console\nout\n```\n").is_err(), "output of nothing");
    let home = TempDir::new()?;
    let mut shell = Shell::start(home.path())?;
    ensure!(shell.run("cd / && x=7; false")? == (1, Vec::new()), "a status");
    ensure!(shell.run("echo $x; pwd; echo err >&2")?.1 == ["7", "/", "err"], "one shell for all");
    Ok(())
}

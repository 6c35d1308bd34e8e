//! The log of a CNI call: one line each, written as it happens, so that a call that is killed has said how far it came.
//!
//! ```text
//!  weft: info: ADD begins plugin=weft network=pods container=4f1c... ifname=eth0 pod=shop/web-0
//! ```
//! Lines go to stderr, which runtimes keep, the first one together with the second; where the node says so also to a file or to the journal of systemd
//! ([`Settings`]). Programs that have a person before them ([`Target::Kept`]) take the lines and print them themselves.
//!
//! Invariants: a line is one `write(2)` (one datagram for the journal), so that lines of processes at once stay whole; foreign
//! text stays on its line; nothing about the log ever fails a call. `docs/decisions/0027-log.md` says why this is no library.

mod journal;
mod level;
mod settings;
mod sink;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;

pub use level::{Level, Subject};
pub use settings::Settings;

use crate::text::clean;
use journal::Journal;
use sink::LogFile;

/// Longest text of a line that is kept, in bytes.
const TEXT_MAX: usize = 4096;

/// Where lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Target {
    /// They are kept until they are taken, all but single steps.
    #[default]
    Kept,
    /// They are written at once.
    Written(Settings),
}

/// The log of one process.
#[derive(Debug)]
pub struct Logger {
    level: Level,
    kept: Option<RefCell<String>>,
    file: Option<LogFile>,
    journal: Option<Journal>,
    subject: RefCell<Subject>,
    /// What stderr gets before its next line.
    first: RefCell<String>,
}

// === impl Logger ===

impl Logger {
    /// A log. What cannot be opened is said where the log can be written.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let (subject, first) = (RefCell::default(), RefCell::default());
        let settings = match target {
            Target::Kept => {
                let kept = Some(RefCell::default());
                return Self { level: Level::Info, kept, file: None, journal: None, subject, first };
            }
            Target::Written(settings) => settings,
        };
        let file = settings.file.as_deref().map(LogFile::open);
        let journal = settings.journal.then(Journal::open);
        let (file, no_file) = split(file);
        let (journal, no_journal) = split(journal);
        let logger = Self { level: settings.level, kept: None, file, journal, subject, first };
        for problem in settings.problem.iter().cloned().chain(no_file).chain(no_journal) {
            logger.warn(&problem);
        }
        logger
    }

    /// From here on lines are about this.
    pub fn about(&self, subject: Subject) {
        self.subject.replace(subject);
    }

    /// The network turns out only when the configuration is read.
    pub fn about_network(&self, network: &str) {
        network.clone_into(&mut self.subject.borrow_mut().network);
    }

    /// Whether lines of a level are written.
    #[must_use]
    pub fn has(&self, level: Level) -> bool {
        level <= self.level
    }

    /// The call failed.
    pub fn error(&self, text: &str) {
        self.line(Level::Error, text);
    }

    /// Something that a person may have to look at.
    pub fn warn(&self, text: &str) {
        self.line(Level::Warn, text);
    }

    /// A call begins, waits for others, or took long.
    pub fn info(&self, text: &str) {
        self.line(Level::Info, text);
    }

    /// A step. The text is made only where it is wanted.
    pub fn debug(&self, text: impl FnOnce() -> String) {
        if self.has(Level::Debug) {
            self.line(Level::Debug, &text());
        }
    }

    /// The lines that were kept.
    #[must_use]
    pub fn take(&self) -> String {
        self.kept.as_ref().map(RefCell::take).unwrap_or_default()
    }

    /// The first line of a call. On stderr it comes with the next line, such as what the call waits for: like the stock
    /// plugins, a call that neither waits nor fails says nothing there.
    pub fn first(&self, level: Level, text: &str) {
        self.write(level, text, !self.has(Level::Debug));
    }

    /// One line.
    pub fn line(&self, level: Level, text: &str) {
        self.write(level, text, false);
    }

    fn write(&self, level: Level, text: &str, is_first: bool) {
        if !self.has(level) {
            return;
        }
        let text = clean(text, TEXT_MAX);
        if let Some(kept) = &self.kept {
            let mut kept = kept.borrow_mut();
            kept.push_str("weft: ");
            kept.push_str(&text);
            kept.push('\n');
            return;
        }
        let subject = self.subject.borrow();
        let mut line = format!("{}: {text}", level.name());
        for (key, value) in subject.parts().into_iter().filter(|(_key, value)| !value.is_empty()) {
            let plain = value.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"=\\".contains(&byte));
            // Writing to a string does not fail.
            if plain {
                write!(line, " {key}={value}").ok()
            } else {
                write!(line, " {key}={value:?}").ok()
            };
        }
        line.push('\n');
        if let Some(file) = &self.file {
            file.write(&line);
        }
        if let Some(journal) = &self.journal {
            journal.write(level, &text, &subject);
        }
        let mut lines = self.first.take();
        lines.push_str("weft: ");
        lines.push_str(&line);
        if is_first {
            self.first.replace(lines);
            return;
        }
        // Where stderr is closed, the exit code still tells.
        std::io::stderr().write_all(lines.as_bytes()).ok();
    }
}

fn split<T>(opened: Option<Result<T, String>>) -> (Option<T>, Option<String>) {
    match opened {
        Some(Ok(sink)) => (Some(sink), None),
        Some(Err(problem)) => (None, Some(problem)),
        None => (None, None),
    }
}

#[cfg(test)]
mod tests;

//! The log of a CNI call: each line is written immediately, so that the log of a killed call shows how far it came.
//!
//! ```text
//!  weft: info: ADD begins plugin=weft network=pods container=4f1c... ifname=eth0 pod=shop/web-0
//! ```
//! Lines go to stderr, which runtimes keep; the first one is written together with the second. If the node's settings
//! say so, they also go to a file or to systemd's journal ([`Settings`]). Interactive programs ([`Target::Kept`]) take
//! the lines and print them themselves.
//!
//! Invariants: a line is one `write(2)` (one datagram for the journal), so that lines of concurrent processes stay
//! whole; foreign text cannot add lines; a failure of the log never fails a call. `docs/decisions/0027-log.md` explains
//! why this is not a library.

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

/// Maximum length of a line's text, in bytes.
const TEXT_MAX: usize = 4096;

/// The destination of lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Target {
    /// Lines are kept until they are taken, except single steps.
    #[default]
    Kept,
    /// Lines are written at once.
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
    /// The text to write to stderr before the next line.
    first: RefCell<String>,
}

// === impl Logger ===

impl Logger {
    /// Creates a log. If an output cannot be opened, the others get a line about that.
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

    /// Sets the subject of the following lines.
    pub fn set_subject(&self, subject: Subject) {
        self.subject.replace(subject);
    }

    /// Sets the network, which is known only after the configuration is read.
    pub fn set_network(&self, network: &str) {
        network.clone_into(&mut self.subject.borrow_mut().network);
    }

    /// Returns whether lines of a level are written.
    #[must_use]
    pub fn is_enabled(&self, level: Level) -> bool {
        level <= self.level
    }

    /// Logs the failure of the call.
    pub fn error(&self, text: &str) {
        self.line(Level::Error, text);
    }

    /// Logs something that may require action.
    pub fn warn(&self, text: &str) {
        self.line(Level::Warn, text);
    }

    /// Logs that a call begins, waits for others, or took long.
    pub fn info(&self, text: &str) {
        self.line(Level::Info, text);
    }

    /// Logs a step. The text is made only if it is written.
    pub fn debug(&self, text: impl FnOnce() -> String) {
        if self.is_enabled(Level::Debug) {
            self.line(Level::Debug, &text());
        }
    }

    /// Returns the kept lines, and removes them.
    #[must_use]
    pub fn take(&self) -> String {
        self.kept.as_ref().map(RefCell::take).unwrap_or_default()
    }

    /// Logs the first line of a call. On stderr it appears only with the next line, such as what the call waits for:
    /// like the stock plugins, a call that neither waits nor fails writes nothing there.
    pub fn first_line(&self, level: Level, text: &str) {
        self.write(level, text, !self.is_enabled(Level::Debug));
    }

    /// Logs one line.
    pub fn line(&self, level: Level, text: &str) {
        self.write(level, text, false);
    }

    fn write(&self, level: Level, text: &str, is_first: bool) {
        if !self.is_enabled(level) {
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
        // If stderr is closed, the exit code still reports the failure.
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

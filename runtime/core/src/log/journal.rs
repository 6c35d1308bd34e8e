//! systemd's journal, by its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): one datagram per line.
//! The call's subject is in fields, so that `journalctl CNI_CONTAINERID=...` finds a container's lines.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::level::{Level, Subject};

const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to the journal.
#[derive(Debug)]
pub(super) struct Journal(UnixDatagram);

// === impl Journal ===

impl Journal {
    pub(super) fn open() -> Result<Self, String> {
        Self::connect(Path::new(SOCKET))
    }

    pub(super) fn connect(socket: &Path) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("cannot write to the journal ({}): {error}", socket.display());
        let journal = UnixDatagram::unbound().map_err(cannot)?;
        journal.connect(socket).map_err(cannot)?;
        // A slow journal must not delay a pod.
        journal.set_nonblocking(true).map_err(cannot)?;
        Ok(Self(journal))
    }

    /// Writes one line. No value has a line break: texts are clean, and the rest is checked here.
    pub(super) fn write(&self, level: Level, text: &str, subject: &Subject) {
        // syslog(3)
        let priority = match level {
            Level::Off | Level::Error => "3",
            Level::Warn => "4",
            Level::Info => "6",
            Level::Debug => "7",
        };
        let fields = [
            ("PRIORITY", priority),
            ("SYSLOG_IDENTIFIER", "weft"),
            ("MESSAGE", text),
            ("CNI_COMMAND", &subject.verb),
            ("CNI_PLUGIN", &subject.plugin),
            ("CNI_NETWORK", &subject.network),
            ("CNI_CONTAINERID", &subject.container),
            ("CNI_IFNAME", &subject.ifname),
            ("K8S_POD", &subject.pod),
        ];
        let mut datagram = String::new();
        for (key, value) in fields.into_iter().filter(|(_key, value)| !value.is_empty() && !value.contains('\n')) {
            datagram.push_str(key);
            datagram.push('=');
            datagram.push_str(value);
            datagram.push('\n');
        }
        self.0.send(datagram.as_bytes()).ok();
    }
}

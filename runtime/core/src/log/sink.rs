//! A log file. Every process opens it, so log rotation may rename it at any time. A large file is also renamed here,
//! which replaces the one that was renamed before.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::libc;

/// At this size the file is renamed to `<name>.1`.
const LARGE: u64 = 16 << 20;

/// An open log file.
#[derive(Debug)]
pub(super) struct LogFile(File);

// === impl LogFile ===

impl LogFile {
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("cannot write the log {}: {error}", path.display());
        let mut file = append(path).map_err(cannot)?;
        if is_large(&file, path) {
            let mut old = path.as_os_str().to_owned();
            old.push(".1");
            // Another process may do the same; then this line goes to the renamed file.
            if std::fs::rename(path, old).is_ok() {
                file = append(path).map_err(cannot)?;
            }
        }
        Ok(Self(file))
    }

    /// Writes one line, with the time and the process in front.
    pub(super) fn write(&self, line: &str) {
        let line = format!("{} weft[{}]: {line}", utc(SystemTime::now()), std::process::id());
        // A full disk must not fail a call.
        (&self.0).write_all(line.as_bytes()).ok();
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(crate::private::FILE).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Returns whether a file must be renamed: it is large, and still has its name.
fn is_large(file: &File, path: &Path) -> bool {
    let Ok(open) = file.metadata() else { return false };
    let is_same = |named: std::fs::Metadata| (named.dev(), named.ino()) == (open.dev(), open.ino());
    open.is_file() && open.len() >= LARGE && std::fs::metadata(path).is_ok_and(is_same)
}

/// Formats a time as in RFC 3339, in milliseconds.
fn utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// Returns year, month and day of a day since 1970, by
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use super::*;

    #[test]
    fn times() {
        let at =
            |seconds: u64, millis: u64| utc(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis));
        // The result of `date -u -d @SECONDS`.
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399, 7), "2000-02-28T23:59:59.007Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_798_761_599, 999), "2026-12-31T23:59:59.999Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_large_file_is_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft.log");
        File::create(&path).unwrap().set_len(LARGE).unwrap();
        LogFile::open(&path).unwrap().write("info: new\n");
        assert_eq!(std::fs::metadata(dir.path().join("weft.log.1")).unwrap().len(), LARGE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("info: new\n") && text.lines().count() == 1, "{text}");
    }
}

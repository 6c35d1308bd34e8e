//! The `CNI_*` variables: which verb needs which, and the form of their values.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use super::names::{check_container_id, check_ifname};
use super::{CniError, code};

/// The operation that the runtime requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Make an attachment.
    Add,
    /// Remove an attachment.
    Del,
    /// Check that an attachment is unchanged.
    Check,
    /// Remove everything that belongs to no valid attachment.
    Gc,
    /// Report whether ADD could succeed.
    Status,
    /// Report the supported versions.
    Version,
}

impl Verb {
    /// Returns its name in `CNI_COMMAND`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version]
            .into_iter()
            .find(|verb| verb.name() == name)
    }

    /// Returns whether the verb concerns one attachment.
    fn has_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

/// The call's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub verb: Verb,
    /// `CNI_CONTAINERID`; checked if the verb needs it.
    pub container_id: String,
    /// `CNI_NETNS`; may be empty for DEL.
    pub netns: String,
    /// `CNI_IFNAME`; checked if the verb needs it.
    pub ifname: String,
    /// `CNI_ARGS`, unparsed.
    pub args: String,
    /// Directories of `CNI_PATH`.
    pub path: Vec<PathBuf>,
    /// `CNI_NETNS_OVERRIDE`: whether the container may be in weft's own namespace.
    pub netns_override: bool,
}

/// How the program was called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invoked {
    /// By a runtime.
    Cni(Environment),
    /// By a person, without `CNI_COMMAND`; print `about`.
    About,
}

/// Reads the environment through `get`.
///
/// The rules run in the order of the variables, as in the reference: a malformed container id is reported before a
/// later missing variable; all missing ones are reported together.
///
/// # Errors
/// Code 4: a variable is missing or malformed, or the verb is unknown.
pub fn read_environment(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Invoked, CniError> {
    let command = variable("CNI_COMMAND", get)?;
    if command.is_empty() {
        return Ok(Invoked::About);
    }
    let verb = Verb::from_name(&command)
        .ok_or_else(|| CniError::new(code::INVALID_ENVIRONMENT, format!("unknown CNI_COMMAND: {command}")))?;

    let mut missing = Vec::new();
    let mut need = |name: &'static str, needed: bool, value: &str| {
        if needed && value.is_empty() {
            missing.push(name);
        }
    };
    let container_id = variable("CNI_CONTAINERID", get)?;
    need("CNI_CONTAINERID", verb.has_attachment(), &container_id);
    if verb.has_attachment() && !container_id.is_empty() {
        check_container_id(&container_id)?;
    }
    let netns = variable("CNI_NETNS", get)?;
    need("CNI_NETNS", matches!(verb, Verb::Add | Verb::Check), &netns);
    let ifname = variable("CNI_IFNAME", get)?;
    need("CNI_IFNAME", verb.has_attachment(), &ifname);
    if verb.has_attachment() && !ifname.is_empty() {
        check_ifname(&ifname)?;
    }
    let args = variable("CNI_ARGS", get)?;
    let path = get("CNI_PATH").unwrap_or_default();
    need("CNI_PATH", verb != Verb::Version, &path.to_string_lossy());
    if !missing.is_empty() {
        return Err(CniError::new(
            code::INVALID_ENVIRONMENT,
            format!("required env variables [{}] missing", missing.join(",")),
        ));
    }
    let netns_override = variable("CNI_NETNS_OVERRIDE", get)?;
    Ok(Invoked::Cni(Environment {
        verb,
        container_id,
        netns,
        ifname,
        args,
        path: env::split_paths(&path).filter(|dir| !dir.as_os_str().is_empty()).collect(),
        netns_override: netns_override == "1" || netns_override.eq_ignore_ascii_case("true"),
    }))
}

/// Returns a variable as text, empty if it is absent.
fn variable(name: &str, get: &dyn Fn(&str) -> Option<OsString>) -> Result<String, CniError> {
    get(name).unwrap_or_default().into_string().map_err(|raw| {
        CniError::new(code::INVALID_ENVIRONMENT, format!("{name} is not valid UTF-8"))
            .with_details(raw.to_string_lossy().into_owned())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Invoked, CniError> {
        read_environment(&|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
    }

    fn full_environment<'a>(verb: &'a str, id: &'a str, ifname: &'a str) -> [(&'a str, &'a str); 6] {
        [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", id),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", ifname),
            ("CNI_ARGS", "IgnoreUnknown=1"),
            ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
        ]
    }

    #[test]
    fn a_full_environment_is_read() {
        let Ok(Invoked::Cni(read)) = read(&full_environment("ADD", "c1", "eth0")) else { panic!("not read") };
        assert_eq!((read.verb, read.container_id.as_str(), read.ifname.as_str()), (Verb::Add, "c1", "eth0"));
        assert_eq!(read.path, [PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")]);
        assert!(!read.netns_override);
    }

    #[test]
    fn a_call_without_a_command_is_from_a_person() {
        assert_eq!(read(&[("CNI_CONTAINERID", "%")]), Ok(Invoked::About));
        assert_eq!(read(&[("CNI_COMMAND", "")]), Ok(Invoked::About));
    }

    #[test]
    fn missing_variables_are_listed_in_order_by_verb() {
        let missing = |verb: &str| read(&[("CNI_COMMAND", verb)]).unwrap_err().msg;
        let add = "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing";
        assert_eq!(missing("ADD"), add);
        assert_eq!(missing("CHECK"), add);
        assert_eq!(missing("DEL"), "required env variables [CNI_CONTAINERID,CNI_IFNAME,CNI_PATH] missing");
        assert_eq!(missing("GC"), "required env variables [CNI_PATH] missing");
        assert_eq!(missing("STATUS"), "required env variables [CNI_PATH] missing");
        assert!(read(&[("CNI_COMMAND", "VERSION")]).is_ok());
        assert_eq!(missing("PAUSE"), "unknown CNI_COMMAND: PAUSE");
        assert_eq!(missing("add"), "unknown CNI_COMMAND: add");
    }

    #[test]
    fn a_malformed_value_wins_over_a_later_missing_one() {
        let error = read(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a%b")]).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (4, "invalid characters in containerID"));
        assert_eq!(error.details, "a%b");
        // GC concerns no attachment, so these are not checked.
        assert!(read(&full_environment("GC", "a%b", "a/b")).is_ok());
    }

    #[test]
    fn the_override_is_one_or_true_in_any_case() {
        for (value, want) in [("1", true), ("TRUE", true), ("true", true), ("yes", false), ("0", false), ("", false)] {
            let mut vars = full_environment("ADD", "c1", "eth0").to_vec();
            vars.push(("CNI_NETNS_OVERRIDE", value));
            let Ok(Invoked::Cni(read)) = read(&vars) else { panic!("not read") };
            assert_eq!(read.netns_override, want, "{value}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_except_in_the_path() {
        let bytes = OsString::from_vec(vec![0xff]);
        let get = |bad: &'static str| {
            let bytes = bytes.clone();
            read_environment(&move |name| {
                if name == bad {
                    return Some(bytes.clone());
                }
                full_environment("ADD", "c1", "eth0")
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, v)| OsString::from(v))
            })
        };
        assert_eq!(get("CNI_ARGS").unwrap_err().msg, "CNI_ARGS is not valid UTF-8");
        assert!(get("CNI_PATH").is_ok());
    }
}

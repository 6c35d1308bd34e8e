//! `delegates` and `select`: a policy picks one of several delegates, and may set the keys that the operator opened.
//!
//! A choice results in an ordinary configuration: [`SelectConf::chosen`] writes it, and it is read and checked again as
//! if the operator had written it.

use std::path::PathBuf;

use serde_json::Value;
use weft_host_abi::types::Candidate;

use super::ipam_kind::plugin_name;
use super::{ConfError, DelegateConf, IpamKind, MonitorConf, Object, weft};
use crate::delegate;

/// The prefix of an `ipam` key in `settable`.
const IPAM: &str = "ipam.";

/// Keys of an entry that concern the entry itself.
pub(super) const OWN: [&str; 3] = ["name", "settable", "ipam"];

/// Keys that no policy may set: the entry's identity, and keys of the runtime or the network.
const FIXED: [&str; 9] =
    ["type", "name", "settable", "cniVersion", "runtimeConfig", "args", "prevResult", "capabilities", "ipam"];

/// The path of the configuration.
pub(super) const SELECT: &str = "select";

/// The path of a monitored policy's own configuration.
const MONITORED: &str = "select.monitor.select";

/// Maximum number of files that a network may declare.
const FILES_MAX: usize = 8;

/// A file that the operator gives to the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConf {
    /// Its name for the policy.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
}

/// One of the delegates.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Keys the policy may set; those of `ipam` as `ipam.KEY`.
    pub(super) settable: Vec<String>,
    /// The delegate's own keys, `type` among them.
    pub(super) own: Object,
    /// Its `ipam` object: its own, or the network's.
    pub(super) ipam: Option<Object>,
}

/// The configuration into which a choice is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Frame {
    /// A `"type": "weft"` network: this object, with `delegate` instead of `delegates` and `select`.
    Weft(Object),
    /// A stock plugin that passes its own configuration to its delegate.
    Stock {
        /// Keys it adds to the delegate's.
        more: Object,
        /// Where it stores what it needs for DEL, by container id.
        data_dir: PathBuf,
    },
}

/// A network whose delegate is chosen by a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectConf {
    /// The policy: the name of a shipped one, or a URL.
    pub policy: String,
    /// The `select` object as JSON text, without `monitor`: the policy's configuration.
    pub text: String,
    /// Another policy that is asked about the same pod and is only recorded.
    pub monitor: Option<SelectMonitor>,
    /// Files for the policy, sorted by name.
    pub files: Vec<FileConf>,
    pub(super) entries: Vec<Entry>,
    pub(super) frame: Frame,
    /// Path of the object in the configuration, for error texts.
    pub(super) place: &'static str,
}

/// A policy that is asked in addition to the one of `select`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectMonitor {
    /// The policy, as in [`SelectConf::policy`].
    pub policy: String,
    /// Its own configuration and files; `None` means those of `select`.
    pub own: Option<SelectOwn>,
}

/// What a delegate policy reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectOwn {
    /// As [`SelectConf::text`].
    pub text: String,
    /// As [`SelectConf::files`].
    pub files: Vec<FileConf>,
    /// As in [`SelectConf`].
    place: &'static str,
}

// === impl SelectConf ===

impl SelectConf {
    /// Returns the selection as the monitored policy would make it, if it has a configuration of its own.
    #[must_use]
    pub fn monitored(&self) -> Option<Self> {
        let SelectMonitor { policy, own } = self.monitor.clone()?;
        let SelectOwn { text, files, place } = own?;
        Some(Self { policy, text, files, monitor: None, place, ..self.clone() })
    }

    /// Returns the path of the object in the configuration: `select`, or `select.monitor.select`.
    #[must_use]
    pub fn path(&self) -> &'static str {
        self.place
    }

    /// Returns the delegates from which the policy chooses.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        let candidate = |entry: &Entry| {
            let mut conf = entry.own.clone();
            if let Some(ipam) = &entry.ipam {
                conf.set("ipam", ipam.as_value().clone());
            }
            Candidate { name: entry.name.clone(), config: conf.to_text(), settable: entry.settable.clone() }
        };
        self.entries.iter().map(candidate).collect()
    }

    /// Returns whether this is a stock plugin's selection, whose errors are reported in that plugin's words.
    #[must_use]
    pub fn is_stock(&self) -> bool {
        matches!(self.frame, Frame::Stock { .. })
    }

    /// Returns the file in which the replaced stock plugin stored the delegate's configuration of a container, if it
    /// made the attachment.
    #[must_use]
    pub fn left_behind(&self, container_id: &str) -> Option<PathBuf> {
        let Frame::Stock { data_dir, .. } = &self.frame else { return None };
        let plain =
            !container_id.is_empty() && !container_id.contains('/') && container_id != "." && container_id != "..";
        plain.then(|| data_dir.join(container_id))
    }

    /// Returns the configuration that results from a choice. The keys are settable ones (`policy::verify_choice`);
    /// `None` if no delegate has the name.
    #[must_use]
    pub fn chosen<'a>(&self, name: &str, settings: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Option<Object> {
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        let (mut own, mut ipam) = (entry.own.clone(), entry.ipam.clone());
        for (key, value) in settings {
            match ipam_key(key) {
                Some(key) => ipam.get_or_insert_default().set(key, value.clone()),
                None => own.set(key, value.clone()),
            }
        }
        Some(self.written(own, ipam))
    }

    fn written(&self, own: Object, ipam: Option<Object>) -> Object {
        let mut conf = match &self.frame {
            Frame::Weft(network) => network.clone().with("delegate", own.as_value().clone()),
            Frame::Stock { more, .. } => {
                let mut conf = own;
                for (key, value) in more.as_value().as_object().into_iter().flatten() {
                    conf.set(key, value.clone());
                }
                conf
            }
        };
        conf.remove("ipam");
        if let Some(ipam) = ipam {
            conf.set("ipam", ipam.as_value().clone());
        }
        conf
    }

    /// Swaps the monitored policy with the network's own. Each keeps its configuration, if they have two.
    fn swap_with_monitored(&mut self) {
        let Some(SelectMonitor { policy, own }) = &mut self.monitor else { return };
        std::mem::swap(policy, &mut self.policy);
        if let Some(own) = own {
            std::mem::swap(&mut own.text, &mut self.text);
            std::mem::swap(&mut own.files, &mut self.files);
            std::mem::swap(&mut own.place, &mut self.place);
        }
    }

    /// Returns names and configurations of the delegates without settable keys.
    pub(super) fn fixed(&self) -> impl Iterator<Item = (&str, Object)> {
        let fixed = self.entries.iter().filter(|entry| entry.settable.is_empty());
        fixed.map(|entry| (entry.name.as_str(), self.written(entry.own.clone(), entry.ipam.clone())))
    }

    /// Returns the configurations of the delegates without settable keys, as `chosen` writes them.
    pub fn fixed_confs(&self) -> impl Iterator<Item = Object> {
        self.fixed().map(|(_name, conf)| conf)
    }

    /// Returns the external delegates with their configurations without settings: for GC, which knows no choice. A
    /// stock plugin does not forward GC.
    #[must_use]
    pub fn external(&self) -> Vec<DelegateConf> {
        if self.is_stock() {
            return Vec::new();
        }
        let confs = self.entries.iter().map(|entry| self.written(entry.own.clone(), entry.ipam.clone()));
        confs.filter_map(|conf| weft::delegate(&conf, None).ok()).filter(|delegate| !delegate.builtin).collect()
    }
}

/// Returns the type of a stock plugin's delegate.
pub(super) fn stock_kind(conf: &Object) -> Result<String, ConfError> {
    plugin_name(conf.str("type")?.unwrap_or_default())
}

/// Returns a delegate with a complete configuration of its own.
pub(super) fn by_kind(kind: String, conf: Object) -> DelegateConf {
    let builtin = delegate::find(&kind).is_some();
    DelegateConf { kind, conf, builtin }
}

/// `KEY` of `ipam.KEY`.
fn ipam_key(key: &str) -> Option<&str> {
    let (prefix, rest) = key.split_at_checked(IPAM.len())?;
    prefix.eq_ignore_ascii_case(IPAM).then_some(rest)
}

/// Reads `delegates` and `select`; `None` if both are missing.
pub(super) fn read(object: &Object, is_shipped: &dyn Fn(&str) -> bool) -> Result<Option<SelectConf>, ConfError> {
    let (delegates, select) = match (object.objects("delegates")?, object.object("select")?) {
        (None, None) => return Ok(None),
        (Some(_), None) => {
            let hint = "name the policy that picks one of them, as in \"select\": {\"policy\": \"by-label-delegate\"}";
            return Err(ConfError::Missing { key: "select", hint });
        }
        (None, Some(_)) => {
            let hint =
                "list what the policy picks from, as in \"delegates\": [{\"name\": \"a\", \"type\": \"bridge\"}]";
            return Err(ConfError::Missing { key: "delegates", hint });
        }
        (Some(delegates), Some(select)) => (delegates, select),
    };
    if object.get("delegate").is_some() {
        return Err(ConfError::Either { one: "delegate", other: "delegates" });
    }
    let network = object.object("ipam")?;
    let mut entries: Vec<Entry> = Vec::with_capacity(delegates.len());
    for entry in delegates {
        let entry = read_entry(&entry, network.as_ref())?;
        if entries.iter().any(|other| other.name == entry.name) {
            return Err(ConfError::DelegateName { name: entry.name });
        }
        entries.push(entry);
    }
    if entries.is_empty() {
        let hint = "an empty list leaves nothing to pick";
        return Err(ConfError::Missing { key: "delegates", hint });
    }
    let hint = "name a policy that comes with weft, or say where yours is, as in \"file:///etc/weft/policy.wasm\"";
    let policy = select.text("policy")?.ok_or(ConfError::Missing { key: "select.policy", hint })?.to_owned();
    let mut own = select.clone();
    own.remove("monitor");
    let mut rest = object.clone();
    rest.remove("delegates");
    rest.remove("select");
    let (text, files) = (own.to_text(), files(&select)?);
    let frame = Frame::Weft(rest);
    let mut conf = SelectConf { policy, text, monitor: None, files, entries, frame, place: SELECT };
    if let Some((monitor, promoted)) = read_monitor(&select)? {
        conf.monitor = Some(monitor);
        if promoted {
            conf.swap_with_monitored();
        }
    }
    if !conf.policy.contains("://") && !is_shipped(&conf.policy) {
        return Err(ConfError::UnknownPolicy { key: "select.policy", policy: conf.policy });
    }
    Ok(Some(conf))
}

/// Reads `monitor` of `select`, and whether it is promoted.
fn read_monitor(select: &Object) -> Result<Option<(SelectMonitor, bool)>, ConfError> {
    let Some(MonitorConf { kind, promoted, .. }) = MonitorConf::read(select)? else { return Ok(None) };
    let (IpamKind::Shipped(policy) | IpamKind::Wasm { policy }) = kind else { return Ok(None) };
    let own = match select.object_or_empty("monitor")?.object("select")? {
        Some(own) => Some(read_own(own, &policy)?),
        None => None,
    };
    Ok(Some((SelectMonitor { policy, own }, promoted)))
}

/// Reads the `select` of `monitor`: what the policy would get in place of the network's.
fn read_own(mut own: Object, policy: &str) -> Result<SelectOwn, ConfError> {
    let bad = |key: &str, value: String, want| Err(ConfError::BadValue { key: own.path_text(key), value, want });
    if let Some(named) = own.text("policy")?.filter(|named| *named != policy) {
        return bad("policy", named.to_owned(), "left out, or the policy that \"monitor\" names");
    }
    if let Some(monitor) = own.get("monitor") {
        return bad("monitor", monitor.to_string(), "left out: it is monitored itself");
    }
    own.set("policy", policy);
    Ok(SelectOwn { text: own.to_text(), files: files(&own)?, place: MONITORED })
}

fn read_entry(entry: &Object, network: Option<&Object>) -> Result<Entry, ConfError> {
    let missing = |key: &'static str, hint| ConfError::Missing { key, hint };
    let name = entry.text("name")?;
    let name = name.ok_or(missing("delegates[].name", "the policy picks a delegate by its name"))?.to_owned();
    let hint = "name a kind of interface, or a plugin in CNI_PATH";
    let kind = plugin_name(entry.text("type")?.ok_or(missing("delegates[].type", hint))?)?;
    let mut own = entry.clone();
    for key in OWN {
        own.remove(key);
    }
    let found = delegate::find(&kind);
    let settable = entry.strings("settable")?.unwrap_or_default();
    for key in &settable {
        check_settable(key, &entry.path_text("settable"), found)?;
    }
    let ipam = entry.object("ipam")?.or_else(|| network.cloned()).map(Object::into_root);
    Ok(Entry { name, settable, own: own.into_root(), ipam })
}

/// Checks that the delegate knows a key that the policy may set.
fn check_settable(key: &str, place: &str, found: Option<&'static dyn delegate::Delegate>) -> Result<(), ConfError> {
    let same = |known: &&str| known.eq_ignore_ascii_case(key);
    let bad = |want| Err(ConfError::BadValue { key: place.to_owned(), value: key.to_owned(), want });
    if let Some(rest) = ipam_key(key) {
        return if rest.is_empty() { bad("ipam.KEY, with a key of the ipam object") } else { Ok(()) };
    }
    if key.is_empty() || FIXED.iter().any(same) || key.starts_with("cni.dev/") {
        return bad("a key of the delegate, or ipam.KEY; what an entry is and what the runtime says cannot be set");
    }
    match found {
        Some(found) if !found.keys().iter().any(same) => Err(ConfError::UnknownKey {
            key: key.to_owned(),
            place: format!(" in {place:?}"),
            hint: format!("a {} knows {}", found.kind(), found.keys().join(", ")),
        }),
        _ => Ok(()),
    }
}

/// Reads `select.files`: names and absolute paths.
fn files(select: &Object) -> Result<Vec<FileConf>, ConfError> {
    let object = select.object_or_empty("files")?;
    let mut files = Vec::new();
    // Names belong to the policy and are case-sensitive, so do not use the object's lookup.
    for (name, value) in object.as_value().as_object().into_iter().flatten() {
        let bad = |want| ConfError::BadValue { key: object.path_text(name), value: value.to_string(), want };
        let path = value.as_str().map(PathBuf::from).ok_or_else(|| bad("a path"))?;
        if !path.is_absolute() {
            return Err(bad("an absolute path"));
        }
        files.push(FileConf { name: name.clone(), path });
    }
    if files.len() > FILES_MAX {
        let (key, value) = (select.path_text("files"), format!("{} files", files.len()));
        return Err(ConfError::BadValue { key, value, want: "at most 8 files" });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

//! One parsed call of `weft-pod`: the environment, the pod in `CNI_ARGS`, the configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::plugin::Sandbox;
use super::record;
use super::settings::Settings;
use crate::attach::{Context, record_unparsed};
use crate::cni::{self, CniError, Environment, Object, Verb, Version, code};
use crate::store::Key;

/// Keys of `CNI_ARGS` that Kubernetes' runtimes set, or that request an address for the pod.
const ARGS: &[&str] = &["K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID", "IP", "MAC"];

/// Answers a call that weft itself makes, directly or through another vendor's plugin. Then the configuration is that of
/// a network, which somebody else than the operator may have written, and it would choose the directory of the plugins
/// and the trusted namespaces.
///
/// # Errors
/// Always, except for DEL and GC: such a call makes nothing, so nothing is left to remove.
pub fn called_by_weft(program: &str, verb: Verb) -> Result<String, CniError> {
    if matches!(verb, Verb::Del | Verb::Gc) {
        return Ok(String::new());
    }
    let msg = format!(
        "{program} attaches all networks of a pod, so weft does not run it as the plugin of one of them; name the plugin that \
         makes the interface"
    );
    Err(CniError::new(code::INVALID_CONFIG, msg))
}

/// A call of the persona `weft-pod`.
#[derive(Debug)]
pub struct PodCall {
    /// The name by which weft was called.
    pub(super) program: &'static str,
    pub(super) env: Environment,
    pub(super) pairs: Vec<(String, String)>,
    /// The name in the configuration.
    pub(super) name: String,
    pub(super) conf: Object,
    /// The configuration's exact text.
    pub(super) stdin: Vec<u8>,
    /// `None` for DEL and GC if the configuration cannot be used: they only need the journal.
    pub(super) settings: Option<Settings>,
}

impl PodCall {
    /// Reads a call.
    ///
    /// # Errors
    /// The configuration or `CNI_ARGS` cannot be used. DEL and GC use whatever is readable.
    pub fn read(program: &'static str, env: Environment, stdin: Vec<u8>) -> Result<Self, CniError> {
        let conf = cni::read_network(&stdin)?;
        let version = Version::from_conf(&conf, env.verb)?;
        let name = conf.str("name").ok().flatten().unwrap_or_default().to_owned();
        let lenient = matches!(env.verb, Verb::Del | Verb::Gc);
        let pairs = match cni::parse_pairs(&env.args) {
            Ok(pairs) => pairs,
            Err(_unusable) if lenient => Vec::new(),
            Err(error) => return Err(error),
        };
        let settings = match Settings::read(&conf, version) {
            Ok(settings) => Some(settings),
            Err(_unusable) if lenient => None,
            Err(error) => return Err(error),
        };
        if env.verb == Verb::Add {
            cni::check_known(&pairs, ARGS)?;
        }
        Ok(Self { program, env, pairs, name, conf, stdin, settings })
    }

    /// Keeps the record of a failed ADD for `weftctl failures`.
    pub fn keep_failure(&self, context: &Context, error: &CniError) {
        record_unparsed(context, &self.env, &self.stdin, error);
    }

    /// Returns the verb.
    #[must_use]
    pub fn verb(&self) -> Verb {
        self.env.verb
    }

    /// Returns a value of `CNI_ARGS`, or an empty text.
    pub(super) fn arg(&self, key: &str) -> &str {
        let found = self.pairs.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// Returns the pod's namespace and name.
    pub(super) fn pod(&self) -> Result<(&str, &str), CniError> {
        match (self.arg("K8S_POD_NAMESPACE"), self.arg("K8S_POD_NAME")) {
            ("", _) | (_, "") => {
                let msg = "CNI_ARGS name no pod: K8S_POD_NAMESPACE and K8S_POD_NAME are needed; use \"weft\" instead of \
                           \"weft-pod\" outside Kubernetes";
                Err(CniError::new(code::INVALID_ENVIRONMENT, msg))
            }
            named => Ok(named),
        }
    }

    pub(super) fn settings(&self) -> Result<&Settings, CniError> {
        // `read` has checked this for every verb that needs it.
        self.settings.as_ref().ok_or_else(|| CniError::new(code::INVALID_CONFIG, "the configuration cannot be used"))
    }

    pub(super) fn key(&self) -> Key {
        record::key(&self.name, &self.env.container_id, &self.env.ifname)
    }

    /// Returns the runtime's `runtimeConfig`.
    pub(super) fn runtime_config(&self) -> Result<Map<String, Value>, CniError> {
        let wrong = |error: cni::Mistyped| CniError::new(code::INVALID_CONFIG, error.to_string());
        let object = self.conf.object_or_empty("runtimeConfig").map_err(wrong)?;
        Ok(object.as_value().as_object().cloned().unwrap_or_default())
    }

    /// Returns where to look for plugins: `binDir`, then the runtime's path.
    pub(super) fn path(&self) -> Vec<PathBuf> {
        let own = self.settings.as_ref().map(|settings| settings.bin_dir.clone());
        let mut path: Vec<PathBuf> = own.into_iter().collect();
        path.extend(self.env.path.iter().cloned());
        path
    }

    /// Returns the sandbox of this call.
    pub(super) fn sandbox(&self) -> Sandbox {
        let seconds = self.settings.as_ref().map_or(120, |settings| settings.plugin_timeout_seconds);
        Sandbox {
            container_id: self.env.container_id.clone(),
            ifname: self.env.ifname.clone(),
            netns: self.env.netns.clone(),
            path: self.path(),
            limit: Duration::from_secs(seconds),
            deadline: None,
            facts: None,
        }
    }
}

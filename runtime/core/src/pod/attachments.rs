//! Makes the list of attachments from a pod's annotations and the configuration: the networks in order, each plugin
//! with the exact object that it gets on stdin. Reads files on the node (`files`), changes nothing.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::attachment::{DeviceInfoFiles, PluginCall, PodAttachment, Progress};
use super::device_info;
use super::error::PodError;
use super::files;
use super::network::{NetworkConf, plugin_type};
use super::references::full_name;
use super::request::{DefaultRoute, args, check_capabilities, plugin_conf, requested};
use super::selection::{DEFAULT_NETWORK, NETWORKS, Selection, parse_selection};
use super::settings::{NetworkRef, Networks, Settings};
use super::trust;
use crate::agent::pod::{Definition, PodInfo};

/// The annotation of a definition with the resource whose devices its attachments get.
pub const RESOURCE_NAME: &str = "k8s.v1.cni.cncf.io/resourceName";

/// The inputs of the list.
pub struct Input<'a> {
    /// `weft-pod`'s configuration.
    pub settings: &'a Settings,
    /// The configuration's name, which is the network's name of inline delegates without one.
    pub conf_name: &'a str,
    /// `runtimeConfig` of the runtime.
    pub runtime_config: &'a Map<String, Value>,
    /// `CNI_CONTAINERID`.
    pub container_id: &'a str,
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// The pairs of `CNI_ARGS`.
    pub args: &'a [(String, String)],
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The agent's answer about the pod.
    pub facts: &'a PodInfo,
    /// Returns whether weft has a plugin of that name.
    pub is_ours: &'a dyn Fn(&str) -> bool,
}

/// A network with the pod's requests.
struct Wanted {
    label: String,
    conf: NetworkConf,
    selection: Selection,
    resource: Option<String>,
}

/// Returns the attachments of a pod, the default network first (R28).
///
/// # Errors
/// An annotation, a definition or a configuration is wrong or missing; the pod must then not be attached to any
/// network.
pub fn attachments(input: &Input<'_>, warnings: &mut Vec<String>) -> Result<Vec<PodAttachment>, PodError> {
    let mut builder = Builder { input, warnings, devices: BTreeMap::new() };
    let mut wanted = builder.default_networks()?;
    builder.replace_default(&mut wanted)?;
    wanted.extend(builder.selected()?);
    let default_route =
        DefaultRoute::from_selections(wanted.iter().map(|wanted| (wanted.label.as_str(), &wanted.selection)))?;
    let mut list: Vec<PodAttachment> = Vec::with_capacity(wanted.len());
    for (index, wanted) in wanted.into_iter().enumerate() {
        let mut attachment = builder.attachment(index, wanted)?;
        attachment.plugins.extend(default_route.as_ref().and_then(|route| route.step(index, &attachment)));
        if let Some(other) = list.iter().find(|other| other.ifname == attachment.ifname) {
            let PodAttachment { label, ifname, .. } = attachment;
            return Err(PodError::NameTaken { network: label, ifname, by: other.label.clone() });
        }
        list.push(attachment);
    }
    Ok(list)
}

struct Builder<'a, 'w> {
    input: &'a Input<'a>,
    warnings: &'w mut Vec<String>,
    /// The remaining devices of each resource.
    devices: BTreeMap<String, std::vec::IntoIter<String>>,
}

impl Builder<'_, '_> {
    /// Returns the networks that every pod gets.
    fn default_networks(&mut self) -> Result<Vec<Wanted>, PodError> {
        let Input { settings, conf_name, namespace, facts, .. } = *self.input;
        let (cluster, further) = match &settings.networks {
            Networks::Inline(delegates) => {
                let read = |delegate| {
                    let conf = inline(settings, conf_name, Some(delegate))?;
                    Ok(Wanted { label: conf.name.clone(), conf, selection: Selection::default(), resource: None })
                };
                return delegates.iter().map(read).collect();
            }
            Networks::Named { cluster, further } => (cluster, further),
        };
        let mut wanted = vec![named(settings, cluster, &facts.networks, self.warnings).map_err(not_ready)?];
        if !settings.is_system(namespace) {
            for network in further {
                wanted.push(named(settings, network, &facts.networks, self.warnings)?);
            }
        }
        Ok(wanted)
    }

    /// Lets `v1.multus-cni.io/default-network` replace the first network.
    fn replace_default(&mut self, wanted: &mut [Wanted]) -> Result<(), PodError> {
        let Input { settings, facts, ifname, .. } = *self.input;
        let text = facts.annotations.get(DEFAULT_NETWORK).map(String::as_str).unwrap_or_default();
        let mut selections = parse_selection(DEFAULT_NETWORK, text)?;
        let count = selections.len();
        let (Some(selection), 1) = (selections.pop(), count) else {
            return if count == 0 { Ok(()) } else { Err(PodError::DefaultCount { count }) };
        };
        if let Some(asked) = selection.interface.as_deref().filter(|asked| *asked != ifname) {
            return Err(PodError::DefaultInterface { asked: asked.to_owned(), ifname: ifname.to_owned() });
        }
        let replacement = self.defined(selection, &settings.namespace)?;
        if let Some(first) = wanted.first_mut() {
            *first = replacement;
        }
        Ok(())
    }

    /// Returns the networks of the pod's annotation.
    fn selected(&mut self) -> Result<Vec<Wanted>, PodError> {
        let Input { facts, namespace, .. } = *self.input;
        let text = facts.annotations.get(NETWORKS).map(String::as_str).unwrap_or_default();
        let selections = parse_selection(NETWORKS, text)?;
        selections.into_iter().map(|selection| self.defined(selection, namespace)).collect()
    }

    /// Returns the network of an element; names without a namespace are looked up in `namespace`.
    fn defined(&mut self, selection: Selection, namespace: &str) -> Result<Wanted, PodError> {
        let Input { settings, facts, .. } = *self.input;
        let definition = full_name(&selection, namespace);
        let target = selection.namespace.clone().unwrap_or_else(|| namespace.to_owned());
        // The operator put this network into multusNamespace for this annotation, so every pod may use it.
        let is_of_operator = selection.namespace.is_none() && target == settings.namespace;
        if !is_of_operator && !settings.may_use(self.input.namespace, &target) {
            return Err(PodError::Isolated {
                pod_namespace: self.input.namespace.to_owned(),
                definition,
                namespace: target,
            });
        }
        let (conf, resource) = by_definition(settings, &selection.name, &target, &facts.networks, self.warnings)?;
        Ok(Wanted { label: definition, conf, selection, resource })
    }

    fn attachment(&mut self, index: usize, wanted: Wanted) -> Result<PodAttachment, PodError> {
        let is_default = index == 0;
        let Wanted { label, conf, selection, resource } = wanted;
        let ifname = match &selection.interface {
            _ if is_default => self.input.ifname.to_owned(),
            Some(interface) => interface.clone(),
            None => format!("net{index}"),
        };
        trust::refuse_pod_plugins(&label, &conf)?;
        check_capabilities(&label, &conf, &selection)?;
        let device = self.device(&label, resource.as_deref(), &selection)?;
        let device_info = device.as_deref().map(|device| DeviceInfoFiles {
            device_plugin: resource.as_deref().map(|resource| device_info::device_plugin_file(resource, device)),
            attachment: device_info::attachment_file(&label, self.input.container_id, &ifname),
        });
        let mut runtime = if is_default { self.input.runtime_config.clone() } else { Map::new() };
        runtime.extend(requested(&selection, device.as_deref(), device_info.as_ref()));
        let resource_device = device.as_deref().filter(|_device| resource.is_some());
        let plugin = |plugin: &Map<String, Value>| {
            let kind = plugin_type(plugin).to_owned();
            let external = !(self.input.is_ours)(&kind) || self.input.settings.external_plugins.contains(&kind);
            let conf = plugin_conf(plugin, &selection, &runtime, resource_device);
            PluginCall { kind, conf: Value::Object(conf).to_string(), external }
        };
        Ok(PodAttachment {
            plugins: conf.plugins.iter().map(plugin).collect(),
            args: args(self.input.args, is_default, &selection),
            label,
            ifname,
            version: conf.version.to_string(),
            network: conf.name,
            is_default,
            device_info,
            disable_check: conf.disable_check,
            disable_gc: conf.disable_gc,
            progress: Progress::Planned,
            result: None,
        })
    }

    /// Returns the next device of the resource. As with Multus, a resource without remaining devices provides none. The
    /// device that the annotation names counts only for a network without a resource: otherwise a pod could name a
    /// device that kubelet gave to another one.
    fn device(
        &mut self,
        label: &str,
        resource: Option<&str>,
        selection: &Selection,
    ) -> Result<Option<String>, PodError> {
        let Some(resource) = resource else { return Ok(selection.device_id.clone()) };
        let facts = self.input.facts;
        if let Some(why) = &facts.devices_fault {
            let (network, resource, why) = (label.to_owned(), resource.to_owned(), why.clone());
            return Err(PodError::Devices { network, resource, why });
        }
        let left = self.devices.entry(resource.to_owned()).or_insert_with(|| {
            let mut devices = facts.devices.get(resource).cloned().unwrap_or_default();
            devices.sort();
            devices.into_iter()
        });
        let device = left.next();
        if let Some(named) = selection.device_id.as_ref().filter(|_named| device.is_none()) {
            self.warnings.push(format!(
                "network {label}: deviceID {named:?} of the annotation is ignored, because the network's devices are those of \
                 resource {resource:?}, and the pod has none left"
            ));
        }
        Ok(device)
    }
}

fn not_ready(error: PodError) -> PodError {
    match error {
        PodError::NotFound { .. } | PodError::NoFile { .. } | PodError::Network(_) => {
            PodError::DefaultNotReady { why: error.to_string() }
        }
        other => other,
    }
}

fn inline(settings: &Settings, conf_name: &str, delegate: Option<&Value>) -> Result<NetworkConf, PodError> {
    let value = delegate.cloned().unwrap_or(Value::Null);
    let read = NetworkConf::from_value(value, Some(conf_name), settings.version);
    read.map_err(|why| {
        super::network::NetworkError { place: "\"delegates\" of the configuration".to_owned(), why }.into()
    })
}

/// Returns a network of the configuration: a path, a definition, or a name in a file of `confDir`.
fn named(
    settings: &Settings,
    network: &NetworkRef,
    definitions: &BTreeMap<String, Definition>,
    warnings: &mut Vec<String>,
) -> Result<Wanted, PodError> {
    let selection = Selection::default();
    let name = match network {
        NetworkRef::Path(path) => {
            let conf = files::read_path(path, settings.version)?;
            return Ok(Wanted { label: conf.name.clone(), conf, selection, resource: None });
        }
        NetworkRef::Name(name) => name,
    };
    match by_definition(settings, name, &settings.namespace, definitions, warnings) {
        Ok((conf, resource)) => {
            Ok(Wanted { label: format!("{}/{name}", settings.namespace), conf, selection, resource })
        }
        Err(missing @ PodError::NotFound { .. }) => {
            match files::find_by_name(&settings.conf_dir, name, settings.version, warnings)? {
                Some(conf) => Ok(Wanted { label: conf.name.clone(), conf, selection, resource: None }),
                None => Err(missing),
            }
        }
        Err(error) => Err(error),
    }
}

/// Returns the configuration of a definition, and its resource. A definition without a config uses the node's file of
/// that name (R4).
fn by_definition(
    settings: &Settings,
    name: &str,
    namespace: &str,
    definitions: &BTreeMap<String, Definition>,
    warnings: &mut Vec<String>,
) -> Result<(NetworkConf, Option<String>), PodError> {
    let full = format!("{namespace}/{name}");
    let missing = |why: String| PodError::NotFound { name: name.to_owned(), namespace: namespace.to_owned(), why };
    let (config, annotations) = match definitions.get(&full) {
        Some(Definition::Found { config, annotations }) => (config, annotations),
        Some(Definition::Failed { message }) => return Err(missing(message.clone())),
        Some(Definition::NotFound) | None => {
            return Err(missing(format!("network-attachment-definitions.k8s.cni.cncf.io {name:?} not found")));
        }
    };
    let conf = match config.as_deref().filter(|config| !config.is_empty()) {
        Some(config) => {
            let conf = trust::definition_conf(settings, &full, name, config)?;
            trust::check(settings, &conf, &full, namespace)?;
            conf
        }
        None => files::find_by_name(&settings.conf_dir, name, settings.version, warnings)?.ok_or_else(|| {
            PodError::NoFile { definition: full, name: name.to_owned(), dir: settings.conf_dir.display().to_string() }
        })?,
    };
    Ok((conf, annotations.get(RESOURCE_NAME).filter(|resource| !resource.is_empty()).cloned()))
}

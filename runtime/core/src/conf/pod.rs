//! What the runtime and the configuration tell about the pod.

use std::collections::BTreeMap;

use serde_json::Value;
use weft_host_abi::types::Pod;

use super::{ConfError, Network, Object};

impl Network {
    /// The pod, as far as the runtime and the configuration tell.
    #[must_use]
    pub fn pod(&self, cni_args: &[(String, String)]) -> Option<Pod> {
        let arg = |name: &str| {
            let found = cni_args.iter().rev().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let pod = Pod {
            namespace: arg("K8S_POD_NAMESPACE"),
            name: arg("K8S_POD_NAME"),
            uid: arg("K8S_POD_UID"),
            labels: self.labels.clone(),
            ..Pod::default()
        };
        (pod != Pod::default()).then_some(pod)
    }

    /// The MAC that is asked for, as text: by the runtime, then by `args`, then by `CNI_ARGS`, then by the delegate's
    /// configuration. What the delegate makes of it is its own rule; this is what policies get.
    #[must_use]
    pub fn requested_mac(&self, cni_args: &[(String, String)]) -> Option<String> {
        let text = |object: &Object| object.text("mac").ok().flatten().map(ToOwned::to_owned);
        let arg = || {
            let found = cni_args.iter().rev().find(|(key, value)| key == "MAC" && !value.is_empty());
            found.map(|(_, value)| value.clone())
        };
        text(&self.runtime_config)
            .or_else(|| text(&self.args))
            .or_else(arg)
            .or_else(|| self.delegate().and_then(|delegate| text(&delegate.conf)))
    }
}

/// `args.cni.labels`: an object, or the specification's list of `{"key", "value"}`.
pub(super) fn labels(args: &Object) -> Result<Vec<(String, String)>, ConfError> {
    let mut labels = BTreeMap::new();
    match args.get("labels") {
        Some(Value::Array(_)) => {
            for label in args.objects("labels")?.unwrap_or_default() {
                let text = |key| Ok::<_, ConfError>(label.str(key)?.unwrap_or_default().to_owned());
                labels.insert(text("key")?, text("value")?);
            }
        }
        _ => {
            // Label keys are case-sensitive, so they are not looked up by name.
            let object = args.object_or_empty("labels")?;
            for (key, value) in object.as_value().as_object().into_iter().flatten() {
                let text = value.as_str().ok_or_else(|| ConfError::BadValue {
                    key: object.place(key),
                    value: value.to_string(),
                    want: "a string",
                })?;
                labels.insert(key.clone(), text.to_owned());
            }
        }
    }
    Ok(labels.into_iter().collect())
}

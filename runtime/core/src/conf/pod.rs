//! The pod according to the runtime and the configuration.

use weft_host_abi::types::Pod;

use super::{Network, Object};

impl Network {
    /// Returns the pod, as far as the runtime and the configuration describe it.
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

    /// Returns the requested MAC as text: the runtime's, otherwise that of `args`, of `CNI_ARGS`, or of the delegate's
    /// configuration. Policies get this value; the delegate has its own rule.
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

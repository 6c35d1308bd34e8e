//! What the runtime and the configuration tell about the pod.

use weft_host_abi::types::Pod;

use super::{Network, Object};

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

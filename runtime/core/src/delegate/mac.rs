//! The requested MAC address, for stock plugins that take it from the runtime, otherwise from `CNI_ARGS`, otherwise
//! from `mac`.

use super::DelegateError;
use crate::cni::Object;
use crate::keys;
use crate::plan::Mac;

pub(super) fn requested_mac(conf: &Object, cni_args: &[(String, String)]) -> Result<Option<Mac>, DelegateError> {
    let asked = match keys::runtime_mac(conf)?.or_else(|| keys::cni_args_mac(cni_args)) {
        None => conf.text("mac").map_err(keys::mistyped)?.map(ToOwned::to_owned),
        found => found,
    };
    let parse = |text: String| {
        keys::parse_mac(&text).map_err(|why| DelegateError::Conf(format!("invalid args {text} for MAC addr: {why}")))
    };
    asked.map(parse).transpose()
}

//! The parts of a network's configuration that other plugins would get on stdin.

use super::Object;

/// What builds the interface.
#[derive(Debug, Clone, PartialEq)]
pub struct DelegateConf {
    /// Its type.
    pub kind: String,
    /// Its configuration, as the plugin of that type would get it on stdin.
    pub conf: Object,
    /// Whether it is one of `delegate`; otherwise it is a binary in `CNI_PATH`.
    pub builtin: bool,
}

/// One step: a change to the link of the delegate or the previous plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct StepConf {
    /// Its type; always one of `step`.
    pub kind: String,
    /// Its configuration, as the plugin of that type would get it on stdin.
    pub conf: Object,
}

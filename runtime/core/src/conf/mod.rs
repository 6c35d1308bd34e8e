//! PluginConf: what stdin said, read as the program's name and the `type` ask for. Pure.

pub use crate::cni::Object;

//! The CNI protocol: environment and stdin in, one JSON document out. Pure; knows the specification, but none of weft's
//! other parts.
//!
//! Texts, error codes and the shapes of documents are those of the reference implementation, so that weft can replace
//! its plugins. Not here: the meaning of a PluginConf (`conf`), and the codes of errors (`attach`).

mod args;
mod document;
mod environment;
mod error;
mod names;
mod net;
mod network;
mod object;
mod result;
mod text;
mod version;

pub use args::{check_known, parse_pairs, usable_pairs};
pub use environment::{Environment, Invoked, Verb, read_environment};
pub use error::{CniError, code};
pub use names::{check_container_id, check_ifname, check_name};
pub use net::read_net;
pub use network::read_network;
pub use object::{Mistyped, Object};
pub use result::{CniResult, Interface, Ip, read_dns};
pub use version::{Version, about_message, version_document};

#[cfg(test)]
mod fuzz;

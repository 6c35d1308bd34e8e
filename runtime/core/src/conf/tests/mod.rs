//! Reading configurations as each persona.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod dhcp;
mod docs;
mod fuzz;
mod ipam;
mod monitor;
mod select;
mod stock;
mod weft;

use serde_json::{Value, json};

use super::*;
use crate::cni::parse_pairs;

const SHIPPED: [&str; 3] = ["host-local", "static", "by-label"];

fn is_shipped(name: &str) -> bool {
    SHIPPED.contains(&name)
}

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

fn parse_with(persona: Persona, conf: Value, args: &str) -> Result<Network, ConfError> {
    Network::parse(persona, &object(conf), &parse_pairs(args).unwrap(), &is_shipped)
}

fn parse(persona: Persona, conf: Value) -> Result<Network, ConfError> {
    parse_with(persona, conf, "")
}

fn error(persona: Persona, conf: Value) -> String {
    parse(persona, conf).unwrap_err().to_string()
}

/// A `weft` configuration with other keys.
fn weft_conf(more: Value) -> Value {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "weft", "delegate": {"type": "bridge"}});
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

/// A host-local `ipam` object with these range sets.
fn host_local(ranges: Value) -> Value {
    json!({"type": "host-local", "ranges": ranges})
}

//! `sbr`: packets from an address of the interface leave through the interface, whatever the main table says.

use std::net::IpAddr;

use super::{Previous, Step, StepError, StepInput, StepPlan, mistyped};
use crate::cni::Object;
use crate::plan::{Op, ShapeIp, Source, SourceRoutes};

/// The `sbr` step.
pub(super) struct Sbr;

/// A configuration, read.
#[derive(Default)]
struct Settings {
    table: Option<u32>,
    gateway_v4: Option<IpAddr>,
    gateway_v6: Option<IpAddr>,
    source_hints: bool,
}

impl Step for Sbr {
    fn kind(&self) -> &'static str {
        "sbr"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["table", "gateways", "addSourceHints"]
    }

    fn validate(&self, conf: &Object, _cni_args: &[(String, String)]) -> Result<(), StepError> {
        Settings::read(conf).map(drop)
    }

    fn plan(&self, input: &StepInput<'_>) -> Result<StepPlan, StepError> {
        let settings = Settings::read(input.conf)?;
        let missing = || StepError::Previous("This plugin must be called as chained plugin".to_owned());
        let previous = input.previous.ok_or_else(missing)?;
        let ifname = &input.attachment.ifname;
        let sources = sources(previous, ifname, &settings);
        // The stock plugin only checks that there is any address at all; if none belongs to the interface, it removes
        // the interface's routes.
        if sources.is_empty() {
            return Err(StepError::Previous(format!("No IP addresses supplied on interface: {ifname}")));
        }
        let Settings { table, source_hints, .. } = settings;
        let op = SourceRoutes { link: ifname.clone(), sources, table, source_hints };
        Ok(StepPlan { ops: vec![Op::SourceRoutes(op)], ..StepPlan::default() })
    }
}

fn sources(previous: &Previous, ifname: &str, settings: &Settings) -> Vec<Source> {
    let source = |ip: &ShapeIp| {
        let fixed = if ip.address.addr().is_ipv4() { settings.gateway_v4 } else { settings.gateway_v6 };
        Source { address: ip.address, gateway: fixed.or(ip.gateway) }
    };
    previous.own_addresses(ifname).map(source).collect()
}

impl Settings {
    fn read(conf: &Object) -> Result<Self, StepError> {
        let source_hints = conf.bool("addSourceHints").map_err(mistyped)?.unwrap_or_default();
        let gateways = conf.strings("gateways").map_err(mistyped)?.unwrap_or_default();
        if let Some(table) = conf.int("table").map_err(mistyped)? {
            let fits = u32::try_from(table).ok().filter(|table| *table != 0);
            let invalid = || StepError::Conf(format!("invalid table {table}, must be from 1 to {}", u32::MAX));
            // Somebody else manages the table's routes, so nothing else counts.
            return Ok(Self { table: Some(fits.ok_or_else(invalid)?), ..Self::default() });
        }
        if gateways.len() > 2 {
            let text = "gateways list cannot contain more than 2 entries (one IPv4, one IPv6)";
            return Err(StepError::Conf(text.to_owned()));
        }
        let mut settings = Self { source_hints, ..Self::default() };
        for text in gateways {
            let gateway: IpAddr =
                text.parse().map_err(|_bad| StepError::Conf(format!("invalid static gateway IP address: {text}")))?;
            // As in Go, an IPv4-mapped IPv6 address is an IPv4 address.
            let gateway = gateway.to_canonical();
            let (place, family) = match gateway {
                IpAddr::V4(_) => (&mut settings.gateway_v4, "IPv4"),
                IpAddr::V6(_) => (&mut settings.gateway_v6, "IPv6"),
            };
            if let Some(first) = place.replace(gateway) {
                return Err(StepError::Conf(format!(
                    "gateways list contains multiple {family} addresses: {first} and {text}"
                )));
            }
        }
        Ok(settings)
    }
}

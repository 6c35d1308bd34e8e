//! `tuning`: sysctls of the container's namespace, and attributes of its link.
//!
//! The link's previous attributes are stored in the journal instead of the stock plugin's backup file, so `dataDir` has
//! no effect.

use std::path::PathBuf;

use weft_host_abi::types::Attachment;

use super::{Step, StepError, StepInput, StepPlan};
use crate::cni::Object;
use crate::keys;
use crate::plan::{DeviceLink, FoundDevice, LinkAttributes, LinkRef, Need, Op, TuneLink, TuneSysctl};

/// Patterns of the sysctls that configurations may set; without the file, all are allowed.
const ALLOWLIST: &str = "/etc/cni/tuning/allowlist.conf";

/// The placeholder for the interface's name in a sysctl.
const IFNAME: &str = "IFNAME";

/// The `tuning` step.
pub(super) struct Tuning;

/// A configuration, read.
struct Settings {
    /// Keys as they are written, with their values.
    sysctls: Vec<(String, String)>,
    link: LinkAttributes,
}

impl Step for Tuning {
    fn kind(&self) -> &'static str {
        "tuning"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["sysctl", "mac", "promisc", "mtu", "allmulti", "txQLen", "dataDir"]
    }

    fn cni_args(&self) -> &'static [&'static str] {
        &["MAC"]
    }

    fn validate(&self, conf: &Object, cni_args: &[(String, String)]) -> Result<(), StepError> {
        if conf.object_or_empty("sysctl").map_err(keys::mistyped)?.repeats_a_key() {
            return Err(StepError::Conf("duplicated sysctl keys are not allowed".to_owned()));
        }
        conf.str("dataDir").map_err(keys::mistyped)?;
        Settings::read(conf, cni_args).map(drop)
    }

    fn needs(&self, _conf: &Object, attachment: &Attachment) -> Result<Vec<Need>, StepError> {
        let link = LinkRef::container(attachment.ifname.as_str());
        Ok(vec![Need::File(PathBuf::from(ALLOWLIST)), Need::Link(link)])
    }

    fn plan(&self, input: &StepInput<'_>) -> Result<StepPlan, StepError> {
        let ifname = &input.attachment.ifname;
        let settings = Settings::read(input.conf, input.cni_args)?;
        let allowlist = input.observed.files.get(&PathBuf::from(ALLOWLIST));
        check_allowed(&settings.sysctls, allowlist.map(String::as_str))?;
        let previous = input.previous.ok_or_else(|| StepError::Previous("Required prevResult missing".to_owned()))?;
        let mut plan = StepPlan::default();
        for (key, value) in settings.sysctls {
            plan.ops.push(Op::TuneSysctl(TuneSysctl { key: path(&key, ifname)?, value }));
        }
        let set = settings.link;
        if set.is_empty() {
            return Ok(plan);
        }
        plan.mac = set.mac;
        let before = match link_attributes(input) {
            // Attributes of a link that the plan makes disappear with it.
            _ if input.interface_is_made() => LinkAttributes::default(),
            Some(found) => previous_values(&set, &found),
            None => return Err(StepError::Host(format!("failed to get {ifname:?}: Link not found"))),
        };
        plan.ops.push(Op::TuneLink(TuneLink { link: ifname.clone(), set, before }));
        let addresses: Vec<_> = previous.own_addresses(ifname).map(|ip| ip.address.addr()).collect();
        // Neighbours know the address that the link had when the delegate made it.
        if plan.mac.is_some() && !addresses.is_empty() {
            plan.ops.push(Op::Announce { link: ifname.clone(), addresses });
        }
        Ok(plan)
    }
}

/// Returns the attributes of the interface before the plan: in the container, or on the host if the plan takes it from
/// there.
fn link_attributes(input: &StepInput<'_>) -> Option<LinkAttributes> {
    let ifname = &input.attachment.ifname;
    let attributes = |mac, promiscuous, mtu, all_multicast, tx_queue_length| LinkAttributes {
        mac,
        promiscuous: Some(promiscuous),
        mtu: Some(mtu),
        all_multicast: Some(all_multicast),
        tx_queue_length: Some(tx_queue_length),
    };
    if input.before.iter().any(|op| matches!(op, Op::TakeDevice(taken) if taken.name == *ifname)) {
        let Some(FoundDevice::Link(device)) = &input.observed.device else { return None };
        let DeviceLink { mac, promiscuous, mtu, all_multicast, tx_queue_length, .. } = *device;
        return Some(attributes(mac, promiscuous, mtu, all_multicast, tx_queue_length));
    }
    let link = input.observed.links.get(&LinkRef::container(ifname.as_str()))?;
    Some(attributes(link.mac, link.promiscuous, link.mtu, link.all_multicast, link.tx_queue_length))
}

/// Returns the previous values of the attributes that are to be set.
fn previous_values(set: &LinkAttributes, was: &LinkAttributes) -> LinkAttributes {
    LinkAttributes {
        mac: set.mac.and(was.mac),
        promiscuous: set.promiscuous.and(was.promiscuous),
        mtu: set.mtu.and(was.mtu),
        all_multicast: set.all_multicast.and(was.all_multicast),
        tx_queue_length: set.tx_queue_length.and(was.tx_queue_length),
    }
}

/// Checks that every sysctl matches a line of the list, if the list exists.
fn check_allowed(sysctls: &[(String, String)], allowlist: Option<&str>) -> Result<(), StepError> {
    let Some(text) = allowlist else { return Ok(()) };
    let lines: Vec<&str> = text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect();
    for (key, _) in sysctls {
        let mut allowed = false;
        for line in &lines {
            let pattern = regex_lite::Regex::new(line)
                .map_err(|error| StepError::Conf(format!("error parsing regexp {line:?} of {ALLOWLIST}: {error}")))?;
            if pattern.is_match(key) {
                allowed = true;
                break;
            }
        }
        if !allowed {
            return Err(StepError::Conf(format!(
                "Sysctl {key} is not allowed. Only the following sysctls are allowed: [{}]",
                lines.join(" ")
            )));
        }
    }
    Ok(())
}

/// Returns the path of a sysctl below `/proc/sys/net`. A dot separates like a slash, except in the interface's name.
fn path(key: &str, ifname: &str) -> Result<String, StepError> {
    let named = key.replace('.', "/").replacen(IFNAME, ifname, 1);
    let mut parts = named.split('/').filter(|part| !part.is_empty() && *part != ".");
    let invalid = || StepError::Conf(format!("invalid net sysctl key: {named:?}"));
    if parts.next() != Some("net") {
        return Err(invalid());
    }
    let parts: Vec<&str> = parts.collect();
    // An interface cannot be named with dots alone, and dots of a key are separators by now.
    if parts.is_empty() || parts.contains(&"..") { Err(invalid()) } else { Ok(parts.join("/")) }
}

impl Settings {
    /// `args.cni` takes precedence; for the MAC address, the capability precedes `CNI_ARGS`.
    fn read(conf: &Object, cni_args: &[(String, String)]) -> Result<Self, StepError> {
        let args = conf.object_or_empty("args").map_err(keys::mistyped)?;
        let args = args.object_or_empty("cni").map_err(keys::mistyped)?;
        let mut sysctls = sysctls(conf)?;
        for (key, value) in self::sysctls(&args)? {
            match sysctls.iter_mut().find(|(there, _)| *there == key) {
                Some((_, there)) => *there = value,
                None => sysctls.push((key, value)),
            }
        }
        let promisc = match args.bool("promisc").map_err(keys::mistyped)? {
            Some(promisc) => promisc,
            None => keys::flag(conf, "promisc")?,
        };
        let mtu = match args.int("mtu").map_err(keys::mistyped)? {
            Some(_) => keys::mtu(&args)?,
            None => keys::mtu(conf)?,
        };
        let all_multicast = match args.bool("allmulti").map_err(keys::mistyped)? {
            None => conf.bool("allmulti").map_err(keys::mistyped)?,
            set => set,
        };
        let tx_queue_length = match queue_length(&args)? {
            None => queue_length(conf)?,
            set => set,
        };
        let mac = mac(conf, &args, cni_args)?;
        let mac = match mac.as_deref() {
            None | Some("") => None,
            Some(text) => Some(
                keys::parse_mac(text)
                    .map_err(|why| StepError::Conf(format!("invalid args {text} for MAC addr: {why}")))?,
            ),
        };
        let promiscuous = promisc.then_some(true);
        Ok(Self { sysctls, link: LinkAttributes { mac, promiscuous, mtu, all_multicast, tx_queue_length } })
    }
}

/// An empty MAC in `args.cni` means none, whatever the others say.
fn mac(conf: &Object, args: &Object, cni_args: &[(String, String)]) -> Result<Option<String>, StepError> {
    if let Some(mac) = args.str("mac").map_err(keys::mistyped)? {
        return Ok(Some(mac.to_owned()));
    }
    let own = conf.str("mac").map_err(keys::mistyped)?;
    Ok(keys::runtime_mac(conf)?.or_else(|| keys::cni_args_mac(cni_args)).or_else(|| own.map(ToOwned::to_owned)))
}

fn queue_length(conf: &Object) -> Result<Option<u32>, StepError> {
    let Some(length) = conf.int("txQLen").map_err(keys::mistyped)? else { return Ok(None) };
    let fits = u32::try_from(length).ok().filter(|length| i32::try_from(*length).is_ok());
    fits.map(Some).ok_or_else(|| StepError::Conf(format!("invalid txQLen {length}, must be from 0 to {}", i32::MAX)))
}

/// Returns `sysctl` of an object, in written order. These keys are case-sensitive: they are file names.
fn sysctls(conf: &Object) -> Result<Vec<(String, String)>, StepError> {
    let object = conf.object_or_empty("sysctl").map_err(keys::mistyped)?;
    Ok(object.texts().map_err(keys::mistyped)?)
}

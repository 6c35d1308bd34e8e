//! `host-device`: moves a device of the host to the container unchanged. A device driven from user space (DPDK) stays
//! in place, and the attachment only gets addresses.

use super::addressing::{self, ARP_NOTIFY, Dad, NDISC_NOTIFY, Probe};
use super::{Delegate, DelegateError, Input, IpamUse};
use crate::cni::{CniResult, Object};
use crate::keys;
use crate::plan::{DeviceLink, DeviceQuery, FoundDevice, LinkRef, Need, Op, Plan, ResultShape, TakeDevice};

/// The `host-device` delegate.
pub(super) struct HostDevice;

fn read(conf: &Object) -> Result<DeviceQuery, DelegateError> {
    let text = |key: &str| Ok::<_, DelegateError>(conf.text(key).map_err(keys::mistyped)?.map(ToOwned::to_owned));
    let (name, hardware) = (text("device")?, text("hwaddr")?);
    let (kernel_path, pci) = (text("kernelpath")?, text("pciBusID")?);
    let runtime = conf.object_or_empty("runtimeConfig").map_err(keys::mistyped)?;
    let id = runtime.text("deviceID").map_err(keys::mistyped)?.map(ToOwned::to_owned);
    // A field of the stock plugin without an explicit JSON name, which is nevertheless read.
    let user_space = keys::flag(conf, "DPDKMode")?;
    if [&name, &hardware, &kernel_path, &pci, &id].iter().all(|key| key.is_none()) {
        let text = "specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"".to_owned();
        return Err(DelegateError::Conf(text));
    }
    // Later keys are ignored, whatever they say.
    let hardware = hardware.filter(|_| name.is_none()).map(|text| parse_hardware(&text)).transpose()?;
    if let Some(path) = kernel_path.as_ref().filter(|_| name.is_none() && hardware.is_none()) {
        check_path(path)?;
    }
    Ok(DeviceQuery { name, hardware, kernel_path, pci, id, user_space })
}

fn check_path(path: &str) -> Result<(), DelegateError> {
    if path.starts_with("/sys/devices/") && !path.split('/').any(|part| part == "..") {
        return Ok(());
    }
    let why = format!("kernel device path {path:?} must be absolute and begin with /sys/devices/");
    Err(DelegateError::Conf(format!("failed to find host device: {why}")))
}

/// A hardware address as Go reads one: 6, 8 or 20 octets (Ethernet, EUI-64, InfiniBand), in groups of two digits between colons
/// or dashes, or of four between dots.
fn parse_hardware(text: &str) -> Result<Vec<u8>, DelegateError> {
    let separator = text.chars().find(|c| !c.is_ascii_hexdigit());
    let (separator, digits) = match separator {
        Some(found @ (':' | '-')) => (found, 2),
        _ => ('.', 4),
    };
    let mut octets = Vec::new();
    let mut valid = true;
    for group in text.split(separator) {
        valid &= group.len() == digits && group.bytes().all(|c| c.is_ascii_hexdigit());
        for pair in group.as_bytes().chunks(2) {
            let octet = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
            octets.extend(octet);
        }
    }
    if valid && matches!(octets.len(), 6 | 8 | 20) {
        return Ok(octets);
    }
    let why = format!("failed to parse MAC address {text:?}: address {text}: invalid MAC address");
    Err(DelegateError::Conf(format!("failed to find host device: {why}")))
}

fn take(name: &str, device: &DeviceLink) -> TakeDevice {
    TakeDevice {
        name: name.to_owned(),
        device: device.name.clone(),
        hardware: device.hardware.clone(),
        mac: device.mac,
        mtu: Some(device.mtu),
        alias: device.alias.clone(),
        physical: device.physical,
        kind: Some(device.kind.clone()),
        host_index: Some(device.index),
    }
}

impl Delegate for HostDevice {
    fn kind(&self) -> &'static str {
        "host-device"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["device", "hwaddr", "kernelpath", "pciBusID", "DPDKMode"]
    }

    fn ipam(&self) -> IpamUse {
        IpamUse::Optional
    }

    fn no_neighbours(&self) -> Option<&'static str> {
        None
    }

    fn cni_args(&self) -> &'static [&'static str] {
        &[]
    }

    fn validate(&self, conf: &Object, _cni_args: &[(String, String)]) -> Result<(), DelegateError> {
        read(conf).map(|_query| ())
    }

    fn needs(&self, conf: &Object, _previous: Option<&CniResult>) -> Result<Vec<Need>, DelegateError> {
        Ok(vec![Need::Device(read(conf)?)])
    }

    fn link_op(&self, ifname: &str) -> Op {
        Op::TakeDevice(TakeDevice { name: ifname.to_owned(), ..TakeDevice::default() })
    }

    fn plan(&self, input: &Input<'_>) -> Result<Plan, DelegateError> {
        let name = input.attachment.ifname.as_str();
        let ips = input.addressing.map(addressing::required).transpose()?;
        let result = match input.addressing {
            Some(addressing) => addressing::only_link(name, addressing, input.dns),
            // The only stock plugin that omits DNS at layer 2.
            None => ResultShape { interfaces: vec![LinkRef::container(name)], ..ResultShape::default() },
        };
        let device = match &input.observed.device {
            Some(FoundDevice::Link(device)) => device,
            Some(FoundDevice::UserSpace)
                if input.addressing.is_some_and(|addressing| addressing.probe_ms.is_some()) =>
            {
                let text = "a device with a user-space driver (DPDK) cannot probe for duplicate addresses; remove \"duplicates\"";
                return Err(DelegateError::Conf(text.to_owned()));
            }
            Some(FoundDevice::UserSpace) => {
                return Ok(Plan { result: ResultShape { unmanaged: true, ..result }, ..Plan::default() });
            }
            Some(FoundDevice::Missing(text)) => return Err(DelegateError::Host(text.clone())),
            None => {
                return Err(DelegateError::Host(
                    "failed to find host device: failed to find physical interface".to_owned(),
                ));
            }
        };
        let mut ops = vec![Op::TakeDevice(take(name, device))];
        if let (Some(addressing), Some(ips)) = (input.addressing, ips) {
            let (routes, dad, probe) =
                (&addressing.routes, Dad::for_addresses(addressing), Probe::from_addressing(addressing));
            // The kernel announces the addresses when the device comes up, or the probe has done so. `Announce` is not
            // used because it writes the MAC, which not every device allows.
            addressing::Link { name, ips, routes, dad, notify: &[ARP_NOTIFY, NDISC_NOTIFY], probe }.configure(&mut ops);
        } else {
            ops.push(Op::LinkUp { link: LinkRef::container(name) });
        }
        Ok(Plan { ops, result, ..Plan::default() })
    }
}

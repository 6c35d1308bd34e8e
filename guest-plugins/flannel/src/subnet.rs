//! flanneld's file about its node, `subnet.env`, parsed like flannel's own plugin, including its mistakes.

use weft_sdk::IpPrefix;
use weft_sdk::address::network;

/// The content of the file, complete.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SubnetEnv {
    /// `FLANNEL_NETWORK` and then `FLANNEL_IPV6_NETWORK`, each without duplicates.
    pub(crate) networks: Vec<IpPrefix>,
    /// `FLANNEL_SUBNET` and `FLANNEL_IPV6_SUBNET`, if they are set.
    pub(crate) subnets: Vec<IpPrefix>,
    /// `FLANNEL_MTU`.
    pub(crate) mtu: u32,
    /// `FLANNEL_IPMASQ`: whether flanneld itself masquerades.
    pub(crate) masquerades: bool,
}

/// The lines read so far. The last value of a repeated key counts.
#[derive(Default)]
struct Lines {
    networks: Vec<IpPrefix>,
    networks6: Vec<IpPrefix>,
    subnet: Option<IpPrefix>,
    subnet6: Option<IpPrefix>,
    mtu: Option<u32>,
    masquerades: Option<bool>,
}

/// Parses the content of a file at `path`; the errors are the plugin's.
pub(crate) fn parse(path: &str, content: &str) -> Result<SubnetEnv, String> {
    let mut lines = Lines::default();
    for line in content.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let (key, value) = line.split_once('=').map_or((line, None), |(key, value)| (key, Some(value)));
        lines.set_key(key, value)?;
    }
    let missing = lines.missing();
    if !missing.is_empty() {
        return Err(format!("{path} is missing {}", missing.join(", ")));
    }
    Ok(SubnetEnv {
        networks: lines.networks.into_iter().chain(lines.networks6).collect(),
        subnets: lines.subnet.into_iter().chain(lines.subnet6).collect(),
        mtu: lines.mtu.unwrap_or_default(),
        masquerades: lines.masquerades.unwrap_or_default(),
    })
}

// === impl Lines ===

impl Lines {
    fn set_key(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        // The plugin panics if the `=` is missing.
        let value = || value.ok_or_else(|| format!("{key} has no value"));
        match key {
            "FLANNEL_NETWORK" => self.networks = cidrs(value()?)?,
            "FLANNEL_IPV6_NETWORK" => self.networks6 = cidrs(value()?)?,
            "FLANNEL_SUBNET" => self.subnet = Some(cidr(value()?)?),
            "FLANNEL_IPV6_SUBNET" => self.subnet6 = Some(cidr(value()?)?),
            "FLANNEL_MTU" => self.mtu = Some(number(value()?)?),
            // Only `true` counts; everything else is false.
            "FLANNEL_IPMASQ" => self.masquerades = Some(value()? == "true"),
            _ => {}
        }
        Ok(())
    }

    fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.networks.is_empty() && self.networks6.is_empty() {
            missing.extend(["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"]);
        }
        if self.subnet.is_none() && self.subnet6.is_none() {
            missing.extend(["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"]);
        }
        if self.mtu.is_none() {
            missing.push("FLANNEL_MTU");
        }
        if self.masquerades.is_none() {
            missing.push("FLANNEL_IPMASQ");
        }
        missing
    }
}

/// Parses a network and drops its host bits: the file has `10.1.17.1/24` for its node's subnet.
fn cidr(text: &str) -> Result<IpPrefix, String> {
    let prefix: IpPrefix =
        text.parse().map_err(|_bad: weft_sdk::address::ParseError| format!("invalid CIDR address: {text}"))?;
    Ok(IpPrefix { address: network(prefix), length: prefix.length })
}

fn cidrs(text: &str) -> Result<Vec<IpPrefix>, String> {
    let mut networks = Vec::new();
    for text in text.split(',') {
        let network = cidr(text)?;
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    Ok(networks)
}

/// Parses a number like Go's `strconv.ParseUint(text, 10, 32)`.
fn number(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(format!("strconv.ParseUint: parsing {text:?}: invalid syntax"));
    }
    text.parse()
        .map_err(|_large: std::num::ParseIntError| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
}

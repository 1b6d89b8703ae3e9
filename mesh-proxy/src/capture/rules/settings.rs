//! What is captured and what is not.
//!
//! In: text, as Istio's flags and `traffic.sidecar.istio.io/*` annotations have it. Out: [`Settings`]. Names, meaning and
//! defaults are Istio's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Ports that are never captured inbound when all others are: they are the sidecar's own (status, readiness, metrics).
pub const ALWAYS_EXCLUDED: [u16; 3] = [15090, 15021, 15020];

/// How inbound connections come to the proxy. Outbound ones are redirected always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interception {
    /// `REDIRECT`: the application sees 127.0.0.6.
    #[default]
    Redirect,
    /// `TPROXY`: the application sees its client. The proxy needs `CAP_NET_ADMIN`.
    Tproxy,
}

/// A list of ports, or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every port.
    All,
    /// These.
    These(Vec<u16>),
}

/// A list of address ranges, or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranges {
    /// Every address.
    All,
    /// These.
    These(Vec<IpNet>),
}

/// Why a setting is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {value:?} is no {expected}")]
pub struct InvalidSetting {
    /// The flag or annotation.
    pub name: String,
    /// What stands there.
    pub value: String,
    /// What should.
    pub expected: &'static str,
}

/// What is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The proxy's port for what the application opens.
    pub outbound_port: u16,
    /// The proxy's port for what comes to the application.
    pub inbound_port: u16,
    /// The proxy's users: what they send is not captured.
    pub uids: Vec<u32>,
    /// The proxy's groups.
    pub gids: Vec<u32>,
    /// REDIRECT or TPROXY.
    pub mode: Interception,
    /// The mark that keeps TPROXY's connections apart.
    pub tproxy_mark: u32,
    /// The routing table that brings them back.
    pub tproxy_table: u32,
    /// Inbound ports.
    pub include_inbound: Ports,
    /// Inbound ports that are left out, where all are in.
    pub exclude_inbound_ports: Vec<u16>,
    /// Destinations.
    pub include_outbound: Ranges,
    /// Destinations that are left out.
    pub exclude_outbound: Vec<IpNet>,
    /// Outbound ports that are captured whatever the destination.
    pub include_outbound_ports: Vec<u16>,
    /// Outbound ports that are left out.
    pub exclude_outbound_ports: Vec<u16>,
    /// Interfaces of which nothing is captured.
    pub exclude_interfaces: Vec<String>,
    /// Interfaces behind which virtual machines are: what comes from them is outbound.
    pub kubevirt_interfaces: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            outbound_port: 15001,
            inbound_port: 15006,
            uids: vec![1337],
            gids: vec![1337],
            mode: Interception::Redirect,
            tproxy_mark: 1337,
            tproxy_table: 133,
            include_inbound: Ports::All,
            exclude_inbound_ports: Vec::new(),
            include_outbound: Ranges::All,
            exclude_outbound: Vec::new(),
            include_outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_interfaces: Vec::new(),
            kubevirt_interfaces: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether anything inbound is captured.
    #[must_use]
    pub fn captures_inbound(&self) -> bool {
        self.include_inbound != Ports::These(Vec::new())
    }

    /// The ports that are left out where all are in.
    pub fn excluded_inbound(&self) -> impl Iterator<Item = u16> {
        let more = self.exclude_inbound_ports.iter().copied().filter(|p| !ALWAYS_EXCLUDED.contains(p));
        ALWAYS_EXCLUDED.into_iter().chain(more)
    }

    /// The settings of a pod with these annotations.
    ///
    /// # Errors
    /// Names the annotation.
    pub fn of_annotations(annotations: &BTreeMap<String, String>) -> Result<Self, InvalidSetting> {
        const PREFIX: &str = "traffic.sidecar.istio.io/";
        let mut settings = Self::default();
        for (name, value) in annotations {
            match name.strip_prefix(PREFIX) {
                Some("includeInboundPorts") => settings.include_inbound = ports(name, value)?,
                Some("excludeInboundPorts") => settings.exclude_inbound_ports = port_list(name, value)?,
                Some("includeOutboundIPRanges") => settings.include_outbound = ranges(name, value)?,
                Some("excludeOutboundIPRanges") => settings.exclude_outbound = range_list(name, value)?,
                Some("includeOutboundPorts") => settings.include_outbound_ports = port_list(name, value)?,
                Some("excludeOutboundPorts") => settings.exclude_outbound_ports = port_list(name, value)?,
                Some("excludeInterfaces") => settings.exclude_interfaces = interfaces(name, value)?,
                Some("kubevirtInterfaces") => settings.kubevirt_interfaces = interfaces(name, value)?,
                Some(_) => return Err(invalid(PREFIX, name, "annotation that this build knows")),
                None if name == "sidecar.istio.io/interceptionMode" => settings.mode = mode(name, value)?,
                None => {}
            }
        }
        Ok(settings)
    }
}

fn invalid(name: &str, value: &str, expected: &'static str) -> InvalidSetting {
    InvalidSetting { name: name.to_owned(), value: value.to_owned(), expected }
}

/// The words between commas.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn list<T: FromStr>(name: &str, text: &str, expected: &'static str) -> Result<Vec<T>, InvalidSetting> {
    words(text).map(|word| word.parse().map_err(|_| invalid(name, word, expected))).collect()
}

/// Ports between commas.
///
/// # Errors
/// Names what is no port.
pub fn port_list(name: &str, text: &str) -> Result<Vec<u16>, InvalidSetting> {
    let ports = list::<std::num::NonZeroU16>(name, text, "port from 1 to 65535")?;
    Ok(ports.into_iter().map(Into::into).collect())
}

/// Ports between commas, or `*`.
///
/// # Errors
/// Names what is neither.
pub fn ports(name: &str, text: &str) -> Result<Ports, InvalidSetting> {
    if text.trim() == "*" { Ok(Ports::All) } else { port_list(name, text).map(Ports::These) }
}

/// Ranges between commas; an address is a range of one.
///
/// # Errors
/// Names what is no range.
pub fn range_list(name: &str, text: &str) -> Result<Vec<IpNet>, InvalidSetting> {
    let range = |word: &str| {
        let range = word.parse::<IpNet>().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from));
        range.map(|r| r.trunc()).ok_or_else(|| invalid(name, word, "address range (10.0.0.0/8)"))
    };
    words(text).map(range).collect()
}

/// Ranges between commas, or `*`.
///
/// # Errors
/// Names what is neither.
pub fn ranges(name: &str, text: &str) -> Result<Ranges, InvalidSetting> {
    if text.trim() == "*" { Ok(Ranges::All) } else { range_list(name, text).map(Ranges::These) }
}

/// Names of interfaces between commas.
///
/// # Errors
/// Names what no interface can be called.
pub fn interfaces(name: &str, text: &str) -> Result<Vec<String>, InvalidSetting> {
    // 15 bytes is the kernel's limit. Nothing that means something inside a rule's quotes gets there.
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@');
    let checked = |word: &str| {
        let good = word.len() <= 15 && word.bytes().all(allowed);
        if good { Ok(word.to_owned()) } else { Err(invalid(name, word, "name of a network interface")) }
    };
    words(text).map(checked).collect()
}

/// Numbers of users or groups between commas.
///
/// # Errors
/// Names what is no number.
pub fn ids(name: &str, text: &str) -> Result<Vec<u32>, InvalidSetting> {
    list(name, text, "numeric user or group")
}

/// `REDIRECT` or `TPROXY`.
///
/// # Errors
/// For anything else; `NONE` means that there is nothing to program.
pub fn mode(name: &str, text: &str) -> Result<Interception, InvalidSetting> {
    match text {
        "REDIRECT" => Ok(Interception::Redirect),
        "TPROXY" => Ok(Interception::Tproxy),
        other => Err(invalid(name, other, "REDIRECT or TPROXY")),
    }
}

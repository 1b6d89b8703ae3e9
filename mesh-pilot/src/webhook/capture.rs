//! Which traffic of a pod is captured: lists as Istio's annotations and its chart's values have them.
//!
//! In: a list's text. Out: the same without blanks, or what was expected. What passes here is what `mesh-proxy capture`
//! takes: its refusal would be a pod whose init container fails for ever.

use ipnet::IpNet;

/// More items than this in one list are no list that somebody wrote.
const MAX_ITEMS: usize = 256;

/// The lists, each without blanks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// CIDRs, or `*`.
    pub include_outbound_ranges: String,
    /// CIDRs.
    pub exclude_outbound_ranges: String,
    /// Ports, or `*`.
    pub include_inbound_ports: String,
    /// Ports.
    pub exclude_inbound_ports: String,
    /// Ports, whatever the range.
    pub include_outbound_ports: String,
    /// Ports.
    pub exclude_outbound_ports: String,
    /// Interfaces.
    pub exclude_interfaces: String,
    /// Interfaces of virtual machines in the pod: what comes from them is the application's.
    pub virtual_interfaces: String,
}

/// One of the lists.
pub struct List {
    /// The annotations that say it, the name of today first.
    pub annotations: &'static [&'static str],
    /// The chart's value below `global.proxy`, and its default.
    pub value: Option<(&'static str, &'static str)>,
    form: Form,
    /// Where it is.
    pub of: fn(&mut Capture) -> &mut String,
}

/// All of them.
pub const LISTS: [List; 8] = [
    List {
        annotations: &["traffic.sidecar.istio.io/includeOutboundIPRanges"],
        value: Some(("includeIPRanges", "*")),
        form: Form::RangesOrAll,
        of: |capture| &mut capture.include_outbound_ranges,
    },
    List {
        annotations: &["traffic.sidecar.istio.io/excludeOutboundIPRanges"],
        value: Some(("excludeIPRanges", "")),
        form: Form::Ranges,
        of: |capture| &mut capture.exclude_outbound_ranges,
    },
    List {
        annotations: &["traffic.sidecar.istio.io/includeInboundPorts"],
        value: Some(("includeInboundPorts", "*")),
        form: Form::PortsOrAll,
        of: |capture| &mut capture.include_inbound_ports,
    },
    List {
        annotations: &["traffic.sidecar.istio.io/excludeInboundPorts"],
        value: Some(("excludeInboundPorts", "")),
        form: Form::Ports,
        of: |capture| &mut capture.exclude_inbound_ports,
    },
    List {
        annotations: &["traffic.sidecar.istio.io/includeOutboundPorts"],
        value: Some(("includeOutboundPorts", "")),
        form: Form::Ports,
        of: |capture| &mut capture.include_outbound_ports,
    },
    List {
        annotations: &["traffic.sidecar.istio.io/excludeOutboundPorts"],
        value: Some(("excludeOutboundPorts", "")),
        form: Form::Ports,
        of: |capture| &mut capture.exclude_outbound_ports,
    },
    List {
        annotations: &["traffic.sidecar.istio.io/excludeInterfaces"],
        value: None,
        form: Form::Interfaces,
        of: |capture| &mut capture.exclude_interfaces,
    },
    List {
        annotations: &["istio.io/reroute-virtual-interfaces", "traffic.sidecar.istio.io/kubevirtInterfaces"],
        value: None,
        form: Form::Interfaces,
        of: |capture| &mut capture.virtual_interfaces,
    },
];

/// What a list is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Ranges,
    RangesOrAll,
    Ports,
    PortsOrAll,
    Interfaces,
}

impl List {
    /// The list of `text`; nothing is an empty list.
    ///
    /// # Errors
    /// What was expected.
    pub fn read(&self, text: &str) -> Result<String, &'static str> {
        let (expected, fits): (_, fn(&str) -> bool) = match self.form {
            Form::Ranges => ("ranges, e.g. \"169.254.169.254/32\"", is_range),
            Form::RangesOrAll => ("ranges, e.g. \"10.0.0.0/8\", or \"*\" alone", is_range),
            Form::Ports => ("ports, e.g. \"9090,9091\"", is_port),
            Form::PortsOrAll => ("ports, e.g. \"9090,9091\", or \"*\" alone", is_port),
            Form::Interfaces => ("names of interfaces, e.g. \"eth1\"", is_interface),
        };
        let may_be_all = matches!(self.form, Form::RangesOrAll | Form::PortsOrAll);
        let items: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        let good = (may_be_all && items == ["*"]) || items.iter().all(|item| fits(item));
        if good && items.len() <= MAX_ITEMS { Ok(items.join(",")) } else { Err(expected) }
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// As in Istio, an address alone is none.
fn is_range(text: &str) -> bool {
    text.parse::<IpNet>().is_ok()
}

/// What the kernel takes and no command line takes for a flag.
fn is_interface(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
    text.len() <= 15 && !text.starts_with('-') && text.bytes().all(allowed)
}

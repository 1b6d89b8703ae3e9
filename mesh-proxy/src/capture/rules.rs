//! The rules that bring a pod's traffic to its sidecar, as values.
//!
//! In: [`Settings`]. Out: [`rules`], the same for both families and every backend; [`nft`] and [`iptables`] only write them
//! down. The order and the exceptions are those of Istio's `istio-iptables`, which annotations rely on.

pub mod iptables;
pub mod nft;
pub mod settings;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub use settings::{Interception, InvalidSetting, Ports, Ranges, Settings};

use super::application::{FROM_V4, FROM_V6};

/// Where a rule is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// What comes into the namespace; addresses may be changed.
    NatIn,
    /// What is sent from it; addresses may be changed.
    NatOut,
    /// What comes into the namespace, TPROXY.
    MangleIn,
    /// What is sent from it, TPROXY's marks.
    MangleOut,
}

/// What a packet must be for a rule; all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It came by this interface.
    In(String),
    /// It leaves by this interface.
    Out(String),
    /// It goes to this range.
    To(IpNet),
    /// It goes anywhere else.
    NotTo(IpAddr),
    /// It is from this address.
    From(IpAddr),
    /// TCP to this port.
    Port(u16),
    /// Sent by this user.
    Uid(u32),
    /// Sent by another user.
    NotUid(u32),
    /// Sent by this group.
    Gid(u32),
    /// Sent by another group.
    NotGid(u32),
    /// Of a connection that has been answered.
    Established,
    /// It has this mark.
    Mark(u32),
    /// Its connection has this mark.
    ConnectionMark(u32),
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It goes its way.
    Pass,
    /// To this port of ours; its address is changed.
    Redirect(u16),
    /// To the socket on this port; its address is kept.
    Tproxy(u16),
    /// Its connection is marked as it is.
    SaveMark,
    /// It is marked as its connection is.
    RestoreMark,
}

/// One rule. Only TCP is ever looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where.
    pub hook: Hook,
    /// What.
    pub when: Vec<Match>,
    /// What then.
    pub then: Then,
}

impl Rule {
    fn new(hook: Hook, when: impl IntoIterator<Item = Match>, then: Then) -> Self {
        Self { hook, when: when.into_iter().collect(), then }
    }

    /// Whether it says something about this family.
    #[must_use]
    pub fn is_of(&self, v6: bool) -> bool {
        self.when.iter().all(|m| match m {
            Match::To(net) => net.addr().is_ipv6() == v6,
            Match::NotTo(ip) | Match::From(ip) => ip.is_ipv6() == v6,
            _ => true,
        })
    }

    /// Whether it can only be written down for one family.
    #[must_use]
    pub fn family(&self) -> Option<bool> {
        let (v4, v6) = (self.is_of(false), self.is_of(true));
        (v4 != v6).then_some(v6)
    }
}

/// The rules for `settings`, in the order in which they are looked at within their hook.
#[must_use]
pub fn rules(settings: &Settings) -> Vec<Rule> {
    let mut rules = Vec::new();
    virtual_machines(settings, &mut rules);
    inbound(settings, &mut rules);
    outbound(settings, &mut rules);
    if settings.captures_inbound() && settings.mode == Interception::Tproxy {
        marks(settings, &mut rules);
    }
    rules
}

const LOOPBACK: &str = "lo";

/// What virtual machines behind an interface send is outbound, though it comes in.
fn virtual_machines(settings: &Settings, rules: &mut Vec<Rule>) {
    for interface in &settings.kubevirt_interfaces {
        let from = || Match::In(interface.clone());
        let mut add = |more: Option<Match>, then| {
            rules.push(Rule::new(Hook::NatIn, [Some(from()), more].into_iter().flatten(), then));
        };
        for range in &settings.exclude_outbound {
            add(Some(Match::To(*range)), Then::Pass);
        }
        let proxy = Then::Redirect(settings.outbound_port);
        match &settings.include_outbound {
            Ranges::All => add(None, proxy),
            Ranges::These(ranges) => ranges.iter().for_each(|range| add(Some(Match::To(*range)), proxy)),
        }
        add(None, Then::Pass);
    }
}

fn inbound(settings: &Settings, rules: &mut Vec<Rule>) {
    let (hook, then) = match settings.mode {
        Interception::Redirect => (Hook::NatIn, Then::Redirect(settings.inbound_port)),
        Interception::Tproxy => (Hook::MangleIn, Then::Tproxy(settings.inbound_port)),
    };
    if !settings.captures_inbound() {
        return;
    }
    let mut add = |when: Vec<Match>, then| rules.push(Rule::new(hook, when, then));
    if settings.mode == Interception::Tproxy {
        // The proxy's own connections to the application, in the name of clients: their answers must find back to it.
        add(vec![Match::In(LOOPBACK.into()), Match::Mark(settings.tproxy_mark)], Then::SaveMark);
        add(vec![Match::In(LOOPBACK.into())], Then::Pass);
        // Answers to what this pod has opened are for nobody else (xt_TPROXY would drop them), and what has been accepted
        // finds its socket by itself.
        add(vec![Match::Established], Then::Pass);
    }
    for interface in settings.exclude_interfaces.iter().chain(&settings.kubevirt_interfaces) {
        add(vec![Match::In(interface.clone())], Then::Pass);
    }
    match &settings.include_inbound {
        Ports::All => {
            for port in settings.excluded_inbound() {
                add(vec![Match::Port(port)], Then::Pass);
            }
            add(vec![], then);
        }
        Ports::These(ports) => ports.iter().for_each(|port| add(vec![Match::Port(*port)], then)),
    }
}

fn outbound(settings: &Settings, rules: &mut Vec<Rule>) {
    let mut add = |when: Vec<Match>, then| rules.push(Rule::new(Hook::NatOut, when, then));
    let lo = || Match::Out(LOOPBACK.into());
    for interface in &settings.exclude_interfaces {
        add(vec![Match::Out(interface.clone())], Then::Pass);
    }
    // Before what a proxy sends to its own pod, as in Istio.
    for port in &settings.exclude_outbound_ports {
        add(vec![Match::Port(*port)], Then::Pass);
    }
    if settings.mode == Interception::Tproxy {
        add(vec![lo(), Match::Mark(settings.tproxy_mark)], Then::Pass);
    }
    // What the proxy passes on to the application.
    add(vec![lo(), Match::From(FROM_V4.into())], Then::Pass);
    add(vec![lo(), Match::From(FROM_V6.into())], Then::Pass);
    let ids = settings.uids.iter().map(|id| (Match::Uid(*id), Match::NotUid(*id)));
    let ids = ids.chain(settings.gids.iter().map(|id| (Match::Gid(*id), Match::NotGid(*id))));
    for (proxy, other) in ids {
        // app → its own service → proxy → this very pod: through the inbound side, as for any other pod.
        if settings.captures_inbound() {
            for home in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
                let when = vec![lo(), Match::NotTo(home), proxy.clone()];
                add(when, Then::Redirect(settings.inbound_port));
            }
        }
        // app → itself.
        add(vec![lo(), other], Then::Pass);
        // proxy → anywhere.
        add(vec![proxy], Then::Pass);
    }
    for home in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        add(vec![Match::To(home.into())], Then::Pass);
    }
    for range in &settings.exclude_outbound {
        add(vec![Match::To(*range)], Then::Pass);
    }
    let proxy = Then::Redirect(settings.outbound_port);
    for port in &settings.include_outbound_ports {
        add(vec![Match::Port(*port)], proxy);
    }
    match &settings.include_outbound {
        Ranges::All => add(vec![], proxy),
        Ranges::These(ranges) => ranges.iter().for_each(|range| add(vec![Match::To(*range)], proxy)),
    }
}

/// The application's answers to clients whose address the proxy has borrowed come back to the proxy: they get the mark of
/// their connection, and [`super::program`] routes marked packets to this machine.
fn marks(settings: &Settings, rules: &mut Vec<Rule>) {
    let marked = Match::ConnectionMark(settings.tproxy_mark);
    rules.push(Rule::new(Hook::MangleOut, [marked], Then::RestoreMark));
}

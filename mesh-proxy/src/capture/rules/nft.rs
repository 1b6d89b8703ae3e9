//! The rules for `nft -f -`: one table of both families, replaced in one transaction.
//!
//! In: [`Rule`]s. Out: text that can be loaded again and again.

use std::fmt::Write as _;

use super::{Hook, Match, Rule, Then};

/// The table; nothing outside of it is touched.
pub const TABLE: &str = "inet mesh_capture";

const HOOKS: [(Hook, &str, &str); 4] = [
    (Hook::NatIn, "inbound", "type nat hook prerouting priority -100"),
    (Hook::NatOut, "outbound", "type nat hook output priority -100"),
    (Hook::MangleIn, "transparent", "type filter hook prerouting priority -150"),
    (Hook::MangleOut, "marks", "type route hook output priority -150"),
];

/// The text that puts `rules` in place of whatever the table held.
#[must_use]
pub fn table(rules: &[Rule]) -> String {
    // Declared first, so that there is something to delete the first time.
    let mut text = format!("table {TABLE} {{}}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    for (hook, name, kind) in HOOKS {
        let mut lines = rules.iter().filter(|r| r.hook == hook).flat_map(lines).peekable();
        if lines.peek().is_none() {
            continue;
        }
        // A String takes everything.
        let _ = writeln!(text, "\tchain {name} {{\n\t\t{kind}; policy accept;");
        let _ = writeln!(text, "\t\tmeta l4proto != tcp accept");
        for line in lines {
            let _ = writeln!(text, "\t\t{line}");
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

/// The text that removes the table.
#[must_use]
pub fn clean_up() -> String {
    format!("table {TABLE} {{}}\ndelete table {TABLE}\n")
}

fn lines(rule: &Rule) -> impl Iterator<Item = String> + use<'_> {
    let (then, otherwise) = match rule.then {
        Then::Pass => ("accept".to_owned(), None),
        Then::Redirect(port) => (format!("meta l4proto tcp redirect to :{port}"), None),
        // Without a socket there, `tproxy` ends its rule and not its packet, which the application would get as it is.
        // (xt_TPROXY drops it.)
        Then::Tproxy(port) => (format!("meta l4proto tcp tproxy to :{port} accept"), Some("drop".to_owned())),
        Then::SaveMark => ("ct mark set meta mark".to_owned(), None),
        Then::RestoreMark => ("meta mark set ct mark".to_owned(), None),
    };
    let line = |then: String| {
        let words = rule.when.iter().map(matching).chain([then]);
        words.collect::<Vec<_>>().join(" ")
    };
    std::iter::once(then).chain(otherwise).map(line)
}

fn matching(what: &Match) -> String {
    let family = |v6: bool| if v6 { "ip6" } else { "ip" };
    match what {
        Match::In(interface) => format!("iifname \"{interface}\""),
        Match::Out(interface) => format!("oifname \"{interface}\""),
        Match::To(range) => format!("{} daddr {range}", family(range.addr().is_ipv6())),
        Match::NotTo(ip) => format!("{} daddr != {ip}", family(ip.is_ipv6())),
        Match::From(ip) => format!("{} saddr {ip}", family(ip.is_ipv6())),
        Match::Port(port) => format!("tcp dport {port}"),
        Match::Uid(id) => format!("meta skuid {id}"),
        Match::NotUid(id) => format!("meta skuid != {id}"),
        Match::Gid(id) => format!("meta skgid {id}"),
        Match::NotGid(id) => format!("meta skgid != {id}"),
        Match::Established => "ct state established,related".to_owned(),
        Match::Mark(mark) => format!("meta mark {mark}"),
        Match::ConnectionMark(mark) => format!("ct mark {mark}"),
    }
}

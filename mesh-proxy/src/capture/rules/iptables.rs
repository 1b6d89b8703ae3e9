//! The rules for `iptables-restore --noflush` and `ip6tables-restore --noflush`: chains of our own, and one jump to each.
//!
//! In: [`Rule`]s, a family, and what `iptables-save` shows. Out: text that changes each table in one transaction and leaves
//! the rules of others alone.

use std::fmt::Write as _;

use super::{Hook, Match, Rule, Then};

const HOOKS: [(Hook, &str, &str, &str); 4] = [
    (Hook::NatIn, "nat", "PREROUTING", "MESH_INBOUND"),
    (Hook::NatOut, "nat", "OUTPUT", "MESH_OUTBOUND"),
    (Hook::MangleIn, "mangle", "PREROUTING", "MESH_TPROXY"),
    (Hook::MangleOut, "mangle", "OUTPUT", "MESH_MARKS"),
];

/// The text that puts the rules of one family in place of ours in `saved`.
#[must_use]
pub fn restore(rules: &[Rule], v6: bool, saved: &str) -> String {
    let rules: Vec<&Rule> = rules.iter().filter(|r| r.is_of(v6)).collect();
    let mut text = String::new();
    for table in ["nat", "mangle"] {
        let mut body = String::new();
        for (hook, _, builtin, chain) in HOOKS.into_iter().filter(|(_, t, ..)| *t == table) {
            let mut lines = rules.iter().filter(|r| r.hook == hook).peekable();
            if lines.peek().is_none() {
                body.push_str(&removal(saved, builtin, chain));
                continue;
            }
            // Declaring a chain empties it. A String takes everything.
            let _ = writeln!(body, ":{chain} - [0:0]");
            for rule in lines {
                let _ = writeln!(body, "-A {chain}{}", line(rule));
            }
            if !saved.contains(&jump(builtin, chain)) {
                let _ = writeln!(body, "-A {builtin} -p tcp -j {chain}");
            }
        }
        if !body.is_empty() {
            let _ = writeln!(text, "*{table}\n{body}COMMIT");
        }
    }
    text
}

/// The text that removes what of ours is in `saved`; empty when nothing is.
#[must_use]
pub fn clean_up(saved: &str) -> String {
    let mut text = String::new();
    for table in ["nat", "mangle"] {
        let ours = HOOKS.into_iter().filter(|(_, t, ..)| *t == table);
        let body: String = ours.map(|(_, _, builtin, chain)| removal(saved, builtin, chain)).collect();
        if !body.is_empty() {
            let _ = writeln!(text, "*{table}\n{body}COMMIT");
        }
    }
    text
}

/// The jump as `iptables-save` writes it.
fn jump(builtin: &str, chain: &str) -> String {
    format!("-A {builtin} -p tcp -j {chain}\n")
}

fn removal(saved: &str, builtin: &str, chain: &str) -> String {
    let mut text = String::new();
    if saved.contains(&jump(builtin, chain)) {
        let _ = writeln!(text, "-D {builtin} -p tcp -j {chain}");
    }
    if saved.contains(&format!(":{chain} ")) {
        let _ = writeln!(text, "-F {chain}\n-X {chain}");
    }
    text
}

fn line(rule: &Rule) -> String {
    let mut text: String = rule.when.iter().map(|m| format!(" {}", matching(m))).collect();
    let then = match rule.then {
        Then::Pass => "-j RETURN".to_owned(),
        Then::Redirect(port) => format!("-p tcp -j REDIRECT --to-ports {port}"),
        Then::Tproxy(port) => format!("-p tcp -j TPROXY --on-port {port}"),
        Then::SaveMark => "-j CONNMARK --save-mark".to_owned(),
        Then::RestoreMark => "-j CONNMARK --restore-mark".to_owned(),
    };
    let port = rule.when.iter().any(|m| matches!(m, Match::Port(_)));
    text.push(' ');
    // A port's match names the protocol already; twice is refused.
    text.push_str(if port { then.strip_prefix("-p tcp ").unwrap_or(&then) } else { &then });
    text
}

fn matching(what: &Match) -> String {
    match what {
        Match::In(interface) => format!("-i {interface}"),
        Match::Out(interface) => format!("-o {interface}"),
        Match::To(range) => format!("-d {range}"),
        Match::NotTo(ip) => format!("! -d {ip}"),
        Match::From(ip) => format!("-s {ip}"),
        Match::Port(port) => format!("-p tcp --dport {port}"),
        Match::Uid(id) => format!("-m owner --uid-owner {id}"),
        Match::NotUid(id) => format!("-m owner ! --uid-owner {id}"),
        Match::Gid(id) => format!("-m owner --gid-owner {id}"),
        Match::NotGid(id) => format!("-m owner ! --gid-owner {id}"),
        Match::Established => "-m conntrack --ctstate RELATED,ESTABLISHED".to_owned(),
        Match::Mark(mark) => format!("-m mark --mark {mark}"),
        Match::ConnectionMark(mark) => format!("-m connmark --mark {mark}"),
    }
}

//! Who listens on a port of 127.0.0.1: all meshes and all other programs of a machine share it, and an answer of a
//! stranger must not pass for an application's readiness. In: an address and a process; out: who else it is.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

/// A process other than the application that listens where the application should, if that can be told: the answer of a
/// foreign server must not pass for readiness.
#[must_use]
pub fn foreign_listener(at: SocketAddrV4, application: i32) -> Option<String> {
    let sockets = listeners(at);
    if sockets.is_empty() {
        return None;
    }
    let holds = |pid: i32| -> Option<bool> {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let mut links = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        Some(links.any(|link| sockets.contains(&*link.to_string_lossy())))
    };
    // One whose files we may not see could be the one: it is believed.
    if holds(application).unwrap_or(true) {
        return None;
    }
    let others = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = others.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let holders: Vec<i32> = pids.filter(|pid| holds(*pid) == Some(true)).collect();
    let pid = *holders.first()?;
    if holders.iter().any(|pid| descends(*pid, application)) {
        return None;
    }
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

/// The sockets (`socket:[inode]`) that accept connections to this address.
fn listeners(at: SocketAddrV4) -> BTreeSet<String> {
    const LISTENS: &str = "0A";
    let v4 = format!("{:08X}", u32::from_ne_bytes(at.ip().octets()));
    let v6 = format!("0000000000000000FFFF0000{v4}");
    let addresses = [v4, v6, "0".repeat(8), "0".repeat(32)];
    let port = format!("{:04X}", at.port());
    let mut found = BTreeSet::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(&LISTENS), Some(inode)) = (words.get(1), words.get(3), words.get(9))
            else {
                continue;
            };
            let is_it =
                local.split_once(':').is_some_and(|(a, p)| p == port && addresses.iter().any(|own| own == a));
            if is_it {
                found.insert(format!("socket:[{inode}]"));
            }
        }
    }
    found
}

/// Whether a process is in the application's process group (each has one of its own), or a child's child of it.
fn descends(pid: i32, application: i32) -> bool {
    let mut current = pid;
    // A process tree is not deeper than this; a bound keeps a race with process ids that are reused finite.
    for _ in 0..64 {
        // `pid (comm) state ppid pgrp ...`; a name may contain anything, so the fields start after its last parenthesis.
        let stat = std::fs::read_to_string(format!("/proc/{current}/stat")).unwrap_or_default();
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(1);
        let (Some(Ok(parent)), Some(Ok(group))) =
            (fields.next().map(str::parse::<i32>), fields.next().map(str::parse::<i32>))
        else {
            return false;
        };
        if current == application || group == application {
            return true;
        }
        current = parent;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn who_listens_is_told_apart() {
        let me = std::process::id().cast_signed();
        for place in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            // A machine without IPv6 has no such listener.
            let Ok(listener) = TcpListener::bind(place) else { continue };
            let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
            assert_eq!(foreign_listener(at, me), None, "{place}: our own");
            let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
            let told = foreign_listener(at, child.id().cast_signed());
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(
                told.is_some_and(|who| who.contains(&me.to_string())),
                "{place}: ours is not the child's"
            );
        }
    }
}

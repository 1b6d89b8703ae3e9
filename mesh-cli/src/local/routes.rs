//! Which addresses this machine knows a way to: a mesh must not take what somebody else has. In: the kernel's table
//! (`/proc/net/route`). Out: whether a range is used. The default route is no use of anything.

use std::net::Ipv4Addr;

/// Whether a route of this machine leads into (or is) part of `net/prefix`.
#[must_use]
pub fn are_used(net: Ipv4Addr, prefix: u32) -> bool {
    // Without a table (no /proc) there is nothing to compare with; adding the address will fail if it is taken.
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    overlap(&table, net, prefix)
}

fn overlap(table: &str, net: Ipv4Addr, prefix: u32) -> bool {
    let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
    table.lines().skip(1).filter_map(route).filter(|(_, route)| *route != 0).any(|(to, route)| {
        let common = mask & route;
        net.to_bits() & common == to & common
    })
}

/// Destination and mask: columns 2 and 8, in hexadecimal and in the machine's byte order.
fn route(line: &str) -> Option<(u32, u32)> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(columns.get(at)?, 16).ok().map(u32::from_be);
    Some((number(1)?, number(7)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_default_route_uses_nothing_and_others_what_they_cover() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                     eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
                     br0 00006F0A 020012AC 0003 0 0 0 00FFFFFF 0 0 0\n\
                     tun 00000078 020012AC 0003 0 0 0 000000FF 0 0 0\n";
        let used = |text: &str| overlap(table, text.parse().unwrap(), 16);
        assert!(used("10.111.0.0"), "a route within it");
        assert!(used("120.7.0.0"), "a route around it");
        assert!(!used("10.112.0.0") && !used("192.168.0.0"));
    }
}

//! Where a gateway's port is bound.
//!
//! In: the port as the Gateway says it, and the bootstrap. Out: the ports to try, in order.

use std::net::SocketAddr;

use crate::config::Gateway;

/// Ports below it need a privilege.
const PRIVILEGED: u16 = 1024;
/// Where such ports go without it.
const OFFSET: u16 = 8000;

/// The addresses to try for `port`.
#[must_use]
pub fn candidates(gateway: Gateway, port: u16) -> Vec<SocketAddr> {
    let at = |port| SocketAddr::new(gateway.listen_ip, port);
    match gateway.port_offset {
        _ if port >= PRIVILEGED => vec![at(port)],
        Some(offset) => port.checked_add(offset).map(at).into_iter().collect(),
        None => vec![at(port), at(port + OFFSET)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_ports_move() {
        let ports = |port_offset, port| {
            let gateway = Gateway { listen_ip: [127, 0, 0, 1].into(), port_offset };
            candidates(gateway, port).iter().map(SocketAddr::port).collect::<Vec<_>>()
        };
        assert_eq!(ports(None, 80), [80, 8080]);
        assert_eq!(ports(Some(9000), 80), [9080]);
        assert_eq!(ports(Some(9000), 8080), [8080]);
    }
}

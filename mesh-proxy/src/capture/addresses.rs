//! Which addresses are this machine's (in a pod: the pod's).
//!
//! In: an address. Out: yes or no, asked of the kernel: pods have several, and they come and go.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Whether `ip` is an address of this network namespace.
#[must_use]
pub fn is_own(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    // Only own addresses can be bound. Nothing is sent.
    ip.is_loopback() || !ip.is_unspecified() && UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows() {
        for own in ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        // TEST-NET-1 and the documentation prefix are nobody's.
        for other in ["192.0.2.1", "2001:db8::1", "0.0.0.0"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
    }
}

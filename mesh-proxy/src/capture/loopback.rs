//! Gives the loopback interface the address from which sidecars pass IPv6 connections on to their application (`::6`).
//!
//! In: nothing. Out: the address is there. One message of rtnetlink(7), so that the image needs no `ip`. (127.0.0.6 is there
//! always: all of 127.0.0.0/8 is.)

use std::io;
use std::os::fd::AsRawFd as _;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::application::FROM_V6;

/// RTM_NEWADDR, and to replace what is there: twice is no error.
const NEW_ADDRESS: u16 = 20;
const REQUEST_ACK_CREATE_REPLACE: u16 = 0x1 | 0x4 | 0x400 | 0x100;
/// IFA_ADDRESS and IFA_LOCAL.
const ATTRIBUTES: [u16; 2] = [1, 2];
/// Header, address message, two attributes.
const LENGTH: u32 = 16 + 8 + 2 * ATTRIBUTE as u32;
const ATTRIBUTE: u16 = 4 + 16;
const AF_INET6: u8 = 10;

/// Whether this network namespace has IPv6.
#[must_use]
pub fn has_ipv6() -> bool {
    // The thread's namespace, which may not be the process's.
    std::fs::read_to_string("/proc/thread-self/net/if_inet6").is_ok_and(|text| !text.trim().is_empty())
}

/// Adds `::6`.
///
/// # Errors
/// What the kernel says; EPERM without `CAP_NET_ADMIN`.
pub fn add_source_address() -> io::Result<()> {
    let loopback = if_nametoindex("lo")?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    send(netlink.as_raw_fd(), &message(loopback), MsgFlags::empty())?;
    let mut answer = [0u8; 1024];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // After the header of an acknowledgement: a negative error number.
    let error = answer[..length].get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match error {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(-number)),
        None => Err(io::Error::other("the kernel's answer is too short")),
    }
}

fn message(interface: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(NEW_ADDRESS.to_ne_bytes());
    bytes.extend(REQUEST_ACK_CREATE_REPLACE.to_ne_bytes());
    // Sequence and port.
    bytes.extend([0; 8]);
    // Family, prefix length, flags, scope.
    bytes.extend([AF_INET6, 128, 0, 0]);
    bytes.extend(interface.to_ne_bytes());
    for kind in ATTRIBUTES {
        bytes.extend(ATTRIBUTE.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(FROM_V6.octets());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_it_says() {
        let message = message(1);
        assert_eq!(message.len(), 64);
        assert_eq!(message[..4], 64u32.to_ne_bytes());
        assert_eq!(message.last(), Some(&6));
    }
}

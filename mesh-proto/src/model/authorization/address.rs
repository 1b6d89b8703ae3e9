//! Blocks of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.

use std::net::IpAddr;
use std::str::FromStr;

use super::InvalidPattern;

/// Some addresses of one family. An IPv4 address inside of IPv6 (`::ffff:10.0.0.1`) is the IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressBlock {
    network: u128,
    mask: u128,
    v6: bool,
}

impl AddressBlock {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (bits, v6) = bits(address.to_canonical());
        v6 == self.v6 && bits & self.mask == self.network
    }
}

/// IPv4 addresses have their bits at the top, so that a mask of a length is the same for both.
fn bits(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, false),
        IpAddr::V6(v6) => (v6.to_bits(), true),
    }
}

impl FromStr for AddressBlock {
    type Err = InvalidPattern;

    /// Bits behind the length are ignored, as Envoy does.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || InvalidPattern::Address(text.chars().take(80).collect());
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => whole,
            Some(length) if length.bytes().all(|b| b.is_ascii_digit()) => {
                length.parse::<u32>().ok().filter(|length| *length <= whole).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        // Of a block of IPv4 inside of IPv6 the first 96 bits are not the IPv4 address's.
        let (address, length) = match (address, address.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if length >= 96 => (v4, length - 96),
            (as_it_is, _) => (as_it_is, length),
        };
        let (bits, v6) = bits(address);
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        Ok(Self { network: bits & mask, mask, v6 })
    }
}

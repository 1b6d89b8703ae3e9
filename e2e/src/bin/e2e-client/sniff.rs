//! `sniff`: whether a canary shows in the packets of an address, on every interface of the network namespace that it is
//! started in (the node's). Out: one JSON object.

use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

/// `ETH_P_ALL`, in network byte order as the socket wants it.
const EVERYTHING: i32 = 0x0003_u16.to_be() as i32;

/// `e2e-client sniff`.
#[derive(Debug, clap::Args)]
pub struct SniffArgs {
    /// Packets from or to this IPv4 address
    #[arg(long)]
    address: std::net::Ipv4Addr,
    /// What is looked for
    #[arg(long)]
    canary: String,
    /// How long
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Looks and prints.
pub fn run(args: &SniffArgs) -> anyhow::Result<()> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERYTHING)))
        .context("a packet socket (is this root?)")?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    socket.set_recv_buffer_size(8 << 20)?;
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let (mut packets, mut seen) = (0_u64, false);
    let mut packet = vec![0_u8; 128 * 1024];
    while Instant::now() < until {
        let Ok(length) = (&socket).read(&mut packet) else { continue };
        let packet = &packet[..length];
        if contains(packet, &args.address.octets()) {
            packets += 1;
            seen |= contains(packet, args.canary.as_bytes());
        }
    }
    println!("{}", json!({ "packets": packets, "seen": seen }));
    Ok(())
}

fn contains(packet: &[u8], what: &[u8]) -> bool {
    packet.windows(what.len()).any(|window| window == what)
}

//! A name server that knows what the test says.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;

/// Names and their addresses; other names do not exist.
#[derive(Clone, Default)]
pub struct NameServer {
    names: Arc<Mutex<BTreeMap<String, Vec<Ipv4Addr>>>>,
}

impl NameServer {
    /// Where it listens.
    pub async fn start() -> (Self, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (server, at) = (Self::default(), socket.local_addr().unwrap());
        let serving = server.clone();
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let _ = socket.send_to(&serving.answer(&question[..length]), from).await;
            }
        });
        (server, at)
    }

    pub fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.names.lock().insert(name.to_owned(), addresses.to_vec());
    }

    /// RFC 1035 §4, with a TTL of 1 s.
    fn answer(&self, question: &[u8]) -> Vec<u8> {
        let mut labels = Vec::new();
        let mut at = 12;
        while question[at] != 0 {
            let length = usize::from(question[at]);
            labels.push(String::from_utf8_lossy(&question[at + 1..=at + length]).to_lowercase());
            at += length + 1;
        }
        let end = at + 5;
        let is_a = question[at + 1..at + 3] == [0, 1];
        let known = self.names.lock().get(&labels.join(".")).cloned();
        let addresses = known.clone().filter(|_| is_a).unwrap_or_default();
        let code = if known.is_some() { 0 } else { 3 };
        let mut out = question[..2].to_vec();
        out.extend([0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
        out.extend(&question[12..end]);
        for address in addresses {
            out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            out.extend(address.octets());
        }
        out
    }
}

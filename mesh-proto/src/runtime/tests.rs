//! Stories over several modules: the corpus of bad certificates, handshakes both ways, rotation, gRPC.

mod corpus;
mod go_spiffe;
mod grpc;
mod handshake;
mod identity;
mod spoken;

use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::tls;
use crate::model::SpiffeId;

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}").parse().unwrap()
}

type Client = client::TlsStream<DuplexStream>;
type Server = server::TlsStream<DuplexStream>;

/// Both ends of a handshake in memory. One byte goes from the server to the client, so that a client learns of its
/// refusal (in TLS 1.3 its own handshake is over before).
async fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> (io::Result<Server>, io::Result<Client>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let serve = async {
        let mut stream = TlsAcceptor::from(server.clone()).accept(far).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(stream)
    };
    let connect = async {
        let name = tls::server_name("127.0.0.1:1");
        let mut stream = TlsConnector::from(client.clone()).connect(name, near).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    tokio::join!(serve, connect)
}

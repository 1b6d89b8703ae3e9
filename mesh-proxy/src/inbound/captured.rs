//! Connections from outside that the pod's rules brought here.
//!
//! In: a socket accepted on the inbound capture port. Out: the same as for a declared port, for whatever port of the pod
//! was dialled: one that no service declares has the workload's own mTLS mode, never less.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;

use super::accept;
use crate::capture::{Application, addresses, original};
use crate::config::Capture;
use crate::worker::Worker;

/// Serves one connection.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, remote: SocketAddr, capture: Capture) {
    // With TPROXY too, what this very pod's proxy sends to its own application is redirected.
    let transparent =
        || original::transparent_destination(&stream, capture.inbound).filter(|_| capture.tproxy);
    let dialled = original::redirected(&stream).or_else(transparent);
    let Some(dialled) = dialled else {
        tracing::info!(%remote, "closed: the inbound capture port was dialled itself");
        return;
    };
    if let Some(why) = refusal(&worker, dialled, capture) {
        tracing::info!(%remote, %dialled, "closed: {why}");
        return;
    }
    let client = capture.tproxy.then(|| remote.ip());
    accept::serve(worker, stream, remote, Application::captured(dialled, client)).await;
}

/// Why nothing is passed on to `dialled`.
fn refusal(worker: &Worker, dialled: SocketAddr, capture: Capture) -> Option<&'static str> {
    let own = [capture.outbound, capture.inbound, worker.config.admin];
    // The rules leave the agent's port out; whoever came to it through here would come from loopback.
    let agent = worker.config.agent.as_ref().map(|agent| agent.listen);
    let own = own.into_iter().chain(worker.config.http_proxy()).chain(agent);
    if own.map(|own| own.port()).any(|own| own == dialled.port()) {
        return Some("this port of the proxy is for its own pod");
    }
    // A neighbour that takes this pod for a router would be sent on in our name.
    let own = dialled.ip() == worker.config.pod_ip || addresses::is_own(dialled.ip());
    (!own).then_some("the address dialled is not this pod's")
}

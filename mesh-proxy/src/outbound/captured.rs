//! Connections of the application that the pod's rules brought here, whatever they were opened to.
//!
//! In: a socket accepted on the outbound capture port. Out: the same as for a service's own listener, when a service's
//! address was dialled; otherwise what the look-up says about the address. Ports that declare TCP never wait for the client.
//! An address that nobody knows is looked at only where some name on that port could be meant (Istio: a port has one set
//! of listeners): Host, then SNI, decide before the address does.

use std::net::SocketAddr;
use std::rc::Rc;

use mesh_proto::model::Protocol as Declared;
use tokio::net::TcpStream;

use super::goal;
use super::listen::{bytes_at, ends, speaking};
use super::tcp;
use crate::capture::original;
use crate::destination::Resolved;
use crate::respond::Failure;
use crate::store::Demand;
use crate::worker::Worker;

/// Serves one connection.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let Ok(mut ends) = ends(&worker, &stream, peer) else {
        tracing::info!(%peer, "closed: this proxy has no configuration yet");
        return;
    };
    let (closer, watch) = worker.outbound.for_connection();
    let _live = watch.enter();
    let at = match original::redirected(&stream) {
        Some(at) if !worker.is_own_socket(at) => at,
        own => {
            // Somebody dialled the capture port itself: to send it on would come back here for ever.
            if let Some(at) = own.or(ends.local) {
                tcp::refused(&worker, &ends, &Failure::ProxyPort(at));
            }
            return;
        }
    };
    ends.local = Some(at);
    match declared(&worker, at).await {
        Ok(protocol) => speaking(&worker, stream, at, protocol, (ends, closer, watch)).await,
        Err(late) => tcp::refused(&worker, &ends, &late.into()),
    }
}

/// What the port dialled declares.
async fn declared(worker: &Worker, at: SocketAddr) -> Result<Declared, Demand> {
    let lookup = goal::lookup(bytes_at(at));
    let mut resolved = worker.store.resolve(&lookup);
    if let Resolved::AskWorkload(ip) = resolved {
        match worker.store.demand_workload(ip).await {
            Ok(_) | Err(Demand::Absent(_)) => {}
            Err(late) => return Err(late),
        }
        resolved = worker.store.resolve(&lookup);
    }
    let port = match resolved {
        Resolved::Service(service, _) => Some(service.protocol),
        Resolved::Workload(at, _) => {
            let cell = worker.store.workload(at.ip());
            let workload = cell.and_then(|cell| cell.load_full());
            workload.and_then(|w| w.ports.get(&at.port()).map(|p| p.protocol))
        }
        Resolved::Own(at) => {
            worker.store.self_config().and_then(|c| c.ports.get(&at.port()).map(|p| p.protocol))
        }
        Resolved::AskWorkload(_) | Resolved::Passthrough(_) | Resolved::Blocked => None,
    };
    Ok(port.unwrap_or_else(|| worker.store.catalogue().spoken_on(at.port())))
}

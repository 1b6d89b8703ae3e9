//! CONNECT on the HTTP proxy port: a tunnel of bytes, or, where the port that it names carries requests, one whose
//! requests are routed like all others.
//!
//! In: `CONNECT host:port`. Out: 200 and a tunnel, or a failure before it: the upstream is connected first.

use std::rc::Rc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use mesh_proto::model::Protocol as Declared;

use super::goal::{self, Asked, Goal};
use super::http::{Entry, Outbound};
use super::{listen, tcp};
use crate::destination::Traffic;
use crate::exchange::{Exchange, reply};
use crate::http::{Body, Outcome, Reply, Then};
use crate::respond::Failure;

/// Answers a CONNECT.
pub async fn connect(from: &Outbound, head: &Parts, mut exchange: Box<Exchange>) -> Reply {
    let then = match open(from, head).await {
        Ok(then) => then,
        Err(failure) => return reply(exchange, Err(failure), true, &from.closer),
    };
    exchange.direct(200);
    // What goes through the tunnel is told by itself: requests as requests, bytes as a connection.
    let nothing =
        Outcome { bytes_received: 0, bytes_sent: 0, grpc_status: None, end: crate::http::End::Complete };
    Exchange::finish(&mut exchange, &nothing);
    Reply { response: Response::new(Body::empty()), then, record: None }
}

async fn open(from: &Outbound, head: &Parts) -> Result<Then, Failure> {
    if !matches!(from.entry, Entry::Proxy) {
        return Err(Failure::ConnectTarget(head.uri.to_string()));
    }
    let authority = head.uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if goal::port_of(authority).is_none() {
        return Err(Failure::ConnectTarget(authority.to_owned()));
    }
    // A CONNECT names its goal as a request does, whatever it will carry.
    let asked = Asked { vip: None, host: Some(authority), traffic: Traffic::Http };
    let goal = goal::find(&from.worker, asked).await?;
    let declared = declared(&goal);
    let worker = from.worker.clone();
    let ends = from.ends.clone();
    let (closer, watch) = (from.closer.clone(), from.watch.clone());
    if declared.is_opaque() || declared == Declared::Tls {
        // Whoever names the goal here asks for it in its TLS too.
        let sni = (declared == Declared::Tls).then_some(authority);
        let client = tcp::Client { sni, ..tcp::Client::at(ends.source_ip()) };
        let upstream = tcp::connect(&worker, &goal, &client).await?;
        return Ok(Then::Tunnel(Box::new(move |client, first| {
            Box::pin(async move {
                tcp::join(&worker, client, first, upstream, ends, &closer).await;
            })
        })));
    }
    Ok(Then::Tunnel(Box::new(move |client, first: Bytes| {
        Box::pin(async move {
            let service = Outbound::new(worker, Entry::Tunnel(goal.clone()), ends, (closer, watch));
            listen::inside_tunnel(Rc::new(service), client, first, goal).await;
        })
    })))
}

/// The protocol that the goal's port declares.
#[must_use]
pub fn declared(goal: &Goal) -> Declared {
    match goal {
        Goal::Destination(service, _) => service.protocol,
        Goal::Workload(address, workload, _) => {
            workload.ports.get(&address.port()).map_or(Declared::Auto, |p| p.protocol)
        }
        Goal::Own(_) | Goal::Address(_) => Declared::Auto,
    }
}

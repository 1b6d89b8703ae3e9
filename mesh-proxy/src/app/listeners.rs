//! One worker's thread: its sockets, and what follows changes of configuration.
//!
//! In: the process's handles. Out: connections, each given to the code that serves it. Inbound ports and the HTTP proxy port
//! are fixed; service listeners and gateway ports come and go with the catalogue and the listeners.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

use super::ports;
use crate::authorization::under_way::Now;
use crate::capture::vips::{self, Vip};
use crate::capture::{accept_loop, bind, original};
use crate::config::Capture;
use crate::drain::{Closer, DrainWatch};
use crate::revocation;
use crate::worker::{Shared, Worker};
use crate::{gateway, inbound, outbound};

/// Runs worker `index` until `end`. `bound` is told when its fixed sockets are open.
pub fn run(shared: &Shared, index: usize, bound: oneshot::Sender<anyhow::Result<()>>, end: &DrainWatch) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Nobody listens any more: the process is ending.
            let _ = bound.send(Err(error.into()));
            return;
        }
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let worker = Worker::new(shared, index);
        let outcome = open_fixed(&worker);
        let failed = outcome.is_err();
        let _ = bound.send(outcome);
        if failed {
            return;
        }
        let follow = async {
            tokio::join!(follow_vips(&worker), follow_gateways(&worker), follow_policy(&worker));
        };
        tokio::select! {
            () = end.draining() => {}
            () = follow => {}
        }
    });
}

/// Opens the sockets that do not depend on discovery.
fn open_fixed(worker: &Rc<Worker>) -> anyhow::Result<()> {
    for port in worker.config.inbound.clone() {
        let context = || format!("inbound port {} at {}", port.port, port.listen);
        let listener = listen(worker, port.listen).with_context(context)?;
        let serving = worker.clone();
        accept(listener, worker.inbound.clone(), move |stream, peer| {
            spawn_local(inbound::accept::serve(serving.clone(), stream, peer, port.into()));
        });
    }
    if let Some(at) = worker.config.http_proxy() {
        match listen(worker, at) {
            Ok(listener) => {
                let serving = worker.clone();
                accept(listener, worker.outbound.clone(), move |stream, peer| {
                    spawn_local(outbound::listen::proxy(serving.clone(), stream, peer));
                });
            }
            // The application's traffic comes another way, and it may need this port itself.
            Err(error) if worker.config.outbound.is_none() => {
                tracing::warn!(%at, %error, "no HTTP proxy port: `meshctl request --from` this pod does not work");
            }
            Err(error) => return Err(error).with_context(|| format!("HTTP proxy port at {at}")),
        }
    }
    match worker.config.capture {
        Some(capture) => open_captured(worker, capture),
        None => Ok(()),
    }
}

/// Opens the sockets to which the pod's rules bring its traffic.
fn open_captured(worker: &Rc<Worker>, capture: Capture) -> anyhow::Result<()> {
    let shared = worker.config.workers.get() > 1;
    let open = |at: SocketAddr, tproxy| -> anyhow::Result<Option<TcpListener>> {
        let what = if tproxy { " for TPROXY (needs CAP_NET_ADMIN)" } else { "" };
        let listener =
            original::bind(at, shared, tproxy).with_context(|| format!("capture at {at}{what}"))?;
        Ok(listener.map(TcpListener::from_std).transpose()?)
    };
    for at in original::families(capture.outbound) {
        // TPROXY works on what comes in; what leaves is redirected always.
        let Some(listener) = open(at, false)? else { continue };
        let serving = worker.clone();
        accept(listener, worker.outbound.clone(), move |stream, peer| {
            spawn_local(outbound::captured::serve(serving.clone(), stream, peer));
        });
    }
    for at in original::families(capture.inbound) {
        let Some(listener) = open(at, capture.tproxy)? else { continue };
        let serving = worker.clone();
        accept(listener, worker.inbound.clone(), move |stream, peer| {
            spawn_local(inbound::captured::serve(serving.clone(), stream, peer, capture));
        });
    }
    Ok(())
}

fn listen(worker: &Worker, address: SocketAddr) -> io::Result<TcpListener> {
    let shared = worker.config.workers.get() > 1;
    bind(address, shared).and_then(TcpListener::from_std)
}

fn accept(listener: TcpListener, drain: DrainWatch, serve: impl FnMut(TcpStream, SocketAddr) + 'static) {
    spawn_local(accept_loop(listener, drain, serve));
}

/// A listener that can be closed by itself.
struct Open {
    vip: Vip,
    closer: Closer,
}

/// Keeps one listener open for each service that the catalogue shows.
async fn follow_vips(worker: &Rc<Worker>) {
    let Some(mapping) = worker.config.outbound.and_then(|o| o.vips) else { return park().await };
    let mut changes = worker.store.changes();
    let mut open: BTreeMap<SocketAddr, Open> = BTreeMap::new();
    loop {
        let catalogue = worker.store.catalogue();
        let wanted = vips::listeners(mapping, catalogue.vips().map(|(ip, port)| Vip { ip, port }));
        let now = open.iter().map(|(at, open)| (*at, open.vip)).collect();
        let (missing, gone) = vips::changes(&now, &wanted);
        for at in gone {
            if let Some(closed) = open.remove(&at) {
                closed.closer.close();
            }
        }
        for at in missing {
            match open_vip(worker, at, wanted[&at]) {
                Ok(opened) => drop(open.insert(at, opened)),
                Err(error) => tracing::warn!(%at, %error, "a service's listener cannot be opened"),
            }
        }
        if changes.changed().await.is_err() {
            return park().await;
        }
    }
}

fn open_vip(worker: &Rc<Worker>, at: SocketAddr, vip: Vip) -> io::Result<Open> {
    let listener = listen(worker, at)?;
    let (closer, watch) = worker.outbound.for_connection();
    let serving = worker.clone();
    let means = SocketAddr::new(vip.ip, vip.port);
    accept(listener, watch, move |stream, peer| {
        spawn_local(outbound::listen::vip(serving.clone(), stream, peer, means));
    });
    Ok(Open { vip, closer })
}

/// Keeps one socket open for each listener of a gateway.
async fn follow_gateways(worker: &Rc<Worker>) {
    let Some(gateway) = worker.config.gateway else { return park().await };
    let mut changes = worker.store.changes();
    // By the port that is bound: the one that the Gateway says, and the socket.
    let mut open: BTreeMap<u16, (u16, Closer)> = BTreeMap::new();
    loop {
        let listeners = worker.store.listeners();
        // Where two lead to one port, the lower one has it.
        let mut wanted: BTreeMap<u16, u16> = BTreeMap::new();
        for listener in listeners.iter() {
            let port = *wanted.entry(listener.target_port).or_insert(listener.port);
            if port != listener.port {
                tracing::warn!(
                    port = listener.port,
                    target = listener.target_port,
                    taken_by = port,
                    "not opened"
                );
            }
        }
        open.retain(|target, (port, closer)| {
            let keep = wanted.get(target) == Some(port);
            if !keep {
                closer.close();
            }
            keep
        });
        for (target, port) in wanted {
            if open.contains_key(&target) {
                continue;
            }
            match open_gateway(worker, &ports::candidates(gateway, target), port) {
                Ok(closer) => drop(open.insert(target, (port, closer))),
                Err(error) => tracing::warn!(port, %error, "a gateway's port cannot be opened"),
            }
        }
        if changes.changed().await.is_err() {
            return park().await;
        }
    }
}

fn open_gateway(worker: &Rc<Worker>, candidates: &[SocketAddr], port: u16) -> io::Result<Closer> {
    let mut outcome = Err(io::Error::other("no address for it"));
    for at in candidates {
        outcome = listen(worker, *at);
        match &outcome {
            Ok(_) => tracing::info!(port, %at, "gateway listens"),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
            Err(_) => {}
        }
        break;
    }
    let listener = outcome?;
    let (closer, watch) = worker.inbound.for_connection();
    let serving = worker.clone();
    accept(listener, watch, move |stream, peer| {
        spawn_local(gateway::serve(serving.clone(), stream, peer, port));
    });
    Ok(closer)
}

/// Ends live connections that policy or trust would not let in any more.
async fn follow_policy(worker: &Rc<Worker>) {
    let (mut changes, mut trust) = (worker.store.changes(), worker.identity.changed());
    let handle = worker.identity.roots_handle();
    let (mut roots, mut tls) = (handle.get(), handle.tls());
    loop {
        let config = worker.store.self_config();
        let now = (handle.get(), handle.tls());
        // Names of our trust domain decide whom its roots vouch for.
        let other = !std::sync::Arc::ptr_eq(&roots, &now.0) || !std::sync::Arc::ptr_eq(&tls, &now.1);
        (roots, tls) = now;
        if let Some(config) = config {
            let roots = other.then_some(handle);
            let ended =
                worker.live.revise(&config, roots, &worker.guards, &worker.under_way, &worker.terminations);
            if ended > 0 {
                tracing::info!(connections = ended, "not allowed any more");
            }
        }
        if other {
            let ended = revocation::end(&roots, &tls);
            if ended > 0 {
                tracing::info!(ended, "connections of identities that are tainted");
            }
        }
        let gone = tokio::select! {
            changed = changes.changed() => changed.is_err(),
            changed = trust.changed() => changed.is_err(),
            () = follow_requests(worker) => continue,
        };
        if gone {
            return park().await;
        }
    }
}

/// Ends requests that are not let in any more; those that cannot be looked at yet, when they can. Never returns.
async fn follow_requests(worker: &Rc<Worker>) {
    loop {
        let Some(config) = worker.store.self_config() else { return park().await };
        let cut =
            worker.under_way.revise(&Now { config: &config, guards: &worker.guards, tokens: &worker.tokens });
        if cut > 0 {
            tracing::info!(requests = cut, "not allowed any more");
        }
        worker.under_way.wanted().await;
    }
}

async fn park() {
    std::future::pending::<()>().await;
}

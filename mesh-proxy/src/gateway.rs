//! A gateway: requests from outside of the mesh, routed by port and host.
//!
//! In: connections to a listener's port. Out: answers by the same route and forwarding code as a sidecar's. Nothing that an
//! outsider sends makes this proxy ask the pilot. A connection of TLS is for the hosts of the server that its SNI chose:
//! for others it is the wrong one (421), so that no host is reached around what its own server asks for.

pub mod keeper;
pub mod termination;
mod tls;

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use mesh_proto::model::SpiffeId;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;

use self::tls::Secure;
use crate::authorization::under_way::while_allowed;
use crate::authorization::{Connection, Ended, Gate, gate};
use crate::destination::normalise;
use crate::detect::{First, detect_until};
use crate::drain::Closer;
use crate::exchange::{Ends, Exchange, reply};
use crate::http::{BadRequest, Body, Protocol, Reply, Service, serve_connection};
use crate::inbound::decide::Through;
use crate::inbound::live::{Admitted, Entry};
use crate::io::Io;
use crate::outbound::forward::Onward;
use crate::outbound::headers::{self, CLIENT_CERT};
use crate::outbound::tcp;
use crate::respond::Failure;
use crate::route::{Action, Rule, TcpRule};
use crate::store::VirtualHost;
use crate::store::listener::{Hosts, Inside, Listener, TlsAction};
use crate::telemetry::{self, Party, Reporter};
use crate::worker::{Me, Worker};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const EXTERNAL: HeaderName = HeaderName::from_static("x-envoy-external-address");

/// How long a client may be silent before its first request.
const SILENCE: Duration = Duration::from_secs(60);

/// One connection to a gateway.
struct Gateway {
    worker: Rc<Worker>,
    port: u16,
    ends: Ends,
    closer: Closer,
    /// None: plaintext.
    secure: Option<Secure>,
    gate: Gate,
    known: RefCell<Option<Rc<Known>>>,
    /// What policies say may change while it waits for its next request.
    _entry: Entry,
}

/// What the last request's host came to.
struct Known {
    host: Option<HeaderValue>,
    generation: u64,
    virtual_host: Arc<VirtualHost>,
    me: Rc<Me>,
}

/// Serves one connection to the listener of `port` (as the Gateway says it).
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, remote: SocketAddr, port: u16) {
    let Ok(me) = worker.me() else { return };
    let Some(listener) = listener_of(&worker, port) else { return };
    let (closer, watch) = worker.inbound.for_connection();
    let _live = watch.enter();
    let ends = Ends {
        reporter: Reporter::Source,
        source: me.party.clone(),
        destination: Party::unknown(),
        service: Arc::new(telemetry::Service::named("BlackHoleCluster")),
        mtls: false,
        local: stream.local_addr().ok(),
        remote: Some(remote),
        server_name: Rc::from(""),
        policies: None,
    };
    if !listener.tcp.is_empty() {
        // The server may speak first.
        let connection = connection(&listener, &ends, None);
        return bytes_to(&worker, Io::Plain(stream), &listener.tcp, ends, &connection, &closer).await;
    }
    let first = detect_until(&stream, SILENCE, &watch, worker.settings.drain_linger).await;
    let protocol = match (first, listener.is_tls()) {
        (Ok(None | Some(First::Silent | First::Closed)) | Err(_), _) => return,
        (Ok(Some(First::Tls)), true) => {
            return Box::pin(tls::serve(worker, stream, &listener, ends, (closer, watch))).await;
        }
        (Ok(Some(_)), true) => {
            let why = Failure::Handshake("plaintext on a port of TLS".to_owned());
            return tcp::refused(&worker, &ends, &why);
        }
        (Ok(Some(First::Http2)), false) => Protocol::Http2,
        (Ok(Some(First::Http1 | First::Other | First::Tls)), false) => Protocol::Http1,
    };
    let connection = connection(&listener, &ends, None);
    let service = Rc::new(Gateway::new(&worker, connection, port, ends, closer, None));
    serve_connection(Io::Plain(stream), Bytes::new(), protocol, &worker.settings, service, watch).await;
}

/// What policies are asked about: the port is the one that is bound where nothing moves it.
fn connection(listener: &Listener, ends: &Ends, peer: Option<SpiffeId>) -> Rc<Connection> {
    let address = ends.local.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |local| local.ip());
    Rc::new(Connection {
        peer,
        source: ends.source_ip(),
        destination: SocketAddr::new(address, listener.target_port),
        sni: Box::from(&*ends.server_name),
        ended: Ended::default(),
    })
}

/// What of a connection is looked at again when policy or trust changes; of one that carries requests.
fn admitted(
    worker: &Worker,
    connection: &Rc<Connection>,
    chain: Vec<CertificateDer<'static>>,
    closer: &Closer,
) -> Admitted {
    Admitted {
        connection: connection.clone(),
        bytes: false,
        through: Through::Gateway,
        chain,
        closer: closer.clone(),
        asked: worker.store.self_config().and_then(|config| config.external.clone()),
        client: None,
    }
}

fn listener_of(worker: &Worker, port: u16) -> Option<Arc<Listener>> {
    worker.store.listeners().iter().find(|listener| listener.port == port).cloned()
}

/// Joins a client's bytes with where the first rule sends them.
async fn bytes_to(
    worker: &Rc<Worker>,
    io: Io,
    rules: &[TcpRule],
    mut ends: Ends,
    connection: &Rc<Connection>,
    closer: &Closer,
) {
    // What policies say may change while we connect, and while bytes flow.
    let entry = Admitted { bytes: true, ..admitted(worker, connection, Vec::new(), closer) };
    let _entry = worker.live.admit(entry);
    let admitted = match worker.store.self_config() {
        None => Err(Failure::NotReady),
        Some(config) => {
            ends.policies = gate::watch_bytes(worker, &config, connection);
            gate::bytes_of(worker, &config, connection, ends.source()).await
        }
    };
    let upstream = match (admitted, rules.first()) {
        (Err(failure), _) => Err(failure),
        (Ok(()), Some(rule)) => tcp::routed(worker, rule, &tcp::Client::at(ends.source_ip())).await,
        (Ok(()), None) => Err(Failure::NoRoute),
    };
    match upstream {
        Ok(upstream) => tcp::join(worker, io, Bytes::new(), upstream, ends, closer).await,
        Err(failure) => tcp::refused(worker, &ends, &failure),
    }
}

impl Gateway {
    fn new(
        worker: &Rc<Worker>,
        connection: Rc<Connection>,
        port: u16,
        ends: Ends,
        closer: Closer,
        secure: Option<Secure>,
    ) -> Self {
        let entry = worker.live.admit(Admitted {
            connection: connection.clone(),
            bytes: false,
            through: Through::Gateway,
            chain: Vec::new(),
            closer: closer.clone(),
            asked: None,
            client: None,
        });
        let gate = Gate::to_routes(connection);
        Self {
            worker: worker.clone(),
            port,
            ends,
            closer,
            secure,
            gate,
            known: RefCell::default(),
            _entry: entry,
        }
    }

    /// What was spoken here.
    fn scheme(&self) -> &'static str {
        if self.secure.is_some() { "https" } else { "http" }
    }

    async fn answer(
        &self,
        mut head: Parts,
        mut body: Body,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Failure> {
        headers::strip_outsider(&mut head.headers);
        self.tell_client(&mut head.headers);
        headers::complete(&self.worker, &mut head.headers, self.scheme());
        if let Some(id) = head.headers.get(&crate::exchange::REQUEST_ID) {
            exchange.request_id(id);
        }
        let known = self.find(&head)?;
        let config = self.worker.store.self_config().ok_or(Failure::NotReady)?;
        if config.external.is_none() {
            self.gate.begin(&config, &mut head)?;
            self.gate.admit(&self.worker, &config, (&mut head, &mut body), exchange)?;
            let rule = known.virtual_host.table.find(&head);
            return self.route((head, body), &known, rule, exchange).await;
        }
        let source = self.ends.source();
        let (asked, config) = self.gate.ask(&self.worker, config, source, (&mut head, &mut body)).await?;
        self.gate.admit(&self.worker, &config, (&mut head, &mut body), exchange)?;
        // Routes too are those of now: what the others name may be gone.
        let known = self.find(&head)?;
        // As in Envoy: unless it is said otherwise, what a provider changes chooses no other route (tokens may).
        let late = config.external.as_ref().is_some_and(|external| external.clears_route());
        let shown = asked.before().filter(|_| !late && config.jwt_rules.is_empty()).unwrap_or(&head);
        let rule = known.virtual_host.table.find(shown);
        let mut answer = self.route((head, body), &known, rule, exchange).await?;
        asked.to_response(answer.headers_mut());
        Ok(answer)
    }

    /// Sends an admitted request where its rule says.
    async fn route(
        &self,
        (head, body): (Parts, Body),
        known: &Known,
        rule: Option<&Rule>,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Failure> {
        if known.virtual_host.https_redirect && self.secure.is_none() {
            let response = to_https(&head).ok_or(Failure::NoRoute)?;
            exchange.direct(response.status().as_u16());
            return Ok(response);
        }
        let rule = rule.ok_or(Failure::NoRoute)?;
        exchange.route(&rule.name);
        match &*rule.action {
            Action::Respond(direct) => {
                exchange.direct(direct.status.as_u16());
                let mut response = Response::new(Body::full(direct.body.clone()));
                *response.status_mut() = direct.status;
                Ok(response)
            }
            Action::Route(route) => {
                let source = self.ends.source_ip();
                let told = exchange.told();
                let mut onward =
                    Onward { worker: &self.worker, me: &known.me, source, dialled: None, exchange };
                while_allowed(told, std::pin::pin!(onward.forward(head, body, route))).await
            }
        }
    }

    /// The virtual host of a request, from memory where the host is the same and nothing has changed.
    fn find(&self, head: &Parts) -> Result<Rc<Known>, Failure> {
        let host = head.headers.get(HOST);
        let generation = self.worker.store.generation();
        if let Some(known) = &*self.known.borrow()
            && known.generation == generation
            && known.host.as_ref() == host
        {
            return Ok(known.clone());
        }
        let listener = listener_of(&self.worker, self.port).ok_or(Failure::NoRoute)?;
        let name = host.and_then(|h| h.to_str().ok()).unwrap_or_default();
        let hosts = match &self.secure {
            None => &listener.hosts,
            Some(secure) => self.inside(&listener, secure, name)?,
        };
        let virtual_host = hosts.find(name).ok_or(Failure::NoRoute)?.clone();
        let me = self.worker.me()?;
        let known = Rc::new(Known { host: host.cloned(), generation, virtual_host, me });
        *self.known.borrow_mut() = Some(known.clone());
        Ok(known)
    }

    /// The hosts that a connection of TLS is for. Also what has changed since it was let in counts: other settings, other
    /// roots, a certificate that is gone.
    fn inside<'a>(&self, listener: &'a Listener, secure: &Secure, host: &str) -> Result<&'a Hosts, Failure> {
        let termination = self.worker.terminations.find(&secure.key);
        let trusted = termination.is_some_and(|termination| termination.trust == secure.trust);
        let server = listener.tls_server(secure.sni.as_deref());
        let hosts = server.filter(|_| trusted).and_then(|server| match &server.action {
            TlsAction::Terminate(settings, Inside::Http(hosts)) if settings.key == secure.key => Some(hosts),
            _ => None,
        });
        let (Some(server), Some(hosts)) = (server, hosts) else {
            self.closer.close();
            return Err(Failure::Misdirected(
                "the server that let this connection in has changed".to_owned(),
            ));
        };
        match listener.tls_server(Some(host)) {
            Some(other) if !Arc::ptr_eq(other, server) => {
                let sni = secure.sni.as_deref().unwrap_or("no SNI");
                Err(Failure::Misdirected(format!("{host} is another server's than that of {sni}")))
            }
            _ => Ok(hosts),
        }
    }

    /// Istio's edge: the client's address is appended, the scheme is what was spoken here.
    fn tell_client(&self, headers: &mut HeaderMap) {
        let address = self.ends.source_ip().to_string();
        let mut all = Vec::new();
        for before in headers.get_all(&FORWARDED_FOR) {
            all.extend_from_slice(before.as_bytes());
            all.push(b',');
        }
        all.extend_from_slice(address.as_bytes());
        if let (Ok(all), Ok(own)) = (HeaderValue::from_bytes(&all), HeaderValue::from_str(&address)) {
            headers.insert(FORWARDED_FOR, all);
            headers.insert(EXTERNAL, own);
        }
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(self.scheme()));
        if let Some(client) = self.secure.as_ref().and_then(|secure| secure.client_cert.clone()) {
            headers.insert(CLIENT_CERT, client);
        }
    }
}

/// The same URL with https, on its own port: the one of plaintext is not that of TLS.
fn to_https(head: &Parts) -> Option<Response<Body>> {
    let host = head.headers.get(HOST)?.to_str().ok()?;
    // A port is not part of the name, but an IPv6 address has brackets.
    let name = match host.strip_prefix('[') {
        Some(_) => host.split_once(']').map_or(host, |(name, _)| &host[..=name.len()]),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    normalise(name)?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = HeaderValue::from_str(&format!("https://{name}{path}")).ok()?;
    response.headers_mut().insert(LOCATION, location);
    Some(response)
}

impl Service for Gateway {
    async fn call(&self, request: Request<Body>) -> Reply {
        let (head, body) = request.into_parts();
        let mut exchange = Exchange::new(&self.worker, self.ends.clone(), &head);
        let answer = self.answer(head, body, &mut exchange).await;
        reply(exchange, answer, false, &self.closer)
    }

    fn refused(&self, why: &BadRequest) {
        Exchange::malformed(&self.worker, self.ends.clone(), *why);
    }
}

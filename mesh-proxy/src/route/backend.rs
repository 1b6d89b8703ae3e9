//! Weighted choice of a backend.

use mesh_proto::model::host_port::HostPort;
use mesh_proto::wire::mesh::v1 as wire;
use rand::{Rng, RngExt};

use super::InvalidRoute;
use crate::cluster::ClusterHandle;

/// A cluster, or a subset of one.
#[derive(Debug)]
pub struct Backend {
    /// Resolved once, when the table was loaded.
    pub cluster: ClusterHandle,
    /// `None`: the whole cluster.
    pub subset: Option<Box<str>>,
    weight: u64,
}

impl Backend {
    /// Its share of the sum of all weights of its rule.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.weight
    }
}

/// The backends of one rule.
#[derive(Debug)]
pub struct Backends {
    list: Vec<Backend>,
    total: u64,
}

impl Backends {
    /// Parses `list`; `field` is its path.
    pub(super) fn new(
        list: &[wire::WeightedBackend],
        field: &str,
        resolve: &mut impl FnMut(&HostPort) -> ClusterHandle,
    ) -> Result<Self, InvalidRoute> {
        let mut backends = Vec::with_capacity(list.len());
        for (index, backend) in list.iter().enumerate() {
            let field = || format!("{field}[{index}].cluster");
            let name = backend.cluster.as_ref().ok_or_else(|| InvalidRoute::Missing { field: field() })?;
            let name = HostPort::try_from(name)
                .map_err(|source| InvalidRoute::Backend { field: field(), source })?;
            backends.push(Backend {
                cluster: resolve(&name),
                subset: (!backend.subset.is_empty()).then(|| backend.subset.as_str().into()),
                weight: u64::from(backend.weight),
            });
        }
        // Istio: a sole destination takes everything, whatever its weight.
        if let [sole] = backends.as_mut_slice() {
            sole.weight = 1;
        }
        let total = backends.iter().map(|b| b.weight).sum();
        Ok(Self { list: backends, total })
    }

    /// One of them, by weight. `None`: there is none that may get anything (answer 500).
    pub fn choose<R: Rng>(&self, rng: &mut R) -> Option<&Backend> {
        if let [sole] = self.list.as_slice() {
            return Some(sole);
        }
        if self.total == 0 {
            return None;
        }
        let mut at = rng.random_range(0..self.total);
        for backend in &self.list {
            if at < backend.weight {
                return Some(backend);
            }
            at -= backend.weight;
        }
        None
    }

    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Backend] {
        &self.list
    }
}

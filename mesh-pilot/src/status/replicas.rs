//! What the other replicas' proxies have of each object. In: their answers (`mesh.v1.Replicas`). Out: counts and troubles to
//! add to ours. Each proxy is connected to one replica, so that what is counted adds up.

use std::collections::HashMap;

use mesh_proto::wire::mesh::v1::ObjectStanding;

use crate::index::Standing;
use crate::push::Observers;

/// Kind, namespace and name.
pub type Key = (String, String, String);

/// All that other replicas have told.
#[derive(Debug, Default)]
pub struct Others(HashMap<Key, Vec<ObjectStanding>>);

impl Others {
    /// What several replicas told.
    pub fn new(told: impl IntoIterator<Item = ObjectStanding>) -> Self {
        let mut others: HashMap<Key, Vec<ObjectStanding>> = HashMap::new();
        for object in told {
            let key = (object.kind.clone(), object.namespace.clone(), object.name.clone());
            others.entry(key).or_default().push(object);
        }
        Self(others)
    }

    /// Their proxies that want an object, and those that have this version of it: a replica that has judged another one
    /// speaks of that.
    pub(crate) fn observers(&self, standing: &Standing) -> Observers {
        let mut sum = Observers::default();
        for object in self.0.get(&super::key(&standing.reference)).into_iter().flatten() {
            sum.subscribed += object.subscribed as usize;
            if object.generation == standing.generation.unwrap_or_default() {
                sum.acked += object.acked as usize;
            }
        }
        sum
    }

    /// What their gateways cannot serve.
    pub(super) fn troubles(&self) -> impl Iterator<Item = (&Key, &String)> {
        let of_object = |(key, told): (_, _)| {
            let told: &Vec<ObjectStanding> = told;
            told.iter().flat_map(|object| &object.troubles).map(move |trouble| (key, trouble))
        };
        self.0.iter().flat_map(of_object)
    }
}

//! Endpoints that have a name: one for each address that DNS has for it.
//!
//! In: `wire::Endpoints`, what is known about names. Out: the same with addresses only, and which names are not answered yet.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_proto::wire::mesh::v1 as wire;

use crate::dns::Names;

/// What is known about names: addresses, or why there are none.
pub(super) type Resolved = HashMap<Arc<str>, Result<Vec<IpAddr>, String>>;

/// Endpoints by address.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    pub endpoints: wire::Endpoints,
    /// Names that nothing is known about yet.
    pub open: bool,
    /// Why names have no address.
    pub why: Option<String>,
}

/// The name of an endpoint, if it has one, and its port.
fn name_of(endpoint: &wire::Endpoint) -> Option<(&str, u16)> {
    if endpoint.address.parse::<SocketAddr>().is_ok() {
        return None;
    }
    let (name, port) = endpoint.address.rsplit_once(':')?;
    // What is neither an address nor a name is refused where endpoints are parsed.
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_name = !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    is_name.then_some((name, port))
}

/// The names of endpoints.
pub(super) fn names_of(endpoints: &wire::Endpoints) -> Names {
    endpoints.endpoints.iter().filter_map(name_of).map(|(name, _)| Arc::from(name)).collect()
}

/// Puts addresses in the place of names. `first`: one for each name.
pub(super) fn expand(endpoints: &wire::Endpoints, resolved: &Resolved, first: bool) -> Expanded {
    let mut expanded = Expanded::default();
    for endpoint in &endpoints.endpoints {
        let Some((name, port)) = name_of(endpoint) else {
            expanded.endpoints.endpoints.push(endpoint.clone());
            continue;
        };
        match resolved.get(name) {
            None => expanded.open = true,
            Some(Err(why)) => expanded.why = Some(format!("{name}: {why}")),
            Some(Ok(addresses)) => {
                let mut addresses = addresses.clone();
                addresses.truncate(if first { 1 } else { usize::MAX });
                addresses.sort_unstable();
                addresses.dedup();
                expanded.endpoints.endpoints.extend(addresses.into_iter().map(|ip| wire::Endpoint {
                    uid: format!("{}/{ip}", endpoint.uid),
                    address: SocketAddr::new(ip, port).to_string(),
                    ..endpoint.clone()
                }));
            }
        }
    }
    expanded
}

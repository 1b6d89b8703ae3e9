//! `meshMTLS`, `tlsDefaults` and `trustDomainAliases`. In: their values. Out: what proxies are told, or which name stands
//! for nothing here: whoever narrows TLS must not get something else.

use mesh_proto::model::{TlsParameters, TrustDomain};
use serde::Deserialize;
use serde_json::Value;

/// Istio's `TLSConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Written {
    min_protocol_version: String,
    cipher_suites: Vec<String>,
    ecdh_curves: Vec<String>,
}

/// How TLS is to be spoken.
pub(super) fn parameters(value: &Value) -> Result<TlsParameters, String> {
    let written: Option<Written> = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
    let Written { min_protocol_version, cipher_suites, ecdh_curves } = written.unwrap_or_default();
    TlsParameters::new(&min_protocol_version, &cipher_suites, &ecdh_curves).map_err(|e| e.to_string())
}

/// Other names of our trust domain.
pub(super) fn aliases(value: &Value) -> Result<Vec<TrustDomain>, String> {
    let names: Option<Vec<String>> = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
    names.unwrap_or_default().iter().map(|name| name.parse().map_err(|e| format!("{e}"))).collect()
}

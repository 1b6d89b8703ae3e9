//! What the types leave to the checks and a schema can say: fields that are always needed, and strings with few values.

use serde_json::{Map, Value, json};

/// Type, fields.
const REQUIRED: &[(&str, &[&str])] = &[
    ("DestinationRuleSpec", &["host"]),
    ("Subset", &["name"]),
    ("PortPolicy", &["port"]),
    ("GatewaySpec", &["servers"]),
    ("Server", &["port", "hosts"]),
    ("ServerPort", &["number", "protocol"]),
    ("HttpDestination", &["destination"]),
    ("L4Destination", &["destination"]),
    ("Mirror", &["destination"]),
    ("Destination", &["host"]),
    ("DirectResponse", &["status"]),
    ("ServiceEntrySpec", &["hosts"]),
    ("EntryPort", &["number", "name"]),
    ("OwnCertificate", &["hosts", "serverCertificate", "privateKey"]),
];

/// Type, field, values.
const VALUES: &[(&str, &str, &[&str])] = &[
    ("Redirect", "derivePort", &["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"]),
    ("CorsPolicy", "unmatchedPreflights", &["UNSPECIFIED", "FORWARD", "IGNORE"]),
    ("HttpPool", "h2UpgradePolicy", &["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]),
    ("ProxyProtocol", "version", &["V1", "V2"]),
    ("ServerTls", "minProtocolVersion", TLS_VERSIONS),
    ("ServerTls", "maxProtocolVersion", TLS_VERSIONS),
    ("OwnClientTls", "mode", &["STRICT"]),
];
const TLS_VERSIONS: &[&str] = &["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"];

/// Adds them to the types that are there.
pub(super) fn apply(types: &mut Map<String, Value>) {
    for (name, fields) in REQUIRED {
        if let Some(schema) = types.get_mut(*name) {
            schema["required"] = json!(fields);
        }
    }
    for (name, field, values) in VALUES {
        if let Some(schema) = types.get_mut(*name).and_then(|t| t["properties"].get_mut(*field)) {
            schema["enum"] = json!(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::meta::Kind;

    /// A field that was renamed would lose its rule without a word.
    #[test]
    fn every_rule_has_its_field() {
        let mut generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
        for kind in Kind::ALL {
            let _ = super::super::kinds::spec(*kind, &mut generator);
        }
        let types = generator.definitions();
        let values = VALUES.iter().map(|(name, field, _)| (*name, *field));
        let required = REQUIRED.iter().flat_map(|(name, fields)| fields.iter().map(|field| (*name, *field)));
        for (name, field) in values.chain(required) {
            assert!(types[name]["properties"].get(field).is_some(), "{name} has no {field}");
        }
    }
}

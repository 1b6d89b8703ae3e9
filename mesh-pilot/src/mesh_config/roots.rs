//! `caCertificates`: roots beside the authority's, for other trust domains or for our own. In: the value. Out: [`AddedRoots`],
//! and a sentence for each entry that adds nothing here: it is not trusted. Source: Istio's `MeshConfig.CertificateData`.

use mesh_proto::model::TrustDomain;
use mesh_proto::runtime::identity::read_roots;
use serde::Deserialize;
use serde_json::Value;

use super::Told;
use crate::snapshot::AddedRoots;

/// More than anybody federates with. Each goes to every proxy.
const MAX_ENTRIES: usize = 100;
/// More certificates than anybody rotates through, in one entry.
const MAX_ROOTS: usize = 16;
/// More trust domains than one authority signs for.
const MAX_DOMAINS: usize = 16;

/// Istio's `CertificateData`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Written {
    pem: String,
    spiffe_bundle_url: String,
    cert_signers: Vec<String>,
    trust_domains: Vec<String>,
}

/// Reads all of them. One that is wrong makes all of it wrong: never silently less than was meant.
pub(super) fn read(value: &Value, told: &mut Vec<Told>) -> Result<Vec<AddedRoots>, String> {
    let entries: Option<Vec<Written>> = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
    let entries = entries.unwrap_or_default();
    if entries.len() > MAX_ENTRIES {
        return Err(format!("{} entries, at most {MAX_ENTRIES} are taken", entries.len()));
    }
    let mut all = Vec::new();
    for (index, written) in entries.into_iter().enumerate() {
        let at = format!("caCertificates[{index}]");
        let mut tell = |field: &str, message: &str| {
            let path = format!("{at}.{field}");
            told.push(Told { path, message: message.to_owned(), is_error: false });
        };
        if written.pem.is_empty() == written.spiffe_bundle_url.is_empty() {
            return Err(format!("{at}: either `pem` or `spiffeBundleUrl`"));
        }
        if !written.spiffe_bundle_url.is_empty() {
            tell("spiffeBundleUrl", NO_URL);
            continue;
        }
        if !written.cert_signers.is_empty() {
            tell("certSigners", NO_SIGNERS);
            continue;
        }
        all.push(entry(&written).map_err(|why| format!("{at}{why}"))?);
    }
    Ok(all)
}

const NO_URL: &str = "is not in force: the authority fetches the bundles of other trust domains (the chart's value ca.federation), \
     the pilot takes `pem`; nobody is trusted by it";
const NO_SIGNERS: &str =
    "is not in force: signers of Kubernetes do not sign here; nobody is trusted by this entry";

fn entry(written: &Written) -> Result<AddedRoots, String> {
    let roots = read_roots(written.pem.as_bytes()).map_err(|e| format!(".pem: {e}"))?;
    if roots.len() > MAX_ROOTS || written.trust_domains.len() > MAX_DOMAINS {
        return Err(format!(": more than {MAX_ROOTS} certificates or {MAX_DOMAINS} trust domains"));
    }
    let domain = |name: &String| name.parse::<TrustDomain>().map_err(|e| format!(".trustDomains: {e}"));
    Ok(AddedRoots { domains: written.trust_domains.iter().map(domain).collect::<Result<_, _>>()?, roots })
}

#[cfg(test)]
mod tests {
    use mesh_proto::runtime::identity::pem;
    use mesh_proto::runtime::testing::TestCa;
    use serde_json::json;

    use super::*;

    fn of(value: &Value) -> Result<(Vec<AddedRoots>, Vec<String>), String> {
        let mut told = Vec::new();
        let all = read(value, &mut told)?;
        Ok((all, told.into_iter().map(|told| told.path).collect()))
    }

    #[test]
    fn roots_are_read_with_whom_they_are_for() {
        let (one, other) = (TestCa::of("b.test"), TestCa::of("b.test"));
        let both = format!("{}{}", pem(&one.root_der()), pem(&other.root_der()));
        let value =
            json!([{"pem": both, "trustDomains": ["b.test", "c.test"]}, {"pem": pem(&one.root_der())}]);
        let expected = [
            AddedRoots {
                domains: vec!["b.test".parse().unwrap(), "c.test".parse().unwrap()],
                roots: vec![one.root_der(), other.root_der()],
            },
            AddedRoots { domains: Vec::new(), roots: vec![one.root_der()] },
        ];
        assert_eq!(of(&value).unwrap(), (expected.to_vec(), Vec::new()));
        assert_eq!(of(&Value::Null).unwrap(), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_adds_nothing_is_told() {
        let root = pem(&TestCa::of("b.test").root_der());
        let value = json!([{"spiffeBundleUrl": "https://b.test"}, {"pem": root, "certSigners": ["x.io/y"]}]);
        let paths = ["caCertificates[0].spiffeBundleUrl", "caCertificates[1].certSigners"];
        assert_eq!(of(&value).unwrap(), (Vec::new(), paths.map(str::to_owned).to_vec()));
    }

    #[test]
    fn what_is_wrong_is_refused_as_a_whole() {
        let ca = TestCa::of("b.test");
        let (root, leaf) = (pem(&ca.root_der()), ca.identity("default", "web").leaf());
        let leaf = pem(&leaf.certified_key.cert[0]);
        for (value, why) in [
            (json!({}), "sequence"),
            (json!([{}]), "caCertificates[0]: either"),
            (json!([{"pem": root, "spiffeBundleUrl": "https://b.test"}]), "caCertificates[0]: either"),
            (json!([{"pem": "root"}]), "caCertificates[0].pem: "),
            (json!([{"pem": root}, {"pem": format!("{root}{leaf}")}]), "caCertificates[1].pem: "),
            (json!([{"pem": root, "trustDomains": ["B test"]}]), "caCertificates[0].trustDomains: "),
            (json!([{"pem": root, "trustDomain": "b.test"}]), "trustDomain"),
            (json!([{"pem": root.repeat(17)}]), "more than 16"),
            (json!(vec![json!({"pem": root}); 101]), "at most 100"),
        ] {
            let wrong = of(&value).unwrap_err();
            assert!(wrong.contains(why), "{why}: {wrong}");
        }
    }
}

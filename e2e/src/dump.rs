//! What a failed test leaves behind: a directory with the objects, events, logs and proxies' configuration of its namespace.

use std::path::{Path, PathBuf};

use crate::cluster::SYSTEM;
use crate::namespace::Namespace;

/// Writes why the test failed and all there is to see; its directory. What cannot be had is a file that says why.
pub async fn namespace(namespace: &Namespace, why: &str) -> PathBuf {
    let base =
        std::env::var_os("E2E_DUMP").map_or_else(|| std::env::temp_dir().join("mesh-e2e"), PathBuf::from);
    let place = base.join(&namespace.name);
    let _ = std::fs::create_dir_all(&place);
    let _ = std::fs::write(place.join("why.txt"), why);
    let name = namespace.name.as_str();
    let kinds = "all,configmaps,serviceaccounts,endpointslices,jobs,cronjobs,virtualservices,destinationrules,\
                 gateways.networking.istio.io,serviceentries,peerauthentications,authorizationpolicies";
    write(namespace, &place, "objects.yaml", &["get", kinds, "-n", name, "-o", "yaml"]).await;
    write(namespace, &place, "pods.txt", &["describe", "pods", "-n", name]).await;
    write(namespace, &place, "events.txt", &["get", "events", "-n", name, "--sort-by=.lastTimestamp"]).await;
    let meshctl = std::env::var("E2E_MESHCTL").unwrap_or_else(|_| "meshctl".to_owned());
    for pod in namespace.pods("").await.unwrap_or_default() {
        let logs = ["logs", &pod, "-n", name, "--all-containers", "--prefix", "--tail=500"];
        write(namespace, &place, &format!("{pod}.log"), &logs).await;
        // The proxy's own pages are on its loopback: meshctl forwards a port to them.
        let proxy = format!("{pod}.{name}");
        for what in ["listeners", "routes", "clusters", "endpoints"] {
            let arguments = ["proxy-config", what, &proxy, "--cluster", "-o", "json"];
            let text = namespace.cluster.run(&meshctl, &arguments).await;
            let text = text.unwrap_or_else(|error| format!("{error:#}\n"));
            let _ = std::fs::write(place.join(format!("{pod}.{what}.json")), text);
        }
    }
    write(namespace, &place, "system.txt", &["get", "pods", "-n", SYSTEM, "-o", "wide"]).await;
    for part in ["mesh-pilot", "mesh-ca", "istio-ingressgateway"] {
        let logs = [
            "logs",
            "-n",
            SYSTEM,
            "-l",
            &format!("app={part}"),
            "--tail=300",
            "--prefix",
            "--all-containers",
        ];
        write(namespace, &place, &format!("{part}.log"), &logs).await;
    }
    place
}

async fn write(namespace: &Namespace, place: &Path, file: &str, arguments: &[&str]) {
    let text = match namespace.cluster.kubectl(arguments).await {
        Ok(text) => text,
        Err(error) => format!("{error:#}\n"),
    };
    let _ = std::fs::write(place.join(file), text);
}

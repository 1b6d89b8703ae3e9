//! ExternalName Services: a name for something of the mesh is that, and a name of the outside is outside.

use super::support::{BASE, Mesh};

const ALIASES: &str = "
apiVersion: v1
kind: Service
metadata: { name: front }
spec: { type: ExternalName, externalName: web.default.svc.cluster.local }
---
apiVersion: v1
kind: Service
metadata: { name: front, namespace: other }
spec: { type: ExternalName, externalName: front.default.svc.cluster.local. }
---
apiVersion: v1
kind: Service
metadata: { name: outside }
spec: { type: ExternalName, externalName: db.example.com }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: istio-system }
spec: { mtls: { mode: STRICT } }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: istio, namespace: istio-system }
data: { mesh: \"outboundTrafficPolicy: { mode: REGISTRY_ONLY }\" }
";

#[test]
fn a_name_of_the_mesh_is_what_it_stands_for() {
    let mesh = Mesh::up(&[("base.yaml", BASE), ("aliases.yaml", ALIASES)], &[]);
    // With mTLS, which only the target's policy asks for: the answer is of a STRICT workload, outside is closed.
    for url in ["http://front/", "http://front.other/", "http://front.default.svc.cluster.local/"] {
        mesh.until(url, &[url], |answer| {
            answer["status"] == 200 && answer["instance"].as_str().unwrap_or_default().starts_with("web-")
        });
    }
    mesh.until("outside is closed", &["http://outside/"], |answer| answer["status"] == 502);
    mesh.status_says("db.example.com is nobody's in the mesh");
    // It stands for another one from now on, and then for nothing.
    mesh.write("aliases.yaml", &ALIASES.replace("web.default", "api.default"));
    mesh.until("another target", &["http://front:8080/"], |answer| {
        answer["instance"].as_str().unwrap_or_default().starts_with("api-")
    });
    mesh.delete("aliases.yaml");
    mesh.until("no alias", &["http://front:8080/"], |answer| answer["status"] != 200);
}

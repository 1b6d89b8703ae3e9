//! What the pilot compiles, the proxy accepts: every field that a resource may have goes through both, without a socket.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_pilot::compile;
use mesh_pilot::index::Index;
use mesh_pilot::snapshot::{MeshSettings, Snapshot, Viewer};
use mesh_pilot::source::Event;
use mesh_proto::crd::{Document, Labels, parse};
use mesh_proto::model::HostPort;
use mesh_proxy::cluster::{ClusterCell, ClusterView};
use mesh_proxy::destination::Namespace;
use mesh_proxy::route::Source;
use mesh_proxy::store::destination::Destination;
use mesh_proxy::store::listener::Listener;
use mesh_proxy::store::self_config::SelfConfig;
use mesh_proxy::store::workload::Workload;

/// Every form of every field that is in force.
const MESH: &str = r"
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.0.0.1, selector: {app: a}, ports: [{port: 80, name: http, targetPort: web}, {port: 3306, name: tcp-db}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: h}, spec: {clusterIP: None, selector: {app: a}, ports: [{port: 81, appProtocol: grpc, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a-0, uid: u0, labels: {app: a, version: v1}, annotations: {sidecar.istio.io/status: injected}}, spec: {containers: [{name: a, ports: [{containerPort: 8080, name: web}]}]}, status: {podIP: 10.1.0.1, phase: Running, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a-1, labels: {app: a}}, spec: {containers: [{name: a, ports: [{containerPort: 8080, name: web}]}]}, status: {podIP: 10.1.0.2, phase: Running}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: p}
spec: {selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*', './A.com', '*.b.com']}
  - {port: {number: 81, name: h2, protocol: HTTP2}, hosts: ['*']}
  - {port: {number: 82, name: grpc, protocol: GRPC-WEB}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [a, '*', '*.B.com', A.com, x_y.c.com, h]
  gateways: [mesh, edge]
  http:
  - name: first
    match:
    - name: m
      uri: {prefix: /a}
      ignoreUriCase: true
      scheme: {exact: http}
      method: {regex: 'GET|POST'}
      authority: {prefix: a}
      headers: {X-a: {exact: b}, b: {regex: '*'}, c: {}, ':path': {prefix: /}, host: {exact: a}}
      withoutHeaders: {d: {exact: ''}, e: {}, f: {regex: '.*'}}
      queryParams: {q: {exact: ''}, r: {regex: '\d+'}, s: {}}
      sourceLabels: {app: client}
      sourceNamespace: default
    - uri: {regex: '/(?i)b[^/]+\w*'}
    - uri: {exact: /c}
    route:
    - {destination: {host: a, subset: v1}, weight: 90}
    - {destination: {host: nobody}, weight: -3}
    - {destination: {host: a, port: {number: 3306}}, weight: 10}
    timeout: 1m30s
    retries: {attempts: 3, perTryTimeout: 500ms, backoff: 1.5s, retryIgnorePreviousHosts: true, retryOn: 'connect-failure,refused-stream,unavailable,cancelled,5xx,gateway-error,reset,reset-before-request,retriable-4xx,retriable-status-codes,deadline-exceeded,internal,resource-exhausted,retriable-headers,503'}
  - match: [{headers: {x: {exact: y}}}]
    directResponse: {status: 503, body: {string: no}}
  - route: [{destination: {host: a}, weight: 0}]
  tcp:
  - {match: [{port: 3306}], route: [{destination: {host: a}, weight: 0}]}
";

/// One policy a line: each way to balance, each setting.
const POLICIES: &[&str] = &[
    "loadBalancer: {simple: ROUND_ROBIN}",
    "loadBalancer: {simple: RANDOM}",
    "loadBalancer: {simple: LEAST_CONN}",
    "loadBalancer: {simple: PASSTHROUGH}",
    "loadBalancer: {simple: UNSPECIFIED}",
    "loadBalancer: {consistentHash: {rings: 1, ringSize: 4}}",
    "loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 8388608}}}",
    "loadBalancer: {consistentHash: {httpHeaderName: X-User, maglev: {}}}",
    "loadBalancer: {consistentHash: {httpQueryParameterName: q, maglev: {tableSize: 101}}}",
    "loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 0s}}}",
    "loadBalancer: {consistentHash: {httpCookie: {name: c, path: /p, ttl: 1h}}}",
    "connectionPool: {tcp: {connectTimeout: 1ms}, http: {idleTimeout: 0s, maxRequestsPerConnection: 1}}",
    "tls: {mode: DISABLE}",
    "tls: {mode: ISTIO_MUTUAL}",
    "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]",
];

fn snapshot(more: &str) -> Arc<Snapshot> {
    let mut index = Index::new(MeshSettings {
        trust_domain: "cluster.local".parse().unwrap(),
        cluster_domain: Arc::from("cluster.local"),
        root_namespace: Arc::from("istio-system"),
    });
    index.apply(Event::Init);
    for document in parse("mesh.yaml", &format!("{MESH}\n---\n{more}")) {
        match document {
            Document::Accepted(resource) => index.apply(Event::Apply(Box::new(resource))),
            other => panic!("{:#?}", other.problems()),
        }
    }
    index.apply(Event::InitDone);
    index.snapshot().0
}

fn client() -> Viewer {
    Viewer { namespace: Arc::from("default"), router: false, labels: Arc::default() }
}

fn source(labels: &BTreeMap<String, String>) -> Source<'_> {
    Source { labels, namespace: "default" }
}

fn absent(name: &HostPort) -> Arc<ClusterCell> {
    Arc::new(ClusterCell::absent(name.clone()))
}

#[test]
fn routes_listeners_and_names() {
    let snapshot = snapshot("");
    let config = &snapshot.config;
    let labels = BTreeMap::from([("app".to_owned(), "client".to_owned())]);
    let catalogue = compile::catalogue(config, &client(), "default").unwrap().message;
    let hosts: Vec<String> = catalogue.entries.iter().map(|entry| entry.host.clone()).collect();
    Namespace::parse("default", catalogue).unwrap();
    for host in hosts {
        for port in [80, 81, 3306] {
            let name = HostPort::new(&host, port);
            let Some(made) = compile::destination(config, &client(), &name) else { continue };
            let destination = Destination::parse(&made.message, &name.to_string(), &source(&labels), absent);
            destination.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
    let gateway = Labels::from([("istio".to_owned(), "ingressgateway".to_owned())]);
    let gateway = Viewer { namespace: Arc::from("istio-system"), router: true, labels: Arc::new(gateway) };
    assert_eq!(compile::listener_ports(config, &gateway), [80, 81, 82]);
    for port in [80, 81, 82] {
        let listener = compile::listener(config, &gateway, port).unwrap().message;
        assert!(!listener.virtual_hosts.is_empty());
        Listener::parse(listener, &port.to_string(), &source(&labels), absent).unwrap();
    }
}

#[test]
fn clusters_and_endpoints() {
    for policy in POLICIES {
        let rule = format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: d}}, spec: {{host: a, trafficPolicy: {{{policy}}}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: all, trafficPolicy: {{{policy}}}}}]}}}}"
        );
        let snapshot = snapshot(&rule);
        for (name, set) in snapshot.endpoints.iter() {
            let cluster = compile::cluster(&snapshot.config, &client(), name).unwrap().message;
            let endpoints = compile::endpoints(&snapshot.config, set).unwrap().message;
            let view =
                ClusterView::build(&cluster, &endpoints, None, &mesh_proxy::cluster::Here::default(), 1);
            view.unwrap_or_else(|error| panic!("{name}: {policy}: {error}"));
        }
    }
}

#[test]
fn workloads() {
    let snapshot = snapshot("");
    assert_eq!(snapshot.pods.len(), 2);
    for pod in snapshot.pods.values() {
        SelfConfig::try_from(compile::self_config(&snapshot.config, pod).unwrap().message).unwrap();
        Workload::try_from(compile::workload(&snapshot.config, pod, pod.address).unwrap().message).unwrap();
    }
}

//! Objects in, plan out.

use super::*;
use mesh_proto::crd::{Document, parse};

fn plan(text: &str) -> Plan {
    let accepted = |document| match document {
        Document::Accepted(resource) => resource,
        other => panic!("{other:?}"),
    };
    let resources: Vec<Resource> = parse("test.yaml", text).into_iter().map(accepted).collect();
    Plan::of(&resources)
}

fn workload<'a>(plan: &'a Plan, name: &str) -> &'a Workload {
    &plan.workloads[&("default".to_owned(), name.to_owned())]
}

const IMAGE_ONLY: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: my-service}
spec:
  replicas: 2
  selector: {matchLabels: {app: my-service}}
  template:
    metadata: {labels: {app: my-service}}
    spec:
      containers:
      - name: my-service
        image: my-service:1.0
        ports: [{containerPort: 8080}]
";

#[test]
fn a_pod_says_how_many_workers_its_sidecar_has() {
    let pod = "metadata: {labels: {app: my-service}";
    let told = "metadata: {labels: {app: my-service}, annotations: {proxy.istio.io/config: '{ \"concurrency\": 4 }'}";
    assert_eq!(workload(&plan(IMAGE_ONLY), "my-service").template.concurrency, None);
    let four = plan(&IMAGE_ONLY.replace(pod, told));
    assert_eq!(workload(&four, "my-service").template.concurrency, Some(4));
    let more = plan(&IMAGE_ONLY.replace(pod, &told.replace("4", "4, \"drainDuration\": \"5s\"")));
    assert!(
        more.notices.iter().any(|n| n.contains("drainDuration is not in force yet")),
        "{:?}",
        more.notices
    );
}

#[test]
fn an_image_is_stood_in_for_and_its_service_implied_and_both_are_said() {
    let plan = plan(IMAGE_ONLY);
    let it = workload(&plan, "my-service");
    assert_eq!((it.replicas, it.instance(1)), (2, "my-service-1".to_owned()));
    assert_eq!(it.template.containers[0].run, Run::StandIn);
    assert_eq!(plan.implied.len(), 1);
    assert_eq!(plan.implied[0].spec.ports[0].port, 8080);
    assert!(plan.notices.iter().any(|n| n.contains("stands in")), "{:?}", plan.notices);
    assert!(plan.notices.iter().any(|n| n.contains("is implied")), "{:?}", plan.notices);
    let built_in: Vec<_> = plan.workloads.values().map(|w| w.name.as_str()).collect();
    assert_eq!(built_in, ["client", "my-service", "istio-ingressgateway"]);
}

#[test]
fn a_service_that_selects_it_is_enough() {
    let text = format!(
        "{IMAGE_ONLY}---\napiVersion: v1\nkind: Service\nmetadata: {{name: other}}\n\
         spec: {{selector: {{app: my-service}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
    );
    assert!(plan(&text).implied.is_empty());
}

#[test]
fn environment_comes_from_maps_secrets_and_fields_and_a_missing_one_blocks() {
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - name: c
    image: i
    command: [run, it]
    args: [now]
    envFrom: [{prefix: X_, configMapRef: {name: settings}}]
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: ME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: MAYBE, valueFrom: {configMapKeyRef: {name: nope, key: k, optional: true}}}
";
    let maps = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n\
                ---\napiVersion: v1\nkind: Secret\nmetadata: {name: keys}\ndata: {password: c2VjcmV0}\n";
    let plan_with = plan(&format!("{pod}{maps}"));
    let container = &workload(&plan_with, "p").template.containers[0];
    let text =
        |name: &str, value: &str| Env { name: name.to_owned(), value: EnvValue::Text(value.to_owned()) };
    let field = Env { name: "ME".to_owned(), value: EnvValue::Field("metadata.name".to_owned()) };
    assert_eq!(container.env, [text("X_a", "b"), text("PASSWORD", "secret"), field]);
    assert_eq!(container.run, Run::Command(["run", "it", "now"].map(str::to_owned).to_vec()));
    let without = plan(pod);
    let why = workload(&without, "p").template.blocked.clone().unwrap();
    assert!(why.contains("ConfigMap \"settings\""), "{why}");
}

#[test]
fn a_probe_by_port_name_and_its_defaults() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - name: c
    image: i
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {path: ready, port: web}, periodSeconds: 2}
  - name: d
    image: i
    readinessProbe: {tcpSocket: {port: 9000}}
";
    let plan = plan(text);
    let containers = &workload(&plan, "p").template.containers;
    let probe = containers[0].probe.clone().unwrap();
    assert_eq!(
        probe.check,
        Check::Http { port: 8080, path: "/ready".to_owned(), host: None, headers: vec![] }
    );
    assert_eq!((probe.period.as_secs(), probe.timeout.as_secs(), probe.failures), (2, 1, 3));
    assert_eq!(containers[1].ports, [Port { name: None, number: 9000 }]);
}

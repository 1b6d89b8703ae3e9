//! Item 4: injection into every kind of workload, native and classic, probes under STRICT, the order of start and end.

use anyhow::{Context as _, ensure};
use e2e::images::image;
use e2e::workload::App;
use e2e::{Company, Namespace, eventually, test};
use serde_json::Value;

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n";

fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
    containers.iter().filter_map(|c| c["name"].as_str()).map(str::to_owned).collect()
}

async fn pod(ns: &Namespace, selector: &str) -> anyhow::Result<Value> {
    let pods = ns.json(&["get", "pods", "-l", selector]).await?;
    pods["items"].get(0).cloned().with_context(|| format!("no pod {selector}"))
}

/// A Deployment gets a native sidecar, and the status annotation says what was done.
#[test]
fn item_4_a_deployment_natively() {
    test("item_4_a_deployment_natively", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("web")]).await?;
        let pod = pod(ns, "app=web").await?;
        ensure!(names(&pod, "containers") == ["app"], "containers: {:?}", names(&pod, "containers"));
        let init = pod["spec"]["initContainers"].as_array().context("init containers")?;
        let proxy = init.iter().find(|c| c["name"] == "istio-proxy").context("istio-proxy")?;
        ensure!(proxy["restartPolicy"] == "Always", "{proxy}");
        ensure!(names(&pod, "initContainers").contains(&"istio-init".to_owned()), "no istio-init");
        let status: Value = serde_json::from_str(
            pod["metadata"]["annotations"]["sidecar.istio.io/status"]
                .as_str()
                .context("status annotation")?,
        )?;
        ensure!(status.is_object(), "{status}");
        ensure!(
            pod["metadata"]["labels"]["service.istio.io/canonical-name"].is_string(),
            "{}",
            pod["metadata"]["labels"]
        );
        Ok(())
    });
}

/// The classic form by annotation: a container beside the application's.
#[test]
fn item_4_a_classic_sidecar() {
    test("item_4_a_classic_sidecar", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("web").annotation("sidecar.istio.io/nativeSidecar", "false")]).await?;
        let pod = pod(ns, "app=web").await?;
        ensure!(
            names(&pod, "containers").contains(&"istio-proxy".to_owned()),
            "{:?}",
            names(&pod, "containers")
        );
        let client = ns.client("client").await?;
        ns.apply(STRICT).await?;
        client.get("http://web/", &[]).await?.expect(200)?;
        Ok(())
    });
}

/// Who says no gets none, and who says no on the namespace's behalf neither.
#[test]
fn item_4_opting_out() {
    test("item_4_opting_out", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("plain").label("sidecar.istio.io/inject", "false")]).await?;
        let pod = pod(ns, "app=plain").await?;
        ensure!(
            names(&pod, "initContainers").is_empty() && names(&pod, "containers") == ["app"],
            "it was injected"
        );
        Ok(())
    });
}

/// A StatefulSet behind a headless Service: each pod is reached by its own name, over mTLS.
#[test]
fn item_4_a_stateful_set() {
    test("item_4_a_stateful_set", Company::Welcome, async |ns| {
        let app = App::new("db");
        ns.apply(&format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: db}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: db}}\n\
             spec: {{clusterIP: None, selector: {{app: db}}, ports: [{{name: http, port: 8080}}]}}\n---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\n\
             spec:\n  serviceName: db\n  replicas: 2\n  podManagementPolicy: Parallel\n  selector: {{matchLabels: {{app: db}}}}\n  template:\n{}",
            app.template()
        ))
        .await?;
        ns.cluster.rolled_out(&ns.name, "statefulset/db").await?;
        ns.apply(STRICT).await?;
        let client = ns.client("client").await?;
        for pod in ["db-0", "db-1"] {
            eventually("a pod by its name", async || {
                let answer = client.get(&format!("http://{pod}.db:8080/"), &[]).await?.expect(200)?;
                ensure!(answer.instance() == pod, "{} answered for {pod}", answer.instance());
                ensure!(answer.json()["peer"].is_string(), "no mTLS: {answer:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}

fn job_template(name: &str, annotations: &str) -> String {
    format!(
        "metadata: {{labels: {{job: {name}}}, annotations: {{{annotations}}}}}
spec:
  restartPolicy: Never
  initContainers:
  - {{name: before, image: {image}, imagePullPolicy: IfNotPresent, args: [request, \"http://web/\"]}}
  containers:
  - {{name: client, image: {image}, imagePullPolicy: IfNotPresent, args: [request, \"http://web/\"]}}
",
        image = image("e2e")
    )
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect()
}

/// Jobs complete with a native sidecar: their proxy ends with them. Init containers and the first request find the mesh ready.
/// A classic sidecar ends when the Job's last act is to ask for it (`POST /quitquitquit`, as with Istio's), and not before.
#[test]
fn item_4_jobs_complete() {
    test("item_4_jobs_complete", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("web")]).await?;
        ns.apply(STRICT).await?;
        let job = format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: once}}\nspec:\n  backoffLimit: 0\n  template:\n{}",
            indented(&job_template("once", ""), 4)
        );
        let quit = "request, \"http://web/\", --finally, \"http://127.0.0.1:15020/quitquitquit\"";
        let classic = [classic_job("ends", quit), classic_job("stays", "request, \"http://web/\"")];
        ns.apply(&[&[job], &classic[..]].concat().join("---\n")).await?;
        for job in ["job/once", "job/ends"] {
            ns.kubectl(&["wait", "--for=condition=Complete", job, "--timeout=180s"]).await?;
        }
        // The init container came after the proxy, so that it too was in the mesh; one without sidecar would be refused.
        for (job, container) in [("once", "before"), ("once", "client"), ("ends", "client")] {
            let said = ns.kubectl(&["logs", &format!("job/{job}"), "-c", container]).await?;
            ensure!(
                said.contains("\"status\":200") && said.contains("/sa/default"),
                "{job} {container}: {said}"
            );
        }
        for job in ["ends", "stays"] {
            let pod = pod(ns, &format!("job={job}")).await?;
            ensure!(
                names(&pod, "containers").contains(&"istio-proxy".to_owned()),
                "{job} has no classic sidecar"
            );
        }
        eventually("whoever does not ask has ended, and its sidecar has not", async || {
            let pod = pod(ns, "job=stays").await?;
            let states = pod["status"]["containerStatuses"].as_array().context("no container yet")?;
            let state = |name: &str| states.iter().find(|one| one["name"] == name).map(|one| &one["state"]);
            let ended = state("client").is_some_and(|state| state["terminated"]["exitCode"] == 0);
            let running = state("istio-proxy").is_some_and(|state| state["running"].is_object());
            ensure!(ended && running, "{states:?}");
            Ok(())
        })
        .await
    });
}

/// A Job with a classic sidecar. Its init containers would run before the proxy does: it has none.
fn classic_job(name: &str, arguments: &str) -> String {
    format!(
        "apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  backoffLimit: 0
  template:
    metadata: {{labels: {{job: {name}}}, annotations: {{sidecar.istio.io/nativeSidecar: \"false\"}}}}
    spec:
      restartPolicy: Never
      containers:
      - {{name: client, image: {}, imagePullPolicy: IfNotPresent, args: [{arguments}]}}
",
        image("e2e")
    )
}

/// A CronJob's pods are Jobs' pods.
#[test]
fn item_4_a_cron_job() {
    test("item_4_a_cron_job", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("web")]).await?;
        let cron = format!(
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: often}}\nspec:\n  schedule: \"0 0 1 1 *\"\n  jobTemplate:\n    spec:\n      backoffLimit: 0\n      template:\n{}",
            indented(&job_template("often", ""), 8)
        );
        ns.apply(&cron).await?;
        ns.kubectl(&["create", "job", "now", "--from=cronjob/often"]).await?;
        ns.kubectl(&["wait", "--for=condition=Complete", "job/now", "--timeout=180s"]).await?;
        Ok(())
    });
}

/// Probes of each kind hold under STRICT: http and tcp and grpc are asked of the proxy, exec is left alone; and an http probe
/// still tells the truth.
#[test]
fn item_4_probes_under_strict() {
    test("item_4_probes_under_strict", Company::Welcome, async |ns| {
        ns.apply(STRICT).await?;
        let app = |name: &str, probe: &str| {
            App::new(name).container(&format!(
                "        readinessProbe: {{{probe}, periodSeconds: 1, timeoutSeconds: 2}}\n"
            ))
        };
        let exec = "exec: {command: [/usr/local/bin/meshctl, --version]}";
        ns.deploy(&[
            app("http", "httpGet: {path: /status/200, port: 8080}"),
            app("tcp", "tcpSocket: {port: 9000}"),
            app("grpc", "grpc: {port: 8080}"),
            app("exec", exec),
        ])
        .await?;
        let pod = pod(ns, "app=exec").await?;
        ensure!(
            pod["spec"]["containers"][0]["readinessProbe"]["exec"].is_object(),
            "an exec probe was changed"
        );
        ns.apply(&app("sick", "httpGet: {path: /status/500, port: 8080}").yaml()).await?;
        e2e::pause(std::time::Duration::from_secs(12)).await;
        let ready =
            ns.kubectl(&["get", "deployment", "sick-v1", "-o", "jsonpath={.status.readyReplicas}"]).await?;
        ensure!(ready.is_empty() || ready == "0", "a probe that fails says ready");
        Ok(())
    });
}

/// Ports that annotations exclude do not go through the proxy.
#[test]
fn item_4_exclusions() {
    test("item_4_exclusions", Company::Welcome, async |ns| {
        ns.apply(STRICT).await?;
        ns.deploy(&[
            App::new("web"),
            App::new("open").annotation("traffic.sidecar.istio.io/excludeInboundPorts", "9000"),
        ])
        .await?;
        let outside = ns.outsider("outside").await?;
        eventually("only the excluded port is open to plaintext", async || {
            let closed = outside.get("tcp://web:9000", &["-d", "hello", "--timeout", "4"]).await?;
            ensure!(!closed.body.contains("hello"), "{closed:?}");
            let open = outside.get("tcp://open:9000", &["-d", "hello", "--timeout", "4"]).await?;
            ensure!(open.body.contains("hello"), "{open:?}");
            Ok(())
        })
        .await
    });
}

/// Resources, image and log level of the proxy are what annotations say.
#[test]
fn item_4_resources() {
    test("item_4_resources", Company::Welcome, async |ns| {
        let app = App::new("web")
            .annotation("sidecar.istio.io/proxyCPU", "15m")
            .annotation("sidecar.istio.io/proxyMemory", "48Mi");
        ns.deploy(&[app]).await?;
        let pod = pod(ns, "app=web").await?;
        let init = pod["spec"]["initContainers"].as_array().context("init containers")?;
        let proxy = init.iter().find(|c| c["name"] == "istio-proxy").context("istio-proxy")?;
        let requests = &proxy["resources"]["requests"];
        ensure!(requests["cpu"] == "15m" && requests["memory"] == "48Mi", "{requests}");
        // Where that image is nobody has to know: the API server says what it would make.
        let metadata = "    annotations: {sidecar.istio.io/proxyImage: example.com/proxy:other, sidecar.istio.io/logLevel: debug}\n";
        let dry = ["apply", "-n", &ns.name, "--dry-run=server", "-o", "json", "-f", "-"];
        let yaml = e2e::workload::client("other", metadata).replace("  serviceAccountName: other\n", "");
        let said: Value = serde_json::from_str(&ns.cluster.fed("kubectl", &dry, &yaml).await?)?;
        let made = said["items"].as_array().into_iter().flatten().find(|one| one["kind"] == "Pod");
        let init = made.context("no pod")?["spec"]["initContainers"].as_array().context("init containers")?;
        let proxy = init.iter().find(|c| c["name"] == "istio-proxy").context("istio-proxy")?;
        ensure!(proxy["image"] == "example.com/proxy:other", "{}", proxy["image"]);
        let level = proxy["env"].as_array().into_iter().flatten().find(|one| one["name"] == "MESH_LOG");
        ensure!(level.is_some_and(|one| one["value"] == "debug"), "{level:?}");
        Ok(())
    });
}

/// Capture by TPROXY, by annotation: the application sees its client's address; by redirection it sees its sidecar's.
#[test]
fn item_4_tproxy_keeps_the_clients_address() {
    test("item_4_tproxy_keeps_the_clients_address", Company::Welcome, async |ns| {
        ns.apply(STRICT).await?;
        let tproxy = App::new("kept").annotation("sidecar.istio.io/interceptionMode", "TPROXY");
        let client = ns.deploy_with_client(&[tproxy, App::new("redirected")]).await?;
        let own = ns.kubectl(&["get", "pod", "client", "-o", "jsonpath={.status.podIP}"]).await?;
        for (app, sees) in [("kept", own.as_str()), ("redirected", "127.0.0.6")] {
            eventually("the address that the application sees", async || {
                let answer = client.get(&format!("http://{app}/"), &[]).await?.expect(200)?;
                ensure!(answer.json()["peer"].is_string(), "no mTLS: {answer:?}");
                ensure!(
                    answer.json()["client"] == sees,
                    "{app} sees {}, not {sees}",
                    answer.json()["client"]
                );
                Ok(())
            })
            .await?;
        }
        let back = client.get("tcp://kept:9000", &["-d", "echo this"]).await?.expect(200)?;
        ensure!(back.body.contains("echo this"), "{back:?}");
        // What it sends itself is captured the same way.
        let pod = ns.pods("app=kept").await?.remove(0);
        let request = [
            "request",
            "http://redirected/",
            "--from",
            &pod,
            "-n",
            "1",
            "-o",
            "json",
            "--namespace",
            &ns.name,
        ];
        eventually("a request from the pod", async || {
            let said = crate::meshctl::meshctl(&ns.cluster, &request).await?;
            ensure!(said.contains("/sa/kept"), "it did not go through the sidecar: {said}");
            Ok(())
        })
        .await?;
        Ok(())
    });
}

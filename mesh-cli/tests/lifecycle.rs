//! The supervisor: what it starts it ends, what the user edits takes effect, what the user stops stays stopped, and other
//! meshes beside it are none of its business.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::support::{BASE, Mesh, by_instance, eventually, pause, text};

/// Every process of a mesh: the supervisor's, and what it started.
fn processes(mesh: &Mesh) -> BTreeSet<i32> {
    let told = mesh.status()["mesh"].clone();
    let supervisor = pid(&told["pid"]).expect("a supervisor");
    let control = told["control_plane"].as_array().cloned().unwrap_or_default();
    let instances = told["workloads"].as_array().into_iter().flatten();
    let instances = instances.flat_map(|w| w["instances"].as_array().cloned().unwrap_or_default());
    let of_instances = instances.flat_map(|i| {
        let containers = i["containers"].as_array().cloned().unwrap_or_default();
        containers.into_iter().chain([i["sidecar"].clone()])
    });
    let all = control.into_iter().chain(of_instances);
    all.filter_map(|process| pid(&process["pid"])).chain([supervisor]).collect()
}

fn pid(value: &Value) -> Option<i32> {
    value.as_i64().and_then(|pid| i32::try_from(pid).ok())
}

/// Runs, and is no zombie that waits for its parent.
fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn state_dir(name: &str) -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("mesh").join(name),
        _ => PathBuf::from(format!("/tmp/mesh-{}", nix::unistd::getuid())).join(name),
    }
}

fn gone(processes: &BTreeSet<i32>, dir: &Path) -> Result<(), String> {
    let left: Vec<_> = processes.iter().filter(|pid| runs(**pid)).collect();
    if !left.is_empty() {
        return Err(format!("processes {left:?} still run"));
    }
    if dir.exists() { Err(format!("{} is still there", dir.display())) } else { Ok(()) }
}

/// `pod` and what its state is.
fn state(mesh: &Mesh, workload: &str, instance: &str) -> String {
    let instances = mesh.instances(workload);
    let found = instances.iter().find(|i| i["name"] == instance);
    found.and_then(|i| i["state"].as_str()).unwrap_or("absent").to_owned()
}

/// A mesh that is taken down leaves no process and no file; meanwhile its name is taken.
#[test]
fn down_leaves_nothing() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    let running = processes(&mesh);
    assert!(running.len() > 8, "{running:?}");
    assert!(running.iter().all(|pid| runs(*pid)));
    let again = mesh.run(&["up", "--detach"]);
    assert!(!again.status.success());
    assert!(text(&again).contains("is running already"), "{}", text(&again));
    mesh.must(&["down"]);
    gone(&running, &state_dir(mesh.name())).unwrap();
    let none = mesh.run(&["status"]);
    assert!(!none.status.success() && text(&none).contains("no mesh named"), "{}", text(&none));
    // Nothing to do is no error.
    assert!(mesh.must(&["down"]).contains("no mesh"));
}

/// When the supervisor is killed, everything that it started ends, and `up` can take the name again.
#[test]
fn children_die_with_the_supervisor() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    let running = processes(&mesh);
    let supervisor = pid(&mesh.status()["mesh"]["pid"]).unwrap();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    eventually("no process is left", || {
        let left: Vec<_> = running.iter().filter(|pid| runs(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let dir = mesh.dir().display().to_string();
    mesh.must(&["up", &dir, "--detach"]);
    mesh.must(&["down"]);
    assert!(!state_dir(mesh.name()).exists());
}

/// In the foreground: lines while it lives, and SIGINT stops all of it cleanly.
#[test]
fn ctrl_c_ends_a_mesh_in_the_foreground() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("base.yaml"), BASE).unwrap();
    let name = format!("fg{}", std::process::id());
    let output = place.path().join("output");
    let mut up = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(["up", "--cert-ttl", "6", "--name", &name])
        .arg(place.path().join("base.yaml"))
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&output).unwrap())
        .spawn()
        .unwrap();
    let printed = || std::fs::read_to_string(&output).unwrap_or_default();
    let told = eventually("the table", || {
        let told = printed();
        if told.contains("Ctrl-C stops it") { Ok(told) } else { Err(told) }
    });
    for wanted in
        ["spiffe://cluster.local/ns/default/sa/", "istio-ingressgateway-0", "web-1", "meshctl request"]
    {
        assert!(told.contains(wanted), "no {wanted} in {told}");
    }
    eventually("a certificate is renewed", || {
        let told = printed();
        if told.contains("web-0 has a new certificate") { Ok(()) } else { Err(told) }
    });
    kill(Pid::from_raw(up.id().cast_signed()), Signal::SIGINT).unwrap();
    assert!(up.wait().unwrap().success(), "{}", printed());
    assert!(printed().contains("has ended"), "{}", printed());
    assert!(!state_dir(&name).exists());
}

/// Stopped stays stopped, killed too; started is back under its name and address.
#[test]
fn stop_kill_and_start() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    let before = mesh.instances("web");
    mesh.must(&["stop", "web-0"]);
    assert_eq!(state(&mesh, "web", "web-0"), "stopped");
    let only = by_instance(&mesh.request(&["http://web/", "-n", "10"]));
    assert_eq!(only.into_keys().collect::<Vec<_>>(), ["web-1"]);
    mesh.must(&["start", "web-0"]);
    assert_eq!(state(&mesh, "web", "web-0"), "ready");
    let after = mesh.instances("web");
    assert_eq!(before[0]["pod_ip"], after[0]["pod_ip"]);
    assert_ne!(before[0]["uid"], after[0]["uid"], "a new pod");

    mesh.must(&["stop", "web-1", "--kill"]);
    mesh.until("only web-0 answers", &["http://web/"], |a| a["instance"] == "web-0");
    // A change elsewhere brings nobody back.
    mesh.write("other.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n");
    mesh.status_says("other");
    assert_eq!(state(&mesh, "web", "web-1"), "stopped");
    mesh.must(&["start", "web-1"]);

    mesh.must(&["stop", "web-0/sidecar"]);
    assert_ne!(state(&mesh, "web", "web-0"), "ready");
    mesh.must(&["start", "web-0/sidecar"]);
    mesh.must(&["stop", "istio-ingressgateway", "mesh-ca"]);
    mesh.must(&["start", "istio-ingressgateway", "mesh-ca"]);
    let unknown = mesh.run(&["stop", "nobody"]);
    assert!(!unknown.status.success() && text(&unknown).contains("web-0"), "{}", text(&unknown));
}

/// What dies by itself comes back.
#[test]
fn what_dies_is_restarted() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    let process = |mesh: &Mesh, part: &str| mesh.instances("web")[0][part].clone();
    let app = pid(&process(&mesh, "containers")[0]["pid"]).unwrap();
    let sidecar = pid(&process(&mesh, "sidecar")["pid"]).unwrap();
    kill(Pid::from_raw(app), Signal::SIGKILL).unwrap();
    kill(Pid::from_raw(sidecar), Signal::SIGKILL).unwrap();
    eventually("both are back", || {
        let (containers, proxy) = (process(&mesh, "containers"), process(&mesh, "sidecar"));
        let back = containers[0]["restarts"] == 1 && proxy["restarts"] == 1;
        let ready = state(&mesh, "web", "web-0") == "ready";
        if back && ready { Ok(()) } else { Err(format!("{containers} {proxy}")) }
    });
}

fn command(replicas: u32, greeting: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: own}}\nspec:\n  replicas: {replicas}\n  selector: \
         {{matchLabels: {{app: own}}}}\n  template:\n    metadata: {{labels: {{app: own}}}}\n    spec:\n      \
         containers:\n      - name: own\n        image: none\n        command: [sh, -c, 'echo {greeting} $POD_NAME \
         $(POD_IP) $HTTP_PROXY $WEB_SERVICE_HOST; exec sleep 1000']\n"
    )
}

/// Editing the YAML is all that it takes: added, scaled, changed, deleted; a half-written file disturbs nothing.
#[test]
fn editing_takes_effect_at_once() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    mesh.write("own.yaml", &command(1, "first"));
    let is = |mesh: &Mesh, wanted: &[&str]| {
        let status = mesh.status();
        let workloads = status["mesh"]["workloads"].as_array().cloned().unwrap_or_default();
        let own = workloads.into_iter().find(|w| w["name"] == "own");
        let instances =
            own.map(|w| w["instances"].as_array().cloned().unwrap_or_default()).unwrap_or_default();
        let ready: Vec<String> = instances
            .iter()
            .filter(|i| i["state"] == "ready")
            .map(|i| i["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        if ready == wanted && instances.len() == wanted.len() {
            Ok(instances)
        } else {
            Err(format!("{instances:?}"))
        }
    };
    let first = eventually("one replica", || is(&mesh, &["own-0"]));
    let log = mesh.must(&["logs", "own-0"]);
    let ip = first[0]["pod_ip"].as_str().unwrap();
    assert!(log.contains(&format!("first own-0 {ip} http://{ip}:15001 127.")), "{log}");

    mesh.write("own.yaml", &command(3, "first"));
    eventually("three replicas", || is(&mesh, &["own-0", "own-1", "own-2"]));
    mesh.write("own.yaml", &command(3, "first")[..120]);
    mesh.write("more.yaml", &command(1, "x").replace("name: own}\nspec", "name: more}\nspec"));
    eventually("the other file counts", || {
        let workloads = mesh.status()["mesh"]["workloads"].to_string();
        if workloads.contains("\"more-0\"") { Ok(()) } else { Err(workloads) }
    });
    is(&mesh, &["own-0", "own-1", "own-2"]).unwrap();

    mesh.write("own.yaml", &command(1, "second"));
    let second = eventually("one new replica", || {
        let now = is(&mesh, &["own-0"])?;
        if now[0]["uid"] == first[0]["uid"] { Err("the old pod".to_owned()) } else { Ok(now) }
    });
    assert_eq!(second[0]["pod_ip"], first[0]["pod_ip"]);
    assert!(mesh.must(&["logs", "own-0", "--tail", "1"]).starts_with("second"));
    mesh.delete("own.yaml");
    eventually("none", || is(&mesh, &[]));
}

/// A changed template is rolled out without losing a request.
#[test]
fn a_roll_out_loses_nothing() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    let uids = |mesh: &Mesh| -> Vec<String> {
        mesh.instances("web").iter().map(|i| i["uid"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let before = uids(&mesh);
    mesh.write("base.yaml", &BASE.replace("{ app: web, version: v1 }", "{ app: web, version: v2 }"));
    let mut statuses = Vec::new();
    eventually("both are new", || {
        statuses.extend(mesh.statuses(&["http://web/", "-n", "50", "-c", "2"]));
        let now = uids(&mesh);
        let new = now.len() == 2 && now.iter().all(|uid| !uid.is_empty() && !before.contains(uid));
        if new { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let lost = statuses.iter().filter(|status| **status != 200).count();
    assert_eq!(lost, 0, "{lost} of {} lost", statuses.len());
}

/// A probe that fails keeps traffic away, and says why; when it passes again, traffic comes back. `meshctl fault` is how an
/// application is made to fail.
#[test]
fn readiness_probes_decide() {
    let probe = "apiVersion: v1\nkind: Pod\nmetadata: {name: sick, labels: {app: web}}\nspec:\n  containers:\n  - name: \
                 sick\n    image: sick\n    ports: [{name: http, containerPort: 8080}]\n    readinessProbe: {httpGet: {path: \
                 /status/503, port: http}, periodSeconds: 1, failureThreshold: 1}\n";
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    mesh.write("sick.yaml", probe);
    mesh.status_says("readiness probe of port 8080/status/503 answered 503");
    assert_eq!(state(&mesh, "sick", "sick"), "starting");
    let answers = |mesh: &Mesh| by_instance(&mesh.request(&["http://web/", "-n", "30"])).contains_key("sick");
    assert!(!answers(&mesh));
    mesh.write("sick.yaml", &probe.replace("/status/503", "/"));
    let comes_back = || if answers(&mesh) { Ok(()) } else { Err(state(&mesh, "sick", "sick")) };
    eventually("it gets traffic", comes_back);

    assert!(mesh.must(&["fault", "sick", "--status", "503"]).contains("answers 503"));
    mesh.status_says("readiness probe of port 8080/ answered 503");
    let goes = || if answers(&mesh) { Err("it still answers".to_owned()) } else { Ok(()) };
    eventually("its traffic goes elsewhere", goes);
    assert!(mesh.must(&["fault", "sick"]).contains("answers 503"), "without options it is shown");
    assert!(mesh.must(&["fault", "sick", "--clear"]).contains("behaves"));
    eventually("it gets traffic again", comes_back);
    let gateway = mesh.run(&["fault", "istio-ingressgateway-0", "--hang"]);
    assert!(!gateway.status.success() && text(&gateway).contains("no application"), "{}", text(&gateway));
    says_what_is_wrong(&mesh);
}

/// A newcomer reads in the status what does not work, and why.
fn says_what_is_wrong(mesh: &Mesh) {
    mesh.write("gone.yaml", &command(1, "x").replace("[sh, -c,", "[/no/such/program,"));
    mesh.status_says("cannot run /no/such/program: No such file or directory");
    let status = mesh.status();
    assert!(status["protocolDetectionTimeout"].as_f64().is_some_and(|seconds| seconds > 0.0), "{status}");
    let resources = status["pilot"]["resources"].as_array().cloned().unwrap_or_default();
    assert!(!resources.is_empty());
    for resource in resources.iter().filter(|r| r["state"] != "in_force") {
        assert_ne!(resource["message"], "", "not in force, and no reason: {resource}");
    }
    assert!(mesh.must(&["logs", "web-0/web"]).contains("listens on"), "a container by its name");
    let unknown = mesh.run(&["logs", "web-0/nothing"]);
    assert!(!unknown.status.success() && text(&unknown).contains("web-0/sidecar"), "{}", text(&unknown));
    assert!(mesh.must(&["version"]).contains(&format!("mesh {}:", mesh.name())));
}

/// Two meshes side by side know nothing of each other.
#[test]
fn meshes_run_side_by_side() {
    let one = Mesh::up(&[("base.yaml", BASE)], &[]);
    let two = Mesh::up(&[("base.yaml", BASE)], &[]);
    assert_ne!(one.status()["mesh"]["network"], two.status()["mesh"]["network"]);
    one.must(&["stop", "web-0", "web-1"]);
    assert_eq!(two.one(&["http://web/"])["status"], 200);
    one.must(&["down"]);
    pause(Duration::from_millis(200));
    assert_eq!(two.one(&["http://web/"])["status"], 200);
}

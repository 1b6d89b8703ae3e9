//! What is counted is what is told, and log lines are Istio's.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::UNIX_EPOCH;

use mesh_proto::wire::mesh::v1 as wire;
use parking_lot::Mutex;

use super::*;

/// Memory in place of standard output.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn telemetry(workers: usize, series_limit: usize) -> (Telemetry, Memory) {
    let memory = Memory::default();
    let settings = Settings { workers, access_log: false, series_limit, version: "1.2.3" };
    (Telemetry::with_output(settings, Box::new(memory.clone())), memory)
}

fn party(name: &str, instance: &str) -> Arc<Party> {
    let text = str::to_owned;
    let facts = wire::WorkloadFacts {
        workload: format!("{name}-v1"),
        namespace: text("shop"),
        app: text(name),
        version: text("v1"),
        canonical_service: text(name),
        canonical_revision: text("v1"),
        cluster_id: text("Kubernetes"),
        instance: text(instance),
    };
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap();
    Arc::new(Party::new(Some(&facts), Some(&identity)))
}

fn service() -> Arc<Service> {
    let text = str::to_owned;
    Arc::new(Service::new(&wire::ServiceRef {
        host: text("reviews.shop.svc.cluster.local"),
        port: 80,
        name: text("reviews"),
        namespace: text("shop"),
    }))
}

struct Facts {
    source: Arc<Party>,
    destination: Arc<Party>,
    service: Arc<Service>,
}

impl Facts {
    fn new() -> Self {
        Self { source: party("web", "web-0"), destination: party("reviews", "reviews-0"), service: service() }
    }

    fn request(&self) -> RequestFacts<'_> {
        RequestFacts {
            route: Route {
                reporter: Reporter::Source,
                source: &self.source,
                destination: &self.destination,
                service: &self.service,
                mtls: true,
            },
            protocol: RequestProtocol::Http,
            status: 200,
            grpc_status: None,
            flags: Flags::NONE,
            duration: Duration::from_micros(1500),
            request_bytes: 0,
            response_bytes: 1024,
        }
    }
}

/// Lines of one metric: labels to value.
fn samples(telemetry: &Telemetry, name: &str) -> BTreeMap<String, f64> {
    let text = telemetry.render();
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let mut samples = BTreeMap::new();
    for line in lines {
        let (labels, value) = line.rsplit_once("} ").unwrap();
        let twice = samples.insert(labels.to_owned(), value.parse().unwrap());
        assert_eq!(twice, None, "{name} {labels}");
    }
    samples
}

fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let start = format!("{name}=\"");
    let at = labels.split("\",").find_map(|label| label.strip_prefix(&start));
    at.map_or("absent", |value| value.trim_end_matches('"'))
}

#[test]
fn the_full_label_set() {
    let (telemetry, _) = telemetry(1, 100);
    telemetry.worker(0).request(&Facts::new().request());
    let samples = samples(&telemetry, "istio_requests_total");
    let (labels, value) = samples.first_key_value().unwrap();
    assert_eq!(*value, 1.0);
    let expected = concat!(
        r#"reporter="source","#,
        r#"source_workload="web-v1",source_workload_namespace="shop","#,
        r#"source_principal="spiffe://cluster.local/ns/shop/sa/web",source_app="web",source_version="v1","#,
        r#"source_cluster="Kubernetes",source_canonical_service="web",source_canonical_revision="v1","#,
        r#"destination_workload="reviews-v1",destination_workload_namespace="shop","#,
        r#"destination_principal="spiffe://cluster.local/ns/shop/sa/reviews",destination_app="reviews","#,
        r#"destination_version="v1",destination_cluster="Kubernetes","#,
        r#"destination_canonical_service="reviews",destination_canonical_revision="v1","#,
        r#"destination_service="reviews.shop.svc.cluster.local",destination_service_name="reviews","#,
        r#"destination_service_namespace="shop",request_protocol="http",response_code="200","#,
        r#"response_flags="-",connection_security_policy="unknown""#,
    );
    assert_eq!(labels, expected);
}

#[test]
fn what_is_not_known_is_unknown() {
    let (telemetry, _) = telemetry(1, 100);
    let facts = Facts {
        source: Party::unknown(),
        destination: Party::unknown(),
        service: Arc::new(Service::named("PassthroughCluster")),
    };
    telemetry.worker(0).request(&facts.request());
    let samples = samples(&telemetry, "istio_requests_total");
    let (labels, _) = samples.first_key_value().unwrap();
    for name in ["source_workload", "destination_principal", "destination_service", "source_cluster"] {
        assert_eq!(label(labels, name), "unknown", "{name}");
    }
    assert_eq!(label(labels, "source_canonical_revision"), "latest");
    assert_eq!(label(labels, "destination_service_name"), "PassthroughCluster");
}

#[test]
fn security_is_told_by_the_server() {
    let (telemetry, _) = telemetry(1, 100);
    let facts = Facts::new();
    let worker = telemetry.worker(0);
    for (mtls, policy, principal) in
        [(true, "mutual_tls", "spiffe://cluster.local/ns/shop/sa/web"), (false, "none", "unknown")]
    {
        let mut request = facts.request();
        request.route = Route { reporter: Reporter::Destination, mtls, ..request.route };
        worker.request(&request);
        let samples = samples(&telemetry, "istio_requests_total");
        let found = samples.keys().find(|l| label(l, "connection_security_policy") == policy).unwrap();
        assert_eq!(label(found, "source_principal"), principal);
    }
}

/// Two pods of one workload, and the same pod described again by a push, are one series: no label tells them apart.
#[test]
fn equal_labels_are_one_series() {
    let (telemetry, _) = telemetry(2, 100);
    for worker in 0..2 {
        let worker = telemetry.worker(worker);
        for instance in ["reviews-0", "reviews-1", "reviews-0"] {
            let facts = Facts { destination: party("reviews", instance), ..Facts::new() };
            worker.request(&facts.request());
        }
    }
    let samples = samples(&telemetry, "istio_requests_total");
    assert_eq!(samples.into_values().collect::<Vec<_>>(), [6.0]);
}

#[test]
fn classes_of_answers_are_series_of_their_own() {
    let (telemetry, _) = telemetry(1, 100);
    let (facts, worker) = (Facts::new(), telemetry.worker(0));
    let plain = facts.request();
    let grpc = |code| RequestFacts { protocol: RequestProtocol::Grpc, grpc_status: Some(code), ..plain };
    let flags = Flags::UPSTREAM_CONNECT_FAILED.with(Flags::RETRY_LIMIT);
    for facts in [plain, RequestFacts { status: 503, flags, ..plain }, grpc(0), grpc(14), grpc(99), grpc(77)]
    {
        worker.request(&facts);
        worker.request(&facts);
    }
    let samples = samples(&telemetry, "istio_requests_total");
    let value = |code: &str, flags: &str, grpc: &str| {
        let wanted = |labels: &&String| {
            (label(labels, "response_code"), label(labels, "response_flags")) == (code, flags)
                && label(labels, "grpc_response_status") == grpc
        };
        samples.keys().find(wanted).map(|labels| samples[labels])
    };
    assert_eq!(value("200", "-", "absent"), Some(2.0));
    assert_eq!(value("503", "UF,URX", "absent"), Some(2.0));
    assert_eq!((value("200", "-", "0"), value("200", "-", "14")), (Some(2.0), Some(2.0)));
    // Codes that gRPC does not have count as UNKNOWN: a peer cannot make series at will.
    assert_eq!(value("200", "-", "2"), Some(4.0));
    assert_eq!(samples.len(), 5);
}

#[test]
fn histograms_are_cumulative_in_envoys_buckets() {
    let (telemetry, _) = telemetry(2, 100);
    let facts = Facts::new();
    for (worker, micros) in [(0, 400), (0, 1500), (1, 5000), (1, 5001), (1, 7_200_000_000)] {
        let request = RequestFacts { duration: Duration::from_micros(micros), ..facts.request() };
        telemetry.worker(worker).request(&request);
    }
    let buckets = samples(&telemetry, "istio_request_duration_milliseconds_bucket");
    let value = |le: &str| *buckets.iter().find(|(l, _)| label(l, "le") == le).unwrap().1;
    let found = ["0.5", "1", "5", "10", "3600000", "+Inf"].map(value);
    assert_eq!(found, [1.0, 1.0, 3.0, 4.0, 4.0, 5.0]);
    assert_eq!(buckets.len(), 20);
    let sum = samples(&telemetry, "istio_request_duration_milliseconds_sum");
    assert_eq!(sum.into_values().collect::<Vec<_>>(), [7_200_011.901]);
    let count = samples(&telemetry, "istio_response_bytes_count");
    assert_eq!(count.into_values().collect::<Vec<_>>(), [5.0]);
    let sum = samples(&telemetry, "istio_response_bytes_sum");
    assert_eq!(sum.into_values().collect::<Vec<_>>(), [5120.0]);
}

#[test]
fn beyond_the_limit_nothing_is_lost() {
    let (telemetry, _) = telemetry(1, 3);
    let (facts, worker) = (Facts::new(), telemetry.worker(0));
    for status in 200..600 {
        worker.request(&RequestFacts { status, ..facts.request() });
    }
    let samples = samples(&telemetry, "istio_requests_total");
    assert_eq!(samples.len(), 4);
    assert_eq!(samples.values().sum::<f64>(), 400.0);
    let overflow = samples.iter().find(|(l, _)| label(l, "reporter") == "overflow").unwrap();
    assert_eq!(*overflow.1, 397.0);
    assert!(telemetry.render().contains("mesh_telemetry_series_overflowed_total 397\n"));
}

/// The table of a worker is small and keyed by address: what leaves it, and what comes to the same address, counts right.
#[test]
fn counts_survive_a_full_cache() {
    let (telemetry, _) = telemetry(1, 10_000);
    let worker = telemetry.worker(0);
    for round in 0..3 {
        for i in 0..1000 {
            let facts = Facts { destination: party(&format!("d{i}"), &format!("{round}")), ..Facts::new() };
            worker.request(&facts.request());
        }
    }
    let samples = samples(&telemetry, "istio_requests_total");
    assert_eq!(samples.len(), 1000);
    assert!(samples.values().all(|v| *v == 3.0));
}

#[test]
fn workers_count_side_by_side() {
    let (telemetry, _) = telemetry(4, 100);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let telemetry = &telemetry;
            scope.spawn(move || {
                let (facts, worker) = (Facts::new(), telemetry.worker(worker));
                for status in (200..210).cycle().take(10_000) {
                    worker.request(&RequestFacts { status, ..facts.request() });
                }
            });
        }
        for _ in 0..20 {
            assert!(telemetry.render().starts_with("# HELP istio_build"));
        }
    });
    let samples = samples(&telemetry, "istio_requests_total");
    assert_eq!(samples.into_values().collect::<Vec<_>>(), [4000.0; 10]);
    let stats = telemetry.stats();
    assert_eq!(stats["workers"][3]["requests"], 10_000);
}

#[test]
fn connections() {
    let (telemetry, _) = telemetry(1, 100);
    let (facts, worker) = (Facts::new(), telemetry.worker(0));
    let route = facts.request().route;
    let (one, other) = (worker.tcp_opened(&route), worker.tcp_opened(&route));
    one.received(10);
    one.received(5);
    one.sent(7);
    one.closed(Flags::UPSTREAM_CLOSED);
    let values = |name| samples(&telemetry, name).into_values().collect::<Vec<_>>();
    assert_eq!(values("istio_tcp_connections_opened_total"), [2.0, 0.0]);
    assert_eq!(values("istio_tcp_connections_closed_total"), [0.0, 1.0]);
    drop(other);
    assert_eq!(values("istio_tcp_connections_closed_total"), [1.0, 1.0]);
    assert_eq!(values("istio_tcp_received_bytes_total"), [15.0, 0.0]);
    assert_eq!(values("istio_tcp_sent_bytes_total"), [7.0, 0.0]);
    let samples = samples(&telemetry, "istio_tcp_sent_bytes_total");
    let labels = samples.first_key_value().unwrap().0;
    assert_eq!((label(labels, "request_protocol"), label(labels, "response_code")), ("tcp", "absent"));
}

#[test]
fn label_values_are_escaped() {
    let (telemetry, _) = telemetry(1, 100);
    let facts = Facts { service: Arc::new(Service::named("a\"b\\c\nd")), ..Facts::new() };
    telemetry.worker(0).request(&facts.request());
    assert!(telemetry.render().contains(r#"destination_service_name="a\"b\\c\nd""#));
    assert!(telemetry.render().contains("istio_build{component=\"proxy\",tag=\"1.2.3\"} 1\n"));
}

fn entry() -> LogEntry<'static> {
    LogEntry {
        start: UNIX_EPOCH + Duration::from_millis(1_795_364_490_123),
        method: "GET",
        path: "/reviews?x=1",
        protocol: "HTTP/1.1",
        status: 200,
        flags: Flags::NONE,
        details: "via_upstream",
        termination: "",
        transport_failure: "",
        bytes_received: 0,
        bytes_sent: 178,
        duration: Duration::from_micros(7999),
        upstream_time: Some(Duration::from_millis(6)),
        forwarded_for: None,
        user_agent: Some(b"curl/8"),
        request_id: Some(b"84961386"),
        authority: "reviews:9080",
        upstream_host: Some("127.9.1.1:9080".parse().unwrap()),
        upstream_cluster: "outbound|9080||reviews.default.svc.cluster.local",
        upstream_local: Some("127.9.2.1:40000".parse().unwrap()),
        downstream_local: Some("127.9.2.3:9080".parse().unwrap()),
        downstream_remote: Some("127.0.0.1:50000".parse().unwrap()),
        server_name: "",
        policies: "",
        route_name: "default",
    }
}

fn lines(entries: &[LogEntry<'_>]) -> Vec<String> {
    let (telemetry, memory) = telemetry(1, 100);
    telemetry.set_access_log(true);
    let worker = telemetry.worker(0);
    entries.iter().for_each(|entry| worker.log(entry));
    telemetry.flush();
    let bytes = memory.0.lock().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_line_is_istios() {
    let expected = concat!(
        r#"[2026-11-22T16:21:30.123Z] "GET /reviews?x=1 HTTP/1.1" 200 - via_upstream - "-" 0 178 7 6 "#,
        r#""-" "curl/8" "84961386" "reviews:9080" "127.9.1.1:9080" "#,
        "outbound|9080||reviews.default.svc.cluster.local 127.9.2.1:40000 127.9.2.3:9080 127.0.0.1:50000 - default"
    );
    assert_eq!(lines(&[entry()]), [expected]);
    let failed = LogEntry {
        status: 503,
        flags: Flags::UPSTREAM_CONNECT_FAILED.with(Flags::RETRY_LIMIT),
        details: "upstream reset",
        transport_failure: "peer is spiffe://a, expected spiffe://b",
        upstream_time: None,
        upstream_local: None,
        ..entry()
    };
    let line = lines(&[failed]).remove(0);
    assert!(
        line.contains(
            r#" 503 UF,URX upstream_reset - "peer is spiffe://a, expected spiffe://b" 0 178 7 - "-""#
        ),
        "{line}"
    );
    let bytes = LogEntry { method: "", path: "", protocol: "", status: 0, authority: "", ..entry() };
    assert!(lines(&[bytes])[0].contains(r#"] "- - -" 0 - "#));
}

#[test]
fn nothing_from_outside_makes_a_line_or_leaves_its_quotes() {
    let nasty =
        LogEntry { path: "/a\" 200 b", user_agent: Some(b"x\r\n[2026] \"GET\\ \xff\x1b[2J"), ..entry() };
    let lines = lines(&[nasty]);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains(r#""GET /a\x22_200_b HTTP/1.1""#), "{}", lines[0]);
    assert!(lines[0].contains(r#""x\x0d\x0a[2026] \x22GET\x5c \xff\x1b[2J""#), "{}", lines[0]);
}

proptest::proptest! {
    /// Whatever a client sends, a line is one line, with the quotes of the format only.
    #[test]
    fn a_line_is_a_line(path in ".*", agent: Vec<u8>, id: Vec<u8>, authority in ".*") {
        let entry = LogEntry {
            path: &path,
            user_agent: Some(&agent),
            request_id: Some(&id),
            authority: &authority,
            ..entry()
        };
        let lines = lines(&[entry]);
        proptest::prop_assert_eq!(lines.len(), 1);
        proptest::prop_assert_eq!(lines[0].matches('"').count(), 14);
        proptest::prop_assert!(lines[0].bytes().all(|b| (b' '..=b'~').contains(&b)));
    }
}

#[test]
fn the_log_can_be_off_and_on() {
    let (telemetry, memory) = telemetry(1, 100);
    let worker = telemetry.worker(0);
    worker.log(&entry());
    assert!(!worker.logs());
    telemetry.set_access_log(true);
    worker.log(&entry());
    telemetry.set_access_log(false);
    worker.log(&entry());
    telemetry.flush();
    assert_eq!(memory.0.lock().iter().filter(|b| **b == b'\n').count(), 1);
}

/// An output that never takes anything.
struct Stuck(std::sync::mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_output_costs_lines_not_time() {
    let (release, stuck) = std::sync::mpsc::channel();
    let settings = Settings { workers: 1, access_log: true, series_limit: 10, version: "1" };
    let telemetry = Telemetry::with_output(settings, Box::new(Stuck(stuck)));
    let worker = telemetry.worker(0);
    for _ in 0..20_000 {
        worker.log(&entry());
    }
    let dropped = telemetry.stats()["access_log_lines_dropped"].as_u64().unwrap();
    assert!(dropped > 1000, "{dropped}");
    drop(release);
}

#[test]
fn lines_come_out_without_being_asked() {
    struct Told(std::sync::mpsc::Sender<usize>);
    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(bytes.iter().filter(|b| **b == b'\n').count());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (sender, told) = std::sync::mpsc::channel();
    let settings = Settings { workers: 2, access_log: true, series_limit: 10, version: "1" };
    let telemetry = Telemetry::with_output(settings, Box::new(Told(sender)));
    let workers = [telemetry.worker(0), telemetry.worker(1)];
    for worker in workers.iter().cycle().take(100) {
        worker.log(&entry());
    }
    let mut lines = 0;
    while lines < 100 {
        lines += told.recv().unwrap();
    }
}

//! One case a rule: the object that is right and the one that differs in the field.

#![allow(clippy::too_many_lines, reason = "tables of cases")]

use super::super::{Document, Origin, Problem, from_value, parse};

fn documents(kind: &str, spec: &str) -> Document {
    let security = matches!(kind, "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication");
    let group = if security { "security" } else { "networking" };
    let text =
        format!("apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n");
    parse("a.yaml", &text).remove(0)
}

/// What is told, as `severity path: message`.
fn told(kind: &str, spec: &str) -> Vec<String> {
    let line = |p: &Problem| format!("{} {}", p.severity, p.text());
    documents(kind, spec).problems().iter().map(line).collect()
}

fn check(kind: &str, cases: &[(&str, &[&str])]) {
    for (spec, expected) in cases {
        let told = told(kind, spec);
        assert_eq!(told.len(), expected.len(), "{spec}: {told:#?}");
        for (line, start) in told.iter().zip(*expected) {
            assert!(line.starts_with(start), "{spec}: {line}\nexpected {start}");
        }
    }
}

#[test]
fn service_entries() {
    let ports = "ports: [{number: 443, name: tls, protocol: TLS}]";
    let with = |more: &str| format!("{{hosts: [api.example.com], {ports}, {more}}}");
    let port = |port: &str| format!("{{hosts: [api.example.com], ports: [{port}], resolution: DNS}}");
    let address = "endpoints: [{address: 192.0.2.1}]";
    let cases: Vec<(String, Vec<&str>)> = vec![
        (with("resolution: DNS"), vec![]),
        (with("location: MESH_INTERNAL, resolution: DNS_ROUND_ROBIN"), vec![]),
        (with(&format!("resolution: STATIC, {address}")), vec![]),
        (with("resolution: STATIC, workloadSelector: {labels: {app: a}}"), vec![]),
        (with("addresses: [192.0.2.1, 198.51.100.0/24, '2001:db8::/32']"), vec![]),
        (
            with("addresses: [192.0.2.1/33]"),
            vec!["error spec.addresses[0]: \"192.0.2.1/33\" is not an address"],
        ),
        (
            with("addresses: [192.0.2.1/08]"),
            vec!["error spec.addresses[0]: \"192.0.2.1/08\" is not an address"],
        ),
        (with("addresses: [a.example]"), vec!["error spec.addresses[0]"]),
        (with(&format!("resolution: NONE, {address}")), vec!["error spec.resolution: with resolution NONE"]),
        (with(address), vec!["error spec.resolution: with resolution NONE"]),
        (with("resolution: STATIC"), vec!["error spec.resolution: resolution STATIC needs endpoints"]),
        (with("resolution: DYNAMIC_DNS"), vec!["error spec.resolution: DYNAMIC_DNS is not in force yet"]),
        (with("resolution: SOME"), vec!["error spec.resolution: unknown variant"]),
        (
            with("resolution: STATIC, endpoints: [{address: a.example}]"),
            vec!["error spec.endpoints[0].address: \"a.example\" is not an address"],
        ),
        (with("resolution: DNS, endpoints: [{address: a.example, ports: {tls: 8443}}]"), vec![]),
        (
            with("resolution: DNS, endpoints: [{address: a.example, ports: {other: 8443}}]"),
            vec!["error spec.endpoints[0].ports.other: spec.ports has no port named \"other\""],
        ),
        (
            with("resolution: STATIC, endpoints: [{address: 'unix:///a'}]"),
            vec!["error spec.endpoints[0].address: unix sockets are not in force yet"],
        ),
        (
            with("resolution: STATIC, endpoints: [{address: 192.0.2.1, network: n}]"),
            vec!["warning spec.endpoints[0].network: network is accepted, not in force yet"],
        ),
        (
            with("resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.example}, {address: b.example}]"),
            vec!["error spec.resolution: DNS_ROUND_ROBIN takes one endpoint"],
        ),
        (
            with(&format!("resolution: STATIC, workloadSelector: {{labels: {{a: b}}}}, {address}")),
            vec!["error spec.workloadSelector: workloadSelector and endpoints are both set"],
        ),
        (with("exportTo: [., '~'], resolution: DNS"), vec!["error spec.exportTo[1]"]),
        (with("resolution: DNS, host: a"), vec!["error spec.host: unknown field"]),
        (format!("{{hosts: ['*.example.com'], {ports}}}"), vec![]),
        (
            format!("{{hosts: ['*.example.com'], {ports}, resolution: DNS}}"),
            vec!["error spec.resolution: DNS cannot be"],
        ),
        (format!("{{hosts: ['*'], {ports}}}"), vec!["error spec.hosts[0]: \"*\" is not a host"]),
        (format!("{{hosts: [192.0.2.1], {ports}}}"), vec!["error spec.hosts[0]"]),
        (format!("{{hosts: [partner], {ports}}}"), vec!["warning spec.hosts[0]: partner has no dot"]),
        (format!("{{hosts: [a.b, A.b], {ports}}}"), vec!["error spec.hosts[1]: A.b is there twice"]),
        (format!("{{{ports}}}"), vec!["error spec.hosts: a ServiceEntry needs a host"]),
        ("{hosts: [a.example]}".to_owned(), vec!["error spec.ports: a ServiceEntry needs a port"]),
        (port("{number: 80, name: http, protocol: HTTP, targetPort: 8080}"), vec![]),
        (
            port("{number: 0, name: http, protocol: HTTP}"),
            vec!["error spec.ports[0].number: number is missing"],
        ),
        (port("{number: 80, protocol: HTTP}"), vec!["error spec.ports[0]: name is missing"]),
        (
            port("{number: 53, name: dns, protocol: UDP}"),
            vec!["error spec.ports[0].protocol: unknown protocol \"UDP\""],
        ),
        (
            port("{number: 80, name: a, protocol: HTTP}, {number: 80, name: a, protocol: HTTP}"),
            vec!["error spec.ports[1].number: port 80 is there twice", "error spec.ports[1].name"],
        ),
        (port("{number: 5432, name: db, protocol: TCP}"), vec!["warning spec.addresses: bytes have no name"]),
    ];
    let cases: Vec<(&str, &[&str])> = cases.iter().map(|(spec, told)| (spec.as_str(), &told[..])).collect();
    check("ServiceEntry", &cases);
}

#[test]
fn virtual_services() {
    let route = "route: [{destination: {host: b}}]";
    let http = |rule: &str| format!("{{hosts: [a], http: [{{{rule}}}]}}");
    let with = |more: &str| http(&format!("{route}, {more}"));
    let cases: Vec<(String, Vec<&str>)> = vec![
        (http(route), vec![]),
        (http(""), vec!["error spec.http[0]: the rule does nothing"]),
        (
            with("redirect: {uri: /b}"),
            vec![
                "error spec.http[0]: more than one",
                "error spec.http[0].redirect: redirect is not in force yet",
            ],
        ),
        (with("rewrite: {uri: /b}"), vec!["error spec.http[0].rewrite: rewrite is not in force"]),
        (with("fault: {}"), vec!["error spec.http[0].fault"]),
        (with("headers: {request: {set: {a: b}}}"), vec!["error spec.http[0].headers"]),
        (with("headers: {}"), vec![]),
        (with("corsPolicy: {}"), vec!["error spec.http[0].corsPolicy"]),
        (
            with("mirror: {host: c}"),
            vec!["warning spec.http[0].mirror: mirror is accepted, not in force yet"],
        ),
        (with("timeout: 1m30s"), vec![]),
        (
            with("timeout: 1"),
            vec!["error spec.http[0].timeout: invalid type: integer 1 (expected a duration"],
        ),
        (with("retries: {attempts: 3, retryOn: '5xx,503, reset'}"), vec![]),
        (
            with("retries: {attempts: 3, retryOn: 'sometimes'}"),
            vec!["error spec.http[0].retries.retryOn: unknown word \"sometimes\""],
        ),
        (with("retries: {attempts: -1}"), vec!["error spec.http[0].retries.attempts"]),
        (
            with("retries: {attempts: 0, retryOn: 5xx}"),
            vec!["error spec.http[0].retries: attempts is missing or 0"],
        ),
        (with("match: [{uri: {regex: '/a.*'}}]"), vec![]),
        (
            with("match: [{uri: {regex: '/a(b'}}]"),
            vec!["error spec.http[0].match[0].uri: bad regex: unclosed group"],
        ),
        (with("match: [{uri: {regex: 'a)|(?:b'}}]"), vec!["error spec.http[0].match[0].uri: bad regex"]),
        (with("match: [{headers: {':path': {prefix: /a}}}]"), vec![]),
        (
            with("match: [{headers: {':paht': {prefix: /a}}}]"),
            vec!["error spec.http[0].match[0].headers.:paht"],
        ),
        (
            with("retries: {attempts: 1, retryOn: 'retriable-headers,reset'}"),
            vec!["warning spec.http[0].retries.retryOn: retriable-headers means nothing"],
        ),
        (with("match: [{uri: {}}]"), vec!["error spec.http[0].match[0].uri: uri matches nothing"]),
        (with("match: [{headers: {a: {}, b: {regex: '*'}}}]"), vec![]),
        (with("match: [{headers: {'@request.auth.claims.a': {exact: b}}}]"), vec![]),
        (with("match: [{gateways: [g], headers: {'@request.auth.claims[a]': {exact: b}}}]"), vec![]),
        (
            with("match: [{gateways: [g], headers: {'@request.auth.principal': {exact: b}}}]"),
            vec!["error spec.http[0].match[0].headers.@request.auth.principal: \"@request"],
        ),
        (http("directResponse: {status: 503, body: {string: a}}"), vec![]),
        (http("directResponse: {status: 99}"), vec!["error spec.http[0].directResponse.status"]),
        (
            http("directResponse: {status: 200, body: {bytes: '***'}}"),
            vec!["error spec.http[0].directResponse.body.bytes: not base64"],
        ),
        ("{hosts: [a]}".into(), vec!["error spec: no routes"]),
        (format!("{{hosts: [], http: [{{{route}}}]}}"), vec!["error spec.hosts: hosts are missing"]),
        (format!("{{hosts: ['*', '*.b', c.d, 10.0.0.1], http: [{{{route}}}]}}"), vec![]),
        (
            format!("{{hosts: ['*a', 'b/c', a b], http: [{{{route}}}]}}"),
            vec!["error spec.hosts[0]", "error spec.hosts[1]", "error spec.hosts[2]"],
        ),
        (format!("{{hosts: [a, A], http: [{{{route}}}]}}"), vec!["error spec.hosts[1]: A is there twice"]),
        (format!("{{hosts: [a], gateways: [mesh, b/c, d], http: [{{{route}}}]}}"), vec![]),
        (format!("{{hosts: [a], gateways: [b/c/d], http: [{{{route}}}]}}"), vec!["error spec.gateways[0]"]),
        (
            format!("{{hosts: [a], exportTo: ['.', '*'], http: [{{{route}}}]}}"),
            vec!["error spec.exportTo[1]"],
        ),
        (
            format!("{{hosts: [a], http: [{{{route}}}, {{{route}}}]}}"),
            vec!["warning spec.http[1]: never reached: http[0]"],
        ),
        (
            http("route: [{destination: {host: b}, weight: -1}, {destination: {host: c}, weight: 1}]"),
            vec!["warning spec.http[0].route[0].weight: a negative weight counts as 0"],
        ),
        (
            http("route: [{destination: {host: b}, weight: 0}, {destination: {host: c}}]"),
            vec!["error spec.http[0].route: all weights are 0"],
        ),
        (
            http("route: [{destination: {host: b}, weight: 80}, {destination: {host: c}}]"),
            vec!["warning spec.http[0].route[1]: no weight beside others counts as 0"],
        ),
        (http("route: [{destination: {host: '*.b'}}]"), vec!["error spec.http[0].route[0].destination.host"]),
        (
            http("route: [{destination: {host: b, port: {}}}]"),
            vec!["error spec.http[0].route[0].destination.port"],
        ),
        (
            "{hosts: [a], tls: [{match: [{sniHosts: [a]}]}]}".into(),
            vec!["error spec.tls[0]: the rule does nothing"],
        ),
        (format!("{{hosts: [a], tcp: [{{{route}}}]}}"), vec![]),
        (
            format!("{{hosts: [a], tcp: [{{match: [{{destinationSubnets: [10.0.0.0/8]}}], {route}}}]}}"),
            vec!["error spec.tcp[0].match[0].destinationSubnets"],
        ),
    ];
    let cases: Vec<(&str, &[&str])> = cases.iter().map(|(s, e)| (s.as_str(), e.as_slice())).collect();
    check("VirtualService", &cases);
}

#[test]
fn destination_rules() {
    let locality = |setting: &str, outlier: &str| {
        let outlier =
            if outlier.is_empty() { String::new() } else { format!(", outlierDetection: {{{outlier}}}") };
        format!("{{host: a, trafficPolicy: {{loadBalancer: {{localityLbSetting: {{{setting}}}}}{outlier}}}}}")
    };
    let policy = |policy: &str| format!("{{host: a, trafficPolicy: {{{policy}}}}}");
    let hash = |hash: &str| policy(&format!("loadBalancer: {{consistentHash: {{{hash}}}}}"));
    let at = "spec.trafficPolicy.loadBalancer";
    let hash_error = format!("error {at}.consistentHash");
    let hash_error = hash_error.as_str();
    let cases: Vec<(String, Vec<&str>)> = vec![
        (
            "{host: a, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}".to_owned(),
            vec!["warning spec.trafficPolicy.loadBalancer.simple: PASSTHROUGH chooses nobody"],
        ),
        ("{host: a, subsets: [{name: v1, labels: {version: v1}}]}".into(), vec![]),
        (
            "{host: a, subsets: [{labels: {version: v1}}]}".into(),
            vec!["error spec.subsets[0]: a subset needs a name"],
        ),
        ("{host: a, subsets: [{name: b}, {name: b}]}".into(), vec!["error spec.subsets[1].name"]),
        (
            "{host: a, subsets: [{name: b, labels: {version: 1}}]}".into(),
            vec!["error spec.subsets[0].labels.version: invalid type: integer 1 (expected a string)"],
        ),
        ("{}".into(), vec!["error spec: host is missing"]),
        (policy("loadBalancer: {simple: ROUND_ROBIN}"), vec![]),
        (
            policy("loadBalancer: {simple: ROUND_ROBBIN}"),
            vec![
                "error spec.trafficPolicy.loadBalancer.simple: unknown variant ROUND_ROBBIN, did you mean ROUND_ROBIN?",
            ],
        ),
        (
            policy("loadBalancer: {simple: LEAST_CONN}"),
            vec!["warning spec.trafficPolicy.loadBalancer.simple"],
        ),
        (
            policy("loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}"),
            vec!["error spec.trafficPolicy.loadBalancer: simple and consistentHash"],
        ),
        (hash("httpHeaderName: x, ringHash: {minimumRingSize: 64}"), vec![]),
        (hash("httpCookie: {name: c, path: /, ttl: 0s}"), vec![]),
        (hash("httpCookie: {name: 'c;', path: '/;'}"), vec![hash_error, hash_error]),
        (hash("httpHeaderName: 'x y'"), vec![hash_error]),
        (hash("httpHeaderName: x, useSourceIp: true"), vec![hash_error]),
        (hash(""), vec![hash_error]),
        (hash("useSourceIp: true, maglev: {tableSize: 100}"), vec![hash_error]),
        (hash("useSourceIp: true, maglev: {tableSize: 101}"), vec![]),
        (hash("rings: 2, ringSize: 4"), vec!["warning", hash_error]),
        (hash("rings: 1, ringSize: 0"), vec!["warning", hash_error]),
        (hash("ringSize: 4, ringHash: {}"), vec!["warning", hash_error]),
        (
            policy("outlierDetection: {}"),
            vec!["warning spec.trafficPolicy.outlierDetection: maxEjectionPercent is 10: of fewer than 10"],
        ),
        (policy("outlierDetection: {consecutive5xxErrors: 3, maxEjectionPercent: 50}"), vec![]),
        (
            policy("outlierDetection: {maxEjectionPercent: 101, minHealthPercent: 101, interval: 0s}"),
            vec![
                "error spec.trafficPolicy.outlierDetection.interval: too short",
                "error spec.trafficPolicy.outlierDetection.maxEjectionPercent: more than all",
                "error spec.trafficPolicy.outlierDetection.minHealthPercent: more than all",
            ],
        ),
        (
            policy("outlierDetection: {maxEjectionPercent: 100, consecutiveLocalOriginFailures: 1}"),
            vec!["warning spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures"],
        ),
        (
            policy("outlierDetection: {maxEjectionPercent: 100, outlierDetectionHttpErrorCodes: [429]}"),
            vec![
                "warning spec.trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes: outlierDetectionHttpErrorCodes is accepted, not",
            ],
        ),
        (
            policy(
                "connectionPool: {tcp: {connectTimeout: 1s}, http: {idleTimeout: 1s, maxRequestsPerConnection: 1}}",
            ),
            vec![],
        ),
        (policy("connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}"), vec![]),
        (
            policy("connectionPool: {tcp: {maxConnections: -1}, http: {maxRetries: -1}}"),
            vec![
                "error spec.trafficPolicy.connectionPool.tcp.maxConnections: negative",
                "error spec.trafficPolicy.connectionPool.http.maxRetries: negative",
            ],
        ),
        (
            policy("connectionPool: {tcp: {tcpKeepalive: {time: 10ms}, maxConnectionDuration: 0s}}"),
            vec![
                "error spec.trafficPolicy.connectionPool.tcp.maxConnectionDuration: 0 lets nothing live",
                "error spec.trafficPolicy.connectionPool.tcp.tcpKeepalive.time: the kernel counts whole",
            ],
        ),
        (policy("retryBudget: {percent: 25, minRetryConcurrency: 5}"), vec![]),
        (policy("retryBudget: {percent: 101}"), vec!["error spec.trafficPolicy.retryBudget.percent"]),
        (locality("distribute: [{from: a/*, to: {'a/*': 80, 'b/*': 20}}]", ""), vec![]),
        (
            locality("distribute: [{from: a/*, to: {'a/*': 80}}]", ""),
            vec![
                "error spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to: the shares add up to 80",
            ],
        ),
        (locality("failover: [{from: a, to: b}]", "maxEjectionPercent: 100"), vec![]),
        (
            locality("failover: [{from: a, to: a}]", ""),
            vec![
                "error spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0]: a region fails over",
                "warning spec.trafficPolicy.loadBalancer.localityLbSetting: without outlierDetection nothing",
            ],
        ),
        (
            locality(
                "failoverPriority: [a], distribute: [{from: a, to: {a: 100}}]",
                "maxEjectionPercent: 100",
            ),
            vec!["error spec.trafficPolicy.loadBalancer.localityLbSetting: distribute and failover"],
        ),
        (policy("tls: {mode: ISTIO_MUTUAL}"), vec![]),
        (policy("tls: {mode: ISTIO_MUTUAL, sni: a.example}"), vec![]),
        (policy("tls: {mode: SIMPLE}"), vec![]),
        (
            policy("tls: {mode: SIMPLE, caCertificates: /a, sni: a.example, subjectAltNames: [a.example]}"),
            vec![],
        ),
        (policy("tls: {mode: SIMPLE, sni: '*.a'}"), vec!["error spec.trafficPolicy.tls.sni"]),
        (
            policy("tls: {mode: SIMPLE, clientCertificate: /a, privateKey: /b}"),
            vec!["error spec.trafficPolicy.tls: SIMPLE shows no certificate"],
        ),
        (policy("tls: {mode: MUTUAL, clientCertificate: /a, privateKey: /b}"), vec![]),
        (policy("tls: {mode: MUTUAL, credentialName: c}"), vec![]),
        (
            policy("tls: {mode: MUTUAL, credentialName: c, caCertificates: /a}"),
            vec!["error spec.trafficPolicy.tls: credentialName and files are both set"],
        ),
        (
            policy("tls: {mode: SIMPLE, credentialName: a/c}"),
            vec!["error spec.trafficPolicy.tls.credentialName"],
        ),
        (
            policy("tls: {mode: ISTIO_MUTUAL, caCrl: /a}"),
            vec!["error spec.trafficPolicy.tls.caCrl: caCrl is not in force"],
        ),
        (
            policy("tls: {mode: SIMPLE, insecureSkipVerify: true}"),
            vec!["warning spec.trafficPolicy.tls.insecureSkipVerify: whoever answers"],
        ),
        (
            policy("tls: {mode: SIMPLE, insecureSkipVerify: true, caCertificates: /a}"),
            vec!["error spec.trafficPolicy.tls: insecureSkipVerify contradicts", "warning"],
        ),
        (
            policy("tls: {mode: ISTIO_MUTUAL, subjectAltNames: [a]}"),
            vec!["error spec.trafficPolicy.tls.subjectAltNames[0]"],
        ),
        (policy("tls: {mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://td/ns/a/sa/b']}"), vec![]),
        (policy("tls: {mode: SIMPLE, caCertificates: /a, caCrl: /b}"), vec![]),
        (
            policy("tunnel: {protocol: CONNECT, targetHost: a, targetPort: 1}"),
            vec!["error spec.trafficPolicy.tunnel"],
        ),
        (
            policy("portLevelSettings: [{port: {number: 80}, tls: {mode: MUTUAL}}]"),
            vec!["error spec.trafficPolicy.portLevelSettings[0].tls: MUTUAL needs a certificate"],
        ),
    ];
    let cases: Vec<(&str, &[&str])> = cases.iter().map(|(s, e)| (s.as_str(), e.as_slice())).collect();
    check("DestinationRule", &cases);
}

#[test]
fn external_names() {
    let text = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{type: ExternalName, externalName: {name}}}\n"
        )
    };
    let told = |name: &str| -> Vec<String> {
        let documents = parse("a.yaml", &text(name));
        documents[0].problems().iter().map(|p| format!("{} {}", p.severity, p.path)).collect()
    };
    for good in ["db.example.com", "db.example.com.", "DB", "_db._tcp.example.com"] {
        assert!(told(good).is_empty(), "{good}: {:?}", told(good));
    }
    for bad in ["''", "'.'", "a..b", "'a b'", "'*.example.com'"] {
        assert_eq!(told(bad), ["error spec.externalName"], "{bad}");
    }
    assert_eq!(told("10.0.0.1"), ["warning spec.externalName"]);
}

#[test]
fn gateways() {
    let server = |server: &str| format!("{{selector: {{a: b}}, servers: [{{{server}}}]}}");
    let http = "port: {number: 80, name: http, protocol: HTTP}";
    let cases: Vec<(String, Vec<&str>)> = vec![
        (server(&format!("{http}, hosts: ['*', './a.b', 'ns/*.c']")), vec![]),
        (server(&format!("{http}, hosts: ['a/b/c']")), vec!["error spec.servers[0].hosts[0]"]),
        (server(http), vec!["error spec.servers[0].hosts: a server needs a host"]),
        (
            server("port: {number: 80, protocol: HTTP}, hosts: ['*']"),
            vec!["warning spec.servers[0].port.name: port.name is missing"],
        ),
        (
            server("port: {number: 80, name: http, protocol: HTPP}, hosts: ['*']"),
            vec!["error spec.servers[0].port.protocol"],
        ),
        (server(&format!("{http}, hosts: ['*'], tls: {{httpsRedirect: true}}")), vec![]),
        (
            server(&format!("{http}, hosts: ['*'], tls: {{mode: SIMPLE}}")),
            vec!["error spec.servers[0].tls.mode"],
        ),
        (
            server("port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*']"),
            vec!["error spec.servers[0].tls"],
        ),
        ("{servers: []}".into(), vec!["error spec.servers", "warning spec.selector"]),
        (
            server(&format!("{http}, hosts: ['*'], bnid: 1")),
            vec!["error spec.servers[0].bnid: unknown field bnid, did you mean bind?"],
        ),
    ];
    let cases: Vec<(&str, &[&str])> = cases.iter().map(|(s, e)| (s.as_str(), e.as_slice())).collect();
    check("Gateway", &cases);
}

#[test]
fn tls_of_gateways() {
    let server = |tls: &str| {
        format!(
            "{{selector: {{a: b}}, servers: [{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ['*'], tls: {{{tls}}}}}]}}"
        )
    };
    let cases: Vec<(String, Vec<&str>)> = vec![
        (server("mode: SIMPLE, credentialName: c"), vec![]),
        (server("mode: SIMPLE, serverCertificate: c, privateKey: k"), vec![]),
        (server("mode: MUTUAL, serverCertificate: c, privateKey: k, caCertificates: a"), vec![]),
        (server("mode: MUTUAL, credentialName: c, minProtocolVersion: TLSV1_3"), vec![]),
        (server("mode: ISTIO_MUTUAL"), vec![]),
        (server("mode: PASSTHROUGH"), vec![]),
        (server("mode: SIMPLE"), vec!["error spec.servers[0].tls: no certificate is named"]),
        (server("mode: SIMPLE, serverCertificate: c"), vec!["error spec.servers[0].tls"]),
        (
            server("mode: SIMPLE, serverCertificate: c, privateKey: k, credentialName: c"),
            vec!["error spec.servers[0].tls: certificates are named in several ways"],
        ),
        (
            server("mode: MUTUAL, serverCertificate: c, privateKey: k"),
            vec!["error spec.servers[0].tls: caCertificates is missing"],
        ),
        (server("mode: ISTIO_MUTUAL, credentialName: c"), vec!["error spec.servers[0].tls: ISTIO_MUTUAL"]),
        (server("mode: SIMPLE, credentialName: other/c"), vec!["error spec.servers[0].tls"]),
        (
            server("mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_0"),
            vec!["warning spec.servers[0].tls.minProtocolVersion: TLS 1.2 is the lowest"],
        ),
        (
            server("mode: SIMPLE, credentialName: c, maxProtocolVersion: TLSV1_1"),
            vec!["error spec.servers[0].tls: no version of TLS is left"],
        ),
        (
            server("mode: SIMPLE, credentialName: c, cipherSuites: [AES128-SHA]"),
            vec!["warning spec.servers[0].tls.cipherSuites[0]: there is no cipher suite"],
        ),
        (server("mode: MUTUAL, credentialName: c, subjectAltNames: [a], caCrl: /c"), vec![]),
        (
            server("mode: SIMPLE, credentialName: c, subjectAltNames: [a]"),
            vec![
                "warning spec.servers[0]: the server is left unserved: tls.subjectAltNames is about clients'",
            ],
        ),
        (
            server("mode: ISTIO_MUTUAL, caCrl: /c"),
            vec!["warning spec.servers[0]: the server is left unserved: tls.caCrl"],
        ),
        (
            server("mode: MUTUAL, credentialName: c, insecureSkipVerify: true"),
            vec!["warning spec.servers[0]: the server is left unserved: tls.insecureSkipVerify"],
        ),
        (
            server(&format!("mode: MUTUAL, credentialName: c, verifyCertificateHash: [{}]", "0g".repeat(32))),
            vec!["error spec.servers[0].tls.verifyCertificateHash[0]"],
        ),
        (
            server("mode: MUTUAL, credentialName: c, verifyCertificateHash: [é, 'ab:cd', a]"),
            vec![
                "error spec.servers[0].tls.verifyCertificateHash[0]",
                "error spec.servers[0].tls.verifyCertificateHash[1]",
                "error spec.servers[0].tls.verifyCertificateHash[2]",
            ],
        ),
        (
            server("mode: MUTUAL, credentialName: c, verifyCertificateSpki: ['YWJj', '?']"),
            vec![
                "error spec.servers[0].tls.verifyCertificateSpki[0]",
                "error spec.servers[0].tls.verifyCertificateSpki[1]",
            ],
        ),
        (server("mode: AUTO_PASSTHROUGH"), vec![]),
        (server("httpsRedirect: true, mode: PASSTHROUGH"), vec!["error spec.servers[0].tls.httpsRedirect"]),
    ];
    let cases: Vec<(&str, &[&str])> = cases.iter().map(|(s, e)| (s.as_str(), e.as_slice())).collect();
    check("Gateway", &cases);
}

#[test]
fn tls_routes() {
    let route = "route: [{destination: {host: b}}]";
    let rules = |gateways: &str, one: &str| {
        format!("{{hosts: ['*.x.com'], gateways: [{gateways}], tls: [{{match: [{{{one}}}], {route}}}]}}")
    };
    let cases: Vec<(String, Vec<&str>)> = vec![
        (rules("g", "sniHosts: [a.x.com, '*.x.com']"), vec![]),
        (rules("g, mesh", "gateways: [g], sniHosts: [a.x.com]"), vec![]),
        (rules("g", "port: 443"), vec!["error spec.tls[0].match[0].sniHosts"]),
        (
            rules("g", "sniHosts: [a.y.com]"),
            vec!["error spec.tls[0].match[0].sniHosts[0]: a.y.com is not within"],
        ),
        (rules("g, mesh", "sniHosts: [a.x.com]"), vec![]),
    ];
    let cases: Vec<(&str, &[&str])> = cases.iter().map(|(s, e)| (s.as_str(), e.as_slice())).collect();
    check("VirtualService", &cases);
}

#[test]
fn peer_authentications() {
    check(
        "PeerAuthentication",
        &[
            ("{mtls: {mode: STRICT}}", &[]),
            ("{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: DISABLE}}}", &[]),
            (
                "{portLevelMtls: {80: {mode: DISABLE}}}",
                &["error spec.portLevelMtls: portLevelMtls needs a selector"],
            ),
            ("{selector: {matchLabels: {}}}", &["warning spec.selector"]),
            ("{selector: {matchLabels: {a: 'p*'}}}", &["error spec.selector.matchLabels: a: \"p*\" is not"]),
            (
                "{selector: {matchLabels: {'': b}}}",
                &["error spec.selector.matchLabels: \"\" is not the name"],
            ),
        ],
    );
}

/// The files that the user of this project wrote: they must work as written, and the standard form is named.
#[test]
fn the_users_own_forms() {
    let rule = "apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: my-service
spec:
  host: my-service
  trafficPolicy:
    loadBalancer:
      consistentHash:
        rings: 1
        ringSize: 4
";
    let documents = parse("destinationrule.yaml", rule);
    assert!(matches!(documents[0], Document::Accepted(_)));
    let line = documents[0].problems()[0].to_string();
    assert!(
        line.starts_with("destinationrule.yaml:10:9: warning: DestinationRule default/my-service"),
        "{line}"
    );
    assert!(line.contains("consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 4}}"), "{line}");

    let gateway = "apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata:
  name: my-gateway
spec:
  selector:
    istio: ingressgateway
  servers:
  - port:
      number: 80
      name: http
      protocol: HTTP
    hosts:
    - \"*\"
  tls:
  - hosts:
    - \"*\"
    serverCertificate: /etc/istio/ingressgateway-certs/tls.crt
    privateKey: /etc/istio/ingressgateway-certs/tls.key
  auth:
    policy:
      rules:
      - hosts:
        - \"*\"
        tls:
        - mode: STRICT
          verify:
            caCertificates: /etc/istio/ingressgateway-certs/ca-cert.pem
";
    let documents = parse("gateway.yaml", gateway);
    assert!(matches!(documents[0], Document::Accepted(_)), "{documents:#?}");
    let lines: Vec<String> = documents[0].problems().iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].starts_with("gateway.yaml:16:5") && lines[0].contains("mode: SIMPLE"), "{lines:#?}");
    assert!(lines[1].starts_with("gateway.yaml:23:9") && lines[1].contains("mode: MUTUAL"), "{lines:#?}");
    // A CA without a certificate cannot be served, and must not be served in plaintext.
    let (before, after) =
        (gateway.split("  tls:\n").next().unwrap(), gateway.split("  auth:\n").nth(1).unwrap());
    let only_auth = format!("{before}  auth:\n{after}");
    let line = parse("gateway.yaml", &only_auth)[0].problems()[0].to_string();
    assert!(line.contains("left unserved: spec.auth"), "{line}");
    let plain = gateway.split("  tls:\n  - hosts").next().unwrap();
    assert!(parse("gateway.yaml", plain)[0].problems().is_empty());
}

#[test]
fn kubernetes_kinds() {
    let told = |text: &str| -> Vec<String> {
        parse("a", text).remove(0).problems().iter().map(|p| format!("{} {}", p.severity, p.text())).collect()
    };
    let service = |ports: &str| {
        told(&format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{ports: {ports}}}}}"))
    };
    assert!(service("[{port: 80, targetPort: http, nodePort: 30000}]").is_empty());
    assert!(service("[{port: 80, targetPort: 0}]")[0].starts_with("error spec.ports[0].targetPort"));
    assert!(service("[{port: 80}, {port: 81}]")[0].starts_with("error spec.ports[0].name"));
    assert!(service("[]")[0].starts_with("error spec.ports"));
    let deployment = |label: &str, container: &str| {
        told(&format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: a}}, spec: {{selector: {{matchLabels: {{app: a}}}}, template: {{metadata: {{labels: {{app: {label}}}}}, spec: {{containers: [{container}], dnsPolicy: Default}}}}}}}}"
        ))
    };
    assert!(deployment("a", "{name: a, image: b}").is_empty());
    assert!(deployment("b", "{name: a, image: b}")[0].starts_with("error spec.selector"));
    assert!(
        deployment("a", "{name: a, readinessProbe: {}}")[0]
            .starts_with("error spec.template.spec.containers[0].readinessProbe")
    );
    assert!(deployment("a", "{name: a, readinessProbe: {httpGet: {path: /, port: 80}}}").is_empty());
}

#[test]
fn authorization_policies() {
    let source = |fields: &str| format!("{{rules: [{{from: [{{source: {{{fields}}}}}]}}]}}");
    let operation = |fields: &str| format!("{{rules: [{{to: [{{operation: {{{fields}}}}}]}}]}}");
    let when = |fields: &str| format!("{{rules: [{{when: [{{{fields}}}]}}]}}");
    let cases: Vec<(String, Vec<&str>)> = vec![
        ("{}".into(), vec![]),
        ("{rules: [{}]}".into(), vec![]),
        ("{action: DENY, rules: [{}]}".into(), vec![]),
        ("{action: DENY}".into(), vec!["warning spec: DENY without rules denies nothing"]),
        ("{action: AUDIT}".into(), vec![]),
        ("{action: CUSTOM, provider: {name: a}, rules: [{}]}".into(), vec![]),
        ("{action: CUSTOM, rules: [{}]}".into(), vec!["error spec.provider.name: CUSTOM needs a provider"]),
        ("{action: CUSTOM, provider: {name: a}}".into(), vec!["error spec.rules: CUSTOM without rules asks"]),
        (
            "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}".into(),
            vec!["error spec.rules[0].from[0].source: requestPrincipals with CUSTOM"],
        ),
        (
            "{action: CUSTOM, provider: {name: a}, rules: [{when: [{key: 'request.auth.claims[a]', values: [b]}]}]}".into(),
            vec!["error spec.rules[0].when[0].key: request.auth.claims[a] with CUSTOM"],
        ),
        ("{provider: {name: a}}".into(), vec!["error spec.provider: only CUSTOM"]),
        ("{action: LOG}".into(), vec!["error spec.action: unknown variant"]),
        ("{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: a}]}".into(), vec![]),
        ("{targetRef: {kind: Service, name: a}}".into(), vec![]),
        ("{targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: a}]}".into(), vec![]),
        ("{targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: a}]}".into(), vec![]),
        (
            "{targetRefs: [{kind: Service, name: a}, {kind: Gateway, group: networking.istio.io, name: b}]}"
                .into(),
            vec![
                "error spec.targetRefs[1].kind: a policy cannot be for \"Gateway\" of the group \"networking.istio.io\"",
            ],
        ),
        (
            "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]}".into(),
            vec!["error spec.selector: there are targetRefs too"],
        ),
        (
            "{targetRef: {kind: Service, name: a}, targetRefs: [{kind: Service, name: a}]}".into(),
            vec!["error spec.targetRef: there are targetRefs too"],
        ),
        (
            "{targetRefs: [{kind: Service, name: a, namespace: other}]}".into(),
            vec!["error spec.targetRefs[0].namespace: a policy is for what is in its own namespace"],
        ),
        ("{targetRefs: [{kind: Service}]}".into(), vec!["error spec.targetRefs[0].name: name is missing"]),
        ("{selector: {}}".into(), vec!["warning spec.selector: an empty selector"]),
        ("{selector: {matchLabels: {a-b.c/d_e: '', k: A.b-9, l: '1'}}}".into(), vec![]),
        (
            "{selector: {matchLabels: {'a*': b}}}".into(),
            vec!["error spec.selector.matchLabels: \"a*\" is not the name of a label"],
        ),
        (
            "{selector: {matchLabels: {a/b/c: b}}}".into(),
            vec!["warning spec.selector.matchLabels: \"a/b/c\" is not the name of a label; no pod has such a label"],
        ),
        (
            "{selector: {matchLabels: {'': b}}}".into(),
            vec!["error spec.selector.matchLabels: \"\" is not the name of a label"],
        ),
        (
            "{selector: {matchLabels: {a: 'b*'}}}".into(),
            vec!["error spec.selector.matchLabels: a: \"b*\" is not the value of a label"],
        ),
        (
            "{selector: {matchLabels: {a: b-}}}".into(),
            vec!["warning spec.selector.matchLabels: a: \"b-\" is not the value of a label; no pod has such a label"],
        ),
        ("{rules: [{from: []}]}".into(), vec!["error spec.rules[0].from: is an empty list"]),
        ("{rules: [{to: [{}]}]}".into(), vec!["error spec.rules[0].to[0].operation: is empty"]),
        (source(""), vec!["error spec.rules[0].from[0].source: is empty"]),
        (source("principals: []"), vec!["error spec.rules[0].from[0].source.principals: is an empty list"]),
        (source("principals: ['*', 'a/ns/b/sa/c', 'a*', '*a']"), vec![]),
        (
            source("notPrincipals: ['a*b']"),
            vec!["error spec.rules[0].from[0].source.notPrincipals[0]: \"a*b\" has a '*' that is neither"],
        ),
        (
            source("principals: ['spiffe://a/ns/b/sa/c']"),
            vec!["error spec.rules[0].from[0].source.principals[0]: principals have no scheme"],
        ),
        (source("user: [a]"), vec!["error spec.rules[0].from[0].source.user: unknown field"]),
        (
            source("serviceAccounts: [a], namespaces: [b]"),
            vec!["error spec.rules[0].from[0].source: serviceAccounts with principals or namespaces"],
        ),
        (
            source("ipBlocks: ['10.0.0.0/33']"),
            vec!["error spec.rules[0].from[0].source.ipBlocks[0]: \"10.0.0.0/33\" is neither an address"],
        ),
        (operation("ports: ['80']"), vec![]),
        (
            operation("ports: [http]"),
            vec!["error spec.rules[0].to[0].operation.ports[0]: \"http\" is not a port"],
        ),
        (operation("paths: ['/a/{*}', '/b/{**}', '/foo/{**}/']"), vec![]),
        (
            operation("paths: ['/{**}/{*}']"),
            vec!["error spec.rules[0].to[0].operation.paths[0]: \"/{**}/{*}\" is no path template"],
        ),
        (when("key: 'request.headers[a]', values: [b]"), vec![]),
        (when("key: 'request.headers[a]'"), vec!["error spec.rules[0].when[0]: has neither values"]),
        (
            when("key: request.path, values: [b]"),
            vec!["error spec.rules[0].when[0].key: \"request.path\" is no"],
        ),
        (
            when("key: source.user, values: [b]"),
            vec!["error spec.rules[0].when[0].key: \"source.user\" is no"],
        ),
    ];
    for (spec, expected) in &cases {
        check("AuthorizationPolicy", &[(spec, expected)]);
    }
}

#[test]
fn request_authentications() {
    let rule = |fields: &str| format!("{{jwtRules: [{{issuer: 'https://a', {fields}}}]}}");
    let keys = r#"jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","x":"a"}]}'"#;
    let with = |more: &str| rule(&format!("{keys}, {more}"));
    let cases: Vec<(String, Vec<&str>)> = vec![
        ("{}".into(), vec![]),
        (rule(keys), vec![]),
        (rule("jwksUri: 'https://a/keys'"), vec![]),
        (rule("audiences: [b]"), vec![]),
        (
            "{jwtRules: [{issuer: a}]}".into(),
            vec!["error spec.jwtRules[0].issuer: \"a\" is no http or https URI"],
        ),
        (format!("{{jwtRules: [{{{keys}}}]}}"), vec!["error spec.jwtRules[0].issuer: issuer is missing"]),
        (with("jwksUri: 'https://a'"), vec!["error spec.jwtRules[0]: both jwks and jwksUri"]),
        (rule("jwksUri: 'file:///a'"), vec!["error spec.jwtRules[0].jwksUri: \"file:///a\" is no http"]),
        (
            rule("jwksUri: 'https://ann:secret@a/keys'"),
            vec!["error spec.jwtRules[0].jwksUri: credentials in a URI are sent to nobody"],
        ),
        (rule("jwksUri: 'https://a/keys?for=ann@example.com'"), vec![]),
        (rule("jwks: '{}'"), vec!["error spec.jwtRules[0].jwks: is no JWKS: there are no keys in it"]),
        (
            rule("jwks: '{\"keys\":[{}]}'"),
            vec!["error spec.jwtRules[0].jwks: is no JWKS: there are no keys in it that"],
        ),
        (
            with("fromHeaders: [{name: 'a b'}]"),
            vec!["error spec.jwtRules[0].fromHeaders[0].name: \"a b\" is not"],
        ),
        (
            with("fromHeaders: [{name: Host}]"),
            vec!["error spec.jwtRules[0].fromHeaders[0].name: host is part"],
        ),
        (with("fromParams: ['a=b']"), vec!["error spec.jwtRules[0].fromParams[0]"]),
        (with("timeout: 0s"), vec!["error spec.jwtRules[0].timeout: nothing is fetched within no time"]),
        (with("timeout: 31s"), vec!["warning spec.jwtRules[0].timeout: a fetch takes 30s at most"]),
        (with("timeout: 200ms"), vec![]),
        (
            with("outputPayloadToHeader: X-Forwarded-Client-Cert"),
            vec![
                "error spec.jwtRules[0].outputPayloadToHeader: x-forwarded-client-cert is written by proxies",
            ],
        ),
        (
            with("outputClaimToHeaders: [{header: x}]"),
            vec!["error spec.jwtRules[0].outputClaimToHeaders[0].claim"],
        ),
        ("{targetRefs: [{kind: Service, name: a}]}".into(), vec![]),
        (
            "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]}".into(),
            vec!["error spec.selector: there are targetRefs too"],
        ),
        (
            "{targetRefs: [{kind: Gateway, name: a}]}".into(),
            vec!["error spec.targetRefs[0].kind: a policy cannot be for \"Gateway\" of the group \"\""],
        ),
    ];
    for (spec, expected) in &cases {
        check("RequestAuthentication", &[(spec, expected)]);
    }
}

/// Each of these takes hundreds of times as long to compile as to send. However many there are, only so many are compiled,
/// and what is said of them stays short.
#[test]
fn c9_all_regexes_of_a_resource_have_one_bound() {
    let told = |count: usize, pattern: fn(usize) -> String| {
        let one = |index| serde_json::json!({"uri": {"regex": pattern(index)}});
        let route =
            |index| serde_json::json!({"match": [one(index)], "route": [{"destination": {"host": "a"}}]});
        let object = serde_json::json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "a", "namespace": "b"},
            "spec": {"hosts": ["a"], "http": (0..count).map(route).collect::<Vec<_>>()},
        });
        let document = from_value(object, Origin::default());
        document.problems().iter().map(Problem::text).collect::<Vec<_>>()
    };
    assert_eq!(told(500, |index| format!("/api/v{index}/[0-9]+/.*")), [""; 0], "plain ones are cheap");
    let large = |index| format!("/[a-z0-9_-]{{1,200}}/{index}");
    assert_eq!(told(100, large), [""; 0]);
    let refused = told(20_000, large);
    assert_eq!(refused.len(), 1, "{refused:?}");
    let (path, why) = refused[0].split_once(".match").unwrap();
    assert!(why.contains("too large together") && why.contains("at most 16 MiB"), "{why}");
    let first: usize = path.trim_start_matches("spec.http[").trim_end_matches(']').parse().unwrap();
    assert!((100..300).contains(&first), "{path}");
    assert_eq!(told(500, |index| format!("/shop/item{index}/([a-zA-Z0-9_-]{{8,36}})/.*")), [""; 0]);
    // Small programs of what takes long to put together: classes of Unicode, one hundreds of times.
    assert_eq!(told(100, |index| format!("/[\\p{{L}}\\p{{N}}]+/{index}")), [""; 0]);
    let classes: [fn(usize) -> String; 3] = [
        |index| format!("(?i)[{}]{index}", "\\pL".repeat(330)),
        |index| format!("(?i)\\pL[{}]{index}", "[^a]".repeat(200)),
        |index| format!("(?iu)[{}]{index}", "[^a]".repeat(200)),
    ];
    for pattern in classes {
        let refused = told(200, pattern);
        assert_eq!(refused.len(), 1, "{refused:?}");
        let (path, _) = refused[0].split_once(".match").unwrap();
        assert!(["spec.http[3]", "spec.http[4]", "spec.http[5]"].contains(&path), "{path}");
    }
}

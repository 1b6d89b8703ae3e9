//! What went wrong in other meshes and proxies, a row each, and the tests that show that it does not here. A row that
//! is not in the table, and a test that is not where the table says, fails.

use std::collections::BTreeMap;
use std::path::Path;

/// The rows: by letter, how many.
const ROWS: [(char, u32); 6] = [('P', 12), ('F', 18), ('H', 13), ('T', 13), ('J', 17), ('C', 16)];

/// A file and a function in it.
type Test = (&'static str, &'static str);

/// A row, what went wrong elsewhere, and the tests.
const TESTS: &[(&str, &str, &[Test])] = &[
    // Paths and hosts.
    (
        "P1",
        "one path written in many ways: percent codes, dots, slashes",
        &[
            (PATH, "p1_p5_each_of_the_256_percent_codes_in_four_modes"),
            ("mesh-proxy/tests/authorization.rs", "p1_p2_one_reading_of_a_path"),
        ],
    ),
    (
        "P2",
        "parameters in a path (`;`)",
        &[(PATH, "p2_dot_segments_with_parameters_are_refused"), (DECISIONS, "p2_paths_with_parameters")],
    ),
    (
        "P3",
        "a query or fragment behind a path",
        &[
            (DECISION_ROWS, "p3_a_query_or_a_fragment_makes_no_other_path"),
            (REFUSED, "ambiguous_requests_are_refused"),
        ],
    ),
    ("P4", "a path that begins with two slashes", &[(PATHS, "p4_two_slashes_hide_no_segment")]),
    (
        "P5",
        "what is decoded twice, or not at all",
        &[(PATHS, "p5_nothing_is_decoded_twice"), (PATH, "p5_a_code_within_a_code_is_refused")],
    ),
    (
        "P6",
        "fields that only a proxy may set",
        &[("mesh-proxy/tests/http.rs", "p6_only_proxies_say_what_proxies_say")],
    ),
    ("P7", "a host in another case", &[(PATHS, "p7_p8_p9_spellings_of_a_host"), (DECISIONS, "p7_p8_hosts")]),
    (
        "P8",
        "a host with a port, a dot, brackets",
        &[(PATHS, "p7_p8_p9_spellings_of_a_host"), (DECISION_ROWS, "p8_addresses_in_brackets")],
    ),
    (
        "P9",
        "a host that two readers take for two",
        &[(REFUSED, "ambiguous_requests_are_refused"), (PATHS, "p7_p8_p9_spellings_of_a_host")],
    ),
    ("P10", "schemes in other cases, or unknown ones", &[(RAW_HTTP2, "p10_a_scheme_is_one_of_two")]),
    (
        "P11",
        "a host or path that is not there",
        &[
            (RAW_HTTP2, "p11_nothing_is_missing_that_others_rely_on"),
            (ADVISORIES, "p11_odd_targets_are_answered"),
        ],
    ),
    (
        "P12",
        "a control plane that is newer than its proxies",
        &[(DECISION_ROWS, "p12_what_only_a_newer_pilot_says_is_refused_whole")],
    ),
    // HTTP/1 framing.
    (
        "F1",
        "two lengths of one body",
        &[(REFUSED, "ambiguous_requests_are_refused"), (PROTOCOLS, "all_protocols_and_strictness")],
    ),
    (
        "F2",
        "transfer codings in disguise",
        &[(REFUSED, "ambiguous_requests_are_refused"), (PROTOCOLS, "all_protocols_and_strictness")],
    ),
    (
        "F3",
        "chunks in HTTP/1.0",
        &[(REFUSED, "ambiguous_requests_are_refused"), (EXCHANGE, "http_1_0_has_no_chunks")],
    ),
    (
        "F4",
        "sizes of chunks that are no numbers",
        &[(REFUSED, "malformed_chunks_fail_the_body_and_close"), (FUZZ, "f4_chunks_of_any_bytes")],
    ),
    ("F5", "a body where none is expected", &[(EXCHANGE, "a_body_that_nobody_reads_is_drained")]),
    ("F6", "an answer before the body was read", &[(EXCHANGE, "an_early_answer_to_a_long_body_closes")]),
    (
        "F7",
        "bytes behind an upgrade that is not granted",
        &[(UPSTREAM, "upgrades_become_tunnels_only_after_101")],
    ),
    ("F8", "an upgrade to h2c", &[(EXCHANGE, "hop_by_hop_fields_go_and_trusted_ones_stay")]),
    (
        "F9",
        "HTTP/2 that would be framing in HTTP/1",
        &[(RAW_HTTP2, "f9_what_http_1_would_read_as_framing_goes_no_further")],
    ),
    (
        "F10",
        "names of certificates in fields and logs",
        &[("mesh-proxy/src/inbound/client_cert.rs", "f10_j14_names_stay_in_their_place")],
    ),
    (
        "F11",
        "100 Continue, too often or never",
        &[(UPSTREAM, "interim_answers_are_forwarded"), (EXCHANGE, "expect_without_continue_closes")],
    ),
    (
        "F12",
        "bare line ends, folded lines, odd spaces",
        &[(REFUSED, "ambiguous_requests_are_refused"), (PROTOCOLS, "all_protocols_and_strictness")],
    ),
    (
        "F13",
        "control bytes",
        &[(REFUSED, "control_bytes_are_refused"), (EXCHANGE, "bytes_above_ascii_pass_in_values")],
    ),
    ("F14", "underscores for dashes", &[(EXCHANGE, "hop_by_hop_fields_go_and_trusted_ones_stay")]),
    (
        "F15",
        "`Connection` that names fields of others",
        &[(EXCHANGE, "hop_by_hop_fields_go_and_trusted_ones_stay")],
    ),
    (
        "F16",
        "trailers that name what heads name",
        &[(RAW_HTTP2, "f16_trailers_end_their_stream_and_name_no_request")],
    ),
    ("F17", "bad requests in a row, answers unread", &[(REFUSED, "the_first_bad_request_is_the_last")]),
    // HTTP/2 and resources.
    ("H1", "streams that are reset at once", &[(RAW_HTTP2, "h1_streams_that_are_reset_at_once_are_counted")]),
    ("H2", "streams that we are made to reset", &[(RAW_HTTP2, "h2_a_client_that_makes_us_reset_is_stopped")]),
    ("H3", "a head that never ends", &[(RAW_HTTP2, "h3_a_head_that_never_ends_is_stopped")]),
    ("H4", "frames of nothing", &[(RAW_HTTP2, "h4_pieces_of_nothing_are_counted")]),
    (
        "H5",
        "small fields that decode to large ones",
        &[(RAW_HTTP2, "h5_the_decoded_size_of_a_head_is_bounded")],
    ),
    (
        "H6",
        "questions whose answers nobody reads",
        &[(RAW_HTTP2, "h6_questions_without_a_reader_are_bounded")],
    ),
    (
        "H7",
        "upstreams that go away in the middle",
        &[(HOSTILE, "h7_upstreams_that_go_away"), (HOSTILE, "h7_an_upstream_that_takes_no_more_streams")],
    ),
    ("H8", "clients that leave in the middle", &[(HOSTILE, "h8_a_client_leaves_what_is_still_being_sent")]),
    (
        "H9",
        "many small fields",
        &[(REFUSED, "limits_of_a_head"), (HTTP2, "streams_are_served_side_by_side_and_limited")],
    ),
    ("H10", "content in single bytes", &[(HOSTILE, "h10_single_bytes_for_a_peer_that_does_not_read")]),
    (
        "H11",
        "a reader that does not read",
        &[(HTTP2, "back_pressure_and_large_bodies"), (EXCHANGE, "a_slow_reader_holds_the_upstream_back")],
    ),
    (
        "H12",
        "no file descriptor left",
        &[("mesh-proxy/src/capture/listener.rs", "h12_running_out_of_files_is_waited_out")],
    ),
    (
        "H13",
        "slowness without end",
        &[(EXCHANGE, "silence_is_bounded"), ("mesh-proxy/tests/permissive.rs", "a_hello_that_never_ends")],
    ),
    // TLS and identities.
    (
        "T1",
        "hellos cut, greased, long",
        &[(HELLO, "t1_a_hello_cut_anywhere_is_the_same_hello"), (HELLO, "t1_what_is_no_hello_is_none")],
    ),
    (
        "T2",
        "ALPN or SNI in the place of a certificate",
        &[(ADVISORIES, "t2_no_alpn_takes_the_place_of_a_certificate")],
    ),
    (
        "T3",
        "a session that outlives the trust it began with",
        &[("mesh-proto/src/runtime/tests/spoken.rs", "no_tickets_no_sessions_no_early_data")],
    ),
    (
        "T4",
        "early data, played again",
        &[("mesh-proto/src/runtime/tests/handshake.rs", "t4_there_is_no_early_data")],
    ),
    (
        "T5",
        "NUL in a name",
        &[
            (GO_SPIFFE, "t5_t6_t7_t8_go_spiffe_has_no_other_verdict"),
            (CORPUS, "refuses_uris_that_two_readers_could_take_differently"),
        ],
    ),
    (
        "T6",
        "a name in the wrong place, a key for the wrong use",
        &[(CORPUS, "takes_no_identity_from_other_places"), (CORPUS, "refuses_the_wrong_use")],
    ),
    (
        "T7",
        "what is no X.509-SVID",
        &[
            (CORPUS, "refuses_other_than_one_uri_name"),
            ("mesh-proto/src/model/identity.rs", "refuses_odd_ones"),
        ],
    ),
    (
        "T8",
        "a bundle of one trust domain, a name of another",
        &[(CORPUS, "chooses_the_roots_by_the_presented_trust_domain")],
    ),
    (
        "T9",
        "constraints and chains that a verifier gets wrong",
        &[
            (CORPUS, "an_intermediate_signs_only_for_the_domains_of_its_constraints"),
            (CORPUS, "refuses_an_endless_chain_and_garbage"),
        ],
    ),
    (
        "T10",
        "trust that has not come yet",
        &[("mesh-proxy/tests/gateway.rs", "t10_clients_show_certificates_and_files_come_late")],
    ),
    (
        "T11",
        "connections that outlive a revocation",
        &[("mesh-proxy/tests/mtls.rs", "a_tainted_client_loses_every_connection_and_gets_no_other")],
    ),
    ("T12", "unknown alerts", &[(ADVISORIES, "t12_an_unknown_alert_harms_nobody")]),
    (
        "T13",
        "outsiders that name internal services",
        &[(ADVISORIES, "t13_outsiders_name_no_internal_service")],
    ),
    // Tokens and policy.
    (
        "J1",
        "a token that chooses its algorithm",
        &[(SIGNATURES, "j1_the_key_fixes_the_algorithm"), (WYCHEPROOF, "j1_wycheproof_has_no_other_verdict")],
    ),
    (
        "J2",
        "a token that says where its key is",
        &[
            (SIGNATURES, "j2_keys_named_by_the_token_are_ignored"),
            (SIGNATURES, "j2_critical_headers_are_refused"),
        ],
    ),
    (
        "J3",
        "keys that cannot be fetched",
        &[
            (KEYS, "what_is_no_key_set_is_none"),
            (KEYS, "a_source_that_fails_keeps_its_keys_and_holds_up_nobody"),
        ],
    ),
    (
        "J4",
        "claims of the wrong type",
        &[(CLAIMS, "j4_times_are_integers_in_range"), (CLAIMS, "j4_a_name_twice_is_refused")],
    ),
    ("J5", "a bad token where none is needed", &[(CLAIMS, "j5_a_bad_token_is_no_missing_token")]),
    (
        "J6",
        "keys that change while tokens fly",
        &[(AUTHENTICATION, "j6_a_storm_of_keys_forgets_and_remembers_nothing")],
    ),
    (
        "J7",
        "fetches of keys, too many or to the wrong place",
        &[
            (KEYS, "addresses_that_are_nobodys_business"),
            (KEYS, "a_fetch_takes_no_longer_than_it_may"),
            (KEYS, "j7_a_source_is_asked_seldom_whatever_happens"),
            (KEYS, "j7_bounds_hold_for_every_step"),
            (KEYS, "j7_a_fetch_shows_nobodys_credentials"),
            ("mesh-proxy/tests/claims.rs", "j7_unknown_keys_ask_nobody"),
        ],
    ),
    ("J8", "two tokens in one request", &[(AUTHENTICATION, "j8_more_than_one_credential_is_none")]),
    (
        "J9",
        "a field that comes several times",
        &[(DECISIONS, "j9_j12_a_field_that_comes_several_times"), (DECISIONS, "the_slow_evaluator_agrees")],
    ),
    ("J10", "names that are patterns elsewhere", &[(DECISION_ROWS, "j10_names_are_literal")]),
    ("J11", "policies about requests, and bytes", &[(DECISIONS, "j11_bytes")]),
    ("J12", "values that are no text", &[(DECISIONS, "j9_j12_a_field_that_comes_several_times")]),
    (
        "J13",
        "patterns that take for ever",
        &[
            ("mesh-proxy/src/route/tests.rs", "j13_patterns_take_linear_time"),
            (CHECK, "c9_all_regexes_of_a_resource_have_one_bound"),
        ],
    ),
    ("J14", "made-up client certificates", &[(ADVISORIES, "j14_who_is_asking_is_not_what_the_client_says")]),
    (
        "J15",
        "a request that changes after it was judged",
        &[
            ("mesh-proxy/tests/external.rs", "policies_see_what_the_provider_made_of_it"),
            (EXTERNAL, "changes_and_what_they_must_not_touch"),
            (REROUTED, "j15_every_writing_of_a_path_is_judged_where_it_leads"),
            (REROUTED, "j15_another_route_is_another_decision"),
            (REROUTED, "j15_nothing_is_followed_for_the_client"),
        ],
    ),
    (
        "J16",
        "an authorizer that does not answer properly",
        &[(EXTERNAL, "of_grpc_only_a_whole_answer_counts"), (EXTERNAL, "noise_allows_nothing")],
    ),
    (
        "J17",
        "text of clients in what we write",
        &[
            (WRITTEN, "j17_what_a_client_writes_stays_in_its_place"),
            (AUTHENTICATION, "j17_claims_make_no_other_field"),
            (REROUTED, "j17_a_path_stays_behind_its_prefix"),
        ],
    ),
    // Control plane, CA, operations.
    ("C1", "secrets of others", &[(PUSH, "c1_a_secret_that_is_known_already_is_still_not_everybodys")]),
    (
        "C2",
        "node metadata that lies",
        &[
            (PUSH, "only_the_certificate_of_the_pod_opens_its_stream"),
            (PUSH, "only_the_pod_of_a_gateway_is_served_as_one"),
        ],
    ),
    (
        "C3",
        "whoever is near may sign",
        &[("mesh-ca/src/tests/follow.rs", "the_operators_door"), (CALLS, "without_proof_there_is_nothing")],
    ),
    (
        "C4",
        "names that a CSR asks for",
        &[
            (CALLS, "the_account_is_the_tokens_whatever_the_request_says"),
            (CALLS, "without_proof_there_is_nothing"),
        ],
    ),
    ("C5", "what is verified is not what is read", &[(CALLS, "a_certificate_renews_itself_and_nobody_else")]),
    (
        "C6",
        "debug and admin doors",
        &[("mesh-proxy/src/admin/tests.rs", "c6_web_pages_and_made_requests_change_nothing")],
    ),
    (
        "C7",
        "messages of any bytes",
        &[
            ("mesh-ca/src/fuzz.rs", "c7_requests_of_any_bytes"),
            ("mesh-pilot/src/fuzz.rs", "c7_nodes_of_any_bytes"),
        ],
    ),
    (
        "C8",
        "routes for the hosts of other namespaces",
        &[("mesh-pilot/src/compile/tests/exports.rs", "c8_a_route_of_another_namespace_is_its_own_matter")],
    ),
    (
        "C9",
        "one tenant's objects that hold up all",
        &[
            ("mesh-pilot/src/webhook/validate.rs", "c9_reasons_are_few_and_short"),
            (CHECK, "c9_all_regexes_of_a_resource_have_one_bound"),
        ],
    ),
    ("C10", "metrics named by clients", &[(ADVISORIES, "c10_what_clients_say_makes_no_series")]),
    ("C12", "hostile DNS answers", &[("mesh-proxy/src/dns/system/tests.rs", "c12_hostile_answers_are_none")]),
    (
        "C13",
        "the PROXY protocol from anybody",
        &[(ADVISORIES, "c13_a_proxy_line_is_not_believed"), (FUZZ, "c13_first_bytes_are_any_bytes")],
    ),
    (
        "C14",
        "addresses that only the control plane reaches",
        &[(KEYS, "addresses_that_are_nobodys_business"), (KEYS, "what_is_no_key_set_is_none")],
    ),
    ("C15", "times and sizes that overflow", &[(WRITTEN, "c15_times_that_clients_write_are_theirs_alone")]),
    ("C16", "crates with known bugs", &[("mesh-proxy/tests/rows.rs", "c16_no_older_crates")]),
];

/// Rows without a test, what went wrong elsewhere, and why it cannot here.
const WITHOUT: &[(&str, &str, &str)] = &[
    (
        "F18",
        "an answer shared by requests that differ",
        "no answer is shared: nothing is cached, and no request waits for the answer to another one",
    ),
    (
        "C11",
        "content that unpacks to more",
        "nothing is decompressed: content codings pass through as they are",
    ),
];

const PATH: &str = "mesh-proxy/src/http/path.rs";
const PATHS: &str = "mesh-proxy/tests/paths.rs";
const DECISIONS: &str = "mesh-proxy/src/authorization/tests.rs";
const DECISION_ROWS: &str = "mesh-proxy/src/authorization/tests/rows.rs";
const EXTERNAL: &str = "mesh-proxy/src/authorization/external/tests.rs";
const AUTHENTICATION: &str = "mesh-proxy/src/authentication/tests.rs";
const ADVISORIES: &str = "mesh-proxy/tests/advisories.rs";
const WRITTEN: &str = "mesh-proxy/tests/written.rs";
const REFUSED: &str = "mesh-proxy/src/http/tests/refused.rs";
const EXCHANGE: &str = "mesh-proxy/src/http/tests/exchange.rs";
const UPSTREAM: &str = "mesh-proxy/src/http/tests/upstream.rs";
const RAW_HTTP2: &str = "mesh-proxy/src/http/tests/raw_http2.rs";
const HTTP2: &str = "mesh-proxy/src/http/tests/http2.rs";
const HOSTILE: &str = "mesh-proxy/src/http/tests/hostile.rs";
const HELLO: &str = "mesh-proxy/src/tls/client_hello.rs";
const FUZZ: &str = "mesh-proxy/src/fuzz/tests.rs";
const SIGNATURES: &str = "mesh-proxy/src/jwt/tests/signatures.rs";
const CLAIMS: &str = "mesh-proxy/src/jwt/tests/claims.rs";
const WYCHEPROOF: &str = "mesh-proxy/src/jwt/tests/wycheproof.rs";
const PROTOCOLS: &str = "mesh-cli/tests/protocols.rs";
const CORPUS: &str = "mesh-proto/src/runtime/tests/corpus.rs";
const GO_SPIFFE: &str = "mesh-proto/src/runtime/tests/go_spiffe.rs";
const CHECK: &str = "mesh-proto/src/crd/check/tests.rs";
const KEYS: &str = "mesh-pilot/src/keys/tests.rs";
const PUSH: &str = "mesh-pilot/src/push/tests.rs";
const REROUTED: &str = "mesh-proxy/tests/rerouted.rs";
const CALLS: &str = "mesh-ca/src/tests/calls.rs";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn each_row_has_its_tests() {
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    for (row, what, tests) in TESTS {
        *known.entry(row).or_default() += 1;
        assert!(!what.is_empty() && !tests.is_empty(), "{row}");
        for (file, test) in *tests {
            let source = sources.entry(file).or_insert_with(|| read(file));
            let function = format!("fn {test}() ");
            let at = source.find(&function).unwrap_or_else(|| panic!("{row}: no {test} in {file}"));
            let before: String = source[..at].lines().rev().take(4).collect();
            assert!(before.contains("test"), "{row}: {test} of {file} is no test");
        }
    }
    for (row, what, why) in WITHOUT {
        *known.entry(row).or_default() += 1;
        assert!(!what.is_empty() && !why.is_empty(), "{row}");
    }
    for (letter, count) in ROWS {
        for row in (1..=count).map(|number| format!("{letter}{number}")) {
            assert_eq!(known.remove(row.as_str()), Some(1), "{row}");
        }
    }
    assert!(known.is_empty(), "no such rows: {known:?}");
}

/// C16: versions before these have bugs that reach us.
const FROM: [(&str, [u64; 3]); 9] = [
    ("bytes", [1, 11, 1]),
    ("h2", [0, 4, 16]),
    ("http", [1, 0, 0]),
    ("hyper", [1, 0, 0]),
    ("lru", [0, 16, 3]),
    ("rustls", [0, 23, 46]),
    ("rustls-webpki", [0, 103, 13]),
    ("tokio", [1, 54, 1]),
    ("tonic", [0, 12, 3]),
];

#[test]
fn c16_no_older_crates() {
    let lock = read("Cargo.lock");
    let mut seen = 0;
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
            line.and_then(|line| line.strip_suffix('"')).unwrap_or_default()
        };
        let Some((name, least)) = FROM.iter().find(|(name, _)| *name == field("name")) else { continue };
        let version: Vec<u64> = field("version").split('.').map(|part| part.parse().unwrap()).collect();
        assert!(version >= least.to_vec(), "{name} {version:?} is older than {least:?}");
        seen += 1;
    }
    assert!(seen >= FROM.len() - 1, "Cargo.lock is not read as it is written");
    // The linter refuses `unsafe` but where a line asks for it.
    assert!(read("Cargo.toml").contains("unsafe_code = \"deny\""));
}

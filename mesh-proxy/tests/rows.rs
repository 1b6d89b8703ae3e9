//! What went wrong in other meshes and proxies, a row each, and the tests that show that it does not here. A row that
//! is not in the table, and a test that is not where the table says, fails.

use std::collections::BTreeMap;
use std::path::Path;

/// The rows: by letter, how many.
const ROWS: [(char, u32); 6] = [('P', 12), ('F', 18), ('H', 13), ('T', 13), ('J', 17), ('C', 16)];

/// The tests of a row: file and function.
const TESTS: &[(&str, &[(&str, &str)])] = &[
    // Paths and hosts.
    (
        "P1",
        &[
            (PATH, "p1_p5_each_of_the_256_percent_codes_in_four_modes"),
            ("mesh-proxy/tests/authorization.rs", "p1_p2_one_reading_of_a_path"),
        ],
    ),
    ("P2", &[(PATH, "p2_dot_segments_with_parameters_are_refused"), (DECISIONS, "p2_paths_with_parameters")]),
    (
        "P3",
        &[
            (DECISION_ROWS, "p3_a_query_or_a_fragment_makes_no_other_path"),
            (REFUSED, "ambiguous_requests_are_refused"),
        ],
    ),
    ("P4", &[(PATHS, "p4_two_slashes_hide_no_segment")]),
    ("P5", &[(PATHS, "p5_nothing_is_decoded_twice"), (PATH, "p5_a_code_within_a_code_is_refused")]),
    ("P6", &[("mesh-proxy/tests/http.rs", "p6_only_proxies_say_what_proxies_say")]),
    ("P7", &[(PATHS, "p7_p8_p9_spellings_of_a_host"), (DECISIONS, "p7_p8_hosts")]),
    ("P8", &[(PATHS, "p7_p8_p9_spellings_of_a_host"), (DECISION_ROWS, "p8_addresses_in_brackets")]),
    ("P9", &[(REFUSED, "ambiguous_requests_are_refused"), (PATHS, "p7_p8_p9_spellings_of_a_host")]),
    ("P10", &[(RAW_HTTP2, "p10_a_scheme_is_one_of_two")]),
    (
        "P11",
        &[
            (RAW_HTTP2, "p11_nothing_is_missing_that_others_rely_on"),
            (ADVISORIES, "p11_odd_targets_are_answered"),
        ],
    ),
    ("P12", &[(DECISION_ROWS, "p12_what_only_a_newer_pilot_says_is_refused_whole")]),
    // HTTP/1 framing.
    ("F1", &[(REFUSED, "ambiguous_requests_are_refused"), (PROTOCOLS, "all_protocols_and_strictness")]),
    ("F2", &[(REFUSED, "ambiguous_requests_are_refused"), (PROTOCOLS, "all_protocols_and_strictness")]),
    ("F3", &[(REFUSED, "ambiguous_requests_are_refused"), (EXCHANGE, "http_1_0_has_no_chunks")]),
    ("F4", &[(REFUSED, "malformed_chunks_fail_the_body_and_close"), (FUZZ, "f4_chunks_of_any_bytes")]),
    ("F5", &[(EXCHANGE, "a_body_that_nobody_reads_is_drained")]),
    ("F6", &[(EXCHANGE, "an_early_answer_to_a_long_body_closes")]),
    ("F7", &[(UPSTREAM, "upgrades_become_tunnels_only_after_101")]),
    ("F8", &[(EXCHANGE, "hop_by_hop_fields_go_and_trusted_ones_stay")]),
    ("F9", &[(RAW_HTTP2, "f9_what_http_1_would_read_as_framing_goes_no_further")]),
    ("F10", &[("mesh-proxy/src/inbound/client_cert.rs", "f10_j14_names_stay_in_their_place")]),
    ("F11", &[(UPSTREAM, "interim_answers_are_forwarded"), (EXCHANGE, "expect_without_continue_closes")]),
    ("F12", &[(REFUSED, "ambiguous_requests_are_refused"), (PROTOCOLS, "all_protocols_and_strictness")]),
    ("F13", &[(REFUSED, "control_bytes_are_refused"), (EXCHANGE, "bytes_above_ascii_pass_in_values")]),
    ("F14", &[(EXCHANGE, "hop_by_hop_fields_go_and_trusted_ones_stay")]),
    ("F15", &[(EXCHANGE, "hop_by_hop_fields_go_and_trusted_ones_stay")]),
    ("F16", &[(RAW_HTTP2, "f16_trailers_end_their_stream_and_name_no_request")]),
    ("F17", &[(REFUSED, "the_first_bad_request_is_the_last")]),
    // HTTP/2 and resources.
    ("H1", &[(RAW_HTTP2, "h1_streams_that_are_reset_at_once_are_counted")]),
    ("H2", &[(RAW_HTTP2, "h2_a_client_that_makes_us_reset_is_stopped")]),
    ("H3", &[(RAW_HTTP2, "h3_a_head_that_never_ends_is_stopped")]),
    ("H4", &[(RAW_HTTP2, "h4_pieces_of_nothing_are_counted")]),
    ("H5", &[(RAW_HTTP2, "h5_the_decoded_size_of_a_head_is_bounded")]),
    ("H6", &[(RAW_HTTP2, "h6_questions_without_a_reader_are_bounded")]),
    ("H7", &[(HOSTILE, "h7_upstreams_that_go_away"), (HOSTILE, "h7_an_upstream_that_takes_no_more_streams")]),
    ("H8", &[(HOSTILE, "h8_a_client_leaves_what_is_still_being_sent")]),
    ("H9", &[(REFUSED, "limits_of_a_head"), (HTTP2, "streams_are_served_side_by_side_and_limited")]),
    ("H10", &[(HOSTILE, "h10_single_bytes_for_a_peer_that_does_not_read")]),
    (
        "H11",
        &[(HTTP2, "back_pressure_and_large_bodies"), (EXCHANGE, "a_slow_reader_holds_the_upstream_back")],
    ),
    ("H12", &[("mesh-proxy/src/capture/listener.rs", "h12_running_out_of_files_is_waited_out")]),
    (
        "H13",
        &[(EXCHANGE, "silence_is_bounded"), ("mesh-proxy/tests/permissive.rs", "a_hello_that_never_ends")],
    ),
    // TLS and identities.
    ("T1", &[(HELLO, "t1_a_hello_cut_anywhere_is_the_same_hello"), (HELLO, "t1_what_is_no_hello_is_none")]),
    ("T2", &[(ADVISORIES, "t2_no_alpn_takes_the_place_of_a_certificate")]),
    ("T3", &[("mesh-proto/src/runtime/tests/spoken.rs", "no_tickets_no_sessions_no_early_data")]),
    ("T4", &[("mesh-proto/src/runtime/tests/handshake.rs", "t4_there_is_no_early_data")]),
    (
        "T5",
        &[
            (GO_SPIFFE, "t5_t6_t7_t8_go_spiffe_has_no_other_verdict"),
            (CORPUS, "refuses_uris_that_two_readers_could_take_differently"),
        ],
    ),
    ("T6", &[(CORPUS, "takes_no_identity_from_other_places"), (CORPUS, "refuses_the_wrong_use")]),
    (
        "T7",
        &[
            (CORPUS, "refuses_other_than_one_uri_name"),
            ("mesh-proto/src/model/identity.rs", "refuses_odd_ones"),
        ],
    ),
    ("T8", &[(CORPUS, "chooses_the_roots_by_the_presented_trust_domain")]),
    (
        "T9",
        &[
            (CORPUS, "an_intermediate_signs_only_for_the_domains_of_its_constraints"),
            (CORPUS, "refuses_an_endless_chain_and_garbage"),
        ],
    ),
    ("T10", &[("mesh-proxy/tests/gateway.rs", "t10_clients_show_certificates_and_files_come_late")]),
    ("T11", &[("mesh-proxy/tests/mtls.rs", "a_tainted_client_loses_every_connection_and_gets_no_other")]),
    ("T12", &[(ADVISORIES, "t12_an_unknown_alert_harms_nobody")]),
    ("T13", &[(ADVISORIES, "t13_outsiders_name_no_internal_service")]),
    // Tokens and policy.
    (
        "J1",
        &[(SIGNATURES, "j1_the_key_fixes_the_algorithm"), (WYCHEPROOF, "j1_wycheproof_has_no_other_verdict")],
    ),
    (
        "J2",
        &[
            (SIGNATURES, "j2_keys_named_by_the_token_are_ignored"),
            (SIGNATURES, "j2_critical_headers_are_refused"),
        ],
    ),
    (
        "J3",
        &[
            (KEYS, "what_is_no_key_set_is_none"),
            (KEYS, "a_source_that_fails_keeps_its_keys_and_holds_up_nobody"),
        ],
    ),
    ("J4", &[(CLAIMS, "j4_times_are_integers_in_range"), (CLAIMS, "j4_a_name_twice_is_refused")]),
    ("J5", &[(CLAIMS, "j5_a_bad_token_is_no_missing_token")]),
    ("J6", &[(AUTHENTICATION, "j6_a_storm_of_keys_forgets_and_remembers_nothing")]),
    ("J7", &[(KEYS, "addresses_that_are_nobodys_business"), (KEYS, "a_fetch_takes_no_longer_than_it_may")]),
    ("J8", &[(AUTHENTICATION, "j8_more_than_one_credential_is_none")]),
    (
        "J9",
        &[(DECISIONS, "j9_j12_a_field_that_comes_several_times"), (DECISIONS, "the_slow_evaluator_agrees")],
    ),
    ("J10", &[(DECISION_ROWS, "j10_names_are_literal")]),
    ("J11", &[(DECISIONS, "j11_bytes")]),
    ("J12", &[(DECISIONS, "j9_j12_a_field_that_comes_several_times")]),
    (
        "J13",
        &[
            ("mesh-proxy/src/route/tests.rs", "j13_patterns_take_linear_time"),
            (CHECK, "c9_all_regexes_of_a_resource_have_one_bound"),
        ],
    ),
    ("J14", &[(ADVISORIES, "j14_who_is_asking_is_not_what_the_client_says")]),
    (
        "J15",
        &[
            ("mesh-proxy/tests/external.rs", "policies_see_what_the_provider_made_of_it"),
            (EXTERNAL, "changes_and_what_they_must_not_touch"),
        ],
    ),
    ("J16", &[(EXTERNAL, "of_grpc_only_a_whole_answer_counts"), (EXTERNAL, "noise_allows_nothing")]),
    (
        "J17",
        &[
            (WRITTEN, "j17_what_a_client_writes_stays_in_its_place"),
            (AUTHENTICATION, "j17_claims_make_no_other_field"),
        ],
    ),
    // Control plane, CA, operations.
    ("C1", &[(PUSH, "c1_a_secret_that_is_known_already_is_still_not_everybodys")]),
    (
        "C2",
        &[
            (PUSH, "only_the_certificate_of_the_pod_opens_its_stream"),
            (PUSH, "only_the_pod_of_a_gateway_is_served_as_one"),
        ],
    ),
    (
        "C3",
        &[("mesh-ca/src/tests/follow.rs", "the_operators_door"), (CALLS, "without_proof_there_is_nothing")],
    ),
    (
        "C4",
        &[
            (CALLS, "the_account_is_the_tokens_whatever_the_request_says"),
            (CALLS, "without_proof_there_is_nothing"),
        ],
    ),
    ("C5", &[(CALLS, "a_certificate_renews_itself_and_nobody_else")]),
    ("C6", &[("mesh-proxy/src/admin/tests.rs", "c6_web_pages_and_made_requests_change_nothing")]),
    (
        "C7",
        &[
            ("mesh-ca/src/fuzz.rs", "c7_requests_of_any_bytes"),
            ("mesh-pilot/src/fuzz.rs", "c7_nodes_of_any_bytes"),
        ],
    ),
    (
        "C8",
        &[("mesh-pilot/src/compile/tests/exports.rs", "c8_a_route_of_another_namespace_is_its_own_matter")],
    ),
    (
        "C9",
        &[
            ("mesh-pilot/src/webhook/validate.rs", "c9_reasons_are_few_and_short"),
            (CHECK, "c9_all_regexes_of_a_resource_have_one_bound"),
        ],
    ),
    ("C10", &[(ADVISORIES, "c10_what_clients_say_makes_no_series")]),
    ("C12", &[("mesh-proxy/src/dns/system/tests.rs", "c12_hostile_answers_are_none")]),
    ("C13", &[(ADVISORIES, "c13_a_proxy_line_is_not_believed"), (FUZZ, "c13_first_bytes_are_any_bytes")]),
    ("C14", &[(KEYS, "addresses_that_are_nobodys_business"), (KEYS, "what_is_no_key_set_is_none")]),
    ("C15", &[(WRITTEN, "c15_times_that_clients_write_are_theirs_alone")]),
    ("C16", &[("mesh-proxy/tests/rows.rs", "c16_no_older_crates")]),
];

/// Rows without a test, and why.
const WITHOUT: &[(&str, &str)] = &[
    ("F18", "no answer is shared: nothing is cached, and no request waits for the answer to another one"),
    ("C11", "nothing is decompressed: content codings pass through as they are"),
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
const CALLS: &str = "mesh-ca/src/tests/calls.rs";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn each_row_has_its_tests() {
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    for (row, tests) in TESTS {
        *known.entry(row).or_default() += 1;
        assert!(!tests.is_empty(), "{row}");
        for (file, test) in *tests {
            let source = sources.entry(file).or_insert_with(|| read(file));
            let function = format!("fn {test}() ");
            let at = source.find(&function).unwrap_or_else(|| panic!("{row}: no {test} in {file}"));
            let before: String = source[..at].lines().rev().take(4).collect();
            assert!(before.contains("test"), "{row}: {test} of {file} is no test");
        }
    }
    for (row, why) in WITHOUT {
        *known.entry(row).or_default() += 1;
        assert!(!why.is_empty(), "{row}");
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

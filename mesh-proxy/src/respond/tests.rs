//! Each failure's status, flag and detail, and both forms of answer.

use std::io::ErrorKind;

use super::{Failure, Fault, grpc_status, is_grpc};
use crate::cluster::NoEndpoint;
use crate::pool::SendErrorKind;
use crate::store::Demand;

fn sent(kind: SendErrorKind) -> Failure {
    Failure::Send { kind, retried: false }
}

#[test]
fn statuses_flags_and_details_are_istios() {
    let name: mesh_proto::model::HostPort = "a.default.svc.cluster.local:80".parse().unwrap();
    let resource = "destination/a.default.svc.cluster.local:80".parse().unwrap();
    let cases = [
        (Failure::NoRoute, 404, "NR", "route_not_found", Fault::Route),
        (Failure::Blocked("x".into()), 502, "-", "block_all", Fault::Policy),
        (NoEndpoint::ClusterAbsent(name.clone()).into(), 503, "NC", "cluster_not_found", Fault::Route),
        (NoEndpoint::Empty(name).into(), 503, "UH", "no_healthy_upstream", Fault::Upstream),
        (Demand::Timeout(resource).into(), 503, "NC", "discovery_timeout", Fault::Mesh),
        (
            Failure::External(super::External::TooSlow),
            408,
            "SI",
            "request_overall_timeout{the_request_body_did_not_come_in_time}",
            Fault::Client,
        ),
        (Failure::RouteTimeout, 504, "UT", "response_timeout", Fault::Upstream),
        (
            sent(SendErrorKind::ConnectFailed(ErrorKind::ConnectionRefused)),
            503,
            "UF",
            "upstream_reset_before_response_started{remote_connection_failure|connection refused}",
            Fault::Upstream,
        ),
        (
            sent(SendErrorKind::ClosedBeforeResponse { first_use: true, bytes_written: true }),
            503,
            "UC",
            "upstream_reset_before_response_started{connection_termination}",
            Fault::Upstream,
        ),
    ];
    for (failure, status, flags, details, fault) in cases {
        let verdict = failure.verdict();
        assert_eq!(verdict.status.as_u16(), status, "{failure}");
        assert_eq!(verdict.flags.to_string(), flags, "{failure}");
        assert_eq!(verdict.details, details, "{failure}");
        assert_eq!(verdict.fault, fault, "{failure}");
    }
}

#[test]
fn used_up_attempts_are_told() {
    let failure = Failure::Send { kind: SendErrorKind::Reset, retried: true };
    assert_eq!(failure.verdict().flags.to_string(), "URX,UR");
}

#[tokio::test]
async fn the_application_reads_whose_fault_it_is() {
    let why = "peer is spiffe://td/ns/a/sa/b, expected spiffe://td/ns/a/sa/c";
    let failure = sent(SendErrorKind::Tls(why.into()));
    let mut open = failure.response(false, true);
    let Some(Ok(crate::http::Frame::Data(text))) = open.body_mut().frame().await else { panic!("a body") };
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.starts_with("upstream: ") && text.contains(why), "{text}");
    let mut closed = failure.response(false, false);
    let Some(Ok(crate::http::Frame::Data(text))) = closed.body_mut().frame().await else { panic!("a body") };
    assert_eq!(&text[..], b"upstream_reset_before_response_started");
}

#[test]
fn grpc_callers_get_trailers_only() {
    let response = Failure::NoRoute.response(true, true);
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "12");
    assert!(response.headers()["grpc-message"].to_str().unwrap().starts_with("route: no route"));
    assert!(response.body().is_end());
    assert_eq!(grpc_status(http::StatusCode::SERVICE_UNAVAILABLE), 14);
    assert!(is_grpc(response.headers()));
}

//! Policies and a request, made out of bytes; the fast decision must be the slow one's.

use http::request::Parts;
use mesh_proto::wire::mesh::v1 as wire;
use serde_json::Value;

use crate::authorization::reference::{self, Asked};
use crate::authorization::{Connection, Ended, Guard, Policies, RequestFacts, Token};
use crate::jwt::Claims;

const PEERS: [&str; 5] = [
    "",
    "spiffe://cluster.local/ns/shop/sa/web",
    "spiffe://cluster.local/ns/shop/sa/db",
    "spiffe://cluster.local/ns/other/sa/web",
    "spiffe://td/ns/a/sa/b.c",
];
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.9.9.9", "192.168.1.1", "::1", "fd00::7"];
const HOSTS: [&str; 6] = ["web", "WEB:80", "a.com.", "a.com", "b.org:1", "x.a.com"];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "PATCH"];
/// What values, paths and fields are put together from.
const PIECES: [&str; 32] = [
    "",
    "*",
    "/",
    "a",
    "b",
    "web",
    "shop",
    "cluster.local",
    "/ns/",
    "/sa/",
    "a.com",
    "db",
    ".",
    "10.0.0.0/8",
    "10.0.0.1",
    "fd00::/8",
    "::1",
    "80",
    "8080",
    "GET",
    "P",
    "T",
    ",",
    ", ",
    ";x",
    "{*}",
    "{**}",
    "A",
    "1",
    "2",
    "-",
    "other",
];
const ATTRIBUTES: [&str; 20] = [
    "source.principal",
    "source.namespace",
    "source.serviceAccount",
    "source.trustDomain",
    "source.ip",
    "remote.ip",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "request.host",
    "request.method",
    "request.path",
    "request.headers[x-a]",
    "request.headers[x-b]",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.claims[a]",
    "request.auth.claims[a][b]",
    "request.auth.claims[scope]",
    "request.auth.presenter",
];
/// Claims of tokens, and a value around a text.
const CLAIMS: [&str; 6] = ["sub", "aud", "azp", "a", "scope", "b"];
const VALUES: [(&str, &str); 5] = [
    ("\"", "\""),
    ("[\"a\", \"", "\"]"),
    ("{\"b\": \"", "\"}"),
    ("{\"b\": [\"", "\", 1]}"),
    ("[[\"", "\"]]"),
];

/// Choices, one byte each; when there are no more, the first one.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % end
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn text(&mut self) -> String {
        (0..self.below(5)).map(|_| self.one(&PIECES)).collect()
    }

    fn texts(&mut self) -> Vec<String> {
        (0..self.below(3)).map(|_| self.text()).collect()
    }

    fn matcher(&mut self) -> wire::AuthorizationMatch {
        let attribute = self.one(&ATTRIBUTES).to_owned();
        wire::AuthorizationMatch { attribute, values: self.texts(), not_values: self.texts() }
    }

    fn matchers(&mut self) -> Vec<wire::AuthorizationMatch> {
        (0..self.below(3)).map(|_| self.matcher()).collect()
    }

    fn clauses(&mut self) -> Vec<wire::AuthorizationClause> {
        (0..self.below(3)).map(|_| wire::AuthorizationClause { matches: self.matchers() }).collect()
    }

    fn rule(&mut self) -> wire::AuthorizationRule {
        wire::AuthorizationRule { from: self.clauses(), to: self.clauses(), when: self.matchers() }
    }

    #[allow(clippy::needless_update, reason = "a field more is none of this module's")]
    fn policies(&mut self) -> Vec<wire::AuthorizationPolicy> {
        let actions =
            [wire::AuthorizationAction::AuthorizationDeny, wire::AuthorizationAction::AuthorizationAllow];
        (0..1 + self.below(3))
            .map(|index| wire::AuthorizationPolicy {
                origin: Some(wire::Origin {
                    namespace: "shop".into(),
                    name: index.to_string(),
                    ..Default::default()
                }),
                action: self.one(&actions).into(),
                rules: (0..self.below(3)).map(|_| self.rule()).collect(),
                ..Default::default()
            })
            .collect()
    }

    fn connection(&mut self) -> Option<Connection> {
        let port = [80, 8080, 9090];
        Some(Connection {
            peer: Some(self.one(&PEERS)).filter(|peer| !peer.is_empty()).map(str::parse).transpose().ok()?,
            source: self.one(&ADDRESSES).parse().ok()?,
            destination: (self.one(&ADDRESSES).parse::<std::net::IpAddr>().ok()?, self.one(&port)).into(),
            sni: self.one(&["", "a.com", "A.com.", "b.org"]).into(),
            ended: Ended::default(),
        })
    }

    fn head(&mut self) -> Option<Parts> {
        let mut request = http::Request::builder()
            .method(self.one(&METHODS))
            .uri(format!("/{}", self.text()))
            .header("host", self.one(&HOSTS));
        for _ in 0..self.below(4) {
            request = request.header(self.one(&["x-a", "x-a", "x-b"]), self.text());
        }
        Some(request.body(()).ok()?.into_parts().0)
    }

    /// What a token says, and what of it is valid.
    fn token(&mut self) -> Option<(Value, Claims)> {
        let mut payload = format!("{{\"iss\": \"{}\"", self.text());
        // Each claim once at most: more is no token.
        for name in CLAIMS {
            if self.below(2) == 1 {
                let ((before, after), text) = (self.one(&VALUES), self.text());
                payload.push_str(&format!(", \"{name}\": {before}{text}{after}"));
            }
        }
        payload.push('}');
        let claims = Claims::parse(payload.as_bytes()).ok()?.0;
        Some((serde_json::from_str(&payload).ok()?, claims))
    }
}

/// Decides, fast and slowly.
pub fn policy(data: &[u8]) {
    let mut choices = Choices(data.iter());
    let (Some(connection), Some(head)) = (choices.connection(), choices.head()) else { return };
    let Ok(remote) = choices.one(&ADDRESSES).parse() else { return };
    let wire = choices.policies();
    let token = choices.token();
    let space_delimited: Vec<String> = (0..choices.below(2)).map(|_| "a".to_owned()).collect();
    // What means nothing is refused: nothing is decided then.
    let Ok(policies) = Policies::parse(&wire) else { return };
    let guard = Guard::of_requests(&policies, &connection);
    let (said, claims) = token.unzip();
    let valid = claims.as_ref().map(|claims| Token::new(claims, &space_delimited));
    let verdict = guard.decide(&RequestFacts::new(&head, remote, valid));
    let (token, space_delimited) = (said.as_ref(), &space_delimited[..]);
    let asked = Asked { connection: &connection, head: Some(&head), remote, token, space_delimited };
    let expected = reference::verdict(&wire, &asked);
    assert_eq!(verdict, expected, "{wire:#?} {connection:?} {head:?} {remote} {said:?}");
    let bytes = policies.of_bytes(&connection);
    let asked = Asked { head: None, remote: connection.source, ..asked };
    assert_eq!(bytes, reference::verdict(&wire, &asked), "bytes: {wire:#?} {connection:?}");
}

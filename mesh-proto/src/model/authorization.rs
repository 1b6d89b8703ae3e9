//! What an AuthorizationPolicy compares with: texts with a `*`, paths, addresses, and the attributes that `when` names.
//!
//! In: a policy's values, as they are written. Out: types that only have to be asked. Pilot and proxy parse with the same
//! code, so that what one of them takes the other one knows. Source: Istio's AuthorizationPolicy reference.

mod address;
mod path;
mod text;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use address::AddressBlock;
pub use path::PathPattern;
pub use text::{Glob, Literal, TextPattern};

/// The longest value: nothing that a policy compares with is longer in earnest.
const MAX_VALUE: usize = 4096;

/// Why a value means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// Nothing, or too much.
    #[error("{0:?} is empty or longer than {MAX_VALUE} bytes")]
    Length(String),
    /// A star in the middle: Istio takes it for a star, not for a pattern.
    #[error("{0:?} has a '*' that is neither its first nor its last character")]
    Star(String),
    /// A path template that is none.
    #[error("{text:?} is no path template: {why}")]
    Template {
        /// What stands there.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Neither an address nor a block.
    #[error("{0:?} is neither an address nor a block such as 10.0.0.0/8")]
    Address(String),
    /// Not a port.
    #[error("{0:?} is not a port (1 to 65535)")]
    Port(String),
    /// Not a service account.
    #[error("{0:?} is not a service account (NAME or NAMESPACE/NAME)")]
    ServiceAccount(String),
    /// Not a namespace.
    #[error("{0:?} is not a namespace")]
    Namespace(String),
}

fn bounded(text: &str) -> Result<&str, InvalidPattern> {
    if text.is_empty() || text.len() > MAX_VALUE {
        return Err(InvalidPattern::Length(text.chars().take(80).collect()));
    }
    Ok(text)
}

/// What a rule may look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attribute {
    /// The peer's identity, `<trust domain>/ns/<namespace>/sa/<account>`.
    SourcePrincipal,
    /// The peer's namespace.
    SourceNamespace,
    /// The peer's account, `<namespace>/<account>`.
    SourceServiceAccount,
    /// The peer's trust domain.
    SourceTrustDomain,
    /// The address that the connection comes from.
    SourceIp,
    /// The address of the client that a trusted proxy tells of, else that of the connection.
    RemoteIp,
    /// Ours.
    DestinationIp,
    /// The workload's port.
    DestinationPort,
    /// The name that the client's TLS asks for.
    ConnectionSni,
    /// A field of the request, by its lower-case name.
    RequestHeader(String),
    /// Host without case.
    RequestHost,
    /// Method.
    RequestMethod,
    /// Path, without query.
    RequestPath,
    /// Of a valid token: `<issuer>/<subject>`.
    RequestPrincipal,
    /// Of a valid token.
    RequestAudiences,
    /// Of a valid token (`azp`).
    RequestPresenter,
    /// Of a valid token: a claim, by the names that lead to it.
    RequestClaim(Vec<String>),
}

impl Attribute {
    /// Known when a connection is accepted, the same for all its requests.
    #[must_use]
    pub fn is_of_connection(&self) -> bool {
        match self {
            Self::SourcePrincipal
            | Self::SourceNamespace
            | Self::SourceServiceAccount
            | Self::SourceTrustDomain
            | Self::SourceIp
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::ConnectionSni => true,
            Self::RemoteIp
            | Self::RequestHeader(_)
            | Self::RequestHost
            | Self::RequestMethod
            | Self::RequestPath
            | Self::RequestPrincipal
            | Self::RequestAudiences
            | Self::RequestPresenter
            | Self::RequestClaim(_) => false,
        }
    }

    /// Exists only where requests are read: on other ports an ALLOW rule that asks for it matches nothing, and a DENY rule
    /// asks for one thing less.
    #[must_use]
    pub fn is_of_request(&self) -> bool {
        !self.is_of_connection() && *self != Self::RemoteIp
    }

    /// What can be compared with it.
    #[must_use]
    pub fn form(&self) -> Form {
        match self {
            Self::SourceIp | Self::RemoteIp | Self::DestinationIp => Form::Address,
            Self::DestinationPort => Form::Port,
            Self::RequestPath => Form::Path,
            Self::SourceNamespace => Form::Namespace,
            Self::SourceServiceAccount => Form::ServiceAccount,
            _ => Form::Text,
        }
    }
}

/// What a value has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A [`TextPattern`].
    Text,
    /// A [`PathPattern`].
    Path,
    /// An [`AddressBlock`].
    Address,
    /// A port.
    Port,
    /// A [`Glob`].
    Namespace,
    /// `NAME` or `NAMESPACE/NAME`.
    ServiceAccount,
}

/// One value of a rule, ready to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// Exact, or with a star.
    Text(TextPattern),
    /// The same, or a template.
    Path(PathPattern),
    /// Some addresses.
    Address(AddressBlock),
    /// One port.
    Port(u16),
    /// With stars anywhere.
    Namespace(Glob),
    /// `NAMESPACE/NAME`.
    ServiceAccount(String),
}

impl Pattern {
    /// Reads a value that is compared with `attribute`. A service account without a namespace is one of `namespace`, the
    /// policy's own.
    ///
    /// # Errors
    /// Why the value means nothing.
    pub fn parse(attribute: &Attribute, text: &str, namespace: &str) -> Result<Self, InvalidPattern> {
        let text = bounded(text)?;
        Ok(match attribute.form() {
            Form::Text => Self::Text(TextPattern::parse(text)?),
            Form::Path => Self::Path(PathPattern::parse(text)?),
            Form::Address => Self::Address(text.parse()?),
            Form::Port => {
                let port = text.parse::<u16>().ok().filter(|port| *port != 0);
                Self::Port(port.ok_or_else(|| InvalidPattern::Port(text.to_owned()))?)
            }
            Form::Namespace => {
                let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'*');
                if !text.bytes().all(allowed) {
                    return Err(InvalidPattern::Namespace(text.to_owned()));
                }
                Self::Namespace(Glob::new(text))
            }
            Form::ServiceAccount => Self::ServiceAccount(service_account(text, namespace)?),
        })
    }
}

impl Pattern {
    /// What every text that fits is or begins with; `None` where that says nothing, and for what is no text.
    #[must_use]
    pub fn literal(&self) -> Option<Literal> {
        match self {
            Self::Text(text) => text.literal(),
            Self::Path(path) => path.literal(),
            Self::Address(_) | Self::Port(_) | Self::Namespace(_) | Self::ServiceAccount(_) => None,
        }
    }
}

fn service_account(text: &str, namespace: &str) -> Result<String, InvalidPattern> {
    let (of, name) = text.split_once('/').unwrap_or((namespace, text));
    let good = |name: &str| super::identity::is_kubernetes_name(name);
    if !good(of) || !good(name) {
        return Err(InvalidPattern::ServiceAccount(text.to_owned()));
    }
    Ok(format!("{of}/{name}"))
}

/// Why a text names no attribute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no attribute that a policy can look at")]
pub struct UnknownAttribute(String);

impl FromStr for Attribute {
    type Err = UnknownAttribute;

    /// The keys of `when`, as Istio documents them; and those of `from` and `to` by the names that [`fmt::Display`] has.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownAttribute(text.chars().take(80).collect());
        if text.len() > MAX_VALUE {
            return Err(unknown());
        }
        Ok(match text {
            "source.principal" => Self::SourcePrincipal,
            "source.namespace" => Self::SourceNamespace,
            "source.serviceAccount" => Self::SourceServiceAccount,
            "source.trustDomain" => Self::SourceTrustDomain,
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::ConnectionSni,
            "request.host" => Self::RequestHost,
            "request.method" => Self::RequestMethod,
            "request.path" => Self::RequestPath,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::RequestAudiences,
            "request.auth.presenter" => Self::RequestPresenter,
            other => {
                if let Some(name) = other.strip_prefix("request.headers") {
                    let names = bracketed(name).ok_or_else(unknown)?;
                    let [name] = &names[..] else { return Err(unknown()) };
                    let name = http::HeaderName::from_bytes(name.as_bytes()).map_err(|_| unknown())?;
                    Self::RequestHeader(name.as_str().to_owned())
                } else if let Some(path) = other.strip_prefix("request.auth.claims") {
                    Self::RequestClaim(bracketed(path).ok_or_else(unknown)?)
                } else {
                    return Err(unknown());
                }
            }
        })
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SourcePrincipal => "source.principal",
            Self::SourceNamespace => "source.namespace",
            Self::SourceServiceAccount => "source.serviceAccount",
            Self::SourceTrustDomain => "source.trustDomain",
            Self::SourceIp => "source.ip",
            Self::RemoteIp => "remote.ip",
            Self::DestinationIp => "destination.ip",
            Self::DestinationPort => "destination.port",
            Self::ConnectionSni => "connection.sni",
            Self::RequestHost => "request.host",
            Self::RequestMethod => "request.method",
            Self::RequestPath => "request.path",
            Self::RequestPrincipal => "request.auth.principal",
            Self::RequestAudiences => "request.auth.audiences",
            Self::RequestPresenter => "request.auth.presenter",
            Self::RequestHeader(name) => return write!(f, "request.headers[{name}]"),
            Self::RequestClaim(path) => {
                f.write_str("request.auth.claims")?;
                return path.iter().try_for_each(|name| write!(f, "[{name}]"));
            }
        })
    }
}

/// What a VirtualService's match on a claim begins with.
const ROUTED_CLAIM: &str = "@request.auth.claims";

/// Why a match on a token names no claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no claim of a token")]
pub struct UnknownClaim(String);

/// The claim that a VirtualService's header match is about, by the names that lead to it: `@request.auth.claims.a.b` or
/// `@request.auth.claims[a][b]`. `None`: it is about a header field.
///
/// # Errors
/// It begins like one, and is none.
pub fn routed_claim(name: &str) -> Result<Option<Vec<String>>, UnknownClaim> {
    if !name.starts_with('@') {
        return Ok(None);
    }
    let unknown = || UnknownClaim(name.chars().take(80).collect());
    // Without case, as Istio reads it; names of claims have one.
    let (begin, rest) = name.split_at_checked(ROUTED_CLAIM.len()).ok_or_else(unknown)?;
    if !begin.eq_ignore_ascii_case(ROUTED_CLAIM) || name.len() > MAX_VALUE {
        return Err(unknown());
    }
    let names = match rest.strip_prefix('.') {
        Some(dotted) => dotted.split('.').map(str::to_owned).collect(),
        None => bracketed(rest).ok_or_else(unknown)?,
    };
    if names.iter().any(|name| name.is_empty() || name.contains(['[', ']'])) {
        return Err(unknown());
    }
    Ok(Some(names))
}

/// `[a][b]` is a and b; at least one, none empty.
fn bracketed(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.strip_prefix('[')?.split_once(']')?;
        if name.is_empty() || name.contains('[') {
            return None;
        }
        names.push(name.to_owned());
        rest = after;
    }
    (!names.is_empty()).then_some(names)
}

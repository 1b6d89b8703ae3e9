//! Where tokens are in a request: fields, parameters of the query, cookies. In: a head. Out: the tokens there; the head
//! without them.

use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, Uri};

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A field, and what stands before the token.
    Header {
        /// Lower case.
        name: HeaderName,
        /// Empty: nothing.
        prefix: String,
    },
    /// A parameter of the query.
    Param(String),
    /// A cookie.
    Cookie(String),
}

impl Place {
    /// `Authorization: Bearer`.
    pub(super) fn bearer() -> Self {
        Self::Header { name: AUTHORIZATION, prefix: "Bearer ".to_owned() }
    }

    /// The tokens there: each line, parameter and cookie of that name.
    pub(super) fn tokens<'a>(&'a self, head: &'a Parts) -> Vec<&'a str> {
        match self {
            Self::Header { name, prefix } => {
                let lines = head.headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
                lines.filter_map(|line| behind(line.trim(), prefix)).collect()
            }
            Self::Param(name) => {
                let pairs = head.uri.query().unwrap_or_default().split('&');
                pairs.filter_map(|pair| value(pair, name)).collect()
            }
            Self::Cookie(name) => {
                let lines = head.headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
                let pairs = lines.flat_map(|line| line.split(';'));
                pairs.filter_map(|pair| value(pair.trim(), name)).collect()
            }
        }
    }

    /// Takes the token away. A cookie stays: others stand beside it.
    pub(super) fn remove(&self, head: &mut Parts) {
        match self {
            Self::Header { name, .. } => {
                head.headers.remove(name);
            }
            Self::Param(name) => without_param(&mut head.uri, name),
            Self::Cookie(_) => {}
        }
    }
}

/// What stands behind the prefix. A scheme (a prefix that ends with a space) has no case.
fn behind<'a>(line: &'a str, prefix: &str) -> Option<&'a str> {
    let begin = line.get(..prefix.len())?;
    let same = if prefix.ends_with(' ') { begin.eq_ignore_ascii_case(prefix) } else { begin == prefix };
    same.then(|| line[prefix.len()..].trim()).filter(|token| !token.is_empty())
}

fn value<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = pair.split_once('=')?;
    (key == name && !value.is_empty()).then_some(value)
}

fn without_param(uri: &mut Uri, name: &str) {
    let Some(query) = uri.query() else { return };
    let left: Vec<&str> = query.split('&').filter(|pair| value(pair, name).is_none()).collect();
    let whole = match left.join("&").as_str() {
        "" => uri.path().to_owned(),
        query => format!("{}?{query}", uri.path()),
    };
    let mut parts = uri.clone().into_parts();
    // What was part of a URI is one without it.
    if let Ok(path) = PathAndQuery::try_from(whole) {
        parts.path_and_query = Some(path);
        if let Ok(clean) = Uri::from_parts(parts) {
            *uri = clean;
        }
    }
}

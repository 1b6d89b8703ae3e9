//! What a provider answers, and how that is carried out. In: an [`Answer`]. Out: changed fields.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use super::fields::{is_framing, is_of_mesh, is_of_proxy, with_dashes};
use crate::respond::Denial;

/// More changes are a mistake, and would make a head that nobody takes.
const MAX_CHANGES: usize = 100;
/// Of all names and values together.
const MAX_BYTES: usize = 32 << 10;

/// What a provider says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The request may pass, changed.
    Allowed(Changes),
    /// It may not.
    Denied(Denial),
}

/// Why there is no answer that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// None came, or one that is none: `failOpen` may let the request pass.
    Failed(String),
    /// One that must not be carried out: the request never passes.
    Invalid(String),
}

/// What is done to a request that may pass, and to its answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The client's own fields that these match go first.
    pub(super) taken: Vec<HeaderName>,
    pub(super) request: Vec<Change>,
    pub(super) removed: Vec<HeaderName>,
    pub(super) response: Vec<Change>,
}

/// One field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
    pub(super) how: How,
}

/// What happens where the field is there already, and where it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Added in any case.
    Append,
    /// Added where there is none.
    AddIfAbsent,
    /// Replaced or added.
    Set,
    /// Replaced where there is one.
    Replace,
}

impl Change {
    /// A field that a provider names. It must not make another message of it.
    pub(super) fn new(name: &[u8], value: &[u8], how: How) -> Result<Self, NoAnswer> {
        let shown = || String::from_utf8_lossy(&name[..name.len().min(100)]).into_owned();
        let refused = |why: &str| NoAnswer::Invalid(format!("it sets {:?}, {why}", shown()));
        let name = HeaderName::from_bytes(name).map_err(|_| refused("which is no field's name"))?;
        if is_framing(&name) || is_of_mesh(&name) {
            return Err(refused("which no provider may"));
        }
        let value = HeaderValue::from_bytes(value).map_err(|_| refused("with control characters"))?;
        Ok(Self { name, value, how })
    }

    fn apply(&self, headers: &mut HeaderMap) {
        match (self.how, headers.contains_key(&self.name)) {
            (How::Append, _) | (How::AddIfAbsent, false) => {
                headers.append(&self.name, self.value.clone());
            }
            (How::Set, _) | (How::Replace, true) => {
                headers.insert(&self.name, self.value.clone());
            }
            (How::AddIfAbsent, true) | (How::Replace, false) => {}
        }
    }
}

impl Changes {
    /// Whether it is of a size that anybody takes.
    pub(super) fn bounded(self) -> Result<Self, NoAnswer> {
        let fields = self.request.iter().chain(&self.response);
        let bytes: usize = fields.map(|change| change.name.as_str().len() + change.value.len()).sum();
        let count = self.request.len() + self.response.len() + self.removed.len();
        if count > MAX_CHANGES || bytes > MAX_BYTES {
            return Err(NoAnswer::Invalid(format!("it changes {count} fields of {bytes} bytes")));
        }
        Ok(self)
    }

    /// Changes a request before it goes on.
    pub(super) fn to_request(&self, head: &mut Parts) {
        let headers = &mut head.headers;
        for name in &self.taken {
            headers.remove(name);
        }
        self.take_lookalikes(headers);
        for change in &self.request {
            change.apply(headers);
        }
        for name in self.removed.iter().filter(|name| !is_framing(name)) {
            headers.remove(name);
        }
    }

    /// What differs from a field that is set only by underscores is taken for it by many.
    fn take_lookalikes(&self, headers: &mut HeaderMap) {
        let names = headers.keys().filter(|name| {
            let dashes = with_dashes(name);
            dashes.is_some_and(|dashes| self.request.iter().any(|change| change.name.as_str() == dashes))
        });
        for name in names.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
    }

    /// Changes the answer to a request that has passed.
    pub fn to_response(&self, headers: &mut HeaderMap) {
        for change in &self.response {
            change.apply(headers);
        }
    }
}

/// A client's fields that only a provider may set.
pub(super) fn takes(headers: &HeaderMap, is_set: impl Fn(&str) -> bool) -> Vec<HeaderName> {
    let concerned = |name: &&HeaderName| {
        !is_of_proxy(name)
            && (is_set(name.as_str()) || with_dashes(name).is_some_and(|dashes| is_set(&dashes)))
    };
    headers.keys().filter(concerned).cloned().collect()
}

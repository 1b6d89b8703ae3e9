//! The case of field names on HTTP/1: names mean the same in any case, but some applications look at it. A message whose
//! names are all lower case or all in title case costs nothing to keep; others list their exceptions.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::HeaderName;

/// How the names of one message were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HeaderCase {
    /// `content-type`.
    #[default]
    Lower,
    /// `Content-Type`.
    Title,
    /// Title case, or lower case, but for these.
    Mixed {
        /// Title case where the list has no other form.
        title: bool,
        /// Names as they were written.
        exceptions: Rc<Vec<Bytes>>,
    },
}

/// The forms that one name has at once: `1` has both, `ETag` none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forms {
    /// No upper-case letter.
    pub lower: bool,
    /// Upper-case letters exactly at the start and after each dash.
    pub title: bool,
}

/// Collects the case of a message's names.
#[derive(Default)]
pub struct Collector {
    title: Option<bool>,
    exceptions: Vec<Bytes>,
}

impl Collector {
    /// One more name; `raw` is asked for only when it is an exception.
    pub fn add(&mut self, forms: Forms, raw: impl FnOnce() -> Bytes) {
        if forms.lower && forms.title {
            return;
        }
        let title = *self.title.get_or_insert(forms.title);
        if (title && !forms.title) || (!title && !forms.lower) {
            self.exceptions.push(raw());
        }
    }

    /// What was found.
    #[must_use]
    pub fn finish(self) -> HeaderCase {
        let title = self.title.unwrap_or(false);
        if !self.exceptions.is_empty() {
            return HeaderCase::Mixed { title, exceptions: Rc::new(self.exceptions) };
        }
        if title { HeaderCase::Title } else { HeaderCase::Lower }
    }
}

impl HeaderCase {
    /// Writes a name in its case.
    pub fn write(&self, name: &HeaderName, out: &mut BytesMut) {
        self.write_str(name.as_str(), out);
    }

    /// Writes a lower-case name in its case.
    pub fn write_str(&self, name: &str, out: &mut BytesMut) {
        let title = match self {
            Self::Lower => false,
            Self::Title => true,
            Self::Mixed { title, exceptions } => {
                if let Some(raw) = exceptions.iter().find(|raw| raw.eq_ignore_ascii_case(name.as_bytes())) {
                    out.extend_from_slice(raw);
                    return;
                }
                *title
            }
        };
        let start = out.len();
        out.extend_from_slice(name.as_bytes());
        if title {
            let mut upper = true;
            for byte in &mut out[start..] {
                if upper {
                    byte.make_ascii_uppercase();
                }
                upper = *byte == b'-';
            }
        }
    }
}

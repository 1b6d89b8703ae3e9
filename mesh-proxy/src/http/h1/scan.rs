//! Finds the end of a head (or trailer section) and its lines, in one pass, resumable as bytes come.

use smallvec::SmallVec;

use crate::http::service::BadRequest;

/// How far a head was looked at.
#[derive(Default)]
pub struct Scan {
    at: usize,
    /// Offsets of the line feeds.
    ends: SmallVec<[u32; 24]>,
}

impl Scan {
    /// The length of the head with its empty line, once that is there.
    ///
    /// # Errors
    /// When a line ends in anything but CR LF, or there are more than `max_lines`, or more than `max_bytes`.
    pub fn find(
        &mut self,
        bytes: &[u8],
        max_bytes: usize,
        max_lines: usize,
    ) -> Result<Option<usize>, BadRequest> {
        for offset in memchr::memchr_iter(b'\n', &bytes[self.at..]) {
            let end = self.at + offset;
            if end > max_bytes {
                return Err(BadRequest::HeadTooLarge);
            }
            if end == 0 || bytes[end - 1] != b'\r' {
                return Err(BadRequest::LineEnd);
            }
            let start = self.ends.last().map_or(0, |last| *last as usize + 1);
            self.ends.push(u32::try_from(end).map_err(|_| BadRequest::HeadTooLarge)?);
            if end == start + 1 {
                return Ok(Some(end + 1));
            }
            if self.ends.len() > max_lines {
                return Err(BadRequest::TooManyHeaders);
            }
        }
        if bytes.len() > max_bytes {
            return Err(BadRequest::HeadTooLarge);
        }
        self.at = bytes.len();
        Ok(None)
    }

    /// The offsets of the line feeds; the last one ends the empty line.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Ready for the next head.
    pub fn reset(&mut self) {
        self.at = 0;
        self.ends.clear();
    }
}

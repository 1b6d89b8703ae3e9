//! A request's body, held while it is shown to a provider, and sent on whole afterwards.
//!
//! In: a body and how much of it may be shown. Out: the beginning of it, and a body that begins with that.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::Shown;
use crate::http::{Body, BodyError, Frame, Source};
use crate::respond::{External as Refusal, Failure};

/// What a provider is shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    pub(super) bytes: Bytes,
    /// There is more.
    pub(super) partial: bool,
}

/// Reads what may be shown; `body` is as whole as before.
///
/// # Errors
/// A body that is longer than what may be shown, where only whole ones are; one that fails.
pub(super) async fn hold(body: &mut Body, shown: Shown) -> Result<Beginning, Failure> {
    if !shown.allow_partial && body.known_len().is_some_and(|len| len > shown.max as u64) {
        return Err(Failure::External(Refusal::TooLarge));
    }
    let mut kept = VecDeque::new();
    let (mut len, mut ended) = (0, false);
    // Where only a whole one may be shown, one byte more tells whether that is all. Otherwise nobody waits for it: a client
    // may well want to be answered first.
    while !ended && (len < shown.max || len == shown.max && !shown.allow_partial) {
        match body.frame().await {
            None => ended = true,
            Some(Err(error)) => return Err(Failure::RequestBody(error.to_string())),
            Some(Ok(frame)) => {
                match &frame {
                    Frame::Data(data) => len += data.len(),
                    Frame::Trailers(_) => ended = true,
                }
                kept.push_back(frame);
            }
        }
    }
    if len > shown.max && !shown.allow_partial {
        return Err(Failure::External(Refusal::TooLarge));
    }
    let bytes = beginning(&kept, shown.max);
    let nothing_left = ended || body.is_end() || body.known_len() == Some(0);
    let partial = len > shown.max || !nothing_left;
    *body = std::mem::take(body).wrap(|rest| Box::new(Held { kept, rest, ended }));
    Ok(Beginning { bytes, partial })
}

fn beginning(kept: &VecDeque<Frame>, max: usize) -> Bytes {
    let data = |frame: &Frame| match frame {
        Frame::Data(data) => Some(data.clone()),
        Frame::Trailers(_) => None,
    };
    let mut pieces = kept.iter().filter_map(data);
    let first = pieces.next().unwrap_or_default();
    let mut rest = pieces.peekable();
    if rest.peek().is_none() {
        return first.slice(..first.len().min(max));
    }
    let mut whole = BytesMut::from(&first[..]);
    rest.for_each(|piece| whole.extend_from_slice(&piece));
    whole.truncate(max);
    whole.freeze()
}

/// What was held, then what was not.
struct Held {
    kept: VecDeque<Frame>,
    rest: Body,
    /// Nothing comes after what was held.
    ended: bool,
}

impl Source for Held {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self.kept.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.ended => Poll::Ready(None),
            None => self.rest.poll_frame(cx),
        }
    }

    fn known_len(&self) -> Option<u64> {
        let data = |frame: &Frame| match frame {
            Frame::Data(data) => data.len() as u64,
            Frame::Trailers(_) => 0,
        };
        let held: u64 = self.kept.iter().map(data).sum();
        let rest = if self.ended { Some(0) } else { self.rest.known_len() };
        rest.map(|rest| held + rest)
    }

    fn is_end(&self) -> bool {
        self.kept.is_empty() && (self.ended || self.rest.is_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces, what may be shown of them, what is (and whether there is more).
    type Case = (&'static [&'static str], Shown, Option<(&'static str, bool)>);

    /// Pieces, then the end; the length is told or not.
    struct Pieces(VecDeque<Frame>, Option<u64>);

    impl Source for Pieces {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }

        fn known_len(&self) -> Option<u64> {
            self.1
        }

        fn is_end(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn pieces(texts: &[&'static str], len: Option<u64>) -> Body {
        let frames = texts.iter().map(|text| Frame::Data(Bytes::from_static(text.as_bytes())));
        Body::from_source(Box::new(Pieces(frames.collect(), len)))
    }

    async fn whole(mut body: Body) -> String {
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Frame::Data(data) = frame.unwrap() {
                text.extend_from_slice(&data);
            }
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn what_is_shown_is_bounded_and_all_goes_on() {
        let shown = |max, allow_partial| Shown { max, allow_partial, as_bytes: false };
        let cases: [Case; 9] = [
            (&["abc"], shown(3, false), Some(("abc", false))),
            (&["ab", "c"], shown(3, false), Some(("abc", false))),
            (&["ab", "cd"], shown(3, false), None),
            (&["ab", "cd"], shown(3, true), Some(("abc", true))),
            (&["abc"], shown(3, true), Some(("abc", false))),
            (&["abcdef"], shown(3, true), Some(("abc", true))),
            (&["abc", "def"], shown(3, true), Some(("abc", true))),
            (&["abc", "def"], shown(100, true), Some(("abcdef", false))),
            (&[], shown(3, false), Some(("", false))),
        ];
        for (texts, shown, expected) in cases {
            for len in [None, Some(texts.concat().len() as u64)] {
                let mut body = pieces(texts, len);
                let told = hold(&mut body, shown).await;
                match expected {
                    None => assert_eq!(told, Err(Failure::External(Refusal::TooLarge)), "{texts:?}"),
                    Some((bytes, partial)) => {
                        let bytes = Bytes::from_static(bytes.as_bytes());
                        assert_eq!(told, Ok(Beginning { bytes, partial }), "{texts:?}");
                        assert_eq!(whole(body).await, texts.concat());
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn trailers_go_on_too() {
        let trailers = Frame::Trailers(http::HeaderMap::from_iter([(
            http::HeaderName::from_static("x-end"),
            http::HeaderValue::from_static("1"),
        )]));
        let frames = [Frame::Data(Bytes::from_static(b"abc")), trailers].into();
        let mut body = Body::from_source(Box::new(Pieces(frames, None)));
        let shown = Shown { max: 10, allow_partial: false, as_bytes: false };
        hold(&mut body, shown).await.unwrap();
        assert_eq!(body.known_len(), Some(3));
        assert!(matches!(body.frame().await, Some(Ok(Frame::Data(_)))));
        assert!(matches!(body.frame().await, Some(Ok(Frame::Trailers(map))) if map.contains_key("x-end")));
        assert!(body.frame().await.is_none() && body.is_end());
    }
}

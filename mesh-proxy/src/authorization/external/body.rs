//! A request's body, held while it is shown to a provider, and sent on whole afterwards.
//!
//! In: a body and how much of it may be shown. Out: the beginning of it, and a body that begins with that.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

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

/// Reads what may be shown; `body` is as whole as before. `limit`: for all of it, however many pieces come. `waits`: the client
/// sends it only when it is told to.
///
/// # Errors
/// A body that is longer than what may be shown, where only whole ones are; one that fails, or does not come.
pub(super) async fn hold(
    body: &mut Body,
    shown: Shown,
    limit: Duration,
    waits: bool,
) -> Result<Beginning, Failure> {
    if !shown.allow_partial && body.known_len().is_some_and(|len| len > shown.max as u64) {
        return Err(Failure::External(Refusal::TooLarge));
    }
    if waits && body.as_full().is_none() {
        body.go_on();
    }
    match tokio::time::timeout(limit, read(body, shown)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::External(Refusal::TooSlow)),
    }
}

async fn read(body: &mut Body, shown: Shown) -> Result<Beginning, Failure> {
    let mut content = Content::default();
    let (mut trailers, mut ended) = (None, false);
    // Where only a whole one may be shown, one byte more tells whether that is all. Otherwise nobody waits for it: a client
    // may well want to be answered first.
    while !ended && (content.len() < shown.max || content.len() == shown.max && !shown.allow_partial) {
        match body.frame().await {
            None => ended = true,
            // The codec's own limit, for one piece.
            Some(Err(BodyError::Timeout)) => return Err(Failure::External(Refusal::TooSlow)),
            Some(Err(error)) => return Err(Failure::RequestBody(error.to_string())),
            Some(Ok(Frame::Data(data))) => content.push(data),
            Some(Ok(Frame::Trailers(fields))) => (trailers, ended) = (Some(fields), true),
        }
    }
    let content = content.whole();
    if content.len() > shown.max && !shown.allow_partial {
        return Err(Failure::External(Refusal::TooLarge));
    }
    let nothing_left = ended || body.is_end() || body.known_len() == Some(0);
    let partial = content.len() > shown.max || !nothing_left;
    let bytes = content.slice(..content.len().min(shown.max));
    let all = std::mem::take(body);
    *body = if ended && trailers.is_none() {
        // What is at hand whole can be sent again.
        all.filled(content)
    } else {
        let data = Some(content).filter(|content| !content.is_empty()).map(Frame::Data);
        let kept = data.into_iter().chain(trailers.map(Frame::Trailers)).collect();
        all.wrap(|rest| Box::new(Held { kept, rest, ended }))
    };
    Ok(Beginning { bytes, partial })
}

/// What has come. More than one piece is copied together: many small ones would hold much more memory than they have bytes.
#[derive(Default)]
struct Content {
    first: Bytes,
    all: BytesMut,
}

impl Content {
    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&data);
    }

    fn whole(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
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
            Frame::Data(data) => Some(data.len() as u64),
            // A length that is told leaves no place for them.
            Frame::Trailers(_) => None,
        };
        let held = self.kept.iter().map(data).sum::<Option<u64>>()?;
        let rest = if self.ended { Some(0) } else { self.rest.known_len() };
        rest.map(|rest| held + rest)
    }

    fn is_end(&self) -> bool {
        self.kept.is_empty() && (self.ended || self.rest.is_end())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

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
                let told = hold(&mut body, shown, LIMIT, false).await;
                match expected {
                    None => assert_eq!(told, Err(Failure::External(Refusal::TooLarge)), "{texts:?}"),
                    Some((bytes, partial)) => {
                        let bytes = Bytes::from_static(bytes.as_bytes());
                        assert_eq!(told, Ok(Beginning { bytes, partial }), "{texts:?}");
                        // What can be sent again: all of a body that has ended.
                        let again = body.as_full().cloned();
                        assert!(again.is_none_or(|all| all == texts.concat()), "{texts:?}");
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
        hold(&mut body, shown, LIMIT, false).await.unwrap();
        // Whoever is told a length gets no trailers.
        assert_eq!((body.known_len(), body.is_end()), (None, false));
        assert!(matches!(body.frame().await, Some(Ok(Frame::Data(_)))));
        assert_eq!((body.known_len(), body.is_end()), (None, false));
        assert!(matches!(body.frame().await, Some(Ok(Frame::Trailers(map))) if map.contains_key("x-end")));
        assert_eq!((body.known_len(), body.is_end()), (Some(0), true));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_whole_body_can_be_sent_again_however_small_its_pieces_are() {
        let mut body = pieces(&["a"; 1000], None);
        let shown = Shown { max: 1000, allow_partial: false, as_bytes: false };
        hold(&mut body, shown, LIMIT, false).await.unwrap();
        assert_eq!(body.as_full().unwrap(), &"a".repeat(1000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        /// Nothing, for ever.
        struct Silent;

        impl Source for Silent {
            fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
                Poll::Pending
            }

            fn known_len(&self) -> Option<u64> {
                None
            }

            fn is_end(&self) -> bool {
                false
            }
        }
        let shown = Shown { max: 10, allow_partial: true, as_bytes: false };
        let told = hold(&mut Body::from_source(Box::new(Silent)), shown, LIMIT, false).await;
        assert_eq!(told, Err(Failure::External(Refusal::TooSlow)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_not_waited_for_longer() {
        /// A byte each minute.
        struct Drip(Pin<Box<tokio::time::Sleep>>);

        const MINUTE: Duration = Duration::from_secs(60);

        impl Source for Drip {
            fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
                std::task::ready!(self.0.as_mut().poll(cx));
                self.0 = Box::pin(tokio::time::sleep(MINUTE));
                Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(b"a")))))
            }

            fn known_len(&self) -> Option<u64> {
                None
            }

            fn is_end(&self) -> bool {
                false
            }
        }
        let shown = Shown { max: 1000, allow_partial: true, as_bytes: false };
        let began = tokio::time::Instant::now();
        let mut body = Body::from_source(Box::new(Drip(Box::pin(tokio::time::sleep(MINUTE)))));
        let told = hold(&mut body, shown, LIMIT, false).await;
        assert_eq!(told, Err(Failure::External(Refusal::TooSlow)));
        assert!(began.elapsed() <= LIMIT + Duration::from_secs(1), "{:?}", began.elapsed());
        // What is shown early is not late.
        let mut body = Body::from_source(Box::new(Drip(Box::pin(tokio::time::sleep(MINUTE)))));
        let few = Shown { max: 3, ..shown };
        assert!(hold(&mut body, few, LIMIT, false).await.is_ok_and(|beginning| beginning.bytes == "aaa"));
    }
}

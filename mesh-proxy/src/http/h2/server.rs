//! The server's side of an HTTP/2 connection. All its streams are served in the connection's own task: what they answer is
//! written in the same turn.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use ::h2::Reason;
use ::h2::server::{Connection, SendResponse};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};

mod stream;

use crate::drain::DrainWatch;
use crate::http::draining::Draining;
use crate::http::h2::piece::Piece;
use crate::http::h2::rewind::Rewound;
use crate::http::server::ServerSettings;
use crate::http::service::Service;
use crate::http::timer::Deadline;
use crate::io::Io;

/// What streams tell their connection.
#[derive(Default)]
struct Wishes {
    /// An answer was the last that this connection should carry.
    close: Cell<bool>,
}

/// The two ends of one request.
type Accepted = (http::Request<::h2::RecvStream>, SendResponse<Piece>);

/// Serves a connection until it ends.
pub async fn serve<S: Service>(
    io: Io,
    first: Bytes,
    settings: &ServerSettings,
    service: &S,
    drain: &DrainWatch,
) {
    let limits = &settings.http2;
    let mut builder = ::h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits.max_streams)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.max_header_list)
        .max_send_buffer_size(limits.send_buffer)
        // Above what the windows allow in small frames, so that a slow stream alone never closes the connection.
        .data_frame_budget(limits.connection_window as usize * 4);
    let handshake = builder.handshake(Rewound::new(first, io));
    let Ok(Ok(connection)) = tokio::time::timeout(settings.header_timeout, handshake).await else { return };
    let wishes = Rc::new(Wishes::default());
    let serve_stream = |(request, respond): Accepted| {
        stream::serve(request, Rc::new(RefCell::new(respond)), settings, service, wishes.clone())
    };
    let mut streams = FuturesUnordered::new();
    let mut state = State {
        connection,
        idle: Deadline::default(),
        draining: Draining::new(drain),
        going_away: false,
        settings,
    };
    poll_fn(|cx| {
        loop {
            while let Poll::Ready(Some(())) = std::pin::Pin::new(&mut streams).poll_next(cx) {}
            state.go_away_if(wishes.close.get(), cx);
            match state.poll_accept(streams.is_empty(), cx) {
                // The peer was told to go away, and may not be as polite.
                Poll::Ready(Some((_, mut respond))) if state.draining.is_revoked() => {
                    respond.send_reset(Reason::REFUSED_STREAM);
                }
                Poll::Ready(Some(accepted)) => streams.push(serve_stream(accepted)),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

struct State<'a> {
    connection: Connection<Rewound, Piece>,
    idle: Deadline,
    draining: Draining<'a>,
    going_away: bool,
    settings: &'a ServerSettings,
}

impl State<'_> {
    /// Announces the end in two steps (RFC 9113 §6.8): no stream that is on its way is lost.
    fn go_away_if(&mut self, close: bool, cx: &mut Context<'_>) {
        if !self.going_away && (close || self.draining.poll(cx)) {
            self.going_away = true;
            self.connection.graceful_shutdown();
        }
    }

    /// The next request; `None` when the connection has ended. Reads and writes for all streams.
    fn poll_accept(&mut self, is_idle: bool, cx: &mut Context<'_>) -> Poll<Option<Accepted>> {
        match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok(accepted))) => {
                self.idle.clear();
                Poll::Ready(Some(accepted))
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "HTTP/2 connection failed");
                Poll::Ready(None)
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if !is_idle => {
                self.idle.clear();
                Poll::Pending
            }
            Poll::Pending => {
                if !self.idle.is_set() {
                    self.idle.set(self.settings.idle_timeout);
                }
                if self.idle.poll_expired(cx).is_ready() || self.draining.is_revoked() {
                    self.connection.abrupt_shutdown(Reason::NO_ERROR);
                    return Poll::Ready(None);
                }
                Poll::Pending
            }
        }
    }
}

//! A peer that has said all it will may still wait for its answer. (`nc -N` and some clients close their sending side
//! behind the request.) hyper takes the end of the octets for the end of interest, so while an answer is owed that end
//! is kept from it. Whoever really went away is found out when the answer is written.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::stream::Stream;

/// What a connection owes its peer.
#[derive(Default)]
pub(super) struct Debts(Mutex<State>);

#[derive(Default)]
struct State {
    answers: usize,
    /// An answer was given, and may wait in hyper's buffer.
    unwritten: bool,
    /// Waits for the end, which has come.
    waker: Option<Waker>,
}

/// An answer is owed.
pub(super) struct Debt(Arc<Debts>);

/// The octets of a connection whose end comes once nothing is owed.
pub(super) struct Owing {
    stream: Stream,
    debts: Arc<Debts>,
    ended: bool,
}

impl Debts {
    pub(super) fn owe(self: &Arc<Self>) -> Debt {
        self.0.lock().answers += 1;
        Debt(self.clone())
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.answers -= 1;
        state.unwritten = true;
    }
}

impl Owing {
    pub(super) fn new(stream: Stream, debts: Arc<Debts>) -> Self {
        Self {
            stream,
            debts,
            ended: false,
        }
    }

    pub(super) fn into_inner(self) -> Stream {
        self.stream
    }
}

impl AsyncRead for Owing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ended {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            self.ended = buffer.filled().len() == before && buffer.remaining() > 0;
        }
        let mut state = self.debts.0.lock();
        if self.ended && (state.answers > 0 || state.unwritten) {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Owing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    /// hyper comes by here once its buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        let mut state = self.debts.0.lock();
        if state.answers == 0 {
            state.unwritten = false;
            let waker = state.waker.take();
            drop(state);
            waker.into_iter().for_each(Waker::wake);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

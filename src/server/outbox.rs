//! What waits to be written to one connection, and the flags that reach its task from outside.
//!
//! Anybody may append, nobody ever waits: what has no room comes back to the sender. The connection's task takes what
//! waits and writes it. Waking a task for one message costs as much as routing it, though; so who has put a message
//! into an empty outbox may write it at once ([`Outbox::write_now`]), and the task takes nothing meanwhile. Octets are
//! whole frames, ready for the socket.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};

use parking_lot::{Mutex, MutexGuard};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use super::frames::Header;
use super::realm::RealmHandle;
use crate::core::Then;
use crate::words::SessionId;

/// Buffers up to this size stay with an idle connection.
const KEPT: usize = 1024;
/// Buffers above this size grow slowly.
const LARGE: usize = 64 << 10;
/// Up to this size a message is written by who routed it.
const AT_ONCE: usize = 16 << 10;

/// The memory of what waits in all queues of the router (`limits.queues_total`).
#[derive(Debug)]
pub(crate) struct Queues {
    total: AtomicUsize,
    limit: AtomicUsize,
    /// Rung when the total goes above the limit; the router then closes those with the most.
    pub(crate) overfull: Notify,
}

impl Queues {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            total: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            overfull: Notify::new(),
        })
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// Octets above the limit.
    pub(crate) fn excess(&self) -> usize {
        self.total
            .load(Relaxed)
            .saturating_sub(self.limit.load(Relaxed))
    }

    /// Something that was of one size is of another.
    pub(crate) fn change(&self, before: usize, after: usize) {
        match after.checked_sub(before) {
            Some(more) => self.add(more),
            None => self.sub(before - after),
        }
    }

    fn add(&self, octets: usize) {
        let before = self.total.fetch_add(octets, Relaxed);
        if before.saturating_add(octets) > self.limit.load(Relaxed) {
            self.overfull.notify_one();
        }
    }

    fn sub(&self, octets: usize) {
        if octets > 0 {
            self.total.fetch_sub(octets, Relaxed);
        }
    }
}

/// The outbox has no room for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// How much may wait before a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// So many octets with this message; an empty queue takes any one message.
    UpTo(usize),
    /// The last words of a session, and what is bounded by other means.
    Always,
}

impl Room {
    fn holds(self, before: usize, octets: usize) -> bool {
        match self {
            Self::UpTo(limit) => before == 0 || before + octets <= limit,
            Self::Always => true,
        }
    }
}

/// Why a connection without a session has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Newer connections need the place (`limits.unauthenticated`).
    Evicted,
    /// The router is shutting down.
    Shutdown,
}

/// What the connection's task finds when it looks up from its socket.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags {
    /// The session has ended; consumed by looking.
    pub(crate) end: Option<Then>,
    /// No more may be read for now (`pending_verdicts`).
    pub(crate) paused: bool,
    pub(crate) stop: Option<Stop>,
    /// Somebody else is writing to the socket; he wakes the task.
    pub(crate) busy: bool,
    /// What the task has just taken begins within a frame.
    pub(crate) begun: bool,
}

pub(crate) struct Outbox {
    queues: Arc<Queues>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Whose octets these are, once somebody has logged in.
    session: Option<(Weak<RealmHandle>, SessionId)>,
    waiting: Vec<u8>,
    /// Octets that have been taken and not written yet, by the task or in [`Outbox::write_now`].
    in_flight: usize,
    /// The memory of those.
    flying: usize,
    /// What of all this is counted in the queues.
    counted: usize,
    /// What [`Outbox::write_now`] could not write of what it took: comes before all that waits.
    begun: Vec<u8>,
    /// Where others than the task may write to.
    socket: Option<Arc<OwnedWriteHalf>>,
    flags: Flags,
    waker: Option<Waker>,
}

impl Outbox {
    pub(crate) fn new(queues: Arc<Queues>) -> Self {
        Self {
            queues,
            inner: Mutex::default(),
        }
    }

    /// Whether [`Outbox::push`] would take so many octets now.
    pub(crate) fn has_room(&self, octets: usize, room: Room) -> bool {
        let inner = self.inner.lock();
        let before = inner.waiting.len() + inner.in_flight;
        room.holds(before, octets)
    }

    /// Appends one frame. The waker, if any, is of the task that waits for this; call it once no lock is held.
    pub(crate) fn push(
        &self,
        header: Header,
        payload: &[u8],
        room: Room,
    ) -> Result<Option<Waker>, Full> {
        let end = header.end();
        let header = header.as_slice();
        let octets = header.len() + payload.len() + usize::from(end.is_some());
        let mut inner = self.inner.lock();
        let before = inner.waiting.len() + inner.in_flight;
        if !room.holds(before, octets) {
            return Err(Full);
        }
        grow(&mut inner.waiting, octets);
        inner.waiting.extend_from_slice(header);
        inner.waiting.extend_from_slice(payload);
        inner.waiting.extend(end);
        let waker = if before == 0 {
            inner.waker.take()
        } else {
            None
        };
        self.recount(inner);
        Ok(waker)
    }

    /// Appends octets that are whole frames already.
    pub(crate) fn push_frame(&self, frame: &[u8], room: Room) -> Result<Option<Waker>, Full> {
        self.push(Header::new(&[]), frame, room)
    }

    /// Where [`Outbox::write_now`] writes to; nowhere, if every octet has to pass through the task (TLS).
    pub(crate) fn attach(&self, socket: Option<Arc<OwnedWriteHalf>>) {
        self.inner.lock().socket = socket;
    }

    /// Instead of waking the task by the `waker` that [`Outbox::push`] gave: writes what waits, if that is little and
    /// the socket takes it without waiting. The lock is free meanwhile; others append and the task reads on.
    pub(crate) fn write_now(&self, waker: Waker) {
        let Some((socket, octets)) = self.begin() else {
            return waker.wake();
        };
        // An error is the task's to find.
        let written = socket.try_write(&octets).unwrap_or(0);
        self.finish(octets, written, waker);
    }

    /// Takes what waits out of the task's hands.
    fn begin(&self) -> Option<(Arc<OwnedWriteHalf>, Vec<u8>)> {
        let mut inner = self.inner.lock();
        let octets = inner.waiting.len();
        if inner.in_flight > 0 || octets == 0 || octets > AT_ONCE {
            return None;
        }
        let socket = inner.socket.clone()?;
        inner.flags.busy = true;
        inner.in_flight = octets;
        inner.flying = footprint(&inner.waiting);
        Some((socket, std::mem::take(&mut inner.waiting)))
    }

    /// Gives the socket back to the task, and wakes it if there is anything left to do.
    fn finish(&self, mut octets: Vec<u8>, written: usize, waker: Waker) {
        let mut inner = self.inner.lock();
        inner.flags.busy = false;
        inner.in_flight = octets.len() - written;
        if inner.in_flight > 0 {
            octets.drain(..written);
            inner.flying = footprint(&octets);
            inner.begun = octets;
        } else if inner.waiting.capacity() == 0 {
            octets.clear();
            shrink(&mut octets);
            inner.waiting = octets;
        }
        if inner.in_flight == 0 {
            inner.flying = 0;
        }
        // A waker is there already: the task has been here and left again, as it was not its turn.
        let awaited = inner.waker.is_some();
        let wake = match awaited || inner.in_flight > 0 || !inner.waiting.is_empty() {
            true => Some(waker),
            false => {
                inner.waker = Some(waker);
                None
            }
        };
        self.recount(inner);
        if let Some(waker) = wake {
            waker.wake();
        }
    }

    /// Tells the task that the session has ended.
    pub(crate) fn end(&self, then: Then) -> Option<Waker> {
        self.flag(|flags| {
            flags.end = Some(then);
            // Nobody will resume it: what the peer says next is no longer the session's.
            flags.paused = false;
        })
    }

    /// Stops and resumes reading.
    pub(crate) fn pause(&self, paused: bool) -> Option<Waker> {
        self.flag(|flags| flags.paused = paused)
    }

    /// Ends a connection that has no session.
    pub(crate) fn stop(&self, stop: Stop) -> Option<Waker> {
        self.flag(|flags| flags.stop = flags.stop.or(Some(stop)))
    }

    /// Throws away what waits, to free the memory of a session about to be closed.
    pub(crate) fn shed(&self) {
        let mut inner = self.inner.lock();
        inner.waiting = Vec::new();
        self.recount(inner);
    }

    /// Remembers the session this belongs to.
    pub(crate) fn belongs_to(&self, realm: &Arc<RealmHandle>, session: SessionId) {
        self.inner.lock().session = Some((Arc::downgrade(realm), session));
    }

    /// The last session this belonged to.
    pub(crate) fn session(&self) -> Option<(Arc<RealmHandle>, SessionId)> {
        let inner = self.inner.lock();
        let (realm, session) = inner.session.as_ref()?;
        Some((realm.upgrade()?, *session))
    }

    /// The memory of what waits.
    pub(crate) fn memory(&self) -> usize {
        self.inner.lock().counted
    }

    /// Counts what has changed.
    fn recount(&self, mut inner: MutexGuard<'_, Inner>) {
        let (before, after) = (inner.counted, footprint(&inner.waiting) + inner.flying);
        inner.counted = after;
        drop(inner);
        if before != after {
            self.queues.change(before, after);
        }
    }

    /// Octets that wait.
    #[cfg(test)]
    fn len(&self) -> usize {
        let inner = self.inner.lock();
        inner.waiting.len() + inner.in_flight
    }

    /// For the task: moves what waits into `writing` (which has been written whole) and reads the flags. `waker` is
    /// remembered until something happens.
    pub(crate) fn take(&self, writing: &mut Vec<u8>, waker: &Waker) -> Flags {
        let mut inner = self.inner.lock();
        if inner.flags.busy {
            return inner.look(waker);
        }
        if !inner.begun.is_empty() {
            *writing = std::mem::take(&mut inner.begun);
            return Flags {
                begun: true,
                ..inner.look(waker)
            };
        }
        writing.clear();
        std::mem::swap(&mut inner.waiting, writing);
        inner.in_flight = writing.len();
        if writing.is_empty() {
            shrink(writing);
            shrink(&mut inner.waiting);
        }
        inner.flying = footprint(writing);
        let flags = inner.look(waker);
        self.recount(inner);
        flags
    }

    /// For the task: reads the flags while it is still writing.
    pub(crate) fn look(&self, waker: &Waker) -> Flags {
        self.inner.lock().look(waker)
    }

    /// For the task before there is a session: waits for [`Outbox::stop`].
    pub(crate) async fn stopped(&self) -> Stop {
        std::future::poll_fn(|cx| {
            self.look(cx.waker())
                .stop
                .map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn flag(&self, set: impl FnOnce(&mut Flags)) -> Option<Waker> {
        let mut inner = self.inner.lock();
        set(&mut inner.flags);
        inner.waker.take()
    }
}

impl Inner {
    fn look(&mut self, waker: &Waker) -> Flags {
        if !self
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            self.waker = Some(waker.clone());
        }
        let flags = self.flags;
        self.flags.end = None;
        flags
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        self.queues.sub(inner.counted);
    }
}

/// What a buffer counts as: what is in it, or its memory where that would not stay with an idle connection.
fn footprint(buffer: &Vec<u8>) -> usize {
    match buffer.capacity() {
        ..=KEPT => buffer.len(),
        capacity => capacity,
    }
}

/// Makes room; a large buffer grows by a quarter, as hundreds that are full would double what the limit says.
fn grow(buffer: &mut Vec<u8>, octets: usize) {
    if buffer.capacity() < LARGE {
        buffer.reserve(octets);
    } else if buffer.capacity() - buffer.len() < octets {
        buffer.reserve_exact(octets.max(buffer.len() / 4));
    }
}

fn shrink(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT {
        *buffer = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn outbox(total: usize) -> (Arc<Queues>, Outbox) {
        let queues = Queues::new(total);
        (queues.clone(), Outbox::new(queues))
    }

    fn push(outbox: &Outbox, octets: usize, limit: usize) -> Result<(), Full> {
        outbox
            .push_frame(&vec![b'x'; octets], Room::UpTo(limit))
            .map(drop)
    }

    #[test]
    fn an_empty_queue_takes_any_one_message() {
        let (_, outbox) = outbox(usize::MAX);
        assert_eq!(push(&outbox, 500, 100), Ok(()));
        assert_eq!(push(&outbox, 1, 100), Err(Full));
        assert!(outbox.push_frame(b"bye", Room::Always).is_ok());
        assert_eq!(outbox.len(), 503);
    }

    #[test]
    fn what_is_being_written_counts_until_it_is_written() {
        let (queues, outbox) = outbox(0);
        push(&outbox, 60, 100).unwrap();
        let mut writing = Vec::new();
        outbox.take(&mut writing, Waker::noop());
        assert_eq!((writing.len(), queues.excess()), (60, 60));
        assert_eq!(push(&outbox, 60, 100), Err(Full));
        outbox.take(&mut writing, Waker::noop());
        assert_eq!((writing.len(), queues.excess()), (0, 0));
        assert_eq!(push(&outbox, 60, 100), Ok(()));
        drop(outbox);
        assert_eq!(queues.excess(), 0);
    }

    /// Counts how often a task would have been woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// An outbox with a task that waits, its socket, and the peer's.
    async fn connected() -> (Outbox, Arc<Woken>, Waker, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (_, write) = listener.accept().await.unwrap().0.into_split();
        write.writable().await.unwrap();
        let (_, outbox) = outbox(usize::MAX);
        outbox.attach(Some(Arc::new(write)));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        outbox.take(&mut Vec::new(), &waker);
        (outbox, woken, waker, peer)
    }

    #[tokio::test]
    async fn who_puts_into_an_empty_outbox_may_write() {
        let (outbox, woken, _, mut peer) = connected().await;
        for _ in 0..2 {
            let waker = outbox.push_frame(b"hello", Room::UpTo(5)).unwrap();
            outbox.write_now(waker.unwrap());
            let mut got = [0; 5];
            peer.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"hello");
            assert_eq!((outbox.len(), woken.0.load(Relaxed)), (0, 0));
        }
    }

    #[tokio::test]
    async fn the_task_takes_nothing_while_somebody_writes() {
        let (outbox, woken, task, _peer) = connected().await;
        let waker = outbox.push_frame(b"first", Room::Always).unwrap().unwrap();
        let (_, octets) = outbox.begin().unwrap();
        let mut writing = Vec::new();
        assert!(outbox.take(&mut writing, &task).busy);
        let second = outbox.push_frame(b"second", Room::Always).unwrap();
        assert!(second.is_none() && writing.is_empty() && outbox.begin().is_none());
        assert_eq!(outbox.len(), 11);

        outbox.finish(octets, 3, waker);
        assert_eq!((outbox.len(), woken.0.load(Relaxed)), (8, 1));
        assert!(!outbox.take(&mut writing, &task).busy);
        assert_eq!((&writing[..], outbox.len()), (&b"st"[..], 8));
        outbox.take(&mut writing, &task);
        assert_eq!((&writing[..], outbox.len()), (&b"second"[..], 6));
        outbox.take(&mut writing, &task);
        assert_eq!((writing.len(), outbox.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_task_that_came_meanwhile_is_woken() {
        let (outbox, woken, task, _peer) = connected().await;
        let waker = outbox.push_frame(b"first", Room::Always).unwrap().unwrap();
        let (_, octets) = outbox.begin().unwrap();
        assert!(outbox.take(&mut Vec::new(), &task).busy);
        outbox.finish(octets, 5, waker);
        assert_eq!((outbox.len(), woken.0.load(Relaxed)), (0, 1));
    }

    #[tokio::test]
    async fn a_full_socket_is_the_tasks() {
        let (outbox, woken, _, mut peer) = connected().await;
        let (mut sent, mut number) = (Vec::new(), 0_u32);
        while woken.0.load(Relaxed) == 0 {
            let frame: Vec<u8> = (0..1000).flat_map(|_| number.to_be_bytes()).collect();
            number += 1;
            let waker = outbox.push_frame(&frame, Room::Always).unwrap();
            outbox.write_now(waker.unwrap());
            sent.extend(frame);
        }
        let left = outbox.len();
        assert!(left > 0);
        let mut writing = Vec::new();
        let flags = outbox.take(&mut writing, Waker::noop());
        assert!(flags.begun);
        let mut got = vec![0; sent.len() - left];
        peer.read_exact(&mut got).await.unwrap();
        got.extend(writing);
        assert!(got == sent, "octets are lost or out of order");
    }

    #[test]
    fn c13_the_memory_of_a_queue_counts_and_is_little_more_than_what_is_in_it() {
        let (queues, outbox) = outbox(0);
        while push(&outbox, 1_000, 1 << 20).is_ok() {}
        let counted = queues.excess();
        assert_eq!(counted, outbox.inner.lock().waiting.capacity());
        let full = 1 << 20;
        assert!((full - 1_000..full * 5 / 4 + 1_000).contains(&counted));
        let mut writing = Vec::new();
        outbox.take(&mut writing, Waker::noop());
        assert_eq!(queues.excess(), writing.capacity());
        push(&outbox, 10, usize::MAX).unwrap();
        assert_eq!(queues.excess(), writing.capacity() + 10);
        outbox.take(&mut writing, Waker::noop());
        outbox.take(&mut writing, Waker::noop());
        assert_eq!((queues.excess(), writing.len()), (0, 0));
    }

    #[test]
    fn shedding_frees_what_waits() {
        let (queues, outbox) = outbox(10);
        push(&outbox, 60, 100).unwrap();
        assert_eq!(queues.excess(), 50);
        outbox.shed();
        assert_eq!(queues.excess(), 0);
    }

    #[test]
    fn the_end_resumes_reading() {
        let (_, outbox) = outbox(usize::MAX);
        outbox.pause(true);
        outbox.end(Then::AwaitHello);
        let flags = outbox.look(Waker::noop());
        assert_eq!((flags.end, flags.paused), (Some(Then::AwaitHello), false));
    }

    #[test]
    fn the_end_is_told_once_the_rest_stays() {
        let (_, outbox) = outbox(usize::MAX);
        outbox.end(Then::Close);
        outbox.pause(true);
        let first = outbox.look(Waker::noop());
        assert_eq!((first.end, first.paused), (Some(Then::Close), true));
        let second = outbox.look(Waker::noop());
        assert_eq!((second.end, second.paused), (None, true));
    }
}

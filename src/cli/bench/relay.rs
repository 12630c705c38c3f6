//! The yardstick: a WebSocket relay that moves frames with no protocol at all.
//!
//! `/pair/X`: two connections with the same X; what one sends goes to the other. `/fan/X/pub` and `/fan/X/sub`: each
//! frame of the first is copied to all of the second. It is meant to be hard to beat: a batch of frames is read with
//! one system call, encoded once, appended to the bounded outbox of each receiver, and written with one system call.
//! There is no session, no id, no parsing of contents (not even UTF-8 beyond tungstenite's check), no logging.

use std::collections::HashMap;
use std::io::Write;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role as Side;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::codec::Codec;
use super::{process, upgrade};

/// Bytes an outbox takes before its writers have to wait; the same as the router's queue of a session.
const OUTBOX: usize = 1 << 20;
/// Room kept for one read.
const READ: usize = 64 * 1024;

/// `perilune bench relay`
#[derive(Args, Debug)]
pub(super) struct RelayArgs {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Worker threads; one runs everything on the main thread. Default: one per core it may use.
    #[arg(long)]
    threads: Option<usize>,
    /// Run on this core only.
    #[arg(long, value_name = "CORE")]
    pin: Option<usize>,
}

/// Runs the relay until it is killed.
pub(super) fn run(args: &RelayArgs) -> Result<()> {
    if let Some(core) = args.pin {
        process::pin_to(core)?;
    }
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()?.get(),
    };
    let mut runtime = if threads <= 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = runtime.worker_threads(threads.max(1)).enable_io().build()?;
    runtime.block_on(serve(args.listen))
}

async fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "listening on ws://{}/", listener.local_addr()?)?;
        stdout.flush()?;
    }
    let rooms = Arc::new(Rooms::default());
    loop {
        let (stream, _) = listener.accept().await?;
        // A peer that breaks off is the end of its connection, nothing more; the bench at the other side reports it.
        tokio::spawn(connection(stream, Arc::clone(&rooms)));
    }
}

async fn connection(mut stream: TcpStream, rooms: Arc<Rooms>) -> Result<()> {
    stream.set_nodelay(true)?;
    let request = upgrade::read_request(&mut stream).await?;
    let Some(seat) = rooms.enter(&request.path) else {
        return upgrade::refuse(&mut stream).await;
    };
    upgrade::respond(&mut stream, &request).await?;
    let (read, write) = stream.into_split();
    let codec = Codec::new(Side::Server, request.tail);
    tokio::spawn(write_outbox(write, Arc::clone(&seat.outbox)));
    let outcome = read_frames(read, codec, &seat).await;
    seat.outbox.close();
    if let Receivers::One(peer) = &seat.receivers {
        peer.close();
    }
    outcome
}

/// Reads batches of frames and hands each batch to all receivers.
async fn read_frames(mut stream: OwnedReadHalf, mut codec: Codec, seat: &Seat) -> Result<()> {
    let mut batch = Vec::new();
    loop {
        let mut open = true;
        while let Some(message) = codec.next()? {
            match message {
                Message::Text(text) => encode(&mut batch, Data::Text, text.into())?,
                Message::Binary(bytes) => encode(&mut batch, Data::Binary, bytes)?,
                Message::Close(_) => {
                    open = false;
                    break;
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        // Tungstenite's own answers to pings and closes.
        let answers = codec.staged()?;
        seat.outbox.push_answers(answers);
        answers.clear();
        if !batch.is_empty() {
            seat.receivers.push(&batch).await;
            batch.clear();
        }
        if !open {
            return Ok(());
        }
        let buffer = codec.received();
        buffer.reserve(READ);
        if stream.read_buf(buffer).await? == 0 {
            return Ok(());
        }
    }
}

fn encode(batch: &mut Vec<u8>, data: Data, payload: bytes::Bytes) -> Result<()> {
    Ok(Frame::message(payload, OpCode::Data(data), true).format(batch)?)
}

async fn write_outbox(mut stream: OwnedWriteHalf, outbox: Arc<Outbox>) {
    let mut batch = Vec::new();
    while outbox.take(&mut batch).await {
        if stream.write_all(&batch).await.is_err() {
            outbox.close();
            return;
        }
        batch.clear();
    }
}

/// Encoded frames on their way to one connection.
#[derive(Default)]
struct Outbox {
    state: Mutex<OutboxState>,
    filled: Notify,
    drained: Notify,
}

#[derive(Default)]
struct OutboxState {
    bytes: Vec<u8>,
    closed: bool,
}

impl Outbox {
    /// Appends a batch; waits while the outbox is full. An empty one takes any batch.
    async fn push(&self, batch: &[u8]) {
        loop {
            {
                let mut state = self.state.lock();
                if state.closed {
                    return;
                }
                if state.bytes.is_empty() || state.bytes.len() + batch.len() <= OUTBOX {
                    state.bytes.extend_from_slice(batch);
                    break;
                }
            }
            self.drained.notified().await;
        }
        self.filled.notify_one();
    }

    /// Appends answers to control frames, which are small and must not wait for anything.
    fn push_answers(&self, answers: &[u8]) {
        if !answers.is_empty() {
            self.state.lock().bytes.extend_from_slice(answers);
            self.filled.notify_one();
        }
    }

    /// Waits for bytes and swaps them into the empty `batch`; false when closed and empty.
    async fn take(&self, batch: &mut Vec<u8>) -> bool {
        loop {
            {
                let mut state = self.state.lock();
                if !state.bytes.is_empty() {
                    mem::swap(&mut state.bytes, batch);
                    break;
                }
                if state.closed {
                    return false;
                }
            }
            self.filled.notified().await;
        }
        self.drained.notify_one();
        true
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_one();
        self.drained.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.state.lock().closed
    }
}

/// What a connection got when it entered a room: what it must write, and to whom what it reads goes.
struct Seat {
    outbox: Arc<Outbox>,
    receivers: Receivers,
}

/// The subscribers of a fan.
type Audience = Mutex<Vec<Arc<Outbox>>>;

enum Receivers {
    Nobody,
    One(Arc<Outbox>),
    All(Arc<Audience>),
}

impl Receivers {
    async fn push(&self, batch: &[u8]) {
        match self {
            Self::Nobody => {}
            Self::One(peer) => peer.push(batch).await,
            Self::All(audience) => {
                // By index, because the list must not stay locked while one receiver makes us wait.
                let mut at = 0;
                loop {
                    let receiver = match audience.lock().get(at) {
                        Some(receiver) => Arc::clone(receiver),
                        None => return,
                    };
                    receiver.push(batch).await;
                    at += 1;
                }
            }
        }
    }
}

#[derive(Default)]
struct Rooms {
    /// The seats kept for the second connection of a pair.
    pairs: Mutex<HashMap<String, Seat>>,
    audiences: Mutex<HashMap<String, Arc<Audience>>>,
}

impl Rooms {
    /// The seat for a connection that asked for `path`, or `None` if there is no such role.
    fn enter(&self, path: &str) -> Option<Seat> {
        let outbox = Arc::new(Outbox::default());
        if let Some(name) = path.strip_prefix("/pair/") {
            let mut pairs = self.pairs.lock();
            if let Some(seat) = pairs.remove(name) {
                return Some(seat);
            }
            let peer = Arc::new(Outbox::default());
            let kept = Seat {
                outbox: Arc::clone(&peer),
                receivers: Receivers::One(Arc::clone(&outbox)),
            };
            pairs.insert(name.to_owned(), kept);
            return Some(Seat {
                outbox,
                receivers: Receivers::One(peer),
            });
        }
        let (name, role) = path.strip_prefix("/fan/")?.rsplit_once('/')?;
        let audience = Arc::clone(self.audiences.lock().entry(name.to_owned()).or_default());
        let receivers = match role {
            "pub" => Receivers::All(audience),
            "sub" => {
                let mut audience = audience.lock();
                audience.retain(|member| !member.is_closed());
                audience.push(Arc::clone(&outbox));
                Receivers::Nobody
            }
            _ => return None,
        };
        Some(Seat { outbox, receivers })
    }
}

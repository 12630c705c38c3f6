//! The incoming side of a connection: octets to messages, messages to the realm in batches.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tracing::info;

use super::{Connection, Stage};
use crate::core::{Input, Refusal};
use crate::server::frames::{FrameError, Incoming};
use crate::server::outbox::Room;
use crate::wire::{self, Message};

/// The largest read; one buffer of this size per thread.
const READ: usize = 64 << 10;
/// Messages that go to the realm under one lock.
const BATCH: usize = 64;
/// With so many octets no more of them: what one read has brought may be a hundred times as large once it is inflated.
const BATCH_OCTETS: usize = 256 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
    static INPUTS: Cell<Vec<Input>> = const { Cell::new(Vec::new()) };
}

impl Connection {
    /// Reads once, or goes on with what was read. True: something has changed.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.paused || self.ended {
            return Ok(false);
        }
        if !self.buffered {
            let Poll::Ready(octets) = self.fill(cx)? else {
                return Ok(false);
            };
            if octets == 0 {
                self.peer_ended();
                return Ok(true);
            }
            self.idle.missed = 0;
        }
        let heard = self.idle.heard;
        self.buffered = !self.deaf && self.consume(cx);
        if self.deaf || self.input.is_empty() {
            self.input = BytesMut::new();
        }
        if self.idle.heard == heard {
            // No realm has looked at the clock for these octets.
            self.idle.heard = self.shared.clock().now().mono;
        }
        Ok(true)
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            if !self.deaf {
                self.input.extend_from_slice(buffer.filled());
            }
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Takes a bounded number of messages off the input. True: there may be more.
    fn consume(&mut self, cx: &mut Context<'_>) -> bool {
        let mut inputs = INPUTS.take();
        let mut more = true;
        let mut taken = 0;
        for _ in 0..BATCH {
            match self.reader.next(&mut self.input) {
                Ok(Some(Incoming::Message(octets))) => {
                    taken += octets.len();
                    if !self.message(&octets, &mut inputs) || taken > BATCH_OCTETS {
                        break;
                    }
                }
                Ok(Some(Incoming::Ping(payload))) => {
                    // A peer that does not read its pongs does not get more of them.
                    self.idle.pinged = true;
                    let pong = self.format.framing.pong(&payload);
                    let room = match self.stage {
                        Stage::Open { .. } => self.format.queue,
                        _ => self.format.queue.min(self.limits.login_message),
                    };
                    let _ = self.outbox.push_frame(&pong, Room::UpTo(room));
                }
                Ok(Some(Incoming::Pong)) => self.idle.pinged = true,
                Ok(Some(Incoming::Close(code))) => {
                    self.hand_over(&mut inputs, cx);
                    self.leave();
                    self.deaf = true;
                    self.close(code);
                    break;
                }
                Ok(None) => {
                    more = false;
                    break;
                }
                Err(error) => {
                    self.hand_over(&mut inputs, cx);
                    self.broken(&error);
                    break;
                }
            }
        }
        self.hand_over(&mut inputs, cx);
        INPUTS.set(inputs);
        more && !self.deaf
    }

    /// One message. False: what is in `inputs` must reach the realm before the next one is looked at.
    fn message(&mut self, octets: &Bytes, inputs: &mut Vec<Input>) -> bool {
        let decoded = wire::decode(self.format.serializer, octets, self.limits.nesting);
        match (&self.stage, decoded) {
            (Stage::Open { session, .. }, Ok(message)) => {
                let last = matches!(message, Message::Goodbye(_) | Message::Abort(_));
                inputs.push(Input::Message {
                    session: *session,
                    message,
                });
                !last
            }
            (Stage::Open { session, .. }, Err(error)) => {
                inputs.push(Input::Violation {
                    session: *session,
                    text: format!("undecodable message: {error}"),
                });
                false
            }
            (Stage::Login(_) | Stage::Asking(..), Ok(message)) => {
                self.log_in(|handshake, context| handshake.message(context, message));
                true
            }
            (Stage::Login(_) | Stage::Asking(..), Err(error)) => {
                self.refuse(&Refusal::Undecodable(format!(
                    "undecodable message: {error}"
                )));
                false
            }
            (Stage::Leaving, Ok(Message::Goodbye(_) | Message::Abort(_))) => {
                self.close(1000);
                true
            }
            (Stage::Leaving | Stage::Closing(_) | Stage::Over, _) => true,
        }
    }

    /// Gives decoded messages to the realm under one lock.
    fn hand_over(&mut self, inputs: &mut Vec<Input>, cx: &mut Context<'_>) {
        let Stage::Open { realm, session } = &self.stage else {
            return inputs.clear();
        };
        if inputs.is_empty() {
            return;
        }
        let goodbye = matches!(
            inputs.last(),
            Some(Input::Message {
                message: Message::Goodbye(_) | Message::Abort(_),
                ..
            })
        );
        self.idle.heard = realm.step_of(Some(*session), |step| {
            inputs.drain(..).for_each(|input| step.input(input));
            step.now().mono
        });
        if !goodbye {
            // What this led to is found in the outbox when it is written from.
            return;
        }
        let flags = self.outbox.look(cx.waker());
        self.obey(flags);
        if matches!(self.stage, Stage::Leaving) {
            // Crossing GOODBYEs: theirs was in hand when ours went out (SES-30).
            self.close(1000);
        }
    }

    /// The frames of the peer make no sense.
    fn broken(&mut self, error: &FrameError) {
        self.deaf = true;
        self.failed = Some(error.clone());
        match (&self.stage, error.is_violation()) {
            (Stage::Open { realm, session }, true) => {
                realm.clone().input(Input::Violation {
                    session: *session,
                    text: error.to_string(),
                });
            }
            (Stage::Login(_) | Stage::Asking(..), true) => {
                self.refuse(&Refusal::Undecodable(error.to_string()))
            }
            (Stage::Login(_) | Stage::Asking(..), false) if error.close_code() == 1009 => {
                let key = match self.before_login() < self.message {
                    true => "limits.login_message",
                    false => "limits.message",
                };
                info!(peer = %self.transport.peer_name(), "refused before login: {error} ({key})");
                self.close(1009);
            }
            _ => {
                info!(peer = %self.transport.peer_name(), "connection failed: {error}");
                self.leave();
                self.close(1002);
            }
        }
    }

    fn peer_ended(&mut self) {
        self.ended = true;
        self.leave();
        self.close(1000);
    }
}

//! Calls: a caller keeps a window of them outstanding, a callee (ours, or a procedure that is there) answers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;

use super::connection::{Connection, readable};
use super::frames::{self, Serializer, Template};
use super::stopwatch::{Outcome, Span, Stopwatch};
use super::{Router, Target, unique};

/// The load of one measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct RpcLoad<'a> {
    pub(super) serializer: Serializer,
    /// Calls outstanding.
    pub(super) window: usize,
    /// Octets of text in arguments and result.
    pub(super) payload: usize,
    /// A procedure that is there already; without one the bench registers and answers its own.
    pub(super) procedure: Option<&'a str>,
    /// A procedure that is called over and over meanwhile, whatever it answers.
    pub(super) attack: Option<&'a str>,
}

/// Runs the load for `span`.
pub(super) async fn measure(
    target: &Target,
    load: RpcLoad<'_>,
    span: Span,
    bar: ProgressBar,
) -> Result<Outcome> {
    let name = unique("bench.echo");
    let serializer = load.serializer;
    let (connection, callee, procedure, answer) = match (target, load.procedure) {
        (Target::Relay { url, .. }, _) => {
            let path = format!("{url}/pair/{name}");
            let caller = Connection::bare(&path, serializer).await?;
            let callee = Connection::bare(&path, serializer).await?;
            // The relay hands the CALL and the YIELD through as they are.
            let callee = Some((callee, frames::CALL));
            (caller, callee, name.as_str(), frames::YIELD)
        }
        (Target::Router(Router { url, realm, .. }), None) => {
            let mut callee = Connection::join(url, realm, serializer).await?;
            let register = frames::register(serializer, 1, &name);
            callee.exchange(register, frames::REGISTERED).await?;
            let caller = Connection::join(url, realm, serializer).await?;
            let callee = Some((callee, frames::INVOCATION));
            (caller, callee, name.as_str(), frames::RESULT)
        }
        (Target::Router(Router { url, realm, .. }), Some(procedure)) => {
            let caller = Connection::join(url, realm, serializer).await?;
            (caller, None, procedure, frames::RESULT)
        }
    };
    let caller = Caller {
        connection,
        call: Template::call(serializer, procedure, load.payload),
        answer,
        in_flight: InFlight::default(),
    };
    let attacker = match (target, load.attack) {
        (Target::Router(Router { url, realm, .. }), Some(procedure)) => {
            let connection = Connection::join(url, realm, serializer).await?;
            let call = Template::call(serializer, procedure, 0);
            Some(tokio::spawn(attack(connection, call)))
        }
        _ => None,
    };
    let limit = span.total() + Duration::from_secs(10);
    let calls = tokio::time::timeout(limit, caller.run(load.window, span, target.pid(), bar));
    let outcome = match callee {
        None => calls.await,
        Some((connection, invocation)) => {
            let yield_ = Template::yield_(serializer, load.payload);
            let mut callee = tokio::spawn(answer_all(connection, invocation, yield_));
            let outcome = tokio::select! {
                outcome = calls => outcome,
                ended = &mut callee => match ended? {
                    Err(error) => return Err(error.context("the callee")),
                },
            };
            callee.abort();
            outcome
        }
    };
    if let Some(attacker) = attacker {
        ensure!(!attacker.is_finished(), "the attacker was thrown out");
        attacker.abort();
    }
    outcome.context("calls stayed without an answer for 10 s")?
}

/// Calls again as soon as there is an answer, good or bad.
async fn attack(mut connection: Connection, call: Template) -> Result<Infallible> {
    let mut id = 0;
    loop {
        id += 1;
        connection.send(&call, id)?;
        connection.flush().await?;
        while connection.next()?.is_none() {
            connection.read().await?;
        }
    }
}

struct Caller {
    connection: Connection,
    call: Template,
    /// Type code of a good answer.
    answer: u64,
    in_flight: InFlight,
}

impl Caller {
    async fn run(
        mut self,
        window: usize,
        span: Span,
        watched: Option<u32>,
        bar: ProgressBar,
    ) -> Result<Outcome> {
        let mut stopwatch = Stopwatch::start(span, watched, bar);
        let mut now = Instant::now();
        for _ in 0..window {
            self.call(now)?;
        }
        loop {
            self.connection.flush().await?;
            self.connection.read().await?;
            now = Instant::now();
            let go_on = stopwatch.go_on(now)?;
            while let Some(frame) = self.connection.next()? {
                let (code, id) = self.connection.head(&frame)?;
                ensure!(code == self.answer, "a call got {}", readable(&frame));
                stopwatch.count(now - self.in_flight.end(id)?, 1);
                if go_on {
                    self.call(now)?;
                }
            }
            if self.in_flight.is_empty() {
                return Ok(stopwatch.finish());
            }
        }
    }

    fn call(&mut self, now: Instant) -> Result<()> {
        let id = self.in_flight.begin(now);
        self.connection.send(&self.call, id)
    }
}

/// Answers every invocation (or every CALL the relay hands through) with the same result.
async fn answer_all(
    mut connection: Connection,
    invocation: u64,
    yield_: Template,
) -> Result<Infallible> {
    loop {
        connection.read().await?;
        while let Some(frame) = connection.next()? {
            let (code, id) = connection.head(&frame)?;
            ensure!(code == invocation, "the callee got {}", readable(&frame));
            connection.send(&yield_, id)?;
        }
        connection.flush().await?;
    }
}

/// Start times of outstanding calls by request id; answers may come in any order.
#[derive(Default)]
struct InFlight {
    /// Calls whose request ids are behind us.
    done: u64,
    begun: VecDeque<Option<Instant>>,
}

impl InFlight {
    /// Notes a new call; returns its request id: 1, 2, 3 …
    fn begin(&mut self, now: Instant) -> u64 {
        self.begun.push_back(Some(now));
        self.done + self.begun.len() as u64
    }

    /// Notes the answer to `id`; returns when the call began.
    fn end(&mut self, id: u64) -> Result<Instant> {
        let at = id.checked_sub(self.done + 1).map(|at| at as usize);
        let slot = at.and_then(|at| self.begun.get_mut(at));
        let Some(begun) = slot.and_then(Option::take) else {
            bail!("an answer to {id}, which is not outstanding");
        };
        while let Some(None) = self.begun.front() {
            self.begun.pop_front();
            self.done += 1;
        }
        Ok(begun)
    }

    fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_any_order_end_the_right_call_once() {
        let mut in_flight = InFlight::default();
        let start = Instant::now();
        for n in 0..3 {
            let id = in_flight.begin(start + Duration::from_millis(n));
            assert_eq!(id, n + 1);
        }
        assert_eq!(in_flight.end(2).unwrap(), start + Duration::from_millis(1));
        assert!(in_flight.end(2).is_err());
        assert_eq!(in_flight.end(1).unwrap(), start);
        assert!(in_flight.end(1).is_err());
        assert!(in_flight.end(9).is_err());
        assert_eq!(in_flight.begin(start), 4);
        in_flight.end(3).unwrap();
        assert!(!in_flight.is_empty());
        in_flight.end(4).unwrap();
        assert!(in_flight.is_empty());
    }
}

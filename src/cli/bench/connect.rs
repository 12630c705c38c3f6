//! Joins per second, and what an idle session costs the router.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Router;
use super::connection::Connection;
use super::frames::Serializer;
use super::process;
use super::stopwatch::{Outcome, Span, Stopwatch};

/// Joins that are under way at the same time.
const CONCURRENT: usize = 8;

/// Connects, joins and drops the connection, over and over.
pub(super) async fn measure(
    router: &Router,
    serializer: Serializer,
    span: Span,
    bar: ProgressBar,
) -> Result<Outcome> {
    let mut stopwatch = Stopwatch::start(span, router.pid, bar);
    let mut joins = JoinSet::new();
    for _ in 0..CONCURRENT {
        joins.spawn(join(router.clone(), serializer));
    }
    while let Some(joined) = joins.join_next().await {
        let (_, latency) = joined??;
        let go_on = stopwatch.go_on(Instant::now())?;
        stopwatch.count(latency, 1);
        if go_on {
            joins.spawn(join(router.clone(), serializer));
        }
    }
    Ok(stopwatch.finish())
}

async fn join(router: Router, serializer: Serializer) -> Result<(Connection, Duration)> {
    let begun = Instant::now();
    let connection = Connection::join(&router.url, &router.realm, serializer).await?;
    Ok((connection, begun.elapsed()))
}

/// What `--idle` found.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) sessions: usize,
    /// How long it took to open them.
    pub(super) opened_in: Duration,
    /// Resident memory of the router before, right after, and at the end of the hold.
    pub(super) resident: Option<[u64; 3]>,
}

impl Idle {
    /// Bytes of resident memory per session at the end of the hold.
    pub(super) fn per_session(&self) -> Option<f64> {
        let [before, _, held] = self.resident?;
        Some(held.saturating_sub(before) as f64 / self.sessions.max(1) as f64)
    }

    pub(super) fn json(&self) -> Value {
        let [before, opened, held] = self.resident.map_or([None; 3], |r| r.map(Some));
        json!({
            "sessions": self.sessions,
            "opened_seconds": self.opened_in.as_secs_f64(),
            "resident_before": before,
            "resident_opened": opened,
            "resident_held": held,
            "bytes_per_session": self.per_session(),
        })
    }
}

/// Opens `sessions`, holds them for `hold`, and reads the router's memory.
pub(super) async fn idle(
    router: &Router,
    serializer: Serializer,
    sessions: usize,
    hold: Duration,
    bar: ProgressBar,
) -> Result<Idle> {
    let _ = rlimit::increase_nofile_limit(sessions as u64 + 100)?;
    let resident = || router.pid.map(process::resident).transpose();
    let before = resident()?;
    let begun = Instant::now();
    let mut held = Vec::with_capacity(sessions);
    let mut joins = JoinSet::new();
    while held.len() < sessions {
        while joins.len() < CONCURRENT && held.len() + joins.len() < sessions {
            joins.spawn(join(router.clone(), serializer));
        }
        let Some(joined) = joins.join_next().await else {
            break;
        };
        let (connection, _) = joined?.with_context(|| format!("after {} sessions", held.len()))?;
        // Only the socket is kept: the bench's own buffers are not what is measured, but they take memory too.
        held.push(connection.into_stream());
        bar.inc(1);
    }
    let opened_in = begun.elapsed();
    let opened = resident()?;
    tokio::time::sleep(hold).await;
    let at_end = resident()?;
    Ok(Idle {
        sessions,
        opened_in,
        resident: before
            .zip(opened)
            .zip(at_end)
            .map(|((before, opened), held)| [before, opened, held]),
    })
}

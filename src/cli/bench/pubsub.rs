//! Events: one publisher keeps a window of publications on their way to N subscribers.
//!
//! A publication is finished when every subscriber has its event, and only then the next one goes out, so that no
//! queue on the way ever holds more than a window and nothing is dropped for being slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::connection::{Connection, readable};
use super::frames::{self, Serializer, Template};
use super::matching;
use super::stopwatch::{Outcome, Span, Stopwatch};
use super::{Router, Target, unique};

/// The load of one measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct FanLoad {
    pub(super) serializer: Serializer,
    /// Subscribers.
    pub(super) fanout: usize,
    /// Publications on their way.
    pub(super) window: usize,
    /// Octets of text in each.
    pub(super) payload: usize,
    /// Subscriptions that do not match.
    pub(super) subscriptions: usize,
}

/// Subscriptions a session may hold, by default.
const PER_SESSION: usize = 10_000;

/// Runs the load for `span`; what is counted are events delivered, the latency is that to the last subscriber.
pub(super) async fn measure(
    target: &Target,
    load: FanLoad,
    span: Span,
    bar: ProgressBar,
) -> Result<Outcome> {
    let topic = unique("bench.topic");
    let serializer = load.serializer;
    let arrivals = Arc::new(Arrivals::new(load));
    let mut subscribers = JoinSet::new();
    for _ in 0..load.fanout {
        let (subscriber, event) = match target {
            Target::Relay { url, .. } => {
                let path = format!("{url}/fan/{topic}/sub");
                (Connection::bare(&path, serializer).await?, frames::PUBLISH)
            }
            Target::Router(Router { url, realm, .. }) => {
                let mut subscriber = Connection::join(url, realm, serializer).await?;
                let subscribe = frames::subscribe(serializer, 1, &topic);
                subscriber.exchange(subscribe, frames::SUBSCRIBED).await?;
                (subscriber, frames::EVENT)
            }
        };
        subscribers.spawn(receive(subscriber, event, Arc::clone(&arrivals)));
    }
    let connection = match target {
        Target::Relay { url, .. } => {
            Connection::bare(&format!("{url}/fan/{topic}/pub"), serializer).await?
        }
        Target::Router(Router { url, realm, .. }) => {
            Connection::join(url, realm, serializer).await?
        }
    };
    let publisher = Publisher {
        connection,
        publish: Template::publish(serializer, &topic, load.payload),
        begun: vec![Instant::now(); load.window],
        arrivals,
    };
    let _bystanders = match target {
        Target::Relay { .. } => Vec::new(),
        Target::Router(router) => bystanders(router, load, &topic).await?,
    };
    let limit = span.total() + Duration::from_secs(10);
    tokio::select! {
        outcome = tokio::time::timeout(limit, publisher.run(load, span, target.pid(), bar)) => {
            outcome.context("events were lost: no publication finished for 10 s")?
        }
        Some(ended) = subscribers.join_next() => {
            ended?.context("a subscriber")?;
            anyhow::bail!("a subscriber stopped")
        }
    }
}

/// Sessions that hold the subscriptions that do not match; these begin like the topic.
async fn bystanders(router: &Router, load: FanLoad, topic: &str) -> Result<Vec<Connection>> {
    let root = topic.rsplit_once('.').map_or(topic, |(root, _)| root);
    let mut sessions = Vec::new();
    for number in 0..load.subscriptions {
        if number % PER_SESSION == 0 {
            let session = Connection::join(&router.url, &router.realm, load.serializer).await?;
            sessions.push(session);
        }
        let (policy, pattern) = matching::pattern(root, number);
        let request = (number % PER_SESSION) as u64 + 1;
        let subscribe = frames::subscribe_to(load.serializer, request, policy.as_str(), &pattern);
        if let Some(session) = sessions.last_mut() {
            session.exchange(subscribe, frames::SUBSCRIBED).await?;
        }
    }
    Ok(sessions)
}

struct Publisher {
    connection: Connection,
    publish: Template,
    /// When the publications on their way began, by number modulo window.
    begun: Vec<Instant>,
    arrivals: Arc<Arrivals>,
}

impl Publisher {
    async fn run(
        mut self,
        load: FanLoad,
        span: Span,
        watched: Option<u32>,
        bar: ProgressBar,
    ) -> Result<Outcome> {
        let mut stopwatch = Stopwatch::start(span, watched, bar);
        let window = load.window as u64;
        let mut published = 0;
        let mut counted = 0;
        let mut go_on = true;
        loop {
            let now = Instant::now();
            let finished = self.arrivals.finished.load(Ordering::Relaxed);
            if finished > counted {
                go_on = stopwatch.go_on(now)?;
            }
            for number in counted..finished {
                let begun = self.begun[(number % window) as usize];
                stopwatch.count(now - begun, load.fanout as u64);
            }
            counted = finished;
            while go_on && published < finished + window {
                self.begun[(published % window) as usize] = now;
                published += 1;
                self.connection.send(&self.publish, published)?;
            }
            if counted == published {
                return Ok(stopwatch.finish());
            }
            self.connection.flush().await?;
            self.arrivals.progress.notified().await;
        }
    }
}

async fn receive(mut connection: Connection, event: u64, arrivals: Arc<Arrivals>) -> Result<()> {
    let mut received = 0;
    loop {
        connection.read().await?;
        while let Some(frame) = connection.next()? {
            let (code, _) = connection.head(&frame)?;
            ensure!(code == event, "a subscriber got {}", readable(&frame));
            arrivals.arrived(received);
            received += 1;
        }
    }
}

/// Which publications have reached everybody.
struct Arrivals {
    fanout: u64,
    /// Events that have arrived, per publication on its way, by number modulo window.
    counts: Vec<AtomicU64>,
    /// Publications that have reached everybody. Each subscriber gets them in order, so they finish in order.
    finished: AtomicU64,
    progress: Notify,
}

impl Arrivals {
    fn new(load: FanLoad) -> Self {
        Self {
            fanout: load.fanout as u64,
            counts: (0..load.window).map(|_| AtomicU64::new(0)).collect(),
            finished: AtomicU64::new(0),
            progress: Notify::new(),
        }
    }

    /// A subscriber got its event of publication `number`. All of this happens on one thread.
    fn arrived(&self, number: u64) {
        let count = &self.counts[(number % self.counts.len() as u64) as usize];
        if count.fetch_add(1, Ordering::Relaxed) + 1 == self.fanout {
            count.store(0, Ordering::Relaxed);
            self.finished.fetch_add(1, Ordering::Relaxed);
            self.progress.notify_one();
        }
    }
}

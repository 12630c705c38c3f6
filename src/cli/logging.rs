//! The log: one line per event, to stderr.
//!
//! Nobody waits for it: lines go to a bounded queue, and a thread of its own writes them ([`queue`]). What cannot be
//! written is lost and counted. A kind of line that comes too often is counted, too ([`budget`]). What strangers may
//! have written is made harmless before ([`line`]).

mod budget;
mod line;
mod queue;

use std::io::{self, IsTerminal};
use std::panic;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use budget::Room;
use line::Said;
use queue::Queue;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// What this program says begins so. What its libraries say is left out at every level: some of them speak for each
/// octet that is read, and the file watcher for each line that is written here.
const OURS: &str = "perilune";

/// How long the end of the process waits for the last lines.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The running log; what was said is written when this is dropped, if that can be done soon.
pub(super) struct Log(Arc<Queue>);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.finish(LAST_WORDS);
    }
}

/// Installs the log for the rest of the process.
pub(super) fn start(level: LogLevel, format: LogFormat) -> io::Result<Log> {
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let style = match format {
        LogFormat::Text => line::Style::Text {
            colours: io::stderr().is_terminal(),
        },
        LogFormat::Json => line::Style::Json,
    };
    let queue = Queue::start(style)?;
    let lines = Lines {
        level,
        style,
        queue: queue.clone(),
    };
    tracing::subscriber::set_global_default(lines).map_err(io::Error::other)?;
    // The usual hook writes to stderr itself, and would wait for whoever does not read it.
    panic::set_hook(Box::new(tell_panic));
    Ok(Log(queue))
}

fn tell_panic(panic: &panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let place = panic.location().map(ToString::to_string);
    let payload = panic.payload();
    let text = match payload.downcast_ref::<&str>() {
        Some(text) => text,
        None => payload
            .downcast_ref::<String>()
            .map_or("no text", |text| text),
    };
    let trace = std::backtrace::Backtrace::capture();
    match trace.status() {
        std::backtrace::BacktraceStatus::Captured => {
            tracing::error!(thread, place, "panic, which is a bug: {text}\n{trace}");
        }
        _ => tracing::error!(thread, place, "panic, which is a bug: {text}"),
    }
}

/// Takes what is said, and makes lines of it.
struct Lines {
    level: LevelFilter,
    style: line::Style,
    queue: Arc<Queue>,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.target().starts_with(OURS)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let said = Said::of(event);
        let metadata = event.metadata();
        let line = self.style.line(*metadata.level(), metadata.target(), &said);
        let kind = (metadata.callsite(), said.script().to_owned());
        self.queue.push(&line, kind, room(metadata, &said), || {
            (*metadata.level(), said.in_short())
        });
    }

    // There are no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What scripts say on purpose, and what sessions that were admitted do, may be told more often than what strangers do
/// and what goes wrong; so may what only shows on request.
fn room(metadata: &Metadata<'_>, said: &Said) -> Room {
    let own_words = metadata.target() == "perilune::script";
    match own_words || said.has("session") || *metadata.level() > Level::INFO {
        true => Room::Wide,
        false => Room::Narrow,
    }
}

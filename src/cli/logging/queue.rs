//! Lines on their way to stderr: a bounded queue, and the one thread that ever waits for whoever reads them.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::Level;

use super::budget::{Budget, Kind, Room};
use super::line::Style;

/// Octets that may wait to be written; what comes then is lost.
const OCTETS: usize = 1 << 20;
/// After a failed write, lines gather for so long before the next try.
const PAUSE: Duration = Duration::from_secs(1);
/// How often somebody who shares our stderr and made it non-blocking is asked again.
const NUDGE: Duration = Duration::from_millis(20);

pub(super) struct Queue {
    state: Mutex<State>,
    /// Something is to be written, or owed.
    more: Condvar,
    /// All is written.
    done: Condvar,
}

struct State {
    style: Style,
    budget: Budget,
    lines: Vec<u8>,
    /// Lines that found no room, or could not be written.
    lost: u64,
    ending: bool,
    ended: bool,
}

impl Queue {
    /// Starts the thread.
    pub(super) fn start(style: Style) -> io::Result<Arc<Self>> {
        // One of its own: whoever else prints to stderr holds that one's lock while it waits.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Self::writing_to(stderr, style)
    }

    fn writing_to(out: impl Write + Send + 'static, style: Style) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            state: Mutex::new(State {
                style,
                budget: Budget::default(),
                lines: Vec::new(),
                lost: 0,
                ending: false,
                ended: false,
            }),
            more: Condvar::new(),
            done: Condvar::new(),
        });
        let of_thread = queue.clone();
        thread::Builder::new()
            .name("log".into())
            .spawn(move || of_thread.write(out))?;
        Ok(queue)
    }

    /// Queues a line if its kind may be told, and there is room; never waits.
    pub(super) fn push(
        &self,
        line: &[u8],
        kind: Kind,
        room: Room,
        sample: impl FnOnce() -> (Level, String),
    ) {
        let mut state = self.state.lock();
        let waits = !state.lines.is_empty() || state.lost > 0;
        let owed = state.budget.owes();
        let now = Instant::now();
        let news = if !state.budget.admits(kind, cost(line), room, now, sample) {
            !owed
        } else if state.lost > 0 || state.lines.len() + line.len() > OCTETS {
            // What came later must not stand before the word that lines are lost.
            state.lost += count(line);
            !waits
        } else {
            state.lines.extend_from_slice(line);
            !waits
        };
        drop(state);
        if news {
            self.more.notify_one();
        }
    }

    /// Has the rest written, but not for ever.
    pub(super) fn finish(&self, patience: Duration) {
        let mut state = self.state.lock();
        state.ending = true;
        self.more.notify_one();
        let until = Instant::now() + patience;
        while !state.ended && !self.done.wait_until(&mut state, until).timed_out() {}
    }

    /// The body of the thread.
    fn write(&self, mut out: impl Write) {
        // A line was cut in the middle.
        let mut cut = false;
        loop {
            let (lines, lost, last) = self.next();
            let mut octets = Vec::new();
            if cut {
                octets.push(b'\n');
            }
            octets.extend_from_slice(&lines);
            if lost > 0 {
                octets.extend_from_slice(&self.state.lock().style.lost(lost));
            }
            let rest = write_all(&mut out, &octets);
            if !rest.is_empty() {
                cut = rest.len() < octets.len()
                    && !octets[..octets.len() - rest.len()].ends_with(b"\n");
                self.lost(count(rest).saturating_sub(u64::from(lost > 0)) + lost);
            } else {
                cut = false;
            }
            if last {
                break;
            }
        }
        self.state.lock().ended = true;
        self.done.notify_all();
    }

    /// Waits for something to write. With it comes how many lines were lost behind it, and whether it is the last.
    fn next(&self) -> (Vec<u8>, u64, bool) {
        let mut state = self.state.lock();
        loop {
            let ending = state.ending;
            for left_out in state.budget.due(Instant::now(), ending) {
                let line = state.style.left_out(&left_out);
                state.lines.extend_from_slice(&line);
            }
            if ending || !state.lines.is_empty() || state.lost > 0 {
                let lines = std::mem::take(&mut state.lines);
                return (lines, std::mem::take(&mut state.lost), ending);
            }
            match state.budget.owes() {
                true => drop(self.more.wait_for(&mut state, PAUSE / 4)),
                false => self.more.wait(&mut state),
            }
        }
    }

    /// Notes lines that could not be written, and lets some time pass.
    fn lost(&self, lines: u64) {
        let mut state = self.state.lock();
        state.lost += lines;
        let until = Instant::now() + PAUSE;
        while !state.ending && !self.more.wait_until(&mut state, until).timed_out() {}
    }
}

/// Writes as much as can be written, and gives back the rest.
fn write_all<'a>(out: &mut impl Write, mut octets: &'a [u8]) -> &'a [u8] {
    while !octets.is_empty() {
        match out.write(octets) {
            Ok(0) => break,
            Ok(written) => octets = &octets[written..],
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => thread::sleep(NUDGE),
                _ => break,
            },
        }
    }
    octets
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|octet| **octet == b'\n').count() as u64
}

/// Long lines count as several; a traceback does not use up all there is for the next seconds.
fn cost(line: &[u8]) -> u32 {
    let lines = count(line) as usize + line.len() / 1_024;
    u32::try_from(lines).unwrap_or(u32::MAX).min(20)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Takes octets when it is told how: so many, or an error.
    struct Reader {
        told: Receiver<io::Result<usize>>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Reader {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            let most = self.told.recv().unwrap_or(Ok(usize::MAX))?;
            let taken = &octets[..octets.len().min(most)];
            let _ = self.written.send(taken.to_vec());
            Ok(taken.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue() -> (Arc<Queue>, Sender<io::Result<usize>>, Receiver<Vec<u8>>) {
        let (tell, told) = channel();
        let (written, read) = channel();
        let style = Style::Text { colours: false };
        let queue = Queue::writing_to(Reader { told, written }, style).expect("a thread");
        (queue, tell, read)
    }

    /// Any place in the code.
    fn place() -> tracing::callsite::Identifier {
        static PLACE: tracing::callsite::DefaultCallsite =
            tracing::callsite::DefaultCallsite::new(&META);
        static META: tracing::Metadata<'static> = tracing::metadata! {
            name: "test",
            target: "perilune",
            level: Level::INFO,
            fields: &[],
            callsite: &PLACE,
            kind: tracing::metadata::Kind::EVENT
        };
        META.callsite()
    }

    fn push(queue: &Queue, line: &str, kind: usize) {
        let kind = (place(), kind.to_string());
        queue.push(line.as_bytes(), kind, Room::Wide, || {
            (Level::INFO, line.trim_end().to_owned())
        });
    }

    #[test]
    fn what_is_not_read_is_lost_and_counted() {
        let (queue, tell, read) = queue();
        let line = format!("{}\n", "x".repeat(9_999));
        let count = 400;
        // The writer stands still from the first line on, and nobody waits for it.
        for kind in 0..count {
            push(&queue, &line, kind);
        }
        drop(tell);
        queue.finish(Duration::from_secs(10));
        let text = String::from_utf8(read.iter().flatten().collect()).expect("UTF-8");
        let written = text.lines().filter(|line| line.starts_with("xx")).count();
        assert!((100..=210).contains(&written), "{written}");
        // Told once for each time that the writer looked.
        let told: Vec<usize> = text
            .lines()
            .filter_map(|line| line.split_once(" lines of the log are lost"))
            .filter_map(|(before, _)| before.rsplit(' ').next()?.parse().ok())
            .collect();
        assert_eq!(told.iter().sum::<usize>(), count - written, "{told:?}");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_a_cut_line_ended() {
        let (queue, tell, read) = queue();
        push(&queue, "one\n", 1);
        tell.send(Ok(2)).expect("runs");
        tell.send(Err(ErrorKind::StorageFull.into())).expect("runs");
        assert_eq!(read.recv(), Ok(b"on".to_vec()));
        drop(tell);
        push(&queue, "two\n", 1);
        queue.finish(Duration::from_secs(10));
        let text = String::from_utf8(read.iter().flatten().collect()).expect("UTF-8");
        assert!(text.starts_with("\n"), "{text}");
        assert!(text.contains("lines of the log are lost"), "{text}");
    }

    #[test]
    fn the_end_is_not_waited_for_for_ever() {
        let (queue, _tell, _read) = queue();
        push(&queue, "one\n", 1);
        queue.finish(Duration::from_millis(10));
    }

    #[test]
    fn a_kind_that_comes_too_often_is_counted() {
        let (queue, tell, read) = queue();
        drop(tell);
        for _ in 0..1_000 {
            push(&queue, "again\n", 1);
        }
        push(&queue, "another\n", 2);
        queue.finish(Duration::from_secs(10));
        let text = String::from_utf8(read.iter().flatten().collect()).expect("UTF-8");
        let told = text.lines().filter(|line| *line == "again").count();
        assert!((200..400).contains(&told), "{told}");
        assert!(
            text.contains(&format!("{} more like: again", 1_000 - told)),
            "{text}"
        );
        assert!(text.contains("another\n"));
    }
}

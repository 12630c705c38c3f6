//! When a measurement begins and ends, what it counted in between, and the progress bar that shows it.

use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::process;

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Load that is not counted, so that buffers have grown and code is warm.
    pub(super) warmup: Duration,
    pub(super) measured: Duration,
}

impl Span {
    /// `seconds` of measuring after a tenth of that (at most a second) of warm-up.
    pub(super) fn seconds(seconds: f64) -> Self {
        let measured = Duration::from_secs_f64(seconds);
        Self {
            warmup: (measured / 10).min(Duration::from_secs(1)),
            measured,
        }
    }

    pub(super) fn total(self) -> Duration {
        self.warmup + self.measured
    }
}

/// A bar over `total`, on stderr, not there when stderr is no terminal or `quiet`.
pub(super) fn bar(total: Duration, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:28} {bar:40} {percent:>3} %  {elapsed}")
        .expect("the template is constant");
    ProgressBar::new(total.as_millis() as u64).with_style(style)
}

/// What one measurement found.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Operations finished in the measured time.
    pub(super) count: u64,
    pub(super) elapsed: Duration,
    pub(super) latency: Latency,
    /// CPU time the watched process used meanwhile.
    pub(super) cpu: Option<Duration>,
    /// CPU time the bench itself used meanwhile, where the system tells.
    pub(super) own_cpu: Option<Duration>,
}

impl Outcome {
    /// Operations per second.
    pub(super) fn rate(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }

    /// CPU microseconds of the watched process per operation.
    pub(super) fn cpu_micros(&self) -> Option<f64> {
        Some(self.per_operation(self.cpu?))
    }

    /// CPU microseconds of client and watched process together per operation. Its inverse is the rate on one core
    /// that nobody else uses, and it stays true on a machine that is busy with other things.
    pub(super) fn total_cpu_micros(&self) -> Option<f64> {
        Some(self.per_operation(self.cpu? + self.own_cpu?))
    }

    fn per_operation(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.count.max(1) as f64
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Warmup,
    Measuring,
    Over,
}

/// Counts operations and their latencies while the measured time runs.
pub(super) struct Stopwatch {
    span: Span,
    phase: Phase,
    begun: Instant,
    ended: Instant,
    next_tick: Instant,
    bar: ProgressBar,
    watched: Option<u32>,
    /// CPU time of the watched process and of the bench: first at the begin, then what the measured time took.
    cpu: [Option<Duration>; 2],
    count: u64,
    latency: Latency,
}

impl Stopwatch {
    /// Starts with the warm-up; `watched` is the process whose CPU time is wanted.
    pub(super) fn start(span: Span, watched: Option<u32>, bar: ProgressBar) -> Self {
        let now = Instant::now();
        Self {
            span,
            phase: Phase::Warmup,
            begun: now,
            ended: now,
            next_tick: now + TICK,
            bar,
            watched,
            cpu: [None; 2],
            count: 0,
            latency: Latency::default(),
        }
    }

    /// Tells the time, once per batch; false when no new operation is to be started.
    pub(super) fn go_on(&mut self, now: Instant) -> Result<bool> {
        if now >= self.next_tick {
            self.bar.inc(TICK.as_millis() as u64);
            self.next_tick += TICK;
        }
        let since = now - self.begun;
        match self.phase {
            Phase::Warmup if since >= self.span.warmup => {
                self.phase = Phase::Measuring;
                self.begun = now;
                self.cpu = self.cpu_times()?;
            }
            Phase::Measuring if since >= self.span.measured => {
                self.phase = Phase::Over;
                self.ended = now;
                let at_end = self.cpu_times()?;
                for (cpu, at_end) in self.cpu.iter_mut().zip(at_end) {
                    *cpu = at_end
                        .zip(*cpu)
                        .map(|(end, begin)| end.saturating_sub(begin));
                }
            }
            Phase::Warmup | Phase::Measuring | Phase::Over => {}
        }
        Ok(self.phase != Phase::Over)
    }

    fn cpu_times(&self) -> Result<[Option<Duration>; 2]> {
        let watched = self.watched.map(process::cpu_time).transpose()?;
        // Not asked for by the user, so a system without /proc is no error.
        let own = process::cpu_time(std::process::id()).ok();
        Ok([watched, own])
    }

    /// Counts one operation that took `latency`, and `weight` results of it.
    pub(super) fn count(&mut self, latency: Duration, weight: u64) {
        if self.phase == Phase::Measuring {
            self.count += weight;
            self.latency.add(latency);
        }
    }

    pub(super) fn finish(self) -> Outcome {
        let [cpu, own_cpu] = self.cpu;
        Outcome {
            count: self.count,
            elapsed: self.ended - self.begun,
            latency: self.latency,
            cpu,
            own_cpu,
        }
    }
}

/// Sub-buckets per power of two: quantiles are right to 1/64.
const STEPS: u64 = 64;

/// Latencies in buckets of logarithmic width.
#[derive(Debug)]
pub(super) struct Latency {
    buckets: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            // 2^6 exact ones, then STEPS for each further power of two of a u64.
            buckets: vec![0; (STEPS * 59) as usize],
            total: 0,
            max: Duration::ZERO,
        }
    }
}

impl Latency {
    fn add(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[Self::bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(latency);
    }

    fn bucket(nanos: u64) -> usize {
        if nanos < STEPS {
            return nanos as usize;
        }
        let power = u64::from(nanos.ilog2()) - 6;
        (STEPS * (power + 1) + ((nanos >> power) - STEPS)) as usize
    }

    /// The upper edge of a bucket.
    fn edge(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        if bucket < STEPS {
            return bucket;
        }
        let power = bucket / STEPS - 1;
        ((bucket % STEPS + STEPS) << power) + ((1 << power) - 1)
    }

    /// The latency that a share `q` of the operations did not exceed.
    pub(super) fn quantile(&self, q: f64) -> Duration {
        let rank = (self.total as f64 * q).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(Self::edge(bucket)).min(self.max);
            }
        }
        self.max
    }

    pub(super) fn max(&self) -> Duration {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_in_the_bucket_whose_edges_enclose_it() {
        let mut nanos = 0;
        while nanos < u64::MAX / 3 {
            let bucket = Latency::bucket(nanos);
            assert!(Latency::edge(bucket) >= nanos, "{nanos}");
            assert!(
                bucket == 0 || Latency::edge(bucket - 1) < nanos,
                "{nanos} above {bucket}"
            );
            nanos += nanos / 20 + 1;
        }
        assert!(Latency::bucket(u64::MAX) < Latency::default().buckets.len());
    }

    #[test]
    fn quantiles_of_a_ramp() {
        let mut latency = Latency::default();
        for micros in 1..=1000 {
            latency.add(Duration::from_micros(micros));
        }
        let near = |q, micros: f64| {
            let found = latency.quantile(q).as_secs_f64() * 1e6;
            assert!((found / micros - 1.0).abs() < 0.02, "{q}: {found}");
        };
        near(0.5, 500.0);
        near(0.99, 990.0);
        assert_eq!(latency.quantile(1.0), Duration::from_millis(1));
        assert_eq!(latency.max(), Duration::from_millis(1));
        assert_eq!(Latency::default().quantile(0.5), Duration::ZERO);
    }
}

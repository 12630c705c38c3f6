//! What the bench does to processes: start one and learn its address, pin to a core, read CPU time and memory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Linux reports CPU ticks to user space in hundredths of a second, whatever the kernel's own rate.
const TICKS_PER_SECOND: u64 = 100;

/// A server under test; killed when dropped.
pub(super) struct Server {
    child: Child,
    /// `ws://host:port` of its first listener, without a path.
    pub(super) url: String,
    /// Held open: a server that prints to a closed pipe would die.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Starts `command` and waits for its line `listening on ws://…`.
    pub(super) fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let mut line = String::new();
        loop {
            line.clear();
            if stdout.read_line(&mut line)? == 0 {
                let status = child.wait()?;
                bail!("{command:?} ended ({status}) before it listened");
            }
            let Some(rest) = line.trim_end().strip_prefix("listening on ws://") else {
                continue;
            };
            let address = rest.split(['/', ' ']).next().unwrap_or_default();
            return Ok(Self {
                child,
                url: format!("ws://{address}"),
                _stdout: stdout,
            });
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have died by itself, which the measurement has noticed then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time all threads of a process have used: in nanoseconds where the kernel keeps them, else in ticks.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("no such process")? {
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            return cpu_ticks(pid);
        };
        let run: u64 = text.split(' ').next().unwrap_or_default().parse()?;
        nanos += run;
    }
    if nanos == 0 {
        return cpu_ticks(pid);
    }
    Ok(Duration::from_nanos(nanos))
}

fn cpu_ticks(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses and may contain anything; utime and stime are 14 and 15.
    let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = 0;
    for _ in 0..2 {
        let field: u64 = fields.next().context("/proc/PID/stat")?.parse()?;
        ticks += field;
    }
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Resident memory of a process in bytes.
pub(super) fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("no such process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next());
    let kilobytes: u64 = kilobytes
        .context("/proc/PID/status has no VmRSS")?
        .parse()?;
    Ok(kilobytes * 1024)
}

/// Binds this thread, and all threads and processes it starts from now on, to one core.
#[cfg(target_os = "linux")]
// Reason: the affinity call has no safe wrapper in our dependencies. The set is plain data of known size.
#[allow(unsafe_code)]
pub(super) fn pin_to(core: usize) -> Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        bail!("there is no core {core}");
    }
    // SAFETY: all zeroes is a valid, empty cpu_set_t; `core` is within it; the call only reads it.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if done != 0 {
        let error = std::io::Error::last_os_error();
        return Err(error).with_context(|| format!("cannot pin to core {core}"));
    }
    Ok(())
}

/// Binding to a core is there on Linux only.
#[cfg(not(target_os = "linux"))]
pub(super) fn pin_to(_core: usize) -> Result<()> {
    bail!("--pin works on Linux only")
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_grows_and_memory_is_there() {
        let pid = std::process::id();
        let before = cpu_time(pid).unwrap();
        let spun = std::time::Instant::now();
        while spun.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        assert!(cpu_time(pid).unwrap() >= before);
        assert!(cpu_ticks(pid).unwrap() < Duration::from_secs(3600));
        assert!(resident(pid).unwrap() > 100 * 1024);
    }
}

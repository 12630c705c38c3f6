//! Timers of connections, which nearly never ring.
//!
//! As long as a runtime has any timer armed, its workers ask the clock and the timer wheel, and have the kernel arm a
//! timer of its own, each time they wait for sockets: more than handling a small message costs. Every idle connection
//! has one armed. So these wait in a runtime of their own, on a thread that does nothing else.

use std::pin::Pin;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, Sleep};

/// Lives as long as the process, as connections of all routers wait there.
static KEEPER: OnceLock<Handle> = OnceLock::new();

/// Starts the thread, if it is not there yet. To be called before anybody may connect: later there may be no thread to
/// be had.
pub(crate) fn start() -> std::io::Result<()> {
    static STARTING: Mutex<()> = Mutex::new(());
    let _one = STARTING.lock();
    if KEEPER.get().is_some() {
        return Ok(());
    }
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("timers".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    KEEPER.get_or_init(|| handle);
    Ok(())
}

/// Rings at `deadline`, also after it has been reset; may be awaited in any runtime.
pub(crate) fn timer(deadline: Instant) -> Pin<Box<Sleep>> {
    let _keeper = KEEPER.get().map(Handle::enter);
    Box::pin(tokio::time::sleep_until(deadline))
}

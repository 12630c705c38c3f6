//! Timers of connections, which nearly never ring.
//!
//! As long as a runtime has any timer armed, its workers ask the clock and the timer wheel, and have the kernel arm a
//! timer of its own, each time they wait for sockets: more than handling a small message costs. Every idle connection
//! has one armed. So these wait in a runtime of their own, on a thread that does nothing else.

use std::pin::Pin;
use std::sync::LazyLock;

use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, Sleep};
use tracing::warn;

/// Lives as long as the process, as connections of all routers wait there. `None`: there could be no thread.
static KEEPER: LazyLock<Option<Handle>> = LazyLock::new(|| {
    start()
        .inspect_err(|error| warn!("no thread for timers: {error}"))
        .ok()
});

fn start() -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("timers".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Rings at `deadline`, also after it has been reset; may be awaited in any runtime.
pub(crate) fn timer(deadline: Instant) -> Pin<Box<Sleep>> {
    let _keeper = KEEPER.as_ref().map(Handle::enter);
    Box::pin(tokio::time::sleep_until(deadline))
}

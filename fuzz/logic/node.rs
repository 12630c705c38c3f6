//! A whole router in this process, at a unix socket, for targets that need sockets and scripts.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use perilune::lua::host::{Configuration, Host, HostOptions, load_configuration};
use perilune::server::{Clock, Listener, Router};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Longer than anything takes, even with sanitizers beside others on two cores.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a router's scripts get to end.
const END: Duration = Duration::from_millis(300);

/// Panics of this process, those of its threads and tasks too.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics from now on.
pub fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            before(panic);
        }));
    });
}

#[track_caller]
pub fn assert_calm() {
    assert_eq!(
        PANICS.load(Ordering::SeqCst),
        0,
        "something has panicked in the router"
    );
}

/// A folder of these files. In memory, where that is possible.
pub fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        TempDir::new_in(memory)
    } else {
        TempDir::new()
    };
    let folder = folder.expect("a folder");
    for (name, contents) in files {
        std::fs::write(folder.path().join(name), contents).expect("writes");
    }
    folder
}

/// See the module.
pub struct Node {
    pub folder: TempDir,
    runtime: Option<Runtime>,
    router: Arc<Router>,
    pub host: Arc<Host>,
}

impl Node {
    /// Loads all and listens; what scripts do wrong is told by `problems`.
    pub fn start(folder: TempDir) -> Result<(Self, Vec<String>), String> {
        count_panics();
        let configuration = load(folder.path())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let context = runtime.enter();
        let router =
            Router::with_data(&configuration.settings).map_err(|error| error.to_string())?;
        let router = Arc::new(router);
        let host = Host::new(router.clone(), &configuration, HostOptions::default());
        let problems = host.load_all().iter().map(ToString::to_string).collect();
        for listener in &configuration.settings.listeners {
            let bound = runtime
                .block_on(Listener::bind(listener))
                .map_err(|error| error.to_string())?;
            for listener in bound {
                router.serve(listener);
            }
        }
        drop(context);
        let runtime = Some(runtime);
        Ok((
            Self {
                folder,
                runtime,
                router,
                host,
            },
            problems,
        ))
    }

    /// What answers these octets, up to `wait` of silence; `None`: nobody listens.
    pub fn says(&self, socket: &str, octets: &[u8], wait: Duration) -> Option<Vec<u8>> {
        let mut stream = UnixStream::connect(self.folder.path().join(socket)).ok()?;
        stream.set_read_timeout(Some(wait)).expect("a time-out");
        stream
            .set_write_timeout(Some(PATIENCE))
            .expect("a time-out");
        // Who has sent enough to be refused is not read to the end.
        let _ = stream.write_all(octets);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut part) {
            answer.extend_from_slice(&part[..read]);
        }
        Some(answer)
    }

    /// Calls a procedure by the HTTP bridge at `/call`; the whole answer.
    pub fn call(&self, socket: &str, procedure: &str) -> String {
        let body = format!(r#"{{"procedure": "{procedure}"}}"#);
        let request = format!(
            "POST /call HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = UnixStream::connect(self.folder.path().join(socket)).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.write_all(request.as_bytes()).expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.router.stop_admitting();
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(async {
                // Whoever is not done by then is cut off.
                let ended = self.host.clone();
                let _ = tokio::time::timeout(END, ended.shutdown()).await;
                self.router.shutdown().await;
            });
            runtime.shutdown_timeout(Duration::from_millis(200));
        }
    }
}

/// Loads a configuration, as `serve` does.
pub fn load(app: &Path) -> Result<Configuration, String> {
    load_configuration(app, Clock::start()).map_err(|error| {
        let findings: Vec<_> = error.findings.iter().map(ToString::to_string).collect();
        findings.join("\n")
    })
}

//! The built program as its users have it: an application in a folder of its own, `perilune` run on it, its output
//! read line by line, and waited for.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use perilune::wire::{Authenticate, Error, Invocation, Message, Payload, Serializer, Yield};
use perilune::words::{Dict, RequestId, Value};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use super::{Client, Kind, PATIENCE, REALM, hello, soon};

/// Writes files into a new folder.
pub fn app(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    folder
}

/// The configuration of realm `realm1`, where everybody may do everything, with these scripts.
pub fn open_realm(scripts: &str) -> String {
    format!(
        r#"return {{
  limits = {{ goodbye = "500ms" }},
  realms = {{ realm1 = {{
    auth = {{ anonymous = {{ role = "guest" }} }},
    roles = {{ guest = {{ {{ uri = "", match = "prefix", allow = {{ "call", "register", "publish", "subscribe" }} }} }} }},
    scripts = {{ {scripts} }},
  }} }},
}}"#
    )
}

/// The program under test, or the one that `PERILUNE` names (a release build, for figures).
pub fn perilune() -> Command {
    let built = || env!("CARGO_BIN_EXE_perilune").into();
    let mut command = Command::new(std::env::var_os("PERILUNE").unwrap_or_else(built));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Lines that a program has printed so far.
#[derive(Default)]
pub struct Lines {
    said: Mutex<Said>,
    more: Notify,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn of(pipe: impl AsyncRead + Unpin + Send + 'static) -> Arc<Self> {
        let all = Arc::new(Self::default());
        let filling = all.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                filling.said.lock().lines.push(line);
                filling.more.notify_waiters();
            }
            filling.said.lock().ended = true;
            filling.more.notify_waiters();
        });
        all
    }

    /// Waits until what has been printed, and whether that is all, satisfies somebody.
    async fn until<T>(&self, mut look: impl FnMut(&[String], bool) -> Option<T>) -> Option<T> {
        let found = async {
            loop {
                let more = self.more.notified();
                let found = {
                    let said = self.said.lock();
                    look(&said.lines, said.ended)
                };
                if let Some(found) = found {
                    return found;
                }
                more.await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.ok()
    }

    /// Waits for a line that has all of these in it.
    pub async fn with(&self, parts: &[&str]) -> String {
        self.with_after(0, parts).await
    }

    /// Waits for such a line behind the first `count` lines.
    pub async fn with_after(&self, count: usize, parts: &[&str]) -> String {
        self.find_after(count, parts).await.0
    }

    /// Waits for such a line; with it comes how many there are up to it.
    pub async fn find_after(&self, count: usize, parts: &[&str]) -> (String, usize) {
        let found = self.until(|lines, _| {
            let at = lines[count..]
                .iter()
                .position(|line| parts.iter().all(|part| line.contains(part)))?;
            Some((lines[count + at].clone(), count + at + 1))
        });
        match found.await {
            Some(found) => found,
            None => panic!("no line with {parts:?} in:\n{}", self.text()),
        }
    }

    /// Waits for the end.
    pub async fn ended(&self) {
        let ended = self.until(|_, ended| ended.then_some(())).await;
        assert!(ended.is_some(), "goes on: {}", self.text());
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.said.lock().lines.len()
    }

    /// How many have this in them.
    pub fn count_with(&self, part: &str) -> usize {
        let said = self.said.lock();
        said.lines.iter().filter(|line| line.contains(part)).count()
    }

    pub fn text(&self) -> String {
        self.said.lock().lines.join("\n")
    }
}

/// A running `perilune serve`; killed when dropped.
pub struct Program {
    pub child: Child,
    /// Standard output.
    pub out: Arc<Lines>,
    /// Standard error.
    pub log: Arc<Lines>,
}

impl Program {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("starts");
        let out = Lines::of(child.stdout.take().expect("piped"));
        let log = Lines::of(child.stderr.take().expect("piped"));
        Self { child, out, log }
    }

    /// Serves an application on a free port.
    pub fn serve(app: &Path, arguments: &[&str]) -> Self {
        let mut command = perilune();
        command.arg("serve").arg(app);
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        Self::start(command)
    }

    /// Where it listens.
    pub async fn address(&self) -> SocketAddr {
        let line = tokio::select! {
            line = self.out.with(&["listening on ws://"]) => line,
            _ = self.log.with(&["not started"]) => panic!("not started:\n{}", self.log.text()),
        };
        let rest = line.trim_start_matches("listening on ws://");
        let address = rest.split(['/', ' ']).next().unwrap_or_default();
        address.parse().expect("an address")
    }

    /// An anonymous session.
    pub async fn join(&self) -> Client {
        Client::join(self.address().await, Kind::WebSocket, Serializer::Json).await
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().expect("running").to_string();
        let sent = std::process::Command::new("kill")
            .args([name, &pid])
            .status();
        assert!(sent.expect("kill").success());
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        soon(self.child.wait()).await.expect("its status")
    }
}

impl Client {
    /// The URI and the arguments of the ERROR to a request.
    pub async fn error(&mut self, request: RequestId) -> (String, Vec<Value>) {
        match self.message().await {
            Message::Error(Error {
                request: failed,
                error,
                payload,
                ..
            }) => {
                assert_eq!(failed, request);
                (error.to_string(), payload.values().expect("values").0)
            }
            other => panic!("expected ERROR, got {other:?}"),
        }
    }

    /// Answers the next INVOCATION with these arguments.
    pub async fn answer(&mut self, args: &[Value]) {
        match self.message().await {
            Message::Invocation(Invocation { request, .. }) => self.yields(request, args).await,
            other => panic!("expected INVOCATION, got {other:?}"),
        }
    }

    /// Answers an INVOCATION.
    pub async fn yields(&mut self, request: RequestId, args: &[Value]) {
        self.send(&Message::Yield(Yield {
            request,
            progress: false,
            passthru: None,
            payload: Payload::of(self.serializer, args, &Dict::new()),
        }))
        .await;
    }

    /// Offers a login.
    pub async fn hello_as(&mut self, authid: &str, method: &str) {
        let Message::Hello(mut hello) = hello(REALM) else {
            unreachable!("a HELLO")
        };
        hello.authid = Some(authid.into());
        hello.authmethods = vec![method.into()];
        self.send(&Message::Hello(hello)).await;
    }

    /// Answers a CHALLENGE.
    pub async fn authenticate(&mut self, signature: &str) {
        self.send(&Message::Authenticate(Authenticate {
            signature: signature.into(),
            extra: Dict::new(),
        }))
        .await;
    }

    /// Calls and waits for the result.
    pub async fn ask(&mut self, procedure: &str, args: &[Value]) -> Vec<Value> {
        let request = self.call(procedure, args).await;
        self.result(request).await
    }

    /// Calls and waits for the error's URI.
    pub async fn refused(&mut self, procedure: &str, args: &[Value]) -> String {
        let request = self.call(procedure, args).await;
        self.error(request).await.0
    }
}

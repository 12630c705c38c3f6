//! The built program on an application in a temporary folder, and clients that keep what they did not wait for.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use perilune::wire::*;
use perilune::words::{Dict, RequestId, Value};
use tempfile::TempDir;

use super::program::{self, Lines, Program};
use super::{Client, Kind, REALM, tcp, uri};

/// An application to be: `realm1`, anonymous guests who may do everything, and some scripts.
#[derive(Default)]
pub struct App {
    files: Vec<(String, String)>,
    scripts: Vec<String>,
    realm: String,
    config: Option<String>,
    flags: Vec<String>,
    /// Leaves the listeners to the configuration.
    configured_listeners: bool,
}

impl App {
    pub fn new() -> Self {
        Self::default()
    }

    /// An application of one script, `a.lua`.
    pub fn of(script: &str) -> Self {
        Self::new().script("a.lua", script)
    }

    /// A script of the realm.
    pub fn script(self, name: &str, text: &str) -> Self {
        self.configured_script(&format!("{name:?}"), name, text)
    }

    /// A script with its own way to stand in `scripts`.
    pub fn configured_script(mut self, entry: &str, name: &str, text: &str) -> Self {
        self.scripts.push(entry.to_owned());
        self.file(name, text)
    }

    /// A file that the configuration does not name.
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// More keys of the realm.
    pub fn realm(mut self, keys: &str) -> Self {
        self.realm = keys.to_owned();
        self
    }

    /// A whole configuration of its own.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// One more command-line flag.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Listens where the configuration says.
    pub fn without_listen(mut self) -> Self {
        self.configured_listeners = true;
        self
    }

    /// The text of its `perilune.lua`.
    pub fn configuration(&self) -> String {
        if let Some(config) = &self.config {
            return config.clone();
        }
        let everything = r#"{ uri = "", match = "prefix", allow = { "call", "register", "publish", "subscribe" } }"#;
        format!(
            "return {{ realms = {{ {REALM} = {{\n\
             auth = {{ anonymous = {{ role = \"guest\" }} }},\n\
             roles = {{ guest = {{ {everything} }} }},\n\
             scripts = {{ {} }},\n{} }} }} }}\n",
            self.scripts.join(", "),
            self.realm
        )
    }

    fn written(&self) -> TempDir {
        let dir = TempDir::new().expect("a folder");
        write(dir.path(), "perilune.lua", &self.configuration());
        for (name, text) in &self.files {
            write(dir.path(), name, text);
        }
        dir
    }

    /// Runs it until it listens.
    pub async fn start(self) -> Running {
        let mut running = self.spawn();
        running.address = running.program.address().await;
        running
    }

    /// Runs it and expects that it does not start; hands back what it says.
    pub async fn refused(self) -> String {
        let mut running = self.spawn();
        let status = running.program.ended().await;
        assert_eq!(status.code(), Some(3), "{}", running.log.text());
        running.log.lines.ended().await;
        running.log.text()
    }

    fn spawn(&self) -> Running {
        let dir = self.written();
        let mut command = program::perilune();
        command.arg("serve").arg(dir.path());
        if !self.configured_listeners {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(&self.flags);
        let program = Program::start(command);
        Running {
            address: "127.0.0.1:1".parse().unwrap(),
            dir,
            log: Log {
                lines: program.log.clone(),
                seen: Arc::default(),
            },
            program,
        }
    }
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, text).expect("writes");
}

/// What the program said on stderr so far, read from the top to the bottom.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Lines>,
    /// Lines before this one have been waited for.
    seen: Arc<Mutex<usize>>,
}

impl Log {
    pub fn text(&self) -> String {
        self.lines.text()
    }

    /// How many lines say this.
    pub fn count(&self, text: &str) -> usize {
        self.lines.count_with(text)
    }

    /// The next line that says this, behind those found before.
    pub async fn says(&self, text: &str) -> String {
        let seen = *self.seen.lock();
        let (line, seen) = self.lines.find_after(seen, &[text]).await;
        *self.seen.lock() = seen;
        line
    }
}

/// The running program; ends with its value, and shows its log if the test fails.
pub struct Running {
    pub address: SocketAddr,
    pub log: Log,
    dir: TempDir,
    program: Program,
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the router's log\n{}\n----", self.log.text());
        }
    }
}

impl Running {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Saves a file in place.
    pub fn save(&self, name: &str, text: &str) {
        write(self.dir.path(), name, text);
    }

    /// Saves a file as careful editors do: beside, then renamed over.
    pub fn save_by_rename(&self, name: &str, text: &str) {
        let beside = format!("{name}.new~");
        write(self.dir.path(), &beside, text);
        std::fs::rename(self.path(&beside), self.path(name)).expect("renames");
    }

    /// Saves a script and waits until it is in.
    pub async fn reload(&self, name: &str, text: &str) {
        self.save(name, text);
        self.log.says("script reloaded").await;
    }

    /// The program's process.
    pub fn pid(&self) -> u32 {
        self.program.child.id().expect("running")
    }

    /// SIGHUP
    pub fn hang_up(&self) {
        self.program.signal("-HUP");
    }

    /// SIGTERM; waits for the end and hands back the exit code.
    pub async fn terminate(mut self) -> Option<i32> {
        self.program.signal("-TERM");
        let code = self.program.ended().await.code();
        self.log.lines.ended().await;
        code
    }

    /// An anonymous session over WebSocket and MsgPack.
    pub async fn join(&self) -> Peer {
        self.join_with(Serializer::MsgPack).await
    }

    pub async fn join_with(&self, serializer: Serializer) -> Peer {
        let client = Client::join(self.address, Kind::WebSocket, serializer).await;
        Peer::new(client)
    }

    /// A transport without a session.
    pub async fn open(&self) -> Peer {
        let io = tcp(self.address).await;
        Peer::new(Client::open(io, Kind::WebSocket, Serializer::Json).await)
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Result(Vec<Value>, Dict),
    Error(String, Vec<Value>, Dict),
}

/// A session that keeps messages until somebody asks for them.
pub struct Peer {
    pub client: Client,
    kept: VecDeque<Message>,
}

impl Peer {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            kept: VecDeque::new(),
        }
    }

    /// The first message `pick` takes; others are kept, in order.
    pub async fn take<T>(&mut self, mut pick: impl FnMut(&Message) -> Option<T>) -> T {
        for (at, message) in self.kept.iter().enumerate() {
            if let Some(found) = pick(message) {
                self.kept.remove(at);
                return found;
            }
        }
        loop {
            let message = self.client.message().await;
            if let Some(found) = pick(&message) {
                return found;
            }
            self.kept.push_back(message);
        }
    }

    /// Whether messages nobody asked for have come.
    pub fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Sends a CALL.
    pub async fn send_call(
        &mut self,
        procedure: &str,
        args: &[Value],
        kwargs: &Dict,
        options: CallOptions,
    ) -> RequestId {
        let request = self.client.request();
        let payload = Payload::of(self.client.serializer, args, kwargs);
        let procedure = uri(procedure);
        let call = Call {
            request,
            options,
            procedure,
            payload,
        };
        self.client.send(&Message::Call(call)).await;
        request
    }

    /// How the call ended, progressive results aside.
    pub async fn outcome(&mut self, request: RequestId) -> Outcome {
        self.take(|message| match message {
            Message::Result(result) if result.request == request && !result.progress => {
                let (args, kwargs) = result.payload.values().expect("values");
                Some(Outcome::Result(args, kwargs))
            }
            Message::Error(error) if error.request == request => {
                let (args, kwargs) = error.payload.values().expect("values");
                Some(Outcome::Error(error.error.to_string(), args, kwargs))
            }
            _ => None,
        })
        .await
    }

    /// The next progressive result of the call.
    pub async fn progress(&mut self, request: RequestId) -> Vec<Value> {
        self.take(|message| match message {
            Message::Result(result) if result.request == request && result.progress => {
                Some(result.payload.values().expect("values").0)
            }
            _ => None,
        })
        .await
    }

    /// Calls and waits for the end.
    pub async fn try_call(&mut self, procedure: &str, args: &[Value]) -> Outcome {
        let request = self
            .send_call(procedure, args, &Dict::new(), CallOptions::default())
            .await;
        self.outcome(request).await
    }

    /// Calls; the result's args.
    pub async fn call(&mut self, procedure: &str, args: &[Value]) -> Vec<Value> {
        match self.try_call(procedure, args).await {
            Outcome::Result(args, _) => args,
            error @ Outcome::Error(..) => panic!("{procedure}: {error:?}"),
        }
    }

    /// Calls; the error's URI and args.
    pub async fn call_fails(&mut self, procedure: &str, args: &[Value]) -> (String, Vec<Value>) {
        match self.try_call(procedure, args).await {
            Outcome::Error(uri, args, _) => (uri, args),
            result @ Outcome::Result(..) => panic!("{procedure}: {result:?}"),
        }
    }

    /// Subscribes; the subscription's id, or the refusal.
    pub async fn try_subscribe(&mut self, topic: &str) -> Result<u64, String> {
        let request = self.client.request();
        let (options, topic) = (SubscribeOptions::default(), uri(topic));
        let subscribe = Subscribe {
            request,
            options,
            topic,
        };
        self.client.send(&Message::Subscribe(subscribe)).await;
        self.take(|message| match message {
            Message::Subscribed(m) if m.request == request => {
                Some(Ok(perilune::words::Id::value(m.subscription)))
            }
            Message::Error(m) if m.request == request => Some(Err(m.error.to_string())),
            _ => None,
        })
        .await
    }

    pub async fn subscribe(&mut self, topic: &str) -> u64 {
        self.try_subscribe(topic).await.expect("subscribed")
    }

    /// Registers; what the router says to it.
    pub async fn try_register(&mut self, procedure: &str) -> Result<(), String> {
        let request = self.client.request();
        let (options, procedure) = (RegisterOptions::default(), uri(procedure));
        let register = Register {
            request,
            options,
            procedure,
        };
        self.client.send(&Message::Register(register)).await;
        self.take(|message| match message {
            Message::Registered(m) if m.request == request => Some(Ok(())),
            Message::Error(m) if m.request == request => Some(Err(m.error.to_string())),
            _ => None,
        })
        .await
    }

    /// Publishes with acknowledgement; what the router says to it.
    pub async fn try_publish(&mut self, topic: &str, args: &[Value]) -> Result<(), String> {
        let request = self.client.request();
        let payload = Payload::of(self.client.serializer, args, &Dict::new());
        let options = PublishOptions {
            acknowledge: true,
            ..PublishOptions::default()
        };
        let publish = Publish {
            request,
            options,
            topic: uri(topic),
            payload,
        };
        self.client.send(&Message::Publish(publish)).await;
        self.take(|message| match message {
            Message::Published(m) if m.request == request => Some(Ok(())),
            Message::Error(m) if m.request == request => Some(Err(m.error.to_string())),
            _ => None,
        })
        .await
    }

    pub async fn publish(&mut self, topic: &str, args: &[Value]) {
        self.try_publish(topic, args).await.expect("published");
    }

    /// The next event.
    pub async fn event(&mut self) -> (Event, Vec<Value>, Dict) {
        self.take(|message| match message {
            Message::Event(event) => {
                let (args, kwargs) = event.payload.values().expect("values");
                Some((event.clone(), args, kwargs))
            }
            _ => None,
        })
        .await
    }

    /// The next event's args.
    pub async fn event_args(&mut self) -> Vec<Value> {
        self.event().await.1
    }

    /// The reason of the GOODBYE or ABORT to come.
    pub async fn reason(&mut self) -> String {
        self.take(|message| match message {
            Message::Goodbye(Goodbye { reason, .. }) | Message::Abort(Abort { reason, .. }) => {
                Some(reason.to_string())
            }
            _ => None,
        })
        .await
    }

    /// Sends HELLO for a method.
    pub async fn hello(&mut self, method: &str, authid: &str) {
        let Message::Hello(mut hello) = super::hello(REALM) else {
            unreachable!("hello() makes HELLO")
        };
        hello.authmethods = vec![method.to_owned()];
        hello.authid = (!authid.is_empty()).then(|| authid.to_owned());
        self.client.send(&Message::Hello(hello)).await;
    }

    /// WELCOME's details, or the reason and the message of ABORT.
    pub async fn welcomed(&mut self) -> Result<Dict, (String, Option<String>)> {
        match self.client.message().await {
            Message::Welcome(welcome) => {
                self.client.session = Some(welcome.session);
                Ok(welcome.details)
            }
            Message::Abort(abort) => Err((abort.reason.to_string(), abort.message)),
            other => panic!("expected WELCOME or ABORT, got {other:?}"),
        }
    }

    /// Logs in by ticket.
    pub async fn ticket(
        &mut self,
        authid: &str,
        ticket: &str,
    ) -> Result<Dict, (String, Option<String>)> {
        self.hello("ticket", authid).await;
        match self.client.message().await {
            Message::Challenge(challenge) => assert_eq!(challenge.method, "ticket"),
            Message::Abort(abort) => return Err((abort.reason.to_string(), abort.message)),
            other => panic!("expected CHALLENGE, got {other:?}"),
        }
        let authenticate = Authenticate {
            signature: ticket.to_owned(),
            extra: Dict::new(),
        };
        self.client.send(&Message::Authenticate(authenticate)).await;
        self.welcomed().await
    }

    /// Logs in by WAMP-CRA: derives the key if the challenge is salted.
    pub async fn wampcra(
        &mut self,
        authid: &str,
        secret: &str,
    ) -> Result<Dict, (String, Option<String>)> {
        self.hello("wampcra", authid).await;
        let extra = match self.client.message().await {
            Message::Challenge(challenge) => challenge.extra,
            Message::Abort(abort) => return Err((abort.reason.to_string(), abort.message)),
            other => panic!("expected CHALLENGE, got {other:?}"),
        };
        let signature = sign(&extra, secret);
        let extra = Dict::new();
        self.client
            .send(&Message::Authenticate(Authenticate { signature, extra }))
            .await;
        self.welcomed().await
    }
}

/// The signature of a WAMP-CRA challenge, worked out apart from the router's own code.
fn sign(extra: &Dict, secret: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use hmac::{Hmac, Mac};
    use sha2::Sha256;

    let number = |key: &str| match extra.lookup(key) {
        Some(Value::Int(number)) => u32::try_from(*number).expect("small"),
        other => panic!("{key} is {other:?}"),
    };
    let key = match extra.text("salt") {
        None => secret.as_bytes().to_vec(),
        Some(salt) => {
            let mut key = vec![0; number("keylen") as usize];
            let rounds = number("iterations");
            pbkdf2::pbkdf2_hmac::<Sha256>(secret.as_bytes(), salt.as_bytes(), rounds, &mut key);
            STANDARD.encode(key).into_bytes()
        }
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
    mac.update(extra.text("challenge").expect("a challenge").as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// A list of values, written as JSON.
pub fn args(json: &str) -> Vec<Value> {
    let message = format!("[50,1,{{}},{json}]");
    match decode(Serializer::Json, &message.into_bytes().into(), NESTING) {
        Ok(Message::Result(result)) => result.payload.values().expect("values").0,
        other => panic!("{json}: {other:?}"),
    }
}

/// A dict of values, written as JSON.
pub fn kwargs(json: &str) -> Dict {
    match args(&format!("[{json}]")).pop() {
        Some(Value::Map(dict)) => dict,
        other => panic!("{json}: {other:?}"),
    }
}

//! Tests: a panic on a VM's thread, which would be a bug of ours, is over soon.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::mailbox::{Control, Mailbox};
use super::{Host, HostOptions, Reloader, load_configuration};
use crate::core::credentials::Principal;
use crate::core::policy::Action;
use crate::core::{AuthorizeRequest, Join, SessionKind, Ticket, Verdict};
use crate::server::{Clock, Guest, Router, Unanswered};
use crate::wire::{CallOptions, ClientFeatures, ClientRoles, Payload};
use crate::words::{Dict, MatchPolicy, SessionId, Uri};

const CONFIGURATION: &str = r#"return { realms = { realm1 = {
  auth = { anonymous = { role = "guest" } },
  roles = { guest = function() return true end },
  scripts = { "a.lua" },
} } }"#;
const SCRIPT: &str = r#"
local p = require "perilune"
p.register("slow", function() p.sleep(25) end)
p.register("fast", function() end)
"#;

struct Running {
    router: Arc<Router>,
    host: Arc<Host>,
    _reloader: Reloader,
}

fn start(folder: &Path) -> Running {
    std::fs::write(folder.join("perilune.lua"), CONFIGURATION).expect("writes");
    std::fs::write(folder.join("a.lua"), SCRIPT).expect("writes");
    let configuration = load_configuration(folder, Clock::start()).expect("a configuration");
    let router = Arc::new(Router::new(&configuration.settings));
    let host = Host::new(router.clone(), &configuration, HostOptions::default());
    assert!(host.load_all().is_empty());
    let app = Some(folder.to_owned());
    let reloader = Reloader::start(&host, app, Vec::new(), &configuration, false);
    Running {
        router,
        host,
        _reloader: reloader.expect("a thread"),
    }
}

impl Running {
    fn guest(&self) -> Guest {
        let join = Join {
            session: self.router.draw_session(),
            principal: principal(),
            roles: ClientRoles {
                caller: Some(ClientFeatures::default()),
                ..ClientRoles::default()
            },
            kind: SessionKind::Router,
            message: usize::MAX,
            expires: None,
            peer: String::new(),
            transport: "",
        };
        let realm = self.router.realm("realm1").expect("it");
        Guest::join(&realm, join, 0).expect("open")
    }

    fn script(&self) -> Arc<Mailbox> {
        let inner = self.host.inner.lock();
        let entry = inner.scripts.values().next().expect("a script");
        entry.script.link.primary().expect("a VM")
    }

    async fn allows(&self) -> bool {
        let host = self.host.clone();
        let request = AuthorizeRequest {
            ticket: Ticket(1),
            session: SessionId::from_raw(1),
            principal: Arc::new(principal()),
            action: Action::Call,
            uri: Uri::from_static("a"),
            match_policy: MatchPolicy::Exact,
            disclose_me: false,
            by_role: true,
        };
        let explain = move || host.explain(&Uri::from_static("realm1"), request);
        let asked = tokio::task::spawn_blocking(explain).await;
        matches!(asked.expect("asks").1, Verdict::Allow { .. })
    }
}

fn principal() -> Principal {
    Principal {
        authid: "joe".into(),
        authrole: "guest".into(),
        authmethod: "anonymous".into(),
        authprovider: "test".into(),
        extra: Dict::new(),
    }
}

fn panics(mailbox: &Mailbox) {
    let bug = |_| -> bool { panic!("a test's bug") };
    assert!(mailbox.control(Control::HandOver(Box::new(bug))));
}

async fn call(guest: &Guest, uri: &'static str) -> Result<(), Unanswered> {
    let (uri, payload) = (Uri::from_static(uri), Payload::none());
    let called = guest.call(uri, CallOptions::default(), payload);
    // Only so that a test that fails ends.
    let answer = tokio::time::timeout(Duration::from_secs(20), called).await;
    answer.expect("an answer").map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a04_a_panic_on_a_scripts_thread_ends_its_callers_and_it_starts_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start(folder.path());
    let guest = running.guest();
    for _ in 0..2 {
        let script = running.script();
        // Taken before, at once with, and behind the panic.
        let begun = call(&guest, "slow");
        let rest = async {
            while script.load() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            panics(&script);
            call(&guest, "slow").await
        };
        for ended in <[_; 2]>::from(tokio::join!(begun, rest)) {
            assert!(matches!(ended, Err(Unanswered::Error(_))), "{ended:?}");
        }
        while call(&guest, "fast").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a04_a_panic_on_the_configurations_thread_is_got_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start(folder.path());
    for _ in 0..2 {
        assert!(running.allows().await);
        let mailbox = running.host.answering.read().configuration.clone();
        let mailbox = mailbox.expect("it has functions");
        panics(&mailbox);
        while !mailbox.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Denied at first, by nobody; then by a fresh VM.
        let allowed = async {
            while !running.allows().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let soon = tokio::time::timeout(Duration::from_secs(20), allowed);
        soon.await.expect("asked again");
    }
}

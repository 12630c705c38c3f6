//! The router: its realms, its listeners, what holds for all of them, and its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::{error, info, warn};

use super::clock::Clock;
use super::cookies::Cookies;
use super::history::{HistoryStore, StoreError};
use super::hooks::{HookSlot, Hooks};
use super::http::LongPolls;
use super::listener::Listener;
use super::outbox::Queues;
use super::realm::RealmHandle;
use super::seats::Seats;
use super::session_ids::SessionIds;
use super::settings::{HttpSettings, RealmHostLimits, RealmSettings, RouterLimits, Settings};
use super::tls::{Tls, TlsError};
use crate::core::credentials::Secret;
use crate::core::lockout::Lockout;
use crate::core::models::Learned;
use crate::core::policy::{HistoryPlace, HistoryPolicy, RealmPolicy};
use crate::core::{Input, Record, uris};
use crate::words::{SessionId, Uri};

/// How long the disk may take for what was published before a shutdown.
const FLUSH: Duration = Duration::from_secs(5);

/// The longest name of a realm on demand.
const LONGEST_NAME: usize = 200;

/// A running router. Clones are the same router. Lives inside a tokio runtime.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

/// What every connection needs of the router.
pub(crate) struct Shared {
    runtime: Handle,
    clock: Clock,
    hooks: HookSlot,
    ids: Arc<SessionIds>,
    /// Mock challenges are derived from it.
    seed: Arc<Secret>,
    lockout: Mutex<Lockout>,
    /// What mock challenges look like where a function knows the users.
    learned: Learned,
    queues: Arc<Queues>,
    seats: Arc<Seats>,
    realms: RwLock<BTreeMap<Uri, Arc<RealmHandle>>>,
    lobby: RwLock<Option<Arc<RealmPolicy>>>,
    /// There are realms on demand.
    on_demand: AtomicBool,
    cookies: Cookies,
    limits: RwLock<Arc<RouterLimits>>,
    http: RwLock<Arc<HttpSettings>>,
    tasks: Mutex<Vec<AbortHandle>>,
    certificates: Mutex<Vec<Arc<Tls>>>,
    longpolls: LongPolls,
    shutting_down: AtomicBool,
    /// As applied last, to find what a new configuration changes.
    settings: Mutex<Settings>,
    /// Where histories on disk are.
    store: OnceLock<Arc<HistoryStore>>,
}

impl Router {
    /// Builds the realms; nothing listens yet. Histories that should be on disk are not stored.
    pub fn new(settings: &Settings) -> Self {
        let router = Self::without_realms(settings);
        for (uri, realm) in &settings.realms {
            router.shared.add_realm(uri, realm);
        }
        router
    }

    /// As [`Router::new`], with the histories in `settings.data`, which are read first.
    pub fn with_data(settings: &Settings) -> Result<Self, StoreError> {
        let router = Self::without_realms(settings);
        if let Some(folder) = &settings.data {
            let store = HistoryStore::open(folder)?;
            router.shared.store.get_or_init(|| store);
        }
        for (uri, realm) in &settings.realms {
            let records = router.shared.stored(uri, &realm.policy)?;
            router.shared.add_realm_with(uri, &realm.policy, records);
        }
        Ok(router)
    }

    fn without_realms(settings: &Settings) -> Self {
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        let shared = Arc::new(Shared {
            runtime: Handle::current(),
            clock: Clock::start(),
            hooks: HookSlot::default(),
            ids: Arc::default(),
            seed: Arc::new(Secret::new(seed)),
            lockout: Mutex::new(Lockout::new(settings.limits.login_failures)),
            learned: Learned::default(),
            queues: Queues::new(settings.limits.queues_total),
            seats: Arc::default(),
            realms: RwLock::default(),
            lobby: RwLock::default(),
            on_demand: AtomicBool::new(false),
            cookies: Cookies::default(),
            limits: RwLock::new(Arc::new(settings.limits.clone())),
            http: RwLock::new(Arc::new(settings.http.clone())),
            tasks: Mutex::default(),
            certificates: Mutex::default(),
            longpolls: LongPolls::default(),
            shutting_down: AtomicBool::new(false),
            settings: Mutex::new(settings.clone()),
            store: OnceLock::new(),
        });
        shared.configure(settings);
        let shedder = tokio::spawn(shed(Arc::downgrade(&shared), shared.queues.clone()));
        shared.tasks.lock().push(shedder.abort_handle());
        Self { shared }
    }

    /// Installs the script host. Until then everything that would be asked is refused.
    pub fn install_hooks(&self, hooks: Arc<dyn Hooks>) {
        self.shared.hooks.install(Some(hooks));
    }

    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// Whatever would be asked is refused from now on; lets go of the hooks, which may hold the router.
    pub fn remove_hooks(&self) {
        self.shared.hooks.install(None);
    }

    /// The runtime its realms live on.
    pub fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }

    pub fn realm(&self, uri: &str) -> Option<Arc<RealmHandle>> {
        self.shared.realm(uri)
    }

    pub fn realms(&self) -> Vec<Arc<RealmHandle>> {
        self.shared.realms.read().values().cloned().collect()
    }

    /// For how long what goes on in a realm may go on while it ends.
    pub fn drain(&self, realm: &Uri) -> Duration {
        let settings = self.shared.settings.lock();
        let realm = settings.realms.get(realm);
        realm.map_or_else(
            || RealmHostLimits::default().drain,
            |realm| realm.host.drain,
        )
    }

    /// An id for a session of this process; the realm gives it back when the session ends.
    pub fn draw_session(&self) -> SessionId {
        self.shared.ids.draw(&mut rand::rng())
    }

    /// Starts a realm on demand, which nobody finds before [`Router::admit_realm`].
    pub fn open_realm(&self, uri: &Uri, settings: &RealmSettings) -> Arc<RealmHandle> {
        let shared = &self.shared;
        let (policy, records) = shared.stored_or_without(uri, None, &settings.policy);
        shared.start_realm(uri, &policy, records)
    }

    /// Lets clients into a realm that was opened.
    pub fn admit_realm(&self, realm: &Arc<RealmHandle>, settings: RealmSettings) {
        let shared = &self.shared;
        let uri = realm.uri().clone();
        shared.settings.lock().realms.insert(uri.clone(), settings);
        shared.realms.write().insert(uri, realm.clone());
    }

    /// Ends a realm on demand in which only `scripts` are left. False: somebody has come, or it keeps events.
    pub fn end_realm(&self, uri: &Uri, scripts: usize) -> bool {
        let shared = &self.shared;
        let Some(realm) = shared.realm(uri) else {
            return true;
        };
        if !realm.close_if_left(scripts) {
            return false;
        }
        shared.realms.write().remove(uri);
        shared.settings.lock().realms.remove(uri);
        true
    }

    /// Accepts connections on a bound listener from now on.
    pub fn serve(&self, listener: Listener) {
        info!(address = %listener.address(), "listening");
        self.shared.certificates.lock().extend(listener.tls());
        let task = tokio::spawn(listener.run(self.shared.clone()));
        self.shared.tasks.lock().push(task.abort_handle());
    }

    /// Adopts a new configuration for open and new sessions; scripts are the script host's business. Returns what
    /// needs a restart, for the log.
    pub fn apply(&self, new: &Settings) -> Vec<String> {
        let shared = &self.shared;
        let old = std::mem::replace(&mut *shared.settings.lock(), new.clone());
        shared.configure(new);
        shared.queues.set_limit(new.limits.queues_total);
        shared.lockout.lock().set_allowed(new.limits.login_failures);
        *shared.limits.write() = Arc::new(new.limits.clone());
        *shared.http.write() = Arc::new(new.http.clone());
        for uri in old
            .realms
            .keys()
            .filter(|uri| !new.realms.contains_key(*uri))
        {
            if let Some(realm) = shared.realms.write().remove(uri) {
                realm.close(
                    uris::CLOSE_REALM,
                    "the realm was removed from the configuration",
                );
                info!(realm = %uri, "realm removed");
            }
        }
        shared.open_data(new.data.as_deref());
        for (uri, realm) in &new.realms {
            match (shared.realm(uri), old.realms.get(uri)) {
                (Some(_), Some(before)) if before.policy == realm.policy => {}
                (Some(handle), before) => {
                    shared.adopt(&handle, before.map(|realm| &realm.policy), &realm.policy);
                }
                (None, _) => {
                    shared.add_realm(uri, realm);
                    info!(realm = %uri, "realm added");
                }
            }
        }
        match old.listeners == new.listeners {
            true => Vec::new(),
            false => vec!["listen".to_owned()],
        }
    }

    /// Reads the certificates of all listeners again. Those that cannot be read stay as they were.
    pub fn reload_certificates(&self) -> Vec<TlsError> {
        self.shared
            .certificates
            .lock()
            .iter()
            .filter_map(|tls| tls.reload().err())
            .collect()
    }

    /// Stops accepting connections and logins (`SES-14`); open sessions go on.
    pub fn stop_admitting(&self) {
        let shared = &self.shared;
        shared.shutting_down.store(true, Relaxed);
        for task in shared.tasks.lock().drain(..) {
            task.abort();
        }
        shared.seats.stop_all();
    }

    /// Stops admitting, says GOODBYE to everybody, and waits for theirs, but not for long.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        self.stop_admitting();
        for realm in self.realms() {
            realm.close(uris::SYSTEM_SHUTDOWN, "the router is shutting down");
        }
        if let Some(store) = shared.store.get() {
            // What the realms had accepted by now; afterwards nobody publishes.
            let store = store.clone();
            let flushing = tokio::task::spawn_blocking(move || store.flush(FLUSH));
            if flushing.await.is_err() {
                warn!("the histories could not be written");
            }
        }
        // Theirs, then the closing handshake of the transport.
        let patience = shared
            .limits()
            .goodbye
            .saturating_mul(2)
            .saturating_add(Duration::from_millis(100));
        if tokio::time::timeout(patience, shared.seats.empty())
            .await
            .is_err()
        {
            warn!("some connections did not close in time");
        }
    }
}

impl Shared {
    /// What is on disk of the histories of a realm.
    fn stored(&self, uri: &Uri, policy: &RealmPolicy) -> Result<Vec<Record>, StoreError> {
        match self.store.get() {
            Some(store) if policy.histories_on_disk().next().is_some() => store.load(uri),
            _ => Ok(Vec::new()),
        }
    }

    /// As `stored`, while the router runs: new histories that cannot be read are not kept at all, lest their events
    /// be written over.
    fn stored_or_without(
        &self,
        uri: &Uri,
        before: Option<&RealmPolicy>,
        policy: &RealmPolicy,
    ) -> (RealmPolicy, Vec<Record>) {
        let is_new = |history: &&HistoryPolicy| {
            before.is_none_or(|before| {
                before
                    .histories_on_disk()
                    .all(|old| (&old.uri, old.match_policy) != (&history.uri, history.match_policy))
            })
        };
        let mut policy = policy.clone();
        if !policy.histories_on_disk().any(|history| is_new(&history)) {
            return (policy, Vec::new());
        }
        match self.stored(uri, &policy) {
            Ok(records) => (policy, records),
            Err(error) => {
                error!(realm = %uri, "its new histories are not kept: {error}");
                policy
                    .history
                    .retain(|history| history.store == HistoryPlace::Memory || !is_new(&history));
                (policy, Vec::new())
            }
        }
    }

    /// A data folder that comes with a new configuration. (Another one needs a restart.)
    fn open_data(&self, folder: Option<&Path>) {
        let Some(folder) = folder else { return };
        if let Some(store) = self.store.get() {
            if store.folder() != folder {
                let used = store.folder().display();
                warn!("configuration: `data`: {used} is still used (needs a restart)");
            }
            return;
        }
        match HistoryStore::open(folder) {
            Ok(store) => drop(self.store.set(store)),
            Err(error) => error!("histories on disk are not stored: {error}"),
        }
    }

    fn adopt(&self, handle: &Arc<RealmHandle>, before: Option<&RealmPolicy>, policy: &RealmPolicy) {
        let (policy, records) = self.stored_or_without(handle.uri(), before, policy);
        handle.adopt(Arc::new(policy), self.store.get(), records);
    }

    /// What is asked of all realms at once.
    fn configure(&self, settings: &Settings) {
        let lobby = settings.lobby.as_deref().cloned().map(Arc::new);
        *self.lobby.write() = lobby;
        self.on_demand.store(settings.on_demand.is_some(), Relaxed);
        self.cookies.configure(settings);
    }

    fn add_realm(&self, uri: &Uri, settings: &RealmSettings) {
        let (policy, records) = self.stored_or_without(uri, None, &settings.policy);
        self.add_realm_with(uri, &policy, records);
    }

    fn add_realm_with(&self, uri: &Uri, policy: &RealmPolicy, records: Vec<Record>) {
        let realm = self.start_realm(uri, policy, records);
        self.realms.write().insert(uri.clone(), realm);
    }

    fn start_realm(
        &self,
        uri: &Uri,
        policy: &RealmPolicy,
        records: Vec<Record>,
    ) -> Arc<RealmHandle> {
        let random = Box::new(StdRng::from_rng(&mut rand::rng()));
        let policy = Arc::new(policy.clone());
        // Configurations are applied on threads of their own, too.
        let _context = self.runtime.enter();
        let realm = RealmHandle::start(
            uri.clone(),
            policy.clone(),
            self.clock,
            self.hooks.clone(),
            self.ids.clone(),
            self.queues.clone(),
            random,
        );
        realm.adopt(policy, self.store.get(), records);
        realm
    }

    pub(crate) fn lobby(&self) -> Option<Arc<RealmPolicy>> {
        self.lobby.read().clone()
    }

    /// Whether a client may name a realm that is not there. Names of the router's own are for nobody.
    pub(crate) fn opens(&self, realm: &Uri) -> bool {
        self.on_demand.load(Relaxed)
            && !self.is_shutting_down()
            && realm.len() <= LONGEST_NAME
            && !["wamp.", "perilune."]
                .iter()
                .any(|own| realm.starts_with(own))
    }

    pub(crate) fn cookies(&self) -> &Cookies {
        &self.cookies
    }

    pub(crate) fn realm(&self, uri: &str) -> Option<Arc<RealmHandle>> {
        self.realms.read().get(uri).cloned()
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn hooks(&self) -> &HookSlot {
        &self.hooks
    }

    pub(crate) fn ids(&self) -> &SessionIds {
        &self.ids
    }

    pub(crate) fn seed(&self) -> Arc<Secret> {
        self.seed.clone()
    }

    pub(crate) fn learned(&self) -> &Learned {
        &self.learned
    }

    pub(crate) fn lockout(&self) -> &Mutex<Lockout> {
        &self.lockout
    }

    pub(crate) fn queues(&self) -> Arc<Queues> {
        self.queues.clone()
    }

    pub(crate) fn seats(&self) -> &Arc<Seats> {
        &self.seats
    }

    pub(crate) fn limits(&self) -> Arc<RouterLimits> {
        self.limits.read().clone()
    }

    pub(crate) fn http(&self) -> Arc<HttpSettings> {
        self.http.read().clone()
    }

    pub(crate) fn longpolls(&self) -> &LongPolls {
        &self.longpolls
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Relaxed)
    }
}

/// Ends the sessions with the most waiting whenever all together are above `limits.queues_total`.
async fn shed(shared: std::sync::Weak<Shared>, queues: Arc<Queues>) {
    loop {
        queues.overfull.notified().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let outboxes = shared.seats.outboxes();
        let weighed = outboxes.into_iter().map(|outbox| {
            let session = outbox.session();
            let kept = session.map_or(0, |(realm, session)| realm.kept_octets_of(session));
            (outbox.memory() + kept, outbox)
        });
        let mut weighed: Vec<_> = weighed.filter(|(octets, _)| *octets > 0).collect();
        weighed.sort_by_key(|(octets, _)| std::cmp::Reverse(*octets));
        for (octets, outbox) in weighed {
            if queues.excess() == 0 {
                break;
            }
            warn!(
                octets,
                "limits.queues_total is reached: the session with the most waiting is closed"
            );
            outbox.shed();
            if let Some((realm, session)) = outbox.session() {
                let message = Some("the router's queues are full".to_owned());
                realm.input(Input::Kill {
                    session,
                    reason: uris::SLOW_CONSUMER,
                    message,
                });
            }
        }
    }
}

//! The host of all scripts: loads them, answers the router's questions by their functions, reloads them.
//!
//! `link` is a script's session, `script` its versions, `boot` makes a VM, `worker` is a VM's thread, `api` what scripts
//! can call, `mailbox` how they are reached. [`Host`] knows them all; `reload` says when something is loaded again.

mod answers;
mod api;
mod boot;
mod configuration;
mod context;
mod derive;
mod dynamic;
mod granted;
mod hooks;
mod inlet;
mod link;
mod mailbox;
mod on_demand;
mod ordered;
#[cfg(test)]
mod panics;
mod reload;
mod script;
mod timers;
mod worker;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use self::boot::LoadError;
use self::link::Link;
use self::mailbox::{Asker, HookKey, Mailbox, Work};
use self::on_demand::Demand;
use self::script::{Script, Surroundings, Version};
use super::config::Finding;
use super::lib::shared::SharedSpace;
use super::lib::store::SharedStore;
use crate::core::credentials::{AuthMethod, AuthPolicy};
use crate::core::policy::RealmPolicy;
use crate::core::{AuthFailure, AuthorizeRequest, Granted, Input, Login, Verdict, uris};
use crate::server::settings::{ListenerSettings, RealmSettings, Settings};
use crate::server::{Hooks, RealmHandle, Router, SessionChange, TransportInfo};
use crate::wire::{Payload, Serializer};
use crate::words::{Dict, Id, Uri, Value};

pub use configuration::{Configuration, load_configuration};
pub use reload::Reloader;

/// What the command line says about scripts.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostOptions {
    /// Broken scripts do not keep the router from starting; callers see tracebacks.
    pub dev: bool,
    /// Nothing a script declares takes effect: no start handlers, no timers (`perilune check`).
    pub dry: bool,
}

/// How long a reload that is just going on is waited for when the router stops.
const RELOADING: Duration = Duration::from_secs(2);

/// See the module.
pub struct Host {
    router: Arc<Router>,
    options: HostOptions,
    /// What the router was started with; only a restart changes it.
    bound: Vec<ListenerSettings>,
    inner: Mutex<Inner>,
    answering: RwLock<Answering>,
    demand: Demand,
    me: Weak<Host>,
    /// Asks the reloader for a fresh VM of a script; shared, because scripts are loaded before the reloader is there.
    recycle: Arc<Mutex<Option<Recycle>>>,
}

type Recycle = Arc<dyn Fn(Uri, String) + Send + Sync>;

struct Inner {
    app_dir: PathBuf,
    settings: Settings,
    scripts: BTreeMap<(Uri, String), Entry>,
    stores: BTreeMap<Uri, Arc<SharedStore>>,
    common: Arc<SharedStore>,
}

/// A configured script, loaded or not.
struct Entry {
    script: Script,
    /// Why the newest version is not in; under `--dev` also of a script that never loaded.
    broken: Option<LoadError>,
    /// The realm admits nobody until the script has loaded. Not so where a running realm got the script by a reload:
    /// who is missing grants nothing, and a bad edit ends no session.
    closes_realm: bool,
}

/// Whom the router's questions go to.
#[derive(Default)]
struct Answering {
    realms: BTreeMap<Uri, RealmAnswering>,
    /// The configuration's VM.
    configuration: Option<Arc<Mailbox>>,
}

#[derive(Default)]
struct RealmAnswering {
    /// By which name the configuration has its functions.
    configured_as: Uri,
    authorizer: Option<Arc<Link>>,
    logins: BTreeMap<AuthMethod, LoginHook>,
    /// Scripts with `p.on("join")` or `p.on("leave")`.
    watchers: Vec<Arc<Link>>,
}

enum LoginHook {
    Script(Arc<Link>),
    Configuration,
}

impl Host {
    /// Over a router that runs with the configuration's settings; installs itself as its hooks.
    pub fn new(
        router: Arc<Router>,
        configuration: &Configuration,
        options: HostOptions,
    ) -> Arc<Self> {
        let clock = router.clock();
        let common = SharedStore::new(64 << 20, Arc::new(move || clock.now().mono));
        let host = Arc::new_cyclic(|me| Self {
            demand: Demand::default(),
            me: me.clone(),
            router: router.clone(),
            options,
            bound: configuration.settings.listeners.clone(),
            inner: Mutex::new(Inner {
                app_dir: configuration.app_dir.clone(),
                settings: configuration.settings.clone(),
                scripts: BTreeMap::new(),
                stores: BTreeMap::new(),
                common: Arc::new(common),
            }),
            answering: RwLock::new(Answering {
                configuration: configuration.mailbox.clone(),
                ..Answering::default()
            }),
            recycle: Arc::default(),
        });
        router.install_hooks(host.clone());
        host
    }

    /// Loads and switches in every configured script. With problems, nothing is taken back: the caller decides.
    pub fn load_all(&self) -> Vec<Finding> {
        let problems = self.load_each();
        problems
            .iter()
            .map(|(_, path, error)| error.finding(path))
            .collect()
    }

    /// The scripts that did not load, with their files.
    fn load_each(&self) -> Vec<((Uri, String), PathBuf, LoadError)> {
        let mut inner = self.inner.lock();
        let settings = inner.settings.clone();
        let mut problems = Vec::new();
        for (uri, realm) in &settings.realms {
            for script in &realm.scripts {
                if let Err(error) = self.add_script(&mut inner, uri, realm, &script.name) {
                    problems.push((
                        (uri.clone(), script.name.clone()),
                        script.path.clone(),
                        error,
                    ));
                }
            }
        }
        if self.options.dry {
            drop(inner);
            let template = settings
                .on_demand
                .as_ref()
                .map(|demand| &demand.realm.scripts);
            if let Some((name, error)) = self.try_template(&settings) {
                let script = template.and_then(|scripts| scripts.iter().find(|it| it.name == name));
                let path = script.map(|script| script.path.clone()).unwrap_or_default();
                problems.push(((Uri::from_static("*"), name), path, error));
            }
            inner = self.inner.lock();
        }
        self.publish_policies(&mut inner);
        if !self.options.dry {
            // Only now, so that a start handler finds the procedures of every other script.
            inner
                .scripts
                .values()
                .for_each(|entry| entry.script.start());
        }
        problems
    }

    /// Ends a dry host: its VMs stop, and router and host let go of each other.
    fn discard(&self) {
        self.router.remove_hooks();
        for entry in self.inner.lock().scripts.values() {
            if let Some(version) = &entry.script.current {
                version.discard();
            }
        }
    }

    fn add_script(
        &self,
        inner: &mut Inner,
        uri: &Uri,
        realm: &RealmSettings,
        name: &str,
    ) -> Result<(), LoadError> {
        let key = (uri.clone(), name.to_owned());
        let Some(settings) = realm
            .scripts
            .iter()
            .find(|script| script.name == name)
            .cloned()
        else {
            return Ok(());
        };
        let Some(handle) = self.router.realm(uri) else {
            return Ok(());
        };
        let script = Script::join(settings, &handle, self.router.draw_session())?;
        inner.scripts.insert(
            key.clone(),
            Entry {
                script,
                broken: None,
                closes_realm: true,
            },
        );
        self.reload_script(inner, &key)
    }

    /// Loads a script's newest version and switches it in; on failure the old one stays and the world is told.
    fn reload_script(&self, inner: &mut Inner, key: &(Uri, String)) -> Result<(), LoadError> {
        let realm = inner.settings.realms.get(&key.0).cloned();
        let around = self.surroundings(inner, key, &realm.unwrap_or_default());
        let Some(entry) = inner.scripts.get_mut(key) else {
            return Ok(());
        };
        let loaded = entry.script.load(&around.borrow());
        let outcome = loaded.and_then(|version| {
            let checked = self.check_hooks(inner, key, &version);
            checked.map_err(|error| {
                version.discard();
                LoadError {
                    files: version.declared.files.lock().clone(),
                    ..error
                }
            })?;
            let Some(entry) = inner.scripts.get_mut(key) else {
                return Ok(());
            };
            entry.script.switch(version, around.drain)
        });
        let Some(entry) = inner.scripts.get_mut(key) else {
            return Ok(());
        };
        entry.broken = outcome.as_ref().err().cloned();
        outcome
    }

    /// A script whose session has ended, which nothing it does should bring about, gets a new one.
    fn join_again(&self, inner: &mut Inner, key: &(Uri, String)) -> Result<(), LoadError> {
        let entry = inner.scripts.get_mut(key);
        let ended = entry.filter(|entry| entry.script.link.has_ended());
        if let (Some(entry), Some(realm)) = (ended, self.router.realm(&key.0)) {
            tracing::error!(realm = %key.0, script = %key.1, "the script's session has ended: it joins again");
            let session = self.router.draw_session();
            entry.script = entry.script.joined_again(&realm, session)?;
        }
        Ok(())
    }

    fn surroundings(
        &self,
        inner: &mut Inner,
        key: &(Uri, String),
        realm: &RealmSettings,
    ) -> OwnedSurroundings {
        let clock = self.router.clock();
        let store = inner.stores.entry(key.0.clone()).or_insert_with(|| {
            Arc::new(SharedStore::new(
                realm.host.shared,
                Arc::new(move || clock.now().mono),
            ))
        });
        let names: HashSet<String> = inner.settings.common_dictionaries.iter().cloned().collect();
        let recycle = self.recycle.clone();
        let (uri, name) = key.clone();
        OwnedSurroundings {
            app_dir: inner.app_dir.clone(),
            clock,
            space: SharedSpace {
                realm: store.clone(),
                router: inner.common.clone(),
                common: Arc::new(names),
            },
            drain: realm.host.drain,
            queue: inner.settings.limits.queue,
            dev: self.options.dev,
            recycle: Arc::new(move || {
                let recycle = recycle.lock().clone();
                if let Some(recycle) = recycle {
                    recycle(uri.clone(), name.clone());
                }
            }),
        }
    }

    /// One authorizer per realm, one function per login method: a second one is an error naming both.
    fn check_hooks(
        &self,
        inner: &Inner,
        key: &(Uri, String),
        version: &Version,
    ) -> Result<(), LoadError> {
        let Some(realm) = inner.settings.realms.get(&key.0) else {
            return Ok(());
        };
        let others = inner
            .scripts
            .iter()
            .filter(|(other, _)| other.0 == key.0 && *other != key);
        let others = others.map(|((_, name), entry)| (name.as_str(), &entry.script));
        check_rivals(&key.1, version, &realm.policy, others)
    }
}

/// A script's hooks beside those of the configuration and of the realm's other scripts.
fn check_rivals<'s>(
    name: &str,
    version: &Version,
    policy: &RealmPolicy,
    others: impl Iterator<Item = (&'s str, &'s Script)> + Clone,
) -> Result<(), LoadError> {
    for hook in version.declared.hooks.keys() {
        let (what, configured) = match hook {
            HookKey::Authorizer => ("p.authorize".to_owned(), policy.authorize.is_some()),
            HookKey::Login(method) => (
                format!("p.authenticate({:?})", method.as_str()),
                policy.auth.asks(*method),
            ),
            HookKey::Role { .. } | HookKey::ConfigLogin { .. } | HookKey::Realm => continue,
        };
        if configured {
            let whose = match hook {
                HookKey::Login(_) => "a function for this method",
                _ => "`authorize`",
            };
            return Err(LoadError::plain(format!(
                "{name}: {what}: the configuration has {whose} already"
            )));
        }
        let rival = others.clone().find(|(_, script)| script.declares(hook));
        if let Some((rival, _)) = rival {
            return Err(LoadError::plain(format!(
                "{name}: {what} is there already, in {rival}"
            )));
        }
    }
    Ok(())
}

/// Policies and whom questions go to.
impl Host {
    /// Works out whom questions go to, and gives every realm its policy (which drops cached verdicts).
    fn publish_policies(&self, inner: &mut Inner) {
        let configuration = self.answering.read().configuration.clone();
        let mut realms = BTreeMap::new();
        let mut policies = Vec::new();
        for (uri, settings) in &inner.settings.realms {
            let (answering, policy) = answering(inner, &self.demand, uri, settings);
            realms.insert(uri.clone(), answering);
            policies.push((uri.clone(), Arc::new(policy)));
        }
        // Whoever is asked under a new policy must be known before it holds.
        *self.answering.write() = Answering {
            realms,
            configuration,
        };
        for (uri, policy) in policies {
            if let Some(handle) = self.router.realm(&uri) {
                handle.input(Input::Policy(policy));
            }
        }
    }
}

/// The configuration with what the scripts that are in add to it.
fn effective_settings(inner: &Inner, demand: &Demand) -> Settings {
    let mut settings = inner.settings.clone();
    for (uri, realm) in &mut settings.realms {
        realm.policy = answering(inner, demand, uri, realm).1;
    }
    settings
}

/// Who answers in a realm, and the policy that says so.
fn answering(
    inner: &Inner,
    demand: &Demand,
    uri: &Uri,
    settings: &RealmSettings,
) -> (RealmAnswering, RealmPolicy) {
    let mut policy = settings.policy.clone();
    let mut answering = RealmAnswering {
        configured_as: match demand.has(uri) {
            true => Uri::from_static("*"),
            false => uri.clone(),
        },
        ..RealmAnswering::default()
    };
    for method in &policy.auth.hooks {
        answering.logins.insert(*method, LoginHook::Configuration);
    }
    let mut broken = false;
    for ((realm, _), entry) in &inner.scripts {
        if realm != uri {
            continue;
        }
        let Some(version) = &entry.script.current else {
            broken |= entry.closes_realm;
            continue;
        };
        let link = &entry.script.link;
        for hook in version.declared.hooks.keys() {
            match hook {
                HookKey::Authorizer => {
                    policy.authorizer = true;
                    answering.authorizer = Some(link.clone());
                }
                HookKey::Login(method) => {
                    policy.auth.hooks.insert(*method);
                    answering
                        .logins
                        .insert(*method, LoginHook::Script(link.clone()));
                }
                HookKey::Role { .. } | HookKey::ConfigLogin { .. } | HookKey::Realm => {}
            }
        }
        if version.declared.watches_sessions {
            answering.watchers.push(link.clone());
        }
    }
    if broken {
        // A script that decides may be missing: nobody is admitted until it loads (only under --dev).
        policy.auth = AuthPolicy::default();
    }
    (answering, policy)
}

/// The script's share of [`Surroundings`], owned.
struct OwnedSurroundings {
    app_dir: PathBuf,
    clock: crate::server::Clock,
    space: SharedSpace,
    drain: Duration,
    queue: usize,
    dev: bool,
    recycle: Arc<dyn Fn() + Send + Sync>,
}

impl OwnedSurroundings {
    fn borrow(&self) -> Surroundings<'_> {
        Surroundings {
            app_dir: &self.app_dir,
            clock: self.clock,
            space: self.space.clone(),
            queue: self.queue,
            dev: self.dev,
            recycle: self.recycle.clone(),
        }
    }
}

impl LoadError {
    /// As the command line shows it: a message of Lua brings its own file and line.
    pub(crate) fn finding(&self, path: &Path) -> Finding {
        let mut finding = match located(&self.message) {
            Some((file, line, text)) => Finding::at(Path::new(file), line, text),
            None => Finding::of_file(path, self.message.clone()),
        };
        if !self.traceback.is_empty() {
            finding.traceback = Some(self.traceback.clone());
        }
        finding
    }
}

/// `file:line: text`, taken apart.
fn located(message: &str) -> Option<(&str, u32, &str)> {
    let (place, text) = message.split_once(": ")?;
    let (file, line) = place.rsplit_once(':')?;
    Some((file, line.parse().ok()?, text))
}

impl Host {
    /// Asks the function that decides about a request, on behalf of a person: its answer, and where it is written.
    pub fn explain(&self, realm: &Uri, request: AuthorizeRequest) -> (String, Verdict) {
        let by_role = request.by_role;
        let (reply, answer) = oneshot::channel();
        self.ask_authorizer(realm, request, Asker::Person(reply));
        let verdict = answer
            .blocking_recv()
            .unwrap_or_else(|_| Verdict::Failed("it gave no answer".into()));
        let inner = self.inner.lock();
        let script = inner.scripts.iter().find_map(|((of, name), entry)| {
            let place = entry
                .script
                .current
                .as_ref()?
                .declared
                .hooks
                .get(&HookKey::Authorizer)?;
            (of == realm).then(|| format!("p.authorize of {name}, {place}"))
        });
        let place = match by_role {
            true => "the role's function in the configuration".to_owned(),
            false => script.unwrap_or_else(|| "p.authorize".to_owned()),
        };
        (place, verdict)
    }

    fn ask_authorizer(&self, realm: &Uri, request: AuthorizeRequest, asker: Asker) {
        let policy = self.router.realm(realm).map(|realm| realm.policy());
        let procedure = policy.and_then(|policy| match request.by_role {
            true => policy
                .roles
                .get(&request.principal.authrole)?
                .procedure
                .clone(),
            false => policy.authorize.clone(),
        });
        if let Some(procedure) = procedure {
            return dynamic::authorize(&self.router, realm, procedure, &request, asker);
        }
        let (mailbox, hook) = {
            let answering = self.answering.read();
            if request.by_role {
                let configured = answering.realms.get(realm).map(|it| &it.configured_as);
                let realm = configured.unwrap_or(realm).to_string();
                let role = request.principal.authrole.clone();
                (
                    answering.configuration.clone(),
                    HookKey::Role { realm, role },
                )
            } else {
                let link = answering
                    .realms
                    .get(realm)
                    .and_then(|realm| realm.authorizer.as_ref());
                (
                    link.and_then(|link| link.least_loaded()),
                    HookKey::Authorizer,
                )
            }
        };
        let work = Work::Authorize {
            realm: realm.clone(),
            hook,
            request: Box::new(request),
            asker,
        };
        let refused = match mailbox {
            Some(mailbox) => mailbox.work(work).err(),
            None => Some(work),
        };
        if let Some(Work::Authorize { asker, .. }) = refused {
            let text = "the authorizer's queue is full, or it is gone";
            asker.answer(Verdict::Failed(text.into()));
        }
    }
}

impl Hooks for Host {
    fn authorize(&self, realm: &Arc<RealmHandle>, request: AuthorizeRequest) {
        let asker = Asker::Realm(realm.clone(), request.ticket);
        self.ask_authorizer(realm.uri(), request, asker);
    }

    fn authenticate(
        &self,
        login: Login,
        transport: Arc<TransportInfo>,
    ) -> oneshot::Receiver<Result<Granted, AuthFailure>> {
        let (reply, answer) = oneshot::channel();
        if let Some(procedure) = login.procedure.clone() {
            dynamic::authenticate(&self.router, procedure, login, &transport, reply);
            return answer;
        }
        let (method, realm) = (login.method, login.realm.to_string());
        let (mailbox, hook) = {
            let answering = self.answering.read();
            let of_realm = answering.realms.get(&login.realm);
            match of_realm.and_then(|realm| realm.logins.get(&method)) {
                // Of clients that named none, the configuration's function is asked.
                None if realm.is_empty() => (
                    answering.configuration.clone(),
                    HookKey::ConfigLogin { realm, method },
                ),
                Some(LoginHook::Script(link)) => (link.least_loaded(), HookKey::Login(method)),
                Some(LoginHook::Configuration) => {
                    let realm = of_realm.map_or(realm, |it| it.configured_as.to_string());
                    (
                        answering.configuration.clone(),
                        HookKey::ConfigLogin { realm, method },
                    )
                }
                None => (None, HookKey::Login(method)),
            }
        };
        if let Some(mailbox) = mailbox {
            // Refused work drops the reply, which the router takes as a failed function.
            let _ = mailbox.work(Work::Authenticate {
                hook,
                login: Box::new(login),
                transport,
                reply,
            });
        }
        answer
    }

    fn open_realm(&self, realm: &Uri) -> oneshot::Receiver<Result<(), String>> {
        self.open_on_demand(realm)
    }

    fn session_changed(&self, realm: &Arc<RealmHandle>, change: &SessionChange) {
        if self.demand.changed(realm.uri(), change.joined) {
            self.end_later(realm.uri());
        }
        let answering = self.answering.read();
        let Some(realm_answering) = answering.realms.get(realm.uri()) else {
            return;
        };
        for link in &realm_answering.watchers {
            if let Some(mailbox) = link.primary() {
                let (name, argument) = lifecycle_of(realm.uri(), change);
                // A script that cannot keep up misses lifecycle events as it misses others.
                let _ = mailbox.work(Work::Lifecycle { name, argument });
            }
        }
    }
}

fn lifecycle_of(realm: &Uri, change: &SessionChange) -> (&'static str, Value) {
    let principal = &change.principal;
    let session = Dict::new()
        .with("realm", realm.as_str())
        .with("session", change.session.value())
        .with("authid", principal.authid.as_str())
        .with("authrole", principal.authrole.as_str())
        .with("authmethod", principal.authmethod.as_str())
        .with("authprovider", principal.authprovider.as_str());
    (if change.joined { "join" } else { "leave" }, session.into())
}

/// Telling the world.
impl Host {
    /// Log line and meta event of a switched-in version.
    fn tell_reloaded(&self, realm: &Uri, script: &str, generation: u64) {
        tracing::info!(%realm, %script, generation, "script reloaded");
        let dict = Dict::new()
            .with("script", script)
            .with("generation", generation);
        self.tell(realm, uris::SCRIPT_ON_RELOAD, dict, None);
    }

    /// Log line and meta event of a version that failed; the traceback only for those it is granted to.
    fn tell_failed(&self, realm: &Uri, script: &str, error: &LoadError) {
        tracing::error!(%realm, %script, "script not reloaded, the old version stays: {}{}",
            error.message, answers::below(&error.traceback));
        let dict = Dict::new()
            .with("script", script)
            .with("message", error.message.as_str());
        let full = dict.clone().with("traceback", error.traceback.as_str());
        self.tell(realm, uris::SCRIPT_ON_ERROR, dict, Some(full));
    }

    fn tell(&self, realm: &Uri, topic: Uri, dict: Dict, granted: Option<Dict>) {
        let payload = |dict: Dict| Payload::of(Serializer::MsgPack, &[dict.into()], &Dict::new());
        if let Some(handle) = self.router.realm(realm) {
            handle.input(Input::Publish {
                topic,
                payload: payload(dict),
                granted: granted.map(payload),
            });
        }
    }

    /// Runs the `p.on("shutdown")` handlers, and waits for them and for what goes on in the realms: handlers, and calls
    /// that are open now, scripts' and clients' alike. In each realm at most for its `limits.drain`.
    pub async fn shutdown(&self) {
        let (begun, asked) = (Instant::now(), self.router.clock().now().mono);
        let may_go_on = |realm: &Uri| begun.elapsed() < self.router.drain(realm);
        let mut busy = None;
        loop {
            if busy.is_none() && begun.elapsed() < RELOADING {
                busy = self.say_shutdown();
            }
            if let Some(links) = &mut busy {
                links.retain(|link| link.load() > 0 && may_go_on(link.realm.uri()));
            }
            // Looked at after the scripts: one of them may just have allowed a call.
            let is_over = busy
                .as_ref()
                .map_or(begun.elapsed() >= RELOADING, Vec::is_empty)
                && !self
                    .router
                    .realms()
                    .iter()
                    .any(|realm| realm.owes_since(asked) && may_go_on(realm.uri()));
            if is_over {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Has the `p.on("shutdown")` handlers run. `None` while a reload is going on.
    fn say_shutdown(&self) -> Option<Vec<Arc<Link>>> {
        let inner = self.inner.try_lock()?;
        let links: Vec<Arc<Link>> = inner
            .scripts
            .values()
            .map(|entry| entry.script.link.clone())
            .collect();
        drop(inner);
        for link in &links {
            if let Some(mailbox) = link.primary() {
                // Whoever has no room for it any more is not told.
                let _ = mailbox.work(Work::Lifecycle {
                    name: "shutdown",
                    argument: Value::Null,
                });
            }
        }
        Some(links)
    }
}

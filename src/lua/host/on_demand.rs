//! Realms on demand: opened when a client names one, with scripts of their own, ended when they have been empty for
//! `limits.realm_idle`.
//!
//! Opening runs on a thread of its own and holds no lock while scripts load, so that a slow one keeps only those waiting
//! who want this realm. Until then nobody finds it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::boot::LoadError;
use super::mailbox::{Mailbox, Work};
use super::script::Script;
use super::{Entry, Host, Inner, answering, check_rivals};
use crate::core::Input;
use crate::lua::config;
use crate::server::RealmHandle;
use crate::server::settings::{OnDemand, RealmSettings, Settings};
use crate::words::{Uri, Value};

/// The realms on demand, and those being opened.
#[derive(Default)]
pub(super) struct Demand {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    realms: BTreeMap<Uri, Demanded>,
    /// Who waits for which realm.
    opening: BTreeMap<Uri, Vec<oneshot::Sender<Result<(), String>>>>,
}

struct Demanded {
    /// Sessions of its own: it is empty with these.
    scripts: usize,
    people: usize,
    /// Since when nobody is in it; `None`: somebody is, or it is being opened.
    emptied: Option<Instant>,
}

/// Realms that are opened at the same time.
const AT_ONCE: usize = 16;

/// What a realm is called in which the scripts of `realms["*"]` are tried.
const TRIAL: Uri = Uri::from_static("on.demand");

impl Demand {
    pub(super) fn has(&self, realm: &Uri) -> bool {
        self.state.lock().realms.contains_key(realm)
    }

    /// Somebody has come or gone. True: it is empty now.
    pub(super) fn changed(&self, realm: &Uri, joined: bool) -> bool {
        let mut state = self.state.lock();
        let Some(demanded) = state.realms.get_mut(realm) else {
            return false;
        };
        demanded.people = match joined {
            true => demanded.people + 1,
            false => demanded.people.saturating_sub(1),
        };
        let empty = demanded.people == 0;
        demanded.emptied = empty.then(Instant::now);
        empty
    }
}

impl Host {
    pub(super) fn open_on_demand(&self, realm: &Uri) -> oneshot::Receiver<Result<(), String>> {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.demand.state.lock();
            if let Some(waiting) = state.opening.get_mut(realm) {
                waiting.push(reply);
                return answer;
            }
            if state.opening.len() >= AT_ONCE {
                // The receiver is here.
                let _ = reply.send(Err("too many realms are being opened at once".into()));
                return answer;
            }
            state.opening.insert(realm.clone(), vec![reply]);
        }
        let (me, uri) = (self.me.clone(), realm.clone());
        let spawned = std::thread::Builder::new()
            .name("open realm".into())
            .spawn(move || {
                if let Some(host) = me.upgrade() {
                    let opened = catch_unwind(AssertUnwindSafe(|| host.open(&uri)));
                    let broken = || Err("opening it failed, which is a bug".to_owned());
                    host.tell_opened(&uri, opened.unwrap_or_else(|_| broken()));
                }
            });
        if let Err(error) = spawned {
            self.tell_opened(realm, Err(format!("no thread to open it: {error}")));
        }
        answer
    }

    fn tell_opened(&self, realm: &Uri, outcome: Result<(), String>) {
        match &outcome {
            Ok(()) => tracing::info!(%realm, "realm opened on demand"),
            Err(text) => tracing::warn!(%realm, "realm not opened: {text:.500}"),
        }
        let waiting = self.demand.state.lock().opening.remove(realm);
        for reply in waiting.into_iter().flatten() {
            // Whoever waited may have gone.
            let _ = reply.send(outcome.clone());
        }
    }

    fn open(&self, uri: &Uri) -> Result<(), String> {
        let demand = {
            let mut inner = self.inner.lock();
            if self.router.realm(uri).is_some() {
                return Ok(());
            }
            let demand = inner.settings.on_demand.clone();
            let demand = demand.ok_or("the configuration has no realms[\"*\"]")?;
            self.make_room(&mut inner, demand.most)?;
            let reserved = Demanded {
                scripts: 0,
                people: 0,
                emptied: None,
            };
            let mut state = self.demand.state.lock();
            state.realms.insert(uri.clone(), reserved);
            demand
        };
        let opened = self.open_as(uri, &demand);
        if opened.is_err() {
            self.demand.state.lock().realms.remove(uri);
            self.inner.lock().stores.remove(uri);
        }
        opened
    }

    fn open_as(&self, uri: &Uri, demand: &OnDemand) -> Result<(), String> {
        let settings = match demand.function {
            false => demand.realm.clone(),
            true => {
                let configuration = self.answering.read().configuration.clone();
                let app_dir = self.inner.lock().app_dir.clone();
                described(configuration.as_deref(), &app_dir, uri, demand)?
            }
        };
        let realm = self.router.open_realm(uri, &settings);
        let scripts = self
            .load_scripts(&realm, &settings)
            .map_err(|(name, error)| format!("{name}: {}", error.message))?;
        let mut inner = self.inner.lock();
        if inner.settings.on_demand.as_ref() != Some(demand) {
            leave(scripts);
            return Err("the configuration was changed meanwhile".into());
        }
        let count = scripts.len();
        for script in scripts {
            let key = (uri.clone(), script.settings.name.clone());
            let entry = Entry {
                script,
                broken: None,
                closes_realm: true,
            };
            inner.scripts.insert(key, entry);
        }
        inner.settings.realms.insert(uri.clone(), settings.clone());
        let (answering, policy) = answering(&inner, &self.demand, uri, &settings);
        self.answering.write().realms.insert(uri.clone(), answering);
        realm.input(Input::Policy(Arc::new(policy)));
        {
            let mut state = self.demand.state.lock();
            let demanded = Demanded {
                scripts: count,
                people: 0,
                emptied: Some(Instant::now()),
            };
            state.realms.insert(uri.clone(), demanded);
        }
        self.router.admit_realm(&realm, settings);
        let own = inner.scripts.iter().filter(|((realm, _), _)| realm == uri);
        own.for_each(|(_, entry)| entry.script.start());
        drop(inner);
        self.end_later(uri);
        Ok(())
    }

    /// All scripts of a realm that nobody finds yet, switched in but not started.
    fn load_scripts(
        &self,
        realm: &Arc<RealmHandle>,
        settings: &RealmSettings,
    ) -> Result<Vec<Script>, (String, LoadError)> {
        let mut loaded: Vec<Script> = Vec::new();
        for script in &settings.scripts {
            let key = (realm.uri().clone(), script.name.clone());
            let around = self.surroundings(&mut self.inner.lock(), &key, settings);
            let load = || -> Result<Script, LoadError> {
                let session = self.router.draw_session();
                let mut script = Script::join(script.clone(), realm, session)?;
                let switched = script.load(&around.borrow()).and_then(|version| {
                    let others = loaded.iter().map(|script| (&*script.settings.name, script));
                    let checked = check_rivals(&key.1, &version, &settings.policy, others);
                    checked.inspect_err(|_| version.discard())?;
                    script.switch(version, around.drain)
                });
                match switched {
                    Ok(()) => Ok(script),
                    Err(error) => {
                        leave(vec![script]);
                        Err(error)
                    }
                }
            };
            match load() {
                Ok(script) => loaded.push(script),
                Err(error) => {
                    leave(loaded);
                    return Err((key.1, error));
                }
            }
        }
        Ok(loaded)
    }

    /// Whether the scripts of `realms["*"]` load, tried in a realm that nobody enters.
    pub(super) fn try_template(&self, settings: &Settings) -> Option<(String, LoadError)> {
        let demand = settings.on_demand.as_ref()?;
        let realm = self.router.open_realm(&TRIAL, &demand.realm);
        let loaded = self.load_scripts(&realm, &demand.realm);
        self.inner.lock().stores.remove(&TRIAL);
        match loaded {
            Ok(scripts) => {
                leave(scripts);
                None
            }
            Err(problem) => Some(problem),
        }
    }

    /// Below `limits.realms`, if need be without the realm that has been empty for the longest time.
    fn make_room(&self, inner: &mut Inner, most: usize) -> Result<(), String> {
        let empty: Vec<_> = {
            let state = self.demand.state.lock();
            if state.realms.len() < most {
                return Ok(());
            }
            let empty = state
                .realms
                .iter()
                .filter_map(|(uri, demanded)| Some((demanded.emptied?, uri.clone())));
            // Those that have been empty for longest first.
            BTreeSet::from_iter(empty).into_iter().collect()
        };
        match empty.iter().any(|(_, uri)| self.end(inner, uri)) {
            true => Ok(()),
            false => Err(format!("limits.realms ({most}) is reached")),
        }
    }

    /// Looks after `limits.realm_idle` whether the realm is still empty.
    pub(super) fn end_later(&self, uri: &Uri) {
        let (me, uri) = (self.me.clone(), uri.clone());
        self.router.runtime().spawn(async move {
            let idle = |host: Arc<Self>| {
                let inner = host.inner.lock();
                inner.settings.on_demand.as_ref().map(|demand| demand.idle)
            };
            let host = me.clone();
            let looked = tokio::task::spawn_blocking(move || host.upgrade().and_then(idle));
            let Ok(Some(Some(idle))) = looked.await else {
                return;
            };
            tokio::time::sleep(idle).await;
            let ended = tokio::task::spawn_blocking(move || {
                if let Some(host) = me.upgrade() {
                    host.end_if_empty_for(idle, &uri);
                }
            });
            // It only fails with the runtime.
            let _ = ended.await;
        });
    }

    fn end_if_empty_for(&self, idle: Duration, uri: &Uri) {
        let mut inner = self.inner.lock();
        let emptied = {
            let state = self.demand.state.lock();
            state.realms.get(uri).and_then(|demanded| demanded.emptied)
        };
        // A call of the router's own may be under way in it, or it keeps events.
        if emptied.is_some_and(|at| at.elapsed() >= idle) && !self.end(&mut inner, uri) {
            self.end_later(uri);
        }
    }

    /// Ends a realm on demand, unless somebody has just come or it keeps events. With it go its scripts and dictionaries.
    fn end(&self, inner: &mut Inner, uri: &Uri) -> bool {
        let scripts = {
            let state = self.demand.state.lock();
            state.realms.get(uri).map(|demanded| demanded.scripts)
        };
        let Some(scripts) = scripts else {
            return false;
        };
        if !self.router.end_realm(uri, scripts) {
            return false;
        }
        self.demand.state.lock().realms.remove(uri);
        inner.settings.realms.remove(uri);
        self.remove_scripts(inner);
        inner.stores.remove(uri);
        self.answering.write().realms.remove(uri);
        tracing::info!(realm = %uri, "realm on demand ended: nobody is in it");
        true
    }

    /// What becomes of the living realms on demand under a new configuration: they are put into it, or left out.
    pub(super) fn carry_over(
        &self,
        inner: &Inner,
        new: &mut Settings,
        configuration: Option<&Mailbox>,
        app_dir: &Path,
    ) {
        let living: Vec<Uri> = {
            let state = self.demand.state.lock();
            let open = |uri: &&Uri| inner.settings.realms.contains_key(*uri);
            state.realms.keys().filter(open).cloned().collect()
        };
        for uri in living {
            let stays = match &new.on_demand {
                _ if new.realms.contains_key(&uri) => None,
                None => None,
                Some(demand) if !demand.function => Some(demand.realm.clone()),
                Some(demand) => match described(configuration, app_dir, &uri, demand) {
                    Ok(settings) => Some(settings),
                    Err(text) => {
                        tracing::warn!(realm = %uri, "realm on demand ends: {text}");
                        None
                    }
                },
            };
            let mut state = self.demand.state.lock();
            match (stays, state.realms.get_mut(&uri)) {
                (Some(settings), Some(demanded)) => {
                    demanded.scripts = settings.scripts.len();
                    new.realms.insert(uri, settings);
                }
                _ => {
                    state.realms.remove(&uri);
                }
            }
        }
    }
}

/// Their sessions end, and so do their VMs.
fn leave(scripts: Vec<Script>) {
    for script in scripts {
        script.leave(Instant::now());
    }
}

/// What the configuration's function says of a realm. Blocks for as long as a handler may take.
fn described(
    configuration: Option<&Mailbox>,
    app_dir: &Path,
    uri: &Uri,
    demand: &OnDemand,
) -> Result<RealmSettings, String> {
    let (reply, answer) = oneshot::channel();
    let work = Work::Realm {
        name: uri.clone(),
        reply,
    };
    let asked = configuration.is_some_and(|mailbox| mailbox.work(work).is_ok());
    if !asked {
        return Err("the configuration's function cannot be asked".into());
    }
    let answer = answer.blocking_recv();
    let payload = answer.map_err(|_| "the configuration's function is gone")??;
    let (args, _) = payload.values().map_err(|error| error.to_string())?;
    match args.into_iter().next().unwrap_or_default() {
        Value::Null | Value::Bool(false) => Err("the configuration's function refuses it".into()),
        description @ Value::Map(_) => {
            config::realm_described(app_dir, uri, &description, &demand.realm)
        }
        _ => Err("the configuration's function returned neither a table nor nil".into()),
    }
}

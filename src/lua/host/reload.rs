//! Hot reload: one thread that waits for a reason (files changed, SIGHUP, a VM to replace) and acts on it.
//!
//! A file event is only a hint: what is reloaded is what differs in content from what was loaded.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::boot::LoadError;
use super::configuration::{Configuration, load_configuration};
use super::script::Version;
use super::{Entry, Host, HostOptions, Inner, effective_settings};
use crate::lua::config::{Finding, changes_needing_restart};
use crate::lua::watch::{Fingerprints, QUIET, Watcher};
use crate::server::Router;
use crate::server::settings::{Address, Settings};
use crate::words::Uri;

/// Why something may have to be loaded again.
enum Reason {
    /// Some watched file may have changed.
    Files,
    /// SIGHUP: load everything again, changed or not.
    Everything,
    /// A VM over its memory limit, or whose thread or session has ended.
    Recycle {
        realm: Uri,
        script: String,
    },
    Stop,
}

/// The handle of the reload thread; dropping it stops reloading.
pub struct Reloader {
    reasons: Sender<Reason>,
}

/// The state of the thread.
struct Reloading {
    host: Weak<Host>,
    /// The configuration as named on the command line; `None`: the built-in one.
    app: Option<PathBuf>,
    /// Addresses of the command line, which replace the configured ones.
    listen: Vec<Address>,
    watcher: Option<Watcher>,
    configuration_files: Fingerprints,
    recycled: Vec<(Uri, String, Instant)>,
    /// The files given to the watcher.
    watched: Vec<PathBuf>,
}

/// A script by its realm and its name there.
type ScriptKey = (Uri, String);

/// How often files that never come to rest are looked at again before they are taken as they are.
const RESTLESS: usize = 10;

/// A script that outgrows its memory again within this time waits before its next fresh VM.
const RECYCLE_PAUSE: Duration = Duration::from_secs(1);

impl Reloader {
    /// Watches and reloads from now on. `watch`: also when files change, not only on [`Reloader::everything`].
    pub fn start(
        host: &Arc<Host>,
        app: Option<PathBuf>,
        listen: Vec<Address>,
        configuration: &Configuration,
        watch: bool,
    ) -> std::io::Result<Self> {
        let (reasons, inbox) = channel();
        let for_recycling = reasons.clone();
        *host.recycle.lock() = Some(Arc::new(move |realm, script| {
            // Without the thread nothing is reloaded, and the process is ending.
            let _ = for_recycling.send(Reason::Recycle { realm, script });
        }));
        let for_files = reasons.clone();
        let watcher = if watch {
            let on_change = move || drop(for_files.send(Reason::Files));
            match Watcher::start(on_change) {
                Ok(watcher) => Some(watcher),
                Err(error) => {
                    tracing::warn!(%error, "files cannot be watched; SIGHUP still reloads");
                    None
                }
            }
        } else {
            None
        };
        let mut reloading = Reloading {
            host: Arc::downgrade(host),
            app,
            listen,
            watcher,
            configuration_files: configuration.fingerprints.clone(),
            recycled: Vec::new(),
            watched: Vec::new(),
        };
        reloading.watch(host);
        // What was saved between loading and watching is found by looking once.
        let look = if watch {
            reasons.send(Reason::Files)
        } else {
            Ok(())
        };
        look.map_err(|_| std::io::Error::other("the reload thread has no inbox"))?;
        std::thread::Builder::new()
            .name("reload".into())
            .spawn(move || {
                if let Some(host) = reloading.host.upgrade() {
                    reloading.catch_up(&host);
                }
                loop {
                    match inbox.recv_timeout(Duration::from_millis(500)) {
                        Ok(Reason::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                        Ok(reason) => {
                            let Some(host) = reloading.host.upgrade() else {
                                return;
                            };
                            let acted =
                                catch_unwind(AssertUnwindSafe(|| reloading.act(&host, &reason)));
                            if acted.is_err() {
                                tracing::error!(
                                    "reloading failed, which is a bug; the next save is another try"
                                );
                            }
                        }
                        Err(RecvTimeoutError::Timeout) => {
                            let Some(host) = reloading.host.upgrade() else {
                                return;
                            };
                            host.sweep_overdue();
                            let revived =
                                catch_unwind(AssertUnwindSafe(|| reloading.revive(&host)));
                            if revived.is_err() {
                                tracing::error!("a fresh VM could not be made, which is a bug");
                            }
                            reloading.watch(&host);
                        }
                    }
                }
            })?;
        Ok(Self { reasons })
    }

    /// Loads configuration and scripts again, changed or not (SIGHUP).
    pub fn everything(&self) {
        // The thread only ends with the process.
        let _ = self.reasons.send(Reason::Everything);
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        // See `everything`.
        let _ = self.reasons.send(Reason::Stop);
    }
}

impl Reloading {
    fn act(&mut self, host: &Arc<Host>, reason: &Reason) {
        self.attend(host, reason);
        self.watch(host);
        self.catch_up(host);
    }

    /// What changed before a file was watched is not reported: one more look.
    fn catch_up(&mut self, host: &Arc<Host>) {
        if self.watcher.is_none() || !self.has_changed(host) {
            return;
        }
        // Unlike the watcher, nobody has waited for the files to come to rest: a save may be half done.
        let mut seen = Fingerprints::of(&self.files(host));
        for _ in 0..RESTLESS {
            std::thread::sleep(QUIET);
            let now = seen.now();
            if now == seen {
                break;
            }
            seen = now;
        }
        self.attend(host, &Reason::Files);
        self.watch(host);
    }

    fn has_changed(&self, host: &Host) -> bool {
        self.configuration_files.now() != self.configuration_files || host.has_changed()
    }

    /// What asks for a reload when it changes.
    fn files(&self, host: &Host) -> Vec<PathBuf> {
        let mut files = self.configuration_files.files();
        files.extend(host.script_files());
        files
    }

    fn attend(&mut self, host: &Arc<Host>, reason: &Reason) {
        match reason {
            Reason::Stop => {}
            Reason::Recycle { realm, script } => self.recycle(host, realm, script),
            Reason::Everything => {
                let loaded = self.reload_configuration(host);
                host.reload_scripts(|key, _| !loaded.contains(key));
            }
            Reason::Files => {
                let fingerprints = self.configuration_files.now();
                if fingerprints != self.configuration_files {
                    self.reload_configuration(host);
                }
                host.reload_scripts(|_, entry| entry.has_changed());
            }
        }
    }

    /// All or nothing: a wrong configuration changes nothing. Hands back the scripts it has loaded, well or not.
    fn reload_configuration(&mut self, host: &Arc<Host>) -> Vec<ScriptKey> {
        let Some(app) = &self.app else {
            return Vec::new();
        };
        let loaded = load_configuration(app, host.router.clock());
        // Behind the look at all files, so that what changes from now on is noticed; and whatever becomes of the
        // rest, as a renewal must not wait for somebody else's mistake.
        host.reload_certificates();
        match loaded {
            Ok(configuration) => {
                let configuration = configuration.listening_on(&self.listen);
                let (objections, files) = host.objections(&configuration);
                if !objections.is_empty() {
                    self.configuration_files = configuration.fingerprints.clone();
                    self.configuration_files.add(&files);
                    Configuration::retire(configuration.mailbox.as_ref());
                    refused(&objections);
                    return Vec::new();
                }
                self.configuration_files = configuration.fingerprints.clone();
                host.adopt(configuration)
            }
            Err(error) => {
                self.configuration_files = error.fingerprints;
                refused(&error.findings);
                Vec::new()
            }
        }
    }

    /// VMs whose threads have failed are replaced, also where nobody was there to be told. Once: what does not load then
    /// is tried again when its files change.
    fn revive(&mut self, host: &Arc<Host>) {
        if host.take_dead_configuration() {
            tracing::warn!("the configuration's functions get a fresh VM");
            self.reload_configuration(host);
        }
        for (realm, script) in host.dead_scripts() {
            self.recycle(host, &realm, &script);
        }
    }

    fn recycle(&mut self, host: &Arc<Host>, realm: &Uri, script: &str) {
        if host.router.realm(realm).is_none_or(|it| it.is_closed()) {
            return; // Its scripts end with it.
        }
        let now = Instant::now();
        self.recycled
            .retain(|(.., at)| now.duration_since(*at) < RECYCLE_PAUSE);
        if self
            .recycled
            .iter()
            .any(|(r, s, _)| r == realm && s == script)
        {
            std::thread::sleep(RECYCLE_PAUSE);
        }
        self.recycled
            .push((realm.clone(), script.to_owned(), Instant::now()));
        tracing::warn!(%realm, %script, "script gets a fresh VM");
        host.reload_scripts(|(its_realm, name), _| its_realm == realm && name == script);
    }

    /// Watches what is loaded now; handlers may have required modules meanwhile.
    fn watch(&mut self, host: &Arc<Host>) {
        if let Some(watcher) = &self.watcher {
            let files = self.files(host);
            if files != self.watched {
                watcher.watch(&files);
                self.watched = files;
            }
        }
    }
}

fn refused(findings: &[Finding]) {
    for finding in findings {
        tracing::error!("configuration not reloaded, the old one holds: {finding:#}");
    }
}

impl Entry {
    /// Whether what was loaded, or what failed to, differs from the files now.
    fn has_changed(&self) -> bool {
        let files = self.files();
        files.now() != files
    }

    /// What the newest try was made from.
    fn files(&self) -> Fingerprints {
        match (&self.broken, &self.script.current) {
            (Some(error), _) if error.files != Fingerprints::default() => error.files.clone(),
            (_, Some(version)) => version.declared.files.lock().clone(),
            (_, None) => Fingerprints::default(),
        }
    }
}

impl Host {
    /// The files of all scripts and of the modules they require.
    fn script_files(&self) -> Vec<PathBuf> {
        let inner = self.inner.lock();
        let files = inner.scripts.values().flat_map(|entry| {
            let path = entry.script.settings.path.clone();
            entry.files().files().into_iter().chain([path])
        });
        files.collect()
    }

    fn has_changed(&self) -> bool {
        self.inner.lock().scripts.values().any(Entry::has_changed)
    }

    /// Scripts that are in, and have no VM any more.
    fn dead_scripts(&self) -> Vec<ScriptKey> {
        let inner = self.inner.lock();
        let dead = inner.scripts.iter().filter(|(_, entry)| {
            let current = entry.script.current.as_ref();
            entry.broken.is_none() && current.is_some_and(Version::has_died)
        });
        dead.map(|(key, _)| key.clone()).collect()
    }

    /// Whether the configuration's VM is gone; from then on nobody is asked until there is another.
    fn take_dead_configuration(&self) -> bool {
        let mut answering = self.answering.write();
        answering
            .configuration
            .take_if(|mailbox| mailbox.is_closed())
            .is_some()
    }

    fn reload_scripts(&self, which: impl Fn(&ScriptKey, &Entry) -> bool) {
        let mut inner = self.inner.lock();
        let due: Vec<_> = inner
            .scripts
            .iter()
            .filter(|(key, entry)| which(key, entry))
            .map(|(key, _)| key.clone())
            .collect();
        if due.is_empty() {
            return;
        }
        let outcomes: Vec<_> = due
            .iter()
            .map(|key| self.reload_one(&mut inner, key))
            .collect();
        // Told when all of it holds: whoever hears of it meets the new hooks.
        self.publish_policies(&mut inner);
        for (key, outcome) in due.iter().zip(outcomes) {
            self.tell_outcome(&inner, key, outcome);
        }
    }

    fn reload_one(&self, inner: &mut Inner, key: &(Uri, String)) -> Result<(), LoadError> {
        self.join_again(inner, key)?;
        let first = inner
            .scripts
            .get(key)
            .is_some_and(|entry| entry.script.current.is_none());
        self.reload_script(inner, key)?;
        if let Some(entry) = inner.scripts.get(key).filter(|_| first) {
            entry.script.start(); // Broken until now, under --dev, or joined again.
        }
        Ok(())
    }

    fn tell_outcome(&self, inner: &Inner, key: &(Uri, String), outcome: Result<(), LoadError>) {
        match outcome {
            Ok(()) => {
                let generation = inner
                    .scripts
                    .get(key)
                    .map_or(0, |entry| entry.script.generation());
                self.tell_reloaded(&key.0, &key.1, generation);
            }
            Err(error) => self.tell_failed(&key.0, &key.1, &error),
        }
    }

    /// What speaks against a configuration beside its own text: scripts that come with it, or get other bounds, must
    /// load. Tried in a throw-away router, so that a wrong configuration changes nothing.
    ///
    /// With the findings come the files that a repair would change.
    fn objections(&self, configuration: &Configuration) -> (Vec<Finding>, Vec<PathBuf>) {
        let old = self.inner.lock().settings.clone();
        let same = |(realm, name): &(Uri, String)| {
            let script = |settings: &Settings| {
                let template = || Some(&settings.on_demand.as_ref()?.realm);
                let realm = settings.realms.get(realm).or_else(template)?;
                realm
                    .scripts
                    .iter()
                    .find(|script| script.name == *name)
                    .cloned()
            };
            script(&old) == script(&configuration.settings)
        };
        let _runtime = self.router.runtime().enter();
        let router = Arc::new(Router::new(&configuration.settings));
        let options = HostOptions {
            dry: true,
            ..self.options
        };
        let trial = Host::new(router, configuration, options);
        let problems = trial.load_each();
        let mut findings = trial.undecided(configuration);
        trial.discard();
        let mut files = Vec::new();
        for (key, path, error) in problems {
            // A script that is broken already is no objection to the rest.
            if !same(&key) {
                findings.push(error.finding(&path));
                files.extend(error.files.files());
                files.push(path);
            }
        }
        (findings, files)
    }

    /// Applies a new configuration: realms and policies, then scripts that came, went or changed their bounds. Hands back
    /// those it has loaded, well or not.
    fn adopt(&self, configuration: Configuration) -> Vec<ScriptKey> {
        let mut inner = self.inner.lock();
        let mut settings = configuration.settings;
        let (mailbox, app_dir) = (configuration.mailbox.as_deref(), &configuration.app_dir);
        self.carry_over(&inner, &mut settings, mailbox, app_dir);
        let old = std::mem::replace(&mut inner.settings, settings);
        for change in changes_needing_restart(&self.bound, &inner.settings.listeners) {
            tracing::warn!("configuration: {change} (needs a restart)");
        }
        let retired = {
            let mut answering = self.answering.write();
            std::mem::replace(&mut answering.configuration, configuration.mailbox)
        };
        self.remove_scripts(&mut inner);
        // What needs a restart has just been named. The scripts that are in go on deciding, lest the sessions they
        // admitted are ended for a moment's lack of them.
        self.router.apply(&effective_settings(&inner, &self.demand));
        let loaded = self.add_scripts(&mut inner, &old);
        self.publish_policies(&mut inner);
        Configuration::retire(retired.as_ref());
        tracing::info!("configuration reloaded");
        loaded
    }

    /// For TLS connections to come; what cannot be read stays as it was.
    fn reload_certificates(&self) {
        for error in self.router.reload_certificates() {
            tracing::error!("certificate not reloaded, the old one holds: {error}");
        }
    }

    pub(super) fn remove_scripts(&self, inner: &mut Inner) {
        let gone: Vec<_> = inner
            .scripts
            .keys()
            .filter(|(realm, name)| {
                let settings = inner.settings.realms.get(realm);
                settings
                    .is_none_or(|realm| !realm.scripts.iter().any(|script| script.name == *name))
            })
            .cloned()
            .collect();
        for key in gone {
            if let Some(entry) = inner.scripts.remove(&key) {
                tracing::info!(realm = %key.0, script = %key.1, "script removed");
                entry.script.leave(Instant::now() + Duration::from_secs(1));
            }
        }
    }

    fn add_scripts(&self, inner: &mut Inner, old: &Settings) -> Vec<ScriptKey> {
        let settings = inner.settings.clone();
        let (mut added, mut loaded) = (Vec::new(), Vec::new());
        for (uri, realm) in &settings.realms {
            for script in &realm.scripts {
                let key = (uri.clone(), script.name.clone());
                let before = old
                    .realms
                    .get(uri)
                    .and_then(|r| r.scripts.iter().find(|s| s.name == script.name));
                match inner.scripts.get(&key) {
                    Some(_) if before == Some(script) => continue,
                    Some(_) | None => loaded.push(key.clone()),
                }
                match inner.scripts.get_mut(&key) {
                    None => match self.add_script(inner, uri, realm, &script.name) {
                        Ok(()) => {
                            tracing::info!(realm = %uri, script = %script.name, "script added");
                            added.push(key);
                        }
                        Err(error) => {
                            if let Some(entry) = inner.scripts.get_mut(&key) {
                                entry.closes_realm = !old.realms.contains_key(uri);
                            }
                            self.tell_failed(uri, &script.name, &error);
                        }
                    },
                    Some(entry) => {
                        entry.script.settings = script.clone();
                        let outcome = self.reload_one(inner, &key);
                        self.tell_outcome(inner, &key, outcome);
                    }
                }
            }
        }
        for key in added {
            if let Some(entry) = inner.scripts.get(&key) {
                entry.script.start();
            }
        }
        loaded
    }

    /// What a version did not declare again goes even if its start handlers never end.
    fn sweep_overdue(&self) {
        for entry in self.inner.lock().scripts.values_mut() {
            entry.script.sweep();
        }
    }

    /// Problems of users' roles that only the loaded scripts could settle.
    pub fn undecided(&self, configuration: &Configuration) -> Vec<Finding> {
        let answering = self.answering.read();
        let authorized = |realm: &Uri| {
            answering
                .realms
                .get(realm)
                .is_some_and(|realm| realm.authorizer.is_some())
        };
        let open = configuration
            .undecided
            .iter()
            .filter(|undecided| !authorized(&undecided.realm));
        open.map(|undecided| undecided.finding.clone()).collect()
    }
}

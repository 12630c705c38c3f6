//! Saves as editors and tools do them, on real files: each is one call, and fingerprints tell what it was about.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use perilune::lua::require::{Dependency, content_hash};
use perilune::lua::watch::{Fingerprints, LONGEST_NOISE, QUIET, Watcher};

/// Longer than any call takes to come.
const PATIENCE: Duration = Duration::from_secs(20);

struct Scene {
    folder: tempfile::TempDir,
    watcher: Watcher,
    calls: Receiver<()>,
}

impl Scene {
    /// A watched folder; `a.lua` and `b.lua` are there, `missing.lua` is of interest too.
    fn new() -> Scene {
        let (call, calls) = channel();
        let watcher = Watcher::start(move || call.send(()).unwrap_or_default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene {
            folder,
            watcher,
            calls,
        };
        for name in ["a.lua", "b.lua", "other.txt"] {
            fs::write(scene.path(name), "return 1\n").unwrap();
        }
        scene.watch(&["a.lua", "b.lua", "missing.lua"]);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn watch(&self, names: &[&str]) {
        let files: Vec<_> = names.iter().map(|name| self.path(name)).collect();
        self.watcher.watch(&files);
    }

    /// Waits for a call, then until none follows.
    fn calls(&self) -> usize {
        let mut calls = 0;
        let mut patience = PATIENCE;
        loop {
            match self.calls.recv_timeout(patience) {
                Ok(()) => calls += 1,
                Err(RecvTimeoutError::Timeout) => return calls,
                Err(RecvTimeoutError::Disconnected) => panic!("the watcher has ended"),
            }
            patience = QUIET * 3;
        }
    }

    /// Whether `save` is answered by one call that shows `names` as changed.
    #[track_caller]
    fn saves(&self, save: impl Fn(&Scene), names: &[&str]) {
        for _ in 0..5 {
            let all: Vec<_> = ["a.lua", "b.lua", "missing.lua"]
                .map(|name| self.path(name))
                .into();
            let before = Fingerprints::of(&all);
            let begun = Instant::now();
            save(self);
            let took = begun.elapsed();
            let calls = self.calls();
            let changed = before.changed(&before.now());
            let expected: Vec<_> = names.iter().map(|name| self.path(name)).collect();
            assert_eq!(changed, expected);
            if calls == 1 {
                return;
            }
            assert!(calls > 1, "no call");
            // A save that the machine let take so long is rightly seen as several.
            assert!(took > QUIET / 2, "{calls} calls");
        }
        panic!("the machine is too slow for this test");
    }
}

fn different() -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("return {}\n", COUNT.fetch_add(1, Ordering::Relaxed) + 100)
}

fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn every_kind_of_save_is_one_call() {
    let scene = Scene::new();
    // Truncate and write.
    scene.saves(
        |s| fs::write(s.path("a.lua"), different()).unwrap(),
        &["a.lua"],
    );
    // The same in pieces.
    scene.saves(
        |s| {
            let mut file = fs::File::create(s.path("a.lua")).unwrap();
            for piece in different().as_bytes().chunks(4) {
                file.write_all(piece).unwrap();
                pause();
            }
        },
        &["a.lua"],
    );
    // vim: the old one becomes a backup, a new one is written, the backup goes.
    scene.saves(
        |s| {
            fs::write(s.path("4913"), "").unwrap();
            fs::remove_file(s.path("4913")).unwrap();
            fs::rename(s.path("a.lua"), s.path("a.lua~")).unwrap();
            fs::write(s.path("a.lua"), different()).unwrap();
            pause();
            fs::remove_file(s.path("a.lua~")).unwrap();
        },
        &["a.lua"],
    );
    // Written beside, renamed over.
    scene.saves(
        |s| {
            fs::write(s.path(".a.lua.tmp"), different()).unwrap();
            fs::rename(s.path(".a.lua.tmp"), s.path("a.lua")).unwrap();
        },
        &["a.lua"],
    );
    // Several files.
    scene.saves(
        |s| {
            fs::write(s.path("a.lua"), different()).unwrap();
            pause();
            fs::write(s.path("missing.lua"), different()).unwrap();
            pause();
            fs::remove_file(s.path("b.lua")).unwrap();
            pause();
        },
        &["a.lua", "b.lua", "missing.lua"],
    );
}

#[test]
fn what_changes_no_contents_changes_no_fingerprint() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    scene.saves(
        |s| {
            let file = fs::File::open(s.path("a.lua")).unwrap();
            file.set_modified(std::time::SystemTime::now()).unwrap();
        },
        &[],
    );
    scene.saves(
        |s| fs::set_permissions(s.path("a.lua"), fs::Permissions::from_mode(0o600)).unwrap(),
        &[],
    );
    scene.saves(|s| fs::write(s.path("a.lua"), "return 1\n").unwrap(), &[]);
}

#[test]
fn reading_and_other_files_are_no_news() {
    let scene = Scene::new();
    fs::read(scene.path("a.lua")).unwrap();
    fs::write(scene.path("other.txt"), "x").unwrap();
    let quiet = scene.calls.recv_timeout(QUIET * 4);
    assert_eq!(quiet, Err(RecvTimeoutError::Timeout));
}

#[test]
fn folders_come_and_go() {
    let scene = Scene::new();
    scene.watch(&["lib/deep/x.lua"]);
    let x = scene.path("lib/deep/x.lua");
    let change = |what: &dyn Fn()| {
        let before = Fingerprints::of(std::slice::from_ref(&x));
        what();
        assert!(scene.calls() >= 1);
        before.changed(&before.now()).len()
    };
    let create = || {
        fs::create_dir_all(x.parent().unwrap()).unwrap();
        fs::write(&x, different()).unwrap();
    };
    assert_eq!(change(&create), 1, "created with its folders");
    assert_eq!(
        change(&|| fs::write(&x, different()).unwrap()),
        1,
        "written"
    );
    assert_eq!(
        change(&|| fs::remove_dir_all(scene.path("lib")).unwrap()),
        1,
        "gone"
    );
    assert_eq!(change(&create), 1, "back");
    let replace = || {
        fs::rename(scene.path("lib"), scene.path("old")).unwrap();
        create();
    };
    assert_eq!(change(&replace), 1, "replaced");
    assert_eq!(
        change(&|| fs::write(&x, different()).unwrap()),
        1,
        "written again"
    );
}

/// As Kubernetes mounts a configuration, and as deployments switch releases.
#[test]
fn links_are_followed() {
    use std::os::unix::fs::symlink;
    let scene = Scene::new();
    let elsewhere = tempfile::tempdir().unwrap();
    for release in ["1", "2"] {
        fs::create_dir(elsewhere.path().join(release)).unwrap();
        fs::write(elsewhere.path().join(release).join("x.lua"), release).unwrap();
    }
    symlink(elsewhere.path().join("1"), scene.path("..data")).unwrap();
    symlink("..data/x.lua", scene.path("x.lua")).unwrap();
    scene.watch(&["x.lua"]);
    let x = scene.path("x.lua");
    let loaded = Fingerprints::of(std::slice::from_ref(&x));
    symlink(elsewhere.path().join("2"), scene.path("..tmp")).unwrap();
    fs::rename(scene.path("..tmp"), scene.path("..data")).unwrap();
    assert!(scene.calls() >= 1);
    let switched = loaded.now();
    assert_eq!(loaded.changed(&switched), std::slice::from_ref(&x));
    fs::write(elsewhere.path().join("2/x.lua"), "3").unwrap();
    assert!(scene.calls() >= 1);
    assert_eq!(switched.changed(&switched.now()), [x]);
}

#[test]
fn noise_puts_the_call_off_for_a_while_only() {
    let scene = Scene::new();
    let begun = Instant::now();
    while scene.calls.try_recv().is_err() {
        assert!(begun.elapsed() < PATIENCE, "no call in all the noise");
        fs::write(scene.path("a.lua"), different()).unwrap();
        pause();
    }
    assert!(begun.elapsed() > LONGEST_NOISE / 2, "{:?}", begun.elapsed());
}

#[test]
fn polling_notices_too() {
    let (call, calls) = channel();
    let watcher = Watcher::start_polling(move || call.send(()).unwrap_or_default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.lua");
    watcher.watch(std::slice::from_ref(&file));
    fs::write(&file, different()).unwrap();
    assert_eq!(calls.recv_timeout(PATIENCE), Ok(()));
    assert!(calls.recv_timeout(QUIET * 3).is_err(), "one call only");
    drop(watcher);
    // The thread ends, and with it the callback.
    assert_eq!(
        calls.recv_timeout(PATIENCE),
        Err(RecvTimeoutError::Disconnected)
    );
}

#[test]
fn the_callback_may_watch_other_files() {
    use std::sync::{Arc, OnceLock};
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let slot = Arc::new(OnceLock::<Watcher>::new());
    let (call, calls) = channel();
    let (inner, next) = (slot.clone(), path("b.lua"));
    let watcher = Watcher::start(move || {
        if let Some(watcher) = inner.get() {
            watcher.watch(std::slice::from_ref(&next));
        }
        call.send(()).unwrap_or_default();
    });
    assert!(slot.set(watcher.unwrap()).is_ok());
    slot.get().unwrap().watch(&[path("a.lua")]);
    for name in ["a.lua", "b.lua"] {
        fs::write(path(name), different()).unwrap();
        assert_eq!(calls.recv_timeout(PATIENCE), Ok(()), "{name}");
    }
}

#[test]
fn fingerprints_tell_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["a", "b"] {
        fs::write(path(name), name).unwrap();
    }
    let all = ["a", "b", "c"].map(path);
    let before = Fingerprints::of(&all);
    assert_eq!(before.changed(&before.now()), Vec::<PathBuf>::new());
    assert_eq!(before.files(), all);
    let loaded: Vec<_> = ["a", "b"]
        .map(|name| Dependency {
            path: path(name),
            hash: content_hash(name.as_bytes()),
        })
        .into();
    assert_eq!(Fingerprints::of_loaded(&loaded, &[path("c")]), before);
    fs::write(path("b"), "else").unwrap();
    fs::write(path("c"), "").unwrap();
    assert_eq!(before.changed(&before.now()), [path("b"), path("c")]);
    fs::remove_file(path("a")).unwrap();
    fs::create_dir(path("a")).unwrap();
    assert_eq!(before.changed(&before.now()), all, "a folder is no file");
    let fewer = Fingerprints::of(&all[1..]);
    assert_eq!(fewer.changed(&before.now()), [path("a")]);
}

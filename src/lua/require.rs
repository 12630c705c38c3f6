//! Finds the modules of a script: built-in ones first, then the script's own folder, then the app folder.
//!
//! `a.b` means `a/b.lua` or `a/b/init.lua`. A name can never leave the two folders, neither by `..` nor through a
//! symbolic link, unless the script is trusted. Every file looked into is recorded with its contents' hash, so that the
//! watcher knows what a reload depends on. The running and caching is in `prelude.lua`.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use mlua::{Function, Lua, Value};
use sha2::{Digest, Sha256};

use super::raw::compile;
use super::vm::ScriptError;

/// Largest source file taken.
const MAX_FILE: u64 = 16 << 20;

/// Longest name of a module.
const LONGEST_NAME: usize = 255;

/// Files looked for in vain that are remembered (and watched): names may come from a client.
const ABSENT: usize = 1_000;

/// Makes the value of a built-in module, once per VM.
pub type Loader = Box<dyn Fn(&Lua) -> mlua::Result<Value>>;

/// A file whose contents went into a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// Where it was found, symbolic links not resolved.
    pub path: PathBuf,
    /// SHA-256 of its contents.
    pub hash: [u8; 32],
}

/// Hash by which a changed file is recognised.
pub fn content_hash(contents: &[u8]) -> [u8; 32] {
    Sha256::digest(contents).into()
}

/// The modules one VM can see.
pub(super) struct Modules {
    /// Where to look, in order, and what chunk names are relative to (the last).
    roots: Vec<PathBuf>,
    /// Whether links may lead out of the roots.
    links_out: bool,
    builtin: RefCell<HashMap<String, Loader>>,
    dependencies: RefCell<Vec<Dependency>>,
    absent: RefCell<BTreeSet<PathBuf>>,
}

impl Modules {
    pub(super) fn new(script_dir: &Path, app_dir: &Path, links_out: bool) -> Modules {
        let mut roots = vec![script_dir.to_owned()];
        if app_dir != script_dir {
            roots.push(app_dir.to_owned());
        }
        Modules {
            roots,
            links_out,
            builtin: RefCell::default(),
            dependencies: RefCell::default(),
            absent: RefCell::default(),
        }
    }

    pub(super) fn add_builtin(&self, name: &str, loader: Loader) {
        self.builtin.borrow_mut().insert(name.to_owned(), loader);
    }

    /// How many files were loaded so far.
    pub(super) fn count(&self) -> usize {
        self.dependencies.borrow().len()
    }

    pub(super) fn dependencies(&self) -> Vec<Dependency> {
        self.dependencies.borrow().clone()
    }

    /// Files looked for in vain.
    pub(super) fn absent(&self) -> Vec<PathBuf> {
        self.absent.borrow().iter().cloned().collect()
    }

    /// The loader of a module (a function that returns its value) and where it came from.
    pub(super) fn find(&self, lua: &Lua, name: &str) -> mlua::Result<(Function, String)> {
        if let Some(loader) = self.builtin.borrow().get(name) {
            let value = loader(lua)?;
            let give = lua.create_function(move |_, _: mlua::MultiValue| Ok(value.clone()))?;
            return Ok((give, "built in".to_owned()));
        }
        let relative = relative_path(name).map_err(mlua::Error::runtime)?;
        let mut tried = String::new();
        for root in &self.roots {
            for candidate in [
                root.join(relative.with_extension("lua")),
                root.join(&relative).join("init.lua"),
            ] {
                if candidate.is_file() {
                    let function = self
                        .compile(lua, &candidate)
                        .map_err(|e| mlua::Error::runtime(e.message))?;
                    return Ok((function, candidate.display().to_string()));
                }
                tried.push_str(&format!("\n\tno file '{}'", candidate.display()));
                let mut absent = self.absent.borrow_mut();
                if absent.len() < ABSENT {
                    absent.insert(candidate);
                } else if !absent.contains(&candidate) {
                    tried.push_str(" (nor is it watched for: too many modules were not found)");
                }
            }
        }
        Err(mlua::Error::runtime(format!(
            "module '{name}' not found:\n\tno built-in module '{name}'{tried}"
        )))
    }

    /// Reads and compiles one file as text, and records it.
    pub(super) fn compile(&self, lua: &Lua, path: &Path) -> Result<Function, ScriptError> {
        let shown = self.shown(path);
        let unreadable =
            |error: std::io::Error| ScriptError::host(&format!("{}: {error}", path.display()));
        let real = path.canonicalize().map_err(unreadable)?;
        if !self.links_out
            && !self
                .roots
                .iter()
                .filter_map(|r| r.canonicalize().ok())
                .any(|r| real.starts_with(r))
        {
            return Err(ScriptError::host(&format!(
                "'{shown}' leads by a symbolic link to '{}', out of the application's folders (only a script with \
                 `trusted = true` may load that)",
                real.display()
            )));
        }
        if real.metadata().map_err(unreadable)?.len() > MAX_FILE {
            return Err(ScriptError::host(&format!(
                "'{shown}' is too large for a script"
            )));
        }
        let contents = std::fs::read(&real).map_err(unreadable)?;
        self.record(path, &contents);
        compile_text(lua, &shown, &contents)
    }

    fn record(&self, path: &Path, contents: &[u8]) {
        let entry = Dependency {
            path: path.to_owned(),
            hash: content_hash(contents),
        };
        let mut dependencies = self.dependencies.borrow_mut();
        match dependencies.iter_mut().find(|d| d.path == entry.path) {
            Some(known) => *known = entry,
            None => dependencies.push(entry),
        }
    }

    /// The path as messages show it: relative to the app folder where it lies within.
    fn shown(&self, path: &Path) -> String {
        let relative = self
            .roots
            .iter()
            .rev()
            .find_map(|root| path.strip_prefix(root).ok());
        relative.unwrap_or(path).display().to_string()
    }
}

/// Compiles source text; its chunk name is `@name`, so that messages say `name:line:`.
pub(super) fn compile_text(lua: &Lua, name: &str, source: &[u8]) -> Result<Function, ScriptError> {
    compile(lua, &format!("@{name}"), source).map_err(ScriptError::from_text)
}

/// `a.b` or `a/b` as a relative path; nothing that could leave the folder.
fn relative_path(name: &str) -> Result<PathBuf, String> {
    let path: PathBuf = name.split(['.', '/']).collect();
    if name.len() > LONGEST_NAME {
        return Err(format!(
            "a module name has at most {LONGEST_NAME} octets, got {}",
            name.len()
        ));
    }
    let clean = !name.is_empty()
        && !name.contains(['\0', '\\', ':'])
        && name.split(['.', '/']).all(|part| !part.is_empty())
        && path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    if clean {
        Ok(path)
    } else {
        Err(format!("bad module name '{}'", name.escape_debug()))
    }
}

#[cfg(test)]
mod tests {
    use super::relative_path;

    #[test]
    fn module_names_stay_inside() {
        assert_eq!(
            relative_path("a.b_c.d").unwrap(),
            std::path::Path::new("a/b_c/d")
        );
        assert_eq!(relative_path("a/b").unwrap(), std::path::Path::new("a/b"));
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "..x",
            "/etc/passwd",
            "a..b",
            "a//b",
            "a\0b",
            "a\\b",
            "c:x",
            "x.",
        ] {
            assert!(relative_path(bad).is_err(), "{bad:?}");
        }
    }
}

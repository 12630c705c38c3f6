//! A realm that the configuration's function has described: plain data, read as if it stood in the file.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use super::limits::Limits;
use super::locate::Locator;
use super::node::{Node, Source};
use super::realm::read_realm;
use super::vm::ConfigVm;
use super::{FILE_NAME, Finding};
use crate::lua::vm::spawn_vm_thread;
use crate::server::settings::RealmSettings;
use crate::words::{Uri, Value};

/// Reads it on a thread of its own. `base` has the limits that hold unless it says others; paths are relative to
/// `folder`.
pub fn realm_described(
    folder: &Path,
    name: &Uri,
    description: &Value,
    base: &RealmSettings,
) -> Result<RealmSettings, String> {
    let mut text = String::from("return ");
    literal(&mut text, description);
    let limits = Limits {
        realm: base.policy.limits.clone(),
        host: base.host.clone(),
        ..Limits::default()
    };
    let (report, reported) = sync_channel(1);
    let (folder, name) = (folder.to_owned(), name.clone());
    let spawned = spawn_vm_thread("config", move || {
        // Whoever asked waits for this report.
        let _ = report.send(read(&folder, &name, &text, &limits));
    });
    spawned.map_err(|error| format!("no thread to read its description: {error}"))?;
    let read = reported.recv();
    read.map_err(|_| "reading its description failed".to_owned())?
}

fn read(folder: &Path, name: &Uri, text: &str, limits: &Limits) -> Result<RealmSettings, String> {
    let file = folder.join(FILE_NAME);
    let lua = ConfigVm::open(&file, folder).map_err(|error| error.message)?;
    let value = lua.evaluate(text).map_err(|error| error.message)?;
    let source = Source {
        file,
        folder: folder.to_owned(),
        locator: Locator::new(text),
        vm: lua.vm.clone(),
        findings: RefCell::default(),
        warnings: RefCell::default(),
        files: RefCell::default(),
        lacking: Cell::new(false),
    };
    let root = Node {
        source: &source,
        path: Default::default(),
        value,
    };
    let realm = read_realm(&root, name.clone(), limits);
    let said = |finding: &Finding| finding.message.clone();
    let findings: Vec<String> = source.findings.borrow().iter().map(said).collect();
    match findings.is_empty() {
        true => Ok(realm.settings),
        false => Err(format!("its description is wrong: {}", findings.join("; "))),
    }
}

/// Writes a value as Lua.
fn literal(text: &mut String, value: &Value) {
    // Writing to a String cannot fail.
    let _ = match value {
        Value::Null => write!(text, "nil"),
        Value::Bool(flag) => write!(text, "{flag}"),
        Value::Int(number) => write!(text, "{number}"),
        Value::Uint(number) => write!(text, "{number}"),
        Value::Float(number) if number.is_finite() => write!(text, "{number:?}"),
        Value::Float(_) => write!(text, "nil"),
        Value::Str(string) => return quoted(text, string.as_bytes()),
        Value::Bytes(octets) => return quoted(text, octets),
        Value::List(items) => {
            text.push('{');
            for item in items {
                literal(text, item);
                text.push_str(", ");
            }
            write!(text, "}}")
        }
        Value::Map(map) => {
            text.push('{');
            for (key, item) in &map.0 {
                text.push('[');
                quoted(text, key.as_bytes());
                text.push_str("] = ");
                literal(text, item);
                text.push_str(", ");
            }
            write!(text, "}}")
        }
    };
}

fn quoted(text: &mut String, octets: &[u8]) {
    text.push('"');
    for &octet in octets {
        match octet {
            b'"' | b'\\' => text.extend(['\\', char::from(octet)]),
            b' '..=b'~' => text.push(char::from(octet)),
            // Three digits: what follows may be one.
            _ => text.push_str(&format!("\\{octet:03}")),
        }
    }
    text.push('"');
}

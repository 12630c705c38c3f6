//! The reference of the configuration, from the same declarations that read it.

use std::fmt::Write;

use super::limits::{self, Limits};
use super::realm::{Disclosed, RealmDraft, RuleDraft};
use super::router::{Draft, ListenerDraft, TlsDraft};
use super::{auth, http, kept, realm, router};
use crate::core::policy::{RetentionPolicy, RolePolicy};
use crate::server::settings::{DeflateSettings, HttpSettings, ScriptSettings};
use crate::words::Uri;

/// Every key of `perilune.lua` as Markdown tables: name, what it takes, default, meaning.
pub fn reference() -> String {
    let mut text = String::new();
    let limits = &mut Limits::default();
    let realm = &mut RealmDraft::new(Uri::default(), limits);
    section(
        &mut text,
        "Top level",
        router::TOP.rows(&mut Draft::default()),
    );
    section(
        &mut text,
        "`listen`",
        router::LISTENER.rows(&mut ListenerDraft::new(limits)),
    );
    section(
        &mut text,
        "`listen.tls`",
        router::TLS.rows(&mut TlsDraft::default()),
    );
    section(
        &mut text,
        "`listen.deflate`",
        router::DEFLATE.rows(&mut DeflateSettings::default()),
    );
    section(
        &mut text,
        "`http`",
        http::HTTP.rows(&mut HttpSettings::default()),
    );
    section(
        &mut text,
        "`http.publish`, `http.call`, `http.events`: `[\"/path\"] = { … }`",
        http::PUBLISH_PATH.rows(&mut Default::default()),
    );
    section(&mut text, "`realms.NAME`", realm::REALM.rows(realm));
    section(
        &mut text,
        "`realms.NAME.retain`",
        kept::RETAIN.rows(&mut RetentionPolicy::default()),
    );
    section(
        &mut text,
        "An item of `realms.NAME.history`",
        kept::HISTORY.rows(&mut Default::default()),
    );
    section(&mut text, "`realms.NAME.auth`", auth::AUTH.rows(realm));
    section(
        &mut text,
        "`auth.anonymous`",
        auth::ANONYMOUS.rows(&mut Default::default()),
    );
    section(
        &mut text,
        "`auth.ticket.users.AUTHID`",
        auth::TICKET_USER.rows(&mut Default::default()),
    );
    section(
        &mut text,
        "`auth.wampcra.users.AUTHID`",
        auth::CRA_USER.rows(&mut Default::default()),
    );
    section(
        &mut text,
        "`auth.scram.users.AUTHID`",
        auth::SCRAM_USER.rows(&mut Default::default()),
    );
    section(
        &mut text,
        "`auth.cryptosign`",
        auth::CRYPTOSIGN.rows(&mut Default::default()),
    );
    section(
        &mut text,
        "`auth.cryptosign.keys.KEY`",
        auth::KEY_OWNER.rows(&mut Default::default()),
    );
    section(
        &mut text,
        "`auth.jwt`",
        auth::JWT.rows(&mut Default::default()),
    );
    section(
        &mut text,
        "`auth.cookie`",
        auth::COOKIE.rows(&mut Default::default()),
    );
    section(
        &mut text,
        "`auth.tls`",
        auth::TLS_LOGIN.rows(&mut Default::default()),
    );
    section(
        &mut text,
        "`auth.tls.users.AUTHID`",
        auth::TLS_USER.rows(&mut Default::default()),
    );
    section(
        &mut text,
        "`auth.METHOD`, beside its users",
        auth::METHOD.rows(&mut ()),
    );
    section(
        &mut text,
        "`roles.NAME`, beside its rules",
        realm::ROLE.rows(&mut RolePolicy::default()),
    );
    section(
        &mut text,
        "A rule of `roles.NAME`",
        realm::RULE.rows(&mut RuleDraft::default()),
    );
    section(
        &mut text,
        "`disclose` of a rule",
        realm::DISCLOSE.rows(&mut Disclosed::default()),
    );
    section(
        &mut text,
        "`scripts`: `{ \"file.lua\", KEY = … }`",
        limits::SCRIPT_KEYS.rows(&mut ScriptSettings::new("", "")),
    );
    section(
        &mut text,
        "`limits` at the top level",
        limits::TOP.rows(limits),
    );
    section(
        &mut text,
        "`realms.NAME.limits`",
        limits::OF_REALM.rows(limits),
    );
    text
}

fn section(text: &mut String, title: &str, rows: Vec<[String; 4]>) {
    let gap = if text.is_empty() { "" } else { "\n" };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{gap}### {title}\n\n| key | takes | default | meaning |\n|---|---|---|---|"
    );
    for [name, takes, default, doc] in rows {
        let _ = writeln!(text, "| `{name}` | {takes} | {default} | {doc} |");
    }
}

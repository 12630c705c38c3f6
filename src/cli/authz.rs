//! `perilune authz explain`: which rule or function decides about an action, and how.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::app;
use crate::core::credentials::Principal;
use crate::core::policy::{Action, Disclosure, RealmPolicy, Rule};
use crate::core::{AuthorizeRequest, CacheFor, Explanation, Ticket, Verdict, explain};
use crate::lua::guard;
use crate::lua::host::{Configuration, Host, HostOptions};
use crate::server::Router;
use crate::words::{Dict, MatchPolicy, SessionId, Uri};

/// A line of output; a reader that has gone is no error.
macro_rules! say {
    ($($text:tt)*) => {
        let _ = writeln!(std::io::stdout(), $($text)*);
    };
}

#[derive(Args)]
pub(super) struct AuthzArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say which rule or function decides about an action, and how it decides
    ///
    /// Loads the application in a throw-away router, as `check` does. A function that decides is run.
    /// Exit code 0: allowed; 1: refused.
    Explain(ExplainArgs),
}

#[derive(Args)]
struct ExplainArgs {
    /// A folder with perilune.lua, or such a file
    app: PathBuf,
    /// What is to be done: call, register, publish or subscribe
    action: String,
    /// The URI, or the pattern
    uri: String,
    /// The realm [default: the only one there is]
    #[arg(long)]
    realm: Option<String>,
    /// The role of the session
    #[arg(long)]
    role: String,
    /// The authid of the session
    #[arg(long, default_value = "somebody")]
    authid: String,
    /// How the URI matches, for subscribe and register
    #[arg(long = "match", default_value = "exact", value_parser = ["exact", "prefix", "wildcard"])]
    match_policy: String,
}

pub(super) fn run(args: AuthzArgs) -> anyhow::Result<ExitCode> {
    let Command::Explain(args) = args.command;
    guard::self_test()?;
    let Some(action) = Action::parse(&args.action) else {
        super::tell(format_args!(
            "{:?} is no action: call, register, publish, subscribe",
            args.action
        ));
        return Ok(ExitCode::from(2));
    };
    let configuration = match app::load(Some(&args.app), &[]) {
        Ok(configuration) => configuration,
        Err(error) => {
            app::print(&error.findings, &mut std::io::stdout())?;
            return Ok(ExitCode::from(1));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _context = runtime.enter();
    let router = Arc::new(Router::new(&configuration.settings));
    let options = HostOptions {
        dry: true,
        ..HostOptions::default()
    };
    let host = Host::new(router.clone(), &configuration, options);
    let findings = host.load_all();
    if !findings.is_empty() {
        app::print(&findings, &mut std::io::stdout())?;
        return Ok(ExitCode::from(1));
    }
    let realm = the_realm(&configuration, args.realm.as_deref())?;
    let policy = router
        .realm(&realm)
        .context("the realm has no policy")?
        .policy();
    let case = Case {
        configuration: &configuration,
        host: &host,
        realm,
        policy: &policy,
        action,
    };
    Ok(match case.print(&args)? {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    })
}

fn the_realm(configuration: &Configuration, named: Option<&str>) -> anyhow::Result<Uri> {
    let realms = &configuration.settings.realms;
    let names = || {
        realms
            .keys()
            .map(Uri::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match named {
        Some(name) if realms.contains_key(name) => Ok(name.into()),
        Some(name) => bail!("there is no realm {name:?}; there are: {}", names()),
        None if realms.len() == 1 => Ok(realms.keys().next().cloned().unwrap_or_default()),
        None => bail!("which realm? --realm takes one of: {}", names()),
    }
}

struct Case<'a> {
    configuration: &'a Configuration,
    host: &'a Arc<Host>,
    realm: Uri,
    policy: &'a RealmPolicy,
    action: Action,
}

impl Case<'_> {
    /// Whether it is allowed.
    fn print(&self, args: &ExplainArgs) -> anyhow::Result<bool> {
        let match_policy = MatchPolicy::parse(&args.match_policy).unwrap_or_default();
        let principal = Principal {
            authid: args.authid.clone(),
            authrole: args.role.clone(),
            authmethod: "explain".into(),
            authprovider: "static".into(),
            extra: Dict::new(),
        };
        let session = SessionId::from_raw(1);
        let (uri, action) = (args.uri.as_str(), self.action);
        let subject = format!(
            "{} {} {uri:?} as role {:?} (authid {:?}) in realm {:?}",
            action.as_str(),
            match_policy.as_str(),
            args.role,
            args.authid,
            self.realm.as_str(),
        );
        if let Err(invalid) = self.policy.uris.check(uri, match_policy) {
            say!("{subject}: refused\n  {invalid}");
            return Ok(false);
        }
        if !self.policy.has_role(&args.role) {
            say!("{subject}: refused\n  the realm has no such role, a login for it is turned away");
            return Ok(false);
        }
        let settings = &self.configuration.settings.realms[&self.realm];
        let places = settings
            .role_places
            .get(&args.role)
            .cloned()
            .unwrap_or_default();
        let by_role = match explain(
            self.policy,
            &principal,
            session,
            action,
            (uri, match_policy),
        ) {
            Explanation::Rule {
                index,
                rule,
                allowed,
            } => {
                let place = places.rules.get(index).map_or("?", String::as_str);
                say!(
                    "{subject}: {}\n  by rule {} of the role, {place}: {}",
                    word(allowed),
                    index + 1,
                    rule_text(&rule)
                );
                return Ok(allowed);
            }
            Explanation::Narrowed { index, rule, cover } => {
                let place = |index: usize| places.rules.get(index).map_or("?", String::as_str);
                let otherwise = cover.map_or(String::new(), |cover| {
                    format!(", although rule {} ({}) covers it", cover + 1, place(cover))
                });
                say!(
                    "{subject}: refused\n  the pattern reaches URIs for which rule {} of the role decides, {}: {}{otherwise}",
                    index + 1,
                    place(index),
                    rule_text(&rule)
                );
                return Ok(false);
            }
            Explanation::Nobody => {
                say!(
                    "{subject}: refused\n  no rule of the role matches, and there is no function to ask"
                );
                return Ok(false);
            }
            Explanation::RoleFunction => true,
            Explanation::Authorizer => false,
        };
        let request = AuthorizeRequest {
            ticket: Ticket(0),
            session,
            principal: Arc::new(principal),
            action,
            uri: uri.into(),
            match_policy,
            disclose_me: false,
            by_role,
        };
        let (place, verdict) = self.host.explain(&self.realm, request);
        let place = match places.function {
            Some(line) if by_role => format!("{place}, {line}"),
            _ => place,
        };
        let (allowed, answer) = verdict_text(&verdict, action, uri, match_policy);
        say!(
            "{subject}: {}\n  no rule of the role matches; asked {place}: {answer}",
            word(allowed)
        );
        Ok(allowed)
    }
}

fn word(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "refused" }
}

/// The rule as it is written in a configuration.
fn rule_text(rule: &Rule) -> String {
    let actions: Vec<_> = Action::ALL
        .into_iter()
        .filter(|action| rule.allow.contains(*action))
        .map(|action| format!("{:?}", action.as_str()))
        .collect();
    let mut text = format!(
        "{{ uri = {:?}, match = {:?}",
        rule.uri.as_str(),
        rule.match_policy.as_str()
    );
    text += &match actions.is_empty() {
        true => ", allow = {}".to_owned(),
        false => format!(", allow = {{ {} }}", actions.join(", ")),
    };
    for (key, disclosure) in [
        ("caller", rule.disclose_caller),
        ("publisher", rule.disclose_publisher),
    ] {
        match disclosure {
            Disclosure::Always => text += &format!(", discloses the {key} always"),
            Disclosure::Never => text += &format!(", never discloses the {key}"),
            Disclosure::OnRequest => {}
        }
    }
    text + " }"
}

fn verdict_text(
    verdict: &Verdict,
    action: Action,
    uri: &str,
    policy: MatchPolicy,
) -> (bool, String) {
    match verdict {
        Verdict::Allow { disclose, cache } => {
            let disclosed = if *disclose {
                ", the caller or publisher disclosed"
            } else {
                ""
            };
            (true, format!("yes{disclosed}; {}", kept(*cache)))
        }
        Verdict::Deny { cache } => (false, format!("no; {}", kept(*cache))),
        Verdict::Rule { rule, cache } => {
            let covers = rule.covers(uri, policy);
            let text = format!("the rule {}; {}", rule_text(rule), kept(*cache));
            match covers {
                true => (rule.allow.contains(action), text),
                false => (false, format!("{text}, which does not cover this")),
            }
        }
        Verdict::Failed(text) => (false, format!("it failed: {text}")),
    }
}

/// For how long the router remembers an answer.
fn kept(cache: CacheFor) -> String {
    match cache {
        CacheFor::Never => "asked again each time".to_owned(),
        CacheFor::Session => "remembered for the session".to_owned(),
        CacheFor::Time(time) => format!("remembered for {} s", time.as_secs_f64()),
    }
}

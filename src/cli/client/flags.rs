//! The flags that several client commands share, and what is read from the environment instead.

use std::env;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::Args;

use super::address::Address;
use super::failure::Failure;
use super::json;
use super::login::{Credentials, Scram, private_key};
use crate::core::credentials::Secret;
use crate::wire::Serializer;
use crate::words::{Dict, Value};

/// Which router, and who to be there.
#[derive(Args)]
#[command(next_help_heading = "Router and login")]
pub(super) struct RouterFlags {
    /// The router: ws://host:port/ws, wss://…, tcp://host:port (RawSocket), rss://… (with TLS), unix:/path
    /// [env: PERILUNE_URL] [default: ws://127.0.0.1:8080/ws]
    #[arg(long)]
    url: Option<String>,
    /// The realm to join: a router keeps realms apart from each other [env: PERILUNE_REALM] [default: realm1]
    #[arg(long)]
    realm: Option<String>,
    /// Who to log in as; without a proof below, anonymously [env: PERILUNE_AUTHID]
    #[arg(long, value_name = "NAME")]
    authid: Option<String>,
    /// The role to ask for, where the router lets one choose [env: PERILUNE_AUTHROLE]
    #[arg(long, value_name = "ROLE", alias = "role")]
    authrole: Option<String>,
    /// Log in with a ticket [env: PERILUNE_TICKET, which other users of this machine cannot see]
    #[arg(long, group = "proof")]
    ticket: Option<String>,
    /// Log in with a shared secret or password that is not sent (WAMP-CRA) [env: PERILUNE_SECRET]
    #[arg(long, group = "proof")]
    secret: Option<String>,
    /// Log in with a password that is not sent (SCRAM); the router proves that it knows it, too [env: PERILUNE_PASSWORD]
    #[arg(long, group = "proof")]
    password: Option<String>,
    /// Log in with the private key of `perilune keygen` (cryptosign): its file [env: PERILUNE_KEY]
    #[arg(long, value_name = "FILE", group = "proof", alias = "private-key")]
    key: Option<String>,
    /// With wss:// and rss://, trust the certificates of this PEM file and not the system's [env: PERILUNE_CA]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How messages are written: json, msgpack or cbor [env: PERILUNE_SERIALIZER] [default: json]
    #[arg(long, value_name = "NAME")]
    serializer: Option<String>,
}

/// Everything a session needs to be opened.
pub(super) struct Settings {
    pub(super) url: String,
    pub(super) address: Address,
    pub(super) realm: String,
    pub(super) authid: Option<String>,
    pub(super) authrole: Option<String>,
    pub(super) credentials: Credentials,
    pub(super) ca: Option<PathBuf>,
    pub(super) serializer: Serializer,
}

impl RouterFlags {
    /// Flags first, then the environment, then the defaults.
    pub(super) fn settings(self) -> Result<Settings, Failure> {
        self.resolve(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn resolve(self, env: impl Fn(&str) -> Option<String>) -> Result<Settings, Failure> {
        // The names of the tool `wick` are honoured, so that its users need not set everything twice.
        let env = |ours: &str, wicks: &str| {
            env(&format!("PERILUNE_{ours}")).or_else(|| env(&format!("WICK_{wicks}")))
        };
        let both = |name: &str| env(name, name);
        let default = |value: Option<String>, name: &str, default: &str| {
            value
                .or_else(|| both(name))
                .unwrap_or_else(|| default.to_owned())
        };
        let url = default(self.url, "URL", "ws://127.0.0.1:8080/ws");
        let address = url
            .parse()
            .map_err(|error| Failure::Usage(format!("--url: {error}")))?;
        let serializer = default(self.serializer, "SERIALIZER", "json");
        let named = |known: &Serializer| known.name() == serializer;
        let Some(serializer) = Serializer::ALL.into_iter().find(named) else {
            return Err(Failure::Usage(format!(
                "--serializer: expected json, msgpack or cbor, not {serializer}"
            )));
        };
        let flags = [self.ticket, self.secret, self.password, self.key];
        let proofs = match flags.iter().any(Option::is_some) {
            true => flags,
            // A proof on the command line replaces all of the environment's.
            false => [
                both("TICKET"),
                both("SECRET"),
                both("PASSWORD"),
                env("KEY", "PRIVATE_KEY"),
            ],
        };
        Ok(Settings {
            url,
            address,
            realm: default(self.realm, "REALM", "realm1"),
            authid: self.authid.or_else(|| both("AUTHID")),
            authrole: self.authrole.or_else(|| both("AUTHROLE")),
            credentials: credentials(proofs)?,
            ca: self.ca.or_else(|| both("CA").map(PathBuf::from)),
            serializer,
        })
    }
}

fn credentials(proofs: [Option<String>; 4]) -> Result<Credentials, Failure> {
    match proofs {
        [None, None, None, None] => Ok(Credentials::Anonymous),
        [Some(ticket), None, None, None] => Ok(Credentials::Ticket(Secret::new(ticket))),
        [None, Some(secret), None, None] => Ok(Credentials::Secret(Secret::new(secret))),
        [None, None, Some(password), None] => Ok(Credentials::Scram(Scram::new(&password))),
        [None, None, None, Some(key)] => private_key(&key)
            .map(Credentials::Key)
            .map_err(|error| Failure::Usage(format!("{error:#}"))),
        _ => Err(Failure::Usage(
            "more than one of ticket, secret, password and key: only one can be used".into(),
        )),
    }
}

/// What is sent along with a call or an event.
#[derive(Args)]
#[command(next_help_heading = "Contents")]
pub(super) struct PayloadFlags {
    /// Arguments: JSON where it is JSON (42, true, '"42"', '{"a": 1}'), otherwise text
    #[arg(value_name = "ARG", allow_negative_numbers = true, help_heading = None)]
    args: Vec<String>,
    /// A named argument, its value read as ARG is; repeatable
    #[arg(short = 'k', long = "kw", alias = "kwarg", value_name = "KEY=VALUE", value_parser = json::entry)]
    kwargs: Vec<(String, Value)>,
    /// All arguments as one JSON list; `-` reads it from standard input
    #[arg(long, value_name = "JSON", conflicts_with = "args")]
    args_json: Option<String>,
    /// Named arguments as one JSON object; `-` reads it from standard input
    #[arg(long, value_name = "JSON")]
    kwargs_json: Option<String>,
}

/// Positional and named arguments.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Contents {
    pub(super) args: Vec<Value>,
    pub(super) kwargs: Dict,
}

impl PayloadFlags {
    pub(super) fn contents(self) -> Result<Contents, Failure> {
        if [&self.args_json, &self.kwargs_json]
            .iter()
            .all(|given| given.as_deref() == Some("-"))
        {
            return Err(Failure::Usage(
                "--args-json and --kwargs-json cannot both read standard input".into(),
            ));
        }
        let args = match self.args_json.as_deref().map(document).transpose()? {
            None => self
                .args
                .iter()
                .map(|arg| json::parse_or_text(arg))
                .collect(),
            Some(Some(Value::List(list))) => list,
            Some(_) => return Err(Failure::Usage("--args-json: expected a JSON list".into())),
        };
        let mut kwargs = match self.kwargs_json.as_deref().map(document).transpose()? {
            None => Dict::new(),
            Some(Some(Value::Map(map))) => map,
            Some(_) => {
                return Err(Failure::Usage(
                    "--kwargs-json: expected a JSON object".into(),
                ));
            }
        };
        for (key, value) in self.kwargs {
            set(&mut kwargs, &key, value);
        }
        Ok(Contents { args, kwargs })
    }
}

/// JSON text, or `-` for standard input; the inner `None` is what is no JSON.
fn document(given: &str) -> Result<Option<Value>, Failure> {
    if given != "-" {
        return Ok(json::parse(given));
    }
    let mut text = String::new();
    match io::stdin().read_to_string(&mut text) {
        Ok(_) => Ok(json::parse(&text)),
        Err(error) => Err(Failure::Usage(format!("standard input: {error}"))),
    }
}

/// Any option of the protocol, for what has no flag of its own.
#[derive(Args)]
pub(super) struct OptionFlags {
    /// Any other option of the protocol, its value read as JSON or text; repeatable
    #[arg(short = 'o', long = "option", value_name = "KEY=VALUE", value_parser = json::entry)]
    options: Vec<(String, Value)>,
}

impl OptionFlags {
    /// The options of the flags, overridden by the free ones.
    pub(super) fn over(self, mut options: Dict) -> Dict {
        for (key, value) in self.options {
            set(&mut options, &key, value);
        }
        options
    }
}

/// Puts an entry in, in place of one with the same key.
fn set(dict: &mut Dict, key: &str, value: Value) {
    match dict.0.iter_mut().find(|(known, _)| known == key) {
        Some((_, old)) => *old = value,
        None => dict.0.push((key.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        router: RouterFlags,
        #[command(flatten)]
        payload: PayloadFlags,
        #[command(flatten)]
        options: OptionFlags,
    }

    fn line(arguments: &[&str]) -> Line {
        Line::try_parse_from([&["perilune"], arguments].concat()).expect("a good line")
    }

    fn settings(arguments: &[&str], env: &[(&str, &str)]) -> Result<Settings, Failure> {
        line(arguments).router.resolve(|name| {
            let found = env.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn flags_come_before_our_environment_and_that_before_wicks() {
        let env = [
            ("PERILUNE_REALM", "ours"),
            ("WICK_REALM", "wick's"),
            ("WICK_AUTHID", "joe"),
            ("WICK_SECRET", "of wick"),
        ];
        let found = settings(&[], &env).expect("settings");
        assert_eq!(found.url, "ws://127.0.0.1:8080/ws");
        assert_eq!(
            (found.realm.as_str(), found.authid.as_deref()),
            ("ours", Some("joe"))
        );
        assert!(matches!(found.credentials, Credentials::Secret(_)));
        let found = settings(&["--realm", "flag", "--ticket", "t"], &env).expect("settings");
        assert_eq!(found.realm, "flag");
        assert!(
            matches!(found.credentials, Credentials::Ticket(_)),
            "of the command line alone"
        );
    }

    #[test]
    fn wrong_settings_are_told() {
        for (arguments, env, said) in [
            (&["--url", "http://a"][..], &[][..], "--url"),
            (&["--serializer", "xml"], &[], "xml"),
            (&["--key", "no such file"], &[], "no such file"),
            (
                &[],
                &[("PERILUNE_TICKET", "a"), ("WICK_SECRET", "b")],
                "only one",
            ),
        ] {
            match settings(arguments, env) {
                Err(Failure::Usage(text)) => assert!(text.contains(said), "{text}"),
                _ => panic!("{arguments:?} {env:?} are no settings"),
            }
        }
        let two = Line::try_parse_from(["perilune", "--ticket", "a", "--secret", "b"]);
        assert!(two.is_err());
    }

    #[test]
    fn contents_come_from_arguments_or_documents() {
        let contents = |arguments: &[&str]| line(arguments).payload.contents();
        let found = contents(&["-1", "a b", "-k", "on=true", "--kw", "on=false"]).expect("fine");
        assert_eq!(found.args, [Value::Int(-1), Value::from("a b")]);
        assert_eq!(found.kwargs, Dict::new().with("on", false));
        let found = contents(&[
            "--args-json",
            "[1]",
            "--kwargs-json",
            "{\"a\":2}",
            "-k",
            "b=3",
        ]);
        let found = found.expect("fine");
        assert_eq!(found.args, [Value::Int(1)]);
        assert_eq!(found.kwargs, Dict::new().with("a", 2i64).with("b", 3i64));
        for wrong in [
            &["--args-json", "{}"][..],
            &["--args-json", "[1"],
            &["--kwargs-json", "[]"],
            &["--args-json", "-", "--kwargs-json", "-"],
        ] {
            assert!(
                matches!(contents(wrong), Err(Failure::Usage(_))),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn free_options_win() {
        let options = line(&["-o", "acknowledge=false", "-o", "eligible=[1]"]).options;
        let found = options.over(Dict::new().with("acknowledge", true).with("retain", true));
        let expected = Dict::new()
            .with("acknowledge", false)
            .with("retain", true)
            .with("eligible", vec![Value::Int(1)]);
        assert_eq!(found, expected);
    }
}

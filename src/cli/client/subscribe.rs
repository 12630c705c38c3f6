//! `perilune subscribe`: prints the events of a topic.

use std::io::{self, Write};

use clap::Args;

use super::failure::Failure;
use super::flags::{Contents, OptionFlags, RouterFlags};
use super::json;
use super::session::{Session, Stop};
use crate::cli::tell;
use crate::wire::{Disclosed, Event, Message, Unsubscribed, code};
use crate::words::{Dict, Id, MatchPolicy, Value};

const EXAMPLES: &str = concat!(
    r#"Examples:
  perilune subscribe sensor.temperature         until Ctrl-C
  perilune subscribe sensor. --match prefix     every topic that begins so
  perilune subscribe sensor..state --match wildcard    any one word between the dots
  perilune subscribe door.rang --count 1 && echo "somebody is at the door"
  perilune subscribe sensor.temperature | jq --unbuffered '.args[0]'

Output: one line of JSON for each event, {"topic": "...", "args": [...], "kwargs": {...}}.

"#,
    "Exit codes: 0 after Ctrl-C or --count events; 1 the subscription was refused or revoked, stderr begins with the \
     error's name; 2 wrong usage; 3 no connection or login, or the connection is lost."
);

/// Subscribe to a topic: print its events as they happen, one line of JSON each
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct SubscribeArgs {
    /// Name of the topic, or a pattern with --match
    uri: String,
    #[command(flatten)]
    subscribe: SubscribeFlags,
    #[command(flatten)]
    router: RouterFlags,
}

#[derive(Args)]
#[command(next_help_heading = "Subscription")]
struct SubscribeFlags {
    /// How URI matches topics: exact, prefix or wildcard
    #[arg(long = "match", value_name = "HOW", value_parser = match_policy)]
    policy: Option<MatchPolicy>,
    /// End after so many events
    #[arg(long, value_name = "N", alias = "event-count", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Begin with the event that was kept for late subscribers
    #[arg(long)]
    get_retained: bool,
    /// Print the publication's id and details, too: who published, if that is told
    #[arg(long)]
    details: bool,
    #[command(flatten)]
    options: OptionFlags,
}

/// `exact`, `prefix` or `wildcard`.
pub(super) fn match_policy(text: &str) -> Result<MatchPolicy, String> {
    MatchPolicy::parse(text).ok_or_else(|| "expected exact, prefix or wildcard".into())
}

pub(super) async fn run(args: SubscribeArgs) -> Result<(), Failure> {
    let SubscribeArgs {
        uri,
        subscribe,
        router,
    } = args;
    let mut options = Dict::new();
    if let Some(policy) = subscribe.policy {
        options = options.with("match", policy.as_str());
    }
    if subscribe.get_retained {
        options = options.with("get_retained", true);
    }
    let options = subscribe.options.over(options);
    let mut session = Session::join(&router.settings()?).await?;
    let mut stop = Stop::new().map_err(|error| Failure::Lost(error.into()))?;
    let none = Contents::default();
    let outcome = match session.ask(code::SUBSCRIBE, &options, &uri, &none).await {
        Ok(Message::Subscribed(_)) => {
            tell(format_args!("perilune: subscribed to {uri}"));
            let wanted = subscribe.count;
            let events = print_events(&mut session, &uri, wanted, subscribe.details);
            tokio::select! {
                outcome = events => outcome,
                () = stop.requested() => Ok(()),
            }
        }
        Ok(other) => Err(Failure::unexpected(&other, "SUBSCRIBE")),
        Err(failure) => Err(failure),
    };
    session.leave().await;
    outcome
}

/// Prints events until there were enough.
async fn print_events(
    session: &mut Session,
    uri: &str,
    wanted: Option<u64>,
    details: bool,
) -> Result<(), Failure> {
    let mut left = wanted;
    while left != Some(0) {
        match session.receive().await? {
            Message::Event(event) => {
                print(event, uri, details)?;
                left = left.map(|left| left - 1);
            }
            Message::Unsubscribed(Unsubscribed::Revoked { reason, .. }) => {
                return Err(Failure::revoked(reason));
            }
            _ => {}
        }
    }
    Ok(())
}

fn print(event: Event, uri: &str, details: bool) -> Result<(), Failure> {
    let (args, kwargs) = event.payload.values()?;
    let topic = event.details.topic.as_ref().map_or(uri, |topic| topic);
    let mut line = Dict::new().with("topic", topic);
    line.0.extend(json::payload(args, kwargs).0);
    if details {
        line = line
            .with("publication", event.publication.value())
            .with("details", event_details(&event));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{}", json::text(&Value::from(line)))
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// EVENT.Details, as far as the line does not show them elsewhere.
fn event_details(event: &Event) -> Dict {
    let details = &event.details;
    let mut dict = Dict::new();
    if let Some(publisher) = &details.publisher {
        disclose(&mut dict, "publisher", publisher);
    }
    if let Some(level) = details.trustlevel {
        dict = dict.with("trustlevel", level);
    }
    if details.retained {
        dict = dict.with("retained", true);
    }
    dict
}

/// The three keys that disclose a peer.
pub(super) fn disclose(dict: &mut Dict, peer: &str, disclosed: &Disclosed) {
    let Disclosed {
        session,
        authid,
        authrole,
    } = disclosed;
    let mut put = |key: String, value: Value| dict.0.push((key, value));
    put(peer.to_owned(), session.value().into());
    put(format!("{peer}_authid"), authid.as_str().into());
    put(format!("{peer}_authrole"), authrole.as_str().into());
}

//! `perilune publish`: sends an event to all who subscribed.

use clap::Args;

use super::failure::Failure;
use super::flags::{OptionFlags, PayloadFlags, RouterFlags};
use super::session::Session;
use crate::wire::{Message, code};
use crate::words::{Dict, Value};

const EXAMPLES: &str = concat!(
    r#"Examples:
  perilune publish door.rang                       an event without contents
  perilune publish sensor.temperature 21.5 -k room="living room"
  perilune publish house.state open --retain       kept for those who subscribe later
  perilune publish alarm fire -o 'eligible_authrole=["resident"]'

"#,
    "The router confirms the event before this ends, so a refusal is told: exit code 1, and stderr begins with the \
     error's name. 2 is wrong usage, 3 no connection or login. That somebody listens is not confirmed."
);

/// Publish an event: tell everybody who subscribed to a topic that something happened
///
/// Topics have names such as `sensor.temperature`. `perilune subscribe` shows the events of one.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct PublishArgs {
    /// Name of the topic
    uri: String,
    #[command(flatten)]
    payload: PayloadFlags,
    #[command(flatten)]
    publish: PublishFlags,
    #[command(flatten)]
    router: RouterFlags,
}

#[derive(Args)]
#[command(next_help_heading = "Event")]
struct PublishFlags {
    /// Keep the event for those who subscribe later and ask for it
    #[arg(long)]
    retain: bool,
    /// Let subscribers know who published
    #[arg(long)]
    disclose_me: bool,
    /// Publish so many times, one after the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeat: u64,
    #[command(flatten)]
    options: OptionFlags,
}

pub(super) async fn run(args: PublishArgs) -> Result<(), Failure> {
    let PublishArgs {
        uri,
        payload,
        publish,
        router,
    } = args;
    let mut options = Dict::new().with("acknowledge", true);
    if publish.retain {
        options = options.with("retain", true);
    }
    if publish.disclose_me {
        options = options.with("disclose_me", true);
    }
    let options = publish.options.over(options);
    let acknowledged = options.lookup("acknowledge") == Some(&Value::Bool(true));
    let contents = payload.contents()?;
    let mut session = Session::join(&router.settings()?).await?;
    let mut outcome = Ok(());
    for _ in 0..publish.repeat {
        outcome = if acknowledged {
            match session.ask(code::PUBLISH, &options, &uri, &contents).await {
                Ok(Message::Published(_)) => Ok(()),
                Ok(other) => Err(Failure::unexpected(&other, "PUBLISH")),
                Err(failure) => Err(failure),
            }
        } else {
            let sent = session.request(code::PUBLISH, &options, &uri, &contents);
            sent.await.map(drop)
        };
        if outcome.is_err() {
            break;
        }
    }
    session.leave().await;
    outcome
}

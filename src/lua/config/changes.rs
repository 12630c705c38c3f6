//! What a changed configuration cannot apply to a running router.

use crate::server::settings::{Address, ListenerSettings, Settings};

use super::router::show_address;

/// Names each difference that takes effect only after a restart; everything else can change live.
///
/// `old` is what the router runs with (its listeners as configured, not as bound).
pub fn changes_needing_restart(old: &Settings, new: &Settings) -> Vec<String> {
    let mut changes = Vec::new();
    for listener in &old.listeners {
        let address = show_address(&listener.address);
        match twin(listener, &new.listeners) {
            None => changes.push(format!("`listen`: {address} is no longer there")),
            Some(twin) => {
                if listener.tls.is_some() != twin.tls.is_some() {
                    let state = if twin.tls.is_some() { "on" } else { "off" };
                    changes.push(format!("`tls` of {address}: turned {state}"));
                }
                if let (Address::Unix { mode: old, .. }, Address::Unix { mode: new, .. }) =
                    (&listener.address, &twin.address)
                    && old != new
                {
                    changes.push(format!("`mode` of {address}: {old:04o} is now {new:04o}"));
                }
            }
        }
    }
    for listener in &new.listeners {
        if twin(listener, &old.listeners).is_none() {
            changes.push(format!(
                "`listen`: {} is new",
                show_address(&listener.address)
            ));
        }
    }
    if let (Some(from), Some(to)) = (&old.data, &new.data)
        && from != to
    {
        changes.push(format!("`data`: {} is still used", from.display()));
    }
    changes
}

fn twin<'a>(
    listener: &ListenerSettings,
    among: &'a [ListenerSettings],
) -> Option<&'a ListenerSettings> {
    let address = show_address(&listener.address);
    among
        .iter()
        .find(|other| show_address(&other.address) == address)
}

//! What a changed configuration cannot apply to a running router.

use crate::server::settings::{Address, ListenerSettings};

use super::router::show_address;

/// Names each difference that takes effect only after a restart; everything else can change live.
///
/// `bound` is what the router has run with since its start, whatever configurations came between.
pub fn changes_needing_restart(
    bound: &[ListenerSettings],
    new: &[ListenerSettings],
) -> Vec<String> {
    let mut changes = Vec::new();
    for listener in bound {
        let address = show_address(&listener.address);
        match twin(listener, new) {
            None => changes.push(format!("`listen`: {address} is no longer there")),
            Some(twin) => {
                if listener.tls.is_some() != twin.tls.is_some() {
                    let state = if twin.tls.is_some() { "on" } else { "off" };
                    changes.push(format!("`tls` of {address}: turned {state}"));
                }
                for key in changed_keys(listener, twin) {
                    changes.push(format!("`{key}` of {address} has changed"));
                }
                if let (Address::Unix { file: old, .. }, Address::Unix { file: new, .. }) =
                    (&listener.address, &twin.address)
                {
                    if old.mode != new.mode {
                        let (old, new) = (old.mode, new.mode);
                        changes.push(format!("`mode` of {address}: {old:04o} is now {new:04o}"));
                    }
                    if (old.owner, old.group) != (new.owner, new.group) {
                        changes.push(format!("`owner` or `group` of {address} has changed"));
                    }
                }
            }
        }
    }
    for listener in new {
        if twin(listener, bound).is_none() {
            changes.push(format!(
                "`listen`: {} is new",
                show_address(&listener.address)
            ));
        }
    }
    changes
}

/// Keys of one listener that hold from its start to its end. (The files that `tls` names are read again.)
fn changed_keys(old: &ListenerSettings, new: &ListenerSettings) -> Vec<&'static str> {
    let both_tls = old.tls.is_some() && new.tls.is_some();
    let keys = [
        ("tls", both_tls && old.tls != new.tls),
        ("proxy", old.proxy != new.proxy),
        ("origins", old.origins != new.origins),
        (
            "serializers",
            (&old.serializers, &old.batched) != (&new.serializers, &new.batched),
        ),
        ("no_subprotocol", old.no_subprotocol != new.no_subprotocol),
        ("deflate", old.deflate != new.deflate),
        ("path", old.paths != new.paths),
        ("message", old.message != new.message),
        ("idle_ping", old.idle_ping != new.idle_ping),
    ];
    let changed = keys.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| key).collect()
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

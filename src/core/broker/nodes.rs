//! The node groups of a sharded subscription (`SRD-01` to `SRD-04`).

use std::collections::BTreeMap;

use super::*;
use crate::core::rendezvous;

/// Which members of a subscription belong to which node, by node key. Members without one are not in here.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    by_session: FxHashMap<SessionId, Box<str>>,
    /// How many members each node has.
    sizes: BTreeMap<Box<str>, usize>,
}

/// The node that a routing key belongs to.
pub(super) struct Chosen<'a> {
    nodes: &'a Nodes,
    nkey: Option<&'a str>,
}

impl Nodes {
    /// The last SUBSCRIBE of a session says where it belongs; without a key, nowhere.
    pub(super) fn place(nodes: &mut Option<Box<Self>>, session: SessionId, nkey: Option<&str>) {
        if let Some(nodes) = nodes
            && let Some(former) = nodes.by_session.remove(&session)
            && let Some(size) = nodes.sizes.get_mut(&former)
        {
            *size -= 1;
            if *size == 0 {
                nodes.sizes.remove(&former);
            }
        }
        if let Some(nkey) = nkey {
            let nodes = nodes.get_or_insert_default();
            nodes.by_session.insert(session, nkey.into());
            *nodes.sizes.entry(nkey.into()).or_default() += 1;
        }
        if nodes.as_ref().is_some_and(|nodes| nodes.sizes.is_empty()) {
            *nodes = None;
        }
    }

    /// `SRD-02`.
    pub(super) fn choose(&self, rkey: &str) -> Chosen<'_> {
        let nkeys = self.sizes.keys().map(AsRef::as_ref);
        Chosen {
            nodes: self,
            nkey: rendezvous::choose(nkeys, rkey),
        }
    }
}

impl Chosen<'_> {
    /// Whether a member belongs to the chosen node, or to none.
    pub(super) fn hears(&self, member: &SessionId) -> bool {
        self.nodes
            .by_session
            .get(member)
            .is_none_or(|nkey| Some(nkey.as_ref()) == self.nkey)
    }
}

//! Prefix patterns as a radix tree: all that a URI begins with are on one path from the root.
//!
//! Nodes lie in one slab and name each other by number: a walk touches two lines of memory per branching, and nothing
//! recurses, however deep the tree is.

use slab::Slab;

/// Patterns with their values.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    /// The root is node 0; there while the tree is.
    nodes: Slab<Node<T>>,
    count: usize,
}

#[derive(Debug)]
struct Node<T> {
    /// The octets that lead here, without the first, which is in the parent.
    label: Box<[u8]>,
    value: Option<T>,
    /// By the first octet, ascending.
    children: Vec<(u8, u32)>,
}

const ROOT: usize = 0;

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(&[], None));
        Self { nodes, count: 0 }
    }
}

impl<T> Node<T> {
    fn new(label: &[u8], value: Option<T>) -> Self {
        Self {
            label: label.into(),
            value,
            children: Vec::new(),
        }
    }

    /// Where the child that begins so is, or would be.
    fn child(&self, first: u8) -> Result<usize, usize> {
        self.children
            .binary_search_by_key(&first, |(first, _)| *first)
    }
}

impl<T: Copy> Prefixes<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn get(&self, pattern: &str) -> Option<T> {
        let (at, _) = self.find(pattern.as_bytes())?;
        self.nodes[at].value
    }

    /// The values of all patterns that `uri` begins with, from short to long.
    pub(super) fn for_each_start(&self, uri: &str, mut found: impl FnMut(T)) {
        let (mut node, mut rest) = (&self.nodes[ROOT], uri.as_bytes());
        loop {
            if let Some(value) = node.value {
                found(value);
            }
            let Some((first, tail)) = rest.split_first() else {
                return;
            };
            let Ok(child) = node.child(*first) else {
                return;
            };
            node = &self.nodes[node.children[child].1 as usize];
            let Some(behind) = tail.strip_prefix(&*node.label) else {
                return;
            };
            rest = behind;
        }
    }

    /// The node of exactly this pattern, and the one above it.
    fn find(&self, pattern: &[u8]) -> Option<(usize, usize)> {
        let (mut at, mut above, mut rest) = (ROOT, ROOT, pattern);
        while let Some((first, tail)) = rest.split_first() {
            let child = self.nodes[at].child(*first).ok()?;
            (at, above) = (self.nodes[at].children[child].1 as usize, at);
            rest = tail.strip_prefix(&*self.nodes[at].label)?;
        }
        Some((at, above))
    }

    /// Adds or replaces.
    pub(super) fn insert(&mut self, pattern: &str, value: T) {
        let (mut at, mut rest) = (ROOT, pattern.as_bytes());
        while let Some((&first, tail)) = rest.split_first() {
            match self.nodes[at].child(first) {
                Err(position) => {
                    let leaf = self.nodes.insert(Node::new(tail, Some(value)));
                    let children = &mut self.nodes[at].children;
                    children.insert(position, (first, leaf as u32));
                    self.count += 1;
                    return;
                }
                Ok(position) => {
                    at = self.nodes[at].children[position].1 as usize;
                    let label = &self.nodes[at].label;
                    let common = label.iter().zip(tail).take_while(|(a, b)| a == b).count();
                    if common < label.len() {
                        self.split(at, common);
                    }
                    rest = &tail[common..];
                }
            }
        }
        if self.nodes[at].value.replace(value).is_none() {
            self.count += 1;
        }
    }

    /// Cuts a label in two; what stood at the node stands at a new one below it.
    fn split(&mut self, at: usize, common: usize) {
        let node = &mut self.nodes[at];
        let label = std::mem::take(&mut node.label);
        let lower = Node {
            label: label[common + 1..].into(),
            value: node.value.take(),
            children: std::mem::take(&mut node.children),
        };
        node.label = label[..common].into();
        let lower = self.nodes.insert(lower) as u32;
        self.nodes[at].children.push((label[common], lower));
    }

    pub(super) fn remove(&mut self, pattern: &str) {
        let Some((at, above)) = self.find(pattern.as_bytes()) else {
            return;
        };
        if self.nodes[at].value.take().is_none() {
            return;
        }
        self.count -= 1;
        if at != ROOT && self.nodes[at].children.is_empty() {
            self.nodes.remove(at);
            let children = &mut self.nodes[above].children;
            children.retain(|(_, child)| *child as usize != at);
            self.join_only_child(above);
        } else {
            self.join_only_child(at);
        }
    }

    /// A node that neither branches nor has a value is one with the node below it.
    fn join_only_child(&mut self, at: usize) {
        let node = &self.nodes[at];
        let &[(first, child)] = node.children.as_slice() else {
            return;
        };
        if at == ROOT || node.value.is_some() {
            return;
        }
        let child = child as usize;
        let below = self.nodes.remove(child);
        let node = &mut self.nodes[at];
        node.label = [&node.label, &[first][..], &below.label].concat().into();
        node.value = below.value;
        node.children = below.children;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// What one by one comparison finds.
    fn expected(all: &BTreeMap<String, u32>, uri: &str) -> Vec<u32> {
        let starts = all.iter().filter(|(pattern, _)| uri.starts_with(*pattern));
        starts.map(|(_, value)| *value).collect()
    }

    #[test]
    fn agrees_with_one_by_one_comparison_whatever_comes_and_goes() {
        let mut random = StdRng::seed_from_u64(7);
        let mut word = |longest| -> String {
            let length = random.random_range(0..=longest);
            (0..length)
                .map(|_| ['a', 'b', '.', 'é'][random.random_range(0..4)])
                .collect()
        };
        let (mut tree, mut all) = (Prefixes::default(), BTreeMap::new());
        for value in 0..4_000_u32 {
            let pattern = word(5);
            if value % 2 == 0 {
                tree.insert(&pattern, value);
                all.insert(pattern.clone(), value);
            } else {
                tree.remove(&pattern);
                all.remove(&pattern);
            }
            assert_eq!(tree.get(&pattern), all.get(&pattern).copied());
            let uri = word(8);
            let mut found = Vec::new();
            tree.for_each_start(&uri, |value| found.push(value));
            assert_eq!(found, expected(&all, &uri), "{uri}");
            assert_eq!(tree.count, all.len());
        }
        for pattern in all.keys() {
            tree.remove(pattern);
        }
        assert!(tree.is_empty());
        assert_eq!(tree.nodes.len(), 1, "only the root is left");
    }
}

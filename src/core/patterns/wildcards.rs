//! Wildcard patterns by their shape. Patterns of one shape have as many components, empty in the same places: at most
//! one of them matches a URI, and a hash of the other components finds it. So a lookup costs one probe for each shape of
//! the URI's length, whatever the patterns are; a tree of components would branch at each empty one.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::words::{MOST_COMPONENTS, MatchPolicy, Uri};

/// Shapes of as many components that a table lets peers fill. With 8 components or fewer there are no more.
pub(super) const SHAPES: usize = 256;

/// What patterns have in common that one probe can find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    components: u8,
    /// Which are empty; the first component is the highest bit. So of two shapes that match a URI the better one is
    /// less: literal at the leftmost place where they differ (`PBR-04`).
    empty: u64,
}

/// Patterns with their values.
#[derive(Debug)]
pub(super) struct Wildcards<T> {
    /// Ascending.
    shapes: Vec<(Shape, HashTable<(Uri, T)>)>,
    hasher: RandomState,
}

impl<T> Default for Wildcards<T> {
    fn default() -> Self {
        Self {
            shapes: Vec::new(),
            hasher: RandomState::default(),
        }
    }
}

impl Shape {
    /// `None`: longer than any pattern may be.
    fn of(pattern: &str) -> Option<Self> {
        let components = component_count(pattern)?;
        let empty = pattern.split('.').enumerate().fold(0, |empty, (at, it)| {
            if it.is_empty() {
                empty | bit(at)
            } else {
                empty
            }
        });
        Some(Self { components, empty })
    }

    /// The places of the components that are not empty.
    fn literals(self) -> impl Iterator<Item = usize> {
        let mut left = !self.empty & (u64::MAX << (MOST_COMPONENTS - usize::from(self.components)));
        std::iter::from_fn(move || {
            let at = left.leading_zeros() as usize;
            (left != 0).then(|| {
                left &= !bit(at);
                at
            })
        })
    }
}

/// The bit of a component.
fn bit(at: usize) -> u64 {
    1 << (MOST_COMPONENTS - 1 - at)
}

fn component_count(uri: &str) -> Option<u8> {
    let count = uri.bytes().filter(|octet| *octet == b'.').count() + 1;
    (count <= MOST_COMPONENTS).then_some(count as u8)
}

impl<T: Copy> Wildcards<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    pub(super) fn get(&self, pattern: &str) -> Option<T> {
        let (shape, at) = self.place(pattern)?;
        let (_, table) = &self.shapes[at.ok()?];
        let hash = sum(shape, &self.parts(pattern));
        let found = table.find(hash, |(known, _)| known.as_str() == pattern)?;
        Some(found.1)
    }

    /// Adds or replaces. A pattern longer than any may be matches nothing.
    pub(super) fn insert(&mut self, pattern: Uri, value: T) {
        let Some((shape, place)) = self.place(&pattern) else {
            return;
        };
        let at = place.unwrap_or_else(|at| {
            self.shapes.insert(at, (shape, HashTable::new()));
            at
        });
        let hash = sum(shape, &self.parts(&pattern));
        let Self { shapes, hasher } = self;
        let table = &mut shapes[at].1;
        match table.find_mut(hash, |(known, _)| *known == pattern) {
            Some(entry) => entry.1 = value,
            None => {
                let rehash = |(known, _): &(Uri, T)| sum(shape, &parts(hasher, known));
                table.insert_unique(hash, (pattern, value), rehash);
            }
        }
    }

    pub(super) fn remove(&mut self, pattern: &str) {
        let Some((shape, Ok(at))) = self.place(pattern) else {
            return;
        };
        let hash = sum(shape, &self.parts(pattern));
        let table = &mut self.shapes[at].1;
        if let Ok(entry) = table.find_entry(hash, |(known, _)| known.as_str() == pattern) {
            entry.remove();
        }
        if table.is_empty() {
            self.shapes.remove(at);
        }
    }

    /// The values of all that match `uri`, the best first (`PBR-04`).
    pub(super) fn matches(&self, uri: &str) -> impl Iterator<Item = T> {
        let components = component_count(uri);
        let start = components.map_or(0, |components| {
            let before = |(shape, _): &(Shape, _)| shape.components < components;
            self.shapes.partition_point(before)
        });
        let as_long = move |(shape, _): &&(Shape, _)| Some(shape.components) == components;
        let mut shapes = self.shapes[start..].iter().take_while(as_long).peekable();
        let parts = shapes.peek().map(|_| self.parts(uri));
        shapes.filter_map(move |(shape, table)| {
            let hash = sum(*shape, parts.as_ref()?);
            let matches = |(known, _): &(Uri, T)| MatchPolicy::Wildcard.matches(known, uri);
            table.find(hash, matches).map(|(_, value)| *value)
        })
    }

    /// Whether a peer may add this pattern.
    pub(super) fn has_room(&self, pattern: &str) -> bool {
        let Some((shape, place)) = self.place(pattern) else {
            return false;
        };
        let before = |least: u8| {
            let less = |(known, _): &(Shape, _)| known.components < least;
            self.shapes.partition_point(less)
        };
        place.is_ok() || before(shape.components + 1) - before(shape.components) < SHAPES
    }

    /// The shape of a pattern, and where it is or would be.
    fn place(&self, pattern: &str) -> Option<(Shape, Result<usize, usize>)> {
        let shape = Shape::of(pattern)?;
        let at = self
            .shapes
            .binary_search_by_key(&shape, |(known, _)| *known);
        Some((shape, at))
    }

    fn parts(&self, uri: &str) -> Parts {
        parts(&self.hasher, uri)
    }
}

/// A hash of each component at its place, made once for all shapes.
type Parts = [u64; MOST_COMPONENTS];

fn parts(hasher: &RandomState, uri: &str) -> Parts {
    let mut parts = [0; MOST_COMPONENTS];
    for ((at, part), component) in parts.iter_mut().enumerate().zip(uri.split('.')) {
        *part = hasher.hash_one((at, component));
    }
    parts
}

fn sum(shape: Shape, parts: &Parts) -> u64 {
    let each = shape.literals().map(|at| parts[at]);
    each.fold(0, u64::wrapping_add)
}

/// The shapes of the wildcard patterns that one session holds, and of how many each is.
#[derive(Debug, Default)]
pub(in crate::core) struct HeldShapes(BTreeMap<Shape, usize>);

impl HeldShapes {
    /// Whether one more pattern leaves them within `most`.
    pub(in crate::core) fn has_room(
        &self,
        policy: MatchPolicy,
        pattern: &str,
        most: usize,
    ) -> bool {
        let shape = Self::shape(policy, pattern);
        shape.is_none_or(|shape| self.0.len() < most || self.0.contains_key(&shape))
    }

    pub(in crate::core) fn add(&mut self, policy: MatchPolicy, pattern: &str) {
        if let Some(shape) = Self::shape(policy, pattern) {
            *self.0.entry(shape).or_default() += 1;
        }
    }

    pub(in crate::core) fn remove(&mut self, policy: MatchPolicy, pattern: &str) {
        if let Some(shape) = Self::shape(policy, pattern)
            && let Some(count) = self.0.get_mut(&shape)
        {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&shape);
            }
        }
    }

    fn shape(policy: MatchPolicy, pattern: &str) -> Option<Shape> {
        (policy == MatchPolicy::Wildcard).then(|| Shape::of(pattern))?
    }
}

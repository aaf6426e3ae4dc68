//! A bounded cache of decoded rows.
//!
//! Two generations of a hash map: what is used lives in the young one, and
//! when that is full it becomes the old one and the old one goes. No lists to
//! keep in order, and every operation takes a constant time.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;
use std::sync::Arc;

/// `None` as a value: there is known to be no row.
pub(super) struct Cache<K, V> {
    young: HashMap<K, Option<Arc<V>>>,
    old: HashMap<K, Option<Arc<V>>>,
    generation: usize,
}

impl<K: Hash + Eq + Clone, V> Cache<K, V> {
    /// Holds at most `rows` rows, and the most recently used half of them.
    pub(super) fn new(rows: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation: (rows / 2).max(1) }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<Option<Arc<V>>> {
        if let Some(row) = self.young.get(key) {
            return Some(row.clone());
        }
        let row = self.old.remove(key)?;
        self.insert(key.clone(), row.clone());
        Some(row)
    }

    pub(super) fn insert(&mut self, key: K, row: Option<Arc<V>>) {
        if self.young.len() >= self.generation && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_bounded_and_keeps_what_is_used() {
        let mut cache = Cache::new(8);
        for key in 0..1000 {
            cache.insert(key, Some(Arc::new(key)));
            assert!(cache.get(&0).is_some(), "used on every round");
            assert!(cache.young.len() + cache.old.len() <= 8);
        }
        assert!(cache.get(&1).is_none());
    }

    #[test]
    fn the_latest_row_is_the_one_given() {
        let mut cache = Cache::new(4);
        for round in 0..50 {
            cache.insert(7, Some(Arc::new(round)));
            (0..3).for_each(|other| cache.insert(other, None));
            let seen = cache.get(&7).flatten();
            assert!(seen.is_none_or(|row| *row == round));
        }
    }
}

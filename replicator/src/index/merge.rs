//! One sorted sequence out of several.

use std::iter::Peekable;

/// A sorted sequence without equal keys.
pub(super) type Sorted<'a, K, V> = Box<dyn Iterator<Item = (K, V)> + 'a>;

/// Merges sequences lazily; where several have a key, the first of them
/// counts.
pub(super) fn merge<'a, K: Ord + Clone, V>(
    sources: Vec<Sorted<'a, K, V>>,
) -> impl Iterator<Item = (K, V)> {
    let mut sources: Vec<Peekable<_>> = sources.into_iter().map(Iterator::peekable).collect();
    std::iter::from_fn(move || {
        let keys = sources.iter_mut().filter_map(|source| Some(&source.peek()?.0));
        let next = keys.min()?.clone();
        let mut first = None;
        for source in &mut sources {
            let entry = source.next_if(|(key, _)| *key == next);
            first = first.or(entry);
        }
        first
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_source_with_a_key_counts() {
        let sources: Vec<Sorted<'_, u32, &str>> = vec![
            Box::new([(2, "new"), (9, "new")].into_iter()),
            Box::new([(1, "mid"), (2, "mid")].into_iter()),
            Box::new([(2, "old"), (3, "old")].into_iter()),
        ];
        let merged: Vec<_> = merge(sources).collect();
        assert_eq!(merged, [(1, "mid"), (2, "new"), (3, "old"), (9, "new")]);
    }
}

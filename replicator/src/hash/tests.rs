//! Hash lists against BLAKE3 itself.

use super::*;
use proptest::prelude::*;

const LEAF: u64 = LEAF_BYTES_MIN;

/// Bytes that differ from leaf to leaf.
fn content(size: u64) -> Vec<u8> {
    (0..size).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

#[test]
fn the_root_is_the_plain_hash_of_the_file() {
    let borders = [0, 1, 1024, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF, 2 * LEAF + 1, 5 * LEAF - 7];
    // The size from which leaves double, and the one after.
    let classes = [LEAF * LEAVES_TARGET, LEAF * LEAVES_TARGET + 1];
    for size in borders.into_iter().chain(classes) {
        let content = content(size);
        let leaves = Leaves::of(&content);
        assert_eq!(leaves.digest(), Digest::of(&content), "{size} bytes");
        assert_eq!(leaves.count(), size.div_ceil(leaf_bytes(size)));
        assert!(leaves.stale().is_empty());

        for index in 0..leaves.count() {
            let range = leaves.range_of(index);
            let mut hasher = LeafHasher::new(size, index);
            let bytes = &content[range.start as usize..range.end as usize];
            bytes.chunks(10_007).for_each(|bytes| hasher.update(bytes));
            assert_eq!(Some(&hasher.finish()), leaves.get(index), "leaf {index} of {size}");
        }
    }
}

#[test]
fn leaves_grow_with_the_file_up_to_their_bound() {
    assert_eq!(leaf_bytes(64 << 20), 64 << 10);
    assert_eq!(leaf_bytes((64 << 20) + 1), 128 << 10);
    assert_eq!(leaf_bytes(1 << 30), 1 << 20);
    assert_eq!(leaf_bytes(u64::MAX), LEAF_BYTES_MAX);
}

#[test]
fn a_file_that_outgrows_its_leaves_is_not_read_again() {
    let before = LEAF * LEAVES_TARGET;
    let mut bytes = content(before);
    let mut leaves = Leaves::of(&bytes).resized(before + 5).unwrap();
    assert_eq!(leaves.leaf_bytes(), 2 * LEAF);
    bytes.resize(before as usize + 5, 7);
    let stale: Vec<Range> = leaves.stale().iter().collect();
    assert_eq!(stale, [Range { start: before, end: before + 5 }]);
    leaves.set(leaves.count() - 1, &bytes[before as usize..]);
    assert_eq!(leaves.digest(), Digest::of(&bytes));
}

#[test]
fn a_size_beyond_reason_takes_no_memory() {
    assert!(Leaves::new(i64::MAX as u64).is_none());
    assert!(Leaves::of(&content(3 * LEAF)).resized(u64::MAX).is_none());
}

#[test]
fn a_list_that_does_not_fit_its_size_is_refused() {
    let leaves = Leaves::of(&content(3 * LEAF));
    let bytes = leaves.to_bytes();
    assert!(Leaves::from_bytes(3 * LEAF, &bytes) == Some(leaves.clone()));
    assert!(Leaves::from_bytes(3 * LEAF + 1, &bytes).is_none());
    assert!(Leaves::from_bytes(3 * LEAF, &bytes[1..]).is_none());
    assert!(Leaves::from_bytes(u64::MAX, &bytes).is_none());

    let wire = postcard::to_stdvec(&leaves).unwrap();
    assert!(postcard::from_bytes::<Leaves>(&wire).unwrap() == leaves);
    let wrong = postcard::to_stdvec(&(9 * LEAF, &leaves.hashes)).unwrap();
    assert!(postcard::from_bytes::<Leaves>(&wrong).is_err());
}

#[test]
fn touched_leaves_end_with_the_file() {
    let leaves = Leaves::new(3 * LEAF + 5).unwrap();
    let all = [Range { start: LEAF - 1, end: LEAF + 1 }, Range { start: 3 * LEAF, end: u64::MAX }];
    let touched: Vec<_> = leaves.touched(&all.into_iter().collect()).collect();
    assert_eq!(touched, [0, 1, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn setting_the_stale_leaves_after_a_resize_gives_the_new_content(
        before in 0..5 * LEAF, after in 0..5 * LEAF, edit in 0..5 * LEAF,
    ) {
        let mut bytes = content(before);
        let mut leaves = Leaves::of(&bytes).resized(after).unwrap();
        bytes.resize(after as usize, 7);
        let mut changed = leaves.stale();
        if let Some(byte) = bytes.get_mut(edit as usize) {
            *byte ^= 1;
            changed.insert(Range { start: edit, end: edit + 1 });
        }
        for index in leaves.touched(&changed) {
            let range = leaves.range_of(index);
            leaves.set(index, &bytes[range.start as usize..range.end as usize]);
        }
        prop_assert!(leaves == Leaves::of(&bytes));
        prop_assert_eq!(leaves.digest(), Digest::of(&bytes));
    }

    #[test]
    fn a_half_is_found_by_the_first_leaf_of_the_whole(
        half in 0..3 * LEAF, more in 1..3 * LEAF, edit in 0..6 * LEAF,
        doubled in any::<bool>(),
    ) {
        let mut whole = content(half + more);
        // Beyond the size from which leaves double.
        whole.resize(if doubled { LEAF * LEAVES_TARGET + 1 } else { whole.len() as u64 } as usize, 0);
        let (half, whole_leaves) = (Leaves::of(&whole[..half as usize]), Leaves::of(&whole));
        let is_told = half.size() >= whole_leaves.leaf_bytes() && half.count() > 1;
        prop_assert_eq!(whole_leaves.begins_with(&half), is_told);
        let first = *whole_leaves.get(0).unwrap();
        prop_assert_eq!(half.first_of_longer().any(|leaf| leaf == first), is_told);
        prop_assert!(!half.begins_with(&whole_leaves) && !half.begins_with(&half));
        if let Some(byte) = whole.get_mut(edit as usize) {
            *byte ^= 1;
            let of_whole_leaves = half.size() / whole_leaves.leaf_bytes() * whole_leaves.leaf_bytes();
            let is_same = is_told && edit >= of_whole_leaves;
            prop_assert_eq!(Leaves::of(&whole).begins_with(&half), is_same);
        }
    }

    #[test]
    fn copying_what_differs_makes_two_files_one(
        here in 0..4 * LEAF, there in 0..4 * LEAF, edit in 0..4 * LEAF,
    ) {
        let wanted = content(here);
        let mut have = content(there);
        if let Some(byte) = have.get_mut(edit as usize) {
            *byte ^= 1;
        }
        let differing = Leaves::of(&wanted).differing(&Leaves::of(&have));
        have.resize(here as usize, 0);
        for range in differing.iter() {
            let range = range.start as usize..range.end as usize;
            have[range.clone()].copy_from_slice(&wanted[range]);
        }
        prop_assert!(have == wanted);
    }
}

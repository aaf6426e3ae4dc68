//! Deletions that are to stay, whatever was moved, edited and lost beside them.

use super::plan::Plan;
use super::story::Story;

/// The order of looks and messages is left to the seed.
const SEEDS: u64 = 24;

/// A file in a directory is deleted, another moved out of it, and then the
/// directory is renamed: who hears of all that at once may move the directory
/// first. What went along came back there, under the new name.
#[test]
fn what_was_taken_from_a_directory_before_it_was_renamed_does_not_go_along() {
    for (seed, to) in (0..SEEDS).flat_map(|seed| [(seed, "a"), (seed, "z")]) {
        let mut story = Story::begin(Plan::peaceful(seed), 0, |user| {
            ["d", "d/in"].iter().for_each(|directory| user.make_directory(directory));
            for file in ["d/deleted", "d/in/deleted", "d/moved", "d/stays"] {
                user.write(file, file.trim_start_matches("d/"));
            }
        });
        story.part();
        story.act(1, |user| {
            ["d/deleted", "d/in"].iter().for_each(|path| user.remove(path));
            user.rename("d/moved", "moved");
        });
        story.settle();
        story.act(1, |user| user.rename("d", to));
        story.settle();
        story.join(0, 1);
        let (directory, moved) = (format!("{to}/ {to}/stays=stays"), "moved=moved");
        let expected = if to < "moved" { [&directory, moved] } else { [moved, &directory] };
        for at in 0..2 {
            assert_eq!(story.tree(at), expected.join(" "), "seed {seed}, node {at}");
        }
        assert_eq!(story.trash(0), ["deleted", "in/deleted"], "seed {seed}");
        assert!(story.kept(0).is_empty(), "seed {seed}");
        story.is_at_rest().unwrap();
    }
}

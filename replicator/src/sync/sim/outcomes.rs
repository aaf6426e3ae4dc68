//! What concurrent changes lead to: the rows of the table in
//! `ARCHITECTURE.md`, each by its name.
//!
//! Two users change the same common tree while their nodes do not reach each
//! other. Every row is met on every course: whoever is later, whoever has the
//! higher actor, whether the nodes meet directly, through a third one that
//! meets the one or the other first, or after one of them was stopped. The
//! tree, what each name contains and what lies in each conflict store are
//! compared exactly.

use super::plan::Plan;
use super::story::{Story, User};

/// Seeds for each course: delays are drawn from them.
const SEEDS: u64 = 3;

/// How the two changes meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meeting {
    Directly,
    /// One of them happened while its node was stopped.
    AfterAStop,
    /// A third node meets the one of `here` first and then the other.
    HereFirst,
    ThereFirst,
}

const MEETINGS: [Meeting; 4] =
    [Meeting::Directly, Meeting::AfterAStop, Meeting::HereFirst, Meeting::ThereFirst];

#[derive(Clone, Copy, Debug)]
struct Course {
    seed: u64,
    here: usize,
    here_is_later: bool,
    meeting: Meeting,
}

/// A row: what both had, and what each changes.
struct Row {
    before: fn(&mut User),
    here: fn(&mut User),
    there: fn(&mut User),
}

impl Course {
    fn all() -> impl Iterator<Item = Self> {
        let courses = (0..SEEDS).flat_map(|seed| MEETINGS.map(|meeting| (seed, meeting)));
        courses.flat_map(|(seed, meeting)| {
            let sides = [(0, false), (0, true), (1, false), (1, true)];
            sides.map(|(here, here_is_later)| Self { seed, here, here_is_later, meeting })
        })
    }

    fn there(&self) -> usize {
        1 - self.here
    }

    /// `{later}` and `{earlier}` are the names of the sides.
    fn fill(&self, text: &str) -> String {
        let (later, earlier) = match self.here_is_later {
            true => ("here", "there"),
            false => ("there", "here"),
        };
        text.replace("{later}", later).replace("{earlier}", earlier)
    }

    fn plan(&self) -> Plan {
        let is_passed_on = matches!(self.meeting, Meeting::HereFirst | Meeting::ThereFirst);
        Plan { nodes: if is_passed_on { 3 } else { 2 }, ..Plan::peaceful(self.seed) }
    }

    /// What is not as it should be.
    fn differs(&self, story: &Story, tree: &str, lost: &[String]) -> Option<String> {
        for at in 0..self.plan().nodes {
            let had = match (at, self.meeting) {
                (2, Meeting::HereFirst) => "here",
                (2, _) => "there",
                _ if at == self.here => "here",
                _ => "there",
            };
            let kept: Vec<&String> = lost.iter().filter(|lost| lost.starts_with(had)).collect();
            let (shown, keeps) = (story.tree(at), story.kept(at));
            if shown != tree || !keeps.iter().eq(kept.iter().copied()) {
                return Some(format!(
                    "node {at} shows {shown:?}, not {tree:?}, and keeps {keeps:?}, not {kept:?}"
                ));
            }
        }
        story.is_at_rest().err()
    }

    fn run(&self, row: &Row) -> Story {
        let mut story = Story::begin(self.plan(), 0, row.before);
        story.part();
        if self.meeting == Meeting::AfterAStop {
            story.stop(self.there());
        }
        let sides = [(self.here, row.here), (self.there(), row.there)];
        let order = if self.here_is_later { [1, 0] } else { [0, 1] };
        for side in order {
            let (at, act) = sides[side];
            story.act(at, act);
            story.settle();
        }
        match self.meeting {
            Meeting::Directly => {}
            Meeting::AfterAStop => story.start(self.there()),
            Meeting::HereFirst => {
                story.join(self.here, 2);
                story.join(self.there(), 2);
            }
            Meeting::ThereFirst => {
                story.join(self.there(), 2);
                story.join(self.here, 2);
            }
        }
        story.join(0, 1);
        story
    }
}

impl Row {
    /// All end with this tree. `lost` are contents that lost a conflict, each
    /// beginning with the side that wrote it: they lie in the conflict stores
    /// of the nodes that had them and in no other.
    #[track_caller]
    fn leads_to(&self, tree: &str, lost: &[&str]) {
        self.leads_to_either([tree, tree], lost);
    }

    /// The same, where the tree depends on whether `here` or `there` is later.
    #[track_caller]
    fn leads_to_either(&self, trees: [&str; 2], lost: &[&str]) {
        let wrong = |course: Course| {
            let tree = trees[usize::from(!course.here_is_later)];
            let lost = lost.iter().map(|lost| course.fill(lost)).collect::<Vec<_>>();
            let story = course.run(self);
            let wrong = course.differs(&story, &course.fill(tree), &lost)?;
            Some(format!("{course:?}\n    {wrong}\n{}", story.trace()))
        };
        let wrongs: Vec<String> = Course::all().filter_map(wrong).collect();
        assert!(
            wrongs.is_empty(),
            "{} courses end otherwise:\n{}",
            wrongs.len(),
            wrongs.join("\n")
        );
    }
}

#[test]
fn edit_and_edit() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "here"),
        there: |user| user.write("file", "there"),
    };
    row.leads_to("file={later}", &["{earlier}"]);
}

#[test]
fn edit_and_same_edit() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "same"),
        there: |user| user.write("file", "same"),
    };
    row.leads_to("file=same", &[]);
}

#[test]
fn edit_and_delete() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "here"),
        there: |user| user.remove("file"),
    };
    row.leads_to("file=here", &[]);
}

#[test]
fn edit_and_rename() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "here"),
        there: |user| user.rename("file", "renamed"),
    };
    row.leads_to("renamed=here", &[]);
}

#[test]
fn edit_in_place_and_replacement() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "here"),
        there: |user| user.replace("file", "there"),
    };
    row.leads_to("file=there", &["here"]);
}

#[test]
fn replacement_and_replacement() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.replace("file", "here"),
        there: |user| user.replace("file", "there"),
    };
    row.leads_to("file={later}", &["{earlier}"]);
}

#[test]
fn chmod_and_edit() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.chmod("file", 0o600),
        there: |user| user.write("file", "there"),
    };
    row.leads_to_either(["file=there:600", "file=there"], &[]);
}

#[test]
fn chmod_and_chmod() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.chmod("file", 0o600),
        there: |user| user.chmod("file", 0o640),
    };
    row.leads_to_either(["file=common:600", "file=common:640"], &[]);
}

#[test]
fn chmod_and_delete() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.chmod("file", 0o600),
        there: |user| user.remove("file"),
    };
    row.leads_to("", &[]);
}

#[test]
fn rename_and_rename_of_a_file() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.rename("file", "h"),
        there: |user| user.rename("file", "t"),
    };
    row.leads_to("h=common t->h", &[]);
}

#[test]
fn rename_and_rename_of_a_directory() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/a", "a");
        },
        here: |user| user.rename("d", "h"),
        there: |user| user.rename("d", "t"),
    };
    row.leads_to("h/ h/a=a t/ t/a->h/a", &[]);
}

#[test]
fn create_and_same_create() {
    let row = Row {
        before: |_| (),
        here: |user| {
            user.write("file", "same");
            user.chmod("file", 0o600);
        },
        there: |user| {
            user.write("file", "same");
            user.chmod("file", 0o640);
        },
    };
    row.leads_to_either(["file=same:600", "file=same:640"], &[]);
}

#[test]
fn create_and_other_create() {
    let row = Row {
        before: |_| (),
        here: |user| user.write("file", "here"),
        there: |user| user.write("file", "there"),
    };
    row.leads_to("file={later}", &["{earlier}"]);
}

#[test]
fn file_and_directory_of_one_name() {
    let row = Row {
        before: |_| (),
        here: |user| user.write("name", "here"),
        there: |user| {
            user.make_directory("name");
            user.write("name/inside", "there");
        },
    };
    row.leads_to("name/ name/inside=there", &["here"]);
}

#[test]
fn directory_deleted_and_child_created() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/old", "old");
        },
        here: |user| user.remove("d"),
        there: |user| user.write("d/new", "there"),
    };
    row.leads_to("d/ d/new=there", &[]);
}

#[test]
fn directories_moved_into_each_other() {
    let row = Row {
        before: |user| {
            user.make_directory("a");
            user.write("a/x", "x");
            user.make_directory("b");
            user.write("b/y", "y");
        },
        here: |user| user.rename("a", "b/a"),
        there: |user| user.rename("b", "a/b"),
    };
    row.leads_to("a/ a/b/ a/b/y=y b/ b/a/ b/a/x=x", &[]);
}

/// Here one of three steps of a circle, there the other two.
#[test]
fn three_directories_moved_into_each_other() {
    let row = Row {
        before: |user| {
            for (directory, file) in [("a", "a/x"), ("b", "b/y"), ("c", "c/z")] {
                user.make_directory(directory);
                user.write(file, directory);
            }
        },
        here: |user| user.rename("a", "b/a"),
        there: |user| {
            user.rename("b", "c/b");
            user.rename("c", "a/c");
        },
    };
    row.leads_to("a/ a/c/ a/c/b/ a/c/b/y=b a/c/z=c b/ b/a/ b/a/x=a", &[]);
}

#[test]
fn rename_and_delete_of_a_directory() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/a", "a");
        },
        here: |user| user.rename("d", "e"),
        there: |user| user.remove("d"),
    };
    row.leads_to("e/ e/a=a", &[]);
}

#[test]
fn file_moved_into_a_directory_that_is_deleted() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/old", "old");
            user.write("f", "moved");
        },
        here: |user| user.rename("f", "d/f"),
        there: |user| user.remove("d"),
    };
    row.leads_to("d/ d/f=moved", &[]);
}

#[test]
fn directory_created_and_another_renamed_onto_its_name() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/a", "a");
        },
        here: |user| {
            user.make_directory("e");
            user.write("e/b", "here");
        },
        there: |user| user.rename("d", "e"),
    };
    row.leads_to("e/ e/a=a e/b=here", &[]);
}

#[test]
fn renames_onto_one_name() {
    let row = Row {
        before: |user| {
            user.write("a", "here");
            user.write("b", "there");
        },
        here: |user| user.rename("a", "name"),
        there: |user| user.rename("b", "name"),
    };
    row.leads_to("name=there", &["here"]);
}

#[test]
fn exchanges_that_clash() {
    let row = Row {
        before: |user| {
            user.write("a", "common");
            user.write("b", "here");
            user.write("c", "there");
        },
        here: |user| user.exchange("a", "b"),
        there: |user| user.exchange("a", "c"),
    };
    row.leads_to("a=there b=common c->b", &["here"]);
}

#[test]
fn delete_and_delete() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.remove("file"),
        there: |user| user.remove("file"),
    };
    row.leads_to("", &[]);
}

#[test]
fn rename_and_delete() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.rename("file", "renamed"),
        there: |user| user.remove("file"),
    };
    row.leads_to("renamed=common", &[]);
}

#[test]
fn edit_and_rename_of_its_directory() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/a", "a");
        },
        here: |user| user.write("d/a", "here"),
        there: |user| user.rename("d", "t"),
    };
    row.leads_to("t/ t/a=here", &[]);
}

#[test]
fn child_created_and_rename_of_its_directory() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/old", "old");
        },
        here: |user| user.write("d/new", "here"),
        there: |user| user.rename("d", "t"),
    };
    row.leads_to("d/ d/new=here t/ t/old=old", &[]);
}

#[test]
fn edit_and_directory_in_its_place() {
    let row = Row {
        before: |user| user.write("name", "common"),
        here: |user| user.write("name", "here"),
        there: |user| {
            user.remove("name");
            user.make_directory("name");
            user.write("name/inside", "there");
        },
    };
    row.leads_to("name/ name/inside=there", &["here"]);
}

#[test]
fn edit_and_rename_over_it() {
    let row = Row {
        before: |user| {
            user.write("file", "common");
            user.write("other", "other");
        },
        here: |user| user.write("file", "here"),
        there: |user| user.rename("other", "file"),
    };
    row.leads_to("file=other", &["here"]);
}

#[test]
fn directories_created_with_one_name() {
    let row = Row {
        before: |_| (),
        here: |user| {
            user.make_directory("d");
            user.write("d/h", "here");
        },
        there: |user| {
            user.make_directory("d");
            user.write("d/t", "there");
        },
    };
    row.leads_to("d/ d/h=here d/t=there", &[]);
}

#[test]
fn directory_deleted_and_file_in_it_edited() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/a", "a");
            user.write("d/b", "b");
        },
        here: |user| user.remove("d"),
        there: |user| user.write("d/a", "there"),
    };
    row.leads_to("d/ d/a=there", &[]);
}

#[test]
fn rename_and_create_onto_one_name() {
    let row = Row {
        before: |user| user.write("file", "here"),
        here: |user| user.rename("file", "name"),
        there: |user| user.write("name", "there"),
    };
    row.leads_to("name=there", &["here"]);
}

#[test]
fn renames_of_directories_onto_one_name() {
    let row = Row {
        before: |user| {
            user.make_directory("h");
            user.write("h/x", "here");
            user.make_directory("t");
            user.write("t/y", "there");
        },
        here: |user| user.rename("h", "d"),
        there: |user| user.rename("t", "d"),
    };
    row.leads_to("d/ d/x=here d/y=there", &[]);
}

/// Equal times are no rare thing where tools set them.
#[test]
fn edits_of_the_same_time() {
    for seed in 0..SEEDS {
        let mut story = Story::begin(Plan::peaceful(seed), 0, |user| user.write("file", "common"));
        story.part();
        story.act(0, |user| user.write("file", "lower"));
        story.act_now(1, |user| user.write("file", "higher"));
        story.settle();
        story.join(0, 1);
        for at in 0..2 {
            assert_eq!(story.tree(at), "file=higher", "{}", story.trace());
        }
        assert_eq!([story.kept(0), story.kept(1)], [vec!["lower".to_owned()], vec![]]);
    }
}

#[test]
fn three_edits() {
    for (seed, order) in
        (0..).zip([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    {
        let plan = Plan { nodes: 3, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |user| user.write("file", "common"));
        story.part();
        for at in order {
            story.act(at, |user| user.write("file", &format!("of {at}")));
            story.settle();
        }
        story.join(0, 1);
        story.join(1, 2);
        story.join(0, 2);
        for at in 0..3 {
            assert_eq!(story.tree(at), format!("file=of {}", order[2]), "{}", story.trace());
        }
        for loser in &order[..2] {
            let kept = format!("of {loser}");
            assert!(story.kept(*loser).contains(&kept), "{kept} is not kept");
        }
    }
}

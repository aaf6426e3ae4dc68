//! What concurrent changes lead to: the rows of the table in
//! `ARCHITECTURE.md`, each by its name.
//!
//! Two users change the same common tree while their nodes do not reach each
//! other. Every row is met on every course: whoever is later, whoever has the
//! higher actor, whether the nodes meet directly, through a third one that
//! meets the one or the other first, or after one of them was stopped. The
//! tree, what each name contains and what lies in each conflict store are
//! compared exactly.

mod directories;
mod files;

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

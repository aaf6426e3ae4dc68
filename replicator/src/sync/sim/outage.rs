//! A machine loses its power: its disk shows less than its index knows, and
//! than it told the others.

use super::plan::Plan;
use super::random::Random;
use super::story::{Story, User};

/// What users write to, or make.
const FILES: [&str; 6] = ["a", "b", "d/a", "d/b", "e/a", "new"];

/// Of what was told and never written out, nothing is lost anywhere.
#[test]
fn a_disk_that_lost_its_last_moments_takes_nothing_from_others() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let nodes = 2 + (seed % 3) as usize;
        let plan = Plan { nodes, members: true, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |user| {
            ["d", "e"].iter().for_each(|directory| user.make_directory(directory));
            FILES[..5].iter().for_each(|file| user.write(file, &format!("first in {file}")));
        });
        let before = story.disk(1).clone();
        for number in 0..1 + random.below(8) {
            let at = random.below(plan.nodes as u64) as usize;
            let what = random.below(6);
            // What is there can be replaced.
            let file = FILES[random.below(if what < 2 { 5 } else { 6 }) as usize];
            story.act(at, |user| act(user, what, file, number));
            story.settle();
        }
        let told = story.tree(0);
        match random.below(3) {
            0 => *story.disk(1) = before,
            1 => FILES.iter().for_each(|file| story.disk(1).lose_bytes(&super::path(file))),
            _ => {
                *story.disk(1) = before;
                FILES.iter().for_each(|file| story.disk(1).lose_bytes(&super::path(file)));
            }
        }
        story.start_after_outage(1);
        for at in 0..plan.nodes {
            assert_eq!(story.tree(at), told, "seed {seed}, on {at}\n{}", story.trace());
            // Another file that lies where one was told of is kept, to be sure.
            assert!(at == 1 || story.kept(at).is_empty(), "seed {seed}, on {at}");
        }
        story.is_at_rest().unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
    }
}

fn act(user: &mut User, what: u64, file: &str, number: u64) {
    let content = format!("number {number}");
    match what {
        0 => user.replace(file, &content),
        1 => user.chmod(file, 0o600),
        2 => user.write(&format!("d/made-{number}"), &content),
        _ => user.write(file, &content),
    }
}

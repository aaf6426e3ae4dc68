//! Files that were moved while nobody looked: a scan meets them elsewhere, and
//! reading them there takes longer than anything else.

use std::collections::BTreeSet;
use std::time::Duration;

use super::alone::Alone;
use super::path;
use crate::id::BodyId;
use crate::look::Look;
use crate::path::RelPath;
use crate::sync::effect::Effect;
use crate::sync::store::Store;

/// Longer than any wait for what may never come.
const READ_TAKES: Duration = Duration::from_secs(30);

/// A node that knows some files.
fn knowing(files: &[&str]) -> Alone {
    let mut node = Alone::new();
    for file in files {
        node.disk.write(&path(file), file.as_bytes(), &mut BTreeSet::new());
    }
    node.core.scan(RelPath::root());
    node.rest();
    node
}

fn body_at(node: &Alone, place: &str) -> Option<BodyId> {
    Some(node.core.store().name(&path(place))?.on_disk()?.0)
}

/// All is scanned, and looks at these places take their time.
fn scan_slowly(node: &mut Alone, slow: &[&str]) {
    node.core.scan(RelPath::root());
    let (step, mut held) = (Duration::from_millis(20), Vec::new());
    for _ in 0..READ_TAKES.as_millis() / step.as_millis() {
        pass(node, step, slow, &mut held);
    }
    assert_eq!(held.len(), slow.len(), "{held:?}");
    node.carry_out(Effect::Look(held));
    node.rest();
}

fn pass(node: &mut Alone, step: Duration, slow: &[&str], held: &mut Vec<Look>) {
    node.now += step;
    node.core.handle_timeout(node.clock());
    while let Some(effect) = node.core.poll_effect() {
        let Effect::Look(looks) = effect else {
            node.carry_out(effect);
            continue;
        };
        let is_slow = |look: &Look| slow.iter().any(|place| look.path == path(place));
        let (slow, quick) = looks.into_iter().partition(is_slow);
        held.extend::<Vec<Look>>(slow);
        node.carry_out(Effect::Look(quick));
    }
}

#[test]
fn a_file_that_is_read_for_long_is_still_the_one_that_was_renamed() {
    let mut node = knowing(&["a"]);
    let body = body_at(&node, "a");
    node.disk.rename(&path("a"), &path("b"), &mut BTreeSet::new());
    scan_slowly(&mut node, &["b"]);
    assert_eq!((body_at(&node, "a"), body_at(&node, "b")), (None, body));
}

#[test]
fn a_file_that_is_read_for_long_may_have_left_its_name_to_another() {
    let mut node = knowing(&["a"]);
    let body = body_at(&node, "a");
    node.disk.rename(&path("a"), &path("b"), &mut BTreeSet::new());
    node.disk.write(&path("a"), b"another", &mut BTreeSet::new());
    scan_slowly(&mut node, &["b"]);
    assert_eq!(body_at(&node, "b"), body);
    assert!(![None, body].contains(&body_at(&node, "a")));
}

#[test]
fn files_that_are_read_for_long_are_those_that_were_exchanged() {
    let mut node = knowing(&["a", "b"]);
    let bodies = [body_at(&node, "a"), body_at(&node, "b")];
    node.disk.swap(&path("a"), &path("b"));
    scan_slowly(&mut node, &["b"]);
    assert_eq!([body_at(&node, "b"), body_at(&node, "a")], bodies);
}

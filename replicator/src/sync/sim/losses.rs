//! Losses in a row: what each could have been about is read once.

use std::collections::BTreeSet;
use std::time::Duration;

use super::alone::Alone;
use super::path;
use crate::entry::Timestamp;
use crate::look::Depth;
use crate::path::RelPath;
use crate::sync::effect::Effect;

/// A node that knows some files, each written at its second.
fn knowing(files: &[(&str, i64)]) -> Alone {
    let mut node = Alone::new();
    for (name, second) in files {
        node.disk.set_clock(second * 1_000_000_000);
        node.disk.write(&path(name), b"as known", &mut BTreeSet::new());
    }
    node.core.scan(RelPath::root());
    node.rest();
    node
}

/// The core is told that it lost what happened since this second.
fn lose(node: &mut Alone, since: i64) {
    node.core.scan_since(RelPath::root(), Some(Timestamp { seconds: since, nanos: 0 }));
}

/// What the core asks for meanwhile is answered, but for scans.
fn rest(node: &mut Alone) -> (Vec<String>, usize) {
    let (mut read, mut scans) = (Vec::new(), 0);
    for _ in 0..100 {
        node.now += Duration::from_millis(10);
        node.core.handle_timeout(node.clock());
        while let Some(effect) = node.core.poll_effect() {
            match &effect {
                Effect::Scan { .. } => scans += 1,
                Effect::Look(looks) => {
                    let whole = looks.iter().filter(|look| matches!(look.depth, Depth::Whole));
                    read.extend(whole.map(|look| look.path.to_string()));
                    node.carry_out(effect);
                }
                _ => node.carry_out(effect),
            }
        }
    }
    (read, scans)
}

/// A scan meets all but these.
fn meet(node: &mut Alone, passed_by: &[&str]) {
    let mut listed = node.disk.list(&RelPath::root());
    listed.retain(|entry| !passed_by.contains(&&*entry.path.to_string()));
    node.core.handle_listed(node.clock(), &RelPath::root(), listed);
}

#[test]
fn a_row_of_losses_is_one_more_scan_and_reads_what_changed_since_the_later_ones() {
    let mut node = knowing(&[("early", 10), ("late", 20)]);
    lose(&mut node, 5);
    assert_eq!(rest(&mut node), (vec![], 1));
    meet(&mut node, &[]);
    for second in (15..25).rev() {
        lose(&mut node, second);
        assert_eq!(rest(&mut node).1, 0, "one is under way");
    }
    node.core.handle_scanned(node.clock(), &RelPath::root());
    assert_eq!(rest(&mut node).1, 1);
    meet(&mut node, &[]);
    node.core.handle_scanned(node.clock(), &RelPath::root());
    assert_eq!(rest(&mut node), (vec!["late".to_owned()], 0));
}

/// As one that a directory was moved with, while it was listed.
#[test]
fn what_a_scan_passed_by_is_read_by_the_next_one() {
    let mut node = knowing(&[("met", 10), ("passed by", 11)]);
    lose(&mut node, 5);
    rest(&mut node);
    meet(&mut node, &["passed by"]);
    assert_eq!(rest(&mut node).0, ["met"]);
    for later in [15, 16] {
        lose(&mut node, later);
        node.core.handle_scanned(node.clock(), &RelPath::root());
        rest(&mut node);
        meet(&mut node, if later == 15 { &["passed by"] } else { &[] });
    }
    assert_eq!(rest(&mut node).0, ["passed by"]);
}

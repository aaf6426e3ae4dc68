//! Deletions that nobody saw happen: what is too much of them waits for a
//! person.

use std::fs;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use replicator_tests::{Cluster, Node, poll, tree};

/// More than any brake lets through unseen.
const FILES: u64 = 300;

/// So many pass unseen, whatever their share.
const FEW: u64 = 100;

/// Long enough for deletions to arrive if they were sent.
const WATCHED: Duration = Duration::from_secs(4);

const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// Two nodes in sync over a folder with so many files.
fn in_sync(files: u64, options: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(2).with_options(options);
    for number in 0..files {
        fs::write(cluster[0].path(number.to_string()), format!("precious {number}")).unwrap();
    }
    cluster.start();
    cluster.assert_same();
    cluster
}

fn remove(node: &Node, files: Range<u64>) {
    files.for_each(|number| fs::remove_file(node.path(number.to_string())).unwrap());
}

/// The second node lost these files while it was stopped, and is back.
fn lose_unseen(cluster: &mut Cluster, lost: Range<u64>) {
    cluster[1].stop().unwrap();
    remove(&cluster[1], lost);
    cluster[1].start().unwrap();
}

fn files(node: &Node) -> u64 {
    tree::count(node.root()).unwrap().0
}

fn held(node: &Node) -> u64 {
    node.status().unwrap().number("/folder/deletions_held")
}

/// The second node holds so many deletions, and none of them reaches the first,
/// which keeps all of its files.
#[track_caller]
fn assert_holds(cluster: &Cluster, count: u64) {
    poll::eventually(SEEN_WITHIN, "the deletions are held", || held(&cluster[1]) == count);
    let kept = files(&cluster[0]);
    poll::holds_for(WATCHED, "the peer keeps every file", || files(&cluster[0]) == kept);
    assert_eq!(kept, files(&cluster[1]) + count);
    let status = cluster[1].status().unwrap();
    assert!(status.state().starts_with("held: "), "{status}");
    assert!(cluster[1].log().contains("these deletions are held back"));
    let waited = cluster[0].wait(Duration::from_secs(1)).unwrap();
    assert_eq!(waited.code, 1, "the trees differ: {waited:?}");
}

#[test]
fn a_root_emptied_unseen_waits_for_a_person_who_meant_it() {
    let mut cluster = in_sync(FILES, &[]);
    lose_unseen(&mut cluster, 0..FILES);
    assert_holds(&cluster, FILES);
    assert_eq!(files(&cluster[1]), 0, "nothing comes back by itself");
    // A restart forgets nothing of it.
    cluster[1].stop().unwrap();
    cluster[1].start().unwrap();
    assert_holds(&cluster, FILES);
    let confirmed = cluster[1].confirm(&[]).unwrap();
    assert_eq!((confirmed.code, held(&cluster[1])), (0, 0), "{confirmed:?}");
    assert_eq!(confirmed.stdout, format!("{FILES} deletions go to the other nodes\n"));
    cluster.assert_same();
    assert_eq!(files(&cluster[0]), 0);
    assert_eq!(cluster[1].confirm(&[]).unwrap().stdout, "nothing is held back\n");
}

#[test]
fn most_of_a_root_lost_unseen_comes_back_when_a_person_says_so() {
    let mut cluster = in_sync(FILES, &[]);
    lose_unseen(&mut cluster, 100..FILES);
    assert_holds(&cluster, FILES - 100);
    // What changes elsewhere meanwhile comes back by itself.
    fs::write(cluster[0].path("200"), "edited meanwhile").unwrap();
    poll::eventually(SEEN_WITHIN, "an edit beats a held deletion", || {
        fs::read_to_string(cluster[1].path("200")).is_ok_and(|text| text == "edited meanwhile")
    });
    // And what is put back here is not held any more.
    fs::write(cluster[1].path("201"), "put back").unwrap();
    poll::eventually(SEEN_WITHIN, "it is replicated", || {
        fs::read_to_string(cluster[0].path("201")).is_ok_and(|text| text == "put back")
    });
    let restored = cluster[1].confirm(&["--restore"]).unwrap();
    assert_eq!(restored.code, 0, "{restored:?}");
    cluster.assert_same();
    assert_eq!(files(&cluster[0]), FILES);
    cluster.assert_rsync_agrees();
}

/// Holds the loss of one more than passes, which then comes back, and lets
/// through what passes.
#[track_caller]
fn assert_passes_at_most(cluster: &mut Cluster, most: u64) {
    lose_unseen(cluster, 0..most + 1);
    assert_holds(cluster, most + 1);
    assert_eq!(cluster[1].confirm(&["--restore"]).unwrap().code, 0);
    cluster.assert_same();
    let all = files(&cluster[1]);
    lose_unseen(cluster, 0..most);
    cluster.assert_same();
    assert_eq!((files(&cluster[0]), held(&cluster[1])), (all - most, 0));
}

#[test]
fn a_few_pass_though_they_are_most_of_a_folder() {
    assert_passes_at_most(&mut in_sync(FEW + 20, &[]), FEW);
}

#[test]
fn half_of_a_folder_passes() {
    assert_passes_at_most(&mut in_sync(FILES, &[]), FILES / 2);
}

#[test]
fn the_share_is_what_was_set() {
    assert_passes_at_most(&mut in_sync(400, &["--delete-brake", "30%"]), 120);
}

/// At any share, and few files as well.
#[test]
fn all_of_a_folder_is_held() {
    let mut cluster = in_sync(FILES, &["--delete-brake", "100%"]);
    lose_unseen(&mut cluster, 0..FILES - 3);
    cluster.assert_same();
    assert_eq!(files(&cluster[0]), 3);
    lose_unseen(&mut cluster, FILES - 3..FILES);
    assert_holds(&cluster, 3);
}

#[test]
fn a_brake_that_is_off_holds_nothing() {
    let mut cluster = in_sync(FILES, &["--delete-brake", "off"]);
    lose_unseen(&mut cluster, 0..FILES);
    cluster.assert_same();
    assert_eq!((files(&cluster[0]), held(&cluster[1])), (0, 0));
    let confirmed = cluster[1].confirm(&[]).unwrap();
    assert_eq!((confirmed.code, confirmed.stdout.as_str()), (0, "nothing is held back\n"));
}

#[test]
fn what_is_deleted_before_and_while_a_person_confirms_goes_too() {
    let mut cluster = in_sync(FILES, &[]);
    lose_unseen(&mut cluster, 100..FILES);
    assert_holds(&cluster, FILES - 100);
    // What is seen to be deleted passes, on either side, and what was deleted
    // on the other waits for nobody.
    remove(&cluster[1], 0..10);
    remove(&cluster[0], 100..110);
    poll::eventually(SEEN_WITHIN, "seen deletions pass", || {
        !cluster[0].path("9").exists() && held(&cluster[1]) == FILES - 110
    });
    let confirmed = thread::scope(|scope| {
        // All that is left, on either side.
        scope.spawn(|| remove(&cluster[1], 10..60));
        scope.spawn(|| remove(&cluster[0], 60..100));
        cluster[1].confirm(&[]).unwrap()
    });
    assert_eq!(confirmed.code, 0, "{confirmed:?}");
    assert_eq!(confirmed.stdout, format!("{} deletions go to the other nodes\n", FILES - 110));
    cluster.assert_same();
    assert_eq!((files(&cluster[0]), held(&cluster[1])), (0, 0));
}

#[test]
fn deletions_made_while_the_node_looks_on_are_not_held() {
    let cluster = in_sync(FILES, &[]);
    remove(&cluster[1], 0..FILES);
    cluster.assert_same();
    assert_eq!(files(&cluster[0]), 0);
}

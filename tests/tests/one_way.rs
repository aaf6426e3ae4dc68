//! Nodes that only receive, and nodes that only send.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use replicator_tests::{Cluster, Node, poll, tree};

const ARRIVES_WITHIN: Duration = Duration::from_secs(20);

/// Long enough for changes to arrive if they were sent.
const WATCHED: Duration = Duration::from_secs(3);

/// Two nodes with these files; the second has this mode.
fn pair(mode: &str) -> Cluster {
    let mut cluster = Cluster::new(2);
    cluster[1].settings.options.extend(["--mode".into(), mode.into()]);
    fs::create_dir(cluster[0].path("d")).unwrap();
    for name in ["a", "b", "c", "d/a", "d/b"] {
        fs::write(cluster[0].path(name), name).unwrap();
    }
    // A node that sends has to have it already.
    if mode == "send-only" {
        fs::remove_dir(cluster[1].root()).unwrap();
        let copy = |from, to| Command::new("cp").arg("-a").arg(from).arg(to).status();
        assert!(copy(cluster[0].root(), cluster[1].root()).unwrap().success());
    }
    cluster.start();
    cluster.assert_same();
    cluster
}

fn own_changes(node: &Node) -> u64 {
    node.status().unwrap().number("/folder/own_changes")
}

#[track_caller]
fn assert_own_changes(node: &Node, count: u64) {
    let as_expected = || own_changes(node) == count;
    let status = || node.status().unwrap().to_string();
    assert!(poll::until(ARRIVES_WITHIN, as_expected), "not {count} own changes: {}", status());
}

fn reads(node: &Node, name: &str, content: &str) -> bool {
    fs::read_to_string(node.path(name)).is_ok_and(|text| text == content)
}

#[test]
fn what_changes_on_a_node_that_receives_is_reported_and_can_be_reverted() {
    let mut cluster = pair("receive-only");
    let b = &cluster[1];
    fs::write(b.path("a"), "changed here").unwrap();
    fs::remove_file(b.path("b")).unwrap();
    fs::set_permissions(b.path("c"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::create_dir(b.path("new")).unwrap();
    fs::write(b.path("new/file"), "added here").unwrap();
    fs::rename(b.path("d/a"), b.path("d/moved")).unwrap();
    assert_own_changes(b, 7);
    let status = b.status().unwrap();
    let told = status.json()["errors"].to_string();
    for (path, what) in [("a", "changed here"), ("b", "deleted here"), ("new/file", "added here")] {
        assert!(told.contains(path) && told.contains(what), "{told}");
    }
    poll::holds_for(WATCHED, "nothing of it is sent", || {
        let a = &cluster[0];
        reads(a, "a", "a") && reads(a, "b", "b") && !a.path("new").exists()
    });
    assert_eq!(cluster[0].wait(Duration::from_secs(1)).unwrap().code, 1, "the trees differ");

    // What the others change arrives, but not over what was changed here.
    fs::write(cluster[0].path("d/b"), "from the other").unwrap();
    fs::write(cluster[0].path("a"), "from the other").unwrap();
    poll::eventually(ARRIVES_WITHIN, "changes arrive", || {
        reads(&cluster[1], "d/b", "from the other")
    });
    assert!(reads(&cluster[1], "a", "changed here"));

    // A restart finds it all again.
    cluster[1].stop().unwrap();
    cluster[1].start().unwrap();
    assert_own_changes(&cluster[1], 7);

    let reverted = cluster[1].revert().unwrap();
    assert_eq!(reverted.code, 0, "{reverted:?}");
    assert_eq!(reverted.stdout, "7 entries go back to what the other nodes hold\n");
    assert_own_changes(&cluster[1], 0);
    cluster.assert_same();
    assert!(reads(&cluster[1], "a", "from the other") && reads(&cluster[1], "b", "b"));
    assert_eq!(tree::count(cluster[0].root()).unwrap().0, 5);
    cluster.assert_rsync_agrees();
}

#[test]
fn a_node_that_receives_takes_everything_and_keeps_what_it_had() {
    let mut cluster = Cluster::new(2);
    cluster[1].settings.options.extend(["--mode".into(), "receive-only".into()]);
    fs::write(cluster[0].path("common"), "newer and longer").unwrap();
    fs::write(cluster[1].path("common"), "had it").unwrap();
    fs::write(cluster[1].path("own"), "own").unwrap();
    cluster.start();
    assert_own_changes(&cluster[1], 2);
    assert!(!cluster[0].path("own").exists());
    assert!(reads(&cluster[1], "common", "had it"));
    let refused = cluster[0].revert().unwrap();
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("receive-only"), "{refused:?}");
    cluster[1].revert().unwrap();
    cluster.assert_same();
    assert!(reads(&cluster[1], "common", "newer and longer") && !cluster[1].path("own").exists());
}

/// What changed on it goes out as if it had been stopped meanwhile.
#[test]
fn a_node_that_received_and_is_started_to_do_both_tells_what_changed_on_it() {
    let mut cluster = pair("receive-only");
    let b = &cluster[1];
    fs::write(b.path("a"), "changed here").unwrap();
    fs::remove_file(b.path("b")).unwrap();
    fs::write(b.path("new"), "added here").unwrap();
    fs::set_permissions(b.path("d/b"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(b.path("d/a"), b.path("d/moved")).unwrap();
    assert_own_changes(b, 6);
    // Both have a say in these: an edit that is later, and one that was deleted.
    fs::write(b.path("c"), "earlier, here").unwrap();
    assert_own_changes(b, 7);
    fs::write(cluster[0].path("c"), "later, there").unwrap();
    fs::write(cluster[0].path("b"), "edited there").unwrap();
    fs::write(cluster[0].path("last"), "arrives").unwrap();
    poll::eventually(ARRIVES_WITHIN, "it has heard of it", || cluster[1].path("last").exists());
    assert!(reads(&cluster[1], "c", "earlier, here") && !cluster[1].path("b").exists());

    cluster[1].stop().unwrap();
    let options = &mut cluster[1].settings.options;
    options.truncate(options.len() - 2);
    cluster[1].start().unwrap();
    cluster.assert_same();
    cluster.assert_rsync_agrees();
    let a = &cluster[0];
    assert!(reads(a, "a", "changed here") && reads(a, "new", "added here"));
    assert!(reads(a, "d/moved", "d/a") && !a.path("d/a").exists());
    assert_eq!(fs::metadata(a.path("d/b")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(reads(a, "c", "later, there") && reads(a, "b", "edited there"));
    let kept = cluster[1].conflicts().unwrap();
    assert_eq!(kept.as_array().map(Vec::len), Some(1), "{kept}");
    assert_eq!(kept[0]["path"], "c", "{kept}");
    assert_own_changes(&cluster[1], 0);
}

#[test]
fn a_node_that_sends_does_not_apply_what_others_change() {
    let mut cluster = pair("send-only");
    fs::write(cluster[0].path("b"), "changed elsewhere").unwrap();
    fs::remove_file(cluster[0].path("c")).unwrap();
    fs::write(cluster[0].path("elsewhere"), "x").unwrap();
    fs::write(cluster[1].path("d/a"), "sent").unwrap();
    fs::write(cluster[1].path("sent"), "sent").unwrap();
    poll::eventually(ARRIVES_WITHIN, "what it sends arrives", || {
        reads(&cluster[0], "d/a", "sent") && reads(&cluster[0], "sent", "sent")
    });
    poll::holds_for(WATCHED, "it keeps what it has", || {
        let b = &cluster[1];
        reads(b, "b", "b") && reads(b, "c", "c") && !b.path("elsewhere").exists()
    });
    assert!(cluster[1].status().unwrap().pending_in() >= 3);
    assert_eq!(cluster[1].status().unwrap().text("/folder/mode"), "send-only");

    // As an ordinary node it catches up.
    cluster[1].stop().unwrap();
    let options = &mut cluster[1].settings.options;
    options.truncate(options.len() - 2);
    cluster[1].start().unwrap();
    cluster.assert_same();
    assert!(reads(&cluster[1], "b", "changed elsewhere") && !cluster[1].path("c").exists());
}

/// As long as a member is away nobody else may say so: it may have the only copy.
#[test]
fn a_node_that_sends_says_that_what_it_deleted_is_held_by_nobody() {
    let mut cluster = Cluster::new(3);
    cluster[1].settings.options.extend(["--mode".into(), "send-only".into()]);
    fs::write(cluster[1].path("f"), "before").unwrap();
    fs::write(cluster[1].path("g"), "replaced").unwrap();
    cluster.start();
    let have_come = || {
        let has = |at: usize, name, text| reads(&cluster[at], name, text);
        [0, 2].into_iter().all(|at| has(at, "f", "before") && has(at, "g", "replaced"))
    };
    poll::eventually(ARRIVES_WITHIN, "all have it", have_come);
    cluster[2].stop().unwrap();
    cluster[0].stop().unwrap();
    let has_told = |node: &Node, what: &str| {
        node.status().unwrap().recent().iter().any(|(_, line)| line.contains(what))
    };
    // So much that it is not kept beside the folder for who asks later.
    fs::write(cluster[1].path("f"), vec![b'x'; 3 << 20]).unwrap();
    poll::eventually(ARRIVES_WITHIN, "it is read", || has_told(&cluster[1], "changed here"));
    fs::remove_file(cluster[1].path("f")).unwrap();
    poll::eventually(ARRIVES_WITHIN, "it is gone", || has_told(&cluster[1], "deleted here"));
    fs::rename(cluster[0].path("f"), cluster[0].path("g")).unwrap();
    cluster[0].start().unwrap();
    poll::eventually(ARRIVES_WITHIN, "it is given up", || has_told(&cluster[1], "nobody holds it"));
    poll::eventually(ARRIVES_WITHIN, "nothing is asked for any more", || {
        cluster[0].status().unwrap().pending_in() == 0
    });
    assert!(reads(&cluster[0], "g", "before") && !cluster[0].path("f").exists());
    cluster[2].start().unwrap();
    poll::eventually(ARRIVES_WITHIN, "who was away shows it, too", || {
        reads(&cluster[2], "g", "before") && !cluster[2].path("f").exists()
    });
}

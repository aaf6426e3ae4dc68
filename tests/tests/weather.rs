//! Bad lines between nodes: slow, lossy, dark for a while, narrow.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use replicator_tests::relay::{Relay, Weather};
use replicator_tests::{Cluster, Node, poll, sample, tree};

/// A line to another continent on a bad day: 100 ms there and back.
const FAR: Weather = Weather {
    delay: Duration::from_millis(50),
    lost: 20,
    doubled: 20,
    overtaken: 20,
    bytes_per_second: None,
    dark: false,
};

/// Files of each of the two sites that cross it, some 4 MiB together.
const SITE_FILES: u64 = 350;

/// A tenth of what the line's loss leaves of it is enough for this.
const FAR_LIMIT: Duration = Duration::from_secs(60);

/// A connection that hears nothing is given up after six seconds; this is
/// longer, and than what a dialer waits between two tries.
const BLACKOUT: Duration = Duration::from_secs(12);

/// After a line is there again: the longest pause of a dialer, with its
/// handshake.
const RETURN_LIMIT: Duration = Duration::from_secs(15);

/// Gives each node a site of its own, of which no other has anything, and
/// tells the bytes of all.
fn with_sites(cluster: &Cluster, files: u64) -> u64 {
    let sites = cluster.nodes().iter().enumerate().map(|(seed, node)| {
        let site = node.path(format!("site-of-{}", node.name()));
        sample::look_alike_of(&site, files, seed as u64).unwrap();
        tree::count(&site).unwrap().1
    });
    sites.sum()
}

#[test]
fn a_long_and_lossy_line_still_brings_the_same_tree() {
    let mut cluster = Cluster::new(2);
    let relay = Relay::before(&mut cluster, 101).unwrap();
    relay.set(FAR);
    let bytes = with_sites(&cluster, SITE_FILES);
    let begun = Instant::now();
    cluster.start();
    cluster.assert_same_within(FAR_LIMIT);
    println!("the sites crossed in {:.1?}", begun.elapsed());
    let begun = Instant::now();
    for node in cluster.nodes() {
        fs::write(node.path(format!("edit-of-{}", node.name())), "a later edit").unwrap();
    }
    cluster.assert_same_within(Duration::from_secs(10));
    println!("an edit each way crossed in {:.1?}", begun.elapsed());
    assert_was_bad(&relay, bytes);
}

/// So many bytes crossed, at least, and met with all that the weather had.
#[track_caller]
fn assert_was_bad(relay: &Relay, bytes: u64) {
    let passed = relay.passed();
    assert!(passed.bytes > bytes, "the sites hardly crossed: {passed:?} for {bytes} bytes");
    let was_bad = passed.lost > 0 && passed.doubled > 0 && passed.overtaken > 0;
    assert!(was_bad, "the line was too good: {passed:?}");
}

/// What each wrote while the others did is a conflict of all three.
#[test]
fn three_nodes_far_from_each_other_end_with_the_same_tree() {
    let mut cluster = Cluster::new(3);
    let relay = Relay::before(&mut cluster, 108).unwrap();
    relay.set(Weather { delay: Duration::from_millis(100), ..FAR });
    let bytes = with_sites(&cluster, SITE_FILES / 3);
    let begun = Instant::now();
    cluster.start();
    cluster.assert_same_within(FAR_LIMIT);
    println!("the sites of three crossed in {:.1?}", begun.elapsed());
    let begun = Instant::now();
    let wrote = |node: &Node| format!("by {}", node.name());
    for node in cluster.nodes() {
        fs::write(node.path("of-all"), wrote(node)).unwrap();
    }
    for node in cluster.nodes() {
        let [site, moved] =
            ["site-of", "moved"].map(|it| node.path(format!("{it}-{}", node.name())));
        fs::remove_file(site.join("index.php")).unwrap();
        fs::rename(site, moved).unwrap();
    }
    cluster.assert_same_within(FAR_LIMIT);
    println!("their changes crossed in {:.1?}", begun.elapsed());
    for node in cluster.nodes() {
        let moved = node.path("moved-c");
        assert!(moved.join("wp-content/index.php").exists() && !moved.join("index.php").exists());
        assert!(!node.path("site-of-c").exists());
        // Who lost keeps what it wrote.
        let has_won = fs::read_to_string(node.path("of-all")).unwrap() == wrote(node);
        let conflicts = node.status().unwrap().conflicts();
        assert_eq!(has_won, conflicts == 0, "{} has {conflicts}", node.name());
    }
    // Each to two others.
    assert_was_bad(&relay, 2 * bytes);
}

#[test]
fn a_blackout_heals_by_itself() {
    let mut cluster = Cluster::new(2);
    let relay = Relay::before(&mut cluster, 102).unwrap();
    fs::write(cluster[0].path("before"), "before").unwrap();
    cluster.start();
    cluster.assert_same();
    relay.set(Weather::DARK);
    for node in cluster.nodes() {
        fs::write(node.path(format!("meanwhile-{}", node.name())), "in the dark").unwrap();
        fs::write(node.path("both"), format!("by {}", node.name())).unwrap();
    }
    poll::holds_for(BLACKOUT, "nothing crosses in the dark", || {
        !cluster[1].path("meanwhile-a").exists() && !cluster[0].path("meanwhile-b").exists()
    });
    for node in cluster.nodes() {
        assert_eq!(node.status().unwrap().peers_connected(), 0, "{} noticed nothing", node.name());
    }
    relay.set(Weather::default());
    poll::eventually(RETURN_LIMIT, "what was changed in the dark crosses", || {
        cluster[1].path("meanwhile-a").exists() && cluster[0].path("meanwhile-b").exists()
    });
    cluster.assert_same();
    assert_eq!(
        cluster[0].status().unwrap().conflicts() + cluster[1].status().unwrap().conflicts(),
        1
    );
}

#[test]
fn a_slow_peer_does_not_slow_the_others() {
    let mut cluster = Cluster::new(3);
    let relay = Relay::before(&mut cluster, 103).unwrap();
    // What one modem takes: the large file alone would need a minute.
    let narrow = Weather {
        delay: Duration::from_millis(40),
        bytes_per_second: Some(256 << 10),
        ..Weather::default()
    };
    relay.set_between(0, 2, narrow);
    relay.set_between(1, 2, narrow);
    cluster.start();
    cluster.assert_same();
    let is_whole =
        |node: &Node| fs::metadata(node.path("large")).is_ok_and(|file| file.len() == 5 << 20);
    let begun = Instant::now();
    sample::random_file(&cluster[0].path("large"), 5 << 20, 1).unwrap();
    poll::eventually(Duration::from_secs(10), "the large file is on the near node", || {
        is_whole(&cluster[1])
    });
    println!("the large file took {:.1?} to the near node", begun.elapsed());
    let mut slowest = Duration::ZERO;
    for number in 0..20 {
        let (from, to) = (number % 2, (number + 1) % 2);
        let took = crosses(&cluster[from], &cluster[to], number as u8, Duration::from_secs(2));
        slowest = slowest.max(took);
        thread::sleep(Duration::from_millis(20));
    }
    println!("the slowest of 20 changes took {slowest:.1?} between the near nodes");
    assert!(!is_whole(&cluster[2]), "the slow line was too fast for this story");
    cluster.assert_same_within(Duration::from_secs(90));
    println!("it took {:.1?} to the far node", begun.elapsed());
    let (files, _) = tree::count(cluster[2].root()).unwrap();
    assert_eq!(files, 21);
}

/// A first merge of terabytes takes days, in which people work.
#[test]
fn what_is_small_passes_what_is_large() {
    const LARGE: u64 = 5;
    let mut cluster = Cluster::new(2);
    let relay = Relay::before(&mut cluster, 106).unwrap();
    relay.set(Weather { bytes_per_second: Some(4 << 20), ..Weather::default() });
    cluster.start();
    fs::create_dir(cluster[0].path("folder")).unwrap();
    fs::write(cluster[0].path("folder/inside"), "inside").unwrap();
    cluster.assert_same();
    let footage = cluster.dir().join("footage");
    fs::create_dir(&footage).unwrap();
    for number in 0..LARGE {
        sample::random_file(&footage.join(number.to_string()), 20 << 20, number).unwrap();
    }
    let before = cluster[1].status().unwrap().traffic().received;
    fs::rename(&footage, cluster[0].path("footage")).unwrap();
    poll::eventually(Duration::from_secs(20), "the large files are on their way", || {
        cluster[1].status().unwrap().traffic().received - before > 4 << 20
    });
    let mut slowest = Duration::ZERO;
    for number in 0..12 {
        let (from, to) = (number % 2, (number + 1) % 2);
        match number {
            // It has to wait, and nothing else with it.
            4 => fs::rename(cluster[0].path("folder"), cluster[0].path("moved")).unwrap(),
            8 => sample::random_file(&cluster[from].path("medium"), 2 << 20, 9).unwrap(),
            _ => {}
        }
        let took = crosses(&cluster[from], &cluster[to], number as u8, Duration::from_secs(5));
        slowest = slowest.max(took);
    }
    println!("the slowest of 12 changes took {slowest:.1?}");
    poll::eventually(Duration::from_secs(12), "what is larger does so too", || {
        fs::metadata(cluster[1].path("medium")).is_ok_and(|file| file.len() == 2 << 20)
    });
    let whole = (0..LARGE).filter(|number| cluster[1].path(format!("footage/{number}")).exists());
    assert!(whole.count() < LARGE as usize, "the line was too fast for this story");
    cluster.assert_same_within(Duration::from_secs(90));
    assert!(cluster[1].path("moved/inside").exists());
}

/// A directory to be moved, one whose mode changed while a file comes into it,
/// and a file that is written where one is to come: none waits for the hours
/// that a file may take, and that file goes on where it was.
#[test]
fn what_waits_for_a_huge_file_does_not_wait_for_its_end() {
    const LARGE: u64 = 2;
    const BYTES: u64 = 40 << 20;
    let limit = Duration::from_secs(5);
    let mut cluster = Cluster::new(2);
    let relay = Relay::before(&mut cluster, 107).unwrap();
    relay.set(Weather { bytes_per_second: Some(4 << 20), ..Weather::default() });
    cluster.start();
    for name in ["folder", "footage"] {
        fs::create_dir(cluster[0].path(name)).unwrap();
        fs::write(cluster[0].path(name).join("inside"), "inside").unwrap();
    }
    cluster.assert_same();
    for number in 0..LARGE {
        let aside = cluster.dir().join(number.to_string());
        sample::random_file(&aside, BYTES, number).unwrap();
        fs::rename(&aside, cluster[0].path(format!("footage/{number}"))).unwrap();
    }
    let before = cluster[1].status().unwrap().traffic().received;
    let received = || cluster[1].status().unwrap().traffic().received - before;
    poll::eventually(limit, "the huge files are on their way", || received() > 6 << 20);

    fs::rename(cluster[0].path("folder"), cluster[0].path("moved")).unwrap();
    poll::eventually(limit, "a directory is moved", || cluster[1].path("moved/inside").exists());
    let mode = fs::Permissions::from_mode(0o710);
    fs::set_permissions(cluster[1].path("footage"), mode).unwrap();
    poll::eventually(limit, "a directory has another mode", || {
        let found = fs::metadata(cluster[0].path("footage")).unwrap();
        found.permissions().mode() & 0o777 == 0o710
    });
    fs::write(cluster[1].path("footage/0"), "written here meanwhile").unwrap();
    poll::eventually(limit, "what was written here meanwhile is there", || {
        fs::metadata(cluster[0].path("footage/0")).is_ok_and(|file| file.len() == 22)
    });

    assert!(!cluster[1].path("footage/1").exists(), "the line was too fast for this story");
    cluster.assert_same_within(Duration::from_secs(60));
    let (received, all) = (received(), LARGE * BYTES);
    println!("{} of {} MiB came", received >> 20, all >> 20);
    assert!(received < all + all / 4, "much came twice");
}

/// How long a small change takes from one node to another.
fn crosses(from: &Node, to: &Node, number: u8, limit: Duration) -> Duration {
    let name = format!("small-{number}");
    let begun = Instant::now();
    fs::write(from.path(&name), vec![number; 5000]).unwrap();
    poll::eventually(limit, "a small change crosses", || {
        fs::read(to.path(&name)).is_ok_and(|bytes| bytes.len() == 5000)
    });
    begun.elapsed()
}

/// What arrived before a line was cut does not go again.
#[test]
fn a_file_cut_off_in_the_middle_goes_on_where_it_was() {
    cut_off_in_the_middle(104, 0);
}

/// Nor where a beginning was there before, as of a file seen while it was
/// being written.
#[test]
fn an_append_cut_off_in_the_middle_goes_on_where_it_was() {
    cut_off_in_the_middle(105, 1 << 20);
}

/// Cuts the line while the end of a file crosses of which `there` bytes did
/// before.
fn cut_off_in_the_middle(seed: u64, there: u64) {
    const BYTES: u64 = 12 << 20;
    // Records, what is around the bytes in datagrams, and what was cut in two.
    const AGAIN_MAX: u64 = 1 << 20;
    let mut cluster = Cluster::new(2);
    let relay = Relay::before(&mut cluster, seed).unwrap();
    let line = Weather {
        delay: Duration::from_millis(5),
        bytes_per_second: Some(3 << 20),
        ..Weather::default()
    };
    relay.set(line);
    cluster.start();
    let outside = tempfile::tempdir().unwrap();
    let whole = outside.path().join("whole");
    sample::random_file(&whole, there + BYTES, 3).unwrap();
    let bytes = fs::read(&whole).unwrap();
    if there > 0 {
        fs::write(cluster[0].path("large"), &bytes[..there as usize]).unwrap();
    }
    cluster.assert_same();
    let received = || cluster[1].status().unwrap().traffic().received;
    let begun = received();
    let mut large =
        File::options().append(true).create(true).open(cluster[0].path("large")).unwrap();
    large.write_all(&bytes[there as usize..]).unwrap();
    drop(large);
    let mut before = 0;
    poll::eventually(Duration::from_secs(30), "half of it has arrived", || {
        before = received() - begun;
        before > BYTES / 2
    });
    relay.set(Weather::DARK);
    poll::eventually(RETURN_LIMIT, "the cut is noticed", || {
        // What was under way; a connection's counters go with it.
        before = before.max(received().saturating_sub(begun));
        cluster.nodes().iter().all(|node| node.status().unwrap().peers_connected() == 0)
    });
    let arrived = fs::metadata(cluster[1].path("large")).map_or(0, |large| large.len());
    // A beginning that was seen while it was being written may be there.
    assert!(arrived < there + BYTES, "it was not cut off in the middle");
    relay.set(line);
    cluster.assert_same_within(Duration::from_secs(40));
    let all = before + received();
    println!("{BYTES} bytes took {all}, {before} of them before the cut");
    assert!(all >= BYTES, "{all} bytes for {BYTES}: not all were counted");
    assert!(all < BYTES + AGAIN_MAX, "{all} bytes for {BYTES}: some came again");
}

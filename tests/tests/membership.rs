//! Who belongs to the cluster: joining by one address, names that change
//! their meaning, members that go and come back, large clusters.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use replicator_tests::network::{self, Network};
use replicator_tests::{Cluster, Node, machine, poll, sample, tree};
use serde_json::Value;

/// A joining node has met everybody.
const JOIN_LIMIT: Duration = Duration::from_secs(10);

/// A node that died is noticed: six seconds of silence on its connection.
const NOTICE_LIMIT: Duration = Duration::from_secs(10);

/// One that says goodbye is noticed at once.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// Members that are away are tried at least every few seconds.
const RETURN_LIMIT: Duration = Duration::from_secs(15);

/// A change passes from node to node along a chain.
const PASSED_ON_LIMIT: Duration = Duration::from_secs(10);

/// All nodes of a large cluster start at once, on one machine.
const LARGE_JOIN_LIMIT: Duration = Duration::from_secs(30);

/// A large file, fetched piece by piece.
const FILM_BYTES: u64 = 30 << 20;

/// What an edit of 4 KiB in it may cost a node: its leaf is 64 KiB.
const EDIT_BYTES_MAX: u64 = 256 << 10;

fn connected(node: &Node) -> usize {
    node.status().unwrap().peers_connected()
}

/// What a node says of another one.
fn state_of(node: &Node, name: &str) -> String {
    let status = node.status().unwrap();
    let peer = status.peers().iter().find(|peer| peer["name"] == name);
    peer.map(|peer| peer["state"].as_str().unwrap().to_owned()).unwrap_or_default()
}

/// Writes with a time of its own: who is later decides who wins.
fn write_at(path: &Path, content: &str, seconds: u64) {
    fs::write(path, content).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000 + seconds);
    File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// What this node keeps of a file that lost against another.
fn kept(node: &Node, path: &str) -> Option<String> {
    let conflicts = node.conflicts().unwrap();
    let lost = conflicts.as_array().unwrap().iter().find(|lost| lost["path"] == path)?;
    let to = node.state().join("restored");
    let words = ["conflicts", "restore", lost["id"].as_str()?, "--to", to.to_str()?];
    assert_eq!(node.command(&words).unwrap().code, 0);
    let content = fs::read_to_string(&to).unwrap();
    fs::remove_file(&to).unwrap();
    Some(content)
}

/// Changes on every node reach all of them.
#[track_caller]
fn all_hear_each_other(cluster: &Cluster, round: &str) {
    for node in cluster.nodes() {
        fs::write(node.path(format!("{round}-by-{}", node.name())), round).unwrap();
    }
    cluster.assert_same();
    for node in cluster.nodes() {
        for other in cluster.nodes() {
            let name = format!("{round}-by-{}", other.name());
            assert!(node.path(&name).exists(), "{} lacks {name}", node.name());
        }
    }
}

#[test]
fn one_address_of_any_member_is_enough() {
    let mut cluster = Cluster::chain(3);
    cluster.start();
    for number in 0..20 {
        fs::write(cluster[0].path(format!("equal-{number}")), "the same").unwrap();
    }
    write_at(&cluster[0].path("later-there"), "of the cluster", 2);
    write_at(&cluster[0].path("later-here"), "of the cluster", 1);
    cluster.assert_same();

    // The fourth comes with a full folder.
    let known = cluster[1].settings.port;
    cluster.add_stranger();
    cluster[3].settings.peers = vec![known];
    for number in 0..20 {
        fs::write(cluster[3].path(format!("equal-{number}")), "the same").unwrap();
        fs::write(cluster[3].path(format!("own-{number}")), "brought along").unwrap();
    }
    write_at(&cluster[3].path("later-there"), "of the fourth", 1);
    write_at(&cluster[3].path("later-here"), "of the fourth", 2);
    cluster[3].start().unwrap();
    poll::eventually(JOIN_LIMIT, "everybody is connected with everybody", || {
        cluster.nodes().iter().all(|node| connected(node) == 3)
    });
    cluster.assert_same();
    for node in cluster.nodes() {
        let content = |name: &str| fs::read_to_string(node.path(name)).unwrap();
        assert_eq!(content("own-19"), "brought along", "on {}", node.name());
        assert_eq!(content("later-there"), "of the cluster", "on {}", node.name());
        assert_eq!(content("later-here"), "of the fourth", "on {}", node.name());
    }
    // What lost is kept where it was shown, and nothing else lost.
    let conflicts = cluster.nodes().iter().map(|node| node.status().unwrap().conflicts());
    assert_eq!(conflicts.collect::<Vec<_>>(), [1, 1, 1, 1]);
    assert_eq!(kept(&cluster[3], "later-there").as_deref(), Some("of the fourth"));
    assert_eq!(kept(&cluster[3], "later-here"), None);
    for node in &cluster.nodes()[..3] {
        assert_eq!(kept(node, "later-here").as_deref(), Some("of the cluster"), "{}", node.name());
    }
    let left = cluster.nodes().iter().map(|node| node.status().unwrap().conflicts());
    assert_eq!(left.collect::<Vec<_>>(), [0, 0, 0, 0], "they were restored");
    all_hear_each_other(&cluster, "joined");

    // The address it was given goes for good; the others stay its cluster,
    // after a restart as well.
    cluster[1].stop().unwrap();
    cluster[3].stop().unwrap();
    fs::write(cluster[0].path("meanwhile"), "news").unwrap();
    cluster[3].start().unwrap();
    poll::eventually(JOIN_LIMIT, "members once met are found again", || {
        connected(&cluster[3]) == 2 && cluster[3].path("meanwhile").exists()
    });
}

#[test]
fn a_node_that_ends_or_dies_is_noticed_and_returns_by_itself() {
    let mut cluster = Cluster::running(3);
    cluster.assert_same();
    cluster[2].stop().unwrap();
    let begun = Instant::now();
    poll::eventually(GOODBYE_LIMIT, "the others notice the goodbye", || {
        connected(&cluster[0]) == 1 && connected(&cluster[1]) == 1
    });
    println!("a goodbye was noticed after {:.2?}", begun.elapsed());
    cluster[2].start().unwrap();
    poll::eventually(RETURN_LIMIT, "it is back", || {
        cluster.nodes().iter().all(|node| connected(node) == 2)
    });

    cluster[2].kill9().unwrap();
    let begun = Instant::now();
    poll::eventually(NOTICE_LIMIT, "the others notice the death", || {
        connected(&cluster[0]) == 1 && connected(&cluster[1]) == 1
    });
    println!("a death was noticed after {:.2?}", begun.elapsed());
    poll::eventually(NOTICE_LIMIT, "their status says that it is down", || {
        (0..2).all(|node| state_of(&cluster[node], "c") == "down")
    });
    fs::write(cluster[0].path("meanwhile"), "news").unwrap();
    let begun = Instant::now();
    cluster[2].start().unwrap();
    poll::eventually(RETURN_LIMIT, "it is back and has the news", || {
        cluster[2].path("meanwhile").exists()
            && cluster.nodes().iter().all(|node| connected(node) == 2)
    });
    println!("a dead node was back after {:.2?}", begun.elapsed());
    cluster.assert_same();
}

#[test]
fn nine_nodes_on_a_chain_of_addresses_hear_every_change() {
    let mut cluster = Cluster::chain(9);
    cluster.start();
    poll::eventually(2 * JOIN_LIMIT, "everybody is connected with everybody", || {
        cluster.nodes().iter().all(|node| connected(node) == 8)
    });
    all_hear_each_other(&cluster, "nine");
}

/// More than are all connected with each other: each has eight of the other
/// nineteen for neighbours.
#[test]
fn twenty_nodes_know_each_other_beyond_their_neighbours() {
    const COUNT: usize = 20;
    let begun = Instant::now();
    let mut cluster = Cluster::strangers(COUNT).with_options(&["--capture", "inotify"]);
    let known = cluster[0].settings.port;
    for node in &mut cluster.nodes_mut()[1..] {
        node.settings.peers = vec![known];
    }
    for number in 0..10 {
        fs::write(cluster[0].path(format!("file-{number}")), "from the start").unwrap();
    }
    // All at once: none waits for another.
    cluster.nodes_mut().iter_mut().for_each(|node| node.spawn().unwrap());
    let all_up = |cluster: &Cluster, others: usize| {
        let up = |peer: &&Value| peer["membership"] == "up";
        let status = cluster.nodes().iter().map(|node| node.status().ok());
        status.flatten().filter(|status| status.peers().iter().filter(up).count() == others).count()
            == cluster.nodes().len()
    };
    poll::eventually(LARGE_JOIN_LIMIT, "everybody knows everybody", || all_up(&cluster, COUNT - 1));
    println!("all knew each other after {:.1?}", begun.elapsed());

    fs::write(cluster[7].path("news"), "of one").unwrap();
    poll::eventually(PASSED_ON_LIMIT, "a change on one reaches all", || {
        cluster.nodes().iter().all(|node| node.path("news").exists())
    });
    let neighbours = connected(&cluster[7]);
    assert!((4..COUNT - 1).contains(&neighbours), "{neighbours} neighbours");

    // Somebody without a connection to it hears of its end, and nobody is let
    // go who is alive.
    let stranger = (1..COUNT)
        .find(|node| state_of(&cluster[*node], cluster[7].name()) == "up, reached by others");
    let stranger = stranger.expect("all are its neighbours");
    let name = cluster[7].name().to_owned();
    let refused = cluster[stranger].leave(&["--node", &name]).unwrap();
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("is running, other nodes reach it"), "{refused:?}");
    cluster[7].kill9().unwrap();
    let killed = Instant::now();
    poll::eventually(2 * NOTICE_LIMIT, "it is missed by one that was no neighbour", || {
        state_of(&cluster[stranger], &name) == "down"
    });
    println!("its end was heard of after {:.1?}", killed.elapsed());

    cluster.add_stranger();
    cluster[COUNT].settings.options = cluster[0].settings.options.clone();
    cluster[COUNT].settings.peers = vec![cluster[stranger].settings.port];
    cluster[COUNT].start().unwrap();
    poll::eventually(JOIN_LIMIT, "a new one has everything", || {
        tree::differences(cluster[0].root(), cluster[COUNT].root()).unwrap().is_empty()
    });
    fs::write(cluster[COUNT].path("of-the-new-one"), "hello").unwrap();
    poll::eventually(PASSED_ON_LIMIT, "and tells all", || {
        let mut alive = cluster.nodes().iter().filter(|node| node.name() != name);
        alive.all(|node| node.path("of-the-new-one").exists())
    });
    println!("all of it took {:.1?}", begun.elapsed());
}

/// Two sites with a firewall between them: `left` may be reached from the
/// right through one host only.
#[test]
fn two_environments_meet_through_one_address_and_survive_its_loss() {
    if let Some(reason) = network::missing() {
        return machine::skip(reason);
    }
    let mut network = Network::new().unwrap();
    // Hosts 0, 1 and 2 are the left, 3 and 4 the right; 1 has a foot in the
    // other. Host 5 is the firewall between them, closed at first.
    for host in 0..6 {
        assert_eq!(network.add_host().unwrap(), host);
    }
    for host in 0..3 {
        network.plug(host, "left", &format!("10.1.0.{}/24", host + 1)).unwrap();
        if host != 1 {
            network.route(host, "10.2.0.0/24", "10.1.0.254").unwrap();
        }
    }
    network.plug(1, "right", "10.2.0.1/24").unwrap();
    for host in 3..5 {
        network.plug(host, "right", &format!("10.2.0.{}/24", host + 1)).unwrap();
        network.route(host, "10.1.0.0/24", "10.2.0.254").unwrap();
    }
    network.plug(5, "left", "10.1.0.254/24").unwrap();
    network.plug(5, "right", "10.2.0.254/24").unwrap();
    network.forward(5, false).unwrap();

    let mut cluster = Cluster::on_hosts(&network, 5);
    cluster.introduce(1, "10.1.0.1");
    cluster.introduce(2, "10.1.0.1");
    cluster.introduce(4, "10.2.0.4");
    cluster.start();
    fs::write(cluster[0].path("of-the-left"), "left").unwrap();
    fs::write(cluster[3].path("of-the-right"), "right").unwrap();
    poll::eventually(JOIN_LIMIT, "each environment is one", || {
        cluster[2].path("of-the-left").exists() && cluster[4].path("of-the-right").exists()
    });
    assert!(!cluster[4].path("of-the-left").exists(), "the environments are one already");

    // One node of the right is told the one address that can be reached.
    cluster[3].stop().unwrap();
    cluster.introduce(3, "10.2.0.1");
    cluster[3].start().unwrap();
    let count = cluster.nodes().len();
    poll::eventually(2 * JOIN_LIMIT, "the environments have become one", || {
        (0..count).all(|node| {
            cluster[node].path("of-the-left").exists()
                && cluster[node].path("of-the-right").exists()
        })
    });
    fs::write(cluster[0].path("through"), "the middle").unwrap();
    poll::eventually(PASSED_ON_LIMIT, "the node in the middle passes changes on", || {
        cluster[4].path("through").exists()
    });
    a_large_file_passes(&cluster, 0, 4);
    cluster.assert_same();

    // Without it they are apart until the firewall opens; then the addresses
    // they have announced to each other are enough.
    cluster[1].kill9().unwrap();
    fs::write(cluster[0].path("apart-left"), "left").unwrap();
    fs::write(cluster[4].path("apart-right"), "right").unwrap();
    poll::eventually(JOIN_LIMIT, "each side goes on for itself", || {
        cluster[2].path("apart-left").exists() && cluster[3].path("apart-right").exists()
    });
    assert!(!cluster[4].path("apart-left").exists(), "the firewall is no firewall");
    network.forward(5, true).unwrap();
    let begun = Instant::now();
    poll::eventually(2 * RETURN_LIMIT, "others take over", || {
        [2, 3, 4].iter().all(|&node| cluster[node].path("apart-left").exists())
            && [0, 2, 3].iter().all(|&node| cluster[node].path("apart-right").exists())
    });
    println!("others took over {:.1?} after the firewall opened", begun.elapsed());
    cluster[1].start().unwrap();
    cluster.assert_same();
}

/// A film, what is done to it, and its end, between two nodes that have no
/// connection with each other.
fn a_large_file_passes(cluster: &Cluster, here: usize, there: usize) {
    let (here, there) = (&cluster[here], &cluster[there]);
    let shows_the_same = |name: &str| {
        let size = |node: &Node| fs::metadata(node.path(name)).ok().map(|found| found.len());
        let same = || fs::read(here.path(name)).unwrap() == fs::read(there.path(name)).unwrap();
        size(here).is_some() && size(here) == size(there) && same()
    };
    fs::create_dir(here.path("raw")).unwrap();
    sample::random_file(&here.path("raw/film"), FILM_BYTES, 1).unwrap();
    poll::eventually(2 * PASSED_ON_LIMIT, "the film comes through", || shows_the_same("raw/film"));

    // It may serve the film to others when it has all of it itself.
    cluster.assert_same();
    let before = there.status().unwrap().traffic();
    let film = File::options().write(true).open(here.path("raw/film")).unwrap();
    film.write_all_at(&[7; 4096], FILM_BYTES / 2 + 4096).unwrap();
    drop(film);
    poll::eventually(PASSED_ON_LIMIT, "the edit comes through", || shows_the_same("raw/film"));
    let cost = there.status().unwrap().traffic().since(before);
    println!("an edit of 4 KiB in {} MiB cost its last reader {cost} bytes", FILM_BYTES >> 20);
    assert!(cost < EDIT_BYTES_MAX, "{cost} bytes for an edit of 4 KiB");

    fs::rename(here.path("raw"), here.path("cut")).unwrap();
    poll::eventually(PASSED_ON_LIMIT, "the rename comes through", || {
        shows_the_same("cut/film") && !there.path("raw").exists()
    });
    // And back.
    fs::remove_file(there.path("cut/film")).unwrap();
    poll::eventually(PASSED_ON_LIMIT, "the deletion comes through", || {
        !here.path("cut/film").exists()
    });
    assert!(here.path("cut").exists());
}

/// A service whose name means other addresses from time to time.
#[test]
fn a_name_is_asked_again_when_its_addresses_change() {
    if let Some(reason) = network::missing() {
        return machine::skip(reason);
    }
    let network = Network::of_equals(3).unwrap();
    // Two addresses, at neither of which anybody is.
    let (mut cluster, hosts) = fleet(&network, "10.77.0.50 fleet\n10.77.0.51 fleet\n");
    cluster.start();
    assert_eq!(connected(&cluster[2]), 0);
    // Rewritten in place: the node sees this very file.
    fs::write(&hosts, "10.77.0.50 fleet\n10.77.0.2 fleet\n10.77.0.3 fleet\n").unwrap();
    let begun = Instant::now();
    poll::eventually(RETURN_LIMIT, "the name's new meaning is noticed", || {
        cluster[2].path("of-the-fleet").exists()
    });
    println!("the new address was found after {:.1?}", begun.elapsed());
    poll::eventually(JOIN_LIMIT, "everybody is connected with everybody", || {
        cluster.nodes().iter().all(|node| connected(node) == 2)
    });
    cluster.assert_same();
}

/// As the name of a service of which nothing is ready yet.
#[test]
fn a_name_that_means_nothing_yet_is_asked_again() {
    if let Some(reason) = network::missing() {
        return machine::skip(reason);
    }
    let network = Network::of_equals(3).unwrap();
    let (mut cluster, hosts) = fleet(&network, "127.0.0.1 localhost\n");
    fs::write(cluster[2].path("brought-along"), "alone").unwrap();
    cluster.start();
    poll::eventually(JOIN_LIMIT, "it says that the name means nothing", || {
        let status = cluster[2].status().unwrap();
        let [peer] = status.peers() else { return false };
        let why = peer["last_error"].as_str().unwrap_or_default();
        peer["address"] == "fleet:7400" && why.contains("the name cannot be resolved")
    });
    assert_eq!(connected(&cluster[2]), 0);
    fs::write(&hosts, "10.77.0.50 fleet\n10.77.0.1 fleet\n10.77.0.2 fleet\n").unwrap();
    let begun = Instant::now();
    poll::eventually(RETURN_LIMIT, "the name's first meaning is noticed", || {
        cluster[2].path("of-the-fleet").exists()
    });
    println!("the first address was found after {:.1?}", begun.elapsed());
    poll::eventually(JOIN_LIMIT, "everybody is connected with everybody", || {
        cluster.nodes().iter().all(|node| connected(node) == 2)
    });
    cluster.assert_same();
    assert_eq!(fs::read_to_string(cluster[0].path("brought-along")).unwrap(), "alone");
}

/// Two nodes, and a third that is told of them by a name, with what that means.
fn fleet(network: &Network, meaning: &str) -> (Cluster, PathBuf) {
    let mut cluster = Cluster::on_hosts(network, 3);
    let hosts = cluster.dir().join("hosts");
    fs::write(&hosts, meaning).unwrap();
    let words = with_hosts(&hosts);
    cluster[2].settings.prefix.extend(words.into_iter().map(Into::into));
    cluster.introduce(2, "fleet");
    cluster.introduce(1, "10.77.0.1");
    fs::write(cluster[0].path("of-the-fleet"), "fleet").unwrap();
    (cluster, hosts)
}

/// The words before a command that is to read this file as `/etc/hosts`, and
/// ask nobody else for names.
fn with_hosts(hosts: &Path) -> Vec<String> {
    let switch = hosts.with_file_name("nsswitch.conf");
    fs::write(&switch, "hosts: files\n").unwrap();
    let bind = |file: &Path, place: &str| format!("mount --bind '{}' {place}", file.display());
    let (hosts, switch) = (bind(hosts, "/etc/hosts"), bind(&switch, "/etc/nsswitch.conf"));
    let script = format!("{hosts} && {switch} && exec \"$@\"");
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(String::from).to_vec()
}

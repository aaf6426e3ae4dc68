//! A directory is moved and another made in its place, which is filled before
//! anybody looks.
//!
//! The file in the new directory is met while the index still takes the place
//! for the old one, and goes with that in the index when the move is noticed;
//! and the new directory is met by a look that does not list it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::alone::Alone;
use super::path;
use crate::hash::Digest;
use crate::path::RelPath;

#[test]
fn a_file_in_a_new_directory_stays_where_the_old_one_was() {
    let mut node = Alone::new();
    let mut dead = BTreeSet::new();
    node.disk.make_entry(&path("top"), crate::entry::Kind::Directory, b"");
    node.disk.write(&path("top/old"), b"old", &mut dead);
    node.core.scan(RelPath::root());
    node.rest();

    // The look at the end of a scan is under way for long.
    let listed = node.disk.list(&path("top"));
    node.core.scan(path("top"));
    node.core.handle_listed(node.clock(), &path("top"), listed);
    node.core.handle_scanned(node.clock(), &path("top"));
    let slow = node.looks();
    assert_eq!(slow.len(), 1);

    let mut told = node.disk.rename(&path("top"), &path("moved"), &mut dead);
    told.extend(node.disk.make_entry(&path("top"), crate::entry::Kind::Directory, b""));
    told.extend(node.disk.write(&path("top/new"), b"new", &mut dead));
    node.tell(told);
    node.now += Duration::from_millis(5);
    node.core.handle_timeout(node.clock());
    let mut looks = node.looks();
    // The file first, then the moved directory, then the slow look.
    looks.sort_by(|one, other| other.path.cmp(&one.path));
    for look in looks.iter().chain(&slow) {
        let sight = node.disk.look(look, true);
        node.core.handle_sights(node.clock(), vec![sight]);
    }
    node.rest();
    assert_eq!(node.indexed(&path("top/new")), Some(Digest::of(b"new")));
    assert_eq!(node.indexed(&path("moved/old")), Some(Digest::of(b"old")));
    assert_eq!(node.indexed(&path("moved/new")), None);
}

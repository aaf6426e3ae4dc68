//! What an entry bears beside its name and bytes.

use super::*;
use crate::entry::Xattr;

#[test]
fn metadata_is_made_equal_with_attributes_removed() {
    let mut folder = Folder::new();
    folder.write("f", b"x");
    rustix::fs::setxattr(folder.at("f"), "user.old", b"1", rustix::fs::XattrFlags::CREATE).unwrap();
    // An ACL: owner rw-, user 1 r--, group r--, mask r--, other ---.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 4, 1),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let wanted = Metadata {
        xattrs: vec![
            Xattr { name: b"system.posix_acl_access".to_vec(), value: acl },
            Xattr { name: b"user.new".to_vec(), value: b"2".to_vec() },
        ],
        ..metadata()
    };
    let set = |expect, metadata: &Metadata| Step::SetMetadata {
        path: rel("f"),
        expect,
        metadata: metadata.clone(),
    };
    let expect = folder.expect("f");
    let stat = done(folder.run(set(expect, &wanted)));
    assert_eq!(stat.metadata, wanted);
    assert_eq!(stat, folder.stat("f"));
    let plain = done(folder.run(set(Expect::from(&stat), &metadata())));
    assert_eq!(plain.metadata, metadata());
    let hostile = Metadata { mtime: Timestamp { seconds: 0, nanos: u32::MAX }, ..metadata() };
    let refused = folder.run(set(Expect::from(&plain), &hostile));
    assert!(matches!(refused, Outcome::Failed(_)), "{refused:?}");
}

#[test]
fn foreign_attributes_of_a_peer_are_not_set() {
    let mut folder = Folder::new();
    let xattrs = vec![Xattr { name: b"trusted.overlay.opaque".to_vec(), value: b"y".to_vec() }];
    let path = rel("d");
    let step =
        Step::MakeDirectory { path, metadata: Metadata { xattrs, ..metadata() }, over: None };
    done(folder.run(step));
    let mut names = [0; 256];
    let length = rustix::fs::listxattr(folder.at("d"), &mut names).unwrap();
    assert_eq!(length, 0, "{}", names[..length].escape_ascii());
}

/// ext4 gives the number of a directory that was removed to the next one.
#[test]
fn another_directory_with_the_same_number_is_not_touched() {
    let mut folder = Folder::new();
    std::fs::create_dir(folder.at("d")).unwrap();
    let mut expect = folder.expect("d");
    expect.fingerprint.birth.seconds -= 1;
    let step = Step::SetMetadata { path: rel("d"), expect, metadata: of_directory() };
    raced(folder.run(step));
    let remove = Step::Remove { path: rel("d"), expect, keep: Keep::Discard };
    raced(folder.run(remove));
    assert!(folder.at("d").is_dir());
}

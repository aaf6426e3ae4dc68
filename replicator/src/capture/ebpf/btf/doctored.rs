//! What a kernel says of itself, and what one would that lacks a part.

use std::path::Path;

/// What the running kernel says of itself, where it does.
pub fn running_kernel() -> Option<Vec<u8>> {
    let path = Path::new("/sys/kernel/btf/vmlinux");
    let blob = std::fs::read(path).ok();
    if blob.is_none() {
        crate::capture::tests::skip("this kernel has no type description");
    }
    blob
}

/// The same, with whatever has this name called something else.
pub fn without(mut blob: Vec<u8>, name: &str) -> Vec<u8> {
    let text = format!("\0{name}\0");
    let places: Vec<usize> = blob
        .windows(text.len())
        .enumerate()
        .filter(|(_, part)| *part == text.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "the running kernel lacks {name} anyhow");
    for at in places {
        blob[at + 1] = b'~';
    }
    blob
}

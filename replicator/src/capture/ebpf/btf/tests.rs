//! Descriptions made by hand, broken ones, and that of the running kernel.

use super::*;
use proptest::prelude::*;

/// `struct outer { int a; struct { int b; typedef_of_inner c; }; }` with
/// `struct inner { int pad; int d; }`, an enumeration with `PG_head`, and
/// `int work(int, const struct outer *)`.
fn golden() -> Vec<u8> {
    let strings = b"\0outer\0a\0b\0c\0inner\0pad\0d\0PG_head\0alias\0work\0";
    let name = |text: &str| {
        let text = format!("\0{text}\0");
        let at = strings.windows(text.len()).position(|window| window == text.as_bytes());
        at.unwrap() as u32 + 1
    };
    let structure = |count: u32| KIND_STRUCT << 24 | count;
    let words: Vec<u32> = [
        // 1: int
        vec![0, 1 << 24, 4, 32],
        // 2: inner
        vec![name("inner"), structure(2), 8, name("pad"), 1, 0, name("d"), 1, 32],
        // 3: typedef of inner
        vec![name("alias"), 8 << 24, 2],
        // 4: anonymous
        vec![0, structure(2), 12, name("b"), 1, 0, name("c"), 3, 32],
        // 5: outer
        vec![name("outer"), structure(2), 16, name("a"), 1, 0, 0, 4, 32],
        // 6: enumeration
        vec![0, KIND_ENUM << 24 | 1, 4, name("PG_head"), 6],
        // 7: const outer, 8: pointer to it
        vec![0, 10 << 24, 5, 0, KIND_POINTER << 24, 7],
        // 9: prototype
        vec![0, KIND_PROTOTYPE << 24 | 2, 1, 0, 1, 0, 8],
        // 10: function
        vec![name("work"), KIND_FUNCTION << 24, 9],
    ]
    .concat();
    blob(words, strings)
}

fn blob(words: Vec<u32>, strings: &[u8]) -> Vec<u8> {
    let types = (words.len() * 4) as u32;
    let mut blob = MAGIC.to_ne_bytes().to_vec();
    blob.extend([1, 0]);
    for word in [24, 0, types, types, strings.len() as u32].into_iter().chain(words) {
        blob.extend(word.to_ne_bytes());
    }
    blob.extend(strings);
    blob
}

impl Btf<'_> {
    /// Where a string lies among the strings.
    fn strings_named(&self, text: &str) -> u32 {
        let text = format!("\0{text}\0");
        let strings = &self.blob[self.strings.clone()];
        let at = strings.windows(text.len()).position(|part| part == text.as_bytes());
        at.unwrap() as u32 + 1
    }
}

#[test]
fn members_of_anonymous_members_are_the_structure_s_own() {
    let btf = Btf::parse(golden(), None).unwrap();
    assert_eq!(btf.offset("outer", "a").unwrap(), 0);
    assert_eq!(btf.offset("outer", "b").unwrap(), 4);
    assert_eq!(btf.offset("outer", "c.d").unwrap(), 12);
    assert_eq!(btf.enumerator("PG_head").unwrap(), 6);
}

#[test]
fn what_lacks_is_called_by_its_name() {
    let btf = Btf::parse(golden(), None).unwrap();
    for (structure, member) in [("outer", "z"), ("other", "a"), ("outer", "a.b")] {
        let error = btf.offset(structure, member).unwrap_err().to_string();
        assert!(error.ends_with(&format!("lacks {structure}.{member}")), "{error}");
    }
}

#[test]
fn functions_are_known_by_name_and_parameters() {
    let btf = Btf::parse(golden(), None).unwrap();
    for takes in [&["", "outer"][..], &[""], &[]] {
        assert_eq!(btf.function("work", takes).unwrap(), 10);
    }
    for takes in [&["outer"][..], &["", "inner"], &["", "outer", ""]] {
        let error = btf.function("work", takes).unwrap_err().to_string();
        assert!(error.ends_with("lacks work with the known parameters"), "{error}");
    }
    let error = btf.function("play", &[]).unwrap_err().to_string();
    assert!(error.ends_with("lacks the function play"), "{error}");
}

#[test]
fn a_module_s_description_continues_that_of_the_kernel() {
    let base = Btf::parse(golden(), None).unwrap();
    // 11: pointer to the kernel's outer, 12: prototype, 13: function with
    // the kernel's name for it, as modules have it.
    let name = base.strings_named("work");
    let words = [0, KIND_POINTER << 24, 5]
        .into_iter()
        .chain([0, KIND_PROTOTYPE << 24 | 1, 0, 0, 11])
        .chain([name, KIND_FUNCTION << 24, 12]);
    let module = Btf::parse(blob(words.collect(), b"\0"), Some(&base)).unwrap();
    assert_eq!(module.function("work", &["outer"]).unwrap(), 13);
    assert_eq!(module.offset("outer", "b").unwrap(), 4);
    assert!(module.function("work", &["inner"]).is_err());
}

#[test]
fn the_running_kernel_can_be_read() {
    let Some(blob) = doctored::running_kernel() else { return };
    let btf = Btf::parse(blob, None).unwrap();
    assert!(btf.offset("inode", "i_ino").unwrap() > 0);
    assert_eq!(btf.offset("inode", "i_mode").unwrap(), 0);
    assert!(btf.enumerator("PG_head").unwrap() < 64);
    assert!(btf.function("vfs_fallocate", &["file"]).unwrap() > 0);
}

#[test]
fn a_cut_blob_is_an_error() {
    let blob = golden();
    for end in 0..blob.len() {
        assert!(Btf::parse(blob[..end].to_vec(), None).is_err(), "cut at {end}");
    }
}

proptest! {
    #[test]
    fn damage_never_panics(at in 0usize..400, byte: u8, garbage in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut blob = golden();
        let at = at % blob.len();
        blob[at] = byte;
        for blob in [blob, garbage] {
            if let Ok(btf) = Btf::parse(blob, None) {
                for member in ["a", "b", "c.d", "z"] {
                    let _ = btf.offset("outer", member);
                }
                let _ = btf.function("work", &["", "outer"]);
            }
        }
    }
}

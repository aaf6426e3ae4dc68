//! Reads the bytes that `read` on a fanotify descriptor returns.
//!
//! Owns the layout of `fanotify_event_metadata` and its information records,
//! and nothing else: no system call, no allocation. Bytes that do not fit the
//! layout end the walk with [`Malformed`]; they never panic.

/// `fanotify_event_metadata`, in bytes.
pub const METADATA_BYTES: usize = 24;
const METADATA_VERSION: u8 = 3;
const RECORD_HEADER_BYTES: usize = 4;
const FSID_BYTES: usize = 8;
/// `handle_bytes` and `handle_type` of a `struct file_handle`.
const HANDLE_HEADER_BYTES: usize = 8;
/// `MAX_HANDLE_SZ` of the kernel.
const HANDLE_BYTES_MAX: usize = 128;

const RECORD_FID: u8 = 1;
const RECORD_DFID_NAME: u8 = 2;
const RECORD_DFID: u8 = 3;
const RECORD_OLD_DFID_NAME: u8 = 10;
const RECORD_NEW_DFID_NAME: u8 = 12;

/// What happened to one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// `FAN_*` bits.
    pub mask: u64,
    /// The process that caused it.
    pub pid: i32,
    /// Where the object is, for a rename where it went.
    pub place: Option<Place<'a>>,
    /// Where a renamed object was.
    pub old_place: Option<Place<'a>>,
    /// The object itself.
    pub object: Option<Handle<'a>>,
}

/// A name in a directory; the name is empty or `.` where the directory itself
/// is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    pub directory: Handle<'a>,
    pub name: &'a [u8],
}

/// A `struct file_handle` as the kernel wrote it, header included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle<'a>(&'a [u8]);

impl<'a> Handle<'a> {
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// The bytes are not what a kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The events in what one `read` returned. After a [`Malformed`] nothing
/// follows.
pub fn events(buffer: &[u8]) -> impl Iterator<Item = Result<Event<'_>, Malformed>> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        Some(match split_event(rest) {
            Ok((event, after)) => {
                rest = after;
                Ok(event)
            }
            Err(malformed) => {
                rest = &[];
                Err(malformed)
            }
        })
    })
}

fn split_event(bytes: &[u8]) -> Result<(Event<'_>, &[u8]), Malformed> {
    let event_bytes = u32_at(bytes, 0)? as usize;
    let metadata_bytes = usize::from(u16_at(bytes, 6)?);
    let fits = metadata_bytes >= METADATA_BYTES
        && event_bytes >= metadata_bytes
        && event_bytes <= bytes.len();
    if !fits || bytes[4] != METADATA_VERSION {
        return Err(Malformed);
    }
    let mut event = Event {
        mask: u64_at(bytes, 8)?,
        pid: u32_at(bytes, 20)? as i32,
        place: None,
        old_place: None,
        object: None,
    };
    let mut records = &bytes[metadata_bytes..event_bytes];
    while !records.is_empty() {
        records = read_record(records, &mut event)?;
    }
    Ok((event, &bytes[event_bytes..]))
}

/// Puts the first record into the event; gives the bytes behind it.
fn read_record<'a>(bytes: &'a [u8], event: &mut Event<'a>) -> Result<&'a [u8], Malformed> {
    let length = usize::from(u16_at(bytes, 2)?);
    if length < RECORD_HEADER_BYTES || length > bytes.len() {
        return Err(Malformed);
    }
    let (record, rest) = bytes.split_at(length);
    match record[0] {
        RECORD_FID => event.object = Some(split_handle(record)?.0),
        RECORD_DFID | RECORD_DFID_NAME | RECORD_NEW_DFID_NAME => {
            event.place = Some(place(record)?);
        }
        RECORD_OLD_DFID_NAME => event.old_place = Some(place(record)?),
        // A kernel newer than this program may say more than was asked for.
        _ => {}
    }
    Ok(rest)
}

fn place(record: &[u8]) -> Result<Place<'_>, Malformed> {
    let (directory, tail) = split_handle(record)?;
    let end = tail.iter().position(|&byte| byte == 0).unwrap_or(tail.len());
    Ok(Place { directory, name: &tail[..end] })
}

fn split_handle(record: &[u8]) -> Result<(Handle<'_>, &[u8]), Malformed> {
    let start = RECORD_HEADER_BYTES + FSID_BYTES;
    let handle_bytes = u32_at(record, start)? as usize;
    let end = start + HANDLE_HEADER_BYTES + handle_bytes.min(HANDLE_BYTES_MAX + 1);
    if handle_bytes > HANDLE_BYTES_MAX || end > record.len() {
        return Err(Malformed);
    }
    Ok((Handle(&record[start..end]), &record[end..]))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    bytes.get(at..at + N).and_then(|found| found.try_into().ok()).ok_or(Malformed)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Malformed> {
    array_at(bytes, at).map(u64::from_ne_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A rename of `old` to `new` by process 77, as Linux 6.18 writes it on
    /// ext4: eight-byte handles of type 1.
    fn golden_rename() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, inode, name) in [
            (RECORD_OLD_DFID_NAME, 12u32, &b"old\0"[..]),
            (RECORD_NEW_DFID_NAME, 13, b"new\0"),
            (RECORD_FID, 14, b""),
        ] {
            let length =
                (RECORD_HEADER_BYTES + FSID_BYTES + HANDLE_HEADER_BYTES + 8 + name.len()) as u16;
            bytes.extend([kind, 0]);
            bytes.extend(length.to_ne_bytes());
            bytes.extend([0xaa; FSID_BYTES]);
            bytes.extend(8u32.to_ne_bytes());
            bytes.extend(1u32.to_ne_bytes());
            bytes.extend(inode.to_ne_bytes());
            bytes.extend(99u32.to_ne_bytes());
            bytes.extend(name);
        }
        let mut event = ((METADATA_BYTES + bytes.len()) as u32).to_ne_bytes().to_vec();
        event.extend([METADATA_VERSION, 0]);
        event.extend((METADATA_BYTES as u16).to_ne_bytes());
        event.extend(0x1000_0000u64.to_ne_bytes());
        event.extend((-1i32).to_ne_bytes());
        event.extend(77i32.to_ne_bytes());
        event.extend(bytes);
        event
    }

    /// As Linux 6.18 writes it where the queue was full: nothing but the head.
    pub fn overflow() -> Vec<u8> {
        let mut event = (METADATA_BYTES as u32).to_ne_bytes().to_vec();
        event.extend([METADATA_VERSION, 0]);
        event.extend((METADATA_BYTES as u16).to_ne_bytes());
        event.extend(libc::FAN_Q_OVERFLOW.to_ne_bytes());
        event.extend((-1i32).to_ne_bytes());
        event.extend(0i32.to_ne_bytes());
        event
    }

    #[test]
    fn an_overflow_carries_nothing_else() {
        let bytes = overflow();
        let event = events(&bytes).next().unwrap().unwrap();
        assert_eq!((event.mask, event.pid), (libc::FAN_Q_OVERFLOW, 0));
        assert_eq!((event.place, event.old_place, event.object), (None, None, None));
    }

    #[test]
    fn a_rename_carries_both_places_and_the_object() {
        let bytes = golden_rename().repeat(2);
        let read: Vec<_> = events(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(read.len(), 2);
        let event = read[0];
        assert_eq!((event.mask, event.pid), (0x1000_0000, 77));
        assert_eq!(event.old_place.unwrap().name, b"old");
        assert_eq!(event.place.unwrap().name, b"new");
        assert_eq!(event.place.unwrap().directory.as_bytes()[8], 13);
        assert_eq!(event.object.unwrap().as_bytes().len(), 16);
    }

    #[test]
    fn a_cut_event_is_refused_not_guessed() {
        let bytes = golden_rename();
        for end in 1..bytes.len() {
            let read: Vec<_> = events(&bytes[..end]).collect();
            assert_eq!(read, [Err(Malformed)], "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            garbage in prop::collection::vec(any::<u8>(), 0..300),
            at in 0usize..100,
            byte: u8,
        ) {
            events(&garbage).for_each(drop);
            let mut damaged = golden_rename();
            damaged[at] = byte;
            events(&damaged).for_each(drop);
        }
    }
}

//! The answering side of a fetch.
//!
//! A version is served only while the file on the disk is the one the index
//! speaks of; a change in the middle is noticed by the asking side, whose
//! digest does not come out. Of a large file parts are served as they lie
//! there also while it is written to, for it may never be quiet: the asking
//! side knows each leaf by its hash, and asks for the rest as it becomes known.
//! Back-pressure is the stream's: nothing is read that the peer does not take.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::arrivals::{Arrivals, Arriving};
use super::pieces::to_bitmap;
use crate::engine::Engine;
use crate::entry::Fingerprint;
use crate::hash::Leaves;
use crate::limits::{PATCH_IN_PLACE_BYTES_MAX, WHOLE_BYTES_MAX};
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::root::{Access, Root};
use crate::sync::message::{Delta, FetchItem, ItemStatus, Part, Patch};
use crate::sync::store::Store;
use crate::sync::{Core, Located};
use crate::transport::Reply;
use crate::writes::{Writes, copied};

/// Small files are gathered into answers of about this size.
const GATHER_BYTES: usize = 1 << 20;

/// What one read of a large file takes.
const READ_BYTES: u64 = 512 << 10;

/// Reads ahead of the peer, so that disk and network overlap.
const READS_AHEAD: usize = 3;

/// What this node has of a version.
pub(super) enum Holding {
    /// What differs from the version asked about, with its bytes.
    Change(Patch),
    /// All of it, in memory.
    Kept(Writes),
    /// It lies in the tree; with what differs from the version asked about.
    Placed(Located, Option<Delta>),
    /// It lay here a while ago: this is what became of it since.
    Former(Located),
    /// Some of it has arrived.
    Arriving(Arc<Arriving>),
}

/// A file that is not what the index said it was when a peer asked for it.
pub(super) struct Stale {
    pub path: RelPath,
    pub known: Fingerprint,
}

/// One item of a request, with what there is of it.
pub(super) type Found = (FetchItem, Option<Holding>);

/// What there is here of what a peer asks for.
pub(super) fn find<S: Store>(core: &Core<S>, arrivals: &Arrivals, item: FetchItem) -> Found {
    let located = core.locate(item.body, item.digest);
    // What is on the disk, unless that is known to have changed since.
    let is_there = located.as_ref().is_some_and(|there| !core.is_told(&there.path, item.body));
    let kept = match item.part {
        _ if is_there => None,
        Part::Since(from) => core.kept_since(item.body, from, item.digest).map(Holding::Change),
        Part::Held => None,
        Part::Whole | Part::Ranges(_) | Part::Leaves => {
            core.kept_whole(item.body, item.digest, item.size).map(Holding::Kept)
        }
    };
    let holding = kept.or_else(|| {
        let Some(located) = located else {
            let arriving = arrivals.find(item.body, item.digest).map(Holding::Arriving);
            let former = || core.locate_former(item.body, item.digest).map(Holding::Former);
            return arriving.or_else(former);
        };
        let delta = match item.part {
            Part::Since(from) => core.changed_since(item.body, from, item.digest),
            _ => None,
        };
        Some(Holding::Placed(located, delta))
    });
    (item, holding)
}

/// Answers a request. An answer that breaks off is noticed by the other side.
/// Gives the files that are not what the index says: an event was missed, or
/// has not been looked at.
pub(super) async fn answer(
    root: Arc<Root>,
    engine: Engine,
    items: Vec<Found>,
    mut reply: Reply,
) -> Vec<Stale> {
    let mut stale = Vec::new();
    let mut is_whole = true;
    let mut items = items.into_iter().peekable();
    while let Some(first) = items.next() {
        let sent = if is_small(&first.0) {
            let mut bytes = first.0.size as usize;
            let mut together = vec![first];
            while let Some(next) = items.next_if(|next| is_small(&next.0) && bytes < GATHER_BYTES) {
                bytes += next.0.size as usize;
                together.push(next);
            }
            let root = Arc::clone(&root);
            let gathered = tokio::task::spawn_blocking(move || gather(&root, &together)).await;
            match gathered {
                Ok((bytes, gone)) => {
                    stale.extend(gone);
                    reply.send(bytes).await.is_ok()
                }
                Err(_) => false,
            }
        } else {
            stream(&root, &engine, first, &mut reply, &mut stale).await.is_some()
        };
        if !sent {
            is_whole = false;
            break;
        }
    }
    if is_whole {
        reply.finish();
    }
    stale
}

fn is_small(item: &FetchItem) -> bool {
    item.size <= WHOLE_BYTES_MAX / 8 && item.part == Part::Whole
}

/// Small files, each behind its first byte, and those that are not what they
/// are said to be.
fn gather(root: &Root, items: &[Found]) -> (Bytes, Vec<Stale>) {
    let (mut answer, mut stale) = (BytesMut::new(), Vec::new());
    for (item, holding) in items {
        let start = answer.len();
        answer.put_u8(ItemStatus::Held as u8);
        let held = match holding {
            Some(Holding::Placed(located, _)) => read_small(root, item, located, &mut answer),
            Some(Holding::Kept(writes)) => {
                writes.iter().for_each(|(_, bytes)| answer.put_slice(bytes));
                Some(())
            }
            _ => None,
        };
        if held.is_none() {
            let path = placed_at(holding.as_ref());
            answer.truncate(start);
            answer.put_u8(without(path.as_ref()) as u8);
            stale.extend(path);
        }
    }
    (answer.freeze(), stale)
}

fn placed_at(holding: Option<&Holding>) -> Option<Stale> {
    let (Holding::Placed(located, _) | Holding::Former(located)) = holding? else { return None };
    Some(Stale { path: located.path.clone(), known: located.fingerprint })
}

/// How an item is answered whose bytes cannot be had.
fn without(stale: Option<&Stale>) -> ItemStatus {
    match stale {
        Some(_) => ItemStatus::Changing,
        None => ItemStatus::NotHeld,
    }
}

fn read_small(
    root: &Root,
    item: &FetchItem,
    located: &Located,
    answer: &mut BytesMut,
) -> Option<()> {
    let file = root.open_file(&located.path, Access::Read).ok()??;
    let size = item.size as usize;
    let start = answer.len();
    answer.resize(start + size, 0);
    let mut done = 0;
    while done < size {
        let place = &mut answer[start + done..];
        let read =
            rustix::io::retry_on_intr(|| rustix::io::pread(file.as_fd(), &mut *place, done as u64));
        match read {
            Ok(0) | Err(_) => return None,
            Ok(read) => done += read,
        }
    }
    let stat = rustix::fs::fstat(&file).ok()?;
    let Fingerprint { inode, mtime, .. } = located.fingerprint;
    let same = stat.st_ino == inode
        && stat.st_size as u64 == item.size
        && (stat.st_mtime, stat.st_mtime_nsec) == (mtime.seconds, mtime.nanos.into());
    same.then_some(())
}

/// A large file or a part of one. `None`: the stream is of no more use.
async fn stream(
    root: &Root,
    engine: &Engine,
    (item, holding): Found,
    reply: &mut Reply,
    stale: &mut Vec<Stale>,
) -> Option<()> {
    let path = placed_at(holding.as_ref()).filter(|_| !matches!(item.part, Part::Since(_)));
    let open = match holding {
        Some(Holding::Placed(located, delta)) => open_placed(root, &item, located, delta),
        Some(Holding::Former(located)) => {
            open_at(root, &located).and_then(|there| as_it_changes(&item, &located, there))
        }
        Some(Holding::Arriving(arriving)) => open_arriving(&item, &arriving),
        Some(Holding::Change(patch)) => return send_change(&item, patch, reply).await,
        Some(Holding::Kept(writes)) => return send_kept(&item, writes, reply).await,
        None => None,
    };
    let Some(Open { file, head, ranges, is_stale }) = open else {
        let status = without(path.as_ref());
        stale.extend(path);
        return reply.send(status.encode()).await.ok();
    };
    stale.extend(path.filter(|_| is_stale));
    send_held(head, Writes::new(), reply).await?;
    stream_ranges(engine, &file, ranges, reply).await
}

/// Bytes that were kept when they were read: all of a version.
async fn send_kept(item: &FetchItem, writes: Writes, reply: &mut Reply) -> Option<()> {
    let wanted = match &item.part {
        Part::Ranges(ranges) => checked(ranges, item.size).map(|ranges| copied(&writes, &ranges)),
        Part::Leaves => {
            let hash = move || {
                let whole: Vec<u8> = writes.iter().flat_map(|(_, bytes)| bytes).copied().collect();
                Leaves::of(&whole).to_bytes()
            };
            let list = tokio::task::spawn_blocking(hash).await.ok()?;
            Some(vec![(0, list.into())])
        }
        _ => Some(writes),
    };
    match wanted {
        Some(writes) => send_held(Bytes::new(), writes, reply).await,
        None => reply.send(ItemStatus::NotHeld.encode()).await.ok(),
    }
}

/// The same of a change.
async fn send_change(item: &FetchItem, mut patch: Patch, reply: &mut Reply) -> Option<()> {
    patch.truncate(item.size);
    patch.writes.sort_unstable_by_key(|(at, _)| *at);
    send_held(head_of(&patch.delta()), patch.writes, reply).await
}

async fn send_held(head: Bytes, writes: Writes, reply: &mut Reply) -> Option<()> {
    let bytes = writes.into_iter().map(|(_, bytes)| bytes);
    for bytes in [ItemStatus::Held.encode(), head].into_iter().chain(bytes) {
        if !bytes.is_empty() {
            reply.send(bytes).await.ok()?;
        }
    }
    Some(())
}

/// The list of what differs, behind its length.
fn head_of(delta: &Delta) -> Bytes {
    let bytes = delta.encode();
    let mut head = BytesMut::with_capacity(4 + bytes.len());
    head.put_u32_le(bytes.len() as u32);
    head.put(bytes);
    head.freeze()
}

/// What answers an item: some bytes, then ranges of a file.
struct Open {
    file: Arc<OwnedFd>,
    head: Bytes,
    ranges: RangeSet,
    /// It is not what the index says.
    is_stale: bool,
}

fn open_placed(
    root: &Root,
    item: &FetchItem,
    located: Located,
    delta: Option<Delta>,
) -> Option<Open> {
    let (file, now) = open_at(root, &located)?;
    let same = now.same_bytes(&located.fingerprint) && now.size == item.size;
    if !same {
        return as_it_changes(item, &located, (file, now));
    }
    let (head, ranges) = match &item.part {
        Part::Whole => (Bytes::new(), Range::new(0, item.size).into_iter().collect()),
        Part::Ranges(ranges) => (Bytes::new(), checked(ranges, item.size)?),
        Part::Leaves => (located.leaves?.to_bytes().into(), RangeSet::new()),
        Part::Held => {
            let all = Leaves::new(item.size)?.count() as usize;
            (to_bitmap(&vec![true; all]).into(), RangeSet::new())
        }
        Part::Since(_) => {
            let mut delta = delta?;
            delta.truncate(item.size);
            (delta.ranges.bytes() <= PATCH_IN_PLACE_BYTES_MAX).then_some(())?;
            (head_of(&delta), delta.ranges)
        }
    };
    Some(Open { file, head, ranges, is_stale: false })
}

/// The file that lies there, and how it looks now.
fn open_at(root: &Root, located: &Located) -> Option<(Arc<OwnedFd>, Fingerprint)> {
    let file = root.open_file(&located.path, Access::Read).ok()??;
    let now = root.glance_fd(file.as_fd()).ok()?.fingerprint;
    Some((Arc::new(file), now))
}

/// A large file that has changed: its former hash list, as long as the index
/// has no other, and its bytes as they are now.
fn as_it_changes(
    item: &FetchItem,
    located: &Located,
    (file, now): (Arc<OwnedFd>, Fingerprint),
) -> Option<Open> {
    (item.size > WHOLE_BYTES_MAX).then_some(())?;
    now.is_inode(&located.fingerprint).then_some(())?;
    let (head, ranges) = match &item.part {
        Part::Leaves => {
            let leaves = located.leaves.as_ref();
            let same = leaves.filter(|leaves| leaves.digest() == item.digest);
            (same?.to_bytes().into(), RangeSet::new())
        }
        Part::Ranges(ranges) => (Bytes::new(), checked(ranges, item.size.min(now.size))?),
        Part::Whole | Part::Held | Part::Since(_) => return None,
    };
    let is_stale = !now.same_bytes(&located.fingerprint);
    Some(Open { file, head, ranges, is_stale })
}

fn open_arriving(item: &FetchItem, arriving: &Arriving) -> Option<Open> {
    let (head, ranges) = match &item.part {
        Part::Held => {
            let held = arriving.with(|pieces| pieces.held());
            (to_bitmap(&held).into(), RangeSet::new())
        }
        Part::Leaves => (arriving.leaves.to_bytes().into(), RangeSet::new()),
        Part::Ranges(ranges) if arriving.has(ranges) => (Bytes::new(), checked(ranges, item.size)?),
        _ => return None,
    };
    let file = Arc::clone(&arriving.file);
    Some(Open { file, head, ranges, is_stale: false })
}

/// A peer's ranges, if they lie within the file.
fn checked(ranges: &RangeSet, size: u64) -> Option<RangeSet> {
    (ranges.is_well_formed() && ranges.end() <= size).then(|| ranges.clone())
}

async fn stream_ranges(
    engine: &Engine,
    file: &Arc<OwnedFd>,
    ranges: RangeSet,
    reply: &mut Reply,
) -> Option<()> {
    let mut ahead = std::collections::VecDeque::new();
    for piece in ranges.iter().flat_map(|range| range.pieces(READ_BYTES)) {
        let (engine, file) = (engine.clone(), Arc::clone(file));
        let read = tokio::spawn(async move { engine.read(&file, piece).await });
        ahead.push_back((piece, read));
        if ahead.len() >= READS_AHEAD {
            send_next(&mut ahead, reply).await?;
        }
    }
    while !ahead.is_empty() {
        send_next(&mut ahead, reply).await?;
    }
    Some(())
}

type Reading = (Range, tokio::task::JoinHandle<std::io::Result<Bytes>>);

async fn send_next(
    ahead: &mut std::collections::VecDeque<Reading>,
    reply: &mut Reply,
) -> Option<()> {
    let (piece, read) = ahead.pop_front()?;
    let bytes = read.await.ok()?.ok()?;
    // Shorter: the file was cut meanwhile, and this version is gone.
    (bytes.len() as u64 == piece.len()).then_some(())?;
    reply.send(bytes).await.ok()
}

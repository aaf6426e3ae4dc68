use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::*;

/// Both engines: each must do the same.
fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::start(EngineChoice::Threads).unwrap()];
    match Engine::start(EngineChoice::Uring) {
        Ok(engine) => engines.push(engine),
        Err(Error::NoUring(reason)) => eprintln!("only threads are tested: {reason}"),
        Err(error) => panic!("{error}"),
    }
    engines
}

fn file_of(content: &[u8]) -> (Arc<OwnedFd>, File) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    (Arc::new(file.try_clone().unwrap().into()), file)
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size as u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

fn range(start: u64, end: u64) -> Range {
    Range::new(start, end).unwrap()
}

#[tokio::test]
async fn reads_are_short_only_at_the_end_of_the_file() {
    let content = pattern((1 << 20) + 77);
    let (file, _) = file_of(&content);
    for engine in engines() {
        let all = engine.read(&file, range(0, content.len() as u64)).await.unwrap();
        assert!(all == content, "{}", engine.describe());
        let beyond = engine.read(&file, range(1 << 20, 2 << 20)).await.unwrap();
        assert!(beyond == content[1 << 20..], "{}", engine.describe());
        assert!(engine.read(&file, range(2 << 20, 3 << 20)).await.unwrap().is_empty());
        let stats = engine.stats();
        assert_eq!((stats.reads, stats.read_bytes), (3, content.len() as u64 + 77));
    }
}

#[tokio::test]
async fn a_read_too_large_for_memory_is_refused() {
    let (file, _) = file_of(b"x");
    for engine in engines() {
        for end in [READ_BYTES_MAX + 1, u64::MAX] {
            let error = engine.read(&file, range(0, end)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        let far = range(u64::MAX - 10, u64::MAX);
        assert_eq!(engine.read(&file, far).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn what_is_written_is_in_the_file() {
    let content = Bytes::from(pattern((1 << 20) + 3));
    for engine in engines() {
        let (file, mut plain) = file_of(b"");
        engine.write(&file, 5, content.clone()).await.unwrap();
        engine.write(&file, 0, Bytes::new()).await.unwrap();
        engine.sync_range(&file, range(0, u64::MAX)).await.unwrap();
        let mut written = Vec::new();
        plain.rewind().unwrap();
        plain.read_to_end(&mut written).unwrap();
        assert_eq!(written[..5], [0; 5]);
        assert!(written[5..] == content, "{}", engine.describe());
        assert_eq!(engine.stats().written_bytes, content.len() as u64);
    }
}

/// As on FUSE and some overlays: a file that cannot be read asynchronously,
/// opened so that a fifo in its place would not block.
#[tokio::test]
async fn a_file_opened_without_blocking_is_read_all_the_same() {
    let nonblocking = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    for engine in engines() {
        let mode = rustix::fs::Mode::empty();
        let file = rustix::fs::open("/proc/version", nonblocking, mode).unwrap();
        let bytes = engine.read(&Arc::new(file), range(0, 4096)).await.unwrap();
        assert!(bytes.starts_with(b"Linux"), "{}", engine.describe());
    }
}

#[tokio::test]
async fn errors_reach_whoever_asked() {
    let read_only: Arc<OwnedFd> = Arc::new(File::open("/dev/null").unwrap().into());
    let directory: Arc<OwnedFd> = Arc::new(File::open("/").unwrap().into());
    for engine in engines() {
        let bytes = Bytes::from_static(b"x");
        let error = engine.write(&read_only, 0, bytes).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{}", engine.describe());
        let error = engine.read(&directory, range(0, 10)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory, "{}", engine.describe());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_at_once_each_get_their_bytes() {
    let content = Arc::new(pattern(4 << 20));
    let (file, _) = file_of(&content);
    for engine in engines() {
        let mut readers = tokio::task::JoinSet::new();
        for reader in 0..64u64 {
            let (engine, file, content) = (engine.clone(), Arc::clone(&file), Arc::clone(&content));
            readers.spawn(async move {
                for turn in 0..100u64 {
                    let start = (reader * 7919 + turn * 104_729) % (4 << 20);
                    let end = start + 1 + (turn * 997) % 40_000;
                    let bytes = engine.read(&file, range(start, end)).await.unwrap();
                    let end = content.len().min(end as usize);
                    assert!(bytes == content[start as usize..end]);
                }
            });
        }
        while let Some(reader) = readers.join_next().await {
            reader.unwrap();
        }
        assert_eq!(engine.stats().reads, 6400);
    }
}

/// More jobs than the queues and slots hold, most of them given up at once:
/// nothing is freed under the kernel's hands and the engine goes on.
#[tokio::test]
async fn dropped_futures_leave_the_engine_whole() {
    let content = pattern(4 << 20);
    let (file, _) = file_of(&content);
    for engine in engines() {
        for turn in 0..40u64 {
            let starts = (0..100u64).map(|at| (at * 40_000 + turn) % (3 << 20));
            let (engine, file) = (&engine, &file);
            let mut reads: Vec<_> = starts
                .map(|start| {
                    Box::pin(
                        async move { engine.read(file, range(start, start + (1 << 20))).await },
                    )
                })
                .collect();
            for read in &mut reads {
                let polled = futures_poll_once(read.as_mut()).await;
                assert!(polled.is_none_or(|outcome| outcome.is_ok()));
            }
            drop(reads);
            let bytes = engine.read(file, range(turn, turn + 100)).await.unwrap();
            assert!(bytes == content[turn as usize..turn as usize + 100]);
        }
    }
}

/// The queue takes more than it holds: writers wait, nothing is lost.
#[tokio::test]
async fn a_full_queue_makes_writers_wait() {
    for engine in engines() {
        let (file, plain) = file_of(b"");
        let mut writers = tokio::task::JoinSet::new();
        let count = 5 * QUEUE_JOBS_MAX as u64;
        for at in 0..count {
            let (engine, file) = (engine.clone(), Arc::clone(&file));
            let bytes = Bytes::copy_from_slice(&at.to_be_bytes());
            writers.spawn(async move { engine.write(&file, at * 8, bytes).await });
        }
        while let Some(written) = writers.join_next().await {
            written.unwrap().unwrap();
        }
        for at in 0..count {
            let mut bytes = [0; 8];
            plain.read_exact_at(&mut bytes, at * 8).unwrap();
            assert_eq!(u64::from_be_bytes(bytes), at);
        }
    }
}

#[tokio::test]
async fn the_threads_end_with_the_last_handle() {
    for choice in [EngineChoice::Threads, EngineChoice::Auto] {
        let engine = Engine::start(choice).unwrap();
        let (file, _) = file_of(b"content");
        engine.read(&file, range(0, 7)).await.unwrap();
        let shared = Arc::downgrade(&engine.0.shared);
        drop(engine);
        // Each thread holds what they share for as long as it runs.
        let ended = async {
            while shared.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("threads still run");
    }
}

/// Polls a future once, then leaves it.
async fn futures_poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        let polled = std::pin::Pin::new(&mut future).poll(context);
        std::task::Poll::Ready(match polled {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

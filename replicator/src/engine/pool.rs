//! Memory for large reads, used again.
//!
//! An allocator gives large buffers back to the kernel and fetches them anew,
//! and faulting their pages in costs more than copying what is cached into
//! them: with buffers used again, reads of 64 KiB to 4 MiB ran two to three
//! times as fast. A buffer comes back when the last holder of its [`Bytes`]
//! lets go of it.

use std::collections::TryReserveError;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::READ_BYTES_MAX;

/// Smaller buffers come from the allocator, which keeps those itself.
const POOLED_BYTES_MIN: usize = 32 << 10;

/// Most memory that lies here unused.
const IDLE_BYTES_MAX: usize = 16 << 20;

/// Buffers of each power of two from the smallest to the largest read.
const CLASSES: usize = (READ_BYTES_MAX as usize / POOLED_BYTES_MIN).ilog2() as usize + 1;

#[derive(Default)]
pub(super) struct Pool(Mutex<Idle>);

impl Pool {
    /// An empty buffer with room for `bytes`.
    pub fn take(&self, bytes: usize) -> Result<Vec<u8>, TryReserveError> {
        let (capacity, idle) = match class_of(bytes) {
            Some(class) => (POOLED_BYTES_MIN << class, self.lock().take(class)),
            None => (bytes, None),
        };
        if let Some(buffer) = idle {
            return Ok(buffer);
        }
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(capacity)?;
        Ok(buffer)
    }

    /// The bytes of a buffer from [`Pool::take`].
    pub fn freeze(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        if buffer.capacity() < POOLED_BYTES_MIN {
            return Bytes::from(buffer);
        }
        Bytes::from_owner(Pooled { buffer, pool: Arc::clone(self) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        // Each change below is complete or not made: a panic leaves no half.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Idle {
    by_class: [Vec<Vec<u8>>; CLASSES],
    bytes: usize,
}

impl Idle {
    fn take(&mut self, class: usize) -> Option<Vec<u8>> {
        let buffer = self.by_class[class].pop()?;
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Keeps a buffer; gives those that must go for it, perhaps itself. The
    /// size in use now displaces sizes that were in use before.
    fn put(&mut self, mut buffer: Vec<u8>) -> Vec<Vec<u8>> {
        let mut too_much = Vec::new();
        let capacity = buffer.capacity();
        let Some(class) = class_of(capacity).filter(|class| POOLED_BYTES_MIN << class == capacity)
        else {
            return vec![buffer];
        };
        for other in (0..CLASSES).filter(|other| *other != class) {
            while self.bytes + capacity > IDLE_BYTES_MAX {
                match self.take(other) {
                    Some(displaced) => too_much.push(displaced),
                    None => break,
                }
            }
        }
        if self.bytes + capacity > IDLE_BYTES_MAX {
            too_much.push(buffer);
        } else {
            buffer.clear();
            self.bytes += capacity;
            self.by_class[class].push(buffer);
        }
        too_much
    }
}

/// A buffer on loan.
struct Pooled {
    buffer: Vec<u8>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        // What is too much is freed after the lock is let go.
        let _too_much = self.pool.lock().put(std::mem::take(&mut self.buffer));
    }
}

/// Which class has room for `bytes`; `None` where the allocator serves.
fn class_of(bytes: usize) -> Option<usize> {
    if bytes < POOLED_BYTES_MIN {
        return None;
    }
    let class = (bytes.div_ceil(POOLED_BYTES_MIN)).next_power_of_two().ilog2() as usize;
    (class < CLASSES).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_once_nobody_holds_its_bytes() {
        let pool = Arc::new(Pool::default());
        let mut buffer = pool.take(100_000).unwrap();
        buffer.extend_from_slice(b"content");
        let address = buffer.as_ptr();
        let bytes = pool.freeze(buffer);
        let slice = bytes.slice(2..4);
        drop(bytes);
        let other = pool.take(100_000).unwrap();
        assert_ne!(other.as_ptr(), address);
        assert_eq!(&slice[..], b"nt");
        drop(slice);
        let again = pool.take(80_000).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
    }

    #[test]
    fn idle_memory_is_bounded() {
        let pool = Arc::new(Pool::default());
        let buffers: Vec<_> = (0..64).map(|_| pool.take(1 << 20).unwrap()).collect();
        drop(buffers.into_iter().map(|buffer| pool.freeze(buffer)).collect::<Vec<_>>());
        assert_eq!(pool.lock().bytes, IDLE_BYTES_MAX);

        let large = pool.take(4 << 20).unwrap();
        let address = large.as_ptr();
        drop(pool.freeze(large));
        assert_eq!(pool.lock().bytes, IDLE_BYTES_MAX);
        let again = pool.take(4 << 20).unwrap();
        assert_eq!(again.as_ptr(), address, "the size in use now is kept");
    }

    #[test]
    fn every_size_of_read_gets_room() {
        let pool = Pool::default();
        let largest = READ_BYTES_MAX as usize;
        for bytes in [1, POOLED_BYTES_MIN - 1, POOLED_BYTES_MIN, POOLED_BYTES_MIN + 1, largest] {
            assert!(pool.take(bytes).unwrap().capacity() >= bytes);
        }
    }
}

//! Ctrl-C and SIGTERM as a question that can be asked.
//!
//! The handler only sets a flag: what runs then must be safe at any point of
//! the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use replicator_tests::poll;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on the two signals no longer end this program.
pub fn catch() -> Result<()> {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler is an `extern "C" fn(c_int)` as signal(2) wants
        // it, lives for ever, and only stores to an atomic, which is
        // async-signal-safe.
        let previous = unsafe {
            libc::signal(signal, note as extern "C" fn(libc::c_int) as libc::sighandler_t)
        };
        if previous == libc::SIG_ERR {
            bail!("cannot catch signal {signal}: {}", std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Did one of them come since [`catch`]?
pub fn happened() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// An error if one of them came: for work in steps, which ends between two.
pub fn check() -> Result<()> {
    if happened() {
        bail!("interrupted");
    }
    Ok(())
}

/// Did `condition` come true within `limit`? A signal ends the waiting with an
/// error.
pub fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> Result<bool> {
    let mut is_true = false;
    poll::until(limit, || {
        is_true = condition();
        is_true || happened()
    });
    check()?;
    Ok(is_true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_the_waiting() {
        catch().unwrap();
        assert!(until(Duration::from_secs(10), || true).unwrap());
        assert!(!until(Duration::ZERO, || false).unwrap());
        let mut looks = 0;
        let waited = until(Duration::from_secs(3600), || {
            looks += 1;
            if looks == 3 {
                // SAFETY: the signal is caught, as `catch` returned.
                unsafe { libc::raise(libc::SIGTERM) };
            }
            false
        });
        assert_eq!(waited.unwrap_err().to_string(), "interrupted");
        assert_eq!(looks, 3);
        // For other tests of this process.
        INTERRUPTED.store(false, Ordering::Relaxed);
    }
}

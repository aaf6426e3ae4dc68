//! Ctrl-C and SIGTERM as a question that can be asked.
//!
//! The handler only sets a flag: what runs then must be safe at any point of
//! the program.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};

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

//! What the password becomes before anything else sees it.

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use super::error::Error;

/// The stretched password of a cluster. It leaves memory with its owner.
#[derive(Clone)]
pub struct Secret {
    key: Zeroizing<[u8; KEY_BYTES]>,
}

impl Secret {
    /// Stretches the password with Argon2id, salted with the cluster's name.
    /// Takes some 150 ms and 64 MiB, once per start: whoever guesses pays the
    /// same for each guess. A node with another cluster name gets another key.
    pub fn derive(password: &[u8], cluster: &str) -> Result<Secret, Error> {
        if password.is_empty() {
            return Err(Error::EmptyPassword);
        }
        let failed = |error: argon2::Error| Error::Stretch(error.to_string());
        let params = Params::new(MEMORY_KIB, PASSES, THREADS, Some(KEY_BYTES)).map_err(failed)?;
        let salt = format!("replicator cluster: {cluster}");
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, salt.as_bytes(), key.as_mut())
            .map_err(failed)?;
        Ok(Secret { key })
    }

    pub(super) fn key(&self) -> &[u8] {
        self.key.as_ref()
    }
}

const KEY_BYTES: usize = 32;

/// 64 MiB and three passes on one thread: RFC 9106's second choice, 150 to
/// 160 ms on the test machine.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const THREADS: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_and_cluster_both_count() {
        let secret = Secret::derive(b"correct horse", "media").unwrap();
        assert_eq!(secret.key(), Secret::derive(b"correct horse", "media").unwrap().key());
        assert_ne!(secret.key(), Secret::derive(b"correct horse", "web").unwrap().key());
        assert_ne!(secret.key(), Secret::derive(b"wrong horse", "media").unwrap().key());
    }

    #[test]
    fn an_empty_password_is_refused() {
        assert!(matches!(Secret::derive(b"", "media"), Err(Error::EmptyPassword)));
    }
}

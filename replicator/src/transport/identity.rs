//! The node's key: what it is known by for its whole life.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::error::Error;
use super::settings::SERVER_NAME;
use crate::id::NodeId;

/// An Ed25519 key and the certificate that carries its public half in TLS.
/// The certificate is made anew at each start; only the key is kept.
pub struct Identity {
    key: Zeroizing<Vec<u8>>,
    certificate: CertificateDer<'static>,
    id: NodeId,
}

impl Identity {
    /// Reads the key of this state directory, or makes one.
    pub fn load_or_create(state_dir: &Path) -> Result<Identity, Error> {
        let path = state_dir.join(KEY_FILE);
        let failed = |source| Error::KeyFile { path: path.clone(), source };
        match File::open(&path) {
            Ok(file) => Self::load(file, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pair = KeyPair::generate_for(&PKCS_ED25519)
                    .map_err(|error| Error::Tls(error.to_string()))?;
                let key = Zeroizing::new(pair.serialize_der());
                write_new(state_dir, &key).map_err(failed)?;
                Self::from_key(key).map_err(|reason| Error::Tls(reason.to_string()))
            }
            Err(error) => Err(failed(error)),
        }
    }

    pub fn id(&self) -> NodeId {
        self.id
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()))
    }

    /// A key for a purpose of its own that only this node can compute, the
    /// same after every restart.
    pub(super) fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, &self.key)
    }

    fn load(mut file: File, path: &Path) -> Result<Identity, Error> {
        let failed = |source| Error::KeyFile { path: path.to_owned(), source };
        let damaged = |reason: String| Error::KeyFileDamaged { path: path.to_owned(), reason };
        let metadata = file.metadata().map_err(failed)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::KeyFileOpen { path: path.to_owned(), mode });
        }
        if metadata.len() > KEY_BYTES_MAX {
            return Err(damaged("it is too long".into()));
        }
        let mut key = Zeroizing::new(Vec::new());
        file.read_to_end(&mut key).map_err(failed)?;
        Self::from_key(key).map_err(|reason| damaged(reason.to_string()))
    }

    fn from_key(key: Zeroizing<Vec<u8>>) -> Result<Identity, rcgen::Error> {
        let der = PrivatePkcs8KeyDer::from(key.as_slice());
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519)?;
        let certificate =
            CertificateParams::new(vec![SERVER_NAME.to_owned()])?.self_signed(&pair)?.der().clone();
        let id = node_id(&certificate).ok_or(rcgen::Error::CouldNotParseCertificate)?;
        Ok(Identity { key, certificate, id })
    }
}

/// The node that holds the key in this certificate.
pub(super) fn node_id(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(NodeId::of_public_key(&parsed.subject_public_key_info()))
}

const KEY_FILE: &str = "node.key";

/// An Ed25519 key in PKCS #8 takes less than 100 bytes.
const KEY_BYTES_MAX: u64 = 1024;

/// Writes beside, then links into place: a crash leaves no half key, and of
/// two daemons that start at once in one directory one is told so.
fn write_new(state_dir: &Path, key: &[u8]) -> io::Result<()> {
    let beside = state_dir.join(format!("{KEY_FILE}.{}", std::process::id()));
    let result = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(key)?;
        file.sync_all()?;
        fs::hard_link(&beside, state_dir.join(KEY_FILE))?;
        File::open(state_dir)?.sync_all()
    })();
    let removed = fs::remove_file(&beside);
    result.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(dir.path()).unwrap();
        let again = Identity::load_or_create(dir.path()).unwrap();
        assert_eq!(first.id(), again.id());
        let mode = fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside");
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Identity::load_or_create(other.path()).unwrap().id(), first.id());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Identity::load_or_create(dir.path()).err().unwrap();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_damaged_key_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        fs::write(&path, b"half a k").unwrap();
        let error = Identity::load_or_create(dir.path()).err().unwrap();
        assert!(matches!(error, Error::KeyFileDamaged { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"half a k");
    }
}

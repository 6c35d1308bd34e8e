//! The system's certificates: the HTTP client requires them even if it gets others, and panics without.
//!
//! weft's image has none (`deploy/image/build.sh --ca` adds some): there, the site's own certificates replace them.

use std::path::PathBuf;

use super::error::RegistryError;

/// The variable with which OpenSSL, and so the client, finds the system's certificates.
const FILE: &str = "SSL_CERT_FILE";
const DIR: &str = "SSL_CERT_DIR";

fn are_there() -> bool {
    !rustls_native_certs::load_native_certs().certs.is_empty()
}

/// If the system has no certificates, uses those of the first named file instead. Call it at the start of a process,
/// while it has a single thread.
#[expect(unsafe_code, clippy::disallowed_methods, reason = "the HTTP client reads its roots only from the environment")]
pub fn stand_in_for_system_roots(named: &[PathBuf]) {
    let is_told = [FILE, DIR].iter().any(|name| std::env::var_os(name).is_some());
    if let Some(file) = named.first().filter(|_file| !is_told && !are_there()) {
        // SAFETY: callers have a single thread (see above), so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(FILE, file) };
    }
}

/// Checks that a client can be created.
pub(super) fn check() -> Result<(), RegistryError> {
    if are_there() { Ok(()) } else { Err(RegistryError::NoRoots) }
}

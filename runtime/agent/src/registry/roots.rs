//! The system's certificates, which the HTTP client wants to find even where it is given others, and panics without.
//!
//! weft's image has none (`deploy/image/build.sh --ca` puts some in): there the site's own take their place.

use std::path::PathBuf;

use super::error::RegistryError;

/// What OpenSSL, and with it the client, takes the system's certificates from where it is set.
const FILE: &str = "SSL_CERT_FILE";
const DIR: &str = "SSL_CERT_DIR";

fn are_there() -> bool {
    !rustls_native_certs::load_native_certs().certs.is_empty()
}

/// Where the system has no certificates, those of the first file that was named are the system's from now on. For the start of a
/// process, while it has one thread.
#[expect(unsafe_code, clippy::disallowed_methods, reason = "the client is told by its environment alone")]
pub fn stand_in_for_system_roots(named: &[PathBuf]) {
    let is_told = [FILE, DIR].iter().any(|name| std::env::var_os(name).is_some());
    if let Some(file) = named.first().filter(|_file| !is_told && !are_there()) {
        // SAFETY: callers have one thread (see above), so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(FILE, file) };
    }
}

/// Whether a client can be made.
pub(super) fn check() -> Result<(), RegistryError> {
    if are_there() { Ok(()) } else { Err(RegistryError::NoRoots) }
}

//! The one provider of TLS cryptography: *ring*.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// Makes *ring* the process's provider, for libraries that ask rustls for its default. Call it first in `main`; calling
/// it again changes nothing.
pub fn install() {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have been faster, with the same provider: nothing else in the workspace installs one.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}

/// The provider, for builders of TLS settings.
#[must_use]
pub fn ring() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

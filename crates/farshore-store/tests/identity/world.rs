//! Tenants with an admin each.

use farshore_domain::id::{DeviceId, TenantId, UserId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use farshore_store::sessions::NewSession;
use farshore_store::tenants::FirstStart;
use farshore_store::{Driver, Principal, SecretHash, Store, SystemDb, TenantDb};
use uuid::Uuid;

pub(crate) const NOW: UnixMs = UnixMs(1_800_000_000_000);
pub(crate) const HOUR: i64 = 3_600_000;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A hash that differs for each number.
pub(crate) fn secret(n: u64) -> SecretHash {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    SecretHash(bytes)
}

pub(crate) fn system(store: &Store) -> SystemDb {
    store.system(Driver::Platform)
}

/// An installation with tenant `one`, whose platform admin logged in.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) one: TenantId,
    pub(crate) admin: UserId,
    /// The admin's session.
    pub(crate) session: SecretHash,
}

impl World {
    pub(crate) async fn new(store: &Store) -> Self {
        let (one, link, session) = (name("one"), secret(1), secret(2));
        let first =
            FirstStart { tenant: &one, email: "admin@example.com", link, link_expires_at: NOW.plus_ms(HOUR) };
        let (one, admin) = system(store).first_start(&first, NOW).await.unwrap().unwrap();
        let new = NewSession { hash: session, expires_at: NOW.plus_ms(HOUR) };
        system(store).redeem_login_link(&link, Some("hash"), &new, NOW).await.unwrap().unwrap();
        Self { store: store.clone(), one, admin, session }
    }

    /// Another tenant.
    pub(crate) async fn tenant(&self, text: &str) -> TenantId {
        let made = system(&self.store).create_tenant(&name(text), "", &Labels::default(), NOW).await.unwrap();
        made.uid
    }

    pub(crate) async fn principal(&self) -> Principal {
        self.store.authenticate_session(&self.session, None, NOW).await.unwrap().unwrap()
    }

    pub(crate) fn db(&self, tenant: TenantId) -> TenantDb {
        self.store.authorize_device(tenant, DeviceId(Uuid::nil()))
    }
}

//! The installation's certificates at work: made on the first start, loaded on every other, renewed while running.
//!
//! Root and intermediate rest in the database with their keys under the master key. The online certificate that signs desired
//! state lives 30 days and is renewed when a third is left, by whichever replica comes first. Server certificates
//! are made anew by each process and never stored.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use farshore_domain::digest::Digest;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::{DAY_MS, UnixMs};
use farshore_store::authorities::{AuthorityKind, AuthorityRow};
use farshore_store::claims::NewCertificate;
use farshore_store::{Driver, Store, StoreError};
use farshore_trust::CertificateDer;
use farshore_trust::authority::{Authority as Generate, AuthorityError, Issuer};
use farshore_trust::certificate::{CertificateError, chain_from_pem, chain_to_pem};
use farshore_trust::key::{KeyError, SigningKey};
use farshore_trust::master::{MasterKey, MasterKeyError};
use farshore_trust::online::{DesiredError, OnlineSigner};
use farshore_trust::tls::{ServerCertificate, TlsError};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::clock::now;
use crate::settings::{IdentitySettings, ListenSettings};

/// Lifetime of the online certificate and of the servers' own.
const SHORT_MS: i64 = 30 * DAY_MS;
const YEARS_20_MS: i64 = 20 * 365 * DAY_MS;
const LOOK_EVERY: Duration = Duration::from_secs(15 * 60);

/// Why the authority is not at work.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the authority's certificates can't be made, read or used")]
    Authority(#[from] AuthorityError),
    #[error("a stored certificate can't be read")]
    Certificate(#[from] CertificateError),
    #[error("a stored key can't be read")]
    Key(#[from] KeyError),
    #[error("a key can't be wrapped or unwrapped with the master key")]
    MasterKey(#[from] MasterKeyError),
    #[error("the signer of desired state can't be loaded")]
    Online(#[from] DesiredError),
    #[error("the database does not give or take the authority's certificates")]
    Store(#[from] StoreError),
    #[error("the database holds no {0} certificate")]
    Missing(&'static str),
    #[error("the server's certificate can't be used")]
    Tls(#[from] TlsError),
    #[error("the file {0} can't be read")]
    File(std::path::PathBuf, #[source] std::io::Error),
}

/// The authority at work.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer,
    roots_pem: Vec<String>,
    master: Arc<dyn MasterKey>,
    online: RwLock<Arc<OnlineSigner>>,
    device_certificate_ms: i64,
}

fn purpose(kind: AuthorityKind) -> &'static str {
    match kind {
        AuthorityKind::Root => "authority/root",
        AuthorityKind::Intermediate => "authority/intermediate",
        AuthorityKind::Online => "authority/online",
    }
}

fn row(
    master: &dyn MasterKey,
    kind: AuthorityKind,
    chain: &[CertificateDer<'static>],
    key: &SigningKey,
    created_at: UnixMs,
    expires_at: UnixMs,
) -> Result<AuthorityRow, OpenError> {
    Ok(AuthorityRow {
        kind,
        certificate: chain_to_pem(chain),
        wrapped_key: Some(master.wrap(purpose(kind), &key.to_pkcs8_der())?),
        created_at,
        expires_at,
    })
}

fn key_of(master: &dyn MasterKey, row: &AuthorityRow) -> Result<SigningKey, OpenError> {
    let wrapped = row.wrapped_key.as_deref().ok_or(OpenError::Missing("key of a"))?;
    Ok(SigningKey::from_pkcs8_der(&master.unwrap(purpose(row.kind), wrapped)?)?)
}

fn first_of(row: &AuthorityRow, what: &'static str) -> Result<CertificateDer<'static>, OpenError> {
    chain_from_pem(&row.certificate)?.into_iter().next().ok_or(OpenError::Missing(what))
}

impl Authority {
    /// Loads the authority; makes it on the first start.
    pub async fn open(
        store: &Store,
        master: Arc<dyn MasterKey>,
        identity: &IdentitySettings,
        now: UnixMs,
    ) -> Result<Self, OpenError> {
        let system = store.system(Driver::Platform);
        let mut rows = system.authorities().await?;
        if rows.is_empty() {
            let new = Generate::generate(&identity.trust_domain, now)?;
            let validity =
                |der: &CertificateDer<'_>| farshore_trust::certificate::validity(der).map(|v| v.not_after);
            let root_ends = validity(&new.root_cert).unwrap_or_else(|_| now.plus_ms(YEARS_20_MS));
            let ends = validity(&new.intermediate_cert)?;
            let (root, intermediate) = (AuthorityKind::Root, AuthorityKind::Intermediate);
            rows = system
                .first_authorities(&[
                    row(&*master, root, std::slice::from_ref(&new.root_cert), &new.root_key, now, root_ends)?,
                    row(
                        &*master,
                        intermediate,
                        std::slice::from_ref(&new.intermediate_cert),
                        &new.intermediate_key,
                        now,
                        ends,
                    )?,
                ])
                .await?;
            tracing::info!("made the installation's certificate authority");
        }
        let newest: BTreeMap<&str, &AuthorityRow> =
            rows.iter().rev().map(|row| (purpose(row.kind), row)).collect();
        let find = |kind| newest.get(purpose(kind)).copied();
        let root = find(AuthorityKind::Root).ok_or(OpenError::Missing("root"))?;
        let intermediate = find(AuthorityKind::Intermediate).ok_or(OpenError::Missing("intermediate"))?;
        let root_cert = first_of(root, "root")?;
        let issuer = Issuer::new(
            identity.trust_domain.clone(),
            root_cert.clone(),
            first_of(intermediate, "intermediate")?,
            key_of(&*master, intermediate)?,
        )?;
        let online = match find(AuthorityKind::Online) {
            Some(row) if row.expires_at.since_ms(now) > SHORT_MS / 3 => load_online(&*master, row)?,
            present => new_online(&system, &*master, &issuer, present.map(|row| row.expires_at), now).await?,
        };
        Ok(Self {
            roots_pem: vec![chain_to_pem(std::slice::from_ref(&root_cert))],
            issuer,
            master,
            online: RwLock::new(Arc::new(online)),
            device_certificate_ms: identity.device_certificate_ms,
        })
    }

    #[must_use]
    pub const fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// What devices trust, in PEM.
    #[must_use]
    pub fn roots_pem(&self) -> &[String] {
        &self.roots_pem
    }

    #[must_use]
    pub fn root_fingerprint(&self) -> Digest {
        self.issuer.root_fingerprint()
    }

    /// The signer of desired state, as it is now.
    #[must_use]
    pub fn online(&self) -> Arc<OnlineSigner> {
        Arc::clone(&self.online.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wraps small secrets that must be stored and read again.
    #[must_use]
    pub fn master(&self) -> &dyn MasterKey {
        &*self.master
    }

    /// A device's certificate for the key of `csr`.
    pub fn issue_device(
        &self,
        csr: &[u8],
        tenant: TenantId,
        device: DeviceId,
        now: UnixMs,
    ) -> Result<NewCertificate, AuthorityError> {
        let lifetime = Duration::from_millis(self.device_certificate_ms.unsigned_abs());
        let issued = self.issuer.issue_device(csr, tenant, device, now, lifetime)?;
        Ok(NewCertificate {
            serial: issued.serial.clone(),
            chain: issued.chain_pem(),
            issued_at: now,
            expires_at: issued.not_after,
        })
    }

    /// Takes the online certificate that the database holds, or makes the next one when a third of its life is left.
    async fn look_at_online(&self, store: &Store, now: UnixMs) -> Result<(), OpenError> {
        let system = store.system(Driver::Platform);
        let rows = system.authorities().await?;
        let present = rows.iter().find(|row| row.kind == AuthorityKind::Online);
        let next = match present {
            Some(row) if row.expires_at.since_ms(now) > SHORT_MS / 3 => {
                if row.expires_at.0 / 1_000 == self.online().not_after().0 / 1_000 {
                    return Ok(());
                }
                load_online(&*self.master, row)?
            }
            present => {
                new_online(&system, &*self.master, &self.issuer, present.map(|row| row.expires_at), now)
                    .await?
            }
        };
        tracing::info!("took a new certificate for signing desired state");
        *self.online.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(())
    }
}

fn load_online(master: &dyn MasterKey, row: &AuthorityRow) -> Result<OnlineSigner, OpenError> {
    Ok(OnlineSigner::load(key_of(master, row)?, chain_from_pem(&row.certificate)?)?)
}

async fn new_online(
    system: &farshore_store::SystemDb,
    master: &dyn MasterKey,
    issuer: &Issuer,
    replaces: Option<UnixMs>,
    now: UnixMs,
) -> Result<OnlineSigner, OpenError> {
    let signer = issuer.issue_online(now, Duration::from_millis(SHORT_MS.unsigned_abs()))?;
    let new = row(master, AuthorityKind::Online, signer.chain(), signer.key(), now, signer.not_after())?;
    let used = system.replace_authority(&new, replaces, now).await?;
    load_online(master, &used)
}

/// The certificates of the two ports.
#[derive(Debug)]
pub struct ServerCertificates {
    pub api: Arc<ServerCertificate>,
    pub device: Arc<ServerCertificate>,
    names: Vec<String>,
    /// The API's is the operator's own.
    api_is_brought: bool,
    ends: RwLock<UnixMs>,
}

impl ServerCertificates {
    /// Issues both, or reads the operator's own for the API.
    pub fn issue(authority: &Authority, listen: &ListenSettings, now: UnixMs) -> Result<Self, OpenError> {
        let lifetime = Duration::from_millis(SHORT_MS.unsigned_abs());
        let device = authority.issuer.issue_server(&listen.server_names, now, lifetime)?;
        let ends = device.certificate.not_after;
        let own = |issued: farshore_trust::authority::IssuedServer| {
            ServerCertificate::new(issued.certificate.chain, &issued.key)
        };
        let api = match &listen.api_certificate {
            Some((chain, key)) => {
                let read = |path: &std::path::PathBuf| {
                    fs::read_to_string(path).map_err(|error| OpenError::File(path.clone(), error))
                };
                ServerCertificate::from_pem(&read(chain)?, &read(key)?)?
            }
            None => own(authority.issuer.issue_server(&listen.server_names, now, lifetime)?)?,
        };
        Ok(Self {
            api,
            device: own(device)?,
            names: listen.server_names.clone(),
            api_is_brought: listen.api_certificate.is_some(),
            ends: RwLock::new(ends),
        })
    }

    fn renew(&self, authority: &Authority, now: UnixMs) -> Result<(), OpenError> {
        let ends = *self.ends.read().unwrap_or_else(PoisonError::into_inner);
        if ends.since_ms(now) > SHORT_MS / 3 {
            return Ok(());
        }
        let lifetime = Duration::from_millis(SHORT_MS.unsigned_abs());
        let mut next = ends;
        for (certificate, brought) in [(&self.device, false), (&self.api, self.api_is_brought)] {
            if !brought {
                let issued = authority.issuer.issue_server(&self.names, now, lifetime)?;
                next = issued.certificate.not_after;
                certificate.replace(issued.certificate.chain, &issued.key)?;
            }
        }
        *self.ends.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

/// Keeps online and server certificates fresh.
pub fn spawn(
    app: &App,
    servers: Arc<ServerCertificates>,
    shutdown: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let app = app.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = app.authority().look_at_online(app.store(), now()).await {
                tracing::error!(
                    error = crate::error::chain(&error),
                    "the online certificate was not renewed"
                );
            }
            if let Err(error) = servers.renew(app.authority(), now()) {
                tracing::error!(
                    error = crate::error::chain(&error),
                    "the server certificates were not renewed"
                );
            }
        }
    })
}

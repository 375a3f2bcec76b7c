//! `farshore key`: the keys that releases are signed with, and the sets of them that devices trust.
//!
//! A set is signed by a key of the set before it, the first by one of its own. The private keys stay where they are: the server
//! gets public keys and signatures only.

use std::fs;
use std::path::PathBuf;

use farshore_api::access::Me;
use farshore_api::release::TrustedKeys;
use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use farshore_trust::blob;
use farshore_trust::key::{Algorithm, PublicKey, SigningKey};
use farshore_trust::keyset::{self, TrustedKey};

use crate::cli::Session;
use crate::client::Client;
use crate::context::create_private;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::kind::{find, nearest};
use crate::output;
use crate::release::manifest::{read_key, read_public_key};
use crate::verb::release::signed_set;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a key: FILE (private, for its owner only) and FILE.pub
    Generate {
        /// The file of the private key; it must not be there yet
        #[arg(long, value_name = "FILE", default_value = "release.key")]
        out: PathBuf,
        #[arg(long, value_enum, default_value_t = Kind::P256)]
        algorithm: Kind,
    },
    /// Make the first set of trusted keys, signed by the key itself
    Init {
        /// The private key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// What to call it
        #[arg(long, default_value = "main")]
        name: Name,
    },
    /// Let the devices trust one more key
    Add {
        /// What to call it
        name: Name,
        /// The public key
        key: PathBuf,
        /// A private key that is trusted already
        #[arg(long, value_name = "FILE")]
        signed_by: PathBuf,
    },
    /// Let the devices trust a key no longer
    Remove {
        name: String,
        /// A private key that is trusted already
        #[arg(long, value_name = "FILE")]
        signed_by: PathBuf,
    },
    /// List the keys that the devices trust
    List,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// ECDSA on P-256, as cosign makes them
    P256,
    Ed25519,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    match arguments.verb {
        Verb::Generate { out, algorithm } => generate(&out, algorithm),
        Verb::List => {
            let kind = find("trusted-key")?;
            let list = session.client()?.get("can't get the trusted keys", kind.path, &[]).await?;
            session.output.list(kind, &list)
        }
        Verb::Init { key, name } => {
            let client = session.client()?;
            let set = init(&client, &read_key(&key)?, name).await?;
            done(&set)
        }
        Verb::Add { name, key, signed_by } => {
            let client = session.client()?;
            let key = read_public_key(&key)?;
            let set = change(&client, &read_key(&signed_by)?, |keys| {
                keys.push(TrustedKey { name, key });
                Ok(())
            })
            .await?;
            done(&set)
        }
        Verb::Remove { name, signed_by } => {
            let client = session.client()?;
            let set = change(&client, &read_key(&signed_by)?, |keys| {
                let before = keys.len();
                keys.retain(|key| key.name.as_str() != name);
                if keys.len() < before {
                    return Ok(());
                }
                let failure = Failure::new(Exit::NotFound, format!("there is no trusted key {name:?}"))
                    .next("farshore key list");
                Err(match nearest(&name, keys.iter().map(|key| key.name.as_str())) {
                    Some(near) => failure.why(format!("did you mean {near:?}?")),
                    None => failure,
                })
            })
            .await?;
            done(&set)
        }
    }
}

fn generate(out: &std::path::Path, algorithm: Kind) -> Result<()> {
    let what = "can't make a key";
    let algorithm = match algorithm {
        Kind::P256 => Algorithm::P256,
        Kind::Ed25519 => Algorithm::Ed25519,
    };
    let key = SigningKey::generate(algorithm).map_err(|error| Failure::because(what, &error))?;
    let failed = |path: &std::path::Path, error: &std::io::Error| {
        let failure = Failure::because(format!("{what}: {}", path.display()), error);
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            failure.next("farshore key generate --out OTHER-FILE")
        } else {
            failure
        }
    };
    create_private(out, key.to_pem().as_bytes()).map_err(|error| failed(out, &error))?;
    let mut public = out.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    fs::write(&public, key.public().to_pem()).map_err(|error| failed(&public, &error))?;
    eprintln!("Wrote {} (keep it to yourself) and {}.", out.display(), public.display());
    eprintln!("Next: farshore key init --key {}", out.display());
    output::print(&format!("{}\n", key.public().key_id()))
}

fn done(set: &TrustedKeys) -> Result<()> {
    eprintln!("The devices trust these keys from now on.");
    output::print(&format!("trusted-keys version {} with {} keys\n", set.version, set.keys.len()))
}

async fn tenant(client: &Client) -> Result<TenantId> {
    let me: Me = client.get_as("can't tell the tenant", "/api/me").await?;
    Ok(TenantId(me.tenant_id))
}

/// Makes version 1 of the tenant's set, signed by its only key.
pub(crate) async fn init(client: &Client, key: &SigningKey, name: Name) -> Result<TrustedKeys> {
    let keys = vec![TrustedKey { name, key: key.public().clone() }];
    send(client, tenant(client).await?, 1, &keys, key).await
}

async fn change(
    client: &Client,
    signer: &SigningKey,
    change: impl FnOnce(&mut Vec<TrustedKey>) -> Result<()>,
) -> Result<TrustedKeys> {
    let what = "can't change the trusted keys";
    let current: TrustedKeys = client.get_as(what, "/api/trusted-keys").await?;
    if current.version == 0 {
        return Err(Failure::new(Exit::Conflict, what)
            .why("there is no set yet")
            .next("farshore key init --key FILE"));
    }
    let mut keys = Vec::new();
    for key in &current.keys {
        keys.push(TrustedKey {
            name: Name::new(key.name.as_str()).map_err(|error| Failure::because(what, &error))?,
            key: PublicKey::from_pem(&key.pem).map_err(|error| Failure::because(what, &error))?,
        });
    }
    if !keys.iter().any(|key| key.key == *signer.public()) {
        return Err(Failure::new(Exit::Rejected, what)
            .why(format!("key {} is not trusted itself", signer.public().key_id()))
            .next("farshore key list"));
    }
    change(&mut keys)?;
    send(client, tenant(client).await?, current.version + 1, &keys, signer).await
}

async fn send(
    client: &Client,
    tenant: TenantId,
    version: u64,
    keys: &[TrustedKey],
    signer: &SigningKey,
) -> Result<TrustedKeys> {
    let what = "can't change the trusted keys";
    let document = keyset::document(tenant, version, keys).map_err(|error| Failure::because(what, &error))?;
    let signature = blob::sign_detached(signer, &document).map_err(|error| Failure::because(what, &error))?;
    client.post_as(what, "/api/trusted-keys", &signed_set(&document, &signature)).await
}

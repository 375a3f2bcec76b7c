//! `farshore release`: pack, sign, verify, push.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_api::claim::SignedKeySet;
use farshore_api::release::{NewRelease, TrustedKeys};
use farshore_domain::release::Manifest;
use farshore_trust::blob;
use farshore_trust::key::PublicKey;

use crate::cli::Session;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::kind::find;
use crate::output::{self, Format};
use crate::release::manifest::{
    Form, Overrides, PlatformArtifact, build, read_key, read_public_key, read_template, sign,
    signature_beside, stem,
};
use crate::release::pack::{Packed, measure, pack};
use crate::release::upload::upload;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Pack a folder into a tar.gz: the same folder gives the same bytes
    Pack {
        folder: PathBuf,
        /// The file to write; FOLDER.tar.gz when left out
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make a manifest of a template and artifacts, and sign its exact bytes
    Sign(Sign),
    /// Check a manifest's signature, with keys from files or with those the devices trust
    Verify(Verify),
    /// Upload what is missing of a signed release, then the release
    Push(Push),
    /// List the releases
    List,
}

#[derive(Debug, clap::Args)]
struct Sign {
    /// The manifest: YAML or JSON, without `platforms` when --artifact is given
    manifest: PathBuf,
    /// The private key to sign with
    #[arg(long, value_name = "FILE", env = "FARSHORE_RELEASE_KEY")]
    key: PathBuf,
    /// The artifact of a platform: linux/x86_64=app.tar.gz; may come several times
    #[arg(long, value_name = "OS/ARCH[/VARIANT]=FILE")]
    artifact: Vec<PlatformArtifact>,
    /// The folder to write to: manifest, signature and artifacts
    #[arg(long, value_name = "FOLDER", default_value = "out")]
    out: PathBuf,
    /// Write a Sigstore bundle v0.3 instead of a detached signature
    #[arg(long)]
    bundle: bool,
    /// Sign the file as it is, without reading it as a template
    #[arg(long, conflicts_with_all = ["artifact", "app", "release_version", "floor"])]
    exact: bool,
    /// The app, over what the manifest says
    #[arg(long)]
    app: Option<String>,
    /// The version, over what the manifest says
    #[arg(long = "release-version", value_name = "VERSION")]
    release_version: Option<String>,
    /// The floor, over what the manifest says
    #[arg(long, value_name = "VERSION")]
    floor: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Verify {
    manifest: PathBuf,
    /// The signature; the manifest's name with .sig or .sigstore.json when left out
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// A public key to check with; may come several times; the server's trusted keys when left out
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Push {
    /// A manifest, or a folder with manifests
    #[arg(required = true)]
    path: Vec<PathBuf>,
    /// The signature, as cosign, openssl or `release sign` made it
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Where else artifacts lie: a file or a folder; may come several times
    #[arg(long, value_name = "PATH")]
    artifact: Vec<PathBuf>,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    match arguments.verb {
        Verb::Pack { folder, out } => {
            let out = out.unwrap_or_else(|| {
                let mut name = folder.clone().into_os_string();
                while name.as_encoded_bytes().ends_with(b"/") {
                    name = name.to_string_lossy().trim_end_matches('/').into();
                }
                name.push(".tar.gz");
                name.into()
            });
            let packed = pack(&folder, &out)?;
            eprintln!("Wrote {} ({} bytes).", packed.path.display(), packed.size);
            output::print(&format!("{}\n", packed.digest))
        }
        Verb::Sign(sign) => run_sign(session, &sign),
        Verb::Verify(verify) => run_verify(session, &verify).await,
        Verb::Push(push) => run_push(session, &push).await,
        Verb::List => {
            let kind = find("release")?;
            session.output.list(kind, &super::get::fetch(&session.client()?, kind, &[], None).await?)
        }
    }
}

fn run_sign(session: &Session, arguments: &Sign) -> Result<()> {
    let what = "can't sign the release";
    let key = read_key(&arguments.key)?;
    let (manifest, bytes, artifacts) = if arguments.exact {
        let bytes = fs::read(&arguments.manifest).map_err(|error| Failure::because(what, &error))?;
        let manifest = Manifest::parse(&bytes).map_err(|error| Failure::because(what, &error))?;
        (manifest, bytes, Vec::new())
    } else {
        let overrides = Overrides {
            tenant: session.server.tenant.clone(),
            app: arguments.app.clone(),
            version: arguments.release_version.clone(),
            floor: arguments.floor.clone(),
        };
        let built = build(read_template(&arguments.manifest)?, &overrides, &arguments.artifact)?;
        (built.manifest, built.bytes, built.artifacts)
    };
    let form = if arguments.bundle { Form::Bundle } else { Form::Detached };
    let path = write_signed(&arguments.out, &manifest, &bytes, &sign(&key, &bytes, form)?, form)?;
    for artifact in &artifacts {
        place(artifact, &arguments.out)?;
    }
    eprintln!("Signed {} {} with key {}.", manifest.app, manifest.version, key.public().key_id());
    eprintln!("Next: farshore release push {}", path.display());
    output::print(&format!("{}\n", path.display()))
}

/// Writes a manifest and its signature into a folder; the answer is the manifest's path.
pub(crate) fn write_signed(
    out: &Path,
    manifest: &Manifest,
    bytes: &[u8],
    signature: &str,
    form: Form,
) -> Result<PathBuf> {
    let failed =
        |error: std::io::Error| Failure::because(format!("can't write to {}", out.display()), &error);
    fs::create_dir_all(out).map_err(failed)?;
    let path = out.join(format!("{}.manifest.json", stem(manifest)));
    fs::write(&path, bytes).map_err(failed)?;
    // A signature of the other form from an earlier run would be taken for this one's.
    for other in [Form::Detached, Form::Bundle] {
        let file = out.join(format!("{}.manifest.json.{}", stem(manifest), other.ending()));
        if other == form {
            fs::write(&file, signature).map_err(failed)?;
        } else if file.exists() {
            fs::remove_file(&file).map_err(failed)?;
        }
    }
    Ok(path)
}

/// Puts an artifact beside its manifest: a link where that is possible, else a copy.
fn place(artifact: &Packed, out: &Path) -> Result<()> {
    let Some(name) = artifact.path.file_name() else { return Ok(()) };
    let target = out.join(name);
    let failed =
        |error: std::io::Error| Failure::because(format!("can't write {}", target.display()), &error);
    if target.exists() {
        if measure(&target)?.digest == artifact.digest {
            return Ok(());
        }
        fs::remove_file(&target).map_err(failed)?;
    }
    fs::hard_link(&artifact.path, &target)
        .or_else(|_| fs::copy(&artifact.path, &target).map(drop))
        .map_err(failed)
}

async fn run_verify(session: &Session, arguments: &Verify) -> Result<()> {
    let what = format!("can't verify {}", arguments.manifest.display());
    let bytes = fs::read(&arguments.manifest).map_err(|error| Failure::because(&what, &error))?;
    let path = match &arguments.signature {
        Some(path) => path.clone(),
        None => signature_beside(&arguments.manifest)?,
    };
    let signature = fs::read(&path)
        .map_err(|error| Failure::because(format!("can't read {}", path.display()), &error))?;
    let keys: Vec<(String, PublicKey)> = if arguments.key.is_empty() {
        let trusted: TrustedKeys =
            session.client()?.get_as("can't read the trusted keys", "/api/trusted-keys").await?;
        trusted
            .keys
            .iter()
            .map(|key| {
                Ok((
                    key.name.clone(),
                    PublicKey::from_pem(&key.pem).map_err(|error| Failure::because(&what, &error))?,
                ))
            })
            .collect::<Result<_>>()?
    } else {
        arguments
            .key
            .iter()
            .map(|path| Ok((path.display().to_string(), read_public_key(path)?)))
            .collect::<Result<_>>()?
    };
    let public: Vec<_> = keys.iter().map(|(_, key)| key.clone()).collect();
    let key_id = blob::verify_blob(&public, &bytes, &signature)
        .map_err(|error| Failure::new(Exit::Rejected, &what).caused_by(&error))?;
    let manifest =
        Manifest::parse(&bytes).map_err(|error| Failure::new(Exit::Rejected, &what).caused_by(&error))?;
    let name = keys.iter().find(|(_, key)| key.key_id() == key_id).map_or("", |(name, _)| name.as_str());
    match session.output.format {
        Format::Table | Format::Wide | Format::Name => output::print(&format!(
            "{} {} of tenant {}: signed by {name} ({key_id})\n",
            manifest.app, manifest.version, manifest.tenant
        )),
        _ => output::print(&format!(
            "{}\n",
            serde_json::json!({"app": manifest.app, "version": manifest.version, "tenant": manifest.tenant, "key": name, "keyId": key_id})
        )),
    }
}

async fn run_push(session: &Session, arguments: &Push) -> Result<()> {
    let mut manifests = Vec::new();
    for path in &arguments.path {
        if path.is_dir() {
            manifests.extend(
                files(path)?
                    .into_iter()
                    .filter(|file| file.to_str().is_some_and(|name| name.ends_with(".manifest.json"))),
            );
        } else {
            manifests.push(path.clone());
        }
    }
    if manifests.is_empty() {
        return Err(Failure::usage("there is nothing to push")
            .why("the folder holds no *.manifest.json")
            .next("farshore release sign"));
    }
    if arguments.signature.is_some() && manifests.len() > 1 {
        return Err(Failure::usage("--signature belongs to one manifest, but there are several"));
    }
    let client = session.client()?;
    let kind = find("release")?;
    for path in manifests {
        let signature = match &arguments.signature {
            Some(signature) => signature.clone(),
            None => signature_beside(&path)?,
        };
        let mut places = arguments.artifact.clone();
        places.extend(path.parent().map(|parent| {
            if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() }
        }));
        let object = push(&client, &path, &signature, &places, false).await?;
        match session.output.format {
            Format::Table | Format::Wide => {
                output::print(&format!("release/{} pushed\n", kind.name_of(&object)))?
            }
            _ => session.output.changed(kind, &object)?,
        }
    }
    Ok(())
}

/// Uploads the artifacts of one release that the server lacks, then the release itself.
pub(crate) async fn push(
    client: &crate::client::Client,
    path: &Path,
    signature: &Path,
    places: &[PathBuf],
    quiet: bool,
) -> Result<serde_json::Value> {
    let what = format!("can't push {}", path.display());
    let bytes = fs::read(path).map_err(|error| Failure::because(&what, &error))?;
    let manifest = Manifest::parse(&bytes).map_err(|error| Failure::because(&what, &error))?;
    let signature = fs::read(signature).map_err(|error| Failure::because(&what, &error))?;
    let mut candidates = Vec::new();
    for place in places {
        candidates.extend(if place.is_dir() { files(place)? } else { vec![place.clone()] });
    }
    let mut sent = Vec::new();
    for platform in &manifest.platforms {
        let artifact = &platform.artifact;
        if sent.contains(&artifact.digest) {
            continue;
        }
        sent.push(artifact.digest);
        let same_size = candidates
            .iter()
            .filter(|file| fs::metadata(file).is_ok_and(|metadata| metadata.len() == artifact.size));
        let mut found = None;
        for file in same_size {
            let measured = measure(file)?;
            if measured.digest == artifact.digest {
                found = Some(measured);
                break;
            }
        }
        match found {
            Some(file) => drop(upload(client, &file, quiet).await?),
            // The server says so if it does not have it either.
            None => eprintln!("{} is not here; the server may have it already", artifact.digest),
        }
    }
    let release = NewRelease { manifest: STANDARD.encode(&bytes), signature: STANDARD.encode(&signature) };
    client.post(&what, "/api/releases", &release).await
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: std::io::Error| Failure::because(format!("can't read {}", folder.display()), &error);
    let entries =
        fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(failed)?;
    let mut files: Vec<_> =
        entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

/// A set of trusted keys as it is sent.
pub(crate) fn signed_set(document: &[u8], signature: &str) -> SignedKeySet {
    SignedKeySet { document: STANDARD.encode(document), signature: STANDARD.encode(signature) }
}

//! Making a manifest of a template and artifacts, and signing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use farshore_domain::release::{ArtifactFormat, MANIFEST_SCHEMA, MAX_MANIFEST_BYTES, Manifest};
use farshore_trust::blob;
use farshore_trust::key::{PublicKey, SigningKey};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::release::pack::{Packed, measure};

/// `linux/x86_64=app.tar.gz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlatformArtifact {
    pub(crate) os: String,
    pub(crate) arch: String,
    pub(crate) variant: String,
    pub(crate) path: PathBuf,
}

impl FromStr for PlatformArtifact {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} is no artifact of a platform; write OS/ARCH[/VARIANT]=FILE, for example linux/x86_64=app.tar.gz"
            )
        };
        let (platform, path) = text.split_once('=').filter(|(_, path)| !path.is_empty()).ok_or_else(bad)?;
        let parts: Vec<_> = platform.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(bad());
        }
        let (os, arch, variant) = match parts.as_slice() {
            [os, arch] => (*os, *arch, ""),
            [os, arch, variant] => (*os, *arch, *variant),
            _ => return Err(bad()),
        };
        Ok(Self { os: os.into(), arch: arch.into(), variant: variant.into(), path: path.into() })
    }
}

/// The format of an archive by its name.
pub(crate) fn format_of(path: &Path) -> Result<ArtifactFormat> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    [
        (".tar.gz", ArtifactFormat::TarGz),
        (".tgz", ArtifactFormat::TarGz),
        (".tar.zst", ArtifactFormat::TarZst),
        (".tar", ArtifactFormat::Tar),
    ]
    .into_iter()
    .find(|(ending, _)| name.ends_with(ending))
    .map(|(_, format)| format)
    .ok_or_else(|| {
        Failure::usage(format!("can't tell the format of {}", path.display()))
            .why("an artifact's name ends with .tar, .tar.gz, .tgz or .tar.zst")
            .next("farshore release pack FOLDER")
    })
}

/// What the command line sets over the template.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) tenant: Option<String>,
    pub(crate) app: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) floor: Option<String>,
}

/// A manifest with its exact bytes.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) manifest: Manifest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) artifacts: Vec<Packed>,
}

/// Reads a template: a manifest in YAML or JSON, with or without `schema` and `platforms`.
pub(crate) fn read_template(path: &Path) -> Result<Value> {
    let what = || format!("can't read the manifest {}", path.display());
    let text = fs::read_to_string(path).map_err(|error| Failure::because(what(), &error))?;
    if text.len() > MAX_MANIFEST_BYTES {
        return Err(
            Failure::new(Exit::Failed, what()).why(format!("it has more than {MAX_MANIFEST_BYTES} bytes"))
        );
    }
    let value = if path.extension().is_some_and(|ending| ending == "json") {
        serde_json::from_str(&text).map_err(|error| Failure::because(what(), &error))?
    } else {
        let value = serde_norway::Value::deserialize(serde_norway::Deserializer::from_str(&text))
            .map_err(|error| Failure::because(what(), &error))?;
        serde_json::to_value(value).map_err(|error| Failure::because(what(), &error))?
    };
    if Value::is_object(&value) {
        Ok(value)
    } else {
        Err(Failure::new(Exit::Failed, what()).why("a manifest is an object"))
    }
}

/// Fills in schema, digests and sizes, and checks the whole as a device would.
pub(crate) fn build(
    mut template: Value,
    overrides: &Overrides,
    artifacts: &[PlatformArtifact],
) -> Result<Built> {
    let what = "can't make the manifest";
    let mut packed = Vec::new();
    if let Some(object) = template.as_object_mut() {
        object.entry("schema").or_insert_with(|| MANIFEST_SCHEMA.into());
        let texts = [
            ("tenant", &overrides.tenant),
            ("app", &overrides.app),
            ("version", &overrides.version),
            ("floor", &overrides.floor),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                object.insert(key.to_owned(), text.as_str().into());
            }
        }
        // YAML reads `version: 1.1` as a number; a person means the text.
        for key in ["version", "floor"] {
            if let Some(number) = object.get(key).filter(|value| value.is_number()).map(Value::to_string) {
                return Err(Failure::usage(what)
                    .why(format!("{key} is the number {number}; write it in quotes: \"{number}\"")));
            }
        }
        if !artifacts.is_empty() {
            let mut platforms = Vec::new();
            for artifact in artifacts {
                let file = measure(&artifact.path)?;
                let mut platform = json!({"os": artifact.os, "arch": artifact.arch,
                    "artifact": {"digest": file.digest, "size": file.size, "format": format_of(&artifact.path)?}});
                if let (false, Some(object)) = (artifact.variant.is_empty(), platform.as_object_mut()) {
                    object.insert("variant".to_owned(), artifact.variant.as_str().into());
                }
                platforms.push(platform);
                packed.push(file);
            }
            object.insert("platforms".to_owned(), platforms.into());
        }
    }
    let manifest: Manifest = serde_path_to_error::deserialize(template).map_err(|error| {
        let path = error.path().to_string();
        Failure::usage(what).why(if path == "." {
            error.inner().to_string()
        } else {
            format!("{path}: {}", error.inner())
        })
    })?;
    let mut bytes = serde_json::to_vec_pretty(&manifest).map_err(|error| Failure::because(what, &error))?;
    bytes.push(b'\n');
    let manifest = Manifest::parse(&bytes).map_err(|error| Failure::usage(what).caused_by(&error))?;
    Ok(Built { manifest, bytes, artifacts: packed })
}

/// `edge-web-1.1`.
pub(crate) fn stem(manifest: &Manifest) -> String {
    format!("{}-{}", manifest.app, manifest.version)
}

/// Reads a private key.
pub(crate) fn read_key(path: &Path) -> Result<SigningKey> {
    let what = || format!("can't read the key {}", path.display());
    let pem =
        zeroize::Zeroizing::new(fs::read_to_string(path).map_err(|error| Failure::because(what(), &error))?);
    SigningKey::from_pem(&pem).map_err(|error| Failure::because(what(), &error))
}

/// Reads a public key, or the public half of a private one.
pub(crate) fn read_public_key(path: &Path) -> Result<PublicKey> {
    let what = || format!("can't read the key {}", path.display());
    let pem =
        zeroize::Zeroizing::new(fs::read_to_string(path).map_err(|error| Failure::because(what(), &error))?);
    match PublicKey::from_pem(&pem) {
        Ok(key) => Ok(key),
        Err(error) => match SigningKey::from_pem(&pem) {
            Ok(key) => Ok(key.public().clone()),
            Err(_) => Err(Failure::because(what(), &error)),
        },
    }
}

/// Which form of signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Base64, as `cosign sign-blob --key` before version 3.
    Detached,
    /// A Sigstore bundle, version 0.3.
    Bundle,
}

impl Form {
    pub(crate) const fn ending(self) -> &'static str {
        match self {
            Self::Detached => "sig",
            Self::Bundle => "sigstore.json",
        }
    }
}

/// Signs exact bytes.
pub(crate) fn sign(key: &SigningKey, bytes: &[u8], form: Form) -> Result<String> {
    match form {
        Form::Detached => blob::sign_detached(key, bytes),
        Form::Bundle => blob::sign_bundle(key, bytes),
    }
    .map_err(|error| Failure::because("can't sign", &error))
}

/// The signature file that lies beside a manifest.
pub(crate) fn signature_beside(manifest: &Path) -> Result<PathBuf> {
    let name = manifest.as_os_str();
    for form in [Form::Detached, Form::Bundle] {
        let mut path = name.to_owned();
        path.push(".");
        path.push(form.ending());
        if Path::new(&path).is_file() {
            return Ok(path.into());
        }
    }
    Err(Failure::new(Exit::Failed, format!("there is no signature beside {}", manifest.display()))
        .why("looked for the same name with .sig and .sigstore.json behind it")
        .next("farshore release push MANIFEST --signature FILE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Value {
        json!({"tenant": "acme", "app": "edge-web", "version": "1.0", "run": {"command": ["bin/app"]}})
    }

    #[test]
    fn a_manifest_is_filled_in_and_is_what_a_device_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar.gz");
        fs::write(&path, b"bytes").unwrap();
        let artifact: PlatformArtifact = format!("linux/arm/v7={}", path.display()).parse().unwrap();
        let overrides = Overrides { version: Some("1.1".into()), ..Overrides::default() };
        let built = build(template(), &overrides, &[artifact]).unwrap();
        assert_eq!(stem(&built.manifest), "edge-web-1.1");
        let found = built.manifest.artifact_for("linux", "arm", "v7").unwrap();
        assert_eq!((found.size, found.digest), (5, farshore_domain::digest::Digest::of(b"bytes")));
        assert_eq!(Manifest::parse(&built.bytes).unwrap(), built.manifest);
    }

    #[test]
    fn a_manifest_that_no_device_would_take_is_never_signed() {
        let said = |value: Value| {
            build(value, &Overrides::default(), &[]).unwrap_err().render(crate::output::Format::Table, false)
        };
        assert!(said(template()).contains("platforms"));
        let mut odd = template();
        odd["version"] = json!(1.1);
        assert!(said(odd).contains("in quotes"));
        let mut odd = template();
        odd["platforms"] = json!([]);
        odd["sandbox"] = json!(true);
        assert!(said(odd).contains("sandbox"));
    }

    #[test]
    fn platforms_and_formats_are_read() {
        for bad in ["linux=a.tar", "linux/x=", "/x=a", "a/b/c/d=e", "x"] {
            assert!(bad.parse::<PlatformArtifact>().is_err(), "{bad}");
        }
        assert_eq!(format_of(Path::new("x/A.TGZ")).unwrap(), ArtifactFormat::TarGz);
        assert_eq!(format_of(Path::new("a.tar.zst")).unwrap(), ArtifactFormat::TarZst);
        assert!(format_of(Path::new("a.zip")).is_err());
    }
}

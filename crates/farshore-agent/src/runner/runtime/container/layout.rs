//! An OCI image layout inside a release: which image it holds, what its layers are, and what its config says.
//!
//! Every blob is named by its digest and checked against it before anything of it is used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farshore_domain::digest::Digest;
use serde::Deserialize;

use super::super::RuntimeError;
use super::messages;
use crate::file;
use crate::oci::{Descriptor, ImageManifest, Index, MAX_DOCUMENT, MAX_INDEXES, MAX_LAYERS, choose};

#[derive(Debug, Deserialize)]
struct ImageConfig {
    #[serde(default)]
    config: Settings,
    rootfs: RootFs,
}

/// What an image says about how it wants to be run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Settings {
    pub(super) env: Option<Vec<String>>,
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) working_dir: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// A layer: where its blob lies, and by which name containerd keeps it once it is unpacked.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) blob: PathBuf,
    pub(super) descriptor: messages::Descriptor,
    /// Of this layer and all below it.
    pub(super) chain: String,
    pub(super) diff: Digest,
}

/// An image of a layout.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) layers: Vec<Layer>,
    pub(super) settings: Settings,
}

fn said(text: impl Into<String>) -> RuntimeError {
    RuntimeError::Said(text.into())
}

fn blob(layout: &Path, digest: Digest) -> PathBuf {
    layout.join("blobs").join("sha256").join(digest.hex())
}

fn document<T: for<'a> Deserialize<'a>>(layout: &Path, descriptor: &Descriptor) -> Result<T, RuntimeError> {
    let path = blob(layout, descriptor.digest);
    let bytes = file::read_capped(&path, MAX_DOCUMENT).map_err(RuntimeError::io("reading the image"))?;
    let bytes = bytes.ok_or_else(|| said(format!("the image lacks {}", descriptor.digest)))?;
    if Digest::of(&bytes) != descriptor.digest {
        return Err(said(format!("the image's {} is not what its digest says", descriptor.digest)));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| said(format!("the image's {}: {error}", descriptor.digest)))
}

/// Reads the one image for this device out of a layout.
pub(super) fn read(layout: &Path) -> Result<Image, RuntimeError> {
    let index = file::read_capped(&layout.join("index.json"), MAX_DOCUMENT);
    let index = index.map_err(RuntimeError::io("reading the image"))?;
    let index = index.ok_or_else(|| said("the release holds no OCI image layout: there is no index.json"))?;
    let mut index: Index =
        serde_json::from_slice(&index).map_err(|error| said(format!("the image's index.json: {error}")))?;
    for _ in 0..=MAX_INDEXES {
        let descriptor = choose(&index.manifests).map_err(said)?;
        match descriptor.media_type.as_str() {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => {
                index = document(layout, descriptor)?;
            }
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => return image(layout, descriptor),
            other => return Err(said(format!("the image's manifest is of the unknown type {other:?}"))),
        }
    }
    Err(said("the image's indexes lead to each other"))
}

fn image(layout: &Path, descriptor: &Descriptor) -> Result<Image, RuntimeError> {
    let manifest: ImageManifest = document(layout, descriptor)?;
    let config: ImageConfig = document(layout, &manifest.config)?;
    let diffs = &config.rootfs.diff_ids;
    if manifest.layers.is_empty()
        || manifest.layers.len() > MAX_LAYERS
        || manifest.layers.len() != diffs.len()
    {
        return Err(said("the image's layers are not what its config says"));
    }
    let mut layers = Vec::new();
    let mut chain: Option<String> = None;
    for (layer, diff) in manifest.layers.iter().zip(diffs) {
        let known = ["", "+gzip", "+zstd"]
            .iter()
            .any(|packed| layer.media_type == format!("application/vnd.oci.image.layer.v1.tar{packed}"))
            || layer.media_type == "application/vnd.docker.image.rootfs.diff.tar.gzip";
        if !known {
            return Err(said(format!("a layer is of the unknown type {:?}", layer.media_type)));
        }
        let link = match &chain {
            None => diff.to_string(),
            Some(below) => Digest::of(format!("{below} {diff}").as_bytes()).to_string(),
        };
        let size = i64::try_from(layer.size).map_err(|_| said("a layer is too large"))?;
        layers.push(Layer {
            blob: blob(layout, layer.digest),
            descriptor: messages::Descriptor {
                media_type: layer.media_type.clone(),
                digest: layer.digest.to_string(),
                size,
            },
            chain: link.clone(),
            diff: *diff,
        });
        chain = Some(link);
    }
    Ok(Image { layers, settings: config.config })
}

impl Settings {
    /// What runs: the manifest's command, or what the image says.
    pub(super) fn command(&self, wanted: &[String]) -> Result<Vec<String>, RuntimeError> {
        if !wanted.is_empty() {
            return Ok(wanted.to_vec());
        }
        let own = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
        let mut command = own(&self.entrypoint);
        command.extend(own(&self.cmd));
        if command.is_empty() {
            return Err(said("neither the manifest nor the image says what to run"));
        }
        Ok(command)
    }

    /// The image's environment with the app's over it, except for its search path, which is the image's affair.
    pub(super) fn environment(&self, app: &BTreeMap<String, String>) -> Vec<String> {
        let mut merged: BTreeMap<String, String> = app.clone();
        merged.insert(
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        );
        for pair in self.env.iter().flatten() {
            if let Some((key, value)) = pair.split_once('=')
                && (key == "PATH" || !app.contains_key(key))
            {
                merged.insert(key.to_owned(), value.to_owned());
            }
        }
        merged.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::architecture;

    #[test]
    fn the_chain_of_layers_is_named_as_the_specification_says() {
        // Layer names of https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid: each is the digest of "<below> <own>".
        let digest = |text: &str| Digest::of(text.as_bytes());
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let put = |value: &serde_json::Value| {
            let bytes = serde_json::to_vec(value).unwrap();
            let digest = Digest::of(&bytes);
            std::fs::write(blobs.join(digest.hex()), &bytes).unwrap();
            (digest, bytes.len())
        };
        let (config, size) = put(&serde_json::json!({
            "config": {"Env": ["PATH=/image", "A=image", "B=image"], "Entrypoint": ["/bin/x"], "Cmd": ["y"]},
            "rootfs": {"type": "layers", "diff_ids": [digest("one"), digest("two")]},
        }));
        let layer = |name: &str| serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(name), "size": 3});
        let (manifest, length) = put(&serde_json::json!({
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size},
            "layers": [layer("one"), layer("two")],
        }));
        let index = |platform: serde_json::Value| {
            let text = serde_json::json!({"manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": length, "platform": platform,
            }]});
            std::fs::write(folder.path().join("index.json"), serde_json::to_vec(&text).unwrap()).unwrap();
        };
        index(serde_json::json!({"os": "linux", "architecture": architecture()}));
        let image = read(folder.path()).unwrap();
        assert_eq!(image.layers[0].chain, digest("one").to_string());
        let both = Digest::of(format!("{} {}", digest("one"), digest("two")).as_bytes());
        assert_eq!(image.layers[1].chain, both.to_string());
        assert_eq!(image.settings.command(&[]).unwrap(), ["/bin/x", "y"]);
        let env =
            BTreeMap::from([("A".to_owned(), "app".to_owned()), ("PATH".to_owned(), "/app".to_owned())]);
        assert_eq!(image.settings.environment(&env), ["A=app", "B=image", "PATH=/image"]);

        index(serde_json::json!({"os": "linux", "architecture": "s390x"}));
        assert!(read(folder.path()).unwrap_err().to_string().contains("not for linux"));
        index(serde_json::Value::Null);
        std::fs::write(blobs.join(manifest.hex()), b"{}").unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("not what its digest says"));
    }
}

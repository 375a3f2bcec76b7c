//! Documents of OCI images: as they come from a registry, and as they lie in a layout.

use farshore_domain::digest::Digest;
use serde::Deserialize;

/// At most this many bytes in an index, a manifest or a config.
pub(crate) const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;
/// At most this many layers.
pub(crate) const MAX_LAYERS: usize = 128;
/// At most this many indexes lie before the manifest.
pub(crate) const MAX_INDEXES: usize = 3;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// All kinds of documents that name an image, as one asks a registry for them.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ImageManifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What names an image.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Index),
    Image(ImageManifest),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads one, and says of which type it is. What may be meant both ways is nothing.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, String), String> {
        let found: Either = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let media_type = found.media_type;
        match (found.manifests, found.config, found.layers) {
            (Some(manifests), None, None) => {
                Ok((Self::Index(Index { manifests }), media_type.unwrap_or_else(|| INDEX.to_owned())))
            }
            (None, Some(config), Some(layers)) if layers.len() <= MAX_LAYERS => Ok((
                Self::Image(ImageManifest { config, layers }),
                media_type.unwrap_or_else(|| MANIFEST.to_owned()),
            )),
            _ => Err("it is neither an index nor a manifest of an image".to_owned()),
        }
    }
}

pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The only manifest, or the only one for this device.
pub(crate) fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, String> {
    let fits = |found: &&Descriptor| {
        let platform = found.platform.as_ref();
        platform.is_none_or(|platform| platform.os == "linux" && platform.architecture == architecture())
    };
    let mut fitting = manifests.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(format!("the image is not for linux/{}", architecture())),
        (Some(_), Some(_)) => Err(format!("the layout holds several images for linux/{}", architecture())),
    }
}

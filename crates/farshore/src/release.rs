//! Releases as files: packing a folder, making and signing a manifest, uploading.
//!
//! What is signed are the exact bytes of the manifest's file. They are written once and never encoded again.

pub(crate) mod manifest;
pub(crate) mod pack;
pub(crate) mod progress;
pub(crate) mod upload;

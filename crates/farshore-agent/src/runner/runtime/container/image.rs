//! From the layers of an image to snapshots of containerd: sent as content, unpacked by containerd, and forgotten as content again. The release's folder
//! keeps the image, so that it need not lie on the disk three times.

use std::collections::HashMap;
use std::io::Read as _;

use super::super::super::allowed::Containerd;
use super::super::RuntimeError;
use super::grpc::{ALREADY_EXISTS, Client, GrpcError};
use super::grpc_error;
use super::layout::{Image, Layer};
use super::messages::{
    AbortContent, AppliedDiff, ApplyDiff, CommitSnapshot, DeleteContent, Empty, ListSnapshots, Mounts,
    PrepareSnapshot, SnapshotKey, Snapshots, WriteContent, WrittenContent,
};

/// One message carries this much of a blob.
const CHUNK: usize = 256 * 1024;
/// Marks what this agent has made, and keeps containerd from collecting it.
const LABELS: [(&str, &str); 2] =
    [("farshore.dev/layer", "1"), ("containerd.io/gc.root", "1970-01-01T00:00:00Z")];

fn labels() -> HashMap<String, String> {
    LABELS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Sees to it that all layers are there as snapshots. The name of the topmost.
pub(super) async fn unpack(
    client: &Client,
    device: &Containerd,
    image: &Image,
) -> Result<String, RuntimeError> {
    let mut below = String::new();
    for layer in &image.layers {
        if !is_there(client, device, &layer.chain).await? {
            unpack_layer(client, device, layer, &below).await?;
        }
        below.clone_from(&layer.chain);
    }
    Ok(below)
}

async fn is_there(client: &Client, device: &Containerd, name: &str) -> Result<bool, RuntimeError> {
    let key = SnapshotKey { snapshotter: device.snapshotter.clone(), key: name.to_owned() };
    match client.call::<Empty>("/containerd.services.snapshots.v1.Snapshots/Stat", &key).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_gone() => Ok(false),
        Err(error) => Err(grpc_error("looking for a layer")(error)),
    }
}

async fn unpack_layer(
    client: &Client,
    device: &Containerd,
    layer: &Layer,
    below: &str,
) -> Result<(), RuntimeError> {
    send(client, layer).await?;
    let key = format!("farshore-unpack-{}", layer.chain);
    // What an attempt that was cut off has left.
    remove(client, device, &key).await?;
    let prepare = PrepareSnapshot {
        snapshotter: device.snapshotter.clone(),
        key: key.clone(),
        parent: below.to_owned(),
        labels: labels(),
    };
    let mounts: Mounts = client
        .call("/containerd.services.snapshots.v1.Snapshots/Prepare", &prepare)
        .await
        .map_err(grpc_error("making room for a layer"))?;
    let apply = ApplyDiff { diff: Some(layer.descriptor.clone()), mounts: mounts.mounts };
    let applied: AppliedDiff = client
        .call("/containerd.services.diff.v1.Diff/Apply", &apply)
        .await
        .map_err(grpc_error("unpacking a layer"))?;
    let applied = applied.applied.map(|applied| applied.digest).unwrap_or_default();
    if applied != layer.diff.to_string() {
        remove(client, device, &key).await?;
        return Err(RuntimeError::Said(format!("a layer is {applied}, its image says {}", layer.diff)));
    }
    let commit = CommitSnapshot {
        snapshotter: device.snapshotter.clone(),
        name: layer.chain.clone(),
        key,
        labels: labels(),
    };
    match client.call::<Empty>("/containerd.services.snapshots.v1.Snapshots/Commit", &commit).await {
        Ok(_) => {}
        // Another app has the same layer.
        Err(error) if error.is(ALREADY_EXISTS) => {}
        Err(error) => return Err(grpc_error("keeping a layer")(error)),
    }
    let delete = DeleteContent { digest: layer.descriptor.digest.clone() };
    match client.call::<Empty>("/containerd.services.content.v1.Content/Delete", &delete).await {
        Err(error) if !error.is_gone() => Err(grpc_error("forgetting a layer's content")(error)),
        _ => Ok(()),
    }
}

/// Sends a blob. containerd checks it against its digest before it takes it.
async fn send(client: &Client, layer: &Layer) -> Result<(), RuntimeError> {
    let reference = format!("farshore-{}", layer.descriptor.digest);
    let abort = AbortContent { reference: reference.clone() };
    match client.call::<Empty>("/containerd.services.content.v1.Content/Abort", &abort).await {
        Err(error) if !error.is_gone() => return Err(grpc_error("sending a layer")(error)),
        _ => {}
    }
    let mut file = std::fs::File::open(&layer.blob).map_err(RuntimeError::io("the image lacks a layer"))?;
    let (total, expected) = (layer.descriptor.size, layer.descriptor.digest.clone());
    let mut offset = 0_i64;
    let mut done = false;
    let next = move || -> Option<std::io::Result<WriteContent>> {
        if done {
            return None;
        }
        let mut data = vec![0; CHUNK];
        let count = match file.read(&mut data) {
            Ok(count) => count,
            Err(error) => return Some(Err(error)),
        };
        data.truncate(count);
        let mut message = WriteContent {
            action: 1,
            reference: reference.clone(),
            total,
            offset,
            data,
            ..WriteContent::default()
        };
        if count == 0 {
            done = true;
            message.action = 2;
            message.expected.clone_from(&expected);
            message.labels = labels();
        }
        offset += i64::try_from(count).unwrap_or(i64::MAX);
        Some(Ok(message))
    };
    let requests = futures_util::stream::iter(std::iter::from_fn(next));
    let sent: Result<Vec<WrittenContent>, GrpcError> =
        client.stream("/containerd.services.content.v1.Content/Write", requests).await;
    match sent {
        Ok(_) => Ok(()),
        Err(error) if error.is(ALREADY_EXISTS) => Ok(()),
        Err(error) => Err(grpc_error("sending a layer")(error)),
    }
}

/// Removes a snapshot; fine when there is none, or when something still stands on it.
pub(super) async fn remove(client: &Client, device: &Containerd, key: &str) -> Result<bool, RuntimeError> {
    let key = SnapshotKey { snapshotter: device.snapshotter.clone(), key: key.to_owned() };
    match client.call::<Empty>("/containerd.services.snapshots.v1.Snapshots/Remove", &key).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_gone() || error.is_in_use() => Ok(false),
        Err(error) => Err(grpc_error("removing a snapshot")(error)),
    }
}

/// Removes layers that no container stands on any more. A release that needs one again unpacks it again.
pub(super) async fn prune(client: &Client, device: &Containerd) -> Result<(), RuntimeError> {
    let list = ListSnapshots {
        snapshotter: device.snapshotter.clone(),
        filters: vec!["labels.\"farshore.dev/layer\"==1".to_owned()],
    };
    loop {
        let found: Vec<Snapshots> = client
            .list("/containerd.services.snapshots.v1.Snapshots/List", &list)
            .await
            .map_err(grpc_error("listing layers"))?;
        let mut removed = false;
        for snapshot in found.iter().flat_map(|found| &found.info) {
            removed |= remove(client, device, &snapshot.name).await?;
        }
        // Those below come free one after the other.
        if !removed {
            return Ok(());
        }
    }
}

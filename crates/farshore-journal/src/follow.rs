//! Reading along: someone who sees every append in the order in which the journal has them.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use farshore_series::PointBatch;

use crate::stream::StreamName;

/// One who follows a journal and keeps something of his own that is derived from it.
///
/// A segment keeps its points in the order in which they came until it is sealed; [`AtRest`](crate::AtRest) reads them after a crash. So whoever keeps,
/// with what he derived, the segment and the number of points in it up to which he has read, can go on from there and counts nothing twice.
pub trait Follower: Debug + Send + Sync {
    /// These points are in the journal, in the segment `sequence` of the stream, behind those of earlier calls. Called under the journal's lock: it
    /// must be quick and must not call the journal.
    fn committed(&self, stream: &StreamName, sequence: u64, points: Arc<PointBatch>);

    /// Whether what is derived is durable for all points of this segment, which takes no more of them. It may wait for that as long as `patience`
    /// says, and may call [`append`](crate::Journal::append). As long as it says no, the segment is not sealed, and so not sent.
    fn settled(&self, stream: &StreamName, sequence: u64, patience: Duration) -> bool;
}

//! Frames between agent and control plane: protobuf messages in binary WebSocket frames.
//!
//! One frame, one message. Fields are only ever added; a receiver skips what it does not know, and `hello`/`welcome`
//! tell both sides' versions and capabilities, so that one can refrain from asking for what the other can't do.
//! Field numbers are for ever. Times are Unix milliseconds, ids are UUIDs in text.
//!
//! The device opens the channel with `GET /api/channel` on the device port, subprotocol [`SUBPROTOCOL`].

mod frames;

pub use frames::*;

use prost::Message;

/// The WebSocket subprotocol of the device channel.
pub const SUBPROTOCOL: &str = "farshore.channel.v1";
/// This version of the frames; told in `hello` and `welcome`.
pub const PROTOCOL_VERSION: u32 = 1;
/// At most this many bytes in one frame. A WebSocket message that is larger closes the channel.
pub const MAX_FRAME_BYTES: usize = 2 * 1024 * 1024;
/// How often each side pings an idle channel, in seconds: proxies close what is idle for a minute.
pub const PING_SECONDS: u64 = 25;

/// The bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame has at most {MAX_FRAME_BYTES} bytes; this one has {0}")]
    TooLarge(usize),
    #[error("the bytes are no frame of the device channel")]
    Garbage(#[source] prost::DecodeError),
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, FrameError> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge(bytes.len()));
    }
    M::decode(bytes).map_err(FrameError::Garbage)
}

impl AgentFrame {
    /// Reads a frame that an agent sent.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrameError> {
        decode(bytes)
    }

    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

impl ServerFrame {
    /// Reads a frame that the control plane sent.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrameError> {
        decode(bytes)
    }

    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_a_newer_version_is_read_with_an_empty_body() {
        // Field 1 (request_id) and an unknown field 500.
        let mut bytes = AgentFrame { request_id: "r".into(), ..Default::default() }.to_bytes();
        bytes.extend([0xa2, 0x1f, 0x01, 0x00]);
        let frame = AgentFrame::from_bytes(&bytes).unwrap();
        assert_eq!((frame.request_id.as_str(), frame.body), ("r", None));
    }

    #[test]
    fn garbage_and_giants_are_errors() {
        assert!(matches!(AgentFrame::from_bytes(&[0xff; 64]), Err(FrameError::Garbage(_))));
        assert!(matches!(
            ServerFrame::from_bytes(&vec![0; MAX_FRAME_BYTES + 1]),
            Err(FrameError::TooLarge(_))
        ));
    }
}

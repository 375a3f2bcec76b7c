//! The kernel's process connector (`linux/cn_proc.h`): processes that end, without eBPF. Needs CAP_NET_ADMIN in the first user namespace.
//!
//! It tells number, parent and status; who it was is asked of /proc while the process is waited for by its parent, and is not known
//! when that was quicker.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::netlink::{CONNECTOR, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use super::event::{Ended, Event, Kind, text};

const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
const PROC_CN_MCAST_LISTEN: u32 = 1;
const PROC_EVENT_EXIT: u32 = 0x8000_0000;
const NLMSG_DONE: u16 = 3;
/// Netlink header, then the connector's.
const NETLINK_BYTES: usize = 16;
const CONNECTOR_BYTES: usize = 20;

/// A listening socket.
#[derive(Debug)]
pub struct Connector {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl AsFd for Connector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Connector {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn listen_message() -> Vec<u8> {
    let mut message = Vec::with_capacity(NETLINK_BYTES + CONNECTOR_BYTES + 4);
    let length = u32::try_from(NETLINK_BYTES + CONNECTOR_BYTES + 4).unwrap_or_default();
    message.extend(length.to_ne_bytes());
    message.extend(NLMSG_DONE.to_ne_bytes());
    message.extend(0u16.to_ne_bytes());
    // Sequence and sender.
    message.extend([0; 8]);
    message.extend(CN_IDX_PROC.to_ne_bytes());
    message.extend(CN_VAL_PROC.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(4u16.to_ne_bytes());
    message.extend(0u16.to_ne_bytes());
    message.extend(PROC_CN_MCAST_LISTEN.to_ne_bytes());
    message
}

impl Connector {
    /// Begins to listen.
    ///
    /// # Errors
    /// Without the privilege, and where the kernel has no connector.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(CONNECTOR))?;
        bind(&socket, &SocketAddrNetlink::new(0, CN_IDX_PROC))?;
        send(&socket, &listen_message(), SendFlags::empty())?;
        Ok(Self::from_fd(socket))
    }

    /// Takes a socket that another process has opened, and which listens already.
    #[must_use]
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self { socket, buffer: vec![0; 8 * 1024] }
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// The next events; `None` when there are none now.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn take(&mut self) -> io::Result<Option<Vec<Event>>> {
        match recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((_, length)) => {
                let mut events = parse_connector(self.buffer.get(..length).unwrap_or_default());
                for event in &mut events {
                    identify(event);
                }
                Ok(Some(events))
            }
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            // More than the socket could hold: what is lost is lost, what comes next is not.
            Err(rustix::io::Errno::NOBUFS) => Ok(Some(Vec::new())),
            Err(error) => Err(error.into()),
        }
    }
}

/// Asks /proc who it was.
fn identify(event: &mut Event) {
    let Ok(stat) = std::fs::read(format!("/proc/{}/stat", event.pid)) else { return };
    let (Some(open), Some(close)) =
        (stat.iter().position(|byte| *byte == b'('), stat.iter().rposition(|byte| *byte == b')'))
    else {
        return;
    };
    event.comm = text(stat.get(open + 1..close).unwrap_or_default());
    let rest = stat.get(close + 1..).and_then(|rest| str::from_utf8(rest).ok()).unwrap_or_default();
    let mut words = rest.split_ascii_whitespace();
    // State, parent, group, session.
    if let Some(parent) = words.nth(1).and_then(|word| word.parse().ok()) {
        event.parent = parent;
    }
    if let Some(session) = words.nth(1).and_then(|word| word.parse().ok()) {
        event.session = session;
    }
}

/// The exits of whole processes in what came from the socket.
#[must_use]
pub fn parse_connector(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(length) = u32_at(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
        if length < NETLINK_BYTES || length > bytes.len() {
            break;
        }
        events.extend(bytes.get(NETLINK_BYTES..length).and_then(exit));
        // Messages are aligned to four bytes.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    events
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// One connector message: `struct cn_msg`, then `struct proc_event` (what, processor, time, then by kind).
fn exit(message: &[u8]) -> Option<Event> {
    if u32_at(message, 0)? != CN_IDX_PROC || u32_at(message, 4)? != CN_VAL_PROC {
        return None;
    }
    let event = message.get(CONNECTOR_BYTES..)?;
    if u32_at(event, 0)? != PROC_EVENT_EXIT {
        return None;
    }
    let at_ns = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
    let (thread, process) = (i32_at(event, 16)?, i32_at(event, 20)?);
    let status = i32_at(event, 24)?;
    if thread != process {
        return None;
    }
    let mut told = Event::new(Kind::ProcessExit, process, at_ns);
    told.ended = Some(Ended::of_status(status));
    // Kernels from 4.18 on tell the parent, too.
    told.parent = i32_at(event, 36).unwrap_or_default();
    Some(told)
}

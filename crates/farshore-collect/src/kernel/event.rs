//! One event of the kernel, and its bytes in the ring buffer (`struct record` of `bpf/eyes.bpf.c`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of one record.
pub(super) const RECORD_BYTES: usize = 136;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// What happened. The number is the one in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A process ended: the last of its threads.
    ProcessExit = 0,
    /// The kernel killed a process to get memory.
    OomKill = 1,
    /// A TCP segment was sent again.
    TcpRetransmit = 2,
    /// A process became another program.
    Exec = 3,
    /// A TCP connection was begun.
    Connect = 4,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::ProcessExit, Self::OomKill, Self::TcpRetransmit, Self::Exec, Self::Connect];

    /// The stable name, which is the kind of the device's event, too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProcessExit => "process_exit",
            Self::OomKill => "oom_kill",
            Self::TcpRetransmit => "tcp_retransmit",
            Self::Exec => "exec",
            Self::Connect => "connect",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ended {
    /// It left by itself, with this code.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
}

impl Ended {
    /// From a status as `wait(2)` tells it.
    #[must_use]
    pub fn of_status(status: i32) -> Self {
        let [low, high, ..] = status.to_le_bytes();
        match low & 0x7f {
            0 => Self::Code(high),
            signal => Self::Signal(signal),
        }
    }
}

/// What the kernel told. What a source does not know is zero, empty or `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// The process it is about.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// The leader of its session.
    pub session: i32,
    /// The number of its control group in the version 2 hierarchy, which is its folder's inode; 0 where it is not known.
    pub cgroup: u64,
    /// Nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// How it ended.
    pub ended: Option<Ended>,
    /// The other end of the connection.
    pub peer: Option<SocketAddr>,
    /// The name of the process: at most 15 bytes, chosen by itself.
    pub comm: String,
    /// The program that was executed.
    pub path: String,
}

impl Event {
    /// An event of which nothing else is known.
    #[must_use]
    pub fn new(kind: Kind, pid: i32, at_ns: u64) -> Self {
        Self {
            kind,
            pid,
            parent: 0,
            session: 0,
            cgroup: 0,
            at_ns,
            ended: None,
            peer: None,
            comm: String::new(),
            path: String::new(),
        }
    }

    /// Reads a record; `None` when it is none.
    #[must_use]
    pub fn parse(record: &[u8]) -> Option<Self> {
        if record.len() < RECORD_BYTES {
            return None;
        }
        let word = |at: usize| -> Option<[u8; 4]> { record.get(at..at + 4)?.try_into().ok() };
        let long = |at: usize| -> Option<[u8; 8]> { record.get(at..at + 8)?.try_into().ok() };
        let half = |at: usize| -> Option<[u8; 2]> { record.get(at..at + 2)?.try_into().ok() };
        let kind = usize::try_from(u32::from_ne_bytes(word(0)?)).ok()?;
        let kind = *Kind::ALL.get(kind)?;
        let family = u16::from_ne_bytes(half(36)?);
        let port = u16::from_ne_bytes(half(38)?);
        Some(Self {
            kind,
            pid: i32::from_ne_bytes(word(4)?),
            parent: i32::from_ne_bytes(word(8)?),
            session: i32::from_ne_bytes(word(12)?),
            cgroup: u64::from_ne_bytes(long(16)?),
            at_ns: u64::from_ne_bytes(long(24)?),
            ended: (kind == Kind::ProcessExit).then_some(Ended::of_status(i32::from_ne_bytes(word(32)?))),
            peer: address(family, port, record.get(40..56)?.try_into().ok()?),
            comm: text(record.get(56..72)?),
            path: text(record.get(72..136)?),
        })
    }
}

/// The bytes that the kernel has of an address.
pub(super) fn address(family: u16, port: u16, bytes: [u8; 16]) -> Option<SocketAddr> {
    let [a, b, c, d, ..] = bytes;
    let ip = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Text up to the first NUL. A process may call itself anything: what is no UTF-8 or a control character is replaced.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn a_status_is_read_as_wait_does() {
        assert_eq!(Ended::of_status(0), Ended::Code(0));
        assert_eq!(Ended::of_status(0x300), Ended::Code(3));
        assert_eq!(Ended::of_status(9), Ended::Signal(9));
        assert_eq!(Ended::of_status(0x8b), Ended::Signal(11), "with a core dump");
    }

    #[test]
    fn what_is_no_record_is_not_read() {
        assert_eq!(Event::parse(&[]), None);
        assert_eq!(Event::parse(&[0; RECORD_BYTES - 1]), None);
        assert_eq!(Event::parse(&[0xff; RECORD_BYTES]), None, "no such kind");
        let event = Event::parse(&[0; RECORD_BYTES]).unwrap();
        assert_eq!((event.kind, event.ended, event.peer), (Kind::ProcessExit, Some(Ended::Code(0)), None));
    }

    #[test]
    fn a_process_can_not_write_into_the_log_by_its_name() {
        assert_eq!(text(b"a\x1b[2Jb\n\0c"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(text(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn addresses_are_read_in_the_order_of_the_network() {
        let four = hex("0a4d000200000000000000000000 0000");
        let peer = address(2, 443, four.try_into().unwrap());
        assert_eq!(peer, Some("10.77.0.2:443".parse().unwrap()));
        let mapped = hex("00000000000000000000ffff0a4d0002");
        assert_eq!(address(10, 443, mapped.try_into().unwrap()), peer);
        let six = hex("20010db8000000000000000000000001");
        assert_eq!(address(10, 1, six.try_into().unwrap()), Some("[2001:db8::1]:1".parse().unwrap()));
        assert_eq!(address(1, 1, [0; 16]), None);
    }
}

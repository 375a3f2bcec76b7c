//! The loopback of a new network namespace, which is down there: brought up over netlink (`rtnetlink(7)`).

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
/// The first interface of a namespace.
const LOOPBACK: i32 = 1;
const IFF_UP: u32 = 1;

/// A `nlmsghdr` and an `ifinfomsg` that say: this interface is to be up.
fn message() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    bytes.extend_from_slice(&32_u32.to_ne_bytes());
    bytes.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // Number and port: the first message, to the kernel.
    bytes.extend_from_slice(&1_u32.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    // Any family, any type of device.
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&LOOPBACK.to_ne_bytes());
    bytes.extend_from_slice(&IFF_UP.to_ne_bytes());
    bytes.extend_from_slice(&IFF_UP.to_ne_bytes());
    bytes
}

/// What an acknowledgement says: an errno, negative, or 0.
fn answer(bytes: &[u8]) -> io::Result<()> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "an answer that is none");
    let kind = bytes.get(4..6).and_then(|part| part.try_into().ok()).map(u16::from_ne_bytes);
    let error = bytes.get(16..20).and_then(|part| part.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(odd()),
    }
}

pub(super) fn up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    send(&socket, &message(), SendFlags::empty())?;
    let mut buffer = [0_u8; 1024];
    let (count, _) = recv(&socket, &mut buffer, RecvFlags::empty())?;
    answer(buffer.get(..count).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_no_is_an_error_and_so_is_nonsense() {
        let told = |error: i32| {
            let mut bytes = vec![0; 36];
            bytes[4] = 2;
            bytes[16..20].copy_from_slice(&error.to_ne_bytes());
            answer(&bytes)
        };
        assert!(told(0).is_ok());
        assert_eq!(told(-1).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(answer(&[0; 8]).is_err());
        assert_eq!(message().len(), 32);
    }
}

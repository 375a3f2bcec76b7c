//! Where messages may go: a route's address is somebody's input, and must not reach what only this machine can reach.
//!
//! Names are resolved here and the connection goes to the very addresses that were looked at, so that a name can't mean something else a
//! moment later. Redirects are not followed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Which addresses routes may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Only those of the open internet.
    Public,
    /// Also those of private networks.
    Private,
    /// Also this machine and its link; for development.
    Any,
}

impl Targets {
    /// The setting's word; `None` when it is none.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "public" => Some(Self::Public),
            "private" => Some(Self::Private),
            "any" => Some(Self::Any),
            _ => None,
        }
    }
}

impl std::fmt::Display for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Any => "any",
        })
    }
}

/// An address that routes may not name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is an address that the server's setting alert-targets ({1}) does not allow")]
pub(super) struct Forbidden(pub(super) String, pub(super) Targets);

/// The least that has to be allowed for an address; `None`: nobody is there.
fn of_v4(ip: Ipv4Addr) -> Option<Targets> {
    let [a, b, ..] = ip.octets();
    let nobody = ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast() || a == 0 || a >= 240;
    // 192.0.0.0/24, 198.18.0.0/15 and the documentation blocks lead nowhere.
    let odd = (a == 192 && b == 0) || (a == 198 && (b == 18 || b == 19)) || ip.is_documentation();
    if nobody {
        None
    } else if ip.is_loopback() || ip.is_link_local() || odd {
        Some(Targets::Any)
    } else if ip.is_private() || (a == 100 && (64..128).contains(&b)) {
        Some(Targets::Private)
    } else {
        Some(Targets::Public)
    }
}

fn of_v6(ip: Ipv6Addr) -> Option<Targets> {
    let segments = ip.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        of_v4(Ipv4Addr::new(a, b, c, d))
    };
    if ip == Ipv6Addr::UNSPECIFIED || ip.is_multicast() {
        return None;
    }
    if ip == Ipv6Addr::LOCALHOST {
        return Some(Targets::Any);
    }
    match segments {
        // IPv4-mapped, IPv4-compatible, NAT64 and 6to4 lead to the IPv4 address inside.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        [first, ..] if first & 0xffc0 == 0xfe80 || first & 0xffc0 == 0xfec0 => Some(Targets::Any),
        [first, ..] if first & 0xfe00 == 0xfc00 => Some(Targets::Private),
        [0x2001, 0 | 0xdb8, ..] | [0x64, 0xff9b, ..] | [0x100, 0, 0, 0, ..] => Some(Targets::Any),
        _ => Some(Targets::Public),
    }
}

/// Whether an address may be connected to.
pub(super) fn allows(targets: Targets, ip: IpAddr) -> bool {
    let kind = match ip {
        IpAddr::V4(ip) => of_v4(ip),
        IpAddr::V6(ip) => of_v6(ip),
    };
    match (targets, kind) {
        (_, None) => false,
        (Targets::Any, Some(_)) => true,
        (Targets::Private, Some(kind)) => kind != Targets::Any,
        (Targets::Public, Some(kind)) => kind == Targets::Public,
    }
}

/// Looks a name up and keeps the addresses that are allowed; none is an error.
pub(super) async fn resolve(
    targets: Targets,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => tokio::net::lookup_host((bare, port)).await?.collect(),
    };
    let allowed: Vec<SocketAddr> =
        found.iter().copied().filter(|address| allows(targets, address.ip())).collect();
    match (allowed.is_empty(), found.first()) {
        (false, _) => Ok(allowed),
        (true, Some(first)) => Err(Box::new(Forbidden(format!("{host} ({})", first.ip()), targets))),
        (true, None) => Err(format!("{host} has no address").into()),
    }
}

/// The same for the HTTP client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolver(pub(super) Targets);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let targets = self.0;
        Box::pin(async move {
            let found = resolve(targets, name.as_str(), 0).await?;
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_this_machine_or_network_reaches_is_refused_in_every_spelling() {
        let local = [
            "127.0.0.1",
            "127.8.9.1",
            "169.254.169.254",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::ffff:169.254.169.254",
            "fec0::1",
        ];
        let private = [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ];
        let nowhere = ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1", "0.1.2.3"];
        let public =
            ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "172.32.0.1", "64:ff9b::5db8:d822"];
        let check = |all: &[&str], expected: [bool; 3]| {
            for text in all {
                let ip: IpAddr = text.parse().unwrap();
                let got =
                    [Targets::Public, Targets::Private, Targets::Any].map(|targets| allows(targets, ip));
                assert_eq!(got, expected, "{text}");
            }
        };
        check(&local, [false, false, true]);
        check(&private, [false, true, true]);
        check(&nowhere, [false, false, false]);
        check(&public, [true, true, true]);
    }

    #[tokio::test]
    async fn a_name_is_judged_by_its_addresses() {
        assert!(resolve(Targets::Public, "localhost", 80).await.is_err());
        assert!(resolve(Targets::Public, "[::1]", 80).await.is_err());
        assert!(!resolve(Targets::Any, "localhost", 80).await.unwrap().is_empty());
    }
}

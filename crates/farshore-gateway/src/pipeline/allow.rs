//! Where webhooks may go. The device's own configuration says so, whoever wrote the pipelines.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use super::definition::{Action, Definition, Step};
use super::webhook::target;

/// Most entries of a list.
const MAX_ENTRIES: usize = 64;

/// Addresses that webhooks of pipelines may call: `PIPELINE_WEBHOOK_ALLOW`. By default this machine and private networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookAllow(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    net: Net,
    /// Nothing: any.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Net {
    Loopback,
    Private,
    /// An address and how many of its first bits count.
    Bits(IpAddr, u8),
}

/// Why a text is no list of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address that webhooks may call: write loopback, private, an IP address or a network such as 192.168.7.0/24, each with a port where only that one may be called, with commas in between; or none"
)]
pub struct WebhookAllowError(String);

impl Default for WebhookAllow {
    fn default() -> Self {
        Self([Net::Loopback, Net::Private].map(|net| Entry { net, port: None }).into())
    }
}

impl FromStr for WebhookAllow {
    type Err = WebhookAllowError;

    fn from_str(text: &str) -> Result<Self, WebhookAllowError> {
        if text.trim() == "none" {
            return Ok(Self(Vec::new()));
        }
        let entries: Vec<Entry> = text
            .split(',')
            .map(|part| entry(part.trim()).ok_or_else(|| WebhookAllowError(part.trim().to_owned())))
            .collect::<Result<_, _>>()?;
        if entries.len() > MAX_ENTRIES {
            return Err(WebhookAllowError(format!("a list of {} entries", entries.len())));
        }
        Ok(Self(entries))
    }
}

fn entry(text: &str) -> Option<Entry> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(Entry { net: Net::Bits(ip, bits(ip)), port: None });
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Entry { net: Net::Bits(address.ip(), bits(address.ip())), port: Some(address.port()) });
    }
    if let Some((ip, prefix)) = text.split_once('/') {
        let ip: IpAddr = ip.parse().ok()?;
        // `10.0.0.0/8:9000`.
        let (prefix, port) = with_port(prefix)?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= bits(ip))?;
        return Some(Entry { net: Net::Bits(ip, prefix), port });
    }
    let (word, port) = with_port(text)?;
    let net = match word {
        "loopback" => Net::Loopback,
        "private" => Net::Private,
        _ => return None,
    };
    Some(Entry { net, port })
}

fn with_port(text: &str) -> Option<(&str, Option<u16>)> {
    match text.split_once(':') {
        None => Some((text, None)),
        Some((word, port)) => Some((word, Some(port.parse().ok()?))),
    }
}

const fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

impl Net {
    fn has(&self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::Loopback, ip) => ip.is_loopback(),
            (Self::Private, IpAddr::V4(ip)) => ip.is_private(),
            (Self::Private, IpAddr::V6(ip)) => ip.is_unique_local(),
            (Self::Bits(IpAddr::V4(net), prefix), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(*prefix);
                u32::from(*net).checked_shr(shift).unwrap_or(0)
                    == u32::from(ip).checked_shr(shift).unwrap_or(0)
            }
            (Self::Bits(IpAddr::V6(net), prefix), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(*prefix);
                u128::from(*net).checked_shr(shift).unwrap_or(0)
                    == u128::from(ip).checked_shr(shift).unwrap_or(0)
            }
            (Self::Bits(..), _) => false,
        }
    }
}

impl WebhookAllow {
    /// Whether an address may be called.
    ///
    /// # Errors
    /// The reason, where it may not.
    pub(super) fn permits(&self, address: SocketAddr) -> Result<(), String> {
        // An IPv4 address in the clothes of an IPv6 one is the same machine.
        let ip = address.ip().to_canonical();
        let nobody = ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
        let listed =
            |entry: &Entry| entry.net.has(ip) && entry.port.is_none_or(|port| port == address.port());
        if !nobody && self.0.iter().any(listed) {
            return Ok(());
        }
        Err(format!("this device does not let pipelines call {address}: PIPELINE_WEBHOOK_ALLOW is {self}"))
    }

    /// Whether all webhooks of these pipelines may be called.
    ///
    /// # Errors
    /// The first one that may not, and why.
    pub fn check(&self, definition: &Definition) -> Result<(), String> {
        for pipeline in &definition.pipelines {
            for (index, step) in pipeline.steps.iter().enumerate() {
                let Step::Rule(rule) = step else { continue };
                for action in rule.on_raise.0.iter().chain(&rule.on_clear.0) {
                    let Action::Webhook { url } = action else { continue };
                    let permitted = target(url).and_then(|target| self.permits(target.address()));
                    permitted.map_err(|why| {
                        format!(
                            "pipeline {}, step {}, rule {}: webhook {url}: {why}",
                            pipeline.name.0,
                            index + 1,
                            rule.name.0
                        )
                    })?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for WebhookAllow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, Entry { net, port }) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match (net, port) {
                (Net::Loopback, _) => f.write_str("loopback")?,
                (Net::Private, _) => f.write_str("private")?,
                (Net::Bits(ip, prefix), Some(port)) if *prefix == bits(*ip) => {
                    write!(f, "{}", SocketAddr::new(*ip, *port))?;
                    continue;
                }
                (Net::Bits(ip, prefix), None) if *prefix == bits(*ip) => write!(f, "{ip}")?,
                (Net::Bits(ip, prefix), _) => write!(f, "{ip}/{prefix}")?,
            }
            if let Some(port) = port {
                write!(f, ":{port}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(allow: &str, address: &str) -> bool {
        let allow: WebhookAllow = allow.parse().expect("a list");
        assert_eq!(allow.to_string().parse(), Ok(allow.clone()), "its own text");
        allow.permits(address.parse().expect("an address")).is_ok()
    }

    #[test]
    fn what_is_listed_may_be_called_and_nothing_else() {
        let default = WebhookAllow::default().to_string();
        assert_eq!(default, "loopback,private");
        for (allow, address, expected) in [
            (default.as_str(), "127.0.0.1:80", true),
            (&default, "[::1]:80", true),
            (&default, "10.1.2.3:9000", true),
            (&default, "[fd00::1]:80", true),
            (&default, "[::ffff:10.1.2.3]:80", true),
            (&default, "8.8.8.8:80", false),
            (&default, "[::ffff:8.8.8.8]:80", false),
            (&default, "169.254.169.254:80", false),
            (&default, "0.0.0.0:80", false),
            ("none", "127.0.0.1:80", false),
            ("loopback", "10.1.2.3:80", false),
            ("loopback:9000", "127.0.0.1:9000", true),
            ("loopback:9000", "127.0.0.1:9001", false),
            ("192.168.7.0/24:80, 203.0.113.9", "192.168.7.255:80", true),
            ("192.168.7.0/24:80, 203.0.113.9", "192.168.7.255:81", false),
            ("192.168.7.0/24:80, 203.0.113.9", "192.168.8.0:80", false),
            ("192.168.7.0/24:80, 203.0.113.9", "203.0.113.9:1", true),
            ("[fd00::1]:80", "[fd00::1]:80", true),
            ("[fd00::1]:80", "[fd00::2]:80", false),
            ("fd00::/8", "[fd12::2]:80", true),
            ("0.0.0.0/0", "8.8.8.8:80", true),
            ("0.0.0.0/0", "0.0.0.0:80", false),
            ("0.0.0.0/0", "224.0.0.1:80", false),
            ("0.0.0.0/0", "[2001:db8::1]:80", false),
        ] {
            assert_eq!(permits(allow, address), expected, "{allow} {address}");
        }
        for wrong in
            ["", "local", "10.0.0.0/33", "10.0.0.0/8:x", "loopback,,private", "plc.local", "loopback:99999"]
        {
            assert!(wrong.parse::<WebhookAllow>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn pipelines_that_call_elsewhere_are_not_taken() {
        let definition = |url: &str| {
            let text = format!(
                "pipelines:\n  - name: a\n    steps:\n      - rule: {{name: r, raise: value > 1, on_raise: [{{webhook: {{url: \"{url}\"}}}}]}}\n"
            );
            Definition::parse(&text).expect("good")
        };
        let allow: WebhookAllow = "127.0.0.1:9000".parse().expect("a list");
        assert_eq!(allow.check(&definition("http://localhost:9000/hook")), Ok(()));
        let why = allow.check(&definition("http://192.168.1.7:8080/reset")).expect_err("not listed");
        assert_eq!(
            why,
            "pipeline a, step 1, rule r: webhook http://192.168.1.7:8080/reset: this device does not let pipelines call 192.168.1.7:8080: PIPELINE_WEBHOOK_ALLOW is 127.0.0.1:9000"
        );
    }
}

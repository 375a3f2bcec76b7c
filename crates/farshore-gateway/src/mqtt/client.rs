//! Packets that a client of version 3.1.1 sends.

use super::codec::{packet, put_binary};

/// CONNECT, without a clean session and without a will.
pub(super) fn connect(
    out: &mut Vec<u8>,
    client_id: &str,
    keep_alive: u16,
    user: Option<&str>,
    password: Option<&[u8]>,
) {
    let mut body = Vec::new();
    put_binary(&mut body, b"MQTT");
    // A password without a user is none in this version.
    let password = password.filter(|_| user.is_some());
    let flags = u8::from(user.is_some()) << 7 | u8::from(password.is_some()) << 6;
    body.extend_from_slice(&[4, flags]);
    body.extend_from_slice(&keep_alive.to_be_bytes());
    put_binary(&mut body, client_id.as_bytes());
    if let Some(user) = user {
        put_binary(&mut body, user.as_bytes());
    }
    if let Some(password) = password {
        put_binary(&mut body, password);
    }
    packet(out, 0x10, &body);
}

/// SUBSCRIBE at QoS 1.
pub(super) fn subscribe(out: &mut Vec<u8>, id: u16, filters: &[String]) {
    let mut body = id.to_be_bytes().to_vec();
    for filter in filters {
        put_binary(&mut body, filter.as_bytes());
        body.push(1);
    }
    packet(out, 0x82, &body);
}

pub(super) fn ping_request(out: &mut Vec<u8>) {
    packet(out, 0xc0, &[]);
}

pub(super) fn disconnect(out: &mut Vec<u8>) {
    packet(out, 0xe0, &[]);
}

#[cfg(test)]
mod tests {
    use super::super::codec::{Packet, Version, decode};
    use super::*;

    #[test]
    fn what_a_client_says_is_understood_as_it_was_meant() {
        let mut out = Vec::new();
        connect(&mut out, "gw", 30, Some("plc"), Some(b"secret"));
        let Packet::Connect(said) = decode(&out, Version::V311).expect("well formed").expect("whole").0
        else {
            panic!("no CONNECT");
        };
        assert_eq!((said.version, said.client_id, said.keep_alive), (Version::V311, "gw", 30));
        assert_eq!((said.user, said.password, said.clean_start), (Some("plc"), Some(&b"secret"[..]), false));
        out.clear();
        connect(&mut out, "gw", 30, None, Some(b"secret"));
        let Packet::Connect(said) = decode(&out, Version::V311).expect("well formed").expect("whole").0
        else {
            panic!("no CONNECT");
        };
        assert_eq!((said.user, said.password), (None, None));
        out.clear();
        subscribe(&mut out, 7, &["a/#".to_owned(), "b/+".to_owned()]);
        let (said, _) = decode(&out, Version::V311).expect("well formed").expect("whole");
        assert_eq!(said, Packet::Subscribe { id: 7, filters: vec!["a/#", "b/+"] });
        out.clear();
        ping_request(&mut out);
        disconnect(&mut out);
        assert_eq!(out, [0xc0, 0, 0xe0, 0]);
    }
}

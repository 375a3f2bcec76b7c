//! Packets of MQTT 3.1.1 (OASIS standard of 2014) and 5.0 (of 2019), as far as readings need them: both sides of connecting, publishing at QoS 0 and 1,
//! subscribing, pinging and leaving. Reading is total and capped; what is read borrows from the buffer.

use crate::limits::{MAX_CONNECT_BYTES, MAX_FILTERS, MAX_PACKET_BYTES};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

/// A packet that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck {
        session_present: bool,
        code: u8,
    },
    Publish(Publish<'a>),
    PubAck {
        id: u16,
        code: u8,
    },
    Subscribe {
        id: u16,
        filters: Vec<&'a str>,
    },
    SubAck {
        id: u16,
        codes: &'a [u8],
    },
    Unsubscribe {
        id: u16,
        filters: Vec<&'a str>,
    },
    PingRequest,
    PingResponse,
    /// A client may change for how many seconds its session outlives the connection.
    Disconnect {
        code: u8,
        session_expiry: Option<u32>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    pub version: Version,
    pub client_id: &'a str,
    pub clean_start: bool,
    /// Seconds; 0 for none.
    pub keep_alive: u16,
    /// For how many seconds the session outlives the connection; `u32::MAX`: it does not end by itself.
    pub session_expiry: u32,
    pub user: Option<&'a str>,
    pub password: Option<&'a [u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    pub topic: &'a str,
    /// At QoS 1.
    pub id: Option<u16>,
    pub duplicate: bool,
    pub retain: bool,
    pub payload: &'a [u8],
}

/// Why bytes are no packet. The connection can't go on after one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    #[error("the packet is malformed: {0}")]
    Malformed(&'static str),
    #[error("the packet has {0} bytes, at most {MAX_PACKET_BYTES} are taken")]
    TooLarge(usize),
    #[error("protocol level {0} is unknown: MQTT 3.1.1 and 5 are spoken")]
    Version(u8),
    #[error("QoS 2 is not taken; publish at QoS 1")]
    Qos2,
    #[error("topic aliases are not taken")]
    TopicAlias,
    #[error("retained messages are not taken")]
    Retained,
    #[error("the protocol is broken: {0}")]
    Protocol(&'static str),
    #[error("the first packet has {0} bytes, at most {MAX_CONNECT_BYTES} are taken")]
    FirstTooLarge(usize),
}

const SHORT: CodecError = CodecError::Malformed("it ends early");

/// Reads the packet at the front of a buffer, and says how long it is. Nothing: more bytes are needed.
///
/// # Errors
/// When it is no packet, or one that isn't spoken here.
pub fn decode(buffer: &[u8], version: Version) -> Result<Option<(Packet<'_>, usize)>, CodecError> {
    let Some((first, width, length)) = head(buffer)? else { return Ok(None) };
    let rest = buffer.get(1..).unwrap_or_default();
    if length > MAX_PACKET_BYTES {
        return Err(CodecError::TooLarge(length));
    }
    let Some(body) = rest.get(width..width + length) else { return Ok(None) };
    let mut reader = Reader { rest: body, version };
    let flags = first & 0x0f;
    let kind = first >> 4;
    let expected = if matches!(kind, 8 | 10) { 2 } else { 0 };
    if kind != 3 && flags != expected {
        return Err(CodecError::Malformed("its flags are wrong"));
    }
    let packet = match kind {
        1 => Packet::Connect(reader.connect()?),
        2 => {
            let session_present = reader.byte()? & 1 != 0;
            Packet::ConnAck { session_present, code: reader.byte()? }
        }
        3 => Packet::Publish(reader.publish(flags)?),
        4 => Packet::PubAck { id: reader.id()?, code: reader.byte().unwrap_or(0) },
        8 => {
            let id = reader.id()?;
            reader.properties()?;
            let mut filters = Vec::new();
            while !reader.rest.is_empty() {
                if filters.len() == MAX_FILTERS {
                    return Err(CodecError::Malformed("it has too many topic filters"));
                }
                filters.push(reader.text()?);
                reader.subscription_options()?;
            }
            if filters.is_empty() {
                return Err(CodecError::Protocol("it has no topic filter"));
            }
            Packet::Subscribe { id, filters }
        }
        9 => {
            let id = reader.id()?;
            reader.properties()?;
            Packet::SubAck { id, codes: reader.rest }
        }
        10 => {
            let id = reader.id()?;
            reader.properties()?;
            let mut filters = Vec::new();
            while !reader.rest.is_empty() {
                if filters.len() == MAX_FILTERS {
                    return Err(CodecError::Malformed("it has too many topic filters"));
                }
                filters.push(reader.text()?);
            }
            if filters.is_empty() {
                return Err(CodecError::Protocol("it has no topic filter"));
            }
            Packet::Unsubscribe { id, filters }
        }
        12 => Packet::PingRequest,
        13 => Packet::PingResponse,
        14 => {
            let code = reader.byte().unwrap_or(0);
            let session_expiry = if reader.rest.is_empty() { None } else { reader.properties()? };
            Packet::Disconnect { code, session_expiry }
        }
        _ => return Err(CodecError::Malformed("its type is none that is spoken here")),
    };
    Ok(Some((packet, 1 + width + length)))
}

/// Reads topic and packet id of a message of version 3.1.1 that is too large for [`decode`], so that it can be passed over; and says how long it is. What
/// is there of its content is left out.
///
/// # Errors
/// When it is no message, or one that isn't spoken here.
pub fn decode_large(buffer: &[u8]) -> Result<Option<(Publish<'_>, usize)>, CodecError> {
    let Some((first, width, length)) = head(buffer)? else { return Ok(None) };
    if first >> 4 != 3 {
        return Err(CodecError::TooLarge(length));
    }
    let body = buffer.get(1 + width..).unwrap_or_default();
    let Some(topic) = body.first_chunk::<2>() else { return Ok(None) };
    let id = if first & 6 == 0 { 0 } else { 2 };
    let needed = 2 + usize::from(u16::from_be_bytes(*topic)) + id;
    if needed > length {
        return Err(SHORT);
    }
    let Some(rest) = body.get(..needed) else { return Ok(None) };
    let message = Reader { rest, version: Version::V311 }.publish(first & 0x0f)?;
    Ok(Some((message, 1 + width + length)))
}

/// How many bytes the packet at the front of a buffer has in all; 0 while that can't be told.
#[must_use]
pub fn announced(buffer: &[u8]) -> usize {
    // What has no proper form is told when it is decoded.
    head(buffer).ok().flatten().map_or(0, |(_, width, length)| 1 + width + length)
}

/// Refuses a first packet that is larger than a client of whom nothing is known may send, as soon as its length is there.
///
/// # Errors
/// When it is, or when its length has no proper form.
pub fn check_first(buffer: &[u8]) -> Result<(), CodecError> {
    match head(buffer)? {
        Some((_, _, length)) if length > MAX_CONNECT_BYTES => Err(CodecError::FirstTooLarge(length)),
        _ => Ok(()),
    }
}

/// The first byte, how many bytes say the length of what comes after them, and that length.
fn head(buffer: &[u8]) -> Result<Option<(u8, usize, usize)>, CodecError> {
    let Some((first, rest)) = buffer.split_first() else { return Ok(None) };
    let mut length = 0_usize;
    let mut width = 0;
    loop {
        let Some(byte) = rest.get(width) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * width);
        width += 1;
        if byte & 0x80 == 0 {
            return Ok(Some((*first, width, length)));
        }
        if width == 4 {
            return Err(CodecError::Malformed("its length has more than four bytes"));
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    version: Version,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, CodecError> {
        let (byte, rest) = self.rest.split_first().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*byte)
    }

    fn short(&mut self) -> Result<u16, CodecError> {
        let (bytes, rest) = self.rest.split_first_chunk::<2>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    fn id(&mut self) -> Result<u16, CodecError> {
        match self.short()? {
            0 => Err(CodecError::Malformed("its packet id is 0")),
            id => Ok(id),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(SHORT)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn binary(&mut self) -> Result<&'a [u8], CodecError> {
        let length = usize::from(self.short()?);
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, CodecError> {
        let text =
            std::str::from_utf8(self.binary()?).map_err(|_| CodecError::Malformed("a text is not UTF-8"))?;
        if text.contains('\0') {
            return Err(CodecError::Malformed("a text holds a zero"));
        }
        Ok(text)
    }

    fn varint(&mut self) -> Result<usize, CodecError> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::Malformed("a number has more than four bytes"))
    }

    /// What a client wants of a subscription. It gets QoS 0 whatever it asks for.
    fn subscription_options(&mut self) -> Result<(), CodecError> {
        let options = self.byte()?;
        // Reserved bits; in 3.1.1 those of version 5's own options, too.
        let reserved = if self.version == Version::V5 { 0xc0 } else { 0xfc };
        if options & reserved != 0 {
            return Err(CodecError::Malformed("a subscription's reserved options are set"));
        }
        if options & 3 == 3 || options & 0x30 == 0x30 {
            return Err(CodecError::Protocol("a subscription's options are none"));
        }
        Ok(())
    }

    /// Properties are checked for their form and read over: none changes what a reading means, but for a topic alias. Says for how long a session is
    /// to outlive its connection, where that stands there.
    fn properties(&mut self) -> Result<Option<u32>, CodecError> {
        let mut session_expiry = None;
        if self.version == Version::V311 {
            return Ok(session_expiry);
        }
        let length = self.varint()?;
        let mut inner = Reader { rest: self.take(length)?, version: self.version };
        while !inner.rest.is_empty() {
            match inner.varint()? {
                // Texts and binary data; user properties are two texts.
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => drop(inner.binary()?),
                0x26 => {
                    inner.binary()?;
                    inner.binary()?;
                }
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => drop(inner.byte()?),
                0x13 | 0x21 | 0x22 => drop(inner.short()?),
                0x23 => return Err(CodecError::TopicAlias),
                0x11 => {
                    let (seconds, rest) = inner.rest.split_first_chunk().ok_or(SHORT)?;
                    session_expiry = Some(u32::from_be_bytes(*seconds));
                    inner.rest = rest;
                }
                0x02 | 0x18 | 0x27 => drop(inner.take(4)?),
                0x0b => drop(inner.varint()?),
                _ => return Err(CodecError::Malformed("a property is unknown")),
            }
        }
        Ok(session_expiry)
    }

    fn connect(&mut self) -> Result<Connect<'a>, CodecError> {
        let name = self.binary()?;
        let level = self.byte()?;
        let version = match (name, level) {
            (b"MQTT", 4) => Version::V311,
            (b"MQTT", 5) => Version::V5,
            (b"MQTT" | b"MQIsdp", level) => return Err(CodecError::Version(level)),
            _ => return Err(CodecError::Malformed("it does not name MQTT")),
        };
        self.version = version;
        let flags = self.byte()?;
        if flags & 1 != 0 {
            return Err(CodecError::Malformed("its reserved flag is set"));
        }
        let keep_alive = self.short()?;
        let mut session_expiry = self.properties()?.unwrap_or(0);
        let client_id = self.text()?;
        if flags & 0x04 != 0 {
            // A will: nobody here is told of it.
            self.properties()?;
            self.text()?;
            self.binary()?;
        }
        let user = if flags & 0x80 != 0 { Some(self.text()?) } else { None };
        let password = if flags & 0x40 != 0 { Some(self.binary()?) } else { None };
        let clean_start = flags & 0x02 != 0;
        if version == Version::V311 {
            session_expiry = if clean_start { 0 } else { u32::MAX };
        }
        Ok(Connect { version, client_id, clean_start, keep_alive, session_expiry, user, password })
    }

    fn publish(&mut self, flags: u8) -> Result<Publish<'a>, CodecError> {
        let qos = flags >> 1 & 3;
        let topic = self.text()?;
        if topic.is_empty() || topic.contains(['+', '#']) {
            return Err(CodecError::Malformed("its topic is empty or holds a wildcard"));
        }
        let id = match qos {
            0 => None,
            1 => Some(self.id()?),
            2 => return Err(CodecError::Qos2),
            _ => return Err(CodecError::Malformed("its QoS is 3")),
        };
        self.properties()?;
        Ok(Publish { topic, id, duplicate: flags & 8 != 0, retain: flags & 1 != 0, payload: self.rest })
    }
}

/// Writes a packet: type and flags, then what `body` appends.
pub(super) fn packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    varint(out, body.len());
    out.extend_from_slice(body);
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

pub(super) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes.get(..usize::from(length)).unwrap_or(bytes));
}

/// `assigned` is the name that a client without one gets.
pub fn conn_ack(
    out: &mut Vec<u8>,
    version: Version,
    session_present: bool,
    code: u8,
    receive_maximum: u16,
    assigned: Option<&str>,
) {
    let mut body = vec![u8::from(session_present), code];
    if version == Version::V5 {
        let mut properties = Vec::new();
        if code == 0 {
            properties.push(0x21);
            properties.extend_from_slice(&receive_maximum.to_be_bytes());
            // At most QoS 1, nothing of clients retained, wildcards, no numbered or shared subscriptions.
            properties.extend_from_slice(&[0x24, 1, 0x25, 0, 0x28, 1, 0x29, 0, 0x2a, 0]);
            properties.push(0x27);
            let most = u32::try_from(MAX_PACKET_BYTES).unwrap_or(u32::MAX);
            properties.extend_from_slice(&most.to_be_bytes());
            if let Some(name) = assigned {
                properties.push(0x12);
                put_binary(&mut properties, name.as_bytes());
            }
        }
        varint(&mut body, properties.len());
        body.extend_from_slice(&properties);
    }
    packet(out, 0x20, &body);
}

/// The reason is sent to clients of version 5 only; others know no other than "taken".
pub fn pub_ack(out: &mut Vec<u8>, version: Version, id: u16, reason: u8) {
    let [high, low] = id.to_be_bytes();
    match version {
        Version::V5 if reason != 0 => packet(out, 0x40, &[high, low, reason]),
        _ => packet(out, 0x40, &[high, low]),
    }
}

/// One code for each filter: 0 for QoS 0, or why not.
pub fn sub_ack(out: &mut Vec<u8>, version: Version, id: u16, codes: &[u8]) {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
        body.extend_from_slice(codes);
    } else {
        body.extend(codes.iter().map(|code| if *code == 0 { 0 } else { 0x80 }));
    }
    packet(out, 0x90, &body);
}

/// One code for each filter, told to version 5 only.
pub fn unsub_ack(out: &mut Vec<u8>, version: Version, id: u16, codes: &[u8]) {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
        body.extend_from_slice(codes);
    }
    packet(out, 0xb0, &body);
}

/// A message at QoS 0. `retained`: it was there before it was asked for.
pub fn publish(out: &mut Vec<u8>, version: Version, topic: &str, payload: &[u8], retained: bool) {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 3);
    put_binary(&mut body, topic.as_bytes());
    if version == Version::V5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    packet(out, 0x30 | u8::from(retained), &body);
}

pub fn ping_response(out: &mut Vec<u8>) {
    packet(out, 0xd0, &[]);
}

/// Only version 5 has it from the server.
pub fn disconnect(out: &mut Vec<u8>, version: Version, reason: u8) {
    if version == Version::V5 {
        packet(out, 0xe0, &[reason]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(bytes: &[u8], version: Version) -> Packet<'_> {
        let (packet, length) = decode(bytes, version).expect("well formed").expect("whole");
        assert_eq!(length, bytes.len());
        packet
    }

    #[test]
    fn packets_of_both_versions() {
        // As mosquitto_pub 2.0 sends them.
        let connect = b"\x10\x16\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01c\x00\x01u\x00\x04pass";
        let expected = Connect {
            version: Version::V311,
            client_id: "c",
            clean_start: true,
            keep_alive: 60,
            session_expiry: 0,
            user: Some("u"),
            password: Some(b"pass"),
        };
        assert_eq!(one(connect, Version::V311), Packet::Connect(expected.clone()));
        let connect = b"\x10\x1a\x00\x04MQTT\x05\xc2\x00\x3c\x03\x21\x00\x14\x00\x01c\x00\x01u\x00\x04pass";
        assert_eq!(
            one(connect, Version::V311),
            Packet::Connect(Connect { version: Version::V5, ..expected })
        );
        let publish = b"\x3a\x09\x00\x03a/b\x00\x0721";
        let expected = Publish { topic: "a/b", id: Some(7), duplicate: true, retain: false, payload: b"21" };
        assert_eq!(one(publish, Version::V311), Packet::Publish(expected.clone()));
        let publish = b"\x3a\x0f\x00\x03a/b\x00\x07\x05\x02\x00\x00\x00\x3c21";
        assert_eq!(one(publish, Version::V5), Packet::Publish(expected));
        assert_eq!(
            one(b"\x30\x04\x00\x01ax", Version::V311),
            Packet::Publish(Publish { topic: "a", id: None, duplicate: false, retain: false, payload: b"x" })
        );
        assert_eq!(
            one(b"\x82\x06\x00\x01\x00\x01#\x00", Version::V311),
            Packet::Subscribe { id: 1, filters: vec!["#"] }
        );
        assert_eq!(one(b"\xc0\x00", Version::V5), Packet::PingRequest);
        assert_eq!(one(b"\xe0\x00", Version::V5), Packet::Disconnect { code: 0, session_expiry: None });
        let changed = b"\xe0\x07\x00\x05\x11\x00\x00\x00\x3c";
        assert_eq!(one(changed, Version::V5), Packet::Disconnect { code: 0, session_expiry: Some(60) });
    }

    #[test]
    fn what_is_written_can_be_read() {
        for version in [Version::V311, Version::V5] {
            let mut out = Vec::new();
            conn_ack(&mut out, version, true, 0, 64, Some("given"));
            assert_eq!(one(&out, version), Packet::ConnAck { session_present: true, code: 0 });
            out.clear();
            pub_ack(&mut out, version, 7, 0x97);
            let code = if version == Version::V5 { 0x97 } else { 0 };
            assert_eq!(one(&out, version), Packet::PubAck { id: 7, code });
            out.clear();
            sub_ack(&mut out, version, 7, &[0, 0x97]);
            assert!(matches!(one(&out, version), Packet::SubAck { id: 7, codes: [0, b] } if *b >= 0x80));
            out.clear();
            publish(&mut out, version, "a/b", b"21", false);
            let expected =
                Publish { topic: "a/b", id: None, duplicate: false, retain: false, payload: b"21" };
            assert_eq!(one(&out, version), Packet::Publish(expected));
            out.clear();
            ping_response(&mut out);
            assert_eq!(one(&out, version), Packet::PingResponse);
        }
    }

    #[test]
    fn broken_packets_are_errors() {
        for (bytes, part) in [
            (&b"\x10\x06\x00\x04MQTT"[..], "ends early"),
            (b"\x10\x0c\x00\x04MQTT\x03\x02\x00\x3c\x00\x00", "level 3"),
            (b"\x10\x0c\x00\x04HTTP\x04\x02\x00\x3c\x00\x00", "name MQTT"),
            (b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x3c\x00\x00", "reserved"),
            (b"\x11\x00", "flags"),
            (b"\x34\x05\x00\x01a\x00\x01", "QoS 2"),
            (b"\x36\x05\x00\x01a\x00\x01", "QoS is 3"),
            (b"\x32\x05\x00\x01a\x00\x00", "packet id is 0"),
            (b"\x30\x03\x00\x01#", "wildcard"),
            (b"\x30\x02\x00\x00", "topic is empty"),
            (b"\x30\x03\x00\x01\xff", "UTF-8"),
            (b"\x30\x03\x00\x01\x00", "zero"),
            (b"\x82\x02\x00\x01", "no topic filter"),
            (b"\xa2\x02\x00\x01", "no topic filter"),
            (b"\x82\x06\x00\x01\x00\x01#\xff", "reserved options"),
            (b"\x82\x06\x00\x01\x00\x01#\x04", "reserved options"),
            (b"\x82\x06\x00\x01\x00\x01#\x03", "options are none"),
            (b"\xf0\x00", "type"),
            (b"\x00\x00", "type"),
            (b"\x30\xff\xff\xff\xff\x01", "length"),
            (b"\x30\xff\xff\xff\x7f", "at most"),
        ] {
            let error = decode(bytes, Version::V311).expect_err("broken").to_string();
            assert!(error.contains(part), "{bytes:?}: {error}");
        }
        assert_eq!(decode(b"\x30\x07\x00\x01a\x03\x23\x00\x01", Version::V5), Err(CodecError::TopicAlias));
        for (options, good) in [(b'\x2e', true), (b'\x30', false), (b'\x40', false), (b'\x03', false)] {
            let subscribe = [0x82, 7, 0, 1, 0, 0, 1, b'#', options];
            assert_eq!(decode(&subscribe, Version::V5).is_ok(), good, "{options:x}");
        }
        let error = decode(b"\x30\x05\x00\x01a\x01\x7e", Version::V5).expect_err("broken");
        assert!(error.to_string().contains("property"));
    }

    #[test]
    fn of_a_large_message_no_more_than_its_head_is_needed() {
        let large = b"\x33\xff\xff\xff\x7f\x00\x03a/b\x00\x07the beginning of much";
        assert!(matches!(decode(large, Version::V311), Err(CodecError::TooLarge(_))));
        assert_eq!(
            (announced(large), announced(&large[..4]), announced(b"\x30\x02")),
            (5 + 0x0fff_ffff, 0, 4)
        );
        let expected = Publish { topic: "a/b", id: Some(7), duplicate: false, retain: true, payload: b"" };
        assert_eq!(decode_large(large), Ok(Some((expected, 5 + 0x0fff_ffff))));
        for cut in 0..12 {
            assert_eq!(decode_large(&large[..cut]), Ok(None), "{cut}");
        }
        let (message, _) =
            decode_large(b"\x30\xff\xff\xff\x7f\x00\x01ax").expect("well formed").expect("whole");
        assert_eq!((message.topic, message.id), ("a", None));
        assert!(matches!(decode_large(b"\x20\xff\xff\xff\x7f"), Err(CodecError::TooLarge(_))));
        assert!(matches!(decode_large(b"\x30\x02\x00\x09"), Err(CodecError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_refused_or_waited_for(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            first in prop::sample::select(vec![0x10_u8, 0x30, 0x32, 0x3a, 0x82, 0xa2, 0xc0, 0xe0]),
            five in any::<bool>(),
        ) {
            let version = if five { Version::V5 } else { Version::V311 };
            let mut framed = vec![first, u8::try_from(bytes.len()).unwrap_or(0)];
            framed.extend_from_slice(&bytes);
            for buffer in [&bytes, &framed] {
                if let Ok(Some((_, length))) = decode(buffer, version) {
                    prop_assert!((2..=buffer.len()).contains(&length));
                }
                if let Ok(Some((_, length))) = decode_large(buffer) {
                    prop_assert!(length >= 4);
                }
            }
        }

        /// A packet that comes in pieces is the same packet.
        #[test]
        fn pieces_are_waited_for(cut in 0_usize..11) {
            let publish = b"\x3a\x09\x00\x03a/b\x00\x0721";
            prop_assert_eq!(decode(&publish[..cut], Version::V311), Ok(None));
        }
    }
}

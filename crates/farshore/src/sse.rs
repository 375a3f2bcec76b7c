//! Server-sent events (WHATWG HTML, section 9.2): parsed as they come, and opened again when the connection breaks.

use std::time::Duration;

use reqwest::Response;

use crate::client::Client;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// At most this many bytes in one event.
const MAX_EVENT: usize = 4 * 1024 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub(crate) id: Option<String>,
    pub(crate) event: String,
    pub(crate) data: String,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Event(SseEvent),
    /// A comment, which the server sends every 15 seconds.
    Alive,
    /// The connection had to be opened again: something may have been missed.
    Reopened,
}

/// Bytes to events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    event: SseEvent,
    has_data: bool,
    size: usize,
}

impl Parser {
    /// Takes bytes in any pieces.
    pub(crate) fn feed(&mut self, bytes: &[u8], out: &mut Vec<Item>) -> Result<()> {
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.take_line(line.strip_suffix(b"\r").unwrap_or(&line), out);
                continue;
            }
            self.size += 1;
            if self.size > MAX_EVENT {
                return Err(
                    Failure::new(Exit::Failed, "can't follow the events").why("one of them is too large")
                );
            }
            self.line.push(*byte);
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8], out: &mut Vec<Item>) {
        if line.is_empty() {
            self.size = 0;
            let event = std::mem::take(&mut self.event);
            if std::mem::take(&mut self.has_data) || !event.event.is_empty() {
                out.push(Item::Event(event));
            }
            return;
        }
        let text = String::from_utf8_lossy(line);
        if text.starts_with(':') {
            self.size = 0;
            out.push(Item::Alive);
            return;
        }
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.event),
            "id" if !value.contains('\0') => self.event.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                self.event.data.push_str(value);
            }
            _ => {}
        }
    }
}

/// A stream that opens itself again.
#[derive(Debug)]
pub(crate) struct Stream {
    client: Client,
    path: String,
    query: Vec<(&'static str, String)>,
    what: String,
    response: Option<Response>,
    parser: Parser,
    ready: std::collections::VecDeque<Item>,
    last_id: Option<String>,
    failures: u32,
}

impl Stream {
    /// Opens the stream; when this returns, the server has it and nothing later is missed.
    pub(crate) async fn open(
        client: &Client,
        what: &str,
        path: &str,
        query: Vec<(&'static str, String)>,
    ) -> Result<Self> {
        let response = client.stream(what, path, &query, None).await?;
        Ok(Self {
            client: client.clone(),
            path: path.to_owned(),
            query,
            what: what.to_owned(),
            response: Some(response),
            parser: Parser::default(),
            ready: std::collections::VecDeque::new(),
            last_id: None,
            failures: 0,
        })
    }

    /// The next item. Ends only with an error, after several tries to open the stream again.
    pub(crate) async fn next(&mut self) -> Result<Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                if let Item::Event(event) = &item
                    && event.id.is_some()
                {
                    self.last_id.clone_from(&event.id);
                }
                return Ok(item);
            }
            let Some(response) = &mut self.response else {
                self.reopen().await?;
                return Ok(Item::Reopened);
            };
            match response.chunk().await {
                Ok(Some(bytes)) => {
                    self.failures = 0;
                    let mut items = Vec::new();
                    self.parser.feed(&bytes, &mut items)?;
                    self.ready.extend(items);
                }
                Ok(None) | Err(_) => {
                    self.response = None;
                    self.parser = Parser::default();
                }
            }
        }
    }

    async fn reopen(&mut self) -> Result<()> {
        loop {
            self.failures += 1;
            tokio::time::sleep(Duration::from_millis(100 << self.failures.min(6))).await;
            match self.client.stream(&self.what, &self.path, &self.query, self.last_id.as_deref()).await {
                Ok(response) => {
                    self.response = Some(response);
                    return Ok(());
                }
                Err(failure) if self.failures >= 8 || failure.code().is_some() => return Err(failure),
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&str]) -> Vec<Item> {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.feed(piece.as_bytes(), &mut out).unwrap();
        }
        out
    }

    fn event(id: Option<&str>, event: &str, data: &str) -> Item {
        Item::Event(SseEvent { id: id.map(Into::into), event: event.into(), data: data.into() })
    }

    #[test]
    fn events_come_out_however_the_bytes_are_cut() {
        let whole =
            ": hi\r\nid: 7\nevent: device.claimed\ndata: {\"a\":\ndata: 1}\n\nevent: reset\n\ndata:x\n\n";
        let expected = vec![
            Item::Alive,
            event(Some("7"), "device.claimed", "{\"a\":\n1}"),
            event(None, "reset", ""),
            event(None, "", "x"),
        ];
        assert_eq!(parse(&[whole]), expected);
        for cut in 1..whole.len() {
            assert_eq!(parse(&[&whole[..cut], &whole[cut..]]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; MAX_EVENT];
        assert!(parser.feed(&piece, &mut Vec::new()).is_ok());
        assert!(parser.feed(b"x", &mut Vec::new()).is_err());
    }
}

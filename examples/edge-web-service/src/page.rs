//! The answers: the page, its version and its health.

use std::fmt::Write;

use crate::health::Health;
use crate::settings::Settings;

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Response {
    fn json(status: u16, body: String) -> Self {
        Self { status, content_type: "application/json", body }
    }

    /// An error that the HTTP layer found.
    pub(crate) fn error(status: u16, reason: &str) -> Self {
        Self::json(status, format!("{{\"error\":{}}}\n", quote(reason)))
    }

    fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Bad Request",
        }
    }

    /// The bytes to send; `body` says whether the body goes with it (it does not for HEAD).
    pub(crate) fn encode(&self, body: bool) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\
             Connection: close\r\n\r\n",
            self.status,
            self.reason(),
            self.content_type,
            self.body.len(),
        );
        let mut bytes = head.into_bytes();
        if body {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

/// Answers a request for `path`. `served` counts the requests before this one.
pub(crate) fn answer(path: &str, settings: &Settings, health: &Health, served: u64) -> Response {
    match path {
        "/" => Response {
            status: 200,
            content_type: "text/html; charset=utf-8",
            body: index(settings, health, served),
        },
        "/version" => Response::json(200, format!("{{\"version\":{}}}\n", quote(&settings.version))),
        "/healthz" => match health {
            Health::Healthy => Response::json(
                200,
                format!("{{\"status\":\"healthy\",\"version\":{}}}\n", quote(&settings.version)),
            ),
            Health::Unhealthy { reason } => Response::json(
                503,
                format!(
                    "{{\"status\":\"unhealthy\",\"version\":{},\"reason\":{}}}\n",
                    quote(&settings.version),
                    quote(reason)
                ),
            ),
        },
        _ => Response::error(404, "there is nothing here; try /, /healthz or /version"),
    }
}

fn index(settings: &Settings, health: &Health, served: u64) -> String {
    let health = match health {
        Health::Healthy => "✓ healthy".to_owned(),
        Health::Unhealthy { reason } => format!("✕ failing: {}", escape(reason)),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>edge-web-service {version}</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;margin:3rem auto;max-width:36rem;padding:0 1rem;color-scheme:light dark}}\
         dt{{font-weight:600}}dd{{margin:0 0 .5rem}}</style>\n\
         <h1>{greeting}</h1>\n<dl>\n<dt>Version</dt><dd>{version}</dd>\n<dt>Device</dt><dd>{hostname}</dd>\n\
         <dt>Health</dt><dd>{health}</dd>\n<dt>Requests served</dt><dd>{served}</dd>\n</dl>\n</html>\n",
        version = escape(&settings.version),
        greeting = escape(&settings.greeting),
        hostname = escape(&settings.hostname),
    )
}

/// Text for an HTML element: greeting and version come from configuration, which is not ours to trust.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A JSON string (RFC 8259 section 7).
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            control if control < ' ' => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_text_cannot_become_markup_or_break_json() {
        assert_eq!(escape("<b a='1'>&\"</b>"), "&lt;b a=&#39;1&#39;&gt;&amp;&quot;&lt;/b&gt;");
        assert_eq!(quote("a\"b\\c\n\u{1}"), "\"a\\\"b\\\\c\\u000a\\u0001\"");
    }
}

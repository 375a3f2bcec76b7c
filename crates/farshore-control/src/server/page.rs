//! The page: what `web/` was built into, embedded in the binary; or, without it, one that says how to build it.

use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use farshore_api::ErrorCode;

use crate::error::ApiError;

#[derive(rust_embed::RustEmbed)]
#[folder = "../../web/dist"]
#[allow_missing = true]
struct Built;

const NOT_BUILT: &str = "<!doctype html>
<html lang=\"en\">
<head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Farshore</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;color-scheme:light dark}code{font-size:.95em}</style></head>
<body>
<h1>Farshore is running</h1>
<p>This binary was built without the page. Build it with <code>cargo xtask dev</code>, which needs Node 20 or newer, or by hand:
<code>npm ci &amp;&amp; npm run build</code> in <code>web/</code>, then <code>cargo build</code>.</p>
<p>The API is here all the same: <a href=\"/api/openapi.json\">/api/openapi.json</a>, and so is the command line: <code>farshore login</code>.</p>
</body>
</html>
";

/// Answers what no route answers: files of the page, and its `index.html` for the addresses that the page itself knows.
pub(super) async fn page(method: Method, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    if path == "api" || path.starts_with("api/") || path.starts_with('~') {
        return ApiError::new(ErrorCode::NotFound, "There is nothing at this address.").into_response();
    }
    if method != Method::GET && method != Method::HEAD {
        return ApiError::new(ErrorCode::MethodNotAllowed, "A page is read with GET.").into_response();
    }
    let found = if path.is_empty() { None } else { Built::get(path).map(|file| (path, file)) };
    if let Some((path, file)) = found {
        // Files under assets/ have their content's hash in their name.
        let cache =
            if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
        return content(kind_of(path), cache, file.data.into_owned());
    }
    // A file that is not there is not the page: a browser would take HTML for a script.
    if path.starts_with("assets/") {
        return ApiError::new(ErrorCode::NotFound, "There is no such file.").into_response();
    }
    match Built::get("index.html") {
        Some(index) => content("text/html; charset=utf-8", "no-cache", index.data.into_owned()),
        None => content("text/html; charset=utf-8", "no-cache", NOT_BUILT.as_bytes().to_vec()),
    }
}

fn content(kind: &'static str, cache: &'static str, body: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static(cache)),
    ];
    (StatusCode::OK, headers, body).into_response()
}

fn kind_of(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, end)| end) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

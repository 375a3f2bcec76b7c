//! `GET /install/{file}`: the script, the list of digests, the packages.

use std::fmt::Write as _;

use axum::body::Body as RawBody;
use axum::extract::{Path, State};
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use farshore_api::Problem;
use farshore_domain::digest::Digest;
use tokio_util::io::ReaderStream;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::route::{Access, Route, route};

const SCRIPT_NAME: &str = "bootstrap_edge_node.sh";
const SCRIPT: &str = include_str!("../../../../scripts/bootstrap_edge_node.sh");
/// Where the script says what a control plane fills in.
const MARK: &str = "# --- filled in by the control plane ---\n";

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(get))]
pub struct InstallDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/install/{file}", Access::Public, get).unhurried()]
}

/// Sends `bootstrap_edge_node.sh`, `SHA256SUMS` or a package of the agent.
#[utoipa::path(get, path = "/install/{file}", tag = "install", params(("file" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream"), (status = "4XX", body = Problem)))]
async fn get(State(app): State<App>, Path(file): Path<String>) -> ApiResult<Response> {
    match file.as_str() {
        SCRIPT_NAME => Ok(text("text/x-shellscript; charset=utf-8", script(&app).await?)),
        "SHA256SUMS" => Ok(text("text/plain; charset=utf-8", sums(&app).await?)),
        _ => {
            let missing = || ApiError::not_found("package", &file);
            let path = app.packages().path(&file).ok_or_else(missing)?;
            let opened = match tokio::fs::File::open(path).await {
                Ok(opened) => opened,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
                Err(error) => return Err(ApiError::internal(error)),
            };
            let size = opened.metadata().await.map_err(ApiError::internal)?.len();
            let headers = [
                (header::CONTENT_TYPE, "application/vnd.debian.binary-package".to_owned()),
                (header::CONTENT_LENGTH, size.to_string()),
            ];
            Ok((headers, RawBody::from_stream(ReaderStream::new(opened))).into_response())
        }
    }
}

fn text(kind: &'static str, text: String) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}

/// The packages in the form that `sha256sum -c` reads.
async fn sums(app: &App) -> ApiResult<String> {
    let listed = {
        let app = app.clone();
        tokio::task::spawn_blocking(move || app.packages().list()).await
    };
    let mut sums = String::new();
    for (name, digest) in listed.map_err(ApiError::internal)?.map_err(ApiError::internal)? {
        // Writing to a string does not fail.
        let _ = writeln!(sums, "{}  {name}", digest.hex());
    }
    Ok(sums)
}

async fn script(app: &App) -> ApiResult<String> {
    let filled = format!(
        "FARSHORE_INSTALL_URL={}\nFARSHORE_PACKAGES={}\n",
        quoted(&app.addresses().api_url),
        quoted(sums(app).await?.trim_end())
    );
    Ok(SCRIPT.replacen(MARK, &filled, 1))
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The line that an operator pastes on a device, which needs nothing but curl: it fetches the script, checks it by its digest, and gives it the token
/// where no other program sees it. None when there is no package to install.
pub(crate) async fn line(app: &App, token: &str) -> ApiResult<Option<String>> {
    if sums(app).await?.is_empty() {
        return Ok(None);
    }
    let digest = Digest::of(script(app).await?.as_bytes()).hex();
    let url = quoted(&format!("{}/install/{SCRIPT_NAME}", app.addresses().api_url));
    Ok(Some(format!(
        "curl -fsSk {url} -o {SCRIPT_NAME} && echo '{digest}  {SCRIPT_NAME}' | sha256sum -c --quiet - && printf %s {} | sudo sh {SCRIPT_NAME} --token-stdin",
        quoted(token)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_has_one_place_to_fill_in_and_words_stay_words() {
        assert_eq!(SCRIPT.matches(MARK).count(), 1);
        assert_eq!(quoted("it's $(id)"), r"'it'\''s $(id)'");
    }
}

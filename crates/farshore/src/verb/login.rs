//! `farshore login` and `farshore logout`.

use std::path::PathBuf;

use farshore_api::access::{Login, Me, RedeemLink};
use farshore_domain::digest::Digest;
use farshore_domain::name::Name;
use farshore_trust::certificate::chain_to_pem;
use farshore_trust::tls;
use reqwest::Url;
use zeroize::Zeroizing;

use crate::cli::Session;
use crate::client::{self, Client};
use crate::context::{Context, ContextFile, Target, parse_server, read_roots};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::prompt;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The server's address, such as https://farshore.example:8443, or a one-time login link
    url: String,
    /// Trust the server's own CA by its fingerprint, which it prints when it starts
    #[arg(long, value_name = "sha256:…", conflicts_with = "ca_file")]
    ca_fingerprint: Option<Digest>,
    /// The email to log in with
    #[arg(long, short)]
    email: Option<String>,
    /// Read the password from the first line of stdin
    #[arg(long)]
    password_stdin: bool,
    /// Redeem a one-time login link, or the secret in it
    #[arg(long, value_name = "LINK")]
    link: Option<String>,
    /// What to call the context; the server's host when left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl std::fmt::Debug for Arguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("login::Arguments").finish_non_exhaustive()
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct LogoutArguments {}

const WHAT: &str = "can't log in";

/// The server and the secret of a one-time link as the server prints it: `https://host:port/login#<secret>` or `…?link=<secret>`.
fn split_link(text: &str) -> Option<(String, String)> {
    let url = Url::parse(text).ok()?;
    let secret = url
        .fragment()
        .map(|fragment| fragment.strip_prefix("link=").unwrap_or(fragment).to_owned())
        .filter(|fragment| !fragment.is_empty())
        .or_else(|| url.query_pairs().find(|(key, _)| key == "link").map(|(_, value)| value.into_owned()))?;
    Some((url.origin().ascii_serialization(), secret))
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let mut link = arguments.link.clone().map(|text| split_link(&text).map_or(text, |(_, secret)| secret));
    let server = match split_link(&arguments.url) {
        Some((server, secret)) => {
            link.get_or_insert(secret);
            parse_server(&server)?
        }
        None => parse_server(&arguments.url)?,
    };
    let path = session.server.path()?;
    let mut file = ContextFile::load(&path)?;
    let name = arguments.name.clone().unwrap_or_else(|| context_name(&server));
    let roots = match (&arguments.ca_fingerprint, &session.server.ca_file) {
        (Some(fingerprint), _) => Some(vec![pin(&server, *fingerprint).await?]),
        (None, Some(ca_file)) => Some(read_roots(ca_file)?),
        // Logging in again keeps the CA that was pinned.
        (None, None) => match file.contexts.iter().find(|known| same_server(known, &server)) {
            Some(Context { ca: Some(pem), .. }) => Some(
                farshore_trust::certificate::chain_from_pem(pem)
                    .map_err(|error| Failure::because(WHAT, &error))?,
            ),
            _ => None,
        },
    };
    let ca = roots.as_ref().map(chain_to_pem);
    let mut target =
        Target { server: server.clone(), roots, token: None, tenant: session.server.tenant.clone() };
    let (me, token) = if let Some(token) = &session.server.token {
        target.token = Some(token.clone());
        let client = Client::new(target, session.debug)?;
        (client.get_as::<Me>(WHAT, "/api/me").await?, token.clone())
    } else {
        target.tenant = None;
        let client = Client::new(target, session.debug)?;
        let me = match link {
            Some(link) => redeem(&client, &arguments, link).await?,
            None => with_password(&client, session, &arguments).await?,
        };
        let token = me
            .token
            .clone()
            .ok_or_else(|| Failure::new(Exit::Failed, WHAT).why("the server gave no token"))?;
        (me, token)
    };
    file.put(Context {
        name: name.clone(),
        server: server.as_str().trim_end_matches('/').to_owned(),
        ca,
        token: Some(token),
        tenant: Some(me.tenant.to_string()),
    });
    file.save(&path)?;
    let role: String = me.role.into();
    eprintln!(
        "Logged in to {} as {} ({role}) in tenant {}.",
        server.as_str().trim_end_matches('/'),
        me.email,
        me.tenant
    );
    eprintln!("Context {name:?} is the current one now. Next: farshore get devices");
    Ok(())
}

fn same_server(context: &Context, server: &Url) -> bool {
    parse_server(&context.server).is_ok_and(|known| known == *server)
}

fn context_name(server: &Url) -> String {
    let host = server.host_str().unwrap_or("server");
    match server.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Gets the server's root, which must have this fingerprint.
async fn pin(server: &Url, fingerprint: Digest) -> Result<farshore_trust::CertificateDer<'static>> {
    let (config, root) = tls::pinned_by_fingerprint_config(fingerprint, client::clock())
        .map_err(|error| Failure::because(WHAT, &error))?;
    let http = client::http_client(server, Some(config))?;
    let mut url = server.clone();
    url.set_path("/healthz");
    let answer = http.get(url).timeout(std::time::Duration::from_secs(20)).send().await;
    match (root.get(), answer) {
        (Some(root), _) => Ok(root.clone()),
        (None, Err(error)) => Err(Failure::because(WHAT, &error)
            .why(format!("is {fingerprint} the fingerprint that the server printed?"))),
        (None, Ok(_)) => Err(Failure::new(Exit::Failed, WHAT).why("the server showed no root certificate")),
    }
}

async fn with_password(client: &Client, session: &Session, arguments: &Arguments) -> Result<Me> {
    if !prompt::can_ask() && !arguments.password_stdin {
        return Err(Failure::usage(WHAT)
            .why("there is no terminal to ask for the password on")
            .next("farshore login URL --email EMAIL --password-stdin, or with FARSHORE_TOKEN=…"));
    }
    let email = match &arguments.email {
        Some(email) => email.clone(),
        None if prompt::can_ask() => prompt::ask("Email: ")?,
        None => return Err(Failure::usage(WHAT).why("--email is missing")),
    };
    let password = if arguments.password_stdin { prompt::line()? } else { prompt::ask_secret("Password: ")? };
    let tenant = match &session.server.tenant {
        None => None,
        Some(tenant) => Some(Name::new(tenant.as_str()).map_err(|error| Failure::because(WHAT, &error))?),
    };
    let login = Login { email, password: password.to_string(), tenant, bearer: true };
    client.post_as(WHAT, "/api/login", &login).await
}

async fn redeem(client: &Client, arguments: &Arguments, link: String) -> Result<Me> {
    let given = if arguments.password_stdin { Some(prompt::line()?) } else { None };
    let request = |password: Option<&Zeroizing<String>>| RedeemLink {
        link: link.clone(),
        password: password.map(|text| text.to_string()),
        bearer: true,
    };
    match client.post_as(WHAT, "/api/login/link", &request(given.as_ref())).await {
        Err(failure) if given.is_none() && failure.names_field("password") && prompt::can_ask() => {
            eprintln!("Choose a password (at least 12 characters).");
            let first = prompt::ask_secret("New password: ")?;
            let second = prompt::ask_secret("Once more: ")?;
            if *first != *second {
                return Err(Failure::new(Exit::Failed, WHAT).why("the two passwords differ"));
            }
            client.post_as(WHAT, "/api/login/link", &request(Some(&first))).await
        }
        Err(failure) if given.is_none() && failure.names_field("password") => {
            Err(failure.next("echo PASSWORD | farshore login URL --link LINK --password-stdin"))
        }
        other => other,
    }
}

pub(crate) async fn logout(session: &Session, _: LogoutArguments) -> Result<()> {
    let path: PathBuf = session.server.path()?;
    let mut file = ContextFile::load(&path)?;
    let name = session
        .server
        .context
        .clone()
        .or_else(|| file.current_context.clone())
        .ok_or_else(|| Failure::new(Exit::NotAllowed, "can't log out").why("there is no context"))?;
    let Some(context) = file.contexts.iter_mut().find(|context| context.name == name) else {
        return Err(Failure::usage(format!("there is no context {name:?}")).next("farshore context list"));
    };
    if context.token.is_some() {
        let server = crate::context::ServerArguments {
            context: Some(name.clone()),
            config: Some(path.clone()),
            ..Default::default()
        };
        let client = Client::new(server.resolve()?, session.debug)?;
        // The local copy goes in any case: who can't reach the server still wants to be logged out here.
        if let Err(failure) =
            client.post("can't end the session on the server", "/api/logout", &serde_json::json!({})).await
            && failure.exit() != Exit::NotAllowed
        {
            eprint!("{}", failure.render(session.output.format, session.output.colours_errors()));
        }
        context.token = None;
        file.save(&path)?;
    }
    eprintln!("Logged out of context {name:?}.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_link_is_split_into_server_and_secret() {
        let split = |text| split_link(text).unwrap();
        let expected = ("https://127.0.0.1:8443".to_owned(), "fsll_abc".to_owned());
        assert_eq!(split("https://127.0.0.1:8443/login#fsll_abc"), expected);
        assert_eq!(split("https://127.0.0.1:8443/login#link=fsll_abc"), expected);
        assert_eq!(split("https://127.0.0.1:8443/login?link=fsll_abc"), expected);
        assert!(split_link("https://127.0.0.1:8443/").is_none() && split_link("fsll_abc").is_none());
    }
}

//! Logging in to the control plane in this process, and the one-time link for the person at this machine.
//!
//! The link is made in the process rather than over the API, as the first admin's is: whoever runs the control plane may let
//! themselves in.

use std::path::Path;

use farshore_api::access::{Me, RedeemLink};
use farshore_control::server::Running;
use farshore_domain::id::UserId;
use farshore_store::{Driver, SecretHash};
use farshore_trust::certificate::chain_from_pem;
use farshore_trust::token::{Secret, SecretKind};

use crate::client::Client;
use crate::context::{Context, ContextFile, Target, parse_server, write_private};
use crate::exit::Exit;
use crate::failure::{Failure, Result};

const WHAT: &str = "can't log in to the control plane";
/// How long the link for the page is good.
const LINK_MS: i64 = 12 * farshore_domain::time::HOUR_MS;

/// The admin's one-time link: its secret alone.
async fn new_link(running: &Running) -> Result<Secret> {
    let system = running.app.store().system(Driver::Authenticator);
    let email = &running.app.settings().first.admin;
    let user = system.login_user(email).await.map_err(|error| Failure::because(WHAT, &error))?;
    let user: UserId = user
        .map(|user| user.uid)
        .ok_or_else(|| Failure::new(Exit::Failed, WHAT).why(format!("there is no user {email}")))?;
    let (secret, hash) =
        Secret::generate(SecretKind::LoginLink).map_err(|error| Failure::because(WHAT, &error))?;
    let until = crate::clock::now().plus_ms(LINK_MS);
    system
        .create_login_link(user, &SecretHash(*hash.as_bytes()), until)
        .await
        .map_err(|error| Failure::because(WHAT, &error))?;
    Ok(secret)
}

/// The page's address with a link that works once.
pub(crate) async fn page_link(running: &Running) -> Result<String> {
    Ok(running.app.addresses().login_link(new_link(running).await?.expose()))
}

/// Logs in as the first admin, and writes a context file for the command line.
pub(crate) async fn admin(
    running: &Running,
    context_file: &Path,
    password_file: &Path,
    debug: bool,
) -> Result<Client> {
    let password = password(password_file)?;
    let roots = chain_from_pem(&running.ca_pem).map_err(|error| Failure::because(WHAT, &error))?;
    let mut target =
        Target { server: parse_server(&running.api_url)?, roots: Some(roots), token: None, tenant: None };
    let client = Client::new(target.clone(), debug)?;
    let redeem =
        RedeemLink { link: new_link(running).await?.expose().to_owned(), password: None, bearer: true };
    let me: Me = match client.post_as(WHAT, "/api/login/link", &redeem).await {
        Err(failure) if failure.names_field("password") => {
            // The first time: the link is still good.
            let redeem = RedeemLink { password: Some(password), ..redeem };
            client.post_as(WHAT, "/api/login/link", &redeem).await?
        }
        other => other?,
    };
    target.token.clone_from(&me.token);
    target.tenant = Some(me.tenant.to_string());
    let mut file = ContextFile::default();
    file.put(Context {
        name: "dev".to_owned(),
        server: running.api_url.clone(),
        ca: Some(running.ca_pem.clone()),
        token: me.token,
        tenant: target.tenant.clone(),
    });
    file.save(context_file)?;
    Client::new(target, debug)
}

/// The admin's password, chosen once.
fn password(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let (secret, _) =
                Secret::generate(SecretKind::Session).map_err(|error| Failure::because(WHAT, &error))?;
            let text = secret.expose().trim_start_matches(SecretKind::Session.prefix()).to_owned();
            write_private(path, text.as_bytes()).map_err(|error| Failure::because(WHAT, &error))?;
            Ok(text)
        }
        Err(error) => Err(Failure::because(WHAT, &error)),
    }
}

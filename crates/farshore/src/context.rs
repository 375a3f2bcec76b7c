//! Which server, as whom: the context file, and how flags and environment go before it.
//!
//! The file is `$XDG_CONFIG_HOME/farshore/config.yaml` (else `~/.config/…`), readable by its owner only, because it holds
//! tokens. A token is only ever sent to the server it was got from.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use farshore_trust::CertificateDer;
use farshore_trust::certificate::chain_from_pem;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// At most this many bytes in a context file.
const MAX_BYTES: u64 = 1024 * 1024;

/// The context file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ContextFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current_context: Option<String>,
    #[serde(default)]
    pub(crate) contexts: Vec<Context>,
}

/// One server and who one is there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) name: String,
    pub(crate) server: String,
    /// The roots that the server's certificate must end at, PEM; the machine's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("name", &self.name)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// What flags and environment say; flags win, which clap has decided before.
#[derive(Clone, Default, clap::Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArguments {
    /// The context to use
    #[arg(long, global = true, env = "FARSHORE_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The server's address, such as https://farshore.example:8443
    #[arg(long, global = true, env = "FARSHORE_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The roots that the server's certificate must end at
    #[arg(long, global = true, env = "FARSHORE_CA_FILE", value_name = "PEM")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A session or API token; better in the environment than on the command line
    #[arg(long, global = true, env = "FARSHORE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The tenant to act in
    #[arg(long, global = true, env = "FARSHORE_TENANT", value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// The context file
    #[arg(long, global = true, env = "FARSHORE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl std::fmt::Debug for ServerArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerArguments")
            .field("context", &self.context)
            .field("server", &self.server)
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

/// The server to talk to, after all sources have been asked.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) server: Url,
    pub(crate) roots: Option<Vec<CertificateDer<'static>>>,
    pub(crate) token: Option<String>,
    pub(crate) tenant: Option<String>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("server", &self.server.as_str())
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

impl ContextFile {
    /// Reads the file; one that is not there is empty.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let what = || format!("can't read the context file {}", path.display());
        let size = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::because(what(), &error)),
        };
        if size > MAX_BYTES {
            return Err(Failure::new(Exit::Failed, what()).why(format!("it has more than {MAX_BYTES} bytes")));
        }
        let text = fs::read_to_string(path).map_err(|error| Failure::because(what(), &error))?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_norway::from_str(&text).map_err(|error| Failure::because(what(), &error))
    }

    /// Writes the file as a whole, for its owner alone.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let what = || format!("can't write the context file {}", path.display());
        let text = serde_norway::to_string(self).map_err(|error| Failure::because(what(), &error))?;
        write_private(path, text.as_bytes()).map_err(|error| Failure::because(what(), &error))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Context> {
        self.contexts.iter().find(|context| context.name == name)
    }

    /// Puts `context` in, instead of one of the same name, and makes it the current one.
    pub(crate) fn put(&mut self, context: Context) {
        self.current_context = Some(context.name.clone());
        match self.contexts.iter_mut().find(|known| known.name == context.name) {
            Some(known) => *known = context,
            None => self.contexts.push(context),
        }
    }
}

/// Writes a file that only its owner may read, at once or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.exists() {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    let mut file = tempfile::Builder::new()
        .prefix(".farshore-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Makes a private file that must not be there yet.
pub(crate) fn create_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Where the context file lies.
pub(crate) fn default_path(environment: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let folder =
        |name: &str| environment(name).filter(|text| Path::new(text).is_absolute()).map(PathBuf::from);
    folder("XDG_CONFIG_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("farshore/config.yaml"))
        .ok_or_else(|| {
            Failure::new(Exit::Failed, "can't tell where the context file lies")
                .why("neither XDG_CONFIG_HOME nor HOME is set")
                .next("farshore --config FILE …")
        })
}

impl ServerArguments {
    /// The context file to use.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        match &self.config {
            Some(path) => Ok(path.clone()),
            None => default_path(&|name| std::env::var(name).ok()),
        }
    }

    /// Decides the server: flags and environment, then the context.
    pub(crate) fn resolve(&self) -> Result<Target> {
        // With a server from elsewhere the context file is not needed, and may be missing or broken.
        let file = match (&self.server, &self.context) {
            (Some(_), None) => ContextFile::load(&self.path()?).unwrap_or_default(),
            _ => ContextFile::load(&self.path()?)?,
        };
        self.resolve_with(&file)
    }

    fn resolve_with(&self, file: &ContextFile) -> Result<Target> {
        let name = self.context.as_ref().or(file.current_context.as_ref());
        let context = match name {
            None => None,
            Some(name) => match file.get(name) {
                Some(context) => Some(context),
                None if self.server.is_some() && self.context.is_none() => None,
                None => {
                    return Err(
                        Failure::usage(format!("there is no context {name:?}")).next("farshore context list")
                    );
                }
            },
        };
        let server = match (&self.server, context) {
            (Some(server), _) => parse_server(server)?,
            (None, Some(context)) => parse_server(&context.server)?,
            (None, None) => {
                return Err(Failure::new(Exit::NotAllowed, "don't know which server to talk to")
                    .why("there is no context, and neither --server nor FARSHORE_SERVER is given")
                    .next("farshore login https://SERVER"));
            }
        };
        // What belongs to one server (its token above all) never goes to another.
        let context =
            context.filter(|context| parse_server(&context.server).is_ok_and(|known| known == server));
        let roots = match (&self.ca_file, context.and_then(|context| context.ca.as_ref())) {
            (Some(path), _) => Some(read_roots(path)?),
            (None, Some(pem)) => Some(
                chain_from_pem(pem)
                    .map_err(|error| Failure::because("can't read the CA in the context file", &error))?,
            ),
            (None, None) => None,
        };
        let pick = |own: &Option<String>, of: fn(&Context) -> &Option<String>| {
            own.clone().or_else(|| context.and_then(|context| of(context).clone()))
        };
        Ok(Target {
            server,
            roots,
            token: pick(&self.token, |context| &context.token),
            tenant: pick(&self.tenant, |context| &context.tenant),
        })
    }
}

/// Reads a server's address: https, a host, nothing behind it.
pub(crate) fn parse_server(text: &str) -> Result<Url> {
    let bad = |why: &str| {
        Failure::usage(format!("{text:?} is no server address"))
            .why(why)
            .next("farshore login https://farshore.example:8443")
    };
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = Url::parse(&full).map_err(|error| bad(&error.to_string()))?;
    if url.scheme() != "https" {
        return Err(bad("the server speaks https only"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("it names no host"));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(bad("write only https://, the host and the port"));
    }
    if url.path() != "/" {
        return Err(bad("nothing may follow the host and the port"));
    }
    Ok(url)
}

/// Reads the roots of a PEM file.
pub(crate) fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let what = || format!("can't read the CA file {}", path.display());
    let pem = fs::read_to_string(path).map_err(|error| Failure::because(what(), &error))?;
    chain_from_pem(&pem).map_err(|error| Failure::because(what(), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> ContextFile {
        let context = |name: &str, server: &str| Context {
            name: name.into(),
            server: server.into(),
            ca: None,
            token: Some(format!("token-of-{name}")),
            tenant: Some(format!("tenant-of-{name}")),
        };
        ContextFile {
            current_context: Some("shop".into()),
            contexts: vec![context("shop", "https://shop.example"), context("lab", "https://127.0.0.1:8443")],
        }
    }

    #[test]
    fn flags_go_before_the_context_and_a_named_context_before_the_current_one() {
        let current = ServerArguments::default().resolve_with(&file()).unwrap();
        assert_eq!(
            (current.server.as_str(), current.token.as_deref()),
            ("https://shop.example/", Some("token-of-shop"))
        );
        let named = ServerArguments { context: Some("lab".into()), ..Default::default() };
        assert_eq!(named.resolve_with(&file()).unwrap().tenant.as_deref(), Some("tenant-of-lab"));
        let flag =
            ServerArguments { token: Some("mine".into()), tenant: Some("t".into()), ..Default::default() };
        let target = flag.resolve_with(&file()).unwrap();
        assert_eq!((target.token.as_deref(), target.tenant.as_deref()), (Some("mine"), Some("t")));
    }

    #[test]
    fn a_contexts_token_never_goes_to_another_server() {
        let other = ServerArguments { server: Some("https://evil.example".into()), ..Default::default() };
        let target = other.resolve_with(&file()).unwrap();
        assert_eq!((target.token, target.tenant), (None, None));
        let same = ServerArguments { server: Some("shop.example".into()), ..Default::default() };
        assert!(same.resolve_with(&file()).unwrap().token.is_some());
    }

    #[test]
    fn an_unknown_context_and_no_context_at_all_are_told_apart() {
        let unknown = ServerArguments { context: Some("nope".into()), ..Default::default() };
        assert_eq!(unknown.resolve_with(&file()).unwrap_err().exit(), Exit::Usage);
        let nothing = ServerArguments::default().resolve_with(&ContextFile::default()).unwrap_err();
        assert_eq!(nothing.exit(), Exit::NotAllowed);
    }

    #[test]
    fn only_an_https_address_without_more_is_a_server() {
        for bad in ["http://x", "https://", "https://u:p@x", "https://x/path", "https://x?q", "ftp://x", ""] {
            assert!(parse_server(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_server("localhost:1").unwrap().as_str(), "https://localhost:1/");
    }

    #[test]
    fn the_file_is_private_and_survives_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/config.yaml");
        file().save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ContextFile::load(&path).unwrap(), file());
        assert!(ContextFile::load(&folder.path().join("none")).unwrap().contexts.is_empty());
        fs::write(&path, "contexts: 3\n").unwrap();
        assert!(ContextFile::load(&path).is_err());
    }

    #[test]
    fn the_file_lies_where_xdg_says() {
        let with = |pairs: &'static [(&str, &str)]| {
            default_path(&|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(
            with(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]).unwrap(),
            Path::new("/x/farshore/config.yaml")
        );
        assert_eq!(
            with(&[("XDG_CONFIG_HOME", "rel"), ("HOME", "/h")]).unwrap(),
            Path::new("/h/.config/farshore/config.yaml")
        );
        assert!(with(&[]).is_err());
    }
}

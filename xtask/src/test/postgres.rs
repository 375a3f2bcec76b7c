//! A private PostgreSQL for the tests, made by `initdb` in a temporary folder and removed with it.
//!
//! It listens on a free loopback port with a random password and forgets durability (`fsync=off`), which tests of our
//! own code do not need. PostgreSQL refuses to run as root, so root runs it as the user `postgres`, or `nobody`.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::keeper::{self, Kept};
use crate::tools;

/// The variable by which the tests find the server.
pub(crate) const VARIABLE: &str = "FARSHORE_TEST_POSTGRES";

/// Attempts at a free port: between choosing one and listening on it somebody else may take it.
const ATTEMPTS: usize = 5;

/// Starts a server that ends with this process. [`Kept::said`] is its URL, of a superuser.
///
/// # Errors
/// When PostgreSQL is not installed or does not start.
pub(crate) fn start() -> Result<Kept> {
    if binaries().is_none() {
        bail!("PostgreSQL's server programs are missing; type: sudo apt-get install postgresql");
    }
    Kept::start(&["postgres"])
}

/// The folder with `initdb` and `pg_ctl`: the newest version Debian has, or what is on PATH.
fn binaries() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, folder)| tools::is_executable(&folder.join("initdb")))
        .collect();
    versions.sort();
    let newest = versions.pop().map(|(_, folder)| folder);
    newest.or_else(|| tools::which("initdb").and_then(|file| Some(file.parent()?.to_owned())))
}

/// The keeper's part: makes the server, says its URL, stops it when the owner has gone.
pub(crate) fn keep() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("farshore-pg-").tempdir().context("no temporary folder")?;
    let server = Server::create(folder.path())?;
    let port = server.start()?;
    let url = format!("postgres://postgres:{}@127.0.0.1:{port}/postgres", server.password);
    let waited = keeper::say_and_wait(&url);
    server.stop()?;
    folder.close().context("cannot remove the temporary folder")?;
    waited
}

#[derive(Debug)]
struct Server<'a> {
    folder: &'a Path,
    binaries: PathBuf,
    /// User and group to run as, when this process is root.
    user: Option<(u32, u32)>,
    password: String,
}

impl<'a> Server<'a> {
    fn create(folder: &'a Path) -> Result<Self> {
        let binaries = binaries().context("PostgreSQL's server programs are missing")?;
        let user = if tools::is_root() { Some(unprivileged_user()?) } else { None };
        let server = Self { folder, binaries, user, password: random_password()? };
        if let Some((uid, gid)) = user {
            chown(folder, Some(uid), Some(gid)).context("cannot hand the folder to PostgreSQL's user")?;
        }
        let password_file = folder.join("password");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&password_file)
            .context("cannot write the password file")?;
        writeln!(file, "{}", server.password).context("cannot write the password file")?;
        if let Some((uid, gid)) = user {
            chown(&password_file, Some(uid), Some(gid)).context("cannot hand the password file over")?;
        }
        quietly(
            server
                .command("initdb")
                .args([
                    "--username=postgres",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--no-locale",
                    "--no-sync",
                ])
                .arg("--pwfile")
                .arg(&password_file)
                .arg("--pgdata")
                .arg(server.data()),
        )?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let program = self.binaries.join(program);
        let mut command = match self.user {
            Some((uid, gid)) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
                command.args(["--clear-groups", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.current_dir(self.folder).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    fn start(&self) -> Result<u16> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let port = free_port()?;
            match self.start_on(port) {
                Ok(()) => return Ok(port),
                Err(error) => last = Some(error),
            }
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        Err(last
            .context("no attempt was made")?
            .context(format!("PostgreSQL does not start; its log:\n{log}")))
    }

    fn start_on(&self, port: u16) -> Result<()> {
        let sockets = self.folder.join("sockets");
        if !sockets.exists() {
            fs::DirBuilder::new().mode(0o700).create(&sockets).context("cannot make the socket folder")?;
            if let Some((uid, gid)) = self.user {
                chown(&sockets, Some(uid), Some(gid)).context("cannot hand the socket folder over")?;
            }
        }
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nfsync = off\n\
             synchronous_commit = off\nfull_page_writes = off\nmax_connections = 300\nshared_buffers = 64MB\n\
             autovacuum_naptime = 5s\nlog_min_messages = warning\n",
            sockets.display()
        );
        fs::write(self.data().join("postgresql.auto.conf"), settings).context("cannot write the settings")?;
        quietly(
            self.command("pg_ctl")
                .args(["start", "--wait", "--timeout=60", "--silent", "--log"])
                .arg(self.folder.join("log"))
                .arg("--pgdata")
                .arg(self.data()),
        )
    }

    fn stop(&self) -> Result<()> {
        quietly(
            self.command("pg_ctl")
                .args(["stop", "--mode=immediate", "--wait", "--timeout=60", "--silent", "--pgdata"])
                .arg(self.data()),
        )
    }
}

/// Runs a command without showing what it says, unless it fails. Its output goes to a file and not into a pipe: the
/// server would inherit the pipe and keep it open.
fn quietly(command: &mut Command) -> Result<()> {
    let mut said = tempfile::tempfile().context("no temporary file")?;
    let status = command
        .stdout(said.try_clone().context("no second handle")?)
        .stderr(said.try_clone().context("no second handle")?)
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    std::io::Seek::rewind(&mut said)
        .and_then(|()| said.read_to_string(&mut text))
        .context("cannot read it")?;
    bail!("`{}` ended with {status}:\n{text}", tools::shown(command))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr().context("no free port")?.port())
}

fn random_password() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The user that root lends the server: `postgres`, else `nobody`.
fn unprivileged_user() -> Result<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| find_user(&passwd, name))
        .context("there is neither a user postgres nor a user nobody to run PostgreSQL as")
}

/// User and group id of a line `name:x:uid:gid:…`.
fn find_user(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "postgres-old:x:1:1::/:/bin/sh\npostgres:x:105:113::/:/bin/sh\n";
        assert_eq!(find_user(passwd, "postgres"), Some((105, 113)));
        assert_eq!(find_user(passwd, "post"), None);
    }
}

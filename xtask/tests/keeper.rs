//! What a keeper keeps is gone when its owner is gone.

#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The address `127.0.0.1:port` in `postgres://user:password@127.0.0.1:port/database`.
fn address(url: &str) -> String {
    let after = url.trim().rsplit('@').next().expect("an address");
    after.split('/').next().expect("an address").to_owned()
}

fn folders(within: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(within).expect("temporary folder");
    entries.map(|entry| entry.expect("entry").path()).collect()
}

#[test]
fn a_kept_postgresql_ends_and_leaves_nothing_when_the_owners_pipe_closes() {
    if std::env::var_os("FARSHORE_TEST_POSTGRES").is_none() {
        eprintln!("not run by cargo xtask test, so there may be no PostgreSQL here; nothing was tested");
        return;
    }
    // A folder of its own for the keeper's temporary files, which PostgreSQL's user may enter.
    let within = std::env::temp_dir().join(format!("farshore-keeper-test-{}", std::process::id()));
    std::fs::create_dir(&within).expect("temporary folder");
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["keep", "postgres"])
        .env("TMPDIR", &within)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the keeper");
    let mut url = String::new();
    BufReader::new(keeper.stdout.take().expect("stdout")).read_line(&mut url).expect("hear the keeper");
    let address = address(&url);
    TcpStream::connect(&address).expect("the server listens");
    assert_eq!(folders(&within).len(), 1);

    drop(keeper.stdin.take());
    assert!(keeper.wait().expect("wait for the keeper").success());
    TcpStream::connect(&address).expect_err("the server has ended");
    assert_eq!(folders(&within), Vec::<PathBuf>::new());
    std::fs::remove_dir(&within).expect("remove the temporary folder");
}

//! A small HTTP service, as one would put on a kiosk: the program that the demo and the end-to-end tests roll out.
//!
//! Constraints: only the standard library, so that the file is small and starts at once; one binary gives several
//! releases, because the version is read from the environment or from a file beside it; every input is bounded, because
//! it listens on a device in a shop.
//!
//! Layout: [`settings`] reads arguments and environment, [`health`] decides whether the service is healthy, [`page`]
//! writes the answers, [`server`] accepts connections.

mod health;
mod page;
mod server;
mod settings;

use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use settings::{Invocation, Settings};

const USAGE: &str = "\
A small HTTP service to roll out with Farshore.

Usage: edge-web-service [--port N] [--listen ADDRESS]

Options:
  --port N          port to listen on; 0 lets the system choose (default: $PORT, else 8080)
  --listen ADDRESS  IPv4 address to listen on (default: 127.0.0.1)
  --version         print the version of this release
  --help            print this text

Environment:
  PORT              port, when --port is not given
  APP_VERSION       version to show; else the first line of ../version.txt or version.txt beside the program
  GREETING          text on the page
  FAIL_HEALTH_WHEN  NAME=VALUE: unhealthy while the variable NAME has the value VALUE
  UNHEALTHY_AFTER_MS  unhealthy from this time after the start on
  CRASH_AFTER_MS    end with status 70 this long after the start
";

fn main() -> ExitCode {
    let program = std::env::current_exe().ok();
    let environment = |name: &str| std::env::var(name).ok();
    let invocation = settings::parse(std::env::args().skip(1), &environment, program.as_deref());
    let settings = match invocation {
        Ok(Invocation::Serve(settings)) => settings,
        Ok(Invocation::Help) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Version(version)) => {
            println!("edge-web-service {version}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("edge-web-service: {error}\nTry: edge-web-service --help");
            return ExitCode::from(2);
        }
    };
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge-web-service: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings) -> Result<(), String> {
    let at = (settings.listen, settings.port);
    let listener =
        TcpListener::bind(at).map_err(|error| format!("cannot listen on {}:{}: {error}", at.0, at.1))?;
    let address = listener.local_addr().map_err(|error| format!("cannot read the address: {error}"))?;
    if let Some(delay) = settings.crash_after {
        crash_later(delay)?;
    }
    // One line that a script or a test can wait for, with the port that was chosen.
    println!("edge-web-service {} listens on http://{address}", settings.version);
    if settings.listen != Ipv4Addr::LOCALHOST {
        eprintln!("edge-web-service: reachable from other machines, because --listen is {}", settings.listen);
    }
    server::serve(listener, settings).map_err(|error| format!("cannot accept connections any more: {error}"))
}

/// Ends the whole process after `delay`, as a program with a fault would.
fn crash_later(delay: Duration) -> Result<(), String> {
    let crash = move || {
        let begin = Instant::now();
        while let Some(left) = delay.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        eprintln!("edge-web-service: crashing after {} ms, as CRASH_AFTER_MS asks", delay.as_millis());
        std::process::exit(70);
    };
    std::thread::Builder::new()
        .name("crash".into())
        .spawn(crash)
        .map(drop)
        .map_err(|error| format!("cannot start a thread: {error}"))
}

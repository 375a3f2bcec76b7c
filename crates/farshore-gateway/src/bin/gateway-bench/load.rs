//! `gateway-bench load`: sends at a given rate, for a given time, to a gateway that runs already, and says how it answered.
//!
//! Requests have their times beforehand. A latency counts from the time at which its request was due, so that a gateway that is slow for a moment
//! does not hide it by holding up the requests behind.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::Walk;

const USAGE: &str = "gateway-bench load --duration SECONDS --rate POINTS_PER_SECOND [--url http://127.0.0.1:8000] [--token TOKEN] [--clients 8] [--batch 10]";
/// How often it is said how it goes.
const SAY: Duration = Duration::from_secs(10);
/// For a connection and for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// What was held up for a moment at the end is still sent.
const LATE: Duration = Duration::from_secs(1);
/// Points are sent to a stream of their own.
const PATH: &str = "/api/v2/write?bucket=load";
/// So much of the rate must be held.
const HELD: f64 = 0.99;
const MAX_ANSWER_BYTES: usize = 64 * 1024;

#[derive(Debug)]
struct Options {
    duration: Duration,
    rate: f64,
    address: SocketAddr,
    host: String,
    token: Option<String>,
    clients: u32,
    batch: u32,
}

impl Options {
    fn read(arguments: &[String]) -> Result<Self> {
        let (mut seconds, mut rate, mut url, mut token) =
            (None, None, "http://127.0.0.1:8000".to_owned(), std::env::var("GATEWAY_TOKEN").ok());
        let (mut clients, mut batch) = (8, 10);
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => (argument.as_str(), arguments.next().ok_or(USAGE)?.clone()),
            };
            match name {
                "--duration" => seconds = Some(value.parse::<u32>()?),
                "--rate" => rate = Some(value.parse::<u32>()?),
                "--url" => url = value,
                "--token" => token = Some(value),
                "--clients" => clients = value.parse()?,
                "--batch" => batch = value.parse()?,
                _ => return Err(format!("{name} is not known: {USAGE}").into()),
            }
        }
        let (Some(seconds @ 1..), Some(rate @ 1..)) = (seconds, rate) else {
            return Err(format!("--duration and --rate are needed, each at least 1: {USAGE}").into());
        };
        if !(1..=1000).contains(&clients) || !(1..=10_000).contains(&batch) {
            return Err("--clients is 1 to 1000, --batch 1 to 10000".into());
        }
        let uri: http::Uri = url.parse()?;
        let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err("--url is http://HOST[:PORT]; the gateway's HTTP has no TLS".into());
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = (bare, uri.port_u16().unwrap_or(80)).to_socket_addrs()?.next();
        let address = address.ok_or("--url: the host has no address")?;
        let duration = Duration::from_secs(seconds.into());
        Ok(Self { duration, rate: rate.into(), address, host: host.to_owned(), token, clients, batch })
    }

    /// From one request to the next, of all clients together.
    fn every(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.batch) / self.rate)
    }
}

/// Points, and how long answers took.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    acknowledged: u64,
    refused: u64,
    latencies: Latencies,
    /// Why the last one was refused.
    why: Option<String>,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.latencies.add(&other.latencies);
        self.why = other.why.clone().or(self.why.take());
    }

    fn say(&self, when: &str) {
        let Self { sent, acknowledged, refused, latencies, .. } = self;
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| latencies.percentile(share));
        println!(
            "{when}: sent {sent}, acknowledged {acknowledged}, refused {refused}; answers p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms"
        );
    }
}

/// How often which latency was: 32 steps for each doubling, so that a step is at most 3 %.
#[derive(Debug, Default)]
struct Latencies(std::collections::BTreeMap<u32, u64>);

impl Latencies {
    fn record(&mut self, took: Duration) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most some thousand steps"
        )]
        let step = ((took.as_secs_f64() * 1e6).max(1.0).log2() * 32.0).ceil() as u32;
        *self.0.entry(step).or_default() += 1;
    }

    fn add(&mut self, other: &Self) {
        for (step, count) in &other.0 {
            *self.0.entry(*step).or_default() += count;
        }
    }

    /// Milliseconds.
    fn percentile(&self, share: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
        let wanted = self.0.values().sum::<u64>() as f64 * share;
        let mut seen = 0;
        let found = self.0.iter().find(|(_, count)| {
            seen += **count;
            #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
            let enough = seen as f64 >= wanted;
            enough
        });
        found.map_or(0.0, |(step, _)| (f64::from(*step) / 32.0).exp2() / 1e3)
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Errors
/// When anything was refused, or the rate was not held.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let options = Options::read(arguments)?;
    // Whoever is not there at all is told so at once.
    let there = TcpStream::connect_timeout(&options.address, PATIENCE);
    drop(there.map_err(|error| format!("no gateway answers at {}: {error}", options.address))?);
    let (tally, begun) = (Mutex::new(Tally::default()), Instant::now());
    let mut all = Tally::default();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..options.clients)
            .map(|number| {
                let (options, tally) = (&options, &tally);
                scope.spawn(move || client(options, number, begun, tally))
            })
            .collect();
        let mut next = SAY;
        while !clients.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::park_timeout(Duration::from_millis(50));
            if begun.elapsed() >= next && next < options.duration {
                let part = std::mem::take(&mut *lock(&tally));
                part.say(&format!("{} s", next.as_secs()));
                all.add(&part);
                next += SAY;
            }
        }
    });
    all.add(&lock(&tally));
    all.say("in all");
    let due = options.duration.as_secs_f64() * options.rate;
    #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
    let held = all.sent as f64 / due;
    if all.refused > 0 {
        let why = all.why.unwrap_or_default();
        return Err(format!("{} points were refused, the last of them because of: {why}", all.refused).into());
    }
    if held < HELD {
        let rate = options.rate;
        return Err(
            format!("the rate was not held: {:.1} % of {rate} points/s were sent", held * 100.0).into()
        );
    }
    Ok(())
}

/// Sends what is due of this client's requests until the time is over.
fn client(options: &Options, number: u32, begun: Instant, tally: &Mutex<Tally>) {
    let mut walk = Walk { state: u64::from(number) + 1, at: 20.0 };
    let mut connection = None;
    let every = options.every();
    let mut due = every * number;
    while due < options.duration {
        let early = due.saturating_sub(begun.elapsed());
        if !early.is_zero() {
            std::thread::park_timeout(early);
            continue;
        }
        // What could not be sent by then is not sent: the rate was not held.
        if begun.elapsed() >= options.duration + LATE {
            return;
        }
        let answer = exchange(options, &mut connection, &request(options, number, &mut walk));
        let took = begun.elapsed().saturating_sub(due);
        due += every * options.clients;
        let points = u64::from(options.batch);
        let mut tally = lock(tally);
        tally.sent += points;
        tally.latencies.record(took);
        match answer {
            Ok(()) => tally.acknowledged += points,
            Err(error) => {
                tally.refused += points;
                tally.why = Some(error.to_string());
            }
        }
    }
}

fn request(options: &Options, number: u32, walk: &mut Walk) -> Vec<u8> {
    let mut body = String::new();
    for sensor in 0..options.batch {
        // Into a text: it can't fail.
        let _ = writeln!(body, "load,client=c{number},sensor=s{sensor} value={}", walk.next());
    }
    let token = options.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n"));
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: {}\r\n{}content-length: {}\r\n\r\n",
        options.host,
        token.unwrap_or_default(),
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// One request on the connection, or on a new one after a failure.
fn exchange(options: &Options, connection: &mut Option<BufReader<TcpStream>>, request: &[u8]) -> Result<()> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(&options.address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            BufReader::new(stream)
        }
    };
    stream.get_mut().write_all(request)?;
    let (status, body, stays) = answer(&mut stream)?;
    if stays {
        *connection = Some(stream);
    }
    if status.starts_with('2') { Ok(()) } else { Err(format!("{status}: {body}").into()) }
}

/// Status, body, and whether the connection stays.
fn answer(stream: &mut BufReader<TcpStream>) -> Result<(String, String, bool)> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).ok_or("the connection was closed without an answer")?.to_owned();
    let (mut length, mut stays) = (0, true);
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(number) = header.strip_prefix("content-length:") {
            length = number.trim().parse()?;
        }
        stays &= header != "connection: close";
    }
    if length > MAX_ANSWER_BYTES {
        return Err("the answer is no gateway's".into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned(), stays))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_off_by_a_step_at_most() {
        let mut latencies = Latencies::default();
        for ms in 1..=100 {
            latencies.record(Duration::from_millis(ms));
        }
        for (share, ms) in [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0)] {
            let found = latencies.percentile(share);
            assert!(found >= ms && found < ms * 1.03, "{share}: {found}");
        }
        assert!(Latencies::default().percentile(0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn what_it_is_told_is_checked() {
        let read = |text: &str| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            Options::read(&words).map_err(|error| error.to_string())
        };
        let options = read("--duration=60 --rate 1000 --url http://[::1]:9 --batch 20").expect("good");
        assert_eq!((options.address.to_string().as_str(), options.batch), ("[::1]:9", 20));
        assert_eq!(options.every(), Duration::from_millis(20));
        for (text, part) in [
            ("--rate 5", "--duration"),
            ("--duration 0 --rate 5", "--duration"),
            ("--duration 5 --rate 5 --clients 0", "--clients"),
            ("--duration 5 --rate 5 --url https://127.0.0.1", "no TLS"),
            ("--duration 5 --rate 5 --speed 1", "--speed is not known"),
            ("--duration", "--rate"),
        ] {
            assert!(read(text).expect_err(text).contains(part), "{text}");
        }
    }
}

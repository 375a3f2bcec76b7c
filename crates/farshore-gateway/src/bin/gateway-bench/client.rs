//! Clients: processes that send as fast as they are acknowledged.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use farshore_gateway::mqtt::codec::{Packet, Version, decode};

use crate::Result;
use crate::served::Served;

/// Bodies that are made before the time runs, and sent round and round.
const BODIES: usize = 64;
/// Messages that an MQTT client has under way.
const WINDOW: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lines,
    Json,
    Mqtt,
    /// Lines whose values are texts that do not pack: they fill a disk.
    Texts,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    pub(crate) clients: usize,
    pub(crate) batch: usize,
    pub(crate) series: usize,
    pub(crate) for_long: Duration,
    /// From the begin of one request of a client to that of the next; zero: as fast as it is answered.
    pub(crate) every: Duration,
}

pub(crate) struct Measured {
    pub(crate) points: f64,
    pub(crate) seconds: f64,
}

/// Starts the clients, lets them begin together, and adds up what was acknowledged to them.
pub(crate) fn measure(served: &Served, load: &Load) -> Result<Measured> {
    let address = if load.kind == Kind::Mqtt { served.mqtt } else { served.http }
        .ok_or("it does not listen for that")?;
    let mut children = Vec::new();
    for number in 0..load.clients {
        let child = Command::new(std::env::current_exe()?)
            .arg("client")
            .args([format!("{:?}", load.kind), address.to_string()])
            .args([number, load.batch, load.series].map(|count| count.to_string()))
            .args([load.for_long, load.every].map(|time| time.as_millis().to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        children.push(child);
    }
    let mut outputs = Vec::new();
    for child in &mut children {
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut ready = String::new();
        output.read_line(&mut ready)?;
        outputs.push(output);
    }
    let begun = Instant::now();
    for child in &mut children {
        child.stdin.take().ok_or("no input")?.write_all(b"go\n")?;
    }
    let mut points = 0.0;
    for output in &mut outputs {
        let mut line = String::new();
        output.read_line(&mut line)?;
        points += line.trim().parse::<f64>().map_err(|_| "a client failed")?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    for child in &mut children {
        child.wait()?;
    }
    Ok(Measured { points, seconds })
}

/// The two-decimal set: a random walk and noise, seeded, so that every run sends the same.
pub(crate) struct Walk {
    pub(crate) state: u64,
    pub(crate) at: f64,
}

impl Walk {
    /// Roughly normal, σ 0.02.
    fn noise(&mut self) -> f64 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.state =
                self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            #[expect(clippy::cast_precision_loss, reason = "53 bits")]
            let unit = (self.state >> 11) as f64 / (1_u64 << 53) as f64;
            sum += unit - 0.5;
        }
        sum * 0.02 * 3.0_f64.sqrt()
    }

    pub(crate) fn next(&mut self) -> f64 {
        self.at += self.noise();
        ((self.at + self.noise()) * 100.0).round() / 100.0
    }
}

/// A kilobyte of six random bits a byte.
fn text(walk: Option<&mut Walk>) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let Some(walk) = walk else { return String::new() };
    let letter = |_| {
        walk.state =
            walk.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        LETTERS.get((walk.state >> 58) as usize).copied().map_or('A', char::from)
    };
    (0..1024).map(letter).collect()
}

fn bodies(kind: Kind, client: usize, batch: usize, series: usize) -> Vec<String> {
    let mut walks: Vec<Walk> = (0..series)
        .map(|number| Walk { state: (client * 1_000_003 + number) as u64 + 1, at: 20.0 })
        .collect();
    let mut point = 0;
    (0..BODIES)
        .map(|_| {
            let mut body = String::new();
            for index in 0..batch {
                let sensor = point % series;
                // All series are sampled together every 10 s, give or take 10 ms.
                let ms = 1_700_000_000_000_u64 + (point / series) as u64 * 10_000 + (point as u64 * 7) % 20;
                let value = walks.get_mut(sensor).map_or(0.0, Walk::next);
                point += 1;
                let written = match kind {
                    Kind::Lines => writeln!(body, "temp,client=c{client},sensor=s{sensor} value={value} {ms}"),
                    Kind::Json => {
                        let comma = if index == 0 { "" } else { "," };
                        #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century")]
                        let seconds = ms as f64 / 1000.0;
                        write!(body, "{comma}{{\"sensor_id\":\"s{sensor}\",\"value\":{value},\"tags\":{{\"client\":\"c{client}\"}},\"timestamp\":{seconds:.3}}}")
                    }
                    Kind::Texts => writeln!(body, "log,client=c{client},sensor=s{sensor} value=\"{}\" {ms}", text(walks.get_mut(sensor))),
                    Kind::Mqtt => write!(body, "{{\"sensor_id\":\"s{sensor}\",\"value\":{value},\"tags\":{{\"client\":\"c{client}\"}}}}"),
                };
                debug_assert!(written.is_ok());
            }
            if kind == Kind::Json && batch > 1 { format!("[{body}]") } else { body }
        })
        .collect()
}

/// What a client process does.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [kind, address, number, batch, series, ms, every] = arguments else {
        return Err("client: wrong arguments".into());
    };
    let kind = match kind.as_str() {
        "Lines" => Kind::Lines,
        "Json" => Kind::Json,
        "Mqtt" => Kind::Mqtt,
        "Texts" => Kind::Texts,
        _ => return Err("client: unknown kind".into()),
    };
    let address: SocketAddr = address.parse()?;
    let (number, batch, series): (usize, usize, usize) = (number.parse()?, batch.parse()?, series.parse()?);
    let (for_long, every) = (Duration::from_millis(ms.parse()?), Duration::from_millis(every.parse()?));
    let bodies = bodies(kind, number, batch, series);
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    let points = match kind {
        Kind::Lines | Kind::Texts => {
            http(stream, "/api/v2/write?precision=ms", &bodies, batch, for_long, every)?
        }
        Kind::Json => http(stream, "/api/data", &bodies, batch, for_long, every)?,
        Kind::Mqtt => mqtt(stream, number, &bodies, for_long)?,
    };
    println!("{points}");
    Ok(())
}

fn http(
    mut stream: TcpStream,
    path: &str,
    bodies: &[String],
    batch: usize,
    for_long: Duration,
    every: Duration,
) -> Result<usize> {
    let requests: Vec<Vec<u8>> = bodies
        .iter()
        .map(|body| {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            [head.as_bytes(), body.as_bytes()].concat()
        })
        .collect();
    let mut answers = BufReader::new(stream.try_clone()?);
    let begun = Instant::now();
    let mut points = 0;
    let mut turn = Duration::ZERO;
    for request in requests.iter().cycle() {
        if begun.elapsed() >= for_long {
            break;
        }
        // Not even for no time: the kernel takes that as up to 50 µs.
        let early = turn.saturating_sub(begun.elapsed());
        if !early.is_zero() {
            std::thread::park_timeout(early);
        }
        turn += every;
        stream.write_all(request)?;
        answer(&mut answers)?;
        points += batch;
    }
    Ok(points)
}

/// Reads an answer; one that is no success ends the bench.
fn answer(answers: &mut BufReader<TcpStream>) -> Result<()> {
    let mut line = String::new();
    answers.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 2") {
        return Err(format!("the answer is {line:?}").into());
    }
    let mut length = 0;
    loop {
        line.clear();
        answers.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(number) = line.strip_prefix("content-length:") {
            length = number.trim().parse()?;
        }
    }
    answers.read_exact(&mut vec![0; length])?;
    Ok(())
}

fn mqtt(mut stream: TcpStream, number: usize, bodies: &[String], for_long: Duration) -> Result<usize> {
    let name = format!("bench-{number}");
    let length = u8::try_from(name.len())?;
    let mut connect = vec![0x10, 12 + length];
    connect.extend_from_slice(b"\x00\x04MQTT\x04\x02\x00\x3c\x00");
    connect.push(length);
    connect.extend_from_slice(name.as_bytes());
    stream.write_all(&connect)?;
    let (mut buffer, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    let (mut under_way, mut acknowledged, mut id) = (0, 0, 0_u16);
    let mut connected = false;
    let begun = Instant::now();
    let mut bodies = bodies.iter().cycle();
    loop {
        let more = connected && begun.elapsed() < for_long;
        let mut out = Vec::new();
        while more && under_way < WINDOW {
            let body = bodies.next().map(String::as_bytes).unwrap_or_default();
            id = if id == u16::MAX { 1 } else { id + 1 };
            let length = 2 + 5 + 2 + body.len();
            out.push(0x32);
            out.push(u8::try_from(length & 0x7f)? | if length > 127 { 0x80 } else { 0 });
            if length > 127 {
                out.push(u8::try_from(length >> 7)?);
            }
            out.extend_from_slice(b"\x00\x05bench");
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(body);
            under_way += 1;
        }
        stream.write_all(&out)?;
        if connected && under_way == 0 {
            return Ok(acknowledged);
        }
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Err("the broker went away".into());
        }
        buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
        let mut at = 0;
        while let Some((packet, length)) = decode(buffer.get(at..).unwrap_or_default(), Version::V311)? {
            at += length;
            match packet {
                Packet::ConnAck { code: 0, .. } => connected = true,
                Packet::PubAck { .. } => {
                    under_way -= 1;
                    acknowledged += 1;
                }
                other => return Err(format!("unexpected: {other:?}").into()),
            }
        }
        buffer.drain(..at);
    }
}

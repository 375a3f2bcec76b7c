//! A bad link: connections that are refused, cut off in the middle, held back, or lead nowhere. Seeded.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::Random;

/// A connection that leads nowhere is held open for so long.
const NOWHERE: Duration = Duration::from_millis(1_500);

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) nowhere: AtomicU64,
    pub(crate) cut: AtomicU64,
    pub(crate) held_back: AtomicU64,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) seen: Arc<Seen>,
    calm: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

/// What is done to one connection.
#[derive(Clone, Copy)]
struct Fate {
    /// Bytes in this direction until it is cut off.
    cut_after: [Option<u64>; 2],
    /// Longest pause before a piece is handed on.
    delay_ms: u64,
}

impl Proxy {
    pub(crate) async fn start(to: u16, seed: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, calm) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(serve(listener, to, Random(seed), Arc::clone(&seen), Arc::clone(&calm)));
        Self { port, seen, calm, task }
    }

    /// From now on the link is good.
    pub(crate) fn calm(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, to: u16, mut random: Random, seen: Arc<Seen>, calm: Arc<AtomicBool>) {
    let pauses = Arc::new(Mutex::new(Random(random.below(u64::MAX))));
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        seen.connections.fetch_add(1, Ordering::Relaxed);
        let (kind, up, down) = (random.below(20), random.below(4_000), random.below(5_000));
        let fate = match kind {
            _ if calm.load(Ordering::SeqCst) => Fate { cut_after: [None, None], delay_ms: 0 },
            0..=2 => {
                seen.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            3 => {
                seen.nowhere.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    tokio::time::sleep(NOWHERE).await;
                    drop(client);
                });
                continue;
            }
            4..=8 => Fate { cut_after: [Some(up), None], delay_ms: 5 },
            9..=13 => Fate { cut_after: [None, Some(down)], delay_ms: 5 },
            // Long enough for some batches.
            _ => Fate { cut_after: [Some(1_500 + 2 * up), None], delay_ms: 60 },
        };
        let (seen, pauses) = (Arc::clone(&seen), Arc::clone(&pauses));
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            // Both ends go when one direction is cut off.
            tokio::select! {
                () = pass(from_client, to_server, fate, 0, &seen, &pauses) => {}
                () = pass(from_server, to_client, fate, 1, &seen, &pauses) => {}
            }
        });
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    fate: Fate,
    direction: usize,
    seen: &Seen,
    pauses: &Mutex<Random>,
) {
    let mut left = fate.cut_after[direction].unwrap_or(u64::MAX);
    let mut piece = vec![0; 8 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut piece).await else { return };
        if fate.delay_ms > 0 {
            let pause = pauses.lock().unwrap().below(fate.delay_ms + 1);
            if pause > 0 {
                seen.held_back.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        let fits = usize::try_from(left.min(length as u64)).unwrap();
        if to.write_all(&piece[..fits]).await.is_err() {
            return;
        }
        left -= fits as u64;
        if left == 0 {
            seen.cut.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
}

//! A link of so many bits a second between a gateway and the control plane, which can be cut. What goes over it is counted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// So many bytes are handed on at once.
const PIECE: usize = 8 * 1024;
/// What waits in front of the link, as in a router, in time on the link: a process that is not scheduled for a moment does not leave the link idle.
const QUEUE: Duration = Duration::from_millis(50);

/// One direction of a link: its connections share the rate.
#[derive(Debug)]
pub(crate) struct Direction {
    bytes: AtomicU64,
    bytes_per_second: f64,
    free: Mutex<Instant>,
}

impl Direction {
    fn new(bytes_per_second: f64) -> Self {
        Self { bytes: AtomicU64::new(0), bytes_per_second, free: Mutex::new(Instant::now()) }
    }

    /// Waits until there is room for a piece in front of the link.
    async fn take(&self, bytes: usize) {
        #[expect(clippy::cast_precision_loss, reason = "at most a piece")]
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        let until = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            *free = (*free).max(Instant::now()) + time;
            *free
        };
        sleep_until(until - QUEUE).await;
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that went over it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(crate) struct SlowLink {
    pub(crate) address: SocketAddr,
    /// From the gateway to the control plane.
    pub(crate) up: Arc<Direction>,
    open: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl SlowLink {
    /// A link that is cut, to an address.
    pub(crate) async fn to(to: SocketAddr, bits_per_second: f64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port for the link")?;
        let address = listener.local_addr().context("no port for the link")?;
        let direction = || Arc::new(Direction::new(bits_per_second / 8.0));
        let (up, down, open) = (direction(), direction(), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(serve(listener, to, Arc::clone(&up), down, Arc::clone(&open)));
        Ok(Self { address, up, open, task })
    }

    /// From now on connections get through.
    pub(crate) fn mend(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    to: SocketAddr,
    up: Arc<Direction>,
    down: Arc<Direction>,
    open: Arc<AtomicBool>,
) {
    while let Ok((near, _)) = listener.accept().await {
        if !open.load(Ordering::SeqCst) {
            continue;
        }
        let (up, down) = (Arc::clone(&up), Arc::clone(&down));
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(to).await else { return };
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::join!(hand_on(near_read, far_write, &up), hand_on(far_read, near_write, &down));
        });
    }
}

/// Until one side has enough; the end is handed on, too.
async fn hand_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, direction: &Direction) {
    let mut piece = vec![0; PIECE];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        direction.take(read).await;
        if to.write_all(piece.get(..read).unwrap_or_default()).await.is_err() {
            return;
        }
    }
    // Gone already is as good.
    _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_link_lets_nothing_through_and_a_mended_one_as_much_as_it_carries() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = SlowLink::to(server.local_addr().unwrap(), 8_000_000.0).await.unwrap();
        let mut cut = TcpStream::connect(link.address).await.unwrap();
        assert_eq!(cut.read(&mut [0]).await.unwrap(), 0);
        link.mend();
        let begin = Instant::now();
        let mut near = TcpStream::connect(link.address).await.unwrap();
        let (mut far, _) = server.accept().await.unwrap();
        let sent = vec![7; 200_000];
        let mut got = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(near.write_all(&sent), far.read_exact(&mut got));
        wrote.unwrap();
        read.unwrap();
        assert_eq!((got == sent, link.up.bytes()), (true, 200_000));
        assert!(begin.elapsed() >= Duration::from_millis(149), "{:?}", begin.elapsed());
    }
}

//! How `run` asks the runner. One connection for each request: a runner that was restarted is simply there again.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::timeout;

use super::runbook::{Ended, Order};
use super::socket;
use super::wire::{self, Reply, Request, WireError};

/// Longer than any stop may take.
const ANSWER: Duration = Duration::from_secs(660);
/// Longer than any command from afar may take, its turn included.
const LONGEST_COMMAND: Duration = Duration::from_secs(2 * 3_600);

/// Why the runner gave no answer, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the runner can't be reached at {path}")]
    Unreachable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the runner's answer can't be read")]
    Wire(#[source] WireError),
    #[error("the runner did not answer in time")]
    Late,
    #[error("{message}")]
    Failed { code: String, message: String, refused: bool },
    #[error("the runner answered something else than was asked")]
    Confused,
}

/// A runner's socket.
#[derive(Clone, Debug)]
pub struct RunnerClient {
    path: PathBuf,
}

impl RunnerClient {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Asks, and waits for the answer. [`Reply::Failed`] comes as an error.
    ///
    /// # Errors
    /// A [`ClientError`].
    pub async fn ask(&self, request: &Request) -> Result<Reply, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: self.path.clone(), source };
        let mut stream = socket::connect(&self.path).await.map_err(unreachable)?;
        let talk = async {
            wire::write(&mut stream, request).await.map_err(ClientError::Wire)?;
            wire::read::<Reply>(&mut stream).await.map_err(ClientError::Wire)
        };
        match timeout(ANSWER, talk).await {
            Err(_) => Err(ClientError::Late),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) => {
                Err(ClientError::Wire(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()))
            }
            Ok(Ok(Some(Reply::Failed { code, message, refused }))) => {
                Err(ClientError::Failed { code, message, refused })
            }
            Ok(Ok(Some(reply))) => Ok(reply),
        }
    }

    /// Has a command run. `output` gets what it says as it comes; dropping the future ends the command.
    ///
    /// # Errors
    /// A [`ClientError`].
    pub async fn exec(
        &self,
        order: Order,
        mut output: impl FnMut(Vec<u8>) + Send,
    ) -> Result<Ended, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: self.path.clone(), source };
        let mut stream = socket::connect(&self.path).await.map_err(unreachable)?;
        wire::write(&mut stream, &Request::Exec { order }).await.map_err(ClientError::Wire)?;
        loop {
            let reply = match timeout(LONGEST_COMMAND, wire::read::<Reply>(&mut stream)).await {
                Err(_) => return Err(ClientError::Late),
                Ok(reply) => reply.map_err(ClientError::Wire)?,
            };
            match reply {
                None => {
                    let ended = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    return Err(ClientError::Wire(ended.into()));
                }
                Some(Reply::Output { bytes }) => {
                    output(STANDARD.decode(bytes).map_err(|_| ClientError::Confused)?);
                }
                Some(Reply::Ended(ended)) => return Ok(ended),
                Some(Reply::Failed { code, message, refused }) => {
                    return Err(ClientError::Failed { code, message, refused });
                }
                Some(_) => return Err(ClientError::Confused),
            }
        }
    }

    /// Asks for something whose answers are read from the connection by whoever asks.
    ///
    /// # Errors
    /// A [`ClientError`].
    pub(crate) async fn open(&self, request: &Request) -> Result<tokio::net::UnixStream, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: self.path.clone(), source };
        let mut stream = socket::connect(&self.path).await.map_err(unreachable)?;
        wire::write(&mut stream, request).await.map_err(ClientError::Wire)?;
        Ok(stream)
    }

    /// Asks for something that is answered with [`Reply::Done`].
    ///
    /// # Errors
    /// A [`ClientError`].
    pub async fn done(&self, request: &Request) -> Result<(), ClientError> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::Confused),
        }
    }
}

//! How the one who loads hands on what it has loaded: one message over a unix socket, a text and the descriptors.
//!
//! The text has a line for each signal, `name` or `name<TAB>why not`; or one line `!<TAB>why` when there is nothing, with the socket of a process
//! connector where that could be opened instead.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::attach::{LoadError, Loaded, MAX_LINKS};
use super::connector::Connector;

const MAX_TEXT: usize = 4096;
const MAX_DESCRIPTORS: usize = 4 + MAX_LINKS;

/// Each wanted signal: attached, or why not.
pub type Report = BTreeMap<String, Result<(), String>>;

/// Why nothing was taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The socket failed.
    #[error("the loader's message can't be had")]
    Io(#[from] io::Error),
    /// The loader says why it has loaded nothing; it may have a socket of the process connector instead.
    #[error("{why}")]
    Nothing { why: String, connector: Option<OwnedFd> },
    /// Something else came.
    #[error("the loader's message is not understood")]
    Garbage,
}

fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

/// Sends what was loaded, or why it was not.
///
/// # Errors
/// When the other side does not take it.
pub fn hand_over(socket: impl AsFd, loaded: Result<Loaded, LoadError>) -> io::Result<()> {
    let (text, descriptors): (String, Vec<OwnedFd>) = match loaded {
        Err(error) => {
            let source =
                std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            let connector = Connector::open().ok().map(Connector::into_fd);
            (format!("!\t{}", line(&format!("{error}{source}"))), connector.into_iter().collect())
        }
        Ok(loaded) => {
            let line = |(name, attached): (&String, &Result<(), String>)| match attached {
                Ok(()) => name.clone(),
                Err(why) => format!("{name}\t{}", line(why)),
            };
            let text = loaded.signals.iter().map(line).collect::<Vec<_>>().join("\n");
            (text, loaded.maps.into_iter().chain(loaded.links).collect())
        }
    };
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let text: String = text.chars().take(MAX_TEXT / 4).collect();
    sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What came from a loader: the maps, the links, and what is attached.
///
/// # Errors
/// A [`HandoverError`].
pub fn receive(socket: impl AsFd) -> Result<([OwnedFd; 4], Vec<OwnedFd>, Report), HandoverError> {
    let mut bytes = vec![0; MAX_TEXT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(io::Error::from)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    let text = bytes.get(..message.bytes).and_then(|bytes| str::from_utf8(bytes).ok());
    let text = text.filter(|text| !text.is_empty()).ok_or(HandoverError::Garbage)?;
    if let Some(why) = text.strip_prefix("!\t") {
        return Err(HandoverError::Nothing {
            why: why.to_owned(),
            connector: descriptors.into_iter().next(),
        });
    }
    let report = text
        .lines()
        .map(|line| match line.split_once('\t') {
            None => (line.to_owned(), Ok(())),
            Some((name, why)) => (name.to_owned(), Err(why.to_owned())),
        })
        .collect();
    let mut descriptors = descriptors.into_iter();
    let maps: Vec<OwnedFd> = descriptors.by_ref().take(4).collect();
    let maps = <[OwnedFd; 4]>::try_from(maps).map_err(|_| HandoverError::Garbage)?;
    Ok((maps, descriptors.collect(), report))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_loaded_arrives_whole_and_so_does_why_it_was_not() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fd = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let signals = Report::from([("a".to_owned(), Ok(())), ("b".to_owned(), Err("no\nt".to_owned()))]);
        let loaded = Loaded { maps: [fd(), fd(), fd(), fd()], links: vec![fd(), fd()], signals };
        hand_over(&theirs, Ok(loaded)).unwrap();
        let (_, links, report) = receive(&ours).unwrap();
        assert_eq!(links.len(), 2);
        assert_eq!(
            report,
            Report::from([("a".to_owned(), Ok(())), ("b".to_owned(), Err("no t".to_owned()))])
        );
        hand_over(&theirs, Err(LoadError::Nothing("not here".to_owned()))).unwrap();
        let why = receive(&ours).unwrap_err();
        assert_eq!(why.to_string(), "no eBPF program could be attached: not here");
        drop(theirs);
        assert!(matches!(receive(&ours).unwrap_err(), HandoverError::Garbage), "it died without a word");
    }

    #[test]
    fn descriptors_without_a_report_are_not_taken() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        rustix::net::send(&theirs, b"process_exit", SendFlags::empty()).unwrap();
        assert!(matches!(receive(&ours).unwrap_err(), HandoverError::Garbage));
    }
}

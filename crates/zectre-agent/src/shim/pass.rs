//! Hands instructions and open files from the supervisor to the process that becomes the program.
//!
//! Over a socket pair: one byte that carries the files, then a line of JSON. The socket closes by itself when the
//! program begins; what comes back before that is why it didn't.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// The longest line of instructions; the environment is the largest part of one and has a bound of its own.
pub(super) const LINE_BYTES_MAX: u64 = 4 << 20;
/// The most files handed over at once.
pub(super) const FILES_MAX: usize = 64;
/// The longest answer.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

/// One line of JSON; `None` when the other side is gone.
pub(super) fn next_line<T: DeserializeOwned>(input: &mut impl BufRead) -> Result<Option<T>, String> {
    let mut line = String::new();
    let read = input
        .take(LINE_BYTES_MAX)
        .read_line(&mut line)
        .map_err(|error| format!("reading: {error}"))?;
    if read == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line)
        .map(Some)
        .map_err(|error| format!("the instructions make no sense: {error}"))
}

/// Writes one line of JSON.
pub(super) fn write_line(output: &mut impl Write, message: &impl Serialize) -> Result<(), String> {
    let mut line = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    line.push(b'\n');
    output
        .write_all(&line)
        .and_then(|()| output.flush())
        .map_err(|error| format!("answering: {error}"))
}

/// Hands over `message` and `files`.
pub(super) fn send(
    mut to: &UnixStream,
    message: &impl Serialize,
    files: &[BorrowedFd<'_>],
) -> Result<(), String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(format!("more than {FILES_MAX} files at once"));
    }
    sendmsg(to, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)
        .map_err(|error| format!("handing over files: {error}"))?;
    write_line(&mut to, message)
}

/// Takes what [`send`] hands over; `None` when the other side is gone.
pub(super) fn receive<T: DeserializeOwned>(from: &UnixStream) -> Result<Option<(T, Vec<OwnedFd>)>, String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = loop {
        let into = &mut [IoSliceMut::new(&mut byte)];
        match recvmsg(from, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received.map_err(|error| format!("taking files: {error}"))?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    Ok(next_line(&mut BufReader::new(from))?.map(|message| (message, files)))
}

/// Waits until the socket closes; what was said before is the error.
pub(super) fn closed(from: &UnixStream) -> Result<(), String> {
    let mut said = String::new();
    match from.take(ANSWER_BYTES_MAX).read_to_string(&mut said) {
        Ok(0) => Ok(()),
        Ok(_) => Err(said),
        Err(error) => Err(format!("waiting for the program: {error}")),
    }
}

/// Waits for one line of text; an empty one says that all is well.
pub(super) fn agreed(from: &UnixStream) -> Result<(), String> {
    let mut said = String::new();
    let read = BufReader::new(from.take(ANSWER_BYTES_MAX)).read_line(&mut said);
    match read.map_err(|error: io::Error| error.to_string())? {
        0 => Err("it ended without an answer".into()),
        _ if said.trim().is_empty() => Ok(()),
        _ => Err(said.trim().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, os::fd::AsFd};

    #[test]
    fn files_arrive_with_their_message() {
        let (here, there) = UnixStream::pair().expect("a channel");
        let files = [tempfile::tempfile(), tempfile::tempfile()].map(|file| file.expect("a file"));
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let message = "x".repeat(200_000);
        let sent = message.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| send(&here, &sent, &borrowed).expect("sent"));
            let (text, received) = receive::<String>(&there).expect("received").expect("there");
            assert_eq!((text.len(), received.len()), (message.len(), 2));
            File::from(received.into_iter().next().expect("two"))
                .write_all(b"through")
                .expect("writable");
        });
        assert_eq!(files[0].metadata().expect("open").len(), 7);
        drop(here);
        assert!(receive::<String>(&there).expect("closed in order").is_none());
    }

    #[test]
    fn silence_is_consent_and_words_are_errors() {
        let (here, mut there) = UnixStream::pair().expect("a channel");
        there.write_all(b"\n").expect("written");
        assert_eq!(agreed(&here), Ok(()));
        there.write_all(b"no room").expect("written");
        drop(there);
        assert_eq!(closed(&here), Err("no room".into()));
        let (here, there) = UnixStream::pair().expect("a channel");
        drop(there);
        assert_eq!(closed(&here), Ok(()));
        assert!(agreed(&here).is_err());
    }
}

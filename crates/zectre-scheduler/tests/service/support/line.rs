//! A line to the database that can be cut: a socket of its own in front of the server's.

use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// What PostgreSQL calls its socket in the directory that a URL names.
const SOCKET: &str = ".s.PGSQL.5432";

/// How the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// As if it were not there.
    Open,
    /// Nothing passes, neither bytes nor the news that an end was closed: a cut network.
    Silent,
    /// Every connection is closed and new ones too: a server that is away.
    Closed,
}

/// The line; it goes with the value.
pub(crate) struct Line {
    directory: TempDir,
    state: watch::Sender<State>,
    _work: JoinSet<()>,
}

impl Line {
    /// An open line to the server whose socket is in `server`.
    pub(crate) fn to(server: &Path) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let listener = UnixListener::bind(directory.path().join(SOCKET)).expect("the directory is ours");
        let (state, told) = watch::channel(State::Open);
        let mut work = JoinSet::new();
        work.spawn(accept(listener, server.join(SOCKET), told));
        Self {
            directory,
            state,
            _work: work,
        }
    }

    /// Where its socket is.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn accept(listener: UnixListener, server: PathBuf, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("the listener is ours");
        if *state.borrow() == State::Closed {
            continue;
        }
        let Ok(server) = UnixStream::connect(&server).await else {
            continue;
        };
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        connections.spawn(pump(from_client, to_server, state.clone()));
        connections.spawn(pump(from_server, to_client, state.clone()));
    }
}

/// One direction, until an end is closed or the line is.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 64 << 10];
    let mut closed = state.clone();
    loop {
        let count = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = closed.wait_for(|state| *state == State::Closed) => return,
        };
        let open = state.wait_for(|state| *state != State::Silent).await;
        let passes = open.is_ok_and(|state| *state == State::Open);
        if !passes || count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

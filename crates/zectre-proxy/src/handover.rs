//! A new proxy process takes over the listening sockets of the old one, so that an upgrade refuses no connection: what
//! waits in the kernel's queue stays there until one of the two accepts it. The old one then drains and ends.
//!
//! The two meet at a Unix socket (`proxy.handover_path`). The old process sends its listeners (SCM_RIGHTS) with a list
//! of what they are; the new one says a byte once it knows its routes. Until then the old one serves; a
//! successor that fails before changes nothing. Each looks at whom it talks to: only the same user, or root, counts.

use crate::{
    Error, NAME,
    activation::Activated,
    raw::{
        LISTENERS_MAX,
        ports::{Inherited, Ports},
    },
    tables::Tables,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{TcpListener, UnixListener, UnixStream},
    time::timeout,
};
use zectre_common::config::ProxyConfig;
use zectre_service::{listen, tasks::Shutdown};

/// For the old process to send what it has.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// For the new process to begin: it reads its routes meanwhile, for which PostgreSQL may have to come back first.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(600);
/// Listeners in one message; the kernel takes at most 253.
const BATCH: usize = 64;
/// The longest list of one message.
const LIST_BYTES_MAX: usize = 4_096;
/// More than this no process has.
const MESSAGES_MAX: usize = LISTENERS_MAX / BATCH + 2;
/// What the new process says when it begins.
const BEGIN: u8 = b'B';

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Clients.
    Plain,
    /// Clients over TLS.
    Tls,
    /// Health and metrics.
    Admin,
    /// Clients of the environment that has this port.
    Raw(u16),
}

/// What goes with a batch of listeners.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    roles: Vec<Role>,
    /// Another batch follows.
    more: bool,
}

impl Role {
    /// Its part of the configuration.
    fn section(self) -> &'static str {
        match self {
            Self::Plain | Self::Admin | Self::Raw(_) => "proxy",
            Self::Tls => "proxy__tls",
        }
    }
}

/// The process that listens at `path`, if any does; none when the path is empty.
pub async fn find(path: &Path) -> Result<Option<Old>, Error> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let found = Old::find(path).await.map_err(|source| Error::Handover {
        path: path.into(),
        source,
    })?;
    if found.is_some() {
        tracing::info!(path = %path.display(), "takes over the listeners of a process that serves now");
    }
    Ok(found)
}

/// Where listeners may come from.
#[derive(Debug)]
pub struct Sources {
    /// What the process was started with.
    pub activated: Activated,
    /// The process before this one.
    pub old: Option<Old>,
}

impl Sources {
    /// The listener that this process was started with, or that of the process before it, or a new one.
    pub async fn listener(&mut self, role: Role, host: &str, port: u16) -> Result<TcpListener, Error> {
        if let Some(listener) = self.activated.take(role, host, port)? {
            return Ok(listener);
        }
        match self.old.as_mut().and_then(|old| old.take(role, host, port)) {
            Some(listener) => Ok(listener),
            None => Ok(listen::bind(NAME, role.section(), host, port).await?),
        }
    }

    /// Listeners for plain TCP, and the process before this one.
    pub(crate) fn rest(self, config: &ProxyConfig) -> Result<(BTreeMap<u16, Inherited>, Option<Old>), Error> {
        let mut old = self.old;
        let inherit = |is_managed| {
            move |(port, listener)| {
                let one = Inherited { listener, is_managed };
                (port, one)
            }
        };
        let of_old = old.as_mut().map(Old::take_raw).unwrap_or_default();
        let mut raw: BTreeMap<_, _> = of_old.into_iter().map(inherit(false)).collect();
        raw.extend(self.activated.rest(config)?.into_iter().map(inherit(true)));
        Ok((raw, old))
    }
}

/// A process that is to be followed, and what it gave.
#[derive(Debug)]
pub struct Old {
    stream: UnixStream,
    listeners: Vec<(Role, TcpListener)>,
}

impl Old {
    async fn find(path: &Path) -> io::Result<Option<Self>> {
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            // None was ever there, or it has ended.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        check_peer(&stream)?;
        let received = timeout(ANSWER_TIMEOUT, receive(&stream)).await;
        let listeners = received.map_err(|_| io::Error::from(ErrorKind::TimedOut))??;
        Ok(Some(Self { stream, listeners }))
    }

    /// Its listener for `role`, when it listens where we want to; any port will do where we want none in particular.
    fn take(&mut self, role: Role, host: &str, port: u16) -> Option<TcpListener> {
        let wanted: SocketAddr = format!("{host}:{port}").parse().ok()?;
        let is_it = |(of, listener): &(Role, TcpListener)| {
            let has = listener.local_addr();
            *of == role && has.is_ok_and(|has| has.ip() == wanted.ip() && (port == 0 || has.port() == port))
        };
        let index = self.listeners.iter().position(is_it)?;
        Some(self.listeners.swap_remove(index).1)
    }

    /// Its listeners for plain TCP by port.
    pub fn take_raw(&mut self) -> BTreeMap<u16, TcpListener> {
        let is_raw = |(role, _): &mut (Role, TcpListener)| matches!(role, Role::Raw(_));
        let raw = self.listeners.extract_if(.., is_raw);
        raw.filter_map(|(role, listener)| match role {
            Role::Raw(port) => Some((port, listener)),
            _ => None,
        })
        .collect()
    }

    /// Waits until `tables` has routes, or the old process is gone.
    pub async fn wait_for_routes(&mut self, tables: &Tables) {
        let mut changes = tables.changes();
        let mut byte = [0];
        while !tables.is_loaded() {
            tokio::select! {
                _ = changes.changed() => {}
                // It says nothing: this is its end, and nobody else accepts.
                _ = self.stream.read(&mut byte) => return,
            }
        }
    }

    /// Tells it to take no more.
    pub async fn release(mut self) {
        if self.stream.write_all(&[BEGIN]).await.is_err() {
            tracing::warn!("the process before this one ended by itself");
        }
    }
}

/// Gives a process's listeners to the next one.
#[derive(Debug)]
pub struct Giver {
    meeting: UnixListener,
    listeners: Vec<(Role, OwnedFd)>,
    /// Those that come and go.
    ports: Arc<Ports>,
}

impl Giver {
    /// Listens at `path`, in place of whoever did before.
    pub fn open(path: &Path, listeners: &[(Role, &TcpListener)], ports: Arc<Ports>) -> io::Result<Self> {
        let listeners = listeners
            .iter()
            .map(|(role, listener)| Ok((*role, listener.as_fd().try_clone_to_owned()?)));
        let listeners = listeners.collect::<io::Result<_>>()?;
        let fresh = fresh(path);
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let meeting = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
        fs::rename(&fresh, path)?;
        Ok(Self {
            meeting,
            listeners,
            ports,
        })
    }

    /// Gives them to whoever asks, until one of them begins or `service` stops. Then `handed` is requested, and `service`
    /// asked to stop.
    pub async fn run(self, service: Shutdown, handed: Shutdown, stop: Shutdown) {
        let giving = async {
            loop {
                match self.give().await {
                    Ok(true) => {
                        return tracing::info!(
                            "another process has taken over; what is under way is finished"
                        );
                    }
                    Ok(false) => tracing::warn!(
                        "a process asked for the listeners and did not begin; this one serves on"
                    ),
                    Err(error) => tracing::warn!(%error, "the listeners could not be handed over"),
                }
            }
        };
        if service.or_requested(giving).await.is_some() {
            handed.request();
            service.request();
        }
        // As long as these are open, connections come to nobody.
        drop(self);
        stop.requested().await;
    }

    /// To one; whether it began.
    async fn give(&self) -> io::Result<bool> {
        let (mut stream, _) = self.meeting.accept().await?;
        check_peer(&stream)?;
        let raw = self.ports.open();
        let raw = raw.iter().map(|(port, fd)| (Role::Raw(*port), fd.as_fd()));
        let all = self.listeners.iter().map(|(role, fd)| (*role, fd.as_fd()));
        let all: Vec<(Role, BorrowedFd<'_>)> = all.chain(raw).collect();
        let mut batches = all.chunks(BATCH).peekable();
        while let Some(batch) = batches.next() {
            send(&stream, batch, batches.peek().is_some()).await?;
        }
        let begins = timeout(BEGIN_TIMEOUT, stream.read_u8()).await;
        Ok(matches!(begins, Ok(Ok(BEGIN))))
    }
}

/// One batch of listeners; a list this short goes in one piece, and one with sockets is not merged with the next one.
async fn send(stream: &UnixStream, batch: &[(Role, BorrowedFd<'_>)], more: bool) -> io::Result<()> {
    let roles = batch.iter().map(|(role, _)| *role).collect();
    let list = serde_json::to_vec(&List { roles, more })?;
    let fds: Vec<BorrowedFd<'_>> = batch.iter().map(|(_, fd)| *fd).collect();
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        Ok(sendmsg(
            stream,
            &[IoSlice::new(&list)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?)
    };
    stream.async_io(Interest::WRITABLE, send).await.map(drop)
}

/// Beside `path`, so that it can be renamed.
fn fresh(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

/// Only the same user may be given the listeners, or give them.
fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let (peer, own) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    if peer == own || peer == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        ErrorKind::PermissionDenied,
        format!("the other process is user {peer}'s, this one {own}'s"),
    ))
}

async fn receive(stream: &UnixStream) -> io::Result<Vec<(Role, TcpListener)>> {
    let mut all = Vec::new();
    for _ in 0..MESSAGES_MAX {
        let (batch, more) = receive_batch(stream).await?;
        all.extend(batch);
        if !more {
            return Ok(all);
        }
    }
    Err(io::Error::new(
        ErrorKind::InvalidData,
        "it has no end of listeners",
    ))
}

async fn receive_batch(stream: &UnixStream) -> io::Result<(Vec<(Role, TcpListener)>, bool)> {
    let mut list = [0; LIST_BYTES_MAX];
    let receive = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut list)];
        let received = recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Ok((received.bytes, rights.flatten().collect::<Vec<OwnedFd>>()))
    };
    let (bytes, fds) = stream.async_io(Interest::READABLE, receive).await?;
    let List { roles, more } = serde_json::from_slice(&list[..bytes])?;
    if roles.len() != fds.len() {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "its list is not of what it sent",
        ));
    }
    let listener = |(role, fd): (Role, OwnedFd)| {
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        Ok((role, TcpListener::from_std(listener)?))
    };
    let batch = roles.into_iter().zip(fds).map(listener);
    Ok((batch.collect::<io::Result<_>>()?, more))
}

//! The ways between the parts of a cluster, each through a proxy that can be cut, frozen or slowed
//! down: what a network does to those at its two ends.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

/// Bytes passed on at a time.
const CHUNK_BYTES: usize = 32 * 1024;
/// Chunks that are on their way in one direction of a slow link: 2 MiB.
const CHUNKS_UNDER_WAY_MAX: usize = 64;

/// What a link does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Passes it on.
    Open,
    /// Resets what is open, and accepts nothing.
    Cut,
    /// Passes nothing on and closes nothing: neither end hears anything, as with a network that swallows
    /// packets. What was sent arrives when it is open again.
    Frozen,
    /// Passes it on after this time, in each direction.
    Delayed(Duration),
}

/// A way to one server.
#[derive(Debug)]
pub struct Link {
    name: String,
    address: SocketAddr,
    target: Arc<OnceLock<SocketAddr>>,
    state: watch::Sender<LinkState>,
    accepting: AbortHandle,
}

impl Link {
    /// Listens on a free port. Where it leads to may be said later; until then it is cut.
    pub(crate) async fn open(name: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port")?;
        let address = listener.local_addr()?;
        let target = Arc::new(OnceLock::new());
        let state = watch::Sender::new(LinkState::Open);
        let accepting = tokio::spawn(accept(listener, target.clone(), state.subscribe()));
        Ok(Self {
            name,
            address,
            target,
            state,
            accepting: accepting.abort_handle(),
        })
    }

    /// Says where it leads to; only once.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        let _ = self.target.set(target);
    }

    /// `from>to`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For who is to go this way.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does, from now on and for all connections.
    pub fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: Arc<OnceLock<SocketAddr>>,
    state: watch::Receiver<LinkState>,
) {
    // Dropped with this task, and with it all connections.
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (Some(target), false) = (target.get().copied(), *state.borrow() == LinkState::Cut)
        else {
            reset(&near);
            continue;
        };
        connections.spawn(connection(near, target, state.clone()));
    }
}

async fn connection(mut near: TcpStream, target: SocketAddr, state: watch::Receiver<LinkState>) {
    let Ok(mut far) = TcpStream::connect(target).await else {
        return reset(&near);
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let mut cut = state.clone();
    {
        let (from_near, to_near) = near.split();
        let (from_far, to_far) = far.split();
        let passing = async {
            tokio::join!(
                pass(from_near, to_far, state.clone()),
                pass(from_far, to_near, state.clone()),
            );
        };
        tokio::select! {
            _ = cut.wait_for(|state| *state == LinkState::Cut) => {}
            () = passing => return,
        }
    }
    reset(&near);
    reset(&far);
}

/// The other end shall see a reset when the connection is dropped.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// One direction: a reader, and a writer that is as late as the link is slow.
async fn pass(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, state: watch::Receiver<LinkState>) {
    let (under_way, mut arriving) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_UNDER_WAY_MAX);
    let mut thawed = state.clone();
    let read = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(read @ 1..) = from.read(&mut chunk).await {
            let delay = match *state.borrow() {
                LinkState::Delayed(delay) => delay,
                _ => Duration::ZERO,
            };
            let sent = under_way
                .send((
                    Instant::now() + delay,
                    Bytes::copy_from_slice(&chunk[..read]),
                ))
                .await;
            if sent.is_err() {
                return;
            }
        }
        drop(under_way);
    };
    let write = async {
        while let Some((due, bytes)) = arriving.recv().await {
            tokio::time::sleep_until(due).await;
            // An error: the link is gone.
            let thawing = thawed.wait_for(|state| *state != LinkState::Frozen);
            let is_gone = thawing.await.is_err();
            if is_gone || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

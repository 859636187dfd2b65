//! The ways between the parts of a deployment: each can be cut, delayed, or made half-open without
//! either side hearing of it.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

/// Bytes passed on at a time.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks on their way in one direction: with the sockets' own buffers, what a network holds.
const CHUNKS_MAX: usize = 64;
/// How long a connection to the server may take to open.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Pause after a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkState {
    /// Passes everything on.
    #[default]
    Open,
    /// Ends every connection at once, and new ones too.
    Cut,
    /// Passes nothing on and closes nothing; goes on when it is open again.
    Frozen,
    /// The same, from the one who connects only.
    FrozenThere,
    /// The same, to the one who connects only.
    FrozenBack,
    /// Passes everything on so much later.
    Delayed(Duration),
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    There,
    Back,
}

impl LinkState {
    fn is_frozen(self, direction: Direction) -> bool {
        match self {
            Self::Frozen => true,
            Self::FrozenThere => direction == Direction::There,
            Self::FrozenBack => direction == Direction::Back,
            Self::Open | Self::Cut | Self::Delayed(_) => false,
        }
    }
}

/// A way to one server. Gone when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    target: Arc<OnceLock<SocketAddr>>,
    state: watch::Sender<LinkState>,
    _accepting: AbortOnDropHandle<()>,
}

impl Link {
    /// A way to `server` from a free port.
    pub async fn to(server: SocketAddr) -> Result<Self> {
        let link = Self::open().await?;
        link.lead_to(server);
        Ok(link)
    }

    /// A way from a free port; where to is said later. Until then it is as good as cut.
    pub async fn open() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let target = Arc::new(OnceLock::<SocketAddr>::new());
        let (state, states) = watch::channel(LinkState::Open);
        let known = target.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let accepted = listener.accept().await;
                let is_cut = *states.borrow() == LinkState::Cut;
                match (accepted, known.get()) {
                    (Ok((client, _)), Some(server)) if !is_cut => {
                        tokio::spawn(carry(client, *server, states.clone()));
                    }
                    // What is refused is closed.
                    (Ok(_), _) => {}
                    (Err(_), _) => tokio::time::sleep(ACCEPT_RETRY).await,
                }
            }
        });
        Ok(Self {
            address,
            target,
            state,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    /// Says where it leads to; only the first time counts.
    pub fn lead_to(&self, server: SocketAddr) {
        let _ = self.target.set(server);
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what the link does, for the connections that there are as well.
    pub fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }
}

/// One connection, until one of its ends or the link ends it.
async fn carry(client: TcpStream, server: SocketAddr, mut states: watch::Receiver<LinkState>) {
    let connecting = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(server));
    let Ok(Ok(server)) = connecting.await else {
        return;
    };
    // Small frames are what is measured by waiting for them.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pass(from_client, to_server, states.clone(), Direction::There);
    let back = pass(from_server, to_client, states.clone(), Direction::Back);
    tokio::select! {
        () = async { tokio::join!(there, back); } => {}
        // An error: the proxy is gone, and so are its connections.
        _ = states.wait_for(|state| *state == LinkState::Cut) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut states: watch::Receiver<LinkState>,
    direction: Direction,
) {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
    let mut reading = states.clone();
    let read = async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            if thawed(&mut reading, direction).await.is_err() {
                return;
            }
            let Ok(length @ 1..) = from.read(&mut chunk).await else {
                return;
            };
            let due = match *reading.borrow() {
                LinkState::Delayed(delay) => Instant::now() + delay,
                _ => Instant::now(),
            };
            let bytes = Bytes::copy_from_slice(&chunk[..length]);
            if sender.send((due, bytes)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = chunks.recv().await {
            tokio::time::sleep_until(due).await;
            if thawed(&mut states, direction).await.is_err() || to.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

/// Waits until the direction is not frozen.
async fn thawed(
    states: &mut watch::Receiver<LinkState>,
    direction: Direction,
) -> Result<(), watch::error::RecvError> {
    states
        .wait_for(|state| !state.is_frozen(direction))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn hear(stream: &mut TcpStream) -> Option<u8> {
        let mut byte = [0];
        let read = tokio::time::timeout(SHORT, stream.read_exact(&mut byte)).await;
        read.ok()?.ok().map(|_| byte[0])
    }

    #[tokio::test]
    async fn a_frozen_link_holds_everything_and_then_goes_on() {
        for frozen in [
            LinkState::Frozen,
            LinkState::FrozenThere,
            LinkState::FrozenBack,
        ] {
            let proxy = Link::to(echo().await).await.unwrap();
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            stream.write_all(b"a").await.unwrap();
            assert_eq!(hear(&mut stream).await, Some(b'a'));
            proxy.set(frozen);
            stream.write_all(b"b").await.unwrap();
            assert_eq!(hear(&mut stream).await, None, "{frozen:?}");
            proxy.set(LinkState::Open);
            assert_eq!(hear(&mut stream).await, Some(b'b'), "{frozen:?}");
        }
    }

    #[tokio::test]
    async fn a_cut_link_ends_connections_and_lets_none_in() {
        let proxy = Link::to(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"a").await.unwrap();
        assert_eq!(hear(&mut stream).await, Some(b'a'));
        proxy.set(LinkState::Cut);
        let mut byte = [0];
        let ended = tokio::time::timeout(SHORT, stream.read(&mut byte)).await;
        assert!(!matches!(ended.unwrap(), Ok(1..)));
        let mut other = TcpStream::connect(proxy.address()).await.unwrap();
        let ended = tokio::time::timeout(SHORT, other.read(&mut byte)).await;
        assert!(!matches!(ended.unwrap(), Ok(1..)));
        proxy.set(LinkState::Open);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"c").await.unwrap();
        assert_eq!(hear(&mut stream).await, Some(b'c'));
    }

    #[tokio::test]
    async fn a_delayed_link_keeps_the_order() {
        let proxy = Link::to(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.set(LinkState::Delayed(Duration::from_millis(50)));
        let started = Instant::now();
        for byte in 0..10 {
            stream.write_all(&[byte]).await.unwrap();
        }
        for byte in 0..10 {
            assert_eq!(hear(&mut stream).await, Some(byte));
        }
        assert!(started.elapsed() >= Duration::from_millis(100));
    }
}

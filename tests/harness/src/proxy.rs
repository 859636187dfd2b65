//! A way to the server that can be cut without either side hearing of it.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// Bytes passed on at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// Passes bytes on, until it is frozen. Gone when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    frozen: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy of `server` on a free port.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (frozen, is_frozen) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, is_frozen.clone()));
                tokio::spawn(pass(from_server, to_client, is_frozen.clone()));
            }
        });
        Self {
            address,
            frozen,
            task,
        }
    }

    /// For clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Passes nothing on any more, and closes nothing: what a phone without a network looks like.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut frozen: watch::Receiver<bool>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            // An error: the proxy is gone, and so are its connections.
            thawed = frozen.wait_for(|frozen| *frozen) => match thawed {
                Ok(_) => break,
                Err(_) => return,
            },
            read = from.read(&mut chunk) => read,
        };
        let Ok(bytes @ 1..) = read else { return };
        if to.write_all(&chunk[..bytes]).await.is_err() {
            return;
        }
    }
    // Both ends stay open until the proxy is dropped.
    while frozen.changed().await.is_ok() {}
}

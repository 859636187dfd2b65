//! The connection on which Chromium waits for messages: TLS, then packets of a tag, a length and a message
//! of Protocol Buffers. Each side counts the packets of the other, which is how one says what it has.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use prost::Message;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, ReadHalf,
        WriteHalf,
    },
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::mailbox::Mailbox;

const VERSION: u8 = 41;
const HEARTBEAT_PING: u8 = 0;
const HEARTBEAT_ACK: u8 = 1;
const LOGIN_REQUEST: u8 = 2;
const LOGIN_RESPONSE: u8 = 3;
const IQ_STANZA: u8 = 7;
const DATA_MESSAGE: u8 = 8;

/// Bytes of a packet. Chromium sends hundreds; with what it has received, a few thousand.
const PACKET_BYTES_MAX: usize = 1024 * 1024;
/// Pings that are not answered yet. Chromium sends one in minutes.
const PINGS_MAX: usize = 16;

#[derive(Clone, PartialEq, Message)]
struct LoginRequest {
    #[prost(string, repeated, tag = "10")]
    received_persistent_id: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct LoginResponse {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int32, tag = "5")]
    stream_id: i32,
    #[prost(int32, tag = "6")]
    last_stream_id_received: i32,
    #[prost(int64, tag = "8")]
    server_timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct HeartbeatPing {
    #[prost(int32, tag = "2")]
    last_stream_id_received: i32,
}

#[derive(Clone, PartialEq, Message)]
struct HeartbeatAck {}

/// Of its many kinds Chromium sends the one that says what it has received.
#[derive(Clone, PartialEq, Message)]
struct IqStanza {
    #[prost(int32, tag = "10")]
    last_stream_id_received: i32,
}

#[derive(Clone, PartialEq, Message)]
struct AppData {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// A push.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DataMessage {
    #[prost(string, tag = "2")]
    id: String,
    #[prost(string, tag = "3")]
    from: String,
    #[prost(string, tag = "5")]
    category: String,
    #[prost(message, repeated, tag = "7")]
    app_data: Vec<AppData>,
    #[prost(string, tag = "9")]
    persistent_id: String,
    #[prost(int32, tag = "17")]
    ttl_s: i32,
    #[prost(int64, tag = "18")]
    sent_s: i64,
    #[prost(bytes = "vec", tag = "21")]
    raw_data: Vec<u8>,
    /// Otherwise Chromium says every ten messages what it has.
    #[prost(bool, tag = "24")]
    immediate_ack: bool,
}

impl DataMessage {
    /// From a server's key to an app; how long it is good and since when, in seconds.
    pub(super) fn new(
        id: &str,
        from: &str,
        app: &str,
        app_data: &[(&str, &str)],
        (ttl_s, sent_s): (i32, i64),
        body: &[u8],
    ) -> Self {
        let app_data = app_data.iter().map(|&(key, value)| AppData {
            key: key.to_owned(),
            value: value.to_owned(),
        });
        Self {
            id: id.to_owned(),
            from: from.to_owned(),
            category: app.to_owned(),
            app_data: app_data.collect(),
            persistent_id: id.to_owned(),
            ttl_s,
            sent_s,
            raw_data: body.to_vec(),
            immediate_ack: true,
        }
    }

    pub(super) fn persistent_id(&self) -> &str {
        &self.persistent_id
    }
}

/// Listens until it is dropped.
#[derive(Debug)]
pub(super) struct Mcs {
    address: SocketAddr,
    key_hash: String,
    _stop: DropGuard,
}

impl Mcs {
    pub(super) async fn start(mailbox: Arc<Mailbox>) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let key_hash = STANDARD.encode(Sha256::digest(key.subject_public_key_info()));
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()])?.self_signed(&key)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(listen(listener, acceptor, mailbox, stop.clone()));
        Ok(Self {
            address,
            key_hash,
            _stop: stop.drop_guard(),
        })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// SHA-256 of the certificate's key, in base64.
    pub(super) fn key_hash(&self) -> &str {
        &self.key_hash
    }
}

async fn listen(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    mailbox: Arc<Mailbox>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (acceptor, mailbox, stop) = (acceptor.clone(), mailbox.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // Chromium closes connections as it likes, and comes again.
                _ = serve(socket, &acceptor, &mailbox) => {}
            }
        });
    }
}

/// The number that a message has on this connection, and its persistent id.
type Sent = Mutex<Vec<(i32, String)>>;

async fn serve(socket: TcpStream, acceptor: &TlsAcceptor, mailbox: &Mailbox) -> anyhow::Result<()> {
    let (read, mut write) = tokio::io::split(acceptor.accept(socket).await?);
    let mut read = BufReader::new(read);
    ensure!(read.read_u8().await? == VERSION, "another version");
    let (tag, body) = packet(&mut read).await?;
    ensure!(tag == LOGIN_REQUEST, "no login");
    let login = LoginRequest::decode(body.as_slice())?;
    mailbox.received(|id| login.received_persistent_id.iter().any(|has| has == id));
    let welcome = LoginResponse {
        // Of less than four bytes Chromium takes the next packet for a part of it.
        id: "stand-in".to_owned(),
        stream_id: 1,
        last_stream_id_received: 1,
        server_timestamp: crate::jwt::now_s() * 1_000,
    };
    write.write_u8(VERSION).await?;
    send(&mut write, LOGIN_RESPONSE, &welcome).await?;
    let sent = Sent::default();
    let (pings, pinged) = mpsc::channel(PINGS_MAX);
    tokio::select! {
        ended = hear(read, mailbox, &sent, pings) => ended,
        ended = tell(write, mailbox, &sent, pinged) => ended,
    }
}

/// What comes from the browser.
async fn hear<S: AsyncRead + AsyncWrite>(
    mut read: BufReader<ReadHalf<S>>,
    mailbox: &Mailbox,
    sent: &Sent,
    pings: mpsc::Sender<()>,
) -> anyhow::Result<()> {
    loop {
        let (tag, body) = packet(&mut read).await?;
        let last = match tag {
            HEARTBEAT_PING => {
                pings.send(()).await?;
                HeartbeatPing::decode(body.as_slice())?.last_stream_id_received
            }
            IQ_STANZA => IqStanza::decode(body.as_slice())?.last_stream_id_received,
            _ => continue,
        };
        let mut sent = sent.lock();
        let has = sent.partition_point(|&(number, _)| number <= last);
        let has: Vec<_> = sent.drain(..has).map(|(_, id)| id).collect();
        mailbox.received(|id| has.iter().any(|has| has == id));
    }
}

/// What goes to the browser.
async fn tell<S: AsyncRead + AsyncWrite>(
    mut write: WriteHalf<S>,
    mailbox: &Mailbox,
    sent: &Sent,
    mut pinged: mpsc::Receiver<()>,
) -> anyhow::Result<()> {
    let mut waiting = mailbox.watch();
    waiting.mark_changed();
    // The welcome was the first.
    let mut number = 1;
    loop {
        tokio::select! {
            Some(()) = pinged.recv() => {
                number += 1;
                send(&mut write, HEARTBEAT_ACK, &HeartbeatAck {}).await?;
            }
            changed = waiting.changed() => {
                changed?;
                let messages = waiting.borrow_and_update().clone();
                for message in messages {
                    let id = message.persistent_id();
                    if sent.lock().iter().any(|(_, sent)| sent == id) {
                        continue;
                    }
                    number += 1;
                    sent.lock().push((number, id.to_owned()));
                    send(&mut write, DATA_MESSAGE, &*message).await?;
                }
            }
        }
    }
}

async fn packet<R: AsyncRead + Unpin>(read: &mut R) -> anyhow::Result<(u8, Vec<u8>)> {
    let tag = read.read_u8().await?;
    let mut length = 0_usize;
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(read.read_u8().await?);
        length |= (byte & 0x7f) << shift;
        if byte < 0x80 {
            ensure!(length <= PACKET_BYTES_MAX, "a packet of {length} bytes");
            let mut body = vec![0; length];
            read.read_exact(&mut body).await?;
            return Ok((tag, body));
        }
    }
    anyhow::bail!("no length")
}

async fn send<W: AsyncWrite + Unpin>(
    write: &mut W,
    tag: u8,
    message: &impl Message,
) -> anyhow::Result<()> {
    let mut packet = vec![tag];
    message
        .encode_length_delimited(&mut packet)
        .context("it cannot be encoded")?;
    write.write_all(&packet).await?;
    write.flush().await?;
    Ok(())
}

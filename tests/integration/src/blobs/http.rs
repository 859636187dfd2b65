//! HTTP as a browser speaks it, and as one would that breaks off in the middle.

use std::net::SocketAddr;

use harness::within;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// Bytes that the system takes for a client before the server has read any: little, so that what a
/// server has not asked for is counted as not sent.
const SEND_BUFFER_BYTES: u32 = 64 * 1024;

/// What a server said.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a header; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {} {text}", self.status))
    }

    /// Fails unless it is this error, in JSON.
    #[track_caller]
    pub(crate) fn is_refusal(&self, status: u16, reason: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.json()["reason"], reason);
        assert_eq!(self.header("x-content-type-options"), "nosniff");
    }
}

/// Asks something of a URL.
pub(crate) async fn ask(method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
    let rest = url.strip_prefix("http://").unwrap();
    let (address, path) = rest.split_at(rest.find('/').unwrap());
    send(address.parse().unwrap(), method, path, headers, &[])
        .await
        .0
}

/// The same with a body; answers also how much of it had gone when the answer came.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (Answer, usize) {
    let stream = connect(address).await;
    let (mut from, mut to) = stream.into_split();
    let head = head(method, path, headers);
    let answering = async {
        let mut answer = Vec::new();
        // A server that closes before all was sent may reset the connection behind its answer.
        let read = from.read_to_end(&mut answer).await;
        assert!(!answer.is_empty(), "no answer: {read:?}");
        answer
    };
    let mut sent = 0;
    let sending = async {
        if to.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        for part in body.chunks(16 * 1024) {
            if to.write_all(part).await.is_err() {
                return;
            }
            sent += part.len();
        }
        std::future::pending::<()>().await;
    };
    let answer = within("an answer", async {
        tokio::pin!(answering);
        tokio::select! {
            answer = &mut answering => answer,
            () = sending => answering.await,
        }
    });
    (read(&answer.await), sent)
}

/// Sends a head and a part of the body, and is gone.
pub(crate) async fn break_off(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    part: &[u8],
) {
    let mut stream = connect(address).await;
    let head = head(method, path, headers);
    stream.write_all(head.as_bytes()).await.unwrap();
    within("the part", stream.write_all(part)).await.unwrap();
}

async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(SEND_BUFFER_BYTES).unwrap();
    within("a connection", socket.connect(address))
        .await
        .unwrap()
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let headers = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers: String = headers.collect();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: media.example.org\r\nconnection: close\r\n{headers}\r\n"
    )
}

fn read(answer: &[u8]) -> Answer {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(answer)));
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers = lines.filter_map(|line| line.split_once(": "));
    Answer {
        status: status.and_then(|status| status.parse().ok()).unwrap(),
        headers: headers
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: answer[end + 4..].to_vec(),
    }
}

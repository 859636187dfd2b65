//! Asks a broker which brokers it knows, in Kafka's own protocol: an open port says nothing yet.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// No answer about a few brokers and no topic is as large.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The request `Metadata` (key 3) in version 1, about no topic, from a client without a name.
const REQUEST: [u8; 18] = [
    0, 0, 0, 14, // length
    0, 3, 0, 1, // key and version
    0, 0, 0, 1, // correlation id
    0xff, 0xff, // no client id
    0, 0, 0, 0, // no topics
];

/// How many brokers are alive, as far as this one knows; an error while it does not answer.
pub(super) fn brokers_alive(address: SocketAddr) -> Result<usize> {
    let answer = ask(address)?;
    // The correlation id, then the array of brokers, which begins with its length.
    let count = answer.get(4..8).context("the answer is too short")?;
    let count: [u8; 4] = count.try_into()?;
    Ok(usize::try_from(u32::from_be_bytes(count))?)
}

/// The answer, without its length.
pub(super) fn ask(address: SocketAddr) -> Result<Vec<u8>> {
    let mut broker = TcpStream::connect_timeout(&address, PATIENCE)?;
    broker.set_read_timeout(Some(PATIENCE))?;
    broker.set_write_timeout(Some(PATIENCE))?;
    broker.write_all(&REQUEST)?;
    let mut length = [0; 4];
    broker.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length))?;
    ensure!(length <= ANSWER_BYTES_MAX, "the answer is too long");
    let mut answer = vec![0; length];
    broker.read_exact(&mut answer)?;
    Ok(answer)
}

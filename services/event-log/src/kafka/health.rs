//! Whether the cluster can be written and read: asked every second, and said when it changes.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rdkafka::{client::Client, error::KafkaError, metadata::MetadataTopic};

use super::{Quiet, Shared};

/// How often brokers are asked. Some requests of a few hundred bytes; it bounds how late a change
/// is seen.
const INTERVAL: Duration = Duration::from_secs(1);

/// Asks until `stop` is dropped. Also replaces producers that have failed for good.
pub(super) fn run(shared: &Arc<Shared>, client: &Client<Quiet>, stop: &mpsc::Receiver<()>) {
    let mut connected = true;
    while stop.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
        let problem = problem(shared, client);
        if problem.is_none() != connected {
            connected = problem.is_none();
            match problem {
                Some(problem) => tracing::warn!(problem, "the log is away"),
                None => tracing::info!("the log is back"),
            }
            shared.connected.send_replace(connected);
        }
        if connected {
            shared.producers().for_each(super::producer::Producer::heal);
        }
    }
}

/// What is wrong, if anything is.
fn problem(shared: &Shared, client: &Client<Quiet>) -> Option<String> {
    let timeout = shared.config.request_timeout();
    for place in shared.topics.values() {
        let metadata = match client.fetch_metadata(Some(&place.name), timeout) {
            Ok(metadata) => metadata,
            Err(error) => return Some(said(&error)),
        };
        let topic = metadata.topics().first();
        let leaderless = topic.map_or(Some(0), leaderless);
        if let Some(partition) = leaderless {
            let name = &place.name;
            return Some(format!("partition {partition} of {name} has no leader"));
        }
    }
    None
}

fn leaderless(topic: &MetadataTopic) -> Option<i32> {
    if topic.error().is_some() {
        return Some(0);
    }
    let mut partitions = topic.partitions().iter();
    partitions
        .find(|partition| partition.leader() < 0)
        .map(|partition| partition.id())
}

fn said(error: &KafkaError) -> String {
    let code = error.rdkafka_error_code();
    code.map_or_else(|| error.to_string(), |code| code.to_string())
}

/// Starts the thread that asks.
pub(super) fn start(
    shared: &Arc<Shared>,
    client: Client<Quiet>,
    stop: mpsc::Receiver<()>,
) -> std::io::Result<thread::JoinHandle<()>> {
    let shared = Arc::clone(shared);
    thread::Builder::new()
        .name("log-health".to_owned())
        .spawn(move || run(&shared, &client, &stop))
}

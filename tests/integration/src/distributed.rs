//! The distributed form: many processes, on a real Kafka, a real PostgreSQL and an S3 server.

mod digests;
mod outages;
mod pictures;
mod pushes;
mod rolling;
mod settings;
mod traced;

use std::time::Duration;

use cluster::{Cluster, ClusterOptions, Pushes};

/// What was missed live comes with the next heartbeat: soon enough for a test to wait for it.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A cluster with nothing in the way of machines.
async fn cluster() -> Cluster {
    cluster_that_pushes(None).await
}

/// The same, which tells users of what they have not received.
async fn cluster_that_pushes(pushes: Option<Pushes>) -> Cluster {
    let options = ClusterOptions {
        relaxed: true,
        durable: false,
        heartbeat: Some(HEARTBEAT),
        pushes,
        ..ClusterOptions::default()
    };
    Cluster::start(options).await.expect("a cluster")
}

//! Short runs against real processes. Long ones are commands: see README.md.

use std::{path::Path, sync::Arc, time::Duration};

use robustness::{
    deployment::{Clustered, ClusteredOptions, Deployment, Embedded, EmbeddedOptions},
    fault::catalogue,
    plan::Size,
    run::{self, Report, Task},
};
use tokio_util::sync::CancellationToken;

/// How long there is traffic and faults.
const LASTS: Duration = Duration::from_secs(30);
/// Few enough for a machine that runs other tests at the same time.
const SIZE: Size = Size {
    users: 16,
    devices_per_user: 2,
    conversations: 24,
    groups: 2,
    rate: 120.0,
};

/// Traffic with every fault of a deployment. What is found is in the folder, which is kept then.
async fn short_run(deployment: Arc<dyn Deployment>, folder: &Path) -> Report {
    let seed = rand::random();
    println!("seed {seed}");
    let task = Task {
        seed,
        lasts: LASTS,
        size: SIZE,
        faults: catalogue(&*deployment),
    };
    let report = run::run(deployment, &task, folder, CancellationToken::new()).await;
    let report = report.expect("a verdict");
    println!("{}", serde_json::to_string_pretty(&report).expect("JSON"));
    report
}

fn assert_good(report: &Report, folder: tempfile::TempDir) {
    if !report.is_good() {
        let folder = folder.keep();
        let findings = std::fs::read_to_string(folder.join(run::FINDINGS_FILE));
        panic!("{}: {}", folder.display(), findings.unwrap_or_default());
    }
    // Otherwise it has shown nothing.
    assert!(report.acked > 300, "{} messages", report.acked);
    let groups = report.groups;
    assert!(groups.acked > 50, "{groups:?}");
    assert!(groups.changes_answered > 5, "{groups:?}");
    let observed = report.faults.values().filter(|count| count.observed > 0);
    assert!(observed.count() >= 3, "{:?}", report.faults);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_holds_whatever_happens_to_the_server_and_the_ways_to_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let servers = folder.path().join("servers");
    std::fs::create_dir(&servers).expect("a folder");
    let options = EmbeddedOptions {
        clock: true,
        disk: true,
    };
    let deployment = Embedded::start(&servers, options).await.expect("a server");
    let report = short_run(Arc::new(deployment), folder.path()).await;
    assert_good(&report, folder);
}

/// The same of several processes of each service, on Kafka and PostgreSQL.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_holds_whatever_happens_to_any_part_of_a_cluster() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = ClusteredOptions {
        clock: true,
        ..ClusteredOptions::default()
    };
    let deployment = Clustered::start(options).await.expect("a cluster");
    let report = short_run(Arc::new(deployment), folder.path()).await;
    assert_good(&report, folder);
}

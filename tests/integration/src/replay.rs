//! Real conversations through real sessions, also with the server killed in the middle.

use std::{
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use cluster::{Cluster, ClusterOptions};
use harness::{ServerProcess, StandaloneOptions, program};
use rand::RngExt;
use serde_json::Value;

/// What a replay counts that must not have happened.
const WRONG: [&str; 7] = [
    "missing",
    "duplicated",
    "out_of_order",
    "altered",
    "unexpected",
    "devices_diverged",
    "unread_wrong",
];

fn replay(url: &str, logs: &[&str], speed: &str) -> (Child, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder for the accounts");
    let data = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../data"));
    let child = Command::new(program("messenger"))
        .args(["--json", "--server", url, "--profile-dir"])
        .arg(folder.path())
        .args(["replay", "--sessions-per-user", "2", "--speed", speed])
        .args(logs.iter().map(|log| data.join(format!("{log}.raw.txt"))))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the replay");
    (child, folder)
}

fn check(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    let summary: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no summary: {errors}"));
    for figure in WRONG {
        assert_eq!(summary[figure], 0, "{figure}: {summary}\n{errors}");
    }
    for figure in ["acked", "delivered", "read_back"] {
        assert_eq!(
            summary[figure], summary["sent"],
            "{figure}: {summary}\n{errors}"
        );
    }
    assert!(output.status.success(), "{summary}\n{errors}");
    summary
}

#[test]
fn real_conversations_come_back_as_they_were_sent() {
    let server = ServerProcess::start(StandaloneOptions::default());
    let logs = [
        "2005-06-16.train-c",
        "2007-07-03.train-a",
        "2015-11-26.train-b",
        "oddities",
    ];
    let (child, _folder) = replay(&server.url(), &logs, "max");
    let summary = check(&child.wait_with_output().expect("its end"));
    assert!(summary["sent"].as_u64() > Some(500), "{summary}");
}

#[test]
fn real_conversations_survive_kill_9_in_the_middle() {
    let mut server = ServerProcess::start(StandaloneOptions::default());
    let (mut child, _folder) = replay(&server.url(), &["2007-07-03.train-a"], "80");
    let mut kills = 0;
    // The moments are the fault, so they are left to chance.
    while child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(300..1_500)));
        if kills < 8 {
            server.start_again();
            kills += 1;
        }
    }
    let summary = check(&child.wait_with_output().expect("its end"));
    assert!(kills >= 3, "it was over after {kills} kills");
    assert!(summary["disconnects"].as_u64() > Some(0), "{summary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_conversations_survive_kill_9_of_any_process_of_a_cluster() {
    let options = ClusterOptions {
        relaxed: true,
        heartbeat: Some(Duration::from_secs(1)),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).await.expect("a cluster");
    let urls = cluster.urls().join(",");
    let (mut child, _folder) = replay(&urls, &["2007-07-03.train-a"], "30");
    let services: Vec<String> = cluster
        .nodes()
        .into_iter()
        .filter(|name| !name.starts_with("kafka") && name != "postgres")
        .collect();
    let mut kills = 0;
    while child.try_wait().expect("a child").is_none() {
        let pause = rand::rng().random_range(300..2_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if kills < 2 * services.len() {
            let name = &services[rand::rng().random_range(0..services.len())];
            cluster.kill(name).expect("a kill");
            cluster.start_again(name).await.expect("another start");
            kills += 1;
        }
    }
    let summary = check(&child.wait_with_output().expect("its end"));
    assert!(kills >= 3, "it was over after {kills} kills");
    assert!(summary["disconnects"].as_u64() > Some(0), "{summary}");
}

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

/// What a replay of groups counts besides.
const WRONG_IN_GROUPS: [&str; 8] = [
    "missing",
    "duplicated",
    "out_of_order",
    "altered",
    "foreign",
    "unexpected",
    "devices_diverged",
    "unread_wrong",
];

fn replay(url: &str, logs: &[&str], speed: &str) -> (Child, tempfile::TempDir) {
    let options = ["--sessions-per-user", "2", "--attachments"];
    replay_with(url, &options, logs, speed)
}

fn replay_groups(url: &str, logs: &[&str], speed: &str) -> (Child, tempfile::TempDir) {
    replay_with(url, &["--groups", "--attachments"], logs, speed)
}

fn replay_with(
    url: &str,
    options: &[&str],
    logs: &[&str],
    speed: &str,
) -> (Child, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder for the accounts");
    let data = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../data"));
    let child = Command::new(program("messenger"))
        .args(["--json", "--server", url, "--profile-dir"])
        .arg(folder.path())
        .args(["replay", "--speed", speed])
        .args(options)
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
    check_attachments(&summary, &errors);
    assert!(output.status.success(), "{summary}\n{errors}");
    summary
}

/// One message in ten has some, and all came to somebody else as they were sent.
fn check_attachments(summary: &Value, errors: &str) {
    assert_eq!(summary["attachments_wrong"], 0, "{summary}\n{errors}");
    let attachments = &summary["attachments"];
    assert_eq!(summary["attachments_verified"], *attachments, "{summary}");
    assert!(attachments.as_u64() > Some(5), "{summary}");
}

fn check_groups(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    let summary: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no summary: {errors}"));
    for figure in WRONG_IN_GROUPS {
        assert_eq!(summary[figure], 0, "{figure}: {summary}\n{errors}");
    }
    assert_eq!(summary["acked"], summary["messages"], "{summary}\n{errors}");
    assert!(summary["changes"].as_u64() > Some(20), "{summary}");
    check_attachments(&summary, &errors);
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

#[test]
fn whole_channels_survive_kill_9_as_groups() {
    let mut server = ServerProcess::start(StandaloneOptions::default());
    let (mut child, _folder) = replay_groups(&server.url(), &["2015-11-26.train-b"], "60");
    let mut kills = 0;
    while child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(500..2_500)));
        if kills < 12 {
            server.start_again();
            kills += 1;
        }
    }
    let summary = check_groups(&child.wait_with_output().expect("its end"));
    assert!(kills >= 3, "it was over after {kills} kills");
    assert!(summary["disconnects"].as_u64() > Some(0), "{summary}");
}

/// Kills service processes of a cluster at random moments until the replay is over.
async fn kill_until_it_ends(cluster: &Cluster, child: &mut Child) -> usize {
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
    kills
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
    // Slow enough for some kills: a process that is started again takes some seconds.
    let (mut child, _folder) = replay(&urls, &["2007-07-03.train-a"], "15");
    let kills = kill_until_it_ends(&cluster, &mut child).await;
    let summary = check(&child.wait_with_output().expect("its end"));
    assert!(kills >= 3, "it was over after {kills} kills");
    assert!(summary["disconnects"].as_u64() > Some(0), "{summary}");

    let (mut child, _folder) = replay_groups(&urls, &["2015-11-26.train-b"], "40");
    let kills = kill_until_it_ends(&cluster, &mut child).await;
    let summary = check_groups(&child.wait_with_output().expect("its end"));
    assert!(kills >= 3, "it was over after {kills} kills");
    assert!(summary["disconnects"].as_u64() > Some(0), "{summary}");
}

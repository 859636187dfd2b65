//! What an operator sees who has set something wrong.

use std::{fs, process::Command};

use harness::program;

const GOOD: &str = "
profile_addresses = ['127.0.0.1:1']
groups_addresses = ['127.0.0.1:1']
[[presence]]
name = 'presence-0'
url = 'http://127.0.0.1:1'
[server]
listen = '127.0.0.1:0'
service_key_file = 'service.pem'
[postgres]
url = 'postgres://test@127.0.0.1:1/messaging'
[kafka]
bootstrap_servers = '127.0.0.1:1'
";

/// Runs messaging with these settings; answers its exit code and what it said.
fn run(settings: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("messaging.toml");
    fs::write(&file, settings).unwrap();
    let output = Command::new(program("messaging"))
        .arg("--config")
        .arg(&file)
        .args(arguments)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn a_wrong_setting_ends_a_process_with_2_and_is_named() {
    let cases = [
        (
            GOOD.replace("bootstrap_servers", "bootstrap"),
            vec![],
            "bootstrap",
        ),
        (
            GOOD.replace("[kafka]", "[kafka]\nreplication_factor = 'three'"),
            vec![],
            "kafka.replication_factor",
        ),
        (GOOD.to_owned(), vec!["--set", "messaging.drain=5"], "drain"),
        (
            GOOD.to_owned(),
            vec!["--set", "server.listen=nowhere"],
            "server.listen",
        ),
        (
            GOOD.replace(
                "[postgres]\nurl = 'postgres://test@127.0.0.1:1/messaging'",
                "",
            ),
            vec![],
            "postgres",
        ),
        // Right in itself, and not there.
        (GOOD.to_owned(), vec![], "service_key_file"),
        ("listen = ".to_owned(), vec![], "messaging:"),
    ];
    for (settings, arguments, named) in cases {
        let (code, said) = run(&settings, &arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(named), "{said} does not name {named}");
    }
}

//! What an operator sees who has set something wrong.

use std::{fs, process::Command};

use harness::program;
use runtime::auth::KeyPair;

const GOOD: &str = "
profile_addresses = ['127.0.0.1:1']
groups_addresses = ['127.0.0.1:1']
blob_addresses = ['127.0.0.1:1']
notifier_addresses = ['127.0.0.1:1']
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

const GOOD_OF_BLOB: &str = "
url_secret_file = 'urls.secret'
profile_addresses = ['127.0.0.1:1']
messaging_addresses = ['127.0.0.1:1']
[server]
listen = '127.0.0.1:0'
service_key_file = 'service.pem'
[http]
listen = '127.0.0.1:0'
[postgres]
url = 'postgres://test@127.0.0.1:1/blob'
[kafka]
bootstrap_servers = '127.0.0.1:1'
[objects.s3]
bucket = 'blobs'
endpoint = 'https://127.0.0.1:1'
access_key_id = 'ada'
secret_access_key = 'a-secret-of-ada'
[blob]
public_url = 'https://media.example.org'
";

/// In a file.
const PASSWORD: &str = "a-secret-of-ada";

/// A secret key as the usual tools print it.
const VAPID_KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA";

const GOOD_OF_NOTIFIER: &str = "
mail_secret_file = 'urls.secret'
messaging_addresses = ['127.0.0.1:1']
profile_addresses = ['127.0.0.1:1']
groups_addresses = ['127.0.0.1:1']
[server]
listen = '127.0.0.1:0'
service_key_file = 'service.pem'
[postgres]
url = 'postgres://test@127.0.0.1:1/notifier'
[kafka]
bootstrap_servers = '127.0.0.1:1'
[notifier]
sender_burst = 5
[notifier.providers.web_push]
key_file = 'vapid.key'
contact = 'mailto:push@example.org'
[notifier.mail]
listen = '127.0.0.1:0'
public_url = 'https://chat.example.org'
open_url = 'https://app.example.org'
[notifier.mail.smtp]
host = 'mail.example.org'
from = 'Messenger <no-reply@example.org>'
username = 'ada'
password_file = 'password'
";

/// Runs a service with these settings, beside the files that they name; answers its exit code and what it
/// said.
fn run(
    service: &str,
    settings: &str,
    arguments: &[&str],
    with_files: bool,
) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(format!("{service}.toml"));
    fs::write(&file, settings).unwrap();
    if with_files {
        KeyPair::load_or_create(&folder.path().join("service.pem")).unwrap();
        fs::write(folder.path().join("urls.secret"), [7; 32]).unwrap();
        fs::write(folder.path().join("vapid.key"), VAPID_KEY).unwrap();
        fs::write(folder.path().join("password"), PASSWORD).unwrap();
    }
    let output = Command::new(program(service))
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
            GOOD.replace("notifier_addresses", "notifier_address"),
            vec![],
            "notifier_address",
        ),
        (
            GOOD.to_owned(),
            vec!["--set", "messaging.offline_after_ms=-1"],
            "messaging.offline_after_ms",
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
        let (code, said) = run("messaging", &settings, &arguments, false);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(named), "{said} does not name {named}");
    }
}

#[test]
fn a_wrong_setting_of_blob_is_named_before_it_waits_for_anybody_and_no_secret_is_told() {
    // What is right in itself waits for profile for ever.
    let cases = [
        ("[http]\nlisten = '127.0.0.1:0'", "", "http"),
        ("bucket = 'blobs'", "", "bucket"),
        ("bucket = 'blobs'", "bucket = ''", "objects.s3.bucket"),
        (
            "'https://127.0.0.1:1'",
            "'http://127.0.0.1:1'",
            "objects.s3.endpoint",
        ),
        ("access_key_id", "key_id", "key_id"),
        (
            "[objects.s3]",
            "[objects.local]\npath = 'here'\n[objects.s3]",
            "objects",
        ),
        (
            "public_url = 'https://media.example.org'",
            "",
            "blob.public_url",
        ),
        ("example.org'", "example.org/'", "blob.public_url"),
        ("[blob]", "[blob]\nuploads_max = 0", "blob.uploads_max"),
        ("'urls.secret'", "'service.pem'", "url_secret_file"),
        ("'urls.secret'", "'nowhere'", "url_secret_file"),
        (
            "messaging_addresses",
            "messaging_address",
            "messaging_address",
        ),
    ];
    for (good, bad, named) in cases {
        assert!(GOOD_OF_BLOB.contains(good), "{good}");
        let settings = GOOD_OF_BLOB.replacen(good, bad, 1);
        let (code, said) = run("blob", &settings, &[], true);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(named), "{said} does not name {named}");
        assert!(!said.contains("a-secret-of-ada"), "{said}");
    }
}

#[test]
fn a_wrong_setting_of_the_notifier_is_named_before_it_waits_for_anybody_and_no_secret_is_told() {
    // What is right in itself waits for profile for ever.
    let with_fcm = "[notifier.providers.fcm]\nservice_account_file";
    let cases = [
        (
            "messaging_addresses",
            "messaging_address",
            "messaging_address",
        ),
        ("groups_addresses = ['127.0.0.1:1']", "", "groups_addresses"),
        ("'service.pem'", "'nowhere'", "server.service_key_file"),
        (
            "sender_burst = 5",
            "sender_burst = 0",
            "notifier.sender_burst",
        ),
        ("sender_burst", "sender_bursts", "notifier.sender_bursts"),
        (
            "'mailto:push@example.org'",
            "'push@example.org'",
            "notifier.providers.web_push.contact",
        ),
        (
            "contact",
            "allowed_hosts = ['*']\ncontact",
            "notifier.providers.web_push.allowed_hosts",
        ),
        // A key that one replica has alone is known to no browser of the others.
        (
            "'vapid.key'",
            "'nowhere'",
            "notifier.providers.web_push.key_file",
        ),
        (
            "'vapid.key'",
            "'service.pem'",
            "notifier.providers.web_push.key_file",
        ),
        (
            "[notifier.providers.web_push]",
            &format!("{with_fcm} = 'nowhere'\n[notifier.providers.web_push]"),
            "notifier.providers.fcm.service_account_file",
        ),
        (
            "[notifier.providers.web_push]",
            &format!("{with_fcm} = 'vapid.key'\n[notifier.providers.web_push]"),
            "notifier.providers.fcm.service_account_file",
        ),
        ("mail_secret_file = 'urls.secret'", "", "mail_secret_file"),
        ("'urls.secret'", "'vapid.key'", "mail_secret_file"),
        (
            "'https://chat.example.org'",
            "''",
            "notifier.mail.public_url",
        ),
        ("'https://chat", "'http://chat", "notifier.mail.public_url"),
        (
            "'https://app",
            "'javascript://app",
            "notifier.mail.open_url",
        ),
        (
            "no-reply@example.org",
            "no-reply",
            "notifier.mail.smtp.from",
        ),
        (
            "'password'",
            "'nowhere'",
            "notifier.mail.smtp.password_file",
        ),
        ("username = 'ada'", "", "notifier.mail.smtp.username"),
        ("'mail.example.org'", "''", "notifier.mail.smtp.host"),
        (
            "[notifier.mail.smtp]",
            "[notifier.mail.smtp]\ntls = 'none'",
            "notifier.mail.smtp.tls",
        ),
        ("host =", "server =", "server"),
    ];
    for (good, bad, named) in cases {
        assert!(GOOD_OF_NOTIFIER.contains(good), "{good}");
        let settings = GOOD_OF_NOTIFIER.replacen(good, bad, 1);
        let (code, said) = run("notifier", &settings, &[], true);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(named), "{said} does not name {named}");
        assert!(!said.contains(VAPID_KEY), "{said}");
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

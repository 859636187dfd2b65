//! E-mail of what is unread, of two notifiers that share it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cluster::{Cluster, ClusterOptions, Service};
use harness::{eventually, register};
use mail_parser::MessageParser;
use proto::notifier::v1::{GetPreferencesRequest, notifier_service_client::NotifierServiceClient};
use servers::smtp::{Mail, Smtp};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    blobs::http,
    digests::{id_of, is_digest, with_email},
};

const USERS: usize = 60;
/// Digests that a notifier has on their way at the same time.
const AT_ONCE: usize = 8;

fn digests(smtp: &Smtp) -> Vec<Mail> {
    let mut mails = smtp.mails().unwrap();
    mails.retain(is_digest);
    mails
}

/// Where a notifier listens for those who end digests.
fn http_address(cluster: &Cluster, name: &str) -> String {
    let log = cluster.log(name);
    let line = log.lines().rfind(|line| line.ends_with("by HTTP"));
    let url = line.and_then(|line| line.split_whitespace().find(|word| word.contains("://")));
    url.unwrap_or_else(|| panic!("{name} has no HTTP: {log}"))
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_has_one_digest_though_a_notifier_is_killed_and_any_of_them_ends_it() {
    let smtp = Smtp::start().unwrap();
    let options = ClusterOptions {
        relaxed: true,
        durable: false,
        smtp: Some(smtp.address()),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let url = cluster.urls()[0].clone();
    let ada = register(&url, "ada").await;
    let mut users = Vec::new();
    for number in 0..USERS {
        let user = register(&url, &format!("user{number}")).await;
        with_email(&smtp, &user, &format!("user{number}@example.org")).await;
        ada.send(&ada.with(&user), Uuid::now_v7(), "hello")
            .await
            .unwrap();
        users.push(user);
    }
    let mut database = PgConnection::connect(&cluster.database(Service::Notifier))
        .await
        .unwrap();
    // Their hour has come.
    let now = "UPDATE emails SET next_digest_unix_ms = 1000";
    sqlx::raw_sql(now).execute(&mut database).await.unwrap();
    let some = async || (digests(&smtp).len() >= 5).then_some(());
    eventually("some digests", some).await;
    cluster.kill("notifier-1").unwrap();
    // The other one ends what it has begun; then the claims of the dead one end.
    let mut before = usize::MAX;
    while before != digests(&smtp).len() {
        before = digests(&smtp).len();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let over = "UPDATE emails SET claimed_until_unix_ms = 0";
    sqlx::raw_sql(over).execute(&mut database).await.unwrap();
    let mails = eventually("everybody has a digest", async || {
        let mails = digests(&smtp);
        let to: BTreeSet<_> = mails.iter().map(|mail| &mail.to).collect();
        (to.len() == USERS).then_some(mails)
    })
    .await;
    let mut ids: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for mail in &mails {
        ids.entry(&mail.to[0]).or_default().insert(id_of(mail));
    }
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    assert!(mails.len() <= USERS + AT_ONCE, "{} mails", mails.len());

    // The link of one is good at the other, and at one that was started again.
    cluster.start_again("notifier-1").await.unwrap();
    for (user, node) in [(0, "notifier-1"), (1, "notifier-0")] {
        let address = format!("user{user}@example.org");
        let mail = mails
            .iter()
            .find(|mail| mail.to == [address.as_str()])
            .unwrap();
        let message = MessageParser::default().parse(&mail.bytes).unwrap();
        let link = message.header_raw("List-Unsubscribe").unwrap().trim();
        let path = link
            .trim_start_matches("<https://chat.example.org")
            .trim_end_matches('>');
        let link = format!("{}{path}", http_address(&cluster, node));
        let length = [("content-length", "0")];
        assert_eq!(
            http::ask("POST", &link, &length).await.status,
            200,
            "{link}"
        );
        let user = &users[user];
        let mut client = NotifierServiceClient::with_interceptor(user.channel(), user.bearer());
        let wants = client
            .get_preferences(GetPreferencesRequest {})
            .await
            .unwrap();
        assert_eq!(wants.into_inner().preferences.unwrap().digest, 1);
    }
}

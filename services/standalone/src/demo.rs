//! `--demo`: two users, and a short real conversation between them through real sessions.
//!
//! The lines are from the log of 2007-07-03 of the public #ubuntu channel, as published by Kummerfeld
//! et al., "A Large-Scale Corpus for Conversation Disentanglement" (ACL 2019), CC BY 4.0.

use std::time::{Duration, Instant};

use anyhow::Context;
use messenger_client::{Client, Event, Events, NewAccount, Options, Session};
use runtime::ids::UserId;

/// Who says what: 0 is capirra, 1 is nutubuntu.
const LINES: [(usize, &str); 8] = [
    (
        1,
        "might be a good idea to not load the entire collection at once; depending on your hardware \
         things could get slow - better to symlink to the ones you want for a particular job from \
         ~/.fonts I would think",
    ),
    (
        0,
        "ohh i was going to copy everything into that directory :D",
    ),
    (0, "hehe thx for the advice"),
    (0, "a directory inside ./font works too ?"),
    (0, "or do they need to be directly installed into ./font ?"),
    (
        1,
        "yes it does. experiment a bit if need be; it's straightforward.",
    ),
    (1, "\"yes\" meaning directories under ~/.fonts work fine"),
    (0, "cool thank you alot!"),
];
const NAMES: [&str; 2] = ["capirra", "nutubuntu"];
/// How long each step may take.
const STEP_DEADLINE: Duration = Duration::from_secs(15);

struct Person {
    name: String,
    user_id: String,
    session: Session,
    events: Events,
}

/// Plays the conversation against the server at `url`, and prints what the receivers see.
pub async fn play(url: &str) -> anyhow::Result<()> {
    // New people each time: the names of an earlier demo are taken.
    let suffix: String = UserId::generate()
        .to_string()
        .chars()
        .rev()
        .take(4)
        .collect();
    let mut people = Vec::new();
    for name in NAMES {
        people.push(join(url, format!("{name}-{suffix}")).await?);
    }
    let [one, other] = people.as_mut_slice() else {
        anyhow::bail!("a demo has two people")
    };
    let conversation = one
        .session
        .client()
        .open_direct(&other.user_id)
        .await?
        .conversation_id;
    println!(
        "\ndemo: {} and {} talk, each over a session of their own",
        one.name, other.name
    );
    for (speaker, text) in LINES {
        let (from, to) = if speaker == 0 {
            (&mut *one, &mut *other)
        } else {
            (&mut *other, &mut *one)
        };
        let start = Instant::now();
        let mut outgoing = from.session.send(&conversation, text).await?;
        let receipt = tokio::time::timeout(STEP_DEADLINE, outgoing.sent())
            .await
            .context("no acknowledgement came")??;
        let acked = start.elapsed();
        let message = tokio::time::timeout(STEP_DEADLINE, message_from(to, &from.user_id))
            .await
            .context("the message did not arrive")??;
        println!(
            "  #{} {}: {}\n      durable after {:.1} ms, received by {} after {:.1} ms",
            receipt.seq,
            from.name,
            message.text,
            acked.as_secs_f64() * 1_000.0,
            to.name,
            start.elapsed().as_secs_f64() * 1_000.0,
        );
        to.session
            .mark_read(&conversation, message.watermark())
            .await?;
    }
    let mut histories = Vec::new();
    for person in [&one.session, &other.session] {
        histories.push(person.history(&conversation, 0, LINES.len() + 1).await?);
    }
    let same = histories[0] == histories[1];
    anyhow::ensure!(
        same && histories[0].len() == LINES.len(),
        "the two histories differ"
    );
    println!(
        "demo: done, the same {} messages in the history of both\n",
        LINES.len()
    );
    for person in people {
        person.session.close().await;
    }
    Ok(())
}

async fn join(url: &str, name: String) -> anyhow::Result<Person> {
    let client = Client::builder(url).build()?;
    let account = NewAccount {
        username: name.clone(),
        // Nobody logs in again.
        password: UserId::generate().to_string(),
        display_name: String::new(),
        device_name: "demo".to_owned(),
    };
    let user_id = client.register(account).await?.user_id;
    let (session, events) = client.connect(Options::default()).await?;
    tokio::time::timeout(STEP_DEADLINE, session.live())
        .await
        .context("no session")??;
    Ok(Person {
        name,
        user_id,
        session,
        events,
    })
}

async fn message_from(
    person: &mut Person,
    sender_id: &str,
) -> anyhow::Result<messenger_client::Message> {
    while let Some(event) = person.events.next().await {
        if let Event::Message(message) = event
            && message.sender_id == sender_id
        {
            return Ok(message);
        }
    }
    anyhow::bail!("the session of {} has ended", person.name)
}

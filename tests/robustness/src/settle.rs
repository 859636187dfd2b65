//! After the traffic: waits until everything has come to rest, and reads everything once more.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use messenger_client::{
    Cache, Client, Error, ErrorKind, Event, Message, Options,
    model::{EventRange, MessageRange, Order},
};
use tokio::time::Instant;

use crate::{
    check::{Expected, World},
    history::{Mark, No, Reader, Record},
    traffic::{Device, Stage, Traffic, User, reason},
};

/// How long what is under way may take to come to rest after the last fault: sends that are retried,
/// sessions that connect again, a node that replays its log.
pub(crate) const REST_DEADLINE: Duration = Duration::from_secs(90);
/// How long one call may be tried.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// Between two tries of a call.
const PAUSE: Duration = Duration::from_millis(250);
/// Users who read at the same time.
const AT_A_TIME: usize = 4;
/// Events of a page, and messages of a page: unlike each other, so that both end everywhere.
pub(crate) const EVENTS_PAGE: i32 = 200;
pub(crate) const MESSAGES_PAGE: i32 = 173;
/// Rows and messages of a page of a cache.
const CACHE_PAGE: usize = 10_000;

/// Brings everything to rest and takes down what is there then.
pub(crate) async fn settle(traffic: &Traffic) -> anyhow::Result<()> {
    let stage = &traffic.stage;
    stage.recorder.add(Record::Quiet {
        t: stage.recorder.now(),
    });
    let deadline = Instant::now() + REST_DEADLINE;
    for device in &traffic.devices {
        wait_for_answers(device, deadline).await;
    }
    tracing::info!("all sends are answered");
    let read: Vec<HashMap<No, u64>> = stream::iter(&traffic.users)
        .map(|user| read_user(stage, user))
        .buffered(AT_A_TIME)
        .try_collect()
        .await?;
    tracing::info!("everything is read");
    let mut heads = HashMap::new();
    heads.extend(read.into_iter().flatten());
    let deadline = Instant::now() + REST_DEADLINE;
    for device in &traffic.devices {
        wait_for_end(device, &heads, deadline).await;
    }
    lists(traffic).await?;
    // Once more, with everything read by half of the users.
    for user in traffic.users.iter().step_by(2) {
        read_all(traffic, user).await;
    }
    lists(traffic).await?;
    for device in &traffic.devices {
        caches(device).await?;
    }
    Ok(())
}

async fn wait_for_answers(device: &Device, deadline: Instant) {
    while device.pending() > 0 && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
    let app = device.app.read().await;
    let Some(app) = app.as_ref() else { return };
    let live = tokio::time::timeout_at(deadline, app.session.live()).await;
    let what = match live {
        Ok(Ok(())) => return,
        Ok(Err(error)) => reason(&error),
        Err(_) => format!("{:?}", app.session.state()),
    };
    device.stage.recorder.add(Record::Unsettled {
        what: format!(
            "the session of device {} is not live: {what}",
            device.role.number
        ),
    });
}

/// Waits until the device has handed out everything. What it has not, the judge sees.
async fn wait_for_end(device: &Device, heads: &HashMap<No, u64>, deadline: Instant) {
    let app = device.app.read().await;
    let Some(app) = app.as_ref() else { return };
    let is_at_end = || {
        let places = app.view.places.lock();
        let rows = app.view.rows.lock();
        device
            .stage
            .cast
            .of_user(device.role.user)
            .iter()
            .all(|conversation| {
                let head = heads.get(conversation).copied().unwrap_or_default();
                let place = places.get(conversation).is_none_or(|place| *place >= head);
                let row = rows.get(conversation).is_none_or(|row| row.last.0 >= head);
                place && row
            })
    };
    while !is_at_end() && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
}

/// Repeats a call that changes nothing until the answer is definite.
pub(crate) async fn patiently<T, F>(call: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let deadline = Instant::now() + CALL_DEADLINE;
    loop {
        match call().await {
            Err(error) if error.kind() != ErrorKind::Rejected && Instant::now() < deadline => {
                tokio::time::sleep(error.retry_after().unwrap_or(PAUSE).max(PAUSE)).await;
            }
            answer => return answer,
        }
    }
}

async fn new_device(stage: &Stage, user: &User) -> anyhow::Result<Client> {
    let url = stage.deployment.url(usize::from(user.number));
    let client = Client::builder(url).build()?;
    patiently(|| client.log_in(user.log_in()))
        .await
        .with_context(|| format!("a new device of {}", user.username))?;
    Ok(client)
}

/// Reads all conversations of a user through a new device, in three ways. Gives their ends.
async fn read_user(stage: &Arc<Stage>, user: &Arc<User>) -> anyhow::Result<HashMap<No, u64>> {
    let client = new_device(stage, user).await?;
    let mut heads = HashMap::new();
    let conversations = stage.cast.of_user(user.number);
    for conversation in &conversations {
        let (contents, head) = all_events(stage, &client, *conversation).await?;
        heads.insert(*conversation, head);
        view(stage, Reader::Events, user, None, *conversation, contents);
        let contents = all_messages(stage, &client, *conversation).await?;
        view(stage, Reader::Messages, user, None, *conversation, contents);
    }
    let mut told = all_told(stage, &client).await?;
    for conversation in conversations {
        let contents = told.remove(&conversation).unwrap_or_default();
        view(stage, Reader::Session, user, None, conversation, contents);
    }
    for (conversation, contents) in told {
        // The judge says what is wrong with it.
        view(stage, Reader::Session, user, None, conversation, contents);
    }
    Ok(heads)
}

fn view(
    stage: &Stage,
    reader: Reader,
    user: &User,
    device: Option<No>,
    conversation: No,
    contents: Vec<u32>,
) {
    stage.recorder.add(Record::View {
        reader,
        user: user.number,
        device,
        conversation,
        contents,
    });
}

async fn all_events(
    stage: &Stage,
    client: &Client,
    conversation: No,
) -> anyhow::Result<(Vec<u32>, u64)> {
    let mut contents = Vec::new();
    let mut after_seq = 0;
    loop {
        let range = EventRange {
            conversation_id: stage.conversation_id(conversation).to_owned(),
            after_seq,
            page_size: EVENTS_PAGE,
            order: Order::OldestFirst.into(),
            ..EventRange::default()
        };
        let pages = patiently(|| client.list_events(vec![range.clone()])).await?;
        let page = pages
            .into_iter()
            .next()
            .context("an answer without a page")?;
        let messages = page.events.into_iter().filter_map(Message::from_event);
        contents.extend(messages.map(|message| stage.recorder.content(&message)));
        if !page.more {
            return Ok((contents, page.last_seq));
        }
        ensure!(
            page.to_seq > after_seq,
            "pages of events do not come to an end"
        );
        after_seq = page.to_seq;
    }
}

async fn all_messages(
    stage: &Stage,
    client: &Client,
    conversation: No,
) -> anyhow::Result<Vec<u32>> {
    let conversation_id = stage.conversation_id(conversation);
    let mut contents = Vec::new();
    let (mut before, mut as_of_seq) = (0, 0);
    loop {
        let range = MessageRange {
            conversation_id: conversation_id.to_owned(),
            before_message_index: before,
            as_of_seq,
            page_size: MESSAGES_PAGE,
            order: Order::NewestFirst.into(),
            ..MessageRange::default()
        };
        let pages = patiently(|| client.list_messages(vec![range.clone()])).await?;
        let page = pages
            .into_iter()
            .next()
            .context("an answer without a page")?;
        contents.extend(page.messages.into_iter().map(|shown| {
            stage
                .recorder
                .content(&Message::from_shown(conversation_id, shown))
        }));
        if !page.more || page.from_message_index <= 1 {
            contents.reverse();
            return Ok(contents);
        }
        let is_further = before == 0 || page.from_message_index < before;
        ensure!(is_further, "pages of messages do not come to an end");
        (before, as_of_seq) = (page.from_message_index, page.as_of_seq);
    }
}

/// What a session from the beginning tells until it has caught up.
async fn all_told(stage: &Stage, client: &Client) -> anyhow::Result<HashMap<No, Vec<u32>>> {
    let (session, mut events) = client.connect(Options::from_beginning()).await?;
    let mut told: HashMap<No, Vec<u32>> = HashMap::new();
    let listen = async {
        while let Some(event) = events.next().await {
            match event {
                Event::Message(message) => {
                    let conversation = stage.recorder.conversation(&message.conversation_id);
                    let content = stage.recorder.content(&message);
                    told.entry(conversation).or_default().push(content);
                }
                Event::CaughtUp { .. } | Event::Closed(_) => return,
                _ => {}
            }
        }
    };
    let ended = tokio::time::timeout(REST_DEADLINE, listen).await;
    ended.context("a new device's session does not catch up")?;
    session.close().await;
    Ok(told)
}

/// Reads the lists of all users until they are exact, or long enough.
async fn lists(traffic: &Traffic) -> anyhow::Result<()> {
    let deadline = Instant::now() + REST_DEADLINE;
    for user in &traffic.users {
        let mut devices = traffic.devices.iter();
        let device = devices
            .find(|device| device.role.user == user.number)
            .context("a user without a device")?;
        let client = {
            let app = device.app.read().await;
            app.as_ref()
                .context("a device without an app")?
                .client()
                .clone()
        };
        let list = loop {
            let min_version = user.knowledge.lock().version;
            let list = patiently(|| async {
                let list = device.list(&client, min_version, true).await;
                list.ok_or(Error::Timeout(CALL_DEADLINE))
            });
            let list = list.await?;
            let wrong = traffic.stage.recorder.look(|records| {
                let world = World::new(records);
                Expected::new(&world, records).compare(&world, &list)
            });
            if wrong.is_empty() || Instant::now() >= deadline {
                break list;
            }
            tokio::time::sleep(LOOK).await;
        };
        let min_version = list.version;
        traffic.stage.recorder.add(Record::List(list));
        device.unread_total(&client, min_version, true).await;
    }
    Ok(())
}

/// The user reads everything: half of it in the session of one device, half of it as calls.
async fn read_all(traffic: &Traffic, user: &User) {
    let own = traffic
        .devices
        .iter()
        .filter(|device| device.role.user == user.number);
    for (device, conversation) in own.cycle().zip(traffic.stage.cast.of_user(user.number)) {
        if conversation % 2 == 0 {
            device.mark_read(conversation).await;
        } else {
            let client = {
                let app = device.app.read().await;
                app.as_ref().map(|app| app.client().clone())
            };
            if let Some(client) = client {
                device.mark_read_call(&client, conversation).await;
            }
        }
    }
}

/// Takes down what the device has in its cache.
async fn caches(device: &Device) -> anyhow::Result<()> {
    let (stage, user) = (&device.stage, &device.user);
    let app = device.app.read().await;
    let Some(cache) = app.as_ref().and_then(|app| app.cache.as_ref()) else {
        return Ok(());
    };
    for conversation in stage.cast.of_user(user.number) {
        let id = stage.conversation_id(conversation);
        let (mut contents, mut before) = (Vec::new(), 0);
        loop {
            let page = cache.messages(id, before, CACHE_PAGE).await?;
            contents.extend(page.iter().map(|message| stage.recorder.content(message)));
            match page.last() {
                Some(last) if page.len() == CACHE_PAGE => before = last.message_index,
                _ => break,
            }
        }
        contents.reverse();
        let number = Some(device.role.number);
        view(stage, Reader::Cache, user, number, conversation, contents);
    }
    let is_right = |rows: &[crate::history::Row]| {
        stage.recorder.look(|records| {
            let world = World::new(records);
            let expected = Expected::new(&world, records);
            let t = stage.recorder.now();
            world
                .of_user(user.number)
                .filter(|conversation| world.head(*conversation) != Mark::default())
                .all(|conversation| {
                    let row = rows.iter().find(|row| row.conversation == conversation);
                    row.is_some_and(|row| {
                        expected
                            .compare_row(&world, user.number, row, (t, t))
                            .is_none()
                    })
                })
        })
    };
    let deadline = Instant::now() + REST_DEADLINE;
    loop {
        let rows = cache.conversations(CACHE_PAGE).await?;
        let rows: Vec<_> = rows.iter().map(|row| stage.recorder.row(row)).collect();
        if is_right(&rows) || Instant::now() >= deadline {
            stage.recorder.add(Record::CacheRows {
                t: stage.recorder.now(),
                device: device.role.number,
                rows,
            });
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

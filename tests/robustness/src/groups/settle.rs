//! After the traffic: waits until the groups have come to rest, and reads everything once more.

use std::collections::HashMap;

use anyhow::{Context, ensure};
use messenger_client::{
    Client, Error, Message,
    model::{EventRange, MessageRange, Order},
};
use tokio::time::Instant;

use super::{
    device::GroupDevice,
    traffic::{GroupStage, GroupTraffic},
};
use crate::{
    check::GroupWorld,
    history::{No, Record, groups::GroupRecord},
    settle::{CALL_DEADLINE, EVENTS_PAGE, LOOK, MESSAGES_PAGE, REST_DEADLINE, patiently},
    traffic::{User, reason},
};

/// Members of a page: more than a group has.
const MEMBERS_PAGE: i32 = 100;

/// Brings everything to rest and takes down what is there then.
pub(crate) async fn settle(traffic: &GroupTraffic) -> anyhow::Result<()> {
    let stage = &traffic.stage;
    let deadline = Instant::now() + REST_DEADLINE;
    for device in &traffic.devices {
        wait_for_answers(device, deadline).await;
    }
    let mut clients = HashMap::new();
    for group in (0..).take(stage.cast.groups.len()) {
        read_group(stage, &mut clients, group).await?;
    }
    tracing::info!("all groups are read");
    let ends = ends(traffic);
    let deadline = Instant::now() + REST_DEADLINE;
    for device in &traffic.devices {
        wait_for_end(device, &ends, deadline).await;
    }
    lists(traffic).await?;
    // Once more, with everything read by half of the users.
    for device in &traffic.devices {
        if device.role.user % 2 == 0 {
            read_all(device).await;
        }
    }
    lists(traffic).await
}

async fn wait_for_answers(device: &GroupDevice, deadline: Instant) {
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

/// The last event that each user sees of each group, by group and user.
fn ends(traffic: &GroupTraffic) -> HashMap<(No, No), u64> {
    traffic.stage.recorder.look(|records| {
        let world = GroupWorld::new(records);
        let groups = (0..).zip(&traffic.stage.cast.groups);
        groups
            .flat_map(|(group, role)| role.users.iter().map(move |user| (group, *user)))
            .filter_map(|key| Some((key, world.end(key.0, key.1)?.0)))
            .collect()
    })
}

/// Waits until the device has handed out everything. What it has not, the judge sees.
async fn wait_for_end(device: &GroupDevice, ends: &HashMap<(No, No), u64>, deadline: Instant) {
    let app = device.app.read().await;
    let Some(app) = app.as_ref() else { return };
    let user = device.role.user;
    let is_at_end = || {
        let places = app.view.places.lock();
        let rows = app.view.rows.lock();
        let own = ends.iter().filter(|((_, of), _)| *of == user);
        own.map(|((group, _), end)| (group, end))
            .all(|(group, end)| {
                let place = places.get(group).is_none_or(|place| place >= end);
                let row = rows.get(group).is_none_or(|row| row.last.0 >= *end);
                place && row
            })
    };
    while !is_at_end() && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
}

/// Reads a group through a new device of everybody who may have been in it, the owner first.
async fn read_group(
    stage: &GroupStage,
    clients: &mut HashMap<No, Client>,
    group: No,
) -> anyhow::Result<()> {
    for user in &stage.cast.groups[usize::from(group)].users {
        let client = match clients.get(user) {
            Some(client) => client.clone(),
            None => new_device(stage, stage.user(*user)).await?,
        };
        clients.insert(*user, client.clone());
        let events = all_events(stage, &client, group).await?;
        stage.recorder.add_group(GroupRecord::View {
            user: *user,
            group,
            events,
        });
        let events = all_messages(stage, &client, group).await?;
        stage.recorder.add_group(GroupRecord::Messages {
            user: *user,
            group,
            events,
        });
    }
    let owner = stage.cast.groups[usize::from(group)].owner;
    let owner = clients.get(&owner).context("an owner who has not read")?;
    let id = stage.group(group).map_or("", |made| made.group_id.as_str());
    let members =
        patiently(|| async { owner.groups().members(id, MEMBERS_PAGE, "").await }).await?;
    let shown = members.members.iter();
    let mut listed: Vec<_> = shown
        .map(|member| stage.recorder.group_member(member))
        .collect();
    listed.sort_unstable();
    stage.recorder.add_group(GroupRecord::Members {
        group,
        version: members.version,
        members: listed,
    });
    Ok(())
}

async fn new_device(stage: &GroupStage, user: &User) -> anyhow::Result<Client> {
    let url = stage.deployment.url(usize::from(user.number));
    let client = Client::builder(url).build()?;
    patiently(|| client.log_in(user.log_in()))
        .await
        .with_context(|| format!("a new device of {}", user.username))?;
    Ok(client)
}

/// Everything that the user may see; nothing if he never was a member.
async fn all_events(stage: &GroupStage, client: &Client, group: No) -> anyhow::Result<Vec<u32>> {
    let mut events = Vec::new();
    let mut after_seq = 0;
    loop {
        let range = EventRange {
            conversation_id: stage.conversation_id(group).to_owned(),
            after_seq,
            page_size: EVENTS_PAGE,
            order: Order::OldestFirst.into(),
            ..EventRange::default()
        };
        let pages = match patiently(|| client.list_events(vec![range.clone()])).await {
            Err(error) if reason(&error) == "NOT_A_MEMBER" => return Ok(Vec::new()),
            pages => pages?,
        };
        let pages = pages.into_iter().next();
        let page = pages.context("an answer without a page")?;
        let shown = page.events.into_iter();
        events.extend(shown.filter_map(|event| stage.recorder.group_event(event)));
        if !page.more {
            return Ok(events);
        }
        ensure!(
            page.to_seq > after_seq,
            "pages of events do not come to an end"
        );
        after_seq = page.to_seq;
    }
}

/// The messages that the user may see, from the newest to the oldest; given in the order of the group.
async fn all_messages(stage: &GroupStage, client: &Client, group: No) -> anyhow::Result<Vec<u32>> {
    let conversation_id = stage.conversation_id(group);
    let mut events = Vec::new();
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
        let pages = match patiently(|| client.list_messages(vec![range.clone()])).await {
            Err(error) if reason(&error) == "NOT_A_MEMBER" => return Ok(Vec::new()),
            pages => pages?,
        };
        let pages = pages.into_iter().next();
        let page = pages.context("an answer without a page")?;
        let shown = page.messages.into_iter();
        events.extend(shown.map(|shown| {
            let message = Message::from_shown(conversation_id, shown);
            stage.recorder.group_message(&message)
        }));
        if !page.more || page.from_message_index <= 1 {
            events.reverse();
            return Ok(events);
        }
        let is_further = before == 0 || page.from_message_index < before;
        ensure!(is_further, "pages of messages do not come to an end");
        (before, as_of_seq) = (page.from_message_index, page.as_of_seq);
    }
}

/// Reads the lists of all users until they are exact, or long enough.
async fn lists(traffic: &GroupTraffic) -> anyhow::Result<()> {
    let deadline = Instant::now() + REST_DEADLINE;
    let recorder = &traffic.stage.recorder;
    for user in &traffic.stage.users {
        let mut devices = traffic.devices.iter();
        let device = devices
            .find(|device| device.role.user == user.number)
            .context("a user without a device")?;
        let client = device.client().await.context("a device without an app")?;
        let list = loop {
            let min_version = user.knowledge.lock().version;
            let list = patiently(|| async {
                let list = device.list(&client, min_version, true).await;
                list.ok_or(Error::Timeout(CALL_DEADLINE))
            });
            let list = list.await?;
            let wrong = recorder.look(|records| GroupWorld::new(records).compare(&list));
            if wrong.is_empty() || Instant::now() >= deadline {
                break list;
            }
            tokio::time::sleep(LOOK).await;
        };
        recorder.add_group(GroupRecord::List(list));
    }
    Ok(())
}

/// The user reads everything: half of it in the session, half of it as calls.
async fn read_all(device: &GroupDevice) {
    for group in device.stage.cast.of_user(device.role.user) {
        if group % 2 == 0 {
            device.mark_read(group).await;
        } else if let Some(client) = device.client().await {
            device.mark_read_call(&client, group).await;
        }
    }
}

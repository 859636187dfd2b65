use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};

use super::*;

/// What is appended to the partition that nobody reads.
const UNREAD_BYTES: usize = 96 * 1024 * 1024;
/// How much memory may grow meanwhile: what is read ahead of a reader, and what libraries need.
const GROWTH_BYTES_MAX: usize = 40 * 1024 * 1024;

/// A process that runs one of the tests below, for another.
fn part(test: &str, config: &KafkaConfig) -> Child {
    let test = format!("kafka::tests::reading::{test}");
    Command::new(std::env::current_exe().unwrap())
        .args([test.as_str(), "--exact", "--nocapture"])
        .env(
            PART,
            format!("{} {}", config.bootstrap_servers, config.topic_prefix),
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What this process was started for, if it is such a part.
fn asked() -> Option<KafkaConfig> {
    let asked = std::env::var(PART).ok()?;
    let (servers, prefix) = asked.split_once(' ').unwrap();
    Some(KafkaConfig {
        topic_prefix: prefix.to_owned(),
        read_ahead_kib_max: 1024,
        ..config(servers)
    })
}

/// Lines that a part says, each after `said `.
fn said(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines = lines.map_while(Result::ok);
    lines.filter_map(|line| Some(line.split_once("said ")?.1.to_owned()))
}

#[tokio::test]
async fn a_partition_that_nobody_reads_holds_little_memory_and_nobody_up() {
    let config = shared();
    let log = open(&config).await;
    let [slow, fast, ..] = keys();
    let large = "x".repeat(100_000);
    for _ in 0..UNREAD_BYTES / large.len() / 40 {
        append(&log, vec![record(&slow, large.clone()); 40]).await;
    }
    let quick: Vec<_> = (0..1_000).map(|n| record(&fast, n.to_string())).collect();
    append(&log, quick).await;
    let mut child = part("part_read_one_partition", &config);
    let result = tokio::task::spawn_blocking(move || {
        let lines: Vec<_> = said(&mut child).collect();
        assert!(child.wait().unwrap().success());
        lines
    });
    let lines = within("the reading", result).await.unwrap();
    let grown: usize = lines[0].parse().unwrap();
    assert!(
        grown < GROWTH_BYTES_MAX,
        "memory has grown by {grown} bytes"
    );
    log.close().await;
}

/// Reads one partition to its end again and again while another is fetched and not read; says how
/// much memory has grown.
#[tokio::test]
async fn part_read_one_partition() {
    let Some(config) = asked() else {
        return;
    };
    let log = open(&config).await;
    let (_member, mut readers) = read_alone(&log).await;
    let before = resident_bytes();
    // Fetched from the first record on, which is enough to fill what may be read ahead.
    let (first, _) = readers.get_mut(&0).unwrap().range().await.unwrap();
    readers.get_mut(&0).unwrap().seek(first).await.unwrap();
    for _ in 0..20 {
        assert_eq!(to_end(readers.get_mut(&1).unwrap()).await.len(), 1_000);
    }
    println!("said {}", resident_bytes().saturating_sub(before));
    // Nothing was lost meanwhile.
    let records = to_end(readers.get_mut(&0).unwrap()).await;
    assert!(records.len() * 100_000 > UNREAD_BYTES - 4_000_000);
    log.close().await;
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn partitions_of_a_killed_process_are_taken_over_where_it_has_committed() {
    let config = shared();
    let log = open(&config).await;
    for key in keys() {
        let records = (0..10).map(|n| record(&key, n.to_string()));
        append(&log, records.collect()).await;
    }
    let mut child = part("part_hold_partitions", &config);
    let lines = said(&mut child);
    let held = tokio::task::spawn_blocking(move || lines.take(1).count());
    assert_eq!(within("the other's assignment", held).await.unwrap(), 1);
    let mut member = log.join("one", Topic::Messages).await.unwrap();
    // The other lets go of two, and is then killed while it has the rest.
    let mut readers = Vec::new();
    for _ in 0..2 {
        readers.push(within("the share", member.assigned()).await.unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    for _ in 0..2 {
        readers.push(within("the takeover", member.assigned()).await.unwrap());
    }
    println!("taken over after {:?}", killed.elapsed());
    for reader in &mut readers {
        // It has committed up to the fifth record of each.
        let records = within("a record", reader.next(1)).await.unwrap();
        assert_eq!(text(&records[0]), "5");
    }
    log.close().await;
}

/// Reads five records of each partition, commits them, and holds on until it is killed.
#[tokio::test]
async fn part_hold_partitions() {
    let Some(config) = asked() else {
        return;
    };
    let log = open(&config).await;
    let (mut member, readers) = read_alone(&log).await;
    let mut holding = Vec::new();
    for mut reader in readers.into_values() {
        let mut last = 0;
        for _ in 0..5 {
            last = within("a record", reader.next(1)).await.unwrap()[0].offset;
        }
        reader.commit(last + 1);
        holding.push(reader);
    }
    // Commits are sent together; this asks for what has arrived.
    within("the commits", async {
        let partitions = (0..PARTITIONS).map(i32::try_from).map(Result::unwrap);
        let committed = partitions
            .map(|p| committed(&config, p))
            .collect::<Vec<_>>();
        for committed in committed {
            while committed() != 5 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    })
    .await;
    println!("said holding");
    let tasks = holding.into_iter().map(|mut reader| {
        tokio::spawn(
            async move { while !matches!(reader.next(1).await, Err(LogError::Revoked)) {} },
        )
    });
    let _tasks: Vec<_> = tasks.collect();
    loop {
        let _ = member.assigned().await;
    }
}

/// How long to look for what must not happen: some heartbeats of the group.
const EARLY: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_partition_is_handed_on_when_its_reader_knows_and_at_the_latest_when_the_wait_is_over() {
    let config = KafkaConfig {
        revoke_wait_ms: 6_000,
        ..shared()
    };
    let log = open(&config).await;
    for key in keys() {
        append(&log, vec![record(&key, "a"), record(&key, "b")]).await;
    }
    let (_one, mut busy) = read_alone(&log).await;
    for reader in busy.values_mut() {
        within("a record", reader.next(1)).await.unwrap();
    }
    let mut two = log.join("one", Topic::Messages).await.unwrap();
    let early = tokio::time::timeout(EARLY, two.assigned()).await;
    assert!(
        early.is_err(),
        "a partition was handed on while its reader was busy"
    );
    // The readers still have not looked.
    let mut given = Vec::new();
    for _ in 0..2 {
        given.push(
            within("the share", two.assigned())
                .await
                .unwrap()
                .partition(),
        );
    }
    for (partition, reader) in &mut busy {
        match within("an answer", reader.next(1)).await {
            Ok(records) => {
                assert_eq!(text(&records[0]), "b");
                assert!(
                    !given.contains(partition),
                    "a record after the wait was over"
                );
            }
            Err(error) => {
                assert_eq!(error, LogError::Revoked);
                assert!(given.contains(partition));
            }
        }
    }
    log.close().await;
}

/// Asks for what the group `one` has committed of a partition.
fn committed(config: &KafkaConfig, partition: i32) -> impl Fn() -> i64 + use<> {
    let mut client = config.client();
    client.set("group.id", config.group_name("one", Topic::Messages));
    let asking: BaseConsumer = client.create().unwrap();
    let topic = config.topic_name(Topic::Messages);
    move || {
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, partition);
        let list = asking
            .committed_offsets(list, Duration::from_secs(10))
            .unwrap();
        list.elements()[0].offset().to_raw().unwrap()
    }
}

/// Deletes the records of partition 0 below an offset, as retention does.
async fn delete_below(config: &KafkaConfig, offset: i64) {
    let (topic, mut list) = (
        config.topic_name(Topic::Messages),
        TopicPartitionList::new(),
    );
    list.add_partition_offset(&topic, 0, Offset::Offset(offset))
        .unwrap();
    let deleted = admin(config)
        .delete_records(&list, &admin_options())
        .await
        .unwrap();
    deleted.elements()[0].error().unwrap();
}

#[tokio::test]
async fn a_reader_whose_records_are_gone_is_told_and_can_move() {
    let config = KafkaConfig {
        read_ahead_kib_max: 1,
        ..shared()
    };
    let log = open(&config).await;
    let [key, ..] = keys();
    // A fetch brings some of them, and is enough to read ahead.
    let payload = |n| format!("{n} {}", "x".repeat(100_000));
    for n in 0..40 {
        append(&log, vec![record(&key, payload(n))]).await;
    }
    let (_member, mut readers) = read_alone(&log).await;
    let mut reader = readers.remove(&0).unwrap();
    reader.seek(0).await.unwrap();
    let first = within("a record", reader.next(1)).await.unwrap();
    assert_eq!(text(&first[0]), payload(0));
    delete_below(&config, 39).await;
    assert_eq!(within("the range", reader.range()).await.unwrap(), (39, 40));
    let mut position = 1;
    let told = loop {
        match within("the end of what is here", reader.next(1)).await {
            Ok(records) => {
                assert_eq!(records[0].offset, position, "a record was left out");
                position += 1;
            }
            Err(error) => break error,
        }
    };
    let (first, end) = (39, 40);
    assert_eq!(
        told,
        LogError::OutOfRange {
            offset: position,
            first,
            end
        }
    );
    assert!(position < 39, "everything was read ahead");
    // It stays where it is until it is moved.
    let again = within("the same again", reader.next(1)).await;
    assert_eq!(again.err(), Some(told));
    let refused = reader.seek(position).await;
    assert_eq!(
        refused,
        Err(LogError::OutOfRange {
            offset: position,
            first,
            end
        })
    );
    within("the move", reader.seek(39)).await.unwrap();
    let last = within("the rest", reader.next(10)).await.unwrap();
    assert_eq!(text(&last[0]), payload(39));
    append(&log, vec![record(&key, "more")]).await;
    let more = within("more", reader.next(10)).await.unwrap();
    assert_eq!(text(&more[0]), "more");
    log.close().await;
}

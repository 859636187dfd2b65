use rdkafka::{
    bindings::rd_kafka_resp_err_t as RDKafkaRespErr, mocking::MockCluster, types::RDKafkaApiKey,
};
use servers::kafka::Broker;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, block_in_place},
};

use super::*;
use crate::kafka::producer::{Producer, Times};

type Results = Arc<Mutex<BTreeMap<u64, Result<Appended, AppendError>>>>;

/// Numbers the results that wait.
fn count(results: &Results, is_it: impl Fn(&Result<Appended, AppendError>) -> bool) -> usize {
    results
        .lock()
        .values()
        .filter(|result| is_it(result))
        .count()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, waiting).await;
}

/// Appends numbers, to each partition in turn and a few at a time, until it is stopped.
struct Appending {
    results: Results,
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Appending {
    fn start(log: &Arc<KafkaLog>) -> Self {
        let (results, stop) = (Results::default(), Arc::new(AtomicBool::new(false)));
        let (log, keys) = (log.clone(), keys());
        let (noted, stopped) = (results.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut n = 0;
            while !stopped.load(Ordering::Relaxed) {
                for key in keys.iter().chain(&keys) {
                    let noted = noted.clone();
                    let done = move |result| drop(noted.lock().insert(n, result));
                    let record = record(key, n.to_string());
                    log.append(Topic::Messages, record, Urgency::Now, Box::new(done));
                    n += 1;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            n
        });
        Self {
            results,
            stop,
            task,
        }
    }

    fn confirmed(&self) -> usize {
        count(&self.results, Result::is_ok)
    }

    /// Waits for so many more that are confirmed.
    async fn confirm(&self, more: usize) {
        let wanted = self.confirmed() + more;
        until("the confirmations", || self.confirmed() >= wanted).await;
    }

    async fn end(self) -> BTreeMap<u64, Result<Appended, AppendError>> {
        self.stop.store(true, Ordering::Relaxed);
        let appended = self.task.await.unwrap();
        let answered = || self.results.lock().len() as u64 == appended;
        until("an answer to each append", answered).await;
        self.results.lock().clone()
    }
}

/// What readers have seen, and how often they were told that reading fails.
#[derive(Default)]
struct Seen {
    records: BTreeMap<u32, Vec<(u64, u64)>>,
    failures: Vec<String>,
}

/// Reads all partitions from their first records on, as a service does, until the log is closed.
async fn read_on(log: &Arc<KafkaLog>, seen: &Arc<Mutex<Seen>>) -> JoinHandle<()> {
    let mut member = log.join("one", Topic::Messages).await.unwrap();
    let seen = seen.clone();
    tokio::spawn(async move {
        let mut tasks = Vec::new();
        while let Ok(reader) = member.assigned().await {
            tasks.push(tokio::spawn(read_partition(reader, seen.clone())));
        }
        for task in tasks {
            task.await.unwrap();
        }
    })
}

async fn read_partition(mut reader: Box<dyn PartitionReader>, seen: Arc<Mutex<Seen>>) {
    let partition = reader.partition();
    let place = |seen: &Seen| Some(seen.records.get(&partition)?.last()?.0 + 1);
    let position = place(&seen.lock()).unwrap_or(0);
    let mut sought = reader.seek(position).await;
    loop {
        let records = match std::mem::replace(&mut sought, Ok(())) {
            Ok(()) => reader.next(10).await,
            Err(error) => Err(error),
        };
        let mut seen = seen.lock();
        match records {
            Ok(records) => {
                let records = records.iter().map(|r| (r.offset, text(r).parse().unwrap()));
                seen.records.entry(partition).or_default().extend(records);
            }
            Err(LogError::Failed(error)) => seen.failures.push(error),
            Err(LogError::Closed | LogError::Revoked) => return,
            Err(error) => panic!("reading fails: {error}"),
        }
    }
}

/// Compares what was answered with what is there: confirmed records at their places and once, those
/// that failed not at all, unknown ones once or not at all, all in the order of the appends.
async fn judge(
    log: &KafkaLog,
    results: &BTreeMap<u64, Result<Appended, AppendError>>,
) -> Vec<Vec<(u64, u64)>> {
    let mut all = Vec::new();
    let mut member = log.join("judge", Topic::Messages).await.unwrap();
    let mut places = BTreeMap::new();
    for _ in 0..PARTITIONS {
        let mut reader = within("the assignment", member.assigned()).await.unwrap();
        let partition = reader.partition();
        let mut records = Vec::new();
        for record in to_end(&mut reader).await {
            let n: u64 = text(&record).parse().unwrap();
            let before = places.insert(n, (partition, record.offset));
            assert_eq!(before, None, "{n} is there twice");
            records.push((record.offset, n));
        }
        assert!(
            records.is_sorted_by(|a, b| a.1 < b.1),
            "partition {partition}: out of order"
        );
        all.push((partition, records));
    }
    for (n, result) in results {
        match result {
            Ok(place) => {
                let there = places.get(n).map(|&(partition, offset)| Appended {
                    partition,
                    // Not always known to who asks a second time.
                    offset: place.offset.and(Some(offset)),
                });
                assert_eq!(there, Some(*place), "{n} was confirmed");
            }
            Err(AppendError::Unknown(_)) => {}
            Err(error) => assert_eq!(places.get(n), None, "{n}: {error}"),
        }
    }
    all.sort();
    all.into_iter().map(|(_, records)| records).collect()
}

/// One broker fails while records are appended and read, and comes back.
async fn one_broker_fails(fail: impl Fn(&mut Broker), heal: impl Fn(&mut Broker)) {
    let mut kafka = block_in_place(|| Kafka::start(&Options::default())).unwrap();
    let config = KafkaConfig {
        // Short, to see what happens afterwards.
        message_timeout_ms: 2_500,
        request_timeout_ms: 1_500,
        ..config(&kafka.bootstrap_servers())
    };
    let log = open(&config).await;
    let seen = Arc::default();
    let reading = read_on(&log, &seen).await;
    let appending = Appending::start(&log);
    appending.confirm(400).await;
    let reading_all = || seen.lock().records.len() == PARTITIONS as usize;
    until("the readers' first records", reading_all).await;
    assert!(log.is_connected() && seen.lock().failures.is_empty());

    fail(&mut kafka.brokers()[0]);
    let refused = || count(&appending.results, Result::is_err) > 400;
    until("the refusals", || refused() && !log.is_connected()).await;
    let told = || seen.lock().failures.len() >= PARTITIONS as usize;
    until("the readers' being told", told).await;

    block_in_place(|| heal(&mut kafka.brokers()[0]));
    until("the connection", || log.is_connected()).await;
    appending.confirm(400).await;
    let results = appending.end().await;
    let unknown = |r: &Result<_, _>| matches!(r, Err(AppendError::Unknown(_)));
    let failed = |r: &Result<_, _>| matches!(r, Err(AppendError::Failed(_)));
    let failed = results.values().filter(|r| failed(r)).count();
    let unknown = results.values().filter(|r| unknown(r)).count();
    println!(
        "{} appends, {failed} failed, {unknown} unknown",
        results.len()
    );
    // Once some have waited too long no more are queued behind them, and that is known.
    assert!(failed > 0);
    let all = judge(&log, &results).await;
    let left = |(p, records): (u32, &Vec<_>)| {
        records.len()
            - seen
                .lock()
                .records
                .get(&p)
                .map_or(0, Vec::len)
                .min(records.len())
    };
    let left = || (0..).zip(&all).map(left).sum::<usize>();
    until("reading everything", || left() == 0).await;
    log.close().await;
    within("the readers' end", reading).await.unwrap();
    let seen = seen.lock();
    for (partition, records) in (0..).zip(&all) {
        assert_eq!(
            seen.records.get(&partition),
            Some(records),
            "partition {partition}"
        );
    }
    // Once for each reader and time that it was away, and not once for each try.
    assert!(
        seen.failures.len() <= 3 * PARTITIONS as usize,
        "{:?}",
        seen.failures
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_and_comes_back_changes_nothing_that_was_answered() {
    one_broker_fails(|b| b.kill().unwrap(), |b| b.start_again().unwrap()).await;
}

/// What it had in its connections comes into the log when it goes on, or never.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_and_goes_on_changes_nothing_that_was_answered() {
    one_broker_fails(|b| b.pause().unwrap(), |b| b.resume().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_one_of_three_brokers_may_die_and_every_append_is_confirmed() {
    let options = Options {
        brokers: 3,
        ..Options::default()
    };
    let mut kafka = block_in_place(|| Kafka::start(&options)).unwrap();
    let usual = KafkaConfig::new(kafka.bootstrap_servers());
    let config = KafkaConfig {
        topics: config("").topics,
        ..usual
    };
    // Not `dev`: three copies, of which two confirm.
    let log = open(&config).await;
    let seen = Arc::default();
    let reading = read_on(&log, &seen).await;
    let appending = Appending::start(&log);
    for broker in 0..3 {
        appending.confirm(200).await;
        kafka.brokers()[broker].kill().unwrap();
        appending.confirm(400).await;
        block_in_place(|| kafka.brokers()[broker].start_again()).unwrap();
        appending.confirm(200).await;
    }
    let results = appending.end().await;
    let lost: Vec<_> = results.values().filter(|result| result.is_err()).collect();
    assert!(lost.is_empty(), "{lost:?}");
    judge(&log, &results).await;
    log.close().await;
    within("the readers' end", reading).await.unwrap();
}

/// What a broker answers that has taken over and knows of a retry that it is one, but no longer of what. Real
/// ones do so once in many runs; this one, librdkafka's own on a real socket, when it is told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_a_broker_has_but_cannot_place_is_confirmed() {
    let broker = MockCluster::new(1).unwrap();
    broker.create_topic("messages", 1, 1).unwrap();
    let duplicate = RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER;
    broker.request_errors(RDKafkaApiKey::Produce, &[duplicate]);
    let config = KafkaConfig::new(broker.bootstrap_servers());
    let times = Times {
        append: config.message_timeout(),
        request: config.request_timeout(),
    };
    let producer = Producer::new(config.producer(0), times, 1).unwrap();
    for offset in [None, Some(0)] {
        let (answer, answered) = oneshot::channel();
        let done = move |result| answer.send(result).unwrap();
        producer.append("messages", (0, 0), &record("a", "one"), Box::new(done));
        let appended = within("the answer", answered).await.unwrap();
        let partition = 0;
        assert_eq!(appended, Ok(Appended { partition, offset }));
    }
    block_in_place(|| producer.close(Duration::from_secs(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_beyond_the_bound_are_refused_at_once_and_the_others_kept() {
    let mut kafka = block_in_place(|| Kafka::start(&Options::default())).unwrap();
    let config = KafkaConfig {
        queue_max: 50,
        message_timeout_ms: 60_000,
        request_timeout_ms: 30_000,
        ..config(&kafka.bootstrap_servers())
    };
    let log = open(&config).await;
    kafka.brokers()[0].pause().unwrap();
    let results = Results::default();
    for n in 0..80 {
        let noted = results.clone();
        let done = move |result| drop(noted.lock().insert(n, result));
        let [key, ..] = keys();
        let record = record(&key, n.to_string());
        log.append(Topic::Messages, record, Urgency::Now, Box::new(done));
    }
    // Before anything could be answered.
    let full = |result: &Result<_, _>| *result == Err(AppendError::Full);
    assert_eq!((count(&results, full), results.lock().len()), (30, 30));
    kafka.brokers()[0].resume().unwrap();
    until("an answer to each append", || results.lock().len() == 80).await;
    assert_eq!(count(&results, Result::is_ok), 50);
    let results = results.lock().clone();
    judge(&log, &results).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_has_failed_for_good_is_replaced() {
    let log = open(&shared()).await;
    let appending = Appending::start(&log);
    appending.confirm(400).await;
    log.shared.prompt.fail_for_good();
    until("a refusal", || {
        count(&appending.results, Result::is_err) > 0
    })
    .await;
    appending.confirm(400).await;
    let results = appending.end().await;
    judge(&log, &results).await;
    log.close().await;
}

#[tokio::test]
async fn closing_waits_for_what_was_appended_and_answers_everybody() {
    let config = KafkaConfig {
        derived_linger_ms: 1_000,
        ..shared()
    };
    let log = open(&config).await;
    let (mut member, mut readers) = read_alone(&log).await;
    let (_, mut waiting) = readers.pop_first().unwrap();
    let waiting = tokio::spawn(async move { waiting.next(1).await.map(|_| ()) });
    let assigned = tokio::spawn(async move { member.assigned().await.map(|_| ()) });
    let results = Results::default();
    for n in 0..500 {
        let noted = results.clone();
        let done = move |result| drop(noted.lock().insert(n, result));
        let record = record("key", n.to_string());
        log.append(Topic::Inbox, record, Urgency::Derived, Box::new(done));
    }
    // Each waits for more to come.
    assert_eq!(results.lock().len(), 0);
    within("closing", log.close()).await;
    assert_eq!(count(&results, Result::is_ok), 500);
    assert_eq!(
        within("the reader", waiting).await.unwrap(),
        Err(LogError::Closed)
    );
    assert_eq!(
        within("the member", assigned).await.unwrap(),
        Err(LogError::Closed)
    );
    let (_, mut reader) = readers.pop_first().unwrap();
    assert_eq!(reader.range().await, Err(LogError::Closed));
    assert_eq!(reader.seek(0).await, Err(LogError::Closed));
    assert!(matches!(
        log.join("one", Topic::Messages).await.err(),
        Some(LogError::Closed)
    ));
    let late = log
        .append_all(Topic::Messages, vec![record("key", "late")], Urgency::Now)
        .await;
    assert_eq!(late, [Err(AppendError::Closed)]);
    within("closing again", log.close()).await;
}

//! A process that is killed keeps every append that it was told of.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::*;

/// Set for the process that is to be killed: where the log is, and the number of the run.
const CHILD: &str = "EVENT_LOG_KILL_CHILD";
const RUNS: u64 = 8;
const WINDOW: usize = 300;

/// Appends until it is killed, and says on stdout what was confirmed. Does nothing unless it is
/// asked.
#[test]
fn appends_until_killed() {
    let Ok(asked) = std::env::var(CHILD) else {
        return;
    };
    let (run, folder) = asked.split_once(' ').unwrap();
    let log = EmbeddedLog::open(config(Path::new(folder))).unwrap();
    let (freed, free) = mpsc::sync_channel(WINDOW);
    for _ in 0..WINDOW {
        freed.send(()).unwrap();
    }
    for n in 0_u64.. {
        free.recv().unwrap();
        let freed = freed.clone();
        let line = format!("{run} {n}");
        let record = NewRecord {
            key: Bytes::from(format!("key-{}", n % 7)),
            // Large enough that the WAL is moved into the file meanwhile.
            payload: Bytes::from(format!("{line:2000}")),
            headers: Vec::new(),
        };
        let urgency = [Urgency::Now, Urgency::Derived][usize::from(n % 3 == 0)];
        let done = move |result: Result<Appended, AppendError>| {
            let place = result.unwrap();
            let mut out = std::io::stdout().lock();
            let line = format!(
                "acked {line} {} {}\n",
                place.partition,
                place.offset.unwrap()
            );
            out.write_all(line.as_bytes()).unwrap();
            out.flush().unwrap();
            freed.send(()).unwrap();
        };
        log.append(Topic::Messages, record, urgency, Box::new(done));
    }
}

/// Runs the child until it has confirmed so many appends, kills it, and answers all that it
/// confirmed.
fn run_and_kill(folder: &Path, run: u64, acked_min: usize) -> Vec<(Appended, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "embedded::tests::kill::appends_until_killed",
        ])
        .env(CHILD, format!("{run} {}", folder.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let (mut acked, mut line, mut killed) = (Vec::new(), String::new(), false);
    loop {
        line.clear();
        if out.read_line(&mut line).unwrap() == 0 {
            break;
        }
        // The last line may be cut off; it was not said then.
        let words: Vec<_> = line.split_whitespace().collect();
        if let ["acked", run, n, partition, offset] = words[..]
            && line.ends_with('\n')
        {
            let partition = partition.parse().unwrap();
            let offset = Some(offset.parse().unwrap());
            acked.push((Appended { partition, offset }, format!("{run} {n}")));
        }
        if acked.len() >= acked_min && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself");
    acked
}

#[tokio::test]
async fn a_killed_process_keeps_what_it_confirmed_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut acked = Vec::new();
    for run in 0..RUNS {
        // At another moment each time: in the first commits, or after thousands.
        let acked_min = 1 + usize::try_from(run * run * 61).unwrap();
        acked.extend(run_and_kill(folder.path(), run, acked_min));

        let log = EmbeddedLog::open(config(folder.path())).unwrap();
        let mut member = log.join("one", Topic::Messages).await.unwrap();
        let mut there = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            let mut reader = within(member.assigned()).await.unwrap();
            let partition = reader.partition();
            let mut last = BTreeMap::new();
            for record in rest(&mut reader, 0).await {
                let payload = String::from_utf8(record.payload.to_vec()).unwrap();
                let payload = payload.trim_end().to_owned();
                assert!(seen.insert(payload.clone()), "{payload} is there twice");
                let (run, n) = payload.split_once(' ').unwrap();
                let place: (u64, u64) = (run.parse().unwrap(), n.parse().unwrap());
                let before = last.insert(record.key.clone(), place);
                assert!(before < Some(place), "{payload} is out of order");
                there.insert((partition, Some(record.offset)), payload);
            }
        }
        for (place, payload) in &acked {
            let found = there.get(&(place.partition, place.offset));
            assert_eq!(found, Some(payload), "run {run}: {place:?} was confirmed");
        }
        log.close().await;
    }
    assert!(acked.len() > 5_000, "{}", acked.len());
}

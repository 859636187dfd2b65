//! What an append costs: CPU of the whole process, rate, and time until the answer, by appends in
//! flight.
//!
//! ```text
//! cargo run --release -p event-log --example append_cost -- [FOLDER] [PARTITIONS] [READ]
//! ```
//!
//! FOLDER must be on the disk to measure (default: the current one). With READ = 1, a reader for
//! each partition follows and commits, so that deleting what was read is counted as well.
//!
//! One caller keeps so many appends in flight and sleeps when half of them wait for their answers.
//! Records have a key of 33 bytes and a payload of 260, as a text of 200 bytes makes them.
//!
//! On 2 shared cores with a virtual disk (fsync 0.13 ms), without and with readers, 8 partitions:
//! see the table in the README of this crate.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use event_log::{
    EventLog, NewRecord, Topic, Urgency,
    embedded::{EmbeddedConfig, EmbeddedLog},
};

const KEYS: u64 = 1_000;
const RUN: Duration = Duration::from_secs(4);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".".to_owned()));
    let partitions = arguments.next().map_or(Ok(8), |a| a.parse())?;
    let read = arguments.next().is_some_and(|a| a == "1");
    let runtime = tokio::runtime::Runtime::new()?;
    println!("in flight  appends/s  CPU us/append (user)  appends/commit  answer us p50/p99/max");
    for in_flight in [1, 16, 128, 1_024] {
        let path = folder.join(format!("append-cost-{}.db", std::process::id()));
        let topics = [(Topic::Messages, partitions)];
        let groups = [("bench", Topic::Messages)];
        let config = EmbeddedConfig::new(&path, &topics, if read { &groups } else { &[] });
        let log = runtime.block_on(async { EmbeddedLog::open(config) })?;
        if read {
            runtime.block_on(follow(&log));
        }
        measure(&log, in_flight);
        runtime.block_on(log.close());
        for ending in ["", "-wal", "-shm", ".lock"] {
            let mut name = path.clone().into_os_string();
            name.push(ending);
            let _ = std::fs::remove_file(name);
        }
    }
    Ok(())
}

fn measure(log: &Arc<EmbeddedLog>, in_flight: u64) {
    // Warm-up, then the measured run.
    let mut times = Vec::new();
    run(log, in_flight, RUN / 8, &mut times);
    times.clear();
    let (cpu, before, start) = (cpu_us(), log.stats(), Instant::now());
    let appended = run(log, in_flight, RUN, &mut times);
    let seconds = start.elapsed().as_secs_f64();
    let after = cpu_us();
    let (user, system) = (after.0 - cpu.0, after.1 - cpu.1);
    let commits = log.stats().commits - before.commits;
    times.sort_unstable();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
    println!(
        "{in_flight:9}  {:9.0}  {:13.2} ({:.2})  {:14.1}  {}/{}/{}",
        appended as f64 / seconds,
        (user + system) / appended as f64,
        user / appended as f64,
        appended as f64 / commits as f64,
        at(0.5),
        at(0.99),
        at(1.0),
    );
}

/// Appends for so long; answers how many. Takes the time of every 61st.
fn run(log: &Arc<EmbeddedLog>, in_flight: u64, time: Duration, times: &mut Vec<u64>) -> u64 {
    let done = Arc::new(AtomicU64::new(0));
    let (taken, all_taken) = std::sync::mpsc::channel();
    let payload = Bytes::from(vec![b'x'; 260]);
    let keys: Vec<_> = (0..KEYS).map(|n| Bytes::from(format!("{n:033}"))).collect();
    let (start, mut appended) = (Instant::now(), 0_u64);
    while start.elapsed() < time {
        while appended - done.load(Ordering::Acquire) < in_flight {
            let record = NewRecord {
                key: keys[(appended % KEYS) as usize].clone(),
                payload: payload.clone(),
                headers: Vec::new(),
            };
            let timed = (appended % 61 == 0).then(|| (Instant::now(), taken.clone()));
            let (caller, done) = (thread::current(), done.clone());
            let wake_at = appended + 1;
            let on_done = move |result: Result<_, _>| {
                result.expect("the log has room");
                if let Some((start, taken)) = timed {
                    let _ = taken.send(start.elapsed().as_micros() as u64);
                }
                done.fetch_add(1, Ordering::Release);
                if wake_at.is_multiple_of((in_flight / 2).max(1)) {
                    caller.unpark();
                }
            };
            log.append(Topic::Messages, record, Urgency::Now, Box::new(on_done));
            appended += 1;
        }
        thread::park_timeout(Duration::from_millis(100));
    }
    while done.load(Ordering::Acquire) < appended {
        thread::sleep(Duration::from_millis(1));
    }
    drop(taken);
    times.extend(all_taken);
    appended
}

/// Reads all partitions, and commits.
async fn follow(log: &Arc<EmbeddedLog>) {
    let mut member = log
        .join("bench", Topic::Messages)
        .await
        .expect("registered");
    tokio::spawn(async move {
        while let Ok(mut reader) = member.assigned().await {
            tokio::spawn(async move {
                while let Ok(records) = reader.next(1_024).await {
                    if let Some(last) = records.last() {
                        reader.commit(last.offset + 1);
                    }
                }
            });
        }
    });
}

/// CPU time of this process, user and system; the kernel counts it in hundredths of a second.
fn cpu_us() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().expect("a name");
    let mut ticks = after_name.split_whitespace().skip(11);
    let mut next = || {
        ticks
            .next()
            .and_then(|t| t.parse::<f64>().ok())
            .expect("a number")
    };
    (next() * 10_000.0, next() * 10_000.0)
}

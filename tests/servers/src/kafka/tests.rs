use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use std::path::Path;

use super::*;

/// Set in a process that a test starts: what it is to do.
const PART: &str = "SERVERS_TEST_PART";

fn is_there(pid: u32) -> bool {
    // A zombie is gone.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < START_DEADLINE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The address of the first broker of a `Metadata` answer.
fn first_address(answer: &[u8]) -> Option<String> {
    // The correlation id, the number of brokers, the id of the first one.
    let rest = answer.get(12..)?;
    let length = usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?));
    let host = String::from_utf8_lossy(rest.get(2..2 + length)?);
    let port = rest.get(2 + length..6 + length)?.try_into().ok()?;
    Some(format!("{host}:{}", u32::from_be_bytes(port)))
}

#[test]
fn a_broker_says_on_each_listener_what_it_was_told_to() {
    let listener = |name: &str, address: &str| ExtraListener {
        name: name.to_owned(),
        advertised: vec![address.to_owned()],
    };
    let extra_listeners = vec![
        listener("EDGE_1", "127.0.0.1:7"),
        listener("EDGE_2", "proxy:8"),
    ];
    let mut kafka = Kafka::start(&Options {
        extra_listeners,
        ..Options::default()
    })
    .unwrap();
    let broker = &kafka.brokers()[0];
    let says = |address| first_address(&probe::ask(address).unwrap()).unwrap();
    assert_eq!(says(broker.address()), broker.address().to_string());
    assert_eq!(says(broker.listener("EDGE_1").unwrap()), "127.0.0.1:7");
    assert_eq!(says(broker.listener("EDGE_2").unwrap()), "proxy:8");
    assert_eq!(broker.listener("EDGE_3"), None);
}

#[test]
fn a_broker_comes_back_where_it_was_and_leaves_nothing_behind() {
    let mut kafka = Kafka::start(&Options::default()).unwrap();
    let servers = kafka.bootstrap_servers();
    let broker = &mut kafka.brokers()[0];
    let address = broker.address();
    let before = broker.pid().unwrap();
    broker.pause().unwrap();
    assert!(
        probe::brokers_alive(address).is_err(),
        "a paused broker answers"
    );
    broker.resume().unwrap();
    wait_until("it answers again", || probe::brokers_alive(address).is_ok());
    broker.kill().unwrap();
    assert!(!is_there(before) && broker.pid().is_none());
    broker.start_again().unwrap();
    assert_eq!(probe::brokers_alive(address).unwrap(), 1);
    let after = broker.pid().unwrap();
    let folder = broker.node.log.parent().unwrap().to_owned();
    assert_eq!(kafka.bootstrap_servers(), servers);
    drop(kafka);
    assert!(!is_there(after) && !folder.exists());
}

#[test]
fn a_broker_that_cannot_start_says_why() {
    let properties = vec![("broker.heartbeat.interval.ms".to_owned(), "soon".to_owned())];
    let options = Options {
        properties,
        ..Options::default()
    };
    let error = format!("{:#}", Kafka::start(&options).unwrap_err());
    assert!(error.contains("broker.heartbeat.interval.ms"), "{error}");
}

#[test]
fn a_server_and_its_folder_end_with_the_process_that_started_it_even_if_that_is_killed() {
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args([
            "kafka::tests::part_start_a_server",
            "--exact",
            "--nocapture",
        ])
        .env(PART, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let mut started = lines.map_while(Result::ok).filter_map(|line| {
        let (pid, folder) = line.split_once("pid=")?.1.split_once(" folder=")?;
        Some((pid.parse().ok()?, PathBuf::from(folder)))
    });
    let (server, folder) = started.next().unwrap();
    assert!(is_there(server) && folder.is_dir());
    other.kill().unwrap();
    other.wait().unwrap();
    wait_until("the server ends", || !is_there(server));
    wait_until("its folder is removed", || !folder.exists());
}

/// Not a test of its own: runs in the process that is killed.
#[test]
fn part_start_a_server() {
    if std::env::var_os(PART).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (log, temporary) = (folder.path().join("log"), Some(folder.path()));
    let seconds = ["1000".to_owned()];
    let server = Process::start("sleep", &seconds, Path::new("/"), &log, temporary).unwrap();
    println!("pid={} folder={}", server.pid(), folder.path().display());
    thread::sleep(Duration::from_secs(1_000));
}

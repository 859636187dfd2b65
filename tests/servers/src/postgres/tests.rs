use super::*;

/// Whether the server lets somebody in; one that is paused does not in time.
fn lets_in(server: &Postgres) -> bool {
    let mut isready = server.command("pg_isready");
    isready
        .args(["-h", "127.0.0.1", "-t", "1", "-p"])
        .arg(server.port().to_string());
    run(isready).is_ok()
}

fn works_in(folder: &Path) -> bool {
    let found = Command::new("sh")
        .args([
            "-c",
            "find /proc/[0-9]*/cwd -maxdepth 0 -lname \"$1/*\" 2>/dev/null | grep -q .",
        ])
        .arg("sh")
        .arg(folder)
        .status();
    found.unwrap().success()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(LOOK);
    }
}

#[test]
fn a_killed_server_comes_back_on_its_port_with_its_data() {
    let mut server = Postgres::start(PostgresOptions::durable()).unwrap();
    let (port, pid) = (server.port(), server.pid());
    server.create_database("kept").unwrap();
    server.kill().unwrap();
    assert_eq!(server.pid(), None);
    assert!(server.processes().unwrap().is_empty());
    assert!(!lets_in(&server));
    server.start_again().unwrap();
    assert!(server.log().contains("was not properly shut down"));
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    let again = server.create_database("kept").unwrap_err().to_string();
    assert!(again.contains("already exists"), "{again}");
}

#[test]
fn a_paused_server_answers_when_it_goes_on() {
    let server = Postgres::start(PostgresOptions::fast()).unwrap();
    assert!(lets_in(&server));
    server.pause().unwrap();
    assert!(!lets_in(&server));
    server.resume().unwrap();
    assert!(lets_in(&server));
    // One that is stopped can be removed all the same.
    server.pause().unwrap();
    let folder = server.folder.clone();
    drop(server);
    assert!(!folder.exists() && !works_in(&folder));
}

/// Not a test by itself: what the test below starts and kills.
#[test]
#[ignore = "a part of another test"]
fn hold_a_server_for_ever() {
    let server = Postgres::start(PostgresOptions::fast()).unwrap();
    fs::write(
        env::var("SERVERS_TELL").unwrap(),
        server.folder.to_str().unwrap(),
    )
    .unwrap();
    thread::sleep(Duration::from_secs(600));
}

#[test]
fn nothing_is_left_of_a_server_whose_holder_was_killed() {
    let told = tempfile::NamedTempFile::new().unwrap();
    let mut holder = Command::new(env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "postgres::tests::hold_a_server_for_ever",
        ])
        .env("SERVERS_TELL", told.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let folder = || PathBuf::from(fs::read_to_string(told.path()).unwrap());
    wait_until("the server is there", || folder().is_dir());
    let folder = folder();
    assert!(works_in(&folder));
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("nothing is left", || !works_in(&folder) && !folder.exists());
}

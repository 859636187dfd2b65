use std::io::{Read, Write};

use super::*;

/// The first line of the answer to a request that nobody has signed.
fn answer(server: &S3, within: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server.address)?;
    stream.set_read_timeout(Some(within))?;
    let request = format!(
        "GET /{BUCKET}?list-type=2 HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        server.address
    );
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn a_killed_server_comes_back_on_its_port_with_its_data() {
    let mut server = S3::start().unwrap();
    let (endpoint, pid) = (server.endpoint(), server.pid());
    server.create_bucket("kept").unwrap();
    server.kill().unwrap();
    assert_eq!(server.pid(), None);
    assert!(answer(&server, DEADLINE).is_err());
    server.start_again().unwrap();
    assert_eq!(server.endpoint(), endpoint);
    assert_ne!(server.pid(), pid);
    assert!(answer(&server, DEADLINE).is_ok());
    assert!(server.create_bucket("kept").is_err());
}

#[test]
fn who_does_not_sign_is_refused() {
    let server = S3::start().unwrap();
    let answer = answer(&server, DEADLINE).unwrap();
    assert!(answer.contains("403"), "{answer}");
}

#[test]
fn a_paused_server_answers_when_it_goes_on_and_leaves_nothing() {
    let mut server = S3::start().unwrap();
    server.pause().unwrap();
    assert!(answer(&server, Duration::from_millis(200)).is_err());
    server.resume().unwrap();
    assert!(answer(&server, DEADLINE).is_ok());
    server.pause().unwrap();
    let folder = server.folder.path().to_owned();
    let pid = server.pid().unwrap();
    drop(server);
    assert!(!folder.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

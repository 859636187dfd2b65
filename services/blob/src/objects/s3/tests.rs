//! On a real server.

use servers::s3::{ACCESS_KEY_ID, BUCKET, S3, SECRET_ACCESS_KEY};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::objects::suite::{self, JPEG, all, bytes, content, object_key, stage, stage_key, whole};

mod parts;

fn config(server: &S3) -> S3Config {
    S3Config {
        endpoint: Some(server.endpoint()),
        public_endpoint: Some(server.endpoint()),
        allow_http: true,
        ..S3Config::new(BUCKET, ACCESS_KEY_ID, SECRET_ACCESS_KEY)
    }
}

async fn open(server: &S3) -> S3Objects {
    S3Objects::open(&config(server)).await.unwrap()
}

#[tokio::test]
async fn it_keeps_what_every_keeper_of_bytes_promises() {
    let server = S3::start().unwrap();
    suite::run(async || open(&server).await).await;
}

#[tokio::test]
async fn two_services_share_a_bucket_by_their_prefixes() {
    let server = S3::start().unwrap();
    let mut config = config(&server);
    let one = S3Objects::open(&config).await.unwrap();
    config.prefix = "other/one".to_owned();
    let other = S3Objects::open(&config).await.unwrap();
    let key = object_key();
    one.put(key, bytes(10, 1), JPEG).await.unwrap();
    let size = other.size_bytes(key).await;
    assert!(matches!(size, Err(ObjectError::NotFound)));
    other.put(key, bytes(20, 2), JPEG).await.unwrap();
    assert_eq!(whole(&one, key).await.unwrap(), bytes(10, 1));
    assert_eq!(whole(&other, key).await.unwrap(), bytes(20, 2));
}

#[tokio::test]
async fn a_wrong_setting_is_named_and_no_secret_is_told() {
    let server = S3::start().unwrap();
    let refused = async |config: S3Config| match S3Objects::open(&config).await {
        Err(OpenError::Config { key, problem }) => {
            let told = format!("{key}: {problem} {config:?}");
            assert!(!told.contains(&config.secret_access_key), "{told}");
            key
        }
        other => panic!("{other:?}"),
    };
    let base = || config(&server);
    let (bucket, secret) = ("nowhere".to_owned(), "a-wrong-secret".to_owned());
    assert_eq!(refused(S3Config { bucket, ..base() }).await, "bucket");
    let wrong = S3Config {
        secret_access_key: secret,
        ..base()
    };
    assert_eq!(refused(wrong).await, "secret_access_key");
    let access_key_id = "nobody".to_owned();
    let wrong = S3Config {
        access_key_id,
        ..base()
    };
    assert_eq!(refused(wrong).await, "access_key_id");
    let allow_http = false;
    assert_eq!(
        refused(S3Config {
            allow_http,
            ..base()
        })
        .await,
        "endpoint"
    );
    let retries = 11;
    assert_eq!(refused(S3Config { retries, ..base() }).await, "retries");
    let text = "bucket = \"b\"\naccess_key_id = \"a\"\nsecret_access_key = \"s\"\nregio = \"r\"";
    let error = toml::from_str::<S3Config>(text).unwrap_err().to_string();
    assert!(error.contains("regio"), "{error}");
}

/// The library of TLS is there and knows which implementation it has.
#[tokio::test]
async fn a_store_with_tls_that_is_away_is_unavailable() {
    let port = servers::free_port().unwrap();
    let config = S3Config {
        endpoint: Some(format!("https://127.0.0.1:{port}")),
        retries: 0,
        ..S3Config::new(BUCKET, ACCESS_KEY_ID, SECRET_ACCESS_KEY)
    };
    let opened = S3Objects::open(&config).await;
    assert!(
        matches!(opened, Err(OpenError::Unavailable(_))),
        "{opened:?}"
    );
}

/// Of the answer to a plain GET: its head and its body.
async fn get(url: &str) -> (String, Vec<u8>) {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(end.unwrap() + 4);
    (String::from_utf8(answer).unwrap().to_lowercase(), body)
}

#[tokio::test]
async fn a_signed_url_answers_whoever_has_it_as_it_was_signed_and_nothing_else() {
    let server = S3::start().unwrap();
    let objects = open(&server).await;
    let (from, key, bytes) = (stage_key(), object_key(), bytes(6_000_000, 1));
    stage(&objects, from, &bytes, 65_536).await;
    objects
        .promote(from, key, content(&bytes), JPEG)
        .await
        .unwrap();
    let life = Duration::from_secs(60);
    let url = objects.presign(key, JPEG, life).await.unwrap().unwrap();
    let (head, body) = get(&url).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: image/jpeg"), "{head}");
    assert!(body == bytes);
    let other = url.replace(&key.blob.to_string(), &BlobId::generate().to_string());
    assert!(get(&other).await.0.starts_with("http/1.1 403"));
    let unsigned = url.split_once('?').unwrap().0;
    assert!(get(unsigned).await.0.starts_with("http/1.1 403"));
    // Where clients do not come, nothing is signed.
    let public_endpoint = None;
    let config = S3Config {
        public_endpoint,
        ..config(&server)
    };
    let inside = S3Objects::open(&config).await.unwrap();
    assert_eq!(inside.presign(key, JPEG, life).await.unwrap(), None);
}

#[tokio::test]
async fn a_store_that_is_away_or_hangs_is_unavailable_in_time_and_nothing_flushed_is_lost() {
    let mut server = S3::start().unwrap();
    let config = S3Config {
        request_timeout_ms: 500,
        retries: 1,
        ..config(&server)
    };
    let objects = S3Objects::open(&config).await.unwrap();
    let (from, key, bytes) = (stage_key(), object_key(), bytes(1_000_000, 1));
    let mut writing = objects.open_stage(from).await.unwrap();
    writing.write(bytes.slice(..700_000)).await.unwrap();
    writing.flush().await.unwrap();
    objects.put(key, bytes.clone(), JPEG).await.unwrap();
    for hangs in [false, true] {
        if hangs {
            server.pause().unwrap();
        } else {
            server.kill().unwrap();
        }
        let away = |error: ObjectError| {
            let text = error.to_string();
            assert!(matches!(error, ObjectError::Unavailable(_)), "{text}");
            assert!(!text.contains(SECRET_ACCESS_KEY), "{text}");
        };
        let calls = async {
            away(objects.size_bytes(key).await.unwrap_err());
            away(objects.get(key, 0..9).await.err().unwrap());
            away(objects.put(key, bytes.clone(), JPEG).await.unwrap_err());
            away(objects.staged_bytes(from).await.unwrap_err());
            let _ = writing.write(bytes.slice(700_000..)).await;
            away(writing.flush().await.unwrap_err());
            let opened = S3Objects::open(&config).await;
            assert!(
                matches!(opened, Err(OpenError::Unavailable(_))),
                "{opened:?}"
            );
        };
        tokio::time::timeout(Duration::from_secs(30), calls)
            .await
            .unwrap();
        if hangs {
            server.resume().unwrap();
        } else {
            server.start_again().unwrap();
        }
        // Nobody knows what became of the part that was under way.
        assert!(writing.flush().await.is_err());
        drop(writing);
        assert!(objects.staged_bytes(from).await.unwrap() >= 700_000);
        assert_eq!(whole(&objects, key).await.unwrap(), bytes);
        writing = objects.open_stage(from).await.unwrap();
        assert!(writing.written_bytes() >= 700_000);
    }
    drop(writing);
    stage(&objects, from, &bytes, 65_536).await;
    let read = all(objects.read_stage(from).await.unwrap()).await.unwrap();
    assert_eq!(read, bytes);
}

//! Two replicas of the service, on a real PostgreSQL and a real S3 server.
#![cfg(feature = "distributed")]

use std::io::Cursor;

use event_log::{
    Topic,
    embedded::{EmbeddedConfig, EmbeddedLog},
};
use image::{DynamicImage, ImageFormat, RgbImage};
use rand::{Rng, SeedableRng, rngs::StdRng};
use runtime::{
    auth::{KeyPair, Verifier},
    channel,
    clock::SystemClock,
    postgres::PostgresConfig,
    shutdown::Tasks,
};
use servers::{
    postgres::{Postgres, PostgresOptions},
    s3::{ACCESS_KEY_ID, BUCKET, S3, SECRET_ACCESS_KEY},
};

use super::*;
use crate::{
    Config, Deps,
    objects::s3::{S3Config, S3Objects},
    references::{REFERENCES_GROUP, USERS_GROUP},
    store::postgres::PostgresStore,
};

/// Bytes of one message of an upload.
const PART: usize = 64 * 1024;
/// How often a client tries; each try of it needs a reason.
const TRIES_MAX: usize = 5;

struct World {
    replicas: [Arc<Service>; 2],
    owner: UserId,
    _tasks: Tasks,
    _postgres: Postgres,
    _s3: S3,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let (postgres, s3) = (
            Postgres::start(PostgresOptions::fast()).unwrap(),
            S3::start().unwrap(),
        );
        postgres.create_database("blob").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(EmbeddedConfig::new(
            folder.path().join("log.db"),
            &[
                (Topic::Messages, 1),
                (Topic::References, 1),
                (Topic::Users, 1),
            ],
            &[
                (REFERENCES_GROUP, Topic::References),
                (USERS_GROUP, Topic::Users),
            ],
        ))
        .unwrap();
        let (key, tasks) = (KeyPair::generate().unwrap(), Tasks::new());
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let config = PostgresConfig::new(postgres.url("blob"));
            let store = PostgresStore::open(&config).await.unwrap();
            let config = S3Config {
                endpoint: Some(s3.endpoint()),
                allow_http: true,
                ..S3Config::new(BUCKET, ACCESS_KEY_ID, SECRET_ACCESS_KEY)
            };
            let objects = S3Objects::open(&config).await.unwrap();
            let clock = Arc::new(SystemClock);
            let deps = Deps {
                store: Arc::new(store),
                objects: Arc::new(objects),
                log: log.clone(),
                verifier: Verifier::new(clock.clone(), key.public()),
                clock,
                service_key: key.clone(),
                url_secret: [7; 32],
                messaging: channel::replicas(Vec::new()),
                tasks: tasks.clone(),
            };
            let blobs = crate::start(Config::default(), deps).await.unwrap();
            replicas.push(blobs.service);
        }
        Self {
            replicas: replicas.try_into().unwrap_or_else(|_| unreachable!()),
            owner: UserId::generate(),
            _tasks: tasks,
            _postgres: postgres,
            _s3: s3,
            _folder: folder,
        }
    }

    async fn begin(
        &self,
        replica: usize,
        header: &Header,
        offset: u64,
    ) -> Result<Beginning, ApiError> {
        let header = Header {
            offset,
            ..header.clone()
        };
        self.replicas[replica].begin(self.owner, header).await
    }

    /// One try of a client: asks how far it is, and sends the rest.
    async fn go_on(
        &self,
        replica: usize,
        header: &Header,
        content: &[u8],
    ) -> Result<Uploaded, ApiError> {
        let service = &self.replicas[replica];
        let (arrived, finished) = service.progress(self.owner, header.upload).await?;
        if let Some(finished) = finished {
            return Ok(finished);
        }
        match self.begin(replica, header, arrived).await? {
            Beginning::There(uploaded) => Ok(*uploaded),
            Beginning::Receive(mut receiving) => {
                send(
                    &mut receiving,
                    &content[usize::try_from(arrived).unwrap()..],
                )
                .await;
                receiving.finish().await
            }
        }
    }

    async fn bytes_of(&self, replica: usize, blob: &Blob) -> Vec<u8> {
        let (key, _, size) = blob.place(Variant::Original).unwrap();
        let parts = self.replicas[replica].objects.get(key, 0..size).await;
        let mut whole = Vec::new();
        let mut parts = parts.unwrap();
        while let Some(part) = parts.next().await {
            whole.extend_from_slice(&part.unwrap());
        }
        whole
    }
}

async fn send(receiving: &mut Receiving, content: &[u8]) {
    for part in content.chunks(PART) {
        receiving.data(Bytes::copy_from_slice(part)).await.unwrap();
    }
}

fn receiving(beginning: Result<Beginning, ApiError>) -> Receiving {
    match beginning {
        Ok(Beginning::Receive(receiving)) => *receiving,
        Ok(Beginning::There(_)) => panic!("it is there already"),
        Err(error) => panic!("{error:?}"),
    }
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    StdRng::seed_from_u64(seed).fill_bytes(&mut noise);
    noise
}

/// Of 1.4 MiB: three parts of S3.
fn picture() -> Vec<u8> {
    let pixels = RgbImage::from_raw(800, 600, noise(1, 3 * 800 * 600)).unwrap();
    let mut content = Vec::new();
    DynamicImage::ImageRgb8(pixels)
        .write_to(&mut Cursor::new(&mut content), ImageFormat::Png)
        .unwrap();
    content
}

fn video() -> Vec<u8> {
    let mut content = b"\0\0\0\x18ftypisom\0\0\0\0isommp41".to_vec();
    content.extend(noise(2, 1_400_000));
    content
}

fn header(content: &[u8]) -> Header {
    Header {
        upload: UploadId::generate(),
        offset: 0,
        size_bytes: content.len() as u64,
        sha256: Sha256::digest(content).into(),
        purpose: Purpose::Attachment,
        poster_receipt: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_at_another_replica_whatever_the_first_one_still_writes() {
    let world = World::new().await;
    for content in [picture(), video()] {
        let header = header(&content);
        // The first replica has more than is durable, and does not know that its client is gone.
        let mut first = receiving(world.begin(0, &header, 0).await);
        send(&mut first, &content[..700_000]).await;
        let service = &world.replicas[1];
        let (arrived, _) = service.progress(world.owner, header.upload).await.unwrap();
        assert!(
            arrived > 0 && arrived < 700_000,
            "{arrived} bytes are durable"
        );
        let mut second = receiving(world.begin(1, &header, arrived).await);
        send(&mut second, &content[usize::try_from(arrived).unwrap()..]).await;
        // It notices when all bytes are there, and keeps what it has: less than is there.
        first.interrupted().await;
        let mut ended = second.finish().await;
        for _ in 0..TRIES_MAX {
            let Err(error) = &ended else { break };
            assert!(
                error.retry_after.is_some(),
                "nothing to be tried again: {error:?}"
            );
            ended = world.go_on(1, &header, &content).await;
        }
        let uploaded = ended.unwrap();
        let again = world.go_on(0, &header, &content).await.unwrap();
        assert_eq!(again.blob.id, uploaded.blob.id, "both replicas know it");
        let kept = world.bytes_of(0, &uploaded.blob).await;
        let sha256: [u8; 32] = Sha256::digest(&kept).into();
        assert_eq!(sha256, uploaded.blob.sha256);
        if !uploaded.blob.media_type.is_picture() {
            assert!(kept == content, "other bytes than those that were sent");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_was_cut_off_after_its_check_is_not_read_but_sent_again() {
    let world = World::new().await;
    let content = picture();
    let header = header(&content);
    let mut late = receiving(world.begin(0, &header, 0).await);
    send(&mut late, &content[..100_000]).await;
    // All by one connection, so that its hash needs no other look at what is kept.
    let mut whole = receiving(world.begin(1, &header, 0).await);
    send(&mut whole, &content).await;
    late.interrupted().await;
    let error = whole.finish().await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::UploadBusy, "{error:?}");
    assert!(error.retry_after.is_some());
    let uploaded = world.go_on(1, &header, &content).await.unwrap();
    let seen = image::load_from_memory(&world.bytes_of(1, &uploaded.blob).await).unwrap();
    assert!(seen == image::load_from_memory(&content).unwrap());
}

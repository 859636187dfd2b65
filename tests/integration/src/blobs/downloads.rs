//! Downloads: what is said with the bytes, parts of them, and who is told where they are.

use std::time::Duration;

use harness::{Device, TestServer};
use proto::{
    blob::v1::{UploadResponse, Variant},
    groups::v1::{GroupSettings, HistoryAccess},
};
use runtime::clock::{Clock, ManualClock, SystemClock};

use super::{Content, attach, blob, http::ask, jpeg, png, url, url_in, video};

const LIFE: Duration = Duration::from_secs(60);

async fn uploaded(device: &Device, bytes: Vec<u8>) -> (UploadResponse, String) {
    let uploaded = Content::new(bytes).upload(device).await;
    let url = url(device, &blob(&uploaded).blob_id, Variant::Original).await;
    (uploaded, url.expect("it is the owner's"))
}

fn hours(headers: &str) -> u64 {
    let age = headers
        .split(", ")
        .find_map(|part| part.strip_prefix("max-age="));
    age.and_then(|age| age.parse::<u64>().ok()).expect("an age")
}

#[tokio::test]
async fn what_is_served_says_what_it_is_and_that_it_stays() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    for (content, media_type, extension) in [
        (png(1), "image/png", "png"),
        (jpeg(2), "image/jpeg", "jpg"),
        (video(3, 100_000), "video/mp4", "mp4"),
    ] {
        let (uploaded, url) = uploaded(&ada, content).await;
        let id = &blob(&uploaded).blob_id;
        let name = format!("inline; filename=\"{id}.{extension}\"");
        let mut seen = Vec::new();
        for method in ["GET", "HEAD"] {
            let answer = ask(method, &url, &[]).await;
            assert_eq!(answer.status, 200);
            for (header, value) in [
                ("content-type", media_type),
                ("x-content-type-options", "nosniff"),
                ("content-disposition", &name),
                ("accept-ranges", "bytes"),
                ("access-control-allow-origin", "*"),
                ("cross-origin-resource-policy", "cross-origin"),
            ] {
                assert_eq!(answer.header(header), value, "{method} {header}");
            }
            let size = blob(&uploaded).size_bytes.to_string();
            assert_eq!(answer.header("content-length"), size);
            let cache = answer.header("cache-control");
            assert!(
                cache.starts_with("public") && cache.contains("immutable"),
                "{cache}"
            );
            // No cache has it longer than the URL is good.
            assert!((1..=2 * 3_600).contains(&hours(cache)), "{cache}");
            // As a page of its own, it may do nothing.
            let policy = answer.header("content-security-policy");
            let is_closed = policy.contains("default-src 'none'") && policy.contains("sandbox");
            assert!(is_closed, "{policy}");
            seen.push((answer.header("etag").to_owned(), answer.body.len() as u64));
        }
        let tag = seen[0].0.clone();
        assert!(
            tag.len() > 30 && tag.starts_with('"') && tag.ends_with('"'),
            "{tag}"
        );
        let size = blob(&uploaded).size_bytes;
        assert_eq!(seen, [(tag.clone(), size), (tag, 0)]);
    }
}

#[tokio::test]
async fn parts_are_served_as_the_standard_says() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let content = video(4, 300_000);
    let (_, url) = uploaded(&ada, content.clone()).await;
    let ranged = async |range: &str| ask("GET", &url, &[("range", range)]).await;
    for (range, begin, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=299990-", 299_990, 300_000),
        ("bytes=-7", 299_993, 300_000),
        ("bytes=100-999999", 100, 300_000),
    ] {
        let answer = ranged(range).await;
        assert_eq!(answer.status, 206, "{range}");
        assert!(answer.body == content[begin..end], "{range}");
        let of = format!("bytes {begin}-{}/300000", end - 1);
        assert_eq!(answer.header("content-range"), of);
        assert_eq!(answer.header("content-type"), "video/mp4");
    }
    // A player goes through it piece by piece.
    let mut whole = Vec::new();
    while whole.len() < content.len() {
        let answer = ranged(&format!("bytes={}-{}", whole.len(), whole.len() + 65_535)).await;
        assert_eq!(answer.status, 206);
        whole.extend(answer.body);
    }
    assert!(whole == content, "other bytes");

    let answer = ranged("bytes=5-9, 100000-100003,-2").await;
    assert_eq!(answer.status, 206);
    let kind = answer.header("content-type");
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let mut expected: Vec<u8> = Vec::new();
    for (begin, end) in [(5, 10), (100_000, 100_004), (299_998, 300_000)] {
        let of = format!("bytes {begin}-{}/300000", end - 1);
        let head =
            format!("\r\n--{boundary}\r\nContent-Type: video/mp4\r\nContent-Range: {of}\r\n\r\n");
        expected.extend(head.as_bytes());
        expected.extend(&content[begin..end]);
    }
    expected.extend(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(answer.body == expected, "other parts");
    assert_eq!(answer.header("content-length"), expected.len().to_string());

    let answer = ranged("bytes=300000-").await;
    assert_eq!((answer.status, answer.body.len()), (416, 0));
    assert_eq!(answer.header("content-range"), "bytes */300000");
    assert_eq!(answer.header("cache-control"), "no-store");
    // What no range is means all of it.
    for range in ["bytes=9-5", "words=1-2", "bytes=0-9,5-14"] {
        let answer = ranged(range).await;
        assert_eq!(
            (answer.status, answer.body.len()),
            (200, 300_000),
            "{range}"
        );
    }
    // A part of something else is of no use to who has a part of this.
    let tag = ask("HEAD", &url, &[]).await.header("etag").to_owned();
    for (if_range, status) in [(tag.as_str(), 206), ("\"another\"", 200)] {
        let headers = [("range", "bytes=0-9"), ("if-range", if_range)];
        assert_eq!(ask("GET", &url, &headers).await.status, status);
    }
}

#[tokio::test]
async fn who_has_it_already_gets_nothing_again() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (_, url) = uploaded(&ada, png(5)).await;
    let tag = ask("HEAD", &url, &[]).await.header("etag").to_owned();
    let known = async |method: &str, tags: &str| {
        let answer = ask(method, &url, &[("if-none-match", tags)]).await;
        assert_eq!(answer.header("etag"), tag);
        (answer.status, answer.body.is_empty())
    };
    for tags in [
        tag.clone(),
        format!("W/{tag}"),
        format!("\"other\", {tag}"),
        "*".to_owned(),
    ] {
        for method in ["GET", "HEAD"] {
            assert_eq!(known(method, &tags).await, (304, true), "{tags}");
        }
    }
    assert_eq!(known("GET", "\"other\"").await, (200, false));
}

#[tokio::test]
async fn a_url_is_good_for_what_it_was_made_for_and_no_longer() {
    let clock = ManualClock::at(SystemClock.now_unix_ms());
    let time = clock.clone();
    let builder = TestServer::builder().config(move |config| {
        config.clock = std::sync::Arc::new(time.clone());
        config.blob.url_life = LIFE;
    });
    let server = builder.start().await;
    let ada = server.user("ada").await;
    let (uploaded_png, url) = uploaded(&ada, png(6)).await;
    let (other, _) = uploaded(&ada, jpeg(7)).await;
    let status = async |url: &str| ask("GET", url, &[]).await.status;
    assert_eq!(status(&url).await, 200);
    let (plain, query) = url.split_once('?').unwrap();
    let signature = query.rsplit('=').next().unwrap();
    let mut turned: Vec<char> = signature.chars().collect();
    turned[5] = if turned[5] == 'A' { 'B' } else { 'A' };
    let turned: String = turned.into_iter().collect();
    let (ours, theirs) = (&blob(&uploaded_png).blob_id, &blob(&other).blob_id);
    let expires = query
        .split('&')
        .next()
        .unwrap()
        .strip_prefix("expires=")
        .unwrap();
    let later = (expires.parse::<u64>().unwrap() + 3_600).to_string();
    for forged in [
        plain.to_owned(),
        url.replace(signature, &turned),
        url.replace(signature, ""),
        url.replace(signature, &signature[..20]),
        url.replace(expires, &later),
        url.replace(ours, theirs),
        url.replace("original", "small"),
        url.replace(".png", ".html"),
    ] {
        assert_ne!(forged, url);
        let answer = ask("GET", &forged, &[]).await;
        assert_eq!(answer.status, 403, "{forged}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    for nowhere in [
        "/",
        "/v1/blobs/",
        "/v1/blobs/..%2f..%2fkeys/urls.secret",
        "/metrics",
    ] {
        let base = url.split("/v1/").next().unwrap();
        let answer = ask("GET", &format!("{base}{nowhere}?{query}"), &[]).await;
        assert_eq!(answer.status, 404, "{nowhere}");
    }
    assert_eq!(ask("DELETE", &url, &[]).await.status, 405);

    let life_ms = i64::try_from(LIFE.as_millis()).unwrap();
    clock.advance(life_ms - 1_000);
    assert_eq!(status(&url).await, 200, "it is good for a life at least");
    clock.advance(life_ms + 1_000);
    assert_eq!(status(&url).await, 403, "and for two at most");
    let new = super::url(&ada, ours, Variant::Original).await.unwrap();
    assert_eq!(status(&new).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_the_event_is_told_where_its_picture_is_and_nobody_else() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let (alan, mallory) = (server.user("alan").await, server.user("mallory").await);
    let settings = GroupSettings {
        history_access: HistoryAccess::SinceJoining.into(),
        ..GroupSettings::default()
    };
    let (group, _) = ada.create_group("pictures", &[&grace], settings).await;
    let id = group.conversation_id.clone();
    let first = Content::new(png(8)).upload(&ada).await;
    let early = attach(&ada, &id, &[&first.receipt]).await.unwrap();
    let joined = ada.add_members(&group, &[&alan]).await.unwrap();
    let left = ada.remove_member(&group, &grace).await.unwrap();
    assert!(early < joined && joined < left);
    let second = Content::new(png(9)).upload(&ada).await;
    let late = attach(&ada, &id, &[&second.receipt]).await.unwrap();

    let (first, second) = (&blob(&first).blob_id, &blob(&second).blob_id);
    let original = Variant::Original;
    let sees = async |who: &Device, what: &str, seq: u64| {
        url_in(who, what, original, &id, seq).await.is_some()
    };
    // Who was removed sees what was sent while she was there; who came later, what came then.
    assert!(sees(&grace, first, early).await && !sees(&grace, second, late).await);
    assert!(!sees(&alan, first, early).await && sees(&alan, second, late).await);
    for (what, seq) in [(first, early), (second, late)] {
        assert!(!sees(&mallory, what, seq).await, "she was never a member");
        assert!(sees(&ada, what, seq).await);
    }
    // Another event of those that she may read says nothing of it, nor does no event at all.
    assert!(!sees(&grace, second, early).await && !sees(&alan, first, late).await);
    assert_eq!(url(&grace, first, original).await, None);
    // Everybody who may see it gets the same URL: a cache keeps it once.
    let of_grace = url_in(&grace, first, original, &id, early).await;
    assert_eq!(of_grace, url(&ada, first, original).await);
    // What never was there cannot be told from what is not hers.
    let nothing = uuid::Uuid::now_v7().to_string();
    assert_eq!(url_in(&grace, &nothing, original, &id, early).await, None);
}

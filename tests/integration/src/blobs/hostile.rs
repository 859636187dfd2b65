//! Content that is made to harm: who reads it, who stores it, and who looks at it.

use std::{net::SocketAddr, time::Duration};

use harness::{Device, ServerProcess, StandaloneOptions, refused, register, within};
use image::ImageFormat;
use proto::{
    blob::v1::{Purpose, Variant},
    error::v1::ErrorReason as R,
};
use uuid::Uuid;

use super::{
    Content, MIB, blob, encoded, files,
    http::{ask, send},
    image, own_bytes, png, url, video,
};

/// What the server's memory may grow by over the attacks: what its allocator keeps of the requests.
const GROWN_BYTES_MAX: u64 = 64 * MIB as u64;
/// The same of attacks for which pictures have to be read: the budget of all pictures that are.
const READING_BYTES_MAX: u64 = 1_024 * MIB as u64;
/// How often each attack is made, at the same time.
const AT_ONCE: usize = 8;
const MARKUP: &[u8] = b"<html><script>alert(document.domain)</script></html>";

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
        })
    })
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let named = [kind.as_slice(), content].concat();
    let length = (content.len() as u32).to_be_bytes();
    [&length, named.as_slice(), &crc(&named).to_be_bytes()].concat()
}

/// A PNG whose header says these sides, with the pixels of a small one.
fn png_that_says(width: u32, height: u32) -> Vec<u8> {
    let small = png(1);
    // Signature and header, which is always as long.
    let mut header = small[16..29].to_vec();
    header[..4].copy_from_slice(&width.to_be_bytes());
    header[4..8].copy_from_slice(&height.to_be_bytes());
    [&small[..8], &chunk(b"IHDR", &header), &small[33..]].concat()
}

fn joined(first: &[u8], second: &[u8]) -> Vec<u8> {
    [first, second].concat()
}

fn gif_that_says(width: u16, height: u16) -> Vec<u8> {
    let mut gif = encoded(&image(2, 60, 40), ImageFormat::Gif);
    gif[6..8].copy_from_slice(&width.to_le_bytes());
    gif[8..10].copy_from_slice(&height.to_le_bytes());
    gif
}

/// A JPEG with a comment behind its first marker.
fn jpeg_with_comment(comment: &[u8]) -> Vec<u8> {
    let jpeg = super::jpeg(3);
    let length = (comment.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xFF, 0xFE], &length, comment, &jpeg[2..]].concat()
}

/// What it is, its bytes, and why it is refused.
fn attacks() -> Vec<(&'static str, Vec<u8>, R)> {
    let whole_png = png(4);
    let whole_jpeg = super::jpeg(4);
    let whole_gif = encoded(&image(5, 60, 40), ImageFormat::Gif);
    let whole_webp = encoded(&image(6, 300, 200), ImageFormat::WebP);
    let half = |whole: &[u8]| whole[..whole.len() / 2].to_vec();
    let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>";
    vec![
        ("a bomb", png_that_says(30_000, 30_000), R::PictureTooLarge),
        (
            "all numbers",
            png_that_says(u32::MAX >> 1, u32::MAX >> 1),
            R::PictureTooLarge,
        ),
        (
            "a giant, 1 high",
            png_that_says(2_000_000, 1),
            R::PictureTooLarge,
        ),
        (
            "a giant, 1 wide",
            png_that_says(1, 16_385),
            R::PictureTooLarge,
        ),
        (
            "a GIF bomb",
            gif_that_says(65_535, 65_535),
            R::PictureTooLarge,
        ),
        ("no pixels", png_that_says(0, 10), R::PictureUnreadable),
        ("half a PNG", half(&whole_png), R::PictureUnreadable),
        ("half a JPEG", half(&whole_jpeg), R::PictureUnreadable),
        ("half a GIF", half(&whole_gif), R::PictureUnreadable),
        ("half a WebP", half(&whole_webp), R::PictureUnreadable),
        (
            "a PNG without its end",
            whole_png[..whole_png.len() - 12].to_vec(),
            R::PictureUnreadable,
        ),
        (
            "the beginning of a PNG",
            whole_png[..8].to_vec(),
            R::PictureUnreadable,
        ),
        (
            "markup that begins as a PNG",
            joined(&whole_png[..8], MARKUP),
            R::PictureUnreadable,
        ),
        (
            "markup that begins as a JPEG",
            joined(&whole_jpeg[..4], MARKUP),
            R::PictureUnreadable,
        ),
        ("an SVG", svg.to_vec(), R::MediaTypeNotAllowed),
        ("markup", MARKUP.to_vec(), R::MediaTypeNotAllowed),
        (
            "markup behind a mark",
            joined(b"\xEF\xBB\xBF \n", MARKUP),
            R::MediaTypeNotAllowed,
        ),
        (
            "a PDF",
            b"%PDF-1.7\n%\xE2\xE3\xCF\xD3\n".to_vec(),
            R::MediaTypeNotAllowed,
        ),
        (
            "an archive",
            b"PK\x03\x04\x14\0\0\0\x08\0".to_vec(),
            R::MediaTypeNotAllowed,
        ),
        (
            "a program",
            joined(b"\x7FELF\x02\x01\x01", &[0; 64]),
            R::MediaTypeNotAllowed,
        ),
        ("one byte", vec![0xFF], R::MediaTypeNotAllowed),
    ]
}

async fn is_refused(device: &Device, name: &str, bytes: Vec<u8>, reason: R) {
    for purpose in [Purpose::Attachment, Purpose::Picture] {
        let content = Content {
            purpose,
            ..Content::new(bytes.clone())
        };
        let refusal = refused(content.send(device, 0).await);
        assert_eq!(refusal.reason, reason, "{name}: {refusal:?}");
        refusal.is(reason, "");
        // It is not there any more: who was refused a hundred times is not locked out.
        refused(content.progress(device).await).is(R::UploadNotFound, "");
    }
}

/// Makes an attack by several users at once; answers the most memory that the server had meanwhile.
async fn peak_of(server: &ServerProcess, attack: (&'static str, Vec<u8>, R)) -> u64 {
    let (name, bytes, reason) = attack;
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        // Each has a rate of his own.
        let mallory = Uuid::new_v4().simple().to_string();
        let mallory = register(&server.url(), &format!("m{}", &mallory[..20])).await;
        let bytes = bytes.clone();
        running.spawn(async move { is_refused(&mallory, name, bytes, reason).await });
    }
    let mut peak = 0;
    let mut all = Box::pin(within("all refusals", running.join_all()));
    loop {
        peak = peak.max(server.resident_bytes());
        tokio::select! {
            _ = &mut all => return peak.max(server.resident_bytes()),
            () = tokio::time::sleep(Duration::from_millis(2)) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_content_is_refused_with_its_reason_and_costs_a_bounded_amount() {
    let server = ServerProcess::start(StandaloneOptions::default());
    // What any picture costs is no part of what the attacks cost.
    let ada = register(&server.url(), "ada").await;
    Content::new(png(9)).upload(&ada).await;
    let there = files(&server.data(), "blobs");
    let before = server.resident_bytes();
    let grown = |peak: u64| peak.saturating_sub(before);
    for attack in attacks() {
        let name = attack.0;
        let grown = grown(peak_of(&server, attack).await);
        assert!(grown <= GROWN_BYTES_MAX, "{name}: {} MiB more", grown >> 20);
    }
    // As many pixels as a picture may have, so that it has to be read until they end.
    let unreadable = png_that_says(8_000, 6_000);
    let attack = ("fewer pixels than said", unreadable, R::PictureUnreadable);
    let grown = grown(peak_of(&server, attack).await);
    println!("{} MiB at first, {} MiB more", before >> 20, grown >> 20);
    assert!(
        grown <= GROWN_BYTES_MAX + READING_BYTES_MAX,
        "{grown} bytes more"
    );
    assert_eq!(files(&server.data(), "blobs"), there, "something is kept");
    for kind in ["uploads", "incoming"] {
        assert_eq!(files(&server.data(), kind), [], "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hides_in_a_picture_or_behind_it_is_not_served() {
    let server = harness::TestServer::start().await;
    let mallory = server.user("mallory").await;
    let archive = b"PK\x03\x04\x14\0\0\0\x08\0secret.html";
    let hidden = joined(MARKUP, archive);
    let text = chunk(b"tEXt", &joined(b"Comment\0", MARKUP));
    let whole = png(10);
    let in_chunk = [&whole[..33], text.as_slice(), &whole[33..]].concat();
    for (name, bytes) in [
        ("behind a JPEG", joined(&super::jpeg(10), &hidden)),
        ("behind a PNG", joined(&whole, &hidden)),
        (
            "behind a GIF",
            joined(&encoded(&image(11, 60, 40), ImageFormat::Gif), &hidden),
        ),
        ("in a JPEG's comment", jpeg_with_comment(&hidden)),
        ("in a PNG's text", in_chunk),
    ] {
        let uploaded = Content::new(bytes).upload(&mallory).await;
        for variant in [Variant::Original, Variant::Small, Variant::Large] {
            let url = url(&mallory, &blob(&uploaded).blob_id, variant)
                .await
                .unwrap();
            let answer = ask("GET", &url, &[]).await;
            let has = |part: &[u8]| answer.body.windows(part.len()).any(|w| w == part);
            assert!(!has(b"<script") && !has(b"PK\x03\x04"), "{name}");
            assert!(image::guess_format(&answer.body).is_ok(), "{name}");
            assert!(answer.header("content-type").starts_with("image/"));
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
        }
    }
    // A video is stored as it is, and is nothing but a video to whoever gets it.
    let content = Content::new(joined(&video(12, 10_000), &hidden));
    let uploaded = content.upload(&mallory).await;
    assert!(own_bytes(&mallory, &uploaded).await == content.bytes);
    let url = url(&mallory, &blob(&uploaded).blob_id, Variant::Original)
        .await
        .unwrap();
    let answer = ask("HEAD", &url, &[]).await;
    assert_eq!(answer.header("content-type"), "video/mp4");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let policy = answer.header("content-security-policy");
    assert!(
        policy.contains("sandbox") && !policy.contains("script"),
        "{policy}"
    );
    // As a picture of a profile it is none.
    let as_picture = Content {
        purpose: Purpose::Picture,
        ..Content::new(video(13, 10_000))
    };
    refused(as_picture.send(&mallory, 0).await).is(R::MediaTypeNotAllowed, "");
}

#[tokio::test]
async fn what_an_uploader_calls_his_content_is_not_believed() {
    let server = harness::TestServer::start().await;
    let mallory = server.user("mallory").await;
    let put = async |address: SocketAddr, content: &Content, media_type: &str| {
        let sha256: String = content.sha256.iter().map(|b| format!("{b:02x}")).collect();
        let path = format!("/v1/uploads/{}", content.upload_id);
        let token = format!("Bearer {}", mallory.tokens.access_token);
        let length = content.bytes.len().to_string();
        let headers = [
            ("authorization", token.as_str()),
            ("content-type", media_type),
            ("content-length", &length),
            ("x-content-sha256", &sha256),
            ("x-blob-purpose", "attachment"),
        ];
        send(address, "PUT", &path, &headers, &content.bytes)
            .await
            .0
    };
    let address = server.http_address();
    let markup = Content::new(MARKUP.to_vec());
    let answer = put(address, &markup, "image/png").await;
    answer.is_refusal(415, "MEDIA_TYPE_NOT_ALLOWED");
    let picture = Content::new(png(14));
    let answer = put(address, &picture, "text/html").await;
    assert_eq!(answer.status, 200);
    let said = answer.json();
    assert_eq!(said["blob"]["mediaType"], "image/png");
    let id = said["blob"]["blobId"].as_str().unwrap();
    let url = url(&mallory, id, Variant::Original).await.unwrap();
    let answer = ask("GET", &url, &[]).await;
    assert_eq!(answer.header("content-type"), "image/png");
}

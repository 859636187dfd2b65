//! Uploads by HTTP, as pages of a browser make them.

use harness::{Device, TestServer, eventually};

use super::{
    Content, MIB, UNWRITTEN_BYTES, files,
    http::{Answer, break_off, send},
    own_bytes, png, video,
};

const PAGE: &str = "https://chat.example.org";
const BLOB_BYTES_MAX: usize = 16 * MIB;
/// What the systems of both sides may take of a refused upload before anybody reads it.
const BUFFERS_BYTES_MAX: usize = 8 * MIB;

async fn server() -> TestServer {
    let builder = TestServer::builder();
    let builder = builder.config(|config| config.blob.allowed_origins = vec![PAGE.to_owned()]);
    builder.start().await
}

/// A page of a user.
struct Page<'a> {
    server: &'a TestServer,
    token: String,
}

impl<'a> Page<'a> {
    fn of(server: &'a TestServer, device: &Device) -> Self {
        let token = format!("Bearer {}", device.tokens.access_token);
        Self { server, token }
    }

    fn headers(&self, content: &Content, offset: usize) -> Vec<(&'static str, String)> {
        let (size, length) = (content.bytes.len(), content.bytes.len() - offset);
        let sha256: String = content.sha256.iter().map(|b| format!("{b:02x}")).collect();
        let mut headers = vec![
            ("authorization", self.token.clone()),
            ("origin", PAGE.to_owned()),
            // Believed by nobody.
            ("content-type", "text/html".to_owned()),
            ("content-length", length.to_string()),
            ("x-content-sha256", sha256),
            ("x-blob-purpose", "attachment".to_owned()),
        ];
        if offset > 0 {
            let range = format!("bytes {offset}-{}/{size}", size - 1);
            headers.push(("content-range", range));
        }
        headers
    }

    async fn put(&self, content: &Content, offset: usize) -> (Answer, usize) {
        let headers = self.headers(content, offset);
        self.put_with(content, &headers, &content.bytes[offset..])
            .await
    }

    async fn put_with(
        &self,
        content: &Content,
        headers: &[(&str, String)],
        body: &[u8],
    ) -> (Answer, usize) {
        let address = self.server.http_address();
        send(address, "PUT", &path(content), &refs(headers), body).await
    }

    async fn break_off(&self, content: &Content, offset: usize, end: usize) {
        let (address, headers) = (self.server.http_address(), self.headers(content, offset));
        let part = &content.bytes[offset..end];
        break_off(address, "PUT", &path(content), &refs(&headers), part).await;
    }

    /// Goes on with an upload, once a connection that broke before is at rest.
    async fn go_on(&self, content: &Content) -> Answer {
        eventually("the rest is taken", async || {
            let offset = self.offset(content).await;
            let (answer, sent) = self.put(content, offset).await;
            if answer.status == 409 {
                let reason = &answer.json()["reason"];
                assert!(reason == "UPLOAD_OFFSET_WRONG" || reason == "UPLOAD_BUSY");
                return None;
            }
            assert_eq!(sent, content.bytes.len() - offset);
            Some(answer)
        })
        .await
    }

    async fn ask(&self, method: &str, content: &Content) -> Answer {
        let headers = [("authorization", self.token.as_str()), ("origin", PAGE)];
        let address = self.server.http_address();
        send(address, method, &path(content), &headers, &[]).await.0
    }

    /// Where an upload goes on.
    async fn offset(&self, content: &Content) -> usize {
        let answer = self.ask("HEAD", content).await;
        if answer.status == 404 {
            // Nothing of it has come, or it was refused.
            return 0;
        }
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        assert_eq!(answer.header("upload-complete"), "?0");
        assert_eq!(answer.header("cache-control"), "no-store");
        answer.header("upload-offset").parse().unwrap()
    }
}

fn refs<'a>(headers: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    let headers = headers.iter();
    headers
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}

fn path(content: &Content) -> String {
    format!("/v1/uploads/{}", content.upload_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_uploads_and_goes_on_where_its_connection_was_cut() {
    let server = server().await;
    let ada = server.user("ada").await;
    let page = Page::of(&server, &ada);
    let content = Content::new(video(1, 5 * MIB));
    let (size, half) = (content.bytes.len(), 3 * MIB);

    page.break_off(&content, 0, half).await;
    let offset = eventually("what came is kept", async || {
        let answer = page.ask("HEAD", &content).await;
        let offset = answer.header("upload-offset").parse::<usize>().ok()?;
        (offset + UNWRITTEN_BYTES >= half).then_some(offset)
    })
    .await;
    assert!(offset <= half, "{offset}");
    // Again, at another place.
    let offset = page.offset(&content).await;
    page.break_off(&content, offset, offset + MIB).await;
    let finished = page.go_on(&content).await;
    assert_eq!(finished.status, 200);
    assert_eq!(finished.header("upload-complete"), "?1");
    assert_eq!(finished.header("access-control-allow-origin"), PAGE);
    let said = finished.json();
    assert_eq!(said["existed"], false);
    assert_eq!(said["blob"]["mediaType"], "video/mp4");
    assert_eq!(said["blob"]["sizeBytes"], size);

    // The same id once more: nothing is sent for it, and nothing made.
    let (again, _) = page.put(&content, 0).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.json()["blob"], said["blob"]);
    let end = page.ask("HEAD", &content).await;
    assert_eq!(end.header("upload-complete"), "?1");
    assert_eq!(end.header("upload-offset"), size.to_string());
    assert_eq!(page.ask("GET", &content).await.json()["blob"], said["blob"]);
    assert_eq!(files(&server.data(), "blobs").len(), 1);
    assert_eq!(files(&server.data(), "uploads"), []);
    let uploaded = content.progress(&ada).await.unwrap().finished.unwrap();
    assert!(
        own_bytes(&ada, &uploaded).await == content.bytes,
        "other bytes"
    );
}

#[tokio::test]
async fn a_browser_asks_first_and_pages_of_others_are_shown_nothing() {
    let server = server().await;
    let ada = server.user("ada").await;
    let content = Content::new(png(2));
    let asked = [
        ("origin", PAGE),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "authorization"),
    ];
    let address = server.http_address();
    let (answer, _) = send(address, "OPTIONS", &path(&content), &asked, &[]).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), PAGE);
    assert_eq!(answer.header("vary"), "origin");
    let methods = answer.header("access-control-allow-methods");
    assert!(
        ["PUT", "HEAD"].iter().all(|m| methods.contains(m)),
        "{methods}"
    );
    let page = Page::of(&server, &ada);
    let allowed = answer.header("access-control-allow-headers");
    // Those that pages may always send, and those that browsers set themselves.
    let free = ["origin", "content-length"];
    for (name, _) in page.headers(&content, 1) {
        let is_allowed = allowed.split(", ").any(|allowed| allowed == name);
        assert!(is_allowed || free.contains(&name), "{name} is not allowed");
    }

    let foreign = [asked.as_slice(), &[("origin", "https://evil.example")]].concat();
    let (answer, _) = send(address, "OPTIONS", &path(&content), &foreign[1..], &[]).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
    let mut headers = page.headers(&content, 0);
    headers[0].1 = "Bearer of bad news".to_owned();
    let (answer, _) = page.put_with(&content, &headers, &content.bytes).await;
    answer.is_refusal(401, "TOKEN_INVALID");
    // A page must be able to read why.
    assert_eq!(answer.header("access-control-allow-origin"), PAGE);
    let (answer, _) = page.put_with(&content, &headers[1..], &content.bytes).await;
    answer.is_refusal(401, "TOKEN_MISSING");
    let mut foreign = page.headers(&content, 0);
    foreign[1].1 = "https://evil.example".to_owned();
    let (answer, _) = page.put_with(&content, &foreign, &content.bytes).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_blob_may_have_is_refused_before_it_is_sent() {
    let server = server().await;
    let ada = server.user("ada").await;
    let page = Page::of(&server, &ada);
    let content = Content::new(video(3, BLOB_BYTES_MAX + 1));
    let (answer, sent) = page.put(&content, 0).await;
    answer.is_refusal(413, "BLOB_TOO_LARGE");
    assert_eq!(answer.json()["field"], "size_bytes");
    assert!(sent <= BUFFERS_BYTES_MAX, "{sent} bytes went before it");
    // Who does not say how much comes is not let begin.
    let mut headers = page.headers(&content, 0);
    headers.retain(|(name, _)| *name != "content-length");
    headers.push(("transfer-encoding", "chunked".to_owned()));
    let (answer, sent) = page.put_with(&content, &headers, &content.bytes).await;
    answer.is_refusal(400, "FIELD_MALFORMED");
    assert_eq!(answer.json()["field"], "content-length");
    assert!(sent <= BUFFERS_BYTES_MAX, "{sent} bytes went before it");
    // Nor who goes on with more than he may.
    let mut headers = page.headers(&content, 0);
    headers[3].1 = "2".to_owned();
    let range = format!(
        "bytes {}-{BLOB_BYTES_MAX}/{}",
        BLOB_BYTES_MAX - 1,
        BLOB_BYTES_MAX + 1
    );
    headers.push(("content-range", range));
    let (answer, _) = page.put_with(&content, &headers, &[0, 0]).await;
    answer.is_refusal(413, "BLOB_TOO_LARGE");
    for kind in ["blobs", "uploads", "incoming"] {
        assert_eq!(files(&server.data(), kind), [], "{kind}");
    }
    // And a byte less is a blob.
    let content = Content::new(video(3, BLOB_BYTES_MAX));
    let (answer, sent) = page.put(&content, 0).await;
    assert_eq!((answer.status, sent), (200, BLOB_BYTES_MAX));
}

#[tokio::test]
async fn bytes_of_another_checksum_are_refused_and_change_nothing() {
    let server = server().await;
    let ada = server.user("ada").await;
    let page = Page::of(&server, &ada);
    let there = Content::new(png(4));
    let before = there.upload(&ada).await;
    let files_before = files(&server.data(), "blobs");

    let good = Content::new(png(5));
    let mut bad = good.clone();
    *bad.bytes.last_mut().unwrap() ^= 1;
    let (answer, _) = page.put(&bad, 0).await;
    answer.is_refusal(400, "CHECKSUM_MISMATCH");
    let thrown_away = page.ask("HEAD", &good).await;
    assert_eq!(thrown_away.status, 404, "it is as if it had never begun");
    // Bytes of which a part came before.
    let middle = good.bytes.len() / 2;
    page.break_off(&good, 0, middle).await;
    page.go_on(&bad).await.is_refusal(400, "CHECKSUM_MISMATCH");
    // An id that is taken.
    let other = Content {
        upload_id: there.upload_id.clone(),
        ..good.clone()
    };
    let (answer, _) = page.put(&other, 0).await;
    answer.is_refusal(409, "REQUEST_ID_REUSED");
    assert_eq!(files(&server.data(), "blobs"), files_before);
    assert_eq!(own_bytes(&ada, &before).await, there.bytes);
    let (answer, _) = page.put(&good, 0).await;
    assert_eq!(answer.status, 200, "the same upload can begin again");
}

#[tokio::test]
async fn an_upload_of_another_user_is_not_there_for_anybody_else() {
    let server = server().await;
    let (ada, mallory) = (server.user("ada").await, server.user("mallory").await);
    let (hers, foreign) = (Page::of(&server, &ada), Page::of(&server, &mallory));
    let content = Content::new(video(6, 2 * MIB));
    hers.break_off(&content, 0, MIB + MIB / 2).await;
    let offset = eventually("what came is kept", async || {
        let answer = hers.ask("HEAD", &content).await;
        let offset = answer.header("upload-offset").parse::<usize>().ok()?;
        (offset > 0).then_some(offset)
    })
    .await;
    assert_eq!(foreign.ask("HEAD", &content).await.status, 404);
    foreign
        .ask("GET", &content)
        .await
        .is_refusal(404, "UPLOAD_NOT_FOUND");
    // Of a user who goes on with it, nothing has arrived.
    let eve = server.user("eve").await;
    let (answer, _) = Page::of(&server, &eve).put(&content, offset).await;
    answer.is_refusal(409, "UPLOAD_OFFSET_WRONG");
    assert_eq!(Page::of(&server, &eve).offset(&content).await, 0);
    // The same id is another upload of another user.
    let of_mallory = Content {
        upload_id: content.upload_id.clone(),
        ..Content::new(png(7))
    };
    let (answer, _) = foreign.put(&of_mallory, 0).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["blob"]["ownerId"], mallory.user_id);
    let answer = hers.go_on(&content).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["blob"]["ownerId"], ada.user_id);
    let uploaded = content.progress(&ada).await.unwrap().finished.unwrap();
    assert!(
        own_bytes(&ada, &uploaded).await == content.bytes,
        "other bytes"
    );
}

//! Pictures and videos: uploads and downloads that break in the middle.

use std::sync::{Arc, Mutex};

use messenger_client::{
    Download, Draft, Message, ProfileUpdate, Progress, Source, Upload,
    model::{Attachment, Variant},
};

use super::{
    fake::blobs::{OnGet, OnUpload},
    *,
};

/// Some parts of an upload, the last one not full.
const BYTES: usize = 5 * 64 * 1024 + 77;
const MIB: usize = 1024 * 1024;

fn picture(seed: u8) -> Vec<u8> {
    (0..BYTES).map(|n| (n % 251) as u8 ^ seed).collect()
}

/// What a progress callback was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Progress>>>);

impl Told {
    fn callback(&self) -> impl FnMut(Progress) + Send + use<> {
        let told = self.clone();
        move |progress| told.0.lock().unwrap().push(progress)
    }

    fn done(&self) -> Vec<u64> {
        let told = self.0.lock().unwrap();
        told.iter().map(|progress| progress.done_bytes).collect()
    }
}

async fn uploaded(fake: &Fake, client: &Client, bytes: &[u8]) -> Message {
    let upload = Upload::attachment(bytes.to_vec());
    let uploaded = soon(client.blobs().upload(upload, |_| ())).await.unwrap();
    fake.serve_http().await;
    Message {
        conversation_id: "a".to_owned(),
        seq: 7,
        message_index: 7,
        time_unix_ms: 1,
        sender_id: "me".to_owned(),
        message_id: "m".to_owned(),
        text: String::new(),
        mentioned_user_ids: Vec::new(),
        mentions_all: false,
        attachments: vec![uploaded.attachment()],
    }
}

fn of(message: &Message) -> Download {
    Download::attachment(message, &message.attachments[0])
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_whatever_breaks() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture");
    std::fs::write(&path, picture(0)).unwrap();
    fake.state.lock().blobs.on_uploads = VecDeque::from([
        OnUpload::Refuse(Code::Aborted, ErrorReason::UploadBusy),
        OnUpload::Break { kept: 100_000 },
        OnUpload::Refuse(Code::Unavailable, ErrorReason::Unavailable),
        OnUpload::Break { kept: 200_001 },
        OnUpload::Refuse(Code::Aborted, ErrorReason::UploadOffsetWrong),
        OnUpload::AnswerLost,
    ]);
    let told = Told::default();
    let upload = Upload::attachment(path.as_path());
    let blobs = client.blobs();
    let uploading = blobs.upload(upload, told.callback());
    let uploaded = soon(uploading).await.unwrap();
    assert_eq!(uploaded.blob.size_bytes, BYTES as u64);
    assert!(!uploaded.existed);
    let state = fake.state.lock();
    assert_eq!(state.blobs.contents["blob-0"], picture(0));
    let headers = &state.blobs.headers;
    let offsets: Vec<_> = headers.iter().map(|header| header.offset).collect();
    assert_eq!(offsets, [0, 0, 100_000, 100_000, 200_001, 200_001]);
    let id = &headers[0].upload_id;
    assert!(headers.iter().all(|header| header.upload_id == *id));
    // Little is sent twice: what was under way when it broke.
    assert!(state.blobs.data_bytes < BYTES + 2 * 65_536);
    assert_eq!(told.done(), [0, 100_000, 200_001, BYTES as u64]);
}

#[tokio::test]
async fn an_upload_that_the_server_gave_up_begins_again_and_the_progress_says_so() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    fake.state.lock().blobs.on_uploads =
        VecDeque::from([OnUpload::Break { kept: 100_000 }, OnUpload::Forget]);
    let told = Told::default();
    let upload = Upload::attachment(picture(1));
    let blobs = client.blobs();
    let uploading = blobs.upload(upload, told.callback());
    assert_eq!(soon(uploading).await.unwrap().blob.blob_id, "blob-0");
    assert_eq!(told.done(), [0, 100_000, 0, BYTES as u64]);
}

#[tokio::test]
async fn what_the_server_has_already_is_not_sent_again() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let bytes = vec![7; 8 * MIB];
    let upload = async || {
        let upload = Upload::attachment(bytes.clone());
        soon(client.blobs().upload(upload, |_| ())).await.unwrap()
    };
    let first = upload().await;
    let sent = fake.state.lock().blobs.data_bytes;
    let second = upload().await;
    assert_eq!((first.existed, second.existed), (false, true));
    assert_eq!(first.blob, second.blob);
    assert_ne!(first.receipt, second.receipt);
    assert_eq!(fake.state.lock().blobs.data_bytes, sent);
    // What is for something else is another blob.
    let picture = Upload::picture(bytes.clone());
    let picture = soon(client.blobs().upload(picture, |_| ())).await.unwrap();
    assert_ne!(picture.blob.blob_id, first.blob.blob_id);
}

#[tokio::test]
async fn an_upload_that_cannot_go_well_is_told_at_once() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let blobs = client.blobs();
    let error = async |source: Source| {
        let upload = Upload::attachment(source);
        soon(blobs.upload(upload, |_| ())).await.unwrap_err()
    };
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large");
    std::fs::File::create(&large)
        .unwrap()
        .set_len(16 * MIB as u64 + 1)
        .unwrap();
    assert_eq!(
        error(large.into()).await.reason(),
        ErrorReason::BlobTooLarge
    );
    assert_eq!(
        error(Vec::new().into()).await.reason(),
        ErrorReason::FieldRequired
    );
    for nothing in [dir.path().join("nothing"), dir.path().to_owned()] {
        let error = error(nothing.into()).await;
        assert!(matches!(error, Error::Storage(_)), "{error}");
    }
    assert!(fake.state.lock().blobs.headers.is_empty());
    let refuse = OnUpload::Refuse(Code::InvalidArgument, ErrorReason::PictureUnreadable);
    fake.state.lock().blobs.on_uploads.push_back(refuse);
    let refused = error(picture(2).into()).await;
    assert_eq!(refused.reason(), ErrorReason::PictureUnreadable);
    assert_eq!(fake.state.lock().blobs.headers.len(), 1);
    let busy = OnUpload::Refuse(Code::Aborted, ErrorReason::UploadBusy);
    fake.state.lock().blobs.on_uploads = vec![busy; 1_000].into();
    let hasty = client.blobs().patience(Duration::from_millis(300));
    let upload = Upload::attachment(picture(2));
    let error = soon(hasty.upload(upload, |_| ())).await.unwrap_err();
    assert_eq!(error.reason(), ErrorReason::UploadBusy);
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_and_is_whole_or_not_there() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let message = uploaded(&fake, &client, &picture(3)).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture");
    fake.state.lock().blobs.on_gets = VecDeque::from([
        OnGet::Break(100_000),
        OnGet::Status(503),
        OnGet::Break(50_000),
        OnGet::Status(403),
    ]);
    let told = Told::default();
    let blobs = client.blobs();
    let download = blobs.download(of(&message), &path, told.callback());
    let downloaded = soon(download).await.unwrap();
    assert_eq!(downloaded.size_bytes, BYTES as u64);
    assert_eq!(downloaded.sha256, message.attachments[0].sha256);
    assert_eq!(downloaded.media_type, "image/png");
    assert_eq!(std::fs::read(&path).unwrap(), picture(3));
    assert!(told.done().is_sorted());
    assert_eq!(told.done().last(), Some(&(BYTES as u64)));
    {
        let state = fake.state.lock();
        let ranges: Vec<_> = state.blobs.gets.iter().map(|(r, _)| r.as_str()).collect();
        let (second, third) = ("bytes=100000-", "bytes=150000-");
        assert_eq!(ranges, ["", second, second, third, third]);
        assert!(state.blobs.gets[1..].iter().all(|(_, e)| e == "\"blob-0\""));
        // A new URL for the one that was refused; each says where the attachment is.
        assert_eq!(state.blobs.signed.len(), 2);
        let asked = &state.blobs.signed[0];
        assert_eq!((asked.conversation_id.as_str(), asked.seq), ("a", 7));
    }
    // What is there is left alone, and nothing is left over.
    std::fs::write(&path, "mine").unwrap();
    let blobs = client.blobs();
    let again = blobs.download(of(&message), &path, |_| ());
    let error = soon(again).await.unwrap_err();
    assert!(matches!(error, Error::Storage(_)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn nothing_but_what_the_message_says_is_taken() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let message = uploaded(&fake, &client, &picture(4)).await;
    let dir = tempfile::tempdir().unwrap();
    for wrong in [
        OnGet::Corrupt,
        OnGet::Endless,
        OnGet::Redirect,
        OnGet::Status(301),
    ] {
        fake.state.lock().blobs.on_gets.push_back(wrong);
        let path = dir.path().join("picture");
        let blobs = client.blobs();
        let download = blobs.download(of(&message), path, |_| ());
        let error = soon(download).await.unwrap_err();
        assert!(matches!(error, Error::Protocol(_)), "{wrong:?}: {error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    // A size that is not the attachment's.
    let mut other = message.clone();
    other.attachments[0].size_bytes -= 1;
    let error = soon(client.blobs().read(of(&other))).await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
    // URLs that are refused again and again.
    fake.state.lock().blobs.on_gets = vec![OnGet::Status(403); 9].into();
    let error = soon(client.blobs().read(of(&message))).await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
    assert_eq!(fake.state.lock().blobs.on_gets.len(), 7);
}

#[tokio::test]
async fn a_new_url_is_asked_for_when_the_old_one_breaks_again_and_again() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let message = uploaded(&fake, &client, &picture(5)).await;
    fake.state.lock().blobs.on_gets = vec![OnGet::Break(0); 4].into();
    let read = soon(client.blobs().read(of(&message))).await;
    assert_eq!(read.unwrap(), picture(5));
    assert_eq!(fake.state.lock().blobs.signed.len(), 2);
    fake.state.lock().blobs.on_gets = vec![OnGet::Break(0); 1_000].into();
    let hasty = client.blobs().patience(Duration::from_millis(300));
    let error = soon(hasty.read(of(&message))).await.unwrap_err();
    assert!(matches!(error, Error::Transport(_)), "{error}");
}

#[tokio::test]
async fn parts_of_two_versions_are_never_put_together() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let message = uploaded(&fake, &client, &picture(6)).await;
    let changes = || VecDeque::from([OnGet::Break(1_000), OnGet::Changed]);
    // Of a blob that only its id is known of, so that no checksum could tell.
    let blob = || Download::blob(message.attachments[0].blob_id.clone());
    fake.state.lock().blobs.on_gets = changes();
    assert_eq!(soon(client.blobs().read(blob())).await, Ok(picture(6)));
    // What was passed on cannot be taken back.
    fake.state.lock().blobs.on_gets = changes();
    let mut writer = Vec::new();
    let blobs = client.blobs();
    let download = blobs.download_to(blob(), &mut writer, |_| ());
    let error = soon(download).await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
    let mut writer = Vec::new();
    let blobs = client.blobs();
    let download = blobs.download_to(blob(), &mut writer, |_| ());
    soon(download).await.unwrap();
    assert_eq!(writer, picture(6));
}

#[tokio::test]
async fn a_thumbnail_is_a_variant_and_what_is_not_there_has_no_url() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let message = uploaded(&fake, &client, &picture(7)).await;
    let small = of(&message).variant(Variant::Small);
    let read = soon(client.blobs().read(small.clone())).await;
    assert_eq!(read.unwrap(), b"a small picture");
    let nothing = Download::blob("nothing");
    let urls = client.blobs().urls(&[small, nothing.clone()]).await;
    let urls = urls.unwrap();
    assert!(urls[0].url.starts_with("http://") && urls[1].url.is_empty());
    for missing in [nothing, of(&message).variant(Variant::Large)] {
        let error = soon(client.blobs().read(missing)).await.unwrap_err();
        assert_eq!(error.reason(), ErrorReason::BlobNotFound);
    }
}

#[tokio::test]
async fn a_message_has_its_attachments_at_once_on_other_devices_and_after_a_restart() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let dir = tempfile::tempdir().unwrap();
    let cache = SqliteCache::open(dir.path().join("cache")).await.unwrap();
    // Queued while the server refuses everybody, and sent by the next run of the app.
    let unavailable = status(Code::Unavailable, ErrorReason::Unavailable);
    fake.state.lock().on_hello = vec![unavailable; 10_000].into();
    let options = quick(Options::default().cache(cache.clone()));
    let (session, events) = client.connect(options).await.unwrap();
    let mut draft = Draft::default();
    for seed in [8, 9] {
        let upload = Upload::attachment(picture(seed));
        draft = draft.attach(&soon(client.blobs().upload(upload, |_| ())).await.unwrap());
    }
    let attachments: Vec<Attachment> = draft
        .attachments
        .iter()
        .map(|d| d.attachment.clone())
        .collect();
    session.send("a", draft).await.unwrap();
    session.close().await;
    drop((session, events));

    fake.state.lock().on_hello.clear();
    let options = quick(Options::default().cache(cache.clone()));
    let (session, mut events) = client.connect(options).await.unwrap();
    let told = soon(events.next_message()).await.unwrap();
    assert_eq!((told.text.as_str(), &told.attachments), ("", &attachments));
    let receipts = fake.seen().sends[0].1.attachment_receipts.clone();
    assert_eq!(fake.state.lock().blobs.attachments(&receipts), attachments);
    session.close().await;
    let kept = cache.messages("a", 0, 10).await.unwrap();
    assert_eq!(kept, std::slice::from_ref(&told));
    let (other, mut events) = connect(&fake, Options::from_beginning()).await;
    assert_eq!(soon(events.next_message()).await.unwrap(), told);
    other.close().await;
}

#[tokio::test]
async fn receipts_that_expired_are_renewed_and_there_is_one_message() {
    let fake = Fake::start().await;
    let (session, mut events) = connect(&fake, Options::default()).await;
    let expired = OnSend::Refuse(ErrorReason::ReceiptExpired);
    fake.state.lock().on_sends = vec![expired; 2].into();
    let sources = vec![picture(10).into(), picture(11).into()];
    let told = Told::default();
    let sending = session.send_attachments("a", "two", sources, told.callback());
    let receipt = soon(sending).await.unwrap();
    assert_eq!((receipt.seq, receipt.duplicate), (1, false));
    assert_eq!(
        told.0.lock().unwrap().last().unwrap().done_bytes,
        2 * BYTES as u64
    );
    assert!(
        told.0
            .lock()
            .unwrap()
            .iter()
            .all(|p| p.total_bytes == 2 * BYTES as u64)
    );
    let sends = fake.seen().sends;
    assert_eq!(sends.len(), 3);
    assert!(
        sends
            .iter()
            .all(|(_, s)| s.message_id == sends[0].1.message_id)
    );
    assert_ne!(
        sends[0].1.attachment_receipts,
        sends[2].1.attachment_receipts
    );
    let message = soon(events.next_message()).await.unwrap();
    assert_eq!(
        (message.text.as_str(), message.attachments.len()),
        ("two", 2)
    );
    assert_eq!(fake.state.lock().conversations["a"].len(), 1);
    assert_eq!(
        fake.state.lock().blobs.contents.len(),
        4,
        "two blobs, with thumbnails"
    );

    // The app may do the same by itself.
    fake.state.lock().on_sends.push_back(expired);
    let upload = Upload::attachment(picture(12));
    let blobs = session.client().blobs();
    let first = soon(blobs.upload(upload.clone(), |_| ())).await.unwrap();
    let mut refused = session
        .send("a", Draft::default().attach(&first))
        .await
        .unwrap();
    let error = soon(refused.sent()).await.unwrap_err();
    assert_eq!(error.reason(), ErrorReason::ReceiptExpired);
    assert_eq!(error.kind(), ErrorKind::Rejected);
    let again = soon(blobs.upload(upload, |_| ())).await.unwrap();
    let draft = Draft::default().attach(&again);
    let mut sent = session.send_again(&refused, draft.clone()).await.unwrap();
    // While it waits, there is nothing to be sent again.
    let waiting = session.send_again(&refused, draft).await.map(|_| ());
    assert_eq!(sent.message_id(), refused.message_id());
    assert_eq!(soon(sent.sent()).await.unwrap().seq, 2);
    if let Err(error) = waiting {
        assert_eq!(error.reason(), ErrorReason::RequestIdReused);
    }
    assert_eq!(fake.state.lock().conversations["a"].len(), 2);
}

#[tokio::test]
async fn after_a_lost_ack_the_attachments_are_those_of_the_conversation() {
    let fake = Fake::start().await;
    let (session, mut events) = connect(&fake, Options::default()).await;
    fake.state.lock().on_sends.push_back(OnSend::AcceptAndBreak);
    let sources = vec![picture(13).into()];
    let receipt = soon(session.send_attachments("a", "", sources, |_| ())).await;
    assert!(receipt.unwrap().duplicate);
    let message = soon(events.next_message()).await.unwrap();
    assert_eq!((message.seq, message.attachments.len()), (1, 1));
    assert_eq!(fake.state.lock().conversations["a"].len(), 1);
}

#[tokio::test]
async fn attachments_that_the_server_would_refuse_are_refused_at_once() {
    let fake = Fake::start().await;
    let (session, _events) = connect(&fake, Options::default()).await;
    let blobs = session.client().blobs();
    let upload = Upload::attachment(picture(14));
    let one = soon(blobs.upload(upload, |_| ())).await.unwrap();
    let draft = |count: usize, receipt_bytes: usize| {
        let mut draft = Draft::default();
        for number in 0..count {
            let mut other = one.clone();
            other.blob.blob_id = format!("blob-{number}");
            other.receipt = "r".repeat(receipt_bytes);
            draft = draft.attach(&other);
        }
        draft
    };
    let reason = async |draft: Draft| {
        session
            .send("a", draft)
            .await
            .map_err(|e| e.reason())
            .map(|_| ())
    };
    assert_eq!(reason(draft(10, 1_000)).await, Ok(()));
    assert_eq!(
        reason(draft(11, 10)).await,
        Err(ErrorReason::FieldOutOfRange)
    );
    assert_eq!(
        reason(draft(10, 2_048)).await,
        Err(ErrorReason::FieldOutOfRange)
    );
    assert_eq!(
        reason(draft(1, 2_049)).await,
        Err(ErrorReason::ReceiptInvalid)
    );
    assert_eq!(reason(draft(1, 0)).await, Err(ErrorReason::ReceiptInvalid));
    let mut twice = draft(1, 10);
    twice.attachments.push(twice.attachments[0].clone());
    assert_eq!(reason(twice).await, Err(ErrorReason::ReceiptInvalid));
    assert_eq!(
        reason(Draft::default()).await,
        Err(ErrorReason::FieldRequired)
    );
    let again = Draft::default().attach(&one).attach(&one);
    assert_eq!(again.attachments.len(), 1);
}

#[tokio::test]
async fn a_picture_of_a_profile_or_a_group_is_uploaded_for_that_purpose() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let profile = soon(client.set_profile_picture(picture(15), |_| ()))
        .await
        .unwrap();
    assert_eq!(profile.picture, "receipt-0");
    let same = ProfileUpdate {
        status_text: Some("away".to_owned()),
        ..ProfileUpdate::default()
    };
    assert_eq!(
        client.update_profile(same).await.unwrap().picture,
        "receipt-0"
    );
    assert_eq!(client.remove_profile_picture().await.unwrap().picture, "");
    let groups = client.groups();
    let group = groups.set_picture("1", picture(15), |_| ());
    assert_eq!(soon(group).await.unwrap().group.picture, "receipt-1");
    let state = fake.state.lock();
    let mut headers = state.blobs.headers.iter();
    assert!(headers.all(|header| header.purpose() == proto::blob::v1::Purpose::Picture));
}

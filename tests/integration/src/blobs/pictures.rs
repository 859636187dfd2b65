//! Pictures of profiles and groups: set by the receipt of an upload, seen by everybody.

use harness::{Device, TestServer, refused, request_id};
use proto::{
    blob::v1::Variant,
    error::v1::ErrorReason as R,
    groups::v1::{Group, GroupSettings, UpdateGroupRequest},
    profile::v1::{
        GetProfileRequest, Profile, UpdateProfileRequest, get_profile_request::By,
        profile_service_client::ProfileServiceClient,
    },
};
use tonic::Status;

use super::{Content, attach, blob, http::ask, jpeg, png, url};

pub(super) async fn set_picture(device: &Device, receipt: &str) -> Result<Profile, Status> {
    let mut calls = ProfileServiceClient::with_interceptor(device.channel(), device.bearer());
    let request = UpdateProfileRequest {
        picture_receipt: Some(receipt.to_owned()),
        ..UpdateProfileRequest::default()
    };
    let answer = calls.update_profile(request).await?.into_inner();
    Ok(answer.profile.expect("a profile"))
}

async fn profile_of(device: &Device, other: &Device) -> Profile {
    let mut calls = ProfileServiceClient::with_interceptor(device.channel(), device.bearer());
    let request = GetProfileRequest {
        by: Some(By::UserId(other.user_id.clone())),
    };
    let answer = calls.get_profile(request).await.unwrap().into_inner();
    answer.profile.expect("a profile")
}

pub(super) async fn set_group_picture(
    device: &Device,
    group: &Group,
    receipt: &str,
) -> Result<Group, Status> {
    let request = UpdateGroupRequest {
        request_id: request_id(),
        group_id: group.group_id.clone(),
        picture_receipt: Some(receipt.to_owned()),
        ..UpdateGroupRequest::default()
    };
    let answer = device.groups().update_group(request).await?.into_inner();
    Ok(answer.group.expect("a group"))
}

async fn shows(device: &Device, picture: &str, size_bytes: u64) -> bool {
    let url = url(device, picture, Variant::Original).await;
    let answer = ask("GET", &url.expect("everybody sees it"), &[]).await;
    let small = super::url(device, picture, Variant::Small).await;
    let small = ask("GET", &small.expect("everybody sees it"), &[]).await;
    answer.status == 200 && answer.body.len() as u64 == size_bytes && small.status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_of_a_profile_or_a_group_is_seen_by_others_by_its_id() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let stranger = server.user("stranger").await;
    let face = Content::picture(jpeg(1)).upload(&ada).await;
    let (id, size) = (&blob(&face).blob_id, blob(&face).size_bytes);
    assert_eq!(set_picture(&ada, &face.receipt).await.unwrap().picture, *id);
    let seen = profile_of(&grace, &ada).await;
    assert_eq!(seen.picture, *id);
    assert!(shows(&grace, id, size).await && shows(&stranger, id, size).await);
    // Away, and back with the same receipt.
    assert_eq!(set_picture(&ada, "").await.unwrap().picture, "");
    assert_eq!(profile_of(&grace, &ada).await.picture, "");
    assert_eq!(set_picture(&ada, &face.receipt).await.unwrap().picture, *id);

    let settings = GroupSettings::default();
    let (group, _) = ada.create_group("engines", &[&grace], settings).await;
    let sign = Content::picture(png(2)).upload(&ada).await;
    let (id, size) = (&blob(&sign).blob_id, blob(&sign).size_bytes);
    let group = set_group_picture(&ada, &group, &sign.receipt)
        .await
        .unwrap();
    assert_eq!(group.picture, *id);
    assert!(shows(&grace, id, size).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_good_for_its_owner_and_its_purpose_alone() {
    let server = TestServer::start().await;
    let (ada, mallory) = (server.user("ada").await, server.user("mallory").await);
    let face = Content::picture(jpeg(3)).upload(&ada).await;
    let attachment = Content::new(jpeg(3)).upload(&ada).await;
    // The same bytes for another purpose are another blob: others may see it.
    assert_ne!(blob(&face).blob_id, blob(&attachment).blob_id);
    let conversation = ada.with(&mallory);
    let settings = GroupSettings::default();
    let (hers, _) = ada.create_group("hers", &[&mallory], settings).await;
    let (his, _) = mallory.create_group("his", &[&ada], settings).await;

    let mut forged = face.receipt.clone();
    let last = if forged.ends_with('A') { 'B' } else { 'A' };
    forged.pop();
    forged.push(last);
    let long = "x".repeat(2_049);
    for (who, group, bad) in [
        (&mallory, &his, face.receipt.as_str()),
        (&ada, &hers, &attachment.receipt),
        (&ada, &hers, &forged),
        (&ada, &hers, "nonsense"),
        (&ada, &hers, &long),
    ] {
        refused(set_picture(who, bad).await).is(R::ReceiptInvalid, "picture_receipt");
        let refusal = refused(set_group_picture(who, group, bad).await);
        refusal.is(R::ReceiptInvalid, "picture_receipt");
    }
    for (who, bad) in [
        (&mallory, vec![attachment.receipt.as_str()]),
        (&ada, vec![&face.receipt]),
        (&ada, vec![&forged]),
        (&ada, vec![&attachment.receipt, &attachment.receipt]),
    ] {
        let refusal = refused(attach(who, &conversation, &bad).await);
        assert_eq!(refusal.reason, R::ReceiptInvalid, "{refusal:?}");
        assert!(
            refusal.field.starts_with("attachment_receipts"),
            "{refusal:?}"
        );
    }
    // Nothing of it has changed anything.
    assert_eq!(profile_of(&ada, &mallory).await.picture, "");
    assert_eq!(profile_of(&mallory, &ada).await.picture, "");
    let seq = attach(&ada, &conversation, &[&attachment.receipt]).await;
    assert_eq!(seq.unwrap(), 1);
}

use std::sync::{Arc, atomic::Ordering};

use prost::Message;
use proto::{
    error::v1::ErrorReason,
    log::v1::{UsersRecord, users_record::Fact},
    profile::v1::{ListDevicesRequest, LogOutDeviceRequest},
};
use runtime::ids::{DeviceId, UserId};

use super::harness::*;

async fn log_out(server: &Server, token: &str, device_id: &str) {
    let request = LogOutDeviceRequest {
        device_id: device_id.to_owned(),
    };
    let answer = server
        .accounts()
        .log_out_device(with_token(token, request))
        .await;
    read(answer).unwrap();
}

#[tokio::test]
async fn a_device_that_is_logged_out_is_told_to_the_log_once() {
    let server = Server::start().await;
    let phone = server.register("ann").await;
    let laptop = server.log_in(credentials("ann", PASSWORD)).await.unwrap();
    let token = phone.tokens.clone().unwrap().access_token;
    log_out(&server, &token, &laptop.device_id).await;
    log_out(&server, &token, &laptop.device_id).await;
    // One that never was, and another user's, are no facts either.
    log_out(&server, &token, &DeviceId::generate().to_string()).await;
    let stranger = server.register("eve").await;
    log_out(&server, &token, &stranger.device_id).await;
    let refreshed = server
        .refresh(&stranger.tokens.unwrap().refresh_token)
        .await;
    assert!(refreshed.is_ok());
    // Without an id, the device itself.
    log_out(&server, &token, "").await;

    let user_id = UserId::parse(&phone.profile.unwrap().user_id).unwrap();
    let records = server.log.records(2).await;
    for (record, device_id) in records.iter().zip([&laptop.device_id, &phone.device_id]) {
        assert_eq!(record.key, user_id.as_bytes().as_slice());
        let read = UsersRecord::decode(record.payload.clone()).unwrap();
        assert_eq!(read.schema_version, 1);
        assert!(read.fact_number > 0);
        assert_eq!(read.user_id, user_id.as_bytes());
        let Some(Fact::DeviceRevoked(revoked)) = read.fact else {
            panic!("another fact");
        };
        let device_id = DeviceId::parse(device_id).unwrap();
        assert_eq!(revoked.device_id, device_id.as_bytes());
    }
    assert_eq!(records.len(), 2);

    for gone in [laptop.tokens, phone.tokens] {
        let token = gone.unwrap().refresh_token;
        assert_eq!(
            reason(server.refresh(&token).await),
            ErrorReason::DeviceRevoked
        );
    }
    // The access token is good until it expires, and shows that nothing is logged in.
    let devices = server
        .accounts()
        .list_devices(with_token(&token, ListDevicesRequest {}))
        .await;
    assert_eq!(read(devices).unwrap().devices, []);
}

#[tokio::test]
async fn a_fact_waits_for_the_log_also_over_a_restart() {
    let server = Server::start().await;
    let token = server.register("ann").await.tokens.unwrap().access_token;
    server.log.failing.store(true, Ordering::SeqCst);
    log_out(&server, &token, "").await;
    // The answer did not wait for the log, which refuses again and again.
    let mut appends = server.log.appends.subscribe();
    let refused = appends.wait_for(|appends| *appends >= 2);
    tokio::time::timeout(SOON, refused).await.unwrap().unwrap();
    assert_eq!(server.store.facts(10).await.unwrap().len(), 1);
    assert!(server.tasks.stop(SOON).await);

    let (folder, clock) = (server.folder.clone().unwrap(), server.clock.clone());
    drop(server);
    let log = Arc::<TestLog>::default();
    let server = Server::over(Server::config(), folder, log, clock).await;
    assert_eq!(server.log.records(1).await.len(), 1);
    let empty = async {
        while !server.store.facts(10).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, empty).await.unwrap();
}

#[tokio::test]
async fn a_log_that_recovers_gets_what_it_missed() {
    let server = Server::start().await;
    server.log.failing.store(true, Ordering::SeqCst);
    for name in ["ann", "bob", "cid"] {
        let token = server.register(name).await.tokens.unwrap().access_token;
        log_out(&server, &token, "").await;
    }
    server.log.failing.store(false, Ordering::SeqCst);
    assert_eq!(server.log.records(3).await.len(), 3);
}

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::error::v1::ErrorReason;
use runtime::clock::Clock;

use super::harness::*;

const GRACE_MS: i64 = 30_000;

async fn first_token(server: &Server) -> String {
    server.register("ann").await.tokens.unwrap().refresh_token
}

/// A token of the same device, made by somebody who knows the ids only.
fn forged(token: &str) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
    bytes[32..].fill(7);
    URL_SAFE_NO_PAD.encode(bytes)
}

#[tokio::test]
async fn a_refresh_token_is_used_up_and_its_successor_goes_on() {
    let server = Server::start().await;
    let mut token = first_token(&server).await;
    for _ in 0..5 {
        server.clock.advance(20 * 60_000);
        let now = server.clock.now_unix_ms();
        let tokens = server.refresh(&token).await.unwrap();
        assert!(server.verifier.verify(&tokens.access_token).is_ok());
        assert_eq!(tokens.refresh_expires_unix_ms, now + 60 * 24 * 3_600_000);
        assert_ne!(tokens.refresh_token, token);
        token = tokens.refresh_token;
    }
}

#[tokio::test]
async fn a_token_whose_successor_was_used_logs_the_device_out() {
    let server = Server::start().await;
    let first = first_token(&server).await;
    let second = server.refresh(&first).await.unwrap().refresh_token;
    let third = server.refresh(&second).await.unwrap().refresh_token;
    // Within the grace, but its successor was used.
    let reused = server.refresh(&first).await;
    assert_eq!(reason(reused), ErrorReason::RefreshTokenReused);
    assert_eq!(
        reason(server.refresh(&third).await),
        ErrorReason::DeviceRevoked
    );
    assert_eq!(server.log.records(1).await.len(), 1);
}

#[tokio::test]
async fn a_token_of_long_ago_is_recognised() {
    let server = Server::start().await;
    let first = first_token(&server).await;
    let mut token = first.clone();
    for _ in 0..40 {
        token = server.refresh(&token).await.unwrap().refresh_token;
    }
    server.clock.advance(50 * 24 * 3_600_000);
    assert_eq!(
        reason(server.refresh(&first).await),
        ErrorReason::RefreshTokenReused
    );
}

#[tokio::test]
async fn a_lost_answer_is_made_good_for_half_a_minute() {
    let server = Server::start().await;
    let first = first_token(&server).await;
    let lost = server.refresh(&first).await.unwrap().refresh_token;
    server.clock.advance(GRACE_MS - 1);
    let again = server.refresh(&first).await.unwrap().refresh_token;
    assert_ne!(again, lost);
    let third = server.refresh(&again).await.unwrap().refresh_token;
    // Now the one that was lost turns up: there are two holders.
    assert_eq!(
        reason(server.refresh(&lost).await),
        ErrorReason::RefreshTokenReused
    );
    assert_eq!(
        reason(server.refresh(&third).await),
        ErrorReason::DeviceRevoked
    );
}

#[tokio::test]
async fn half_a_minute_counts_from_the_first_use() {
    let server = Server::start().await;
    let first = first_token(&server).await;
    server.refresh(&first).await.unwrap();
    server.clock.advance(GRACE_MS - 1);
    server.refresh(&first).await.unwrap();
    server.clock.advance(1);
    assert_eq!(
        reason(server.refresh(&first).await),
        ErrorReason::RefreshTokenReused
    );
}

#[tokio::test]
async fn after_half_a_minute_a_second_use_is_theft() {
    let server = Server::start().await;
    let first = first_token(&server).await;
    let second = server.refresh(&first).await.unwrap().refresh_token;
    server.clock.advance(GRACE_MS);
    assert_eq!(
        reason(server.refresh(&first).await),
        ErrorReason::RefreshTokenReused
    );
    assert_eq!(
        reason(server.refresh(&second).await),
        ErrorReason::DeviceRevoked
    );
}

#[tokio::test]
async fn a_device_that_asks_twice_at_once_stays_logged_in() {
    let server = Server::start().await;
    let first = first_token(&server).await;
    let calls = (0..3).map(|_| server.refresh(&first));
    let mut successors = Vec::new();
    for answer in futures_util::future::join_all(calls).await {
        successors.push(answer.unwrap().refresh_token);
    }
    // Whichever it kept is good.
    server.refresh(successors.first().unwrap()).await.unwrap();
}

#[tokio::test]
async fn successors_of_one_token_are_bounded() {
    let server = Server::start().await;
    let first = first_token(&server).await;
    let mut last = String::new();
    for _ in 0..8 {
        last = server.refresh(&first).await.unwrap().refresh_token;
    }
    let error = server.refresh(&first).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::RateLimited);
    assert!(error.retry_after.is_some());
    server.refresh(&last).await.unwrap();
}

#[tokio::test]
async fn a_forged_or_expired_token_is_refused_and_harms_no_device() {
    let server = Server::start().await;
    let token = first_token(&server).await;
    for bad in [
        "x".to_owned(),
        "?".repeat(token.len()),
        forged(&token),
        token.repeat(2),
    ] {
        let error = server.refresh(&bad).await.unwrap_err();
        assert_eq!(error.reason, ErrorReason::TokenInvalid);
        assert_eq!(error.field, "refresh_token");
    }
    let empty = server.refresh("").await.unwrap_err();
    assert_eq!(empty.reason, ErrorReason::FieldRequired);
    let token = server.refresh(&token).await.unwrap().refresh_token;
    server.clock.advance(60 * 24 * 3_600_000);
    assert_eq!(
        reason(server.refresh(&token).await),
        ErrorReason::TokenInvalid
    );
}

//! Every method of every service, without a token and with the wrong one.

use std::collections::BTreeSet;

use bytes::Bytes;
use harness::{Refusal, TestServer, call_raw, connect};
use prost::Message;
use prost_types::FileDescriptorSet;
use proto::error::v1::ErrorReason as R;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

/// What needs no token.
const PUBLIC: [&str; 3] = [
    "/messenger.profile.v1.AccountService/Register",
    "/messenger.profile.v1.AccountService/LogIn",
    "/messenger.profile.v1.AccountService/Refresh",
];
/// What only services may call, by their comments in the contract.
const INTERNAL: [&str; 7] = [
    "/messenger.blob.v1.ContentService/",
    "/messenger.groups.v1.DirectoryService/",
    "/messenger.messaging.v1.EdgeService/",
    "/messenger.messaging.v1.InboxService/",
    "/messenger.notifier.v1.EmailReportService/",
    "/messenger.presence.v1.RegistryService/",
    "/messenger.profile.v1.AccountService/ListPublicKeys",
];

/// The paths of all methods, and the names of all services, of the contract.
fn methods() -> (Vec<String>, BTreeSet<String>) {
    let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let (mut paths, mut services) = (Vec::new(), BTreeSet::new());
    for file in &files.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            let of_service = service.method.iter();
            paths.extend(of_service.map(|method| format!("/{name}/{}", method.name())));
            services.insert(name);
        }
    }
    assert!(paths.len() > 20, "the test sees only {paths:?}");
    (paths, services)
}

#[tokio::test]
async fn every_method_needs_a_token_but_the_ones_that_give_one() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let channel = connect(&server.url());
    let token = ada.tokens.access_token.as_str();
    // Another character in the middle of the signature.
    let at = token.rfind('.').unwrap() + 20;
    let turned = if &token[at..=at] == "A" { "B" } else { "A" };
    let forged = format!("{}{turned}{}", &token[..at], &token[at + 1..]);
    let bad = [
        (None, R::TokenMissing),
        (Some(""), R::TokenInvalid),
        (Some("x"), R::TokenInvalid),
        (Some(forged.as_str()), R::TokenInvalid),
        (Some(ada.tokens.refresh_token.as_str()), R::TokenInvalid),
    ];
    for path in methods().0 {
        let public = PUBLIC.contains(&path.as_str());
        for (token, reason) in bad {
            let answer = call_raw(channel.clone(), &path, token, Bytes::new()).await;
            let status = answer.expect_err(&path);
            if public {
                // Not the token is at fault.
                let refusal = Refusal::from(&status);
                assert_ne!(refusal.reason, reason, "{path}");
                assert_ne!(refusal.reason, R::TokenMissing, "{path}");
            } else {
                let refusal = Refusal::from(&status);
                assert_eq!(refusal.reason, reason, "{path} with {token:?}");
                assert_eq!(refusal.code, Code::Unauthenticated, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_user_is_not_a_service() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let channel = connect(&server.url());
    let token = Some(ada.tokens.access_token.as_str());
    let mut internal = 0;
    for path in methods().0 {
        let is_internal = INTERNAL.iter().any(|prefix| path.starts_with(prefix));
        internal += usize::from(is_internal);
        if is_internal {
            let answer = call_raw(channel.clone(), &path, token, Bytes::new()).await;
            Refusal::from(&answer.expect_err(&path)).is(R::CallerNotAllowed, "");
        }
    }
    assert!(internal >= 5, "the test sees only {internal} methods");
    // And all others let a user in: what they say is not about who asks.
    for path in methods().0 {
        let is_internal = INTERNAL.iter().any(|prefix| path.starts_with(prefix));
        let is_session = path.ends_with("SessionService/Session");
        if is_internal || is_session || path.ends_with("LogOutDevice") {
            continue;
        }
        let answer = call_raw(channel.clone(), &path, token, Bytes::new()).await;
        if let Err(status) = answer {
            let of_caller = [
                Code::Unauthenticated,
                Code::PermissionDenied,
                Code::Unimplemented,
            ];
            assert!(!of_caller.contains(&status.code()), "{path}: {status:?}");
            assert_ne!(
                Refusal::from(&status).reason,
                R::Unspecified,
                "{path}: {status:?}"
            );
        }
    }
    // What is not there is not there, and nobody without a token learns more.
    for path in [
        "/messenger.messaging.v1.MessagingService/Nothing",
        "/a.B/C",
        "/",
    ] {
        let answer = call_raw(channel.clone(), path, token, Bytes::new()).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{path}");
        let answer = call_raw(channel.clone(), path, None, Bytes::new()).await;
        let code = answer.unwrap_err().code();
        assert!(
            [Code::Unimplemented, Code::Unauthenticated].contains(&code),
            "{path}: {code}"
        );
    }
}

#[tokio::test]
async fn everybody_may_ask_what_there_is_and_whether_it_serves() {
    let server = TestServer::start().await;
    let channel = connect(&server.url());
    let services = methods().1;
    let mut health = HealthClient::new(channel.clone());
    for service in services.iter().map(String::as_str).chain([""]) {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let request = HealthCheckRequest {
        service: "no.such.Service".to_owned(),
    };
    assert_eq!(
        health.check(request).await.unwrap_err().code(),
        Code::NotFound
    );

    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut reflection = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let answer = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let answer = answer
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("no list: {answer:?}");
    };
    let listed: BTreeSet<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert!(listed.is_superset(&services), "{listed:?}");
    assert!(listed.contains("grpc.health.v1.Health"));

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let mut reflection = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answer = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let answer = answer
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let Some(v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("no list: {answer:?}");
    };
    let listed: BTreeSet<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert!(listed.is_superset(&services), "{listed:?}");
}

use prost::Message;
use prost_types::FileDescriptorSet;
use proto::{error::v1::ErrorReason, profile::v1::ListPublicKeysRequest};
use runtime::{auth::Access, status::read_status};
use tonic::{Code, Status, transport::Channel};
use tonic_prost::ProstCodec;

use super::harness::*;
use crate::{SERVICES, policy};

/// Every method of the services, as a path.
fn methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap().file;
    let mut paths = Vec::new();
    for file in files {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            if SERVICES.contains(&name.as_str()) {
                paths.extend(
                    service
                        .method
                        .iter()
                        .map(|m| format!("/{name}/{}", m.name())),
                );
            }
        }
    }
    paths
}

async fn call_empty(channel: &Channel, path: &str, token: Option<&str>) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let request = match token {
        Some(token) => with_token(token, ()),
        None => tonic::Request::new(()),
    };
    let codec = ProstCodec::<(), ()>::default();
    let answer = client.unary(request, path.parse().unwrap(), codec).await;
    answer.map(|_| ())
}

#[tokio::test]
async fn every_method_asks_for_a_token_but_the_three_that_give_one() {
    let server = Server::start().await;
    let methods = methods();
    assert_eq!(methods.len(), 10);
    for path in methods {
        let answer = call_empty(&server.channel, &path, None).await;
        let error = read_status(&answer.unwrap_err()).reason;
        let gives_tokens = ["/Register", "/LogIn", "/Refresh"];
        if gives_tokens.iter().any(|method| path.ends_with(method)) {
            assert_eq!(error, ErrorReason::FieldRequired, "{path}");
        } else {
            assert_eq!(error, ErrorReason::TokenMissing, "{path}");
        }
        assert!(policy(&path).is_some(), "{path}");
    }
}

#[tokio::test]
async fn each_method_is_for_its_kind_of_caller_only() {
    let server = Server::start().await;
    let user = server.register("ann").await.tokens.unwrap().access_token;
    let service = server.service.bearer().unwrap();
    let service = service
        .to_str()
        .unwrap()
        .trim_start_matches("Bearer ")
        .to_owned();
    for path in methods() {
        let refused = match policy(&path).unwrap() {
            Access::User => &service,
            Access::Service => &user,
            Access::Public | Access::Any => continue,
        };
        let answer = call_empty(&server.channel, &path, Some(refused)).await;
        let error = read_status(&answer.unwrap_err()).reason;
        assert_eq!(error, ErrorReason::CallerNotAllowed, "{path}");
    }
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_said_to_everybody() {
    let server = Server::start().await;
    let path = "/messenger.profile.v1.AccountService/DeleteEverything";
    let status = call_empty(&server.channel, path, None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn services_get_the_keys_that_verify_what_users_get() {
    let server = Server::start().await;
    let token = server.register("ann").await.tokens.unwrap().access_token;
    let bearer = server.service.bearer().unwrap();
    let bearer = bearer.to_str().unwrap().trim_start_matches("Bearer ");
    let mut accounts = server.accounts();
    let keys = accounts.list_public_keys(with_token(bearer, ListPublicKeysRequest {}));
    let keys = keys.await.unwrap().into_inner().keys;
    let stranger = runtime::auth::KeyPair::generate().unwrap().public();
    let verifier = runtime::auth::Verifier::new(std::sync::Arc::new(server.clock), stranger);
    let keys = keys.into_iter().map(|key| runtime::auth::UserKey {
        key_id: key.key_id,
        pem: key.pem,
    });
    verifier.set_user_keys(keys.collect()).unwrap();
    assert!(verifier.verify(&token).is_ok());
}

#[tokio::test]
async fn a_process_learns_the_keys_by_itself() {
    let server = Server::start().await;
    let token = server.register("ann").await.tokens.unwrap().access_token;
    let service_key = runtime::auth::KeyPair::generate().unwrap().public();
    let clock = std::sync::Arc::new(server.clock.clone());
    let verifier = runtime::auth::Verifier::new(clock, service_key);
    let profile = server.service.on(server.channel.clone());
    runtime::auth::keep_user_keys(verifier.clone(), profile, &server.tasks);
    let learnt = async {
        while verifier.verify(&token).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, learnt).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_next_or_was_last_is_published_with_the_one_that_signs() {
    let next = runtime::auth::KeyPair::generate().unwrap();
    let server = Server::with(crate::Config {
        // Once is enough, also when the settings say it twice.
        verification_keys: vec![next.public_pem().to_owned(); 2],
        ..Server::config()
    })
    .await;
    let caller = runtime::auth::UserCaller {
        user_id: runtime::ids::UserId::generate(),
        device_id: runtime::ids::DeviceId::generate(),
        issued_unix_ms: NOW,
        expires_unix_ms: NOW + 60_000,
    };
    let of_next = next.sign_user(&caller).unwrap();
    assert!(server.verifier.verify(&of_next).is_ok());
    let own = server.register("ann").await.tokens.unwrap().access_token;
    assert!(server.verifier.verify(&own).is_ok());
    let bearer = server.service.bearer().unwrap();
    let bearer = bearer.to_str().unwrap().trim_start_matches("Bearer ");
    let mut accounts = server.accounts();
    let keys = accounts.list_public_keys(with_token(bearer, ListPublicKeysRequest {}));
    let keys = keys.await.unwrap().into_inner().keys;
    let ids: Vec<&str> = keys.iter().map(|key| key.key_id.as_str()).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[1], next.key_id());
}

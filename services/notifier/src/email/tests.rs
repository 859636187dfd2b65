//! Addresses that are given, on a real mail server and a real store.

use governor::{Quota, RateLimiter, clock::MonotonicClock, state::keyed::DashMapStateStore};

use super::*;
use crate::{digest::tests::World, providers::Providers};

fn service(world: &World) -> Service {
    let quota = Quota::per_second(std::num::NonZeroU32::MAX);
    Service {
        store: world.replicas[0].store.clone(),
        clock: std::sync::Arc::new(world.clock.clone()),
        providers: Providers::default(),
        mail: Some(world.replicas[0].post.clone()),
        calls: RateLimiter::new(quota, DashMapStateStore::default(), MonotonicClock),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gives_an_address_that_takes_no_mail_keeps_the_one_that_he_has() {
    let mut world = World::start(1).await;
    let service = service(&world);
    let user = world.user("ann@example.org").await;
    let before = world.store().email(user).await.unwrap();
    for (address, reason) in [
        ("nobody@example.org", ErrorReason::FieldMalformed),
        ("full@example.org", ErrorReason::Unavailable),
        ("policy@example.org", ErrorReason::Unavailable),
    ] {
        let error = service.set_email(user, address).await.unwrap_err();
        assert_eq!(error.reason, reason, "{address}");
        assert_eq!(world.store().email(user).await.unwrap(), before);
    }
    world.smtp.kill().unwrap();
    assert!(service.set_email(user, "bob@example.org").await.is_err());
    assert_eq!(world.store().email(user).await.unwrap(), before);
    world.smtp.start_again().unwrap();
    while world.replicas[0].post.pause().is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let given = service.set_email(user, "bob@example.org").await.unwrap();
    assert_eq!(
        (given.address.as_str(), given.confirmed),
        ("bob@example.org", false)
    );
    // Those that nobody took have counted too.
    let many = service.set_email(user, "cid@example.org").await;
    assert_eq!(many.unwrap_err().reason, ErrorReason::TooManyAttempts);
    assert_eq!(world.mails().len(), 1);
}

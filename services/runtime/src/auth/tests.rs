use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;
use crate::{
    clock::{Clock, ManualClock},
    ids::{DeviceId, UserId},
};

const NOW: i64 = 1_800_000_000_000;
const MINUTE: i64 = 60_000;

struct Setup {
    clock: ManualClock,
    user_key: KeyPair,
    service_key: KeyPair,
    verifier: Verifier,
}

fn setup() -> Setup {
    let clock = ManualClock::at(NOW);
    let (user_key, service_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let verifier = Verifier::new(Arc::new(clock.clone()), service_key.public());
    verifier.set_user_keys(vec![user_key.user_key()]).unwrap();
    Setup {
        clock,
        user_key,
        service_key,
        verifier,
    }
}

fn a_user() -> UserCaller {
    UserCaller {
        user_id: UserId::generate(),
        device_id: DeviceId::generate(),
        issued_unix_ms: NOW,
        expires_unix_ms: NOW + 15 * MINUTE,
    }
}

fn reason(result: Result<Caller, ApiError>) -> ErrorReason {
    result.unwrap_err().reason
}

fn json(claims: &str, header: &str) -> String {
    format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    )
}

fn claims(user: &UserCaller, audience: &str, issuer: &str) -> serde_json::Value {
    serde_json::json!({
        "sub": user.user_id.to_string(), "dev": user.device_id.to_string(), "iss": issuer,
        "aud": audience, "iat": NOW / 1_000, "exp": (NOW + 15 * MINUTE) / 1_000,
    })
}

#[test]
fn a_token_says_whose_it_is_until_the_moment_it_expires() {
    let s = setup();
    let user = a_user();
    let token = s.user_key.sign_user(&user).unwrap();
    // Twice: decoded, then remembered.
    for _ in 0..2 {
        assert_eq!(s.verifier.verify(&token).unwrap(), Caller::User(user));
    }
    s.clock.set(user.expires_unix_ms - 1);
    assert_eq!(s.verifier.verify(&token).unwrap(), Caller::User(user));
    s.clock.set(user.expires_unix_ms);
    for _ in 0..2 {
        assert_eq!(reason(s.verifier.verify(&token)), ErrorReason::TokenExpired);
    }
}

#[test]
fn only_our_keys_with_our_algorithm_are_believed() {
    let s = setup();
    let user = a_user();
    let good = s.user_key.sign_user(&user).unwrap();
    let stranger = KeyPair::generate().unwrap();
    let kid = s.user_key.key_id();

    let (signed, signature) = good.rsplit_once('.').unwrap();
    let payload = claims(&user, AUDIENCE_USER, ISSUER_USER);
    let none = json(
        &payload.to_string(),
        &format!(r#"{{"alg":"none","typ":"JWT","kid":"{kid}"}}"#),
    );
    // The public key used as the secret of a symmetric algorithm.
    let hmac = jsonwebtoken::encode(
        &Header {
            kid: Some(kid.to_owned()),
            ..Header::new(Algorithm::HS256)
        },
        &payload,
        &EncodingKey::from_secret(s.user_key.public_pem().as_bytes()),
    )
    .unwrap();
    // Signed by a stranger who names our key.
    let renamed = {
        let other = stranger.sign(&payload).unwrap();
        let (_, rest) = other.split_once('.').unwrap();
        let (header, _) = good.split_once('.').unwrap();
        format!("{header}.{rest}")
    };
    let mut other_user = payload.clone();
    other_user["sub"] = UserId::generate().to_string().into();
    let (header, _) = good.split_once('.').unwrap();
    let swapped = format!(
        "{header}.{}.{signature}",
        URL_SAFE_NO_PAD.encode(other_user.to_string())
    );
    for bad in [
        String::new(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        signed.to_owned(),
        format!("{signed}."),
        format!("{signed}.AAAA"),
        format!("{none}."),
        format!("{none}.{signature}"),
        hmac,
        stranger.sign_user(&user).unwrap(),
        renamed,
        swapped,
        "x".repeat(100_000),
    ] {
        assert_eq!(
            reason(s.verifier.verify(&bad)),
            ErrorReason::TokenInvalid,
            "{}",
            bad.chars().take(300).collect::<String>()
        );
    }
    assert!(s.verifier.verify(&good).is_ok());
}

#[test]
fn a_users_token_is_never_a_services_and_the_reverse() {
    let s = setup();
    let user = a_user();
    let bad = [
        // The right key, another audience or maker.
        s.user_key
            .sign(&claims(&user, AUDIENCE_SERVICE, ISSUER_USER)),
        s.user_key.sign(&claims(&user, "elsewhere", ISSUER_USER)),
        s.user_key.sign(&claims(&user, AUDIENCE_USER, "somebody")),
        // A service that makes a token for a user, or for users.
        s.service_key
            .sign(&claims(&user, AUDIENCE_USER, ISSUER_USER)),
        s.service_key.sign_user(&user),
    ];
    for token in bad {
        let result = s.verifier.verify(&token.unwrap());
        assert_eq!(reason(result), ErrorReason::TokenInvalid);
    }
    // A key of users does not make services.
    let clock: Arc<dyn Clock> = Arc::new(s.clock.clone());
    let false_service = ServiceIdentity::new("messaging", s.user_key.clone(), clock);
    let bearer = false_service.bearer().unwrap();
    let token = bearer.to_str().unwrap().trim_start_matches("Bearer ");
    assert_eq!(reason(s.verifier.verify(token)), ErrorReason::TokenInvalid);
}

#[test]
fn a_claim_that_is_missing_is_not_taken_for_granted() {
    let s = setup();
    for claim in ["sub", "dev", "iss", "aud", "exp", "iat"] {
        let mut claims = claims(&a_user(), AUDIENCE_USER, ISSUER_USER);
        claims.as_object_mut().unwrap().remove(claim);
        let token = s.user_key.sign(&claims).unwrap();
        assert_eq!(reason(s.verifier.verify(&token)), ErrorReason::TokenInvalid);
    }
}

#[test]
fn a_key_that_is_taken_away_is_good_for_nothing_also_for_what_was_verified_before() {
    let s = setup();
    let token = s.user_key.sign_user(&a_user()).unwrap();
    assert!(s.verifier.verify(&token).is_ok());
    let new = KeyPair::generate().unwrap();
    s.verifier
        .set_user_keys(vec![new.user_key(), s.user_key.user_key()])
        .unwrap();
    assert!(s.verifier.verify(&token).is_ok());
    s.verifier.set_user_keys(vec![new.user_key()]).unwrap();
    assert_eq!(reason(s.verifier.verify(&token)), ErrorReason::TokenInvalid);
    // Keys that cannot be read change nothing.
    let broken = UserKey {
        key_id: "k".to_owned(),
        pem: "not a key".to_owned(),
    };
    assert!(s.verifier.set_user_keys(vec![broken]).is_err());
    let token = new.sign_user(&a_user()).unwrap();
    assert!(s.verifier.verify(&token).is_ok());
}

#[test]
fn before_the_keys_are_known_a_token_is_not_called_wrong() {
    let s = setup();
    let fresh = Verifier::new(Arc::new(s.clock), s.service_key.public());
    let token = s.user_key.sign_user(&a_user()).unwrap();
    assert_eq!(reason(fresh.verify(&token)), ErrorReason::Unavailable);
}

#[test]
fn a_service_renews_its_token_before_it_ends() {
    let s = setup();
    let clock: Arc<dyn Clock> = Arc::new(s.clock.clone());
    let identity = ServiceIdentity::new("messaging", s.service_key.clone(), clock);
    let verify = |bearer: &tonic::metadata::MetadataValue<_>| {
        let text = bearer.to_str().unwrap().to_owned();
        s.verifier.verify(text.trim_start_matches("Bearer "))
    };
    let first = identity.bearer().unwrap();
    let name = "messaging".into();
    assert_eq!(
        verify(&first).unwrap(),
        Caller::Service(ServiceCaller { name })
    );
    s.clock.advance(4 * MINUTE - 1);
    assert_eq!(identity.bearer().unwrap(), first);
    s.clock.advance(1);
    let second = identity.bearer().unwrap();
    assert_ne!(second, first);
    s.clock.advance(MINUTE);
    assert_eq!(reason(verify(&first)), ErrorReason::TokenExpired);
    assert!(verify(&second).is_ok());
}

#[test]
fn a_key_survives_a_restart_and_is_its_owners_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys").join("user.pem");
    let made = KeyPair::load_or_create(&path).unwrap();
    let read = KeyPair::load_or_create(&path).unwrap();
    assert_eq!(made.key_id(), read.key_id());
    assert_eq!(made.public_pem(), read.public_pem());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Nothing is left beside it, and a broken file is said, not replaced.
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1
    );
    std::fs::write(&path, "broken").unwrap();
    assert!(matches!(
        KeyPair::load_or_create(&path),
        Err(KeyError::Malformed(_))
    ));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "broken");
}

use uuid::Uuid;

use super::*;

/// Sends that may wait for their answers.
const IN_FLIGHT_MAX: usize = 100;

fn away() -> ApiError {
    ApiError::new(ErrorReason::Unavailable, "the log is away")
}

#[test]
fn a_send_that_fails_late_is_not_overtaken_by_one_that_was_refused_before() {
    let user = |number| UserId::parse(&Uuid::from_u128(number).to_string()).unwrap();
    let device = DeviceId::parse(&Uuid::from_u128(3).to_string()).unwrap();
    let conversation = ConversationId::direct(user(1), user(2)).unwrap();
    let message = |number| MessageId::parse(&Uuid::from_u128(number).to_string()).unwrap();
    let session = Session::new(1, user(1), device, i64::MAX);
    let admit = |number| session.admit(0, conversation, message(number), IN_FLIGHT_MAX);
    let [first, second, third] = [1, 2, 3].map(|number| admit(number).unwrap());
    // The fourth comes when the first is known to have failed, and the others are not yet.
    session.not_appended(first, &away());
    assert!(admit(4).is_err());
    session.not_appended(second, &away());
    session.not_appended(third, &away());
    // So it is retried after those before it, and no sooner.
    assert!(admit(4).is_err());
    assert!(admit(3).is_err());
    admit(1).unwrap();
    assert!(admit(4).is_err());
    assert!(admit(3).is_err());
    admit(2).unwrap();
    assert!(admit(4).is_err());
    admit(3).unwrap();
    admit(4).unwrap();
    admit(5).unwrap();
}

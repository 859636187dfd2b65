use super::*;

#[test]
fn a_direct_conversation_is_the_same_from_both_sides() {
    let (a, b) = (UserId::generate(), UserId::generate());
    let id = ConversationId::direct(a, b).unwrap();
    assert_eq!(id, ConversationId::direct(b, a).unwrap());
    assert_eq!(ConversationId::parse(&id.to_string()).unwrap(), id);
    assert_eq!(ConversationId::from_slice(id.as_bytes()).unwrap(), id);
    assert_eq!(id.peer_of(a), Some(b));
    assert_eq!(id.peer_of(UserId::generate()), None);
    assert!(ConversationId::direct(a, a).is_err());
}

#[test]
fn an_id_has_one_form_only() {
    let (a, b) = (UserId::generate(), UserId::generate());
    let swapped = format!("d:{b}:{a}");
    assert!(ConversationId::parse(&swapped).is_err());
    for bad in [
        "",
        "d:",
        "é",
        &"é".repeat(40),
        &"x".repeat(75),
        &swapped[1..],
    ] {
        assert!(ConversationId::parse(bad).is_err(), "{bad}");
        assert!(UserId::parse(bad).is_err(), "{bad}");
    }
    assert!(UserId::parse("00000000-0000-0000-0000-000000000000").is_err());
    assert!(UserId::from_slice(&[0; 16]).is_err());
}

use super::*;

#[test]
fn no_more_frames_than_the_server_allows_and_no_wait_for_nothing() {
    let start = Instant::now();
    let mut pacer = Pacer::new(100, 50, start);
    let mut now = start;
    let mut sent = 0;
    while now < start + Duration::from_secs(10) {
        if pacer.has_room(now) {
            pacer.spend();
            sent += 1;
            assert!(sent <= 1_050, "too many");
        } else {
            let room_at = pacer.room_at();
            assert!(room_at > now);
            now = room_at;
            assert!(pacer.has_room(now));
        }
    }
    assert!(sent >= 900, "{sent}");
}

#[test]
fn without_a_limit_there_is_always_room() {
    let now = Instant::now();
    let mut pacer = Pacer::new(0, 0, now);
    for _ in 0..10_000 {
        assert!(pacer.has_room(now));
        pacer.spend();
    }
}

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::future::join_all;
use runtime::{
    clock::ManualClock,
    ids::{ConversationId, UserId},
};

use super::*;
use crate::{model::Subject, push::CollapseId};

type Script = dyn Fn(&Target, &Push) -> Outcome + Send + Sync;

/// Answers as it is told, and remembers what it was asked.
struct Scripted {
    script: Box<Script>,
    takes: Duration,
    tries: Mutex<Vec<(Instant, Push)>>,
    under_way: AtomicUsize,
    under_way_max: AtomicUsize,
}

#[async_trait]
impl PushProvider for Scripted {
    fn kind(&self) -> ProviderKind {
        ProviderKind::WebPush
    }

    fn origin<'t>(&self, target: &'t Target) -> Origin<'t> {
        Origin {
            name: target.token(),
            awaited: target.token() == HOME,
        }
    }

    async fn push(&self, target: &Target, push: &Push) -> Outcome {
        self.tries.lock().push((Instant::now(), push.clone()));
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.under_way_max.fetch_max(under_way, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        (self.script)(target, push)
    }
}

const HOME: &str = "https://home.example";
const TAKES: Duration = Duration::from_millis(50);

fn guarded(
    config: &Config,
    script: impl Fn(&Target, &Push) -> Outcome + Send + Sync + 'static,
) -> (Arc<Scripted>, Guard) {
    let provider = Arc::new(Scripted {
        script: Box::new(script),
        takes: TAKES,
        tries: Mutex::default(),
        under_way: AtomicUsize::new(0),
        under_way_max: AtomicUsize::new(0),
    });
    let clock = Arc::new(ManualClock::at(0));
    (provider.clone(), Guard::new(provider, config, clock))
}

fn target(endpoint: &str) -> Target {
    Target::WebPush {
        endpoint: endpoint.to_owned(),
        p256dh: Box::new([4; 65]),
        auth: [1; 16],
    }
}

fn push(body: &str, life: Duration) -> Push {
    let user = UserId::generate();
    let conversation = ConversationId::direct(user, UserId::generate()).unwrap();
    Push {
        collapse_id: CollapseId::of(&Subject { user, conversation }),
        conversation,
        alert: Some(Alert {
            title: "Ada".to_owned(),
            body: body.to_owned(),
            count: 1,
            seq: 1,
        }),
        badge: 1,
        read_seq: 0,
        expires_unix_ms: i64::try_from(life.as_millis()).unwrap(),
    }
}

/// Asks again for what has waited, as readers do.
async fn ask(guard: &Guard, to: &Target, push: &Push, stop: &CancellationToken) -> Settled {
    loop {
        match guard.settle(to, push, stop).await {
            Settled::Old => {}
            settled => return settled,
        }
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn away(after: Option<Duration>) -> Outcome {
    let why = "503".to_owned();
    Outcome::Unavailable { after, why }
}

#[tokio::test(start_paused = true)]
async fn pushes_wait_while_their_provider_is_away_and_all_go_when_it_is_back() {
    let back = Instant::now() + Duration::from_secs(60);
    let (provider, guard) = guarded(&Config::default(), move |_, _| {
        if Instant::now() < back {
            away(None)
        } else {
            Outcome::Taken
        }
    });
    let stop = CancellationToken::new();
    let (home, one) = (target(HOME), push("hi", DAY));
    let settled = join_all((0..100).map(|_| ask(&guard, &home, &one, &stop)));
    let healthy_in_between = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        (guard.is_healthy(), guard.away())
    };
    let (settled, (healthy, left_alone)) = tokio::join!(settled, healthy_in_between);
    assert_eq!(settled, vec![Settled::Taken; 100]);
    assert!(!healthy && guard.is_healthy() && guard.away().is_empty());
    assert!(left_alone[0].why == "503" && !left_alone[0].unauthorized);
    let at_most = PAUSE_MAX.mul_f64(1.25) + Duration::from_secs(2);
    assert!(back.elapsed() < at_most, "{:?} late", back.elapsed());
    // The hundred that were under way, then one at a time.
    let tries = provider.tries.lock();
    let meanwhile = tries.iter().filter(|(at, _)| *at < back).count();
    assert!((102..=110).contains(&meanwhile), "{meanwhile} tries");
    assert_eq!(guard.stats().opened, 1);
    assert_eq!(guard.stats().taken, 100);
}

#[tokio::test(start_paused = true)]
async fn what_has_waited_long_is_asked_about_before_it_goes() {
    let back = Instant::now() + Duration::from_secs(60);
    let (_, guard) = guarded(&Config::default(), move |_, _| {
        if Instant::now() < back {
            away(None)
        } else {
            Outcome::Taken
        }
    });
    let stop = CancellationToken::new();
    let (home, one) = (target(HOME), push("hi", DAY));
    let settled = join_all((0..20).map(|_| guard.settle(&home, &one, &stop))).await;
    let old = settled.iter().filter(|settled| **settled == Settled::Old);
    // All but the probe that found it back, and perhaps one more.
    assert!(old.count() >= 18, "{settled:?}");
    assert_eq!(guard.settle(&home, &one, &stop).await, Settled::Taken);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_names_a_pause_is_left_alone_so_long() {
    let (begin, pause) = (Instant::now(), Duration::from_secs(200));
    let (provider, guard) = guarded(&Config::default(), move |_, _| {
        if begin.elapsed() < Duration::from_secs(1) {
            away(Some(pause))
        } else {
            Outcome::Taken
        }
    });
    let stop = CancellationToken::new();
    let (home, one) = (target(HOME), push("hi", DAY));
    let settled = join_all((0..10).map(|_| ask(&guard, &home, &one, &stop))).await;
    assert_eq!(settled, vec![Settled::Taken; 10]);
    for (at, _) in provider.tries.lock().iter().skip(10) {
        assert!(*at >= begin + pause, "tried after {:?}", *at - begin);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_the_provider_does_not_believe_who_we_are() {
    let (begin, repaired) = (Instant::now(), Duration::from_secs(300));
    let (provider, guard) = guarded(&Config::default(), move |_, _| {
        if begin.elapsed() < repaired {
            Outcome::Unauthorized("403 InvalidProviderToken".to_owned())
        } else {
            Outcome::Taken
        }
    });
    let stop = CancellationToken::new();
    let (home, one) = (target(HOME), push("hi", DAY));
    let settling = guard.settle(&home, &one, &stop);
    let left_alone = async {
        tokio::time::sleep(Duration::from_secs(120)).await;
        guard.away()
    };
    let (settled, left_alone) = tokio::join!(settling, left_alone);
    assert_eq!(settled, Settled::Taken);
    assert!(left_alone[0].unauthorized, "{left_alone:?}");
    assert!(provider.tries.lock().len() < 30);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_goes_without_its_body_or_not_at_all() {
    let (provider, guard) = guarded(&Config::default(), |_, push| {
        match push.alert.as_ref().map(|alert| alert.body.as_str()) {
            Some("") if push.badge == 1 => Outcome::Taken,
            _ => Outcome::TooLarge,
        }
    });
    let stop = CancellationToken::new();
    let mut one = push("long", DAY);
    assert_eq!(
        guard.settle(&target(HOME), &one, &stop).await,
        Settled::Taken
    );
    assert_eq!(provider.tries.lock().len(), 2);
    one.badge = 2;
    assert_eq!(
        guard.settle(&target(HOME), &one, &stop).await,
        Settled::TooLarge
    );
    assert_eq!(provider.tries.lock().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn answers_about_one_device_decide_at_once_and_say_nothing_of_the_provider() {
    let answers = Mutex::new(vec![
        (Outcome::Gone, Settled::Gone),
        (
            Outcome::Refused("400 BadTopic".to_owned()),
            Settled::Refused("400 BadTopic".to_owned()),
        ),
        (
            Outcome::TargetBusy {
                after: Some(Duration::from_secs(7)),
            },
            Settled::BusyUntil(Duration::from_secs(7)),
        ),
        (
            Outcome::TargetBusy { after: None },
            Settled::BusyUntil(BUSY_PAUSE),
        ),
    ]);
    let expected: Vec<Settled> = answers.lock().iter().map(|(_, s)| s.clone()).collect();
    let (provider, guard) = guarded(&Config::default(), move |_, _| answers.lock().remove(0).0);
    for expected in expected {
        let one = push("hi", DAY);
        let settled = guard
            .settle(&target(HOME), &one, &CancellationToken::new())
            .await;
        assert_eq!(settled, expected);
    }
    assert_eq!(provider.tries.lock().len(), 4);
    assert!(guard.is_healthy());
    assert_eq!(guard.stats().failed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_push_ends_when_it_is_too_late_for_it_also_while_it_waits() {
    let (provider, guard) = guarded(&Config::default(), |_, _| away(None));
    let stop = CancellationToken::new();
    let begin = Instant::now();
    let one = push("hi", Duration::from_secs(90));
    assert_eq!(
        guard.settle(&target(HOME), &one, &stop).await,
        Settled::Expired
    );
    assert!(begin.elapsed() < Duration::from_secs(100));
    let tries = provider.tries.lock().len();
    let late = push("hi", Duration::ZERO);
    assert_eq!(
        guard.settle(&target(HOME), &late, &stop).await,
        Settled::Expired
    );
    assert_eq!(provider.tries.lock().len(), tries);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_process_waits_for_an_answer_that_is_near_and_for_nothing_else() {
    let (_, guard) = guarded(&Config::default(), |_, push| match push.badge {
        1 => Outcome::Taken,
        _ => away(None),
    });
    let stop = CancellationToken::new();
    let (home, near, mut far) = (target(HOME), push("hi", DAY), push("hi", DAY));
    far.badge = 2;
    let stopping = async {
        tokio::time::sleep(TAKES / 2).await;
        stop.cancel();
    };
    let (near, far, ()) = tokio::join!(
        guard.settle(&home, &near, &stop),
        guard.settle(&home, &far, &stop),
        stopping
    );
    assert_eq!((near, far), (Settled::Taken, Settled::Stopped));
    let (begin, one) = (Instant::now(), push("hi", DAY));
    assert_eq!(guard.settle(&home, &one, &stop).await, Settled::Stopped);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_push_that_alone_fails_again_and_again_is_held_and_stops_no_other() {
    let (_, guard) = guarded(&Config::default(), |_, push| match push.badge {
        1 => Outcome::Taken,
        _ => away(None),
    });
    let (home, one, mut odd) = (target(HOME), push("hi", DAY), push("hi", DAY));
    odd.badge = 2;
    let stop = CancellationToken::new();
    let others = async {
        for _ in 0..1_000 {
            assert_eq!(guard.settle(&home, &one, &stop).await, Settled::Taken);
        }
    };
    let (odd, ()) = tokio::join!(guard.settle(&home, &odd, &stop), others);
    assert_eq!(odd, Settled::BusyUntil(ODD_PAUSE));
    assert_eq!(guard.stats().opened, 0);
}

#[tokio::test(start_paused = true)]
async fn a_push_that_waited_long_is_held_so_that_those_behind_it_have_their_turn() {
    let (_, guard) = guarded(&Config::default(), |_, push| match push.badge {
        1 => Outcome::Taken,
        _ => Outcome::Unauthorized("401".to_owned()),
    });
    let (home, one, mut odd) = (target(HOME), push("hi", DAY), push("hi", DAY));
    odd.badge = 2;
    let (begin, stop) = (Instant::now(), CancellationToken::new());
    let settled = join_all((0..100).map(|_| guard.settle(&home, &odd, &stop))).await;
    assert_eq!(settled, vec![Settled::BusyUntil(WAIT_MAX); 100]);
    assert!(begin.elapsed() < WAIT_MAX + PAUSE_MAX * 2);
    assert_eq!(guard.settle(&home, &one, &stop).await, Settled::Taken);
}

#[tokio::test(start_paused = true)]
async fn servers_that_anybody_can_name_are_not_waited_for_and_do_not_fill_the_memory() {
    let (_, guard) = guarded(&Config::default(), |target, _| {
        if target.token() == HOME {
            Outcome::Taken
        } else {
            away(None)
        }
    });
    let stop = CancellationToken::new();
    let one = push("hi", DAY);
    let begin = Instant::now();
    let named: Vec<Target> = (0..500)
        .map(|i| target(&format!("https://{i}.example")))
        .collect();
    let held = join_all(named.iter().map(|target| guard.settle(target, &one, &stop)));
    let at_home = target(HOME);
    let (held, home) = tokio::join!(held, guard.settle(&at_home, &one, &stop));
    assert_eq!(home, Settled::Taken);
    assert!(
        held.iter()
            .all(|settled| matches!(settled, Settled::BusyUntil(_)))
    );
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert!(guard.lanes.lock().len() <= ORIGINS_MAX + 2);
    assert!(guard.is_healthy());
}

#[tokio::test(start_paused = true)]
async fn pushes_keep_to_their_rate_and_their_number_at_once() {
    let config: Config = toml::from_str("pushes_per_second = 20\nat_once_max = 3").unwrap();
    let (provider, guard) = guarded(&config, |_, _| Outcome::Taken);
    let stop = CancellationToken::new();
    let (home, one) = (target(HOME), push("hi", DAY));
    join_all((0..100).map(|_| guard.settle(&home, &one, &stop))).await;
    assert_eq!(provider.under_way_max.load(Ordering::SeqCst), 3);
    let tries = provider.tries.lock();
    for pair in tries.windows(41) {
        // A burst of a second's, then one each 50 ms.
        assert!(pair[40].0 - pair[0].0 >= Duration::from_millis(990));
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_gives_its_place_to_another() {
    let begin = Instant::now();
    let (_, guard) = guarded(&Config::default(), move |_, _| {
        if begin.elapsed() < Duration::from_secs(1) {
            away(Some(Duration::from_secs(2)))
        } else {
            Outcome::Taken
        }
    });
    let stop = CancellationToken::new();
    let (home, one) = (target(HOME), push("hi", DAY));
    // Opens it, and is given up in the middle of the probe.
    let probe = guard.settle(&home, &one, &stop);
    let given_up = tokio::time::timeout(Duration::from_millis(2_060), probe).await;
    assert!(given_up.is_err());
    assert_eq!(guard.stats().tries, 2);
    assert_eq!(guard.settle(&home, &one, &stop).await, Settled::Taken);
    assert!(begin.elapsed() < Duration::from_secs(3));
}

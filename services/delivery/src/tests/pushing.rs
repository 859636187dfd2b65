//! To other edges.

use super::*;
use proto::{
    log::v1::{Accepted, verdict},
    messaging::v1::{
        PushRequest, PushResponse,
        edge_service_server::{EdgeService, EdgeServiceServer},
    },
};
use runtime::channel::pipe;
use tonic::{Request, Response, Status, Streaming};

/// More than one request holds, and more than may be in flight holds.
const MANY: u64 = 10_000;

#[tokio::test]
async fn another_edge_receives_all_in_order_and_many_at_a_time() {
    let setup = Setup::start().watched().await;
    let user = setup.warm_user(&[THERE]).await;
    let before = setup.delivery.stats().edge_requests;
    for n in 0..MANY {
        setup.delivery.push(frame(user, n));
    }
    eventually("all arrive", || setup.there.count() as u64 == MANY).await;
    assert_eq!(setup.there.frames(), (0..MANY).collect::<Vec<_>>());
    let requests = setup.delivery.stats().edge_requests - before;
    assert!(requests <= MANY / 250, "{requests} requests");
    assert_eq!(setup.delivery.stats().edge_dropped, 0);
}

#[tokio::test]
async fn a_user_on_two_edges_gets_it_on_both() {
    let setup = Setup::start().watched().await;
    let both = setup.warm_user(&[HERE, THERE]).await;
    let here = setup.warm_user(&[HERE]).await;
    let cold = UserId::generate();
    setup.registry.set_route(cold, &[THERE]);
    setup.there.broadcasts.lock().clear();
    let item = Broadcast {
        except_session_id: 7,
        inbox_version: 9,
        ..frame(vec![both, here, cold], 1)
    };
    setup.delivery.push(item.clone());
    eventually("both parts arrive there", || setup.there.count() == 2).await;
    let part = |users: Vec<UserId>| Broadcast {
        users: users.into(),
        ..item.clone()
    };
    // Whose route is not known may have a session here.
    let at_once = [part(vec![both, here]), part(vec![cold])];
    assert_eq!(*setup.here.broadcasts.lock(), at_once);
    let there = setup.there.broadcasts.lock().clone();
    assert!(there.contains(&part(vec![both])) && there.contains(&part(vec![cold])));
}

#[tokio::test]
async fn an_answer_goes_to_the_edge_that_waits_for_it() {
    let setup = Setup::start();
    let answer = Answer {
        session_id: 1,
        request_id: 2,
        verdict: Verdict {
            conversation_id: vec![3; 33],
            message_id: vec![4; 16],
            verdict: Some(verdict::Verdict::Accepted(Accepted {
                seq: 5,
                message_index: 6,
                time_unix_ms: 7,
                duplicate: true,
            })),
        },
    };
    setup.delivery.answer(HERE, answer.clone());
    assert_eq!(*setup.here.answers.lock(), std::slice::from_ref(&answer));
    setup.delivery.answer(THERE, answer.clone());
    eventually("it arrives", || {
        *setup.there.answers.lock() == [answer.clone()]
    })
    .await;
}

#[tokio::test]
async fn a_device_that_is_logged_out_ends_on_every_edge() {
    let setup = Setup::start().watched().await;
    let user = setup.warm_user(&[HERE]).await;
    // The cached route is not trusted for this.
    setup.registry.set_route(user, &[HERE, THERE]);
    let device = DeviceId::generate();
    setup.delivery.end_sessions(user, device);
    assert_eq!(*setup.here.ended.lock(), [(user, device)]);
    eventually("there too", || {
        *setup.there.ended.lock() == [(user, device)]
    })
    .await;
}

#[tokio::test]
async fn an_edge_that_is_away_costs_a_bounded_queue() {
    // Nobody accepts on the other end.
    let (connector, incoming) = pipe();
    let edges = HashMap::from([(THERE.to_owned(), connector)]);
    let config = DeliveryConfig {
        edge_items_max: 100,
        ..DeliveryConfig::new(HERE, "test")
    };
    let there = Arc::new(Sessions::default());
    let setup = Setup::with_edges(config, there.clone(), edges);
    let answer = |request_id| Answer {
        session_id: 1,
        request_id,
        verdict: Verdict::default(),
    };
    for n in 0..1_000 {
        setup.delivery.answer(THERE, answer(n));
    }
    assert_eq!(setup.delivery.stats().edge_dropped, 900);

    // Now somebody does: what waited arrives, and what comes then.
    let receiver = PushReceiver::new(there, CancellationToken::new());
    let router = tonic::transport::Server::builder().add_service(EdgeServiceServer::new(receiver));
    tokio::spawn(router.serve_with_incoming(incoming));
    eventually("the first arrive", || {
        setup.there.answers.lock().len() == 100
    })
    .await;
    setup.delivery.answer(THERE, answer(1_000));
    eventually("the next arrives", || {
        setup.there.answers.lock().len() == 101
    })
    .await;
}

#[tokio::test]
async fn an_edge_that_cannot_be_reached_drops_what_waits() {
    let there = Arc::new(Sessions::default());
    let config = DeliveryConfig::new(HERE, "test");
    let setup = Setup::with_edges(config, there, HashMap::new());
    setup.delivery.answer(
        "nowhere:1",
        Answer {
            session_id: 1,
            request_id: 1,
            verdict: Verdict::default(),
        },
    );
    eventually("it is counted", || setup.delivery.stats().edge_dropped == 1).await;
}

#[tokio::test]
async fn a_stream_without_items_is_closed_and_opened_again() {
    let config = DeliveryConfig {
        edge_idle_max: Duration::ZERO,
        ..DeliveryConfig::new(HERE, "test")
    };
    let setup = Setup::with(config).watched().await;
    let user = setup.warm_user(&[THERE]).await;
    let link = setup.delivery.inner.links.to(THERE).unwrap();
    for n in 1..=2 {
        eventually("it is closed", || !link.is_running()).await;
        setup.delivery.push(frame(user, n));
        assert!(link.is_running());
        eventually("it arrives", || setup.there.count() as u64 == n).await;
    }
    assert_eq!(setup.there.frames(), [1, 2]);
    assert_eq!(setup.delivery.stats().edge_dropped, 0);
}

/// Takes requests and answers none.
#[derive(Clone, Default)]
struct Silent {
    taken: Arc<Mutex<usize>>,
}

#[tonic::async_trait]
impl EdgeService for Silent {
    type PushStream = futures_util::stream::Pending<Result<PushResponse, Status>>;

    async fn push(
        &self,
        requests: Request<Streaming<PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let taken = self.taken.clone();
        let mut requests = requests.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                *taken.lock() += request.items.len();
            }
        });
        Ok(Response::new(futures_util::stream::pending()))
    }
}

#[tokio::test]
async fn what_is_not_answered_is_bounded() {
    let silent = Silent::default();
    let router =
        tonic::transport::Server::builder().add_service(EdgeServiceServer::new(silent.clone()));
    let edges = HashMap::from([(THERE.to_owned(), serve(router))]);
    let config = DeliveryConfig::new(HERE, "test");
    let setup = Setup::with_edges(config, Arc::new(Sessions::default()), edges);
    for request_id in 0..MANY {
        setup.delivery.answer(
            THERE,
            Answer {
                session_id: 1,
                request_id,
                verdict: Verdict::default(),
            },
        );
    }
    // 16 requests of 256 items, and no more until the first is answered or given up.
    eventually("as many are taken as may be", || {
        *silent.taken.lock() == 16 * 256
    })
    .await;
    let stopped = setup.tasks.stop(Duration::from_secs(20)).await;
    assert!(stopped);
    assert_eq!(*silent.taken.lock(), 16 * 256);
}

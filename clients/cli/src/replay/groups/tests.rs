//! A whole replay against a server that is good, rough, or wrong.

use super::*;
use crate::args::Speed;

mod calls;
mod fake;

use fake::{Fault, Service};

/// Three people who come, go, and come again, and one who is thrown out.
fn small_script() -> Script {
    let mut text = String::from(
        "=== Topic (#garden): plants\n\
         [09:00] <ada> anybody here?\n\
         === grace [g@host]  has joined #garden\n\
         [09:01] <grace> yes\n\
         [09:01] <ada> good\n\
         === grace is now known as hopper\n\
         === ada [a@host]  has left #garden []\n\
         [09:02] <hopper> and gone\n\
         [09:02] <bob> who was it?\n\
         === ada [a@host]  has joined #garden\n\
         === bob was kicked off #garden by hopper (noise)\n",
    );
    for number in 0..20 {
        let who = if number % 2 == 0 { "ada" } else { "hopper" };
        text += &format!("[09:03] <{who}> {number}\n");
    }
    text += "=== hopper [g@host]  has left #garden []\n[09:04] <ada> alone\n";
    let lines: Vec<_> = text.lines().map(channel::parse).collect();
    script::scripts(&lines, "garden", "run").remove(0)
}

async fn report_of(fault: Fault) -> Report {
    let service = Service::with(fault);
    let global = Global {
        server: calls::serve(&service).await,
        json: true,
        as_user: None,
        profile_dir: None,
    };
    let command = args::Replay {
        files: Vec::new(),
        groups: true,
        attachments: false,
        seed: 1,
        speed: Speed::Max,
        sessions_per_user: 3,
    };
    let mut report = Report::default();
    let script = small_script();
    let performed = perform(&global, &command, &script, None, &mut report);
    performed.await.unwrap();
    report.finish();
    report
}

#[tokio::test]
async fn a_good_server_has_nothing_wrong() {
    let report = report_of(Fault::None).await;
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.users, report.sessions), (4, 12));
    assert_eq!((report.messages, report.acked, report.changes), (26, 26, 9));
    assert_eq!(report.disconnects, 0);
}

#[tokio::test]
async fn broken_sessions_and_lost_answers_leave_no_trace() {
    let report = report_of(Fault::Rough).await;
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.messages, report.changes), (26, 9));
    assert!(report.disconnects > 0, "{report:?}");
}

#[tokio::test]
async fn a_server_that_gives_too_much_too_little_or_something_else_is_found_out() {
    let leaks = report_of(Fault::Leaks).await;
    assert!(leaks.findings.foreign > 0 && !leaks.is_good(), "{leaks:?}");
    let forgets = report_of(Fault::Forgets).await;
    assert!(
        forgets.findings.missing > 0 && !forgets.is_good(),
        "{forgets:?}"
    );
    let alters = report_of(Fault::Alters).await;
    assert!(
        alters.findings.altered > 0 && !alters.is_good(),
        "{alters:?}"
    );
}

#[test]
fn folders_are_their_logs_and_an_empty_one_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = logs_of(&[dir.path().to_owned()]).unwrap_err();
    assert!(error.to_string().contains("has no log"), "{error}");
    for name in ["b.raw.txt", "a.raw.txt", "a.annotation.txt"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let alone = PathBuf::from("elsewhere/c.raw.txt");
    let logs = logs_of(&[dir.path().to_owned(), alone]).unwrap();
    let names: Vec<_> = logs.iter().map(|path| log_name(path)).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

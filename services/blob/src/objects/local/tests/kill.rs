//! A process that is killed keeps what it was told is kept.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use runtime::ids::{UploadId, UserId};

use super::*;

/// Set for the process that is to be killed: where the objects are.
const CHILD: &str = "BLOB_KILL_CHILD";
const RUNS: usize = 10;

/// What the child writes.
fn upload() -> Bytes {
    bytes(3_000_000, 5)
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Appends and promotes until it is killed, and says on stdout what was answered. Does nothing unless it
/// is asked.
#[tokio::test]
async fn writes_until_killed() {
    let Ok(folder) = std::env::var(CHILD) else {
        return;
    };
    let objects = LocalObjects::open(folder).unwrap();
    let (upload, content) = (upload(), content(&upload()));
    loop {
        let (from, to) = (stage_key(), object_key());
        let mut stage = objects.open_stage(from).await.unwrap();
        for part in 0..upload.len() / 50_000 {
            let part = upload.slice(part * 50_000..(part + 1) * 50_000);
            stage.write(part).await.unwrap();
            if stage.written_bytes().is_multiple_of(250_000) {
                stage.flush().await.unwrap();
                let staged = stage.written_bytes();
                say(&format!("flushed {} {} {staged}", from.owner, from.upload));
            }
        }
        drop(stage);
        objects.promote(from, to, content, JPEG).await.unwrap();
        say(&format!(
            "promoted {} {} {}",
            from.owner, from.upload, to.blob
        ));
        let small = ObjectKey {
            variant: Variant::Small,
            ..to
        };
        objects.put(small, upload.clone(), JPEG).await.unwrap();
        say(&format!("put {}", to.blob));
    }
}

/// Runs the child until it has said so many lines, kills it, and answers all that it said.
fn run_and_kill(folder: &Path, lines_min: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "objects::local::tests::kill::writes_until_killed",
        ])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let (mut lines, mut line, mut killed) = (Vec::new(), String::new(), false);
    while out.read_line(&mut line).unwrap() > 0 {
        // The last line may be cut off; it was not said then.
        let said = ["flushed", "promoted", "put"];
        if line.ends_with('\n') && said.iter().any(|word| line.starts_with(word)) {
            lines.push(line.trim_end().to_owned());
        }
        if lines.len() >= lines_min && !killed {
            child.kill().unwrap();
            killed = true;
        }
        line.clear();
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself");
    lines
}

#[tokio::test]
async fn a_killed_process_keeps_what_it_flushed_promoted_and_put() {
    let folder = tempfile::tempdir().unwrap();
    let upload = upload();
    for run in 0..RUNS {
        // At another moment each time.
        let lines = run_and_kill(folder.path(), 1 + run * 5);
        let objects = LocalObjects::open(folder.path()).unwrap();
        let mut promoted = std::collections::HashSet::new();
        let mut flushed = std::collections::HashMap::new();
        for line in &lines {
            let words: Vec<_> = line.split_whitespace().collect();
            let stage = |owner, upload| StageKey {
                owner: UserId::parse(owner).unwrap(),
                upload: UploadId::parse(upload).unwrap(),
            };
            match words[..] {
                ["flushed", owner, upload, staged] => {
                    let staged: usize = staged.parse().unwrap();
                    flushed.insert(stage(owner, upload), staged);
                }
                ["promoted", owner, id, blob] => {
                    let blob = BlobId::parse(blob).unwrap();
                    let variant = Variant::Original;
                    let key = ObjectKey { blob, variant };
                    assert_eq!(whole(&objects, key).await.unwrap(), upload);
                    promoted.insert(stage(owner, id));
                }
                ["put", blob] => {
                    let blob = BlobId::parse(blob).unwrap();
                    let variant = Variant::Small;
                    let key = ObjectKey { blob, variant };
                    assert_eq!(whole(&objects, key).await.unwrap(), upload);
                }
                _ => panic!("{line}"),
            }
        }
        for (key, flushed) in flushed {
            let staged = objects.staged_bytes(key).await.unwrap();
            let staged = usize::try_from(staged).unwrap();
            if promoted.contains(&key) {
                assert_eq!(staged, 0);
                continue;
            }
            if staged == 0 {
                // Its promote was under way, and had come that far; nobody was told its name.
                assert_eq!(flushed, upload.len());
                continue;
            }
            assert!((flushed..=upload.len()).contains(&staged));
            let read = all(objects.read_stage(key).await.unwrap()).await.unwrap();
            assert_eq!(read, upload[..staged]);
        }
        // No object is half there, whether it was told of or not.
        for path in files(&folder.path().join("blobs")) {
            assert_eq!(fs::read(&path).unwrap(), upload, "{}", path.display());
        }
        // Room for the next run.
        for path in files(folder.path()) {
            fs::remove_file(path).unwrap();
        }
    }
}

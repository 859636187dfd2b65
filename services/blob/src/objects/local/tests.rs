use std::{io::Write, os::unix::fs::PermissionsExt, process::Command};

use super::*;
use crate::objects::suite::{self, JPEG, all, bytes, content, object_key, stage, stage_key, whole};

mod kill;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn it_keeps_what_every_keeper_of_bytes_promises() {
    let folder = tempfile::tempdir().unwrap();
    suite::run(async || LocalObjects::open(folder.path()).unwrap()).await;
}

#[tokio::test]
async fn nobody_else_reads_it_and_nothing_is_left_of_what_goes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("objects");
    let objects = LocalObjects::open(&root).unwrap();
    let (from, to) = (stage_key(), object_key());
    stage(&objects, from, &bytes(10, 1), 10).await;
    objects.put(to, bytes(10, 2), JPEG).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(files(&root).len(), 2);
    for path in files(&root) {
        assert_eq!(mode(&path), FILE_MODE);
        assert_eq!(mode(path.parent().unwrap()), FOLDER_MODE);
    }
    assert_eq!(mode(&root), FOLDER_MODE);
    objects.discard_stage(from).await.unwrap();
    objects.delete(to.blob).await.unwrap();
    assert!(files(&root).is_empty());
}

#[tokio::test]
async fn what_a_dead_process_was_putting_is_gone_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    drop(LocalObjects::open(folder.path()).unwrap());
    fs::write(folder.path().join("incoming/half"), "half").unwrap();
    LocalObjects::open(folder.path()).unwrap();
    assert!(files(folder.path()).is_empty());
}

/// A crash between the two steps of it.
#[tokio::test]
async fn a_promote_that_was_cut_off_after_its_rename_is_finished_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let objects = LocalObjects::open(folder.path()).unwrap();
    let (from, to, bytes) = (stage_key(), object_key(), bytes(100, 1));
    stage(&objects, from, &bytes, 100).await;
    fs::rename(objects.stage(from), objects.object(to)).unwrap();
    let content = content(&bytes);
    objects.promote(from, to, content, JPEG).await.unwrap();
    assert_eq!(whole(&objects, to).await.unwrap(), bytes);
}

/// A disk of its own, in memory; it goes when it is dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// Says so and answers none where nothing may be mounted: that is for the superuser.
    fn mount(mib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                // Past the capture of output: a test that did not run must not look as if it had.
                let why = "NOT RUN: the test of a full disk may not mount one";
                let _ = writeln!(io::stderr(), "\n{why}: {other:?}");
                None
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_shows_nothing_that_is_half_written() {
    let Some(disk) = Disk::mount(4) else {
        return;
    };
    let objects = LocalObjects::open(disk.0.path()).unwrap();
    let (old, new, from) = (object_key(), object_key(), stage_key());
    let before = bytes(1_000_000, 1);
    objects.put(old, before.clone(), JPEG).await.unwrap();
    stage(&objects, from, &bytes(500_000, 2), 65_536).await;
    // Neither a new object nor one that is put over another.
    for key in [old, new] {
        let put = objects.put(key, bytes(4_000_000, 3), JPEG).await;
        assert!(matches!(put, Err(ObjectError::Unavailable(_))), "{put:?}");
    }
    assert_eq!(whole(&objects, old).await.unwrap(), before);
    let size = objects.size_bytes(new).await;
    assert!(matches!(size, Err(ObjectError::NotFound)));
    assert!(files(&disk.0.path().join("incoming")).is_empty());
    // An upload ends where there is no room, with a beginning of it.
    let upload = bytes(5_000_000, 2);
    let mut open = objects.open_stage(from).await.unwrap();
    let mut left = upload.slice(500_000..);
    let refused = loop {
        if let Err(error) = open.write(left.split_to(65_536)).await {
            break error;
        }
    };
    assert!(matches!(refused, ObjectError::Unavailable(_)), "{refused}");
    assert!(open.write(left.split_to(65_536)).await.is_err());
    assert!(open.flush().await.is_err());
    drop(open);
    let staged = usize::try_from(objects.staged_bytes(from).await.unwrap()).unwrap();
    let read = all(objects.read_stage(from).await.unwrap()).await.unwrap();
    assert!((500_000..upload.len()).contains(&staged));
    assert_eq!(read, upload[..staged]);
    // When there is room again, it goes on by itself.
    objects.delete(old.blob).await.unwrap();
    let end = upload.slice(..staged + 100_000);
    stage(&objects, from, &end, 65_536).await;
    objects
        .promote(from, new, content(&end), JPEG)
        .await
        .unwrap();
    assert_eq!(whole(&objects, new).await.unwrap(), end);
}

//! A disk that can be full: a file system in memory whose size is changed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// The size of the disk: far above what a run writes. Only what is written takes memory.
const DISK_BYTES: u64 = 6 << 30;
/// What is left when it is full.
const SPARE_BYTES: u64 = 16 << 10;
/// Tries to make it full while somebody writes to it.
const TRIES_MAX: u32 = 50;

/// Mounted as long as it lives.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mounts one on an empty folder, or says why not.
    pub(super) fn mount(folder: &Path) -> Result<Self, String> {
        let options = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Self {
                folder: folder.to_owned(),
            }),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                Err(format!("no tmpfs can be mounted: {}", why.trim()))
            }
            Err(error) => Err(format!("no tmpfs can be mounted: {error}")),
        }
    }

    /// No room from now on.
    pub(super) fn fill(&self) -> anyhow::Result<()> {
        let mut tries = 1;
        // It cannot become smaller than what is on it, which grows between the look and the change.
        while let Err(error) = self.used().and_then(|used| self.resize(used + SPARE_BYTES)) {
            if tries == TRIES_MAX {
                return Err(error);
            }
            tries += 1;
        }
        Ok(())
    }

    fn used(&self) -> anyhow::Result<u64> {
        let output = Command::new("df")
            .args(["--output=used", "-B1"])
            .arg(&self.folder)
            .output()
            .context("df")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let used = text.lines().nth(1).unwrap_or_default().trim();
        used.parse().context("df")
    }

    /// Room again.
    pub(super) fn free(&self) -> anyhow::Result<()> {
        self.resize(DISK_BYTES)
    }

    fn resize(&self, bytes: u64) -> anyhow::Result<()> {
        let options = format!("remount,size={bytes}");
        let output = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.folder)
            .output()
            .context("mount")?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the disk cannot be resized: {}",
            why.trim()
        );
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what is still open on it goes with the process.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

//! The programs of the workspace.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};

/// Only one test builds.
static BUILDING: Mutex<()> = Mutex::new(());

/// A program of the workspace (`standalone`, `messaging`), beside the one that runs this; built if it
/// is not there or older than its sources.
pub fn program(name: &str) -> Result<PathBuf> {
    let _one = BUILDING.lock();
    let own = env::current_exe()?;
    let folder = own.parent().context("a program is in a folder")?;
    // Tests and examples are one folder deeper.
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => folder.parent().context("a target folder")?,
        _ => folder,
    };
    let program = profile.join(format!("{name}{}", env::consts::EXE_SUFFIX));
    if !is_fresh(&program) {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--quiet", "--package", name, "--target-dir"])
            .arg(profile.parent().context("a target folder")?);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        ensure!(build.status()?.success(), "cannot build {name}");
    }
    Ok(program)
}

/// Whether the program is newer than what cargo says it was made of.
fn is_fresh(program: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let Some(built) = changed(program) else {
        return false;
    };
    let sources = fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let Some((_, sources)) = sources.split_once(": ") else {
        return false;
    };
    let older = |source: &str| changed(Path::new(source)).is_some_and(|at: SystemTime| at <= built);
    sources.split_whitespace().all(older)
}

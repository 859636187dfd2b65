//! What people say: the texts of the real conversations in `tests/data`.

use std::{fs, path::Path};

use anyhow::Context;

/// Unicode scalar values that a text may have.
pub(crate) const TEXT_CHARS_MAX: usize = 700;

/// Every text of the logs that a message can have, in the order of the files.
pub(crate) fn read(folder: &Path) -> anyhow::Result<Vec<String>> {
    let shown = || format!("cannot read {}", folder.display());
    let mut files: Vec<_> = fs::read_dir(folder)
        .with_context(shown)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".raw.txt"))
        .collect();
    // The order of a folder is not the same everywhere, and the plan is a function of the seed.
    files.sort();
    let mut texts = Vec::new();
    for file in files {
        let bytes = fs::read(&file).with_context(shown)?;
        texts.extend(String::from_utf8_lossy(&bytes).lines().filter_map(said));
    }
    anyhow::ensure!(!texts.is_empty(), "no texts in {}", folder.display());
    Ok(texts)
}

/// `[HH:MM] <nick> text`.
fn said(line: &str) -> Option<String> {
    let (_, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let (_, text) = rest.strip_prefix('<')?.split_once("> ")?;
    let text = text.replace('\0', "");
    let chars = text.chars().count();
    (1..=TEXT_CHARS_MAX).contains(&chars).then_some(text)
}

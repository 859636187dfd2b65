//! Who may depend on whom.

use std::{collections::BTreeMap, fs, path::PathBuf};

/// What every service may use: the contract, and what has no domain.
const SHARED: [&str; 4] = ["proto", "runtime", "event-log", "delivery"];
/// All services in one process: the only one that sees them.
const STANDALONE: &str = "standalone";
/// Lines of a source file: what one can hold in mind, with some room.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The crates of this workspace that each crate in a folder uses outside of its tests.
fn uses(folder: &str) -> BTreeMap<String, Vec<String>> {
    let mut uses = BTreeMap::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let manifest = entry.unwrap().path().join("Cargo.toml");
        let Ok(manifest) = fs::read_to_string(manifest) else {
            continue;
        };
        let name = manifest
            .lines()
            .find_map(|line| line.strip_prefix("name = "));
        let name = name.unwrap().trim_matches('"').to_owned();
        let mut section = "";
        let mut used = Vec::new();
        for line in manifest.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
                // One that has a section of its own.
                used.extend(line.strip_prefix("[dependencies.").map(crate_name));
            } else if section == "[dependencies]" || section == "[build-dependencies]" {
                used.push(crate_name(line));
            }
        }
        let ours = workspace_crates();
        used.retain(|used| ours.contains(used));
        uses.insert(name, used);
    }
    uses
}

fn crate_name(line: &str) -> String {
    let end = line.find(|c: char| !c.is_alphanumeric() && c != '-' && c != '_');
    line[..end.unwrap_or(line.len())].to_owned()
}

/// The crates that the workspace gives by their paths.
fn workspace_crates() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let paths = manifest.lines().filter(|line| line.contains("= { path = "));
    paths.map(crate_name).collect()
}

#[test]
fn services_know_each_other_by_their_contracts_only() {
    let services = uses("services");
    assert!(services.contains_key("messaging") && services.contains_key(STANDALONE));
    for (name, used) in &services {
        if name == STANDALONE {
            continue;
        }
        for used in used {
            assert!(SHARED.contains(&used.as_str()), "{name} depends on {used}");
        }
    }
    // What is shared stands in an order too, and knows no service.
    let order = ["proto", "runtime", "event-log", "delivery"];
    for (at, name) in order.iter().enumerate().skip(1) {
        for used in &services[*name] {
            assert!(
                order[..at].contains(&used.as_str()),
                "{name} depends on {used}"
            );
        }
    }
    assert!(
        services[STANDALONE].contains(&"messaging".to_owned()),
        "the test sees nothing"
    );
}

#[test]
fn clients_know_the_contract_and_no_server() {
    for (name, used) in uses("clients") {
        for used in used {
            let allowed = ["proto", "messenger-client"].contains(&used.as_str());
            assert!(allowed, "{name} depends on {used}");
        }
    }
}

#[test]
fn no_source_file_is_longer_than_one_can_hold_in_mind() {
    let mut folders = vec![
        root().join("services"),
        root().join("clients"),
        root().join("tests"),
    ];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "the test sees only {seen} files");
}

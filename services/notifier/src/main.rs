//! The notifier as a process of its own, on Kafka and PostgreSQL.

use std::process::ExitCode;

use runtime::process;

mod distributed;

/// As in the one-process form.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    process::run("notifier", distributed::run)
}

//! Profile as a process of its own, on Kafka and PostgreSQL.

use std::process::ExitCode;

use runtime::process;

mod distributed;

/// The system's allocator keeps the memory of every password hash in one of many arenas.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    process::run("profile", distributed::run)
}

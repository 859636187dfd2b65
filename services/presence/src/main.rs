//! Presence as a process of its own, on PostgreSQL.

use std::process::ExitCode;

use runtime::process;

mod distributed;

/// Less memory for the many small things that come and go than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    process::run("presence", distributed::run)
}

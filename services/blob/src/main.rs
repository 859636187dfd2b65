//! Pictures and video as a process of its own, on Kafka, PostgreSQL and S3.

use std::process::ExitCode;

use runtime::process;

mod distributed;

/// As in the one-process form.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    process::run("blob", distributed::run)
}

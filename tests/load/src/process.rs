//! CPU time and memory of a process, from /proc.

use std::{fs, path::Path};

use anyhow::Context;

/// Ticks a second of the times in /proc: USER_HZ, which is 100 on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// The state of a listening socket in /proc/net/tcp.
const LISTENING: &str = "0A";

/// A process whose CPU time is measured.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

/// The processes of a file with a line `NAME PID` for each.
pub(crate) fn listed(file: &Path) -> anyhow::Result<Vec<Process>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let process = |line: &str| {
        let (name, pid) = line.split_once(' ')?;
        let (name, pid) = (name.to_owned(), pid.parse().ok()?);
        Some(Process { name, pid })
    };
    text.lines()
        .map(|line| process(line).with_context(|| format!("{line:?} is not NAME PID")))
        .collect()
}

/// CPU seconds, user and system, that the process has used; none if it is not on this machine.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may contain blanks; what follows its closing parenthesis does not.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The same of a process with all that it has started: PostgreSQL has a process for each connection.
pub(crate) fn cpu_seconds_with_children(pid: u32) -> Option<f64> {
    let own = cpu_seconds(pid)?;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    Some(own + children.filter_map(cpu_seconds_with_children).sum::<f64>())
}

/// Memory of the process that is in RAM, in KiB.
pub(crate) fn rss_kib(pid: u32) -> Option<u64> {
    status(pid, "VmRSS:")
}

/// The most that it ever was, in KiB.
pub(crate) fn peak_rss_kib(pid: u32) -> Option<u64> {
    status(pid, "VmHWM:")
}

fn status(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The process of this machine that listens on the port of a URL.
pub(crate) fn listening_on(url: &str) -> Option<u32> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split('/').next()?;
    let port: u16 = authority.rsplit_once(':')?.1.parse().ok()?;
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .find_map(|table| listener_inode(&fs::read_to_string(table).ok()?, port))?;
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| holds(*pid, &socket))
}

fn listener_inode(table: &str, port: u16) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_it =
            u16::from_str_radix(local_port, 16).ok()? == port && *fields.get(3)? == LISTENING;
        is_it
            .then(|| fields.get(9).map(ToString::to_string))
            .flatten()
    })
}

fn holds(pid: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    files
        .flatten()
        .any(|file| fs::read_link(file.path()).is_ok_and(|target| target == Path::new(socket)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_behind_a_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        assert_eq!(listening_on(&url), Some(std::process::id()));
        drop(listener);
        assert_eq!(listening_on(&url), None);
    }

    #[test]
    fn a_process_has_memory_and_its_cpu_time_grows() {
        let own = std::process::id();
        assert!(rss_kib(own).unwrap() > 0);
        let before = cpu_seconds(own).unwrap();
        while cpu_seconds(own).unwrap() <= before {
            std::hint::spin_loop();
        }
    }
}

//! Ports for servers that are killed and started again in the same place.

use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::BuildHasher,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, bail};

/// Ports that systems do not give to outgoing connections by themselves: such a port is still free when
/// a server that was killed wants it back.
const PORTS: Range<u16> = 20_000..32_000;
/// Ports that are tried; with half of them taken, one try in two succeeds.
const TRIES_MAX: usize = 1_000;

/// The ports that this process was given: a cluster chooses many before its servers listen, and another
/// one beside it must not choose one of them. No more than there are in [`PORTS`].
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A free port of the loopback interface that nobody in this process was given before; held as long as
/// the listener lives, and most likely free afterwards.
pub fn free_listener() -> Result<TcpListener> {
    for _ in 0..TRIES_MAX {
        // The standard library's source of randomness.
        let random = RandomState::new().hash_one(0) % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(random)?;
        if !GIVEN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(port)
        {
            continue;
        }
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener);
        }
    }
    bail!("no free port")
}

/// The same, held no longer.
pub fn free_port() -> Result<u16> {
    Ok(free_listener()?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_given_no_port_twice() {
        // By chance alone, one try in thirty thousand would give so many different ones.
        let ports: BTreeSet<u16> = (0..500).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 500);
    }
}

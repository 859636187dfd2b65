//! A membership as the columns of a store hold it: the same in every adapter.

use super::StoreError;
use crate::{
    limits::WINDOWS_MAX,
    model::{Membership, Role, Window},
};

/// The end of a window that is still open: no seq is that large.
const OPEN: u64 = u64::MAX;

/// The number of a role; 0 = not a member.
pub(super) fn role_number(membership: &Membership) -> u8 {
    membership.role.map_or(0, |role| role as u8)
}

/// The windows, packed: two numbers each, of 8 bytes, big endian. Fails for what could not be read back:
/// seqs above `i64::MAX`, and more windows than a user may have.
pub(super) fn pack_windows(windows: &[Window]) -> Result<Vec<u8>, StoreError> {
    if windows.len() > WINDOWS_MAX {
        return Err(corrupt("more windows than a user may have"));
    }
    let mut packed = Vec::with_capacity(16 * windows.len());
    for window in windows {
        for seq in [Some(window.from_seq), window.to_seq] {
            let number = match seq {
                Some(seq) if i64::try_from(seq).is_err() => {
                    return Err(corrupt("a window's seq is more than the store can hold"));
                }
                Some(seq) => seq,
                None => OPEN,
            };
            packed.extend(number.to_be_bytes());
        }
    }
    Ok(packed)
}

/// From the columns of a member that has a version.
pub(super) fn read_membership(
    version: u64,
    role: u64,
    windows: &[u8],
) -> Result<Membership, StoreError> {
    let known = u32::try_from(role).ok().and_then(Role::from_number);
    if known.is_none() && role != 0 {
        return Err(corrupt("unknown role"));
    }
    Ok(Membership {
        version,
        role: known,
        windows: unpack_windows(windows)?,
    })
}

fn unpack_windows(packed: &[u8]) -> Result<Vec<Window>, StoreError> {
    let (numbers, cut) = packed.as_chunks::<8>();
    let (pairs, odd) = numbers.as_chunks::<2>();
    if !cut.is_empty() || !odd.is_empty() || pairs.len() > WINDOWS_MAX {
        return Err(corrupt("not the bytes of windows"));
    }
    let window = |pair: &[[u8; 8]; 2]| {
        let [from_seq, to_seq] = pair.map(u64::from_be_bytes);
        let is_seq = |number| i64::try_from(number).is_ok();
        if !is_seq(from_seq) || !(is_seq(to_seq) || to_seq == OPEN) {
            return Err(corrupt("a window's end is no seq"));
        }
        Ok(Window {
            from_seq,
            to_seq: Some(to_seq).filter(|seq| *seq != OPEN),
        })
    };
    pairs.iter().map(window).collect()
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

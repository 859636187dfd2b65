//! Tokens that name a user and the address that mail was sent to: in links that end digests, and in the
//! envelope's sender, which a mail that comes back is sent to. Nobody else can make one.

use data_encoding::BASE32_NOPAD_NOCASE;
use hmac::{Hmac, KeyInit, Mac};
use runtime::{ids::UserId, secret::Secret};
use sha2::{Digest, Sha256};

const USER_BYTES: usize = 16;
/// Which of the addresses a user has had: not a secret, only told apart.
const ADDRESS_BYTES: usize = 6;
/// Of the MAC: 2⁹⁶ guesses by network.
const MAC_BYTES: usize = 12;
const TOKEN_BYTES: usize = USER_BYTES + ADDRESS_BYTES + MAC_BYTES;

/// Makes and checks tokens. All processes of the service have the same secret.
#[derive(Clone)]
pub(crate) struct Tokens {
    mac: Hmac<Sha256>,
}

/// What a good token names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) user: UserId,
    address: [u8; ADDRESS_BYTES],
}

impl Named {
    /// Whether it was made for this address.
    pub(crate) fn is_of(&self, address: &str) -> bool {
        self.address == address_bytes(address)
    }
}

impl Tokens {
    pub(crate) fn new(secret: &Secret) -> Self {
        // A key of HMAC is a block of its hash, filled up with zeros.
        let mut block = [0; 64];
        block[..secret.len()].copy_from_slice(secret);
        let mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        Self { mac }
    }

    /// 55 letters and digits; their case means nothing, since mail servers change it.
    pub(crate) fn make(&self, user: UserId, address: &str) -> String {
        let address = address_bytes(address);
        let mut token = Vec::with_capacity(TOKEN_BYTES);
        token.extend_from_slice(user.as_bytes());
        token.extend_from_slice(&address);
        let mac = self.mac_of(&token).finalize().into_bytes();
        token.extend(mac.iter().take(MAC_BYTES));
        BASE32_NOPAD_NOCASE.encode(&token).to_ascii_lowercase()
    }

    /// `None` if we did not make it.
    pub(crate) fn check(&self, token: &str) -> Option<Named> {
        let token = BASE32_NOPAD_NOCASE.decode(token.as_bytes()).ok()?;
        let (said, mac) = token.split_at_checked(USER_BYTES + ADDRESS_BYTES)?;
        if mac.len() != MAC_BYTES {
            return None;
        }
        self.mac_of(said).verify_truncated_left(mac).ok()?;
        let (user, address) = said.split_at_checked(USER_BYTES)?;
        Some(Named {
            user: UserId::from_slice(user).ok()?,
            address: address.try_into().ok()?,
        })
    }

    fn mac_of(&self, said: &[u8]) -> Hmac<Sha256> {
        self.mac.clone().chain_update(b"mail").chain_update(said)
    }
}

fn address_bytes(address: &str) -> [u8; ADDRESS_BYTES] {
    let hash = Sha256::digest(address.as_bytes());
    std::array::from_fn(|at| hash[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_user_and_address_and_nobody_else_makes_one() {
        let tokens = Tokens::new(&[7; 32]);
        let user = UserId::generate();
        let token = tokens.make(user, "ann@example.org");
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        // With `bounce+` it is a local part, of which 64 bytes are allowed.
        assert_eq!(token.len(), 55);
        for written in [token.clone(), token.to_ascii_uppercase()] {
            let named = tokens.check(&written).unwrap();
            assert_eq!(named.user, user);
            assert!(named.is_of("ann@example.org") && !named.is_of("ann@example.com"));
        }
        assert_eq!(Tokens::new(&[8; 32]).check(&token), None);
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'a' { b'b' } else { b'a' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(tokens.check(&other), None, "{at}");
            assert_eq!(tokens.check(&token[..at]), None, "{at}");
        }
        for wrong in ["", "-", &format!("{token}aaaaaaaa"), "ü"] {
            assert_eq!(tokens.check(wrong), None, "{wrong}");
        }
    }
}

//! The two cipher suites that are spoken, and the keys of a session.
//!
//! Suite 17 is HMAC-SHA256 with AES-CBC-128, suite 3 the same with SHA-1; BMCs older than about 2013 have only
//! the latter. Suites without encryption or without a password check (0, and all below 3) are not spoken: a
//! BMC that offers nothing better is refused.

use std::fmt;

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use ring::hmac;
use subtle::ConstantTimeEq;

const BLOCK: usize = 16;
/// Length of the constants that session keys are made of (13.32), with either hash.
const CONSTANT: usize = 20;

/// A cipher suite (table 22-20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// 17: RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128.
    Sha256,
    /// 3: RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128.
    Sha1,
}

impl Suite {
    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::Sha256 => 17,
            Self::Sha1 => 3,
        }
    }

    /// Number of the authentication algorithm.
    pub fn authentication(self) -> u8 {
        match self {
            Self::Sha256 => 3,
            Self::Sha1 => 1,
        }
    }

    /// Number of the integrity algorithm.
    pub fn integrity(self) -> u8 {
        match self {
            Self::Sha256 => 4,
            Self::Sha1 => 1,
        }
    }

    /// Number of the confidentiality algorithm.
    pub fn confidentiality(self) -> u8 {
        1
    }

    /// Bytes of the code behind a packet, and of RAKP 4's.
    pub fn code_length(self) -> usize {
        match self {
            Self::Sha256 => 16,
            Self::Sha1 => 12,
        }
    }

    /// HMAC with the suite's hash.
    pub fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        };
        let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
        parts.iter().for_each(|part| context.update(part));
        context.sign().as_ref().to_vec()
    }
}

/// Whether two codes are the same, in a time that does not tell where they differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// What a session signs and encrypts with.
#[derive(Clone)]
pub struct Keys {
    suite: Suite,
    k1: Vec<u8>,
    cipher: Aes128,
}

impl fmt::Debug for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Keys").field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl Keys {
    /// From the session integrity key (13.32).
    pub fn new(suite: Suite, sik: &[u8]) -> Self {
        let k1 = suite.hmac(sik, &[&[1; CONSTANT]]);
        let k2 = suite.hmac(sik, &[&[2; CONSTANT]]);
        let mut key = [0; BLOCK];
        key.copy_from_slice(&k2[..BLOCK]);
        Self { suite, k1, cipher: Aes128::new(&key.into()) }
    }

    /// The suite that they are of.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The code of these bytes.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let mut code = self.suite.hmac(&self.k1, &[bytes]);
        code.truncate(self.suite.code_length());
        code
    }

    /// Whether the code is that of these bytes.
    pub fn verify(&self, bytes: &[u8], code: &[u8]) -> bool {
        same(&self.sign(bytes), code)
    }

    /// AES-CBC as in 13.29: the vector, the bytes, a pad of 1, 2, 3, .. and its length.
    pub fn encrypt(&self, bytes: &[u8], iv: [u8; BLOCK]) -> Vec<u8> {
        let pad = (BLOCK - (bytes.len() + 1) % BLOCK) % BLOCK;
        let mut plain = bytes.to_vec();
        plain.extend((1..=pad).map(|byte| byte as u8));
        plain.push(pad as u8);
        let mut out = iv.to_vec();
        let mut before = iv;
        for block in plain.chunks_exact(BLOCK) {
            let mut mixed = before;
            mixed.iter_mut().zip(block).for_each(|(to, from)| *to ^= from);
            let mut mixed = mixed.into();
            self.cipher.encrypt_block(&mut mixed);
            before = mixed.into();
            out.extend(before);
        }
        out
    }

    /// The other way; `None` when that is no such text.
    pub fn decrypt(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (mut before, text) = bytes.split_first_chunk::<BLOCK>().map(|(iv, text)| (*iv, text))?;
        if text.is_empty() || text.len() % BLOCK != 0 {
            return None;
        }
        let mut plain = Vec::with_capacity(text.len());
        for block in text.chunks_exact(BLOCK) {
            let block: [u8; BLOCK] = block.try_into().ok()?;
            let mut opened = block.into();
            self.cipher.decrypt_block(&mut opened);
            let opened: [u8; BLOCK] = opened.into();
            plain.extend(opened.iter().zip(before).map(|(a, b)| a ^ b));
            before = block;
        }
        let pad = usize::from(plain.pop()?);
        let end = plain.len().checked_sub(pad).filter(|_| pad < BLOCK)?;
        let padded = plain[end..].iter().zip(1..).all(|(byte, expected)| *byte == expected);
        plain.truncate(end);
        padded.then_some(plain)
    }
}

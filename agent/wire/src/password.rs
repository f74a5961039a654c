//! Passwords that BMCs take.
//!
//! IPMI 1.5 passwords have at most 16 bytes, and a BMC's policy may want all classes of letters. Some refuse
//! special letters and some demand one: the first try is without, and when the BMC refuses it (the agent
//! answers `invalid argument`) the second is with.

/// The longest that every BMC takes.
pub const LENGTH: usize = 16;
/// Letters of each class at least.
const AT_LEAST: usize = 2;

const LOWER: &[u8] = b"abcdefghijkmnopqrstuvwxyz";
const UPPER: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ";
const DIGITS: &[u8] = b"23456789";
/// None of them means anything to a shell in quotes, a URL's user part or a BMC's web page.
const SPECIAL: &[u8] = b"-_.+";

/// Makes a password of [`LENGTH`] letters: at least two each of lower case, upper case and digits, and of
/// special ones if wanted; no letter follows itself. About 90 bits. `random` gives random bytes.
pub fn generate(special: bool, random: &mut dyn FnMut() -> u8) -> String {
    let mut classes = vec![LOWER, UPPER, DIGITS];
    if special {
        classes.push(SPECIAL);
    }
    let all = classes.concat();
    loop {
        let password: Vec<u8> = (0..LENGTH).map(|_| pick(&all, random)).collect();
        let enough =
            |class: &&[u8]| password.iter().filter(|letter| class.contains(letter)).count() >= AT_LEAST;
        if classes.iter().all(enough) && password.windows(2).all(|pair| pair[0] != pair[1]) {
            return password.into_iter().map(char::from).collect();
        }
    }
}

/// Each letter is as likely as the others.
fn pick(letters: &[u8], random: &mut dyn FnMut() -> u8) -> u8 {
    let even = 256 / letters.len() * letters.len();
    loop {
        let byte = usize::from(random());
        if byte < even {
            return letters[byte % letters.len()];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_all_classes_and_differ() {
        // A generator of Lehmer's, enough for a test.
        let mut state = 42_u64;
        let mut random = || {
            state = state * 48_271 % 0x7fff_ffff;
            u8::try_from(state >> 8 & 0xff).unwrap()
        };
        let mut seen = std::collections::BTreeSet::new();
        for special in [false, true] {
            for _ in 0..1000 {
                let password = generate(special, &mut random);
                assert_eq!(password.len(), LENGTH);
                for (class, wanted) in [(LOWER, true), (UPPER, true), (DIGITS, true), (SPECIAL, special)] {
                    let count = password.bytes().filter(|letter| class.contains(letter)).count();
                    assert!(if wanted { count >= 2 } else { count == 0 }, "{password}");
                }
                assert!(password.as_bytes().windows(2).all(|pair| pair[0] != pair[1]), "{password}");
                assert!(seen.insert(password));
            }
        }
    }
}

//! What GRUB asks for before it starts a kernel image under Secure Boot: a detached OpenPGP signature (RFC 4880).
//!
//! It is made with the same RSA key as the signature in the image that the firmware checks, so that there is one key
//! to keep. GRUB carries the public half inside its own, signed, image.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Packet tags in the old format with a length of two bytes, the only one that old GRUBs read everywhere.
const PUBLIC_KEY: u8 = 0x99;
const SIGNATURE: u8 = 0x89;
const VERSION: u8 = 4;
const RSA: u8 = 1;
const SHA256: u8 = 8;
/// A signature of bytes, not of text.
const BINARY: u8 = 0;
/// Subpackets: when it was made, and by which key.
const CREATED: u8 = 2;
const ISSUER: u8 = 16;
/// GRUB compares no times; a fixed one gives the same bytes again.
const TIME: [u8; 4] = 1_u32.to_be_bytes();

/// The key's public half, as `grub-mkimage --pubkey` takes it.
pub fn public_key(key: &Path) -> Result<Vec<u8>> {
    let body = key_body(key)?;
    packet(PUBLIC_KEY, &body)
}

/// Signs bytes.
pub fn sign(key: &Path, data: &[u8]) -> Result<Vec<u8>> {
    let body = key_body(key)?;
    let mut hashed = vec![VERSION, BINARY, RSA, SHA256];
    let created: Vec<u8> = [5, CREATED].into_iter().chain(TIME).collect();
    hashed.extend(u16::try_from(created.len())?.to_be_bytes());
    hashed.extend(created);
    // What is signed: the data, what this packet says, and how long that is.
    let mut message = data.to_vec();
    message.extend(&hashed);
    message.extend([VERSION, 0xff]);
    message.extend(u32::try_from(hashed.len())?.to_be_bytes());

    let digest = run(openssl().args(["dgst", "-sha256", "-binary"]), &message)?;
    let signed = run(openssl().args(["dgst", "-sha256", "-sign"]).arg(key).arg("-binary"), &message)
        .with_context(|| format!("cannot sign with {}", key.display()))?;
    let mut packet_body = hashed;
    let issuer: Vec<u8> = [9, ISSUER].into_iter().chain(key_id(&body)?).collect();
    packet_body.extend(u16::try_from(issuer.len())?.to_be_bytes());
    packet_body.extend(issuer);
    packet_body.extend(digest.get(..2).context("openssl gave no digest")?);
    packet_body.extend(number(&signed)?);
    packet(SIGNATURE, &packet_body)
}

/// Version, time, algorithm, modulus, exponent.
fn key_body(key: &Path) -> Result<Vec<u8>> {
    let mut command = openssl();
    command.args(["rsa", "-RSAPublicKey_out", "-outform", "DER", "-in"]).arg(key);
    let der = run(&mut command, b"").with_context(|| format!("{} is no RSA key in PEM", key.display()))?;
    let (modulus, exponent) = rsa_numbers(&der).context("openssl gave no RSA key")?;
    let mut body = vec![VERSION];
    body.extend(TIME);
    body.push(RSA);
    body.extend(number(modulus)?);
    body.extend(number(exponent)?);
    Ok(body)
}

/// The last eight bytes of the key's fingerprint, which is a SHA-1 by definition.
fn key_id(body: &[u8]) -> Result<[u8; 8]> {
    let hash = run(openssl().args(["dgst", "-sha1", "-binary"]), &packet(PUBLIC_KEY, body)?)?;
    hash.last_chunk().copied().context("openssl gave no fingerprint")
}

fn packet(tag: u8, body: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(body.len()).context("the key is too large")?;
    Ok([&[tag][..], &length.to_be_bytes(), body].concat())
}

/// A number as OpenPGP has it: its length in bits, and no zeroes in front.
fn number(bytes: &[u8]) -> Result<Vec<u8>> {
    let start = bytes.iter().position(|byte| *byte != 0).context("a key has no zeroes")?;
    let bytes = &bytes[start..];
    let bits = u16::try_from(bytes.len() * 8)? - u16::try_from(bytes[0].leading_zeros())?;
    Ok([&bits.to_be_bytes()[..], bytes].concat())
}

/// The two integers of a DER `RSAPublicKey`.
fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, _) = element(der, 0x30)?;
    let (modulus, rest) = element(sequence, 0x02)?;
    let (exponent, _) = element(rest, 0x02)?;
    Some((modulus, exponent))
}

/// A DER element: its content, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], mut rest) = der.split_first_chunk()?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let (length, after) =
            rest.split_at_checked(usize::from(first & 0x7f)).filter(|(l, _)| l.len() <= 4)?;
        rest = after;
        length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
    };
    (found == tag).then(|| rest.split_at_checked(length))?
}

fn openssl() -> Command {
    Command::new("openssl")
}

/// What a program prints when it is given bytes.
fn run(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let mut file = tempfile::tempfile().context("no temporary file")?;
    file.write_all(input)?;
    std::io::Seek::rewind(&mut file)?;
    let output = command
        .stdin(Stdio::from(file))
        .output()
        .with_context(|| format!("cannot run {:?}: apt-get install openssl", command.get_program()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(directory: &Path) -> std::path::PathBuf {
        let path = directory.join("key.pem");
        run(openssl().args(["genrsa", "-out"]).arg(&path).arg("2048"), b"").unwrap();
        path
    }

    #[test]
    fn the_signature_is_the_key_s_and_of_the_data() {
        let directory = tempfile::tempdir().unwrap();
        let key = key(directory.path());
        let packet = sign(&key, b"kernel").unwrap();
        let body = &packet[3..];
        assert_eq!((packet[0], body[..6].to_vec()), (SIGNATURE, vec![VERSION, BINARY, RSA, SHA256, 0, 6]));
        let (hashed, rest) = body.split_at(12);
        assert_eq!(rest[..4], [0, 10, 9, ISSUER]);
        assert_eq!(rest[4..12], key_id(&key_body(&key).unwrap()).unwrap());
        // A digest's beginning and the number's length in bits are before the number, which has no zeroes in front.
        let mut number = rest[16..].to_vec();
        while number.len() < 256 {
            number.insert(0, 0);
        }
        let (public, signature) = (directory.path().join("public"), directory.path().join("signature"));
        run(openssl().args(["rsa", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public), b"").unwrap();
        std::fs::write(&signature, number).unwrap();
        let trailer = [VERSION, 0xff, 0, 0, 0, 12];
        let verify = |data: &[u8]| {
            let mut command = openssl();
            command.args(["dgst", "-sha256", "-verify"]).arg(&public).arg("-signature").arg(&signature);
            run(&mut command, &[data, hashed, &trailer].concat())
        };
        assert!(verify(b"kernel").is_ok());
        assert!(verify(b"kernel!").is_err());
    }

    #[test]
    fn a_public_key_is_a_packet_with_modulus_and_exponent() {
        let directory = tempfile::tempdir().unwrap();
        let packet = public_key(&key(directory.path())).unwrap();
        assert_eq!(packet[..12], [PUBLIC_KEY, 1, 13, VERSION, 0, 0, 0, 1, RSA, 0x08, 0x00, packet[11]]);
        assert_eq!(packet[packet.len() - 5..], [0, 17, 1, 0, 1]);
        assert_eq!(usize::from(packet[1]) * 256 + usize::from(packet[2]), packet.len() - 3);
    }

    #[test]
    fn the_same_bytes_have_the_same_signature() {
        let directory = tempfile::tempdir().unwrap();
        let key = key(directory.path());
        assert_eq!(sign(&key, b"x").unwrap(), sign(&key, b"x").unwrap());
        assert_ne!(sign(&key, b"x").unwrap(), sign(&key, b"y").unwrap());
    }

    #[test]
    fn what_is_no_rsa_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ec.pem");
        run(openssl().args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"]).arg(&path), b"")
            .unwrap();
        assert!(format!("{:#}", sign(&path, b"").unwrap_err()).contains("no RSA key"));
        assert!(public_key(&directory.path().join("none")).is_err());
        assert!(rsa_numbers(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).is_none());
        assert!(rsa_numbers(b"").is_none());
    }
}

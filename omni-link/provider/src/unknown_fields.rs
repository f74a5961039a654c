//! Keeps what a newer writer put into a message and this version does not know.
//!
//! `prost` passes over unknown fields. Writing such a message back would delete them, which Omni takes for
//! an attempt to change what is not ours.

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

/// `new` as bytes, after every field of `old` that `T` does not know. They come first: should one be known
/// after all (an explicit zero), the field of `new` behind it counts.
#[must_use]
pub fn encode_keeping<T: Message + Default + PartialEq>(old: &Bytes, new: &T) -> Bytes {
    let mut bytes = unknown_of::<T>(old);
    if bytes.is_empty() {
        return new.encode_to_vec().into();
    }
    // Writing into a Vec does not fail.
    let _ = new.encode(&mut bytes);
    bytes.into()
}

fn unknown_of<T: Message + Default + PartialEq>(old: &Bytes) -> Vec<u8> {
    let mut unknown = Vec::new();
    let mut rest = old.clone();
    while rest.has_remaining() {
        let before = rest.clone();
        let Ok((tag, wire_type)) = decode_key(&mut rest) else { break };
        if wire_type == WireType::EndGroup
            || skip_field(wire_type, tag, &mut rest, DecodeContext::default()).is_err()
        {
            break;
        }
        let field = before.slice(..before.len() - rest.len());
        if T::decode(field.clone()).is_ok_and(|message| message == T::default()) {
            unknown.extend_from_slice(&field);
        }
    }
    unknown
}

#[cfg(test)]
mod tests;

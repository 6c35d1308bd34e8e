//! D-Bus messages: written in little endian, read in either byte order (the D-Bus specification, "Message Protocol").
//!
//! Incoming messages are parsed defensively: the bus is not part of weft.

use std::io;

/// Maximum length of an answer.
const LONGEST: usize = 1 << 20;

/// Message types and header fields.
const METHOD_CALL: u8 = 1;
pub(super) const METHOD_RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// `NO_AUTO_START`: do not start a service that is not running.
const NO_AUTO_START: u8 = 2;

/// A string.
#[derive(Debug, Clone, Copy)]
pub(in crate::netlink::firewalld) struct Argument<'a>(pub(in crate::netlink::firewalld) &'a str);

/// An answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) reply_to: u32,
    pub(super) error: String,
    signature: String,
    body: Vec<u8>,
}

pub(super) fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the bus sent a message that makes no sense")
}

/// Lengths of a message's header fields and body.
pub(super) fn lengths(start: &[u8; 16]) -> io::Result<(usize, usize)> {
    let &[order, _, _, _, a, b, c, d, _, _, _, _, e, f, g, h] = start;
    let number = |bytes| if order == b'B' { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    let (body, fields) = (number([a, b, c, d]) as usize, number([e, f, g, h]) as usize);
    if !matches!(order, b'l' | b'B') || body > LONGEST || fields > LONGEST {
        return Err(nonsense());
    }
    Ok((fields, body))
}

// === writing ===

pub(super) fn method_call(serial: u32, to: (&str, &str, &str, &str), arguments: &[Argument<'_>]) -> Vec<u8> {
    let (service, path, interface, method) = to;
    let mut body = Vec::new();
    for Argument(text) in arguments {
        put_string(&mut body, text);
    }
    let mut fields = Vec::new();
    for (code, kind, text) in [
        (FIELD_PATH, b'o', path),
        (FIELD_INTERFACE, b's', interface),
        (FIELD_MEMBER, b's', method),
        (FIELD_DESTINATION, b's', service),
    ] {
        align(&mut fields, 8);
        fields.extend([code, 1, kind, 0]);
        put_string(&mut fields, text);
    }
    if !arguments.is_empty() {
        align(&mut fields, 8);
        fields.extend([FIELD_SIGNATURE, 1, b'g', 0]);
        fields.push(u8::try_from(arguments.len()).unwrap_or(u8::MAX));
        fields.extend(arguments.iter().map(|_| b's'));
        fields.push(0);
    }
    let mut message = vec![b'l', METHOD_CALL, NO_AUTO_START, 1];
    for number in [size(&body), serial, size(&fields)] {
        message.extend(number.to_le_bytes());
    }
    message.extend(fields);
    align(&mut message, 8);
    message.extend(body);
    message
}

fn size(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    align(bytes, 4);
    bytes.extend(size(text.as_bytes()).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

// === reading ===

/// A position in a message; alignment counts from the message's beginning.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Cursor<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn string(&mut self) -> Option<String> {
        let length = self.number()? as usize;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(text)
    }
}

impl Message {
    /// Parses a message; `rest` is what follows the first 16 bytes.
    pub(super) fn read(start: &[u8; 16], fields: usize, rest: &[u8]) -> Option<Self> {
        let big = start.first() == Some(&b'B');
        let mut message = Self { kind: *start.get(1)?, ..Self::default() };
        // Up to here the header's length is a multiple of 8, so alignment may count from `rest`.
        let mut cursor = Cursor { bytes: rest.get(..fields)?, at: 0, big };
        while cursor.at < fields {
            cursor.align(8);
            if cursor.at >= fields {
                break;
            }
            let code = cursor.byte()?;
            let kind = cursor.signature()?;
            match (code, kind.as_str()) {
                (FIELD_ERROR_NAME, "s") => message.error = cursor.string()?,
                (FIELD_REPLY_SERIAL, "u") => message.reply_to = cursor.number()?,
                (FIELD_SIGNATURE, "g") => message.signature = cursor.signature()?,
                (_, "s" | "o") => drop(cursor.string()?),
                (_, "u") => drop(cursor.number()?),
                (_, "g") => drop(cursor.signature()?),
                _ => return None,
            }
        }
        message.body = rest.get(fields.next_multiple_of(8)..)?.to_vec();
        if big && !message.body.is_empty() {
            // Nobody answers in another byte order than the request's; the body would have to be converted.
            return None;
        }
        Some(message)
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let mut cursor = Cursor { bytes: &self.body, at: 0, big: false };
        if self.signature.starts_with('b') { Some(cursor.number()? != 0) } else { None }
    }

    /// Returns the first argument, if it is a text.
    pub(super) fn first_text(&self) -> String {
        let mut cursor = Cursor { bytes: &self.body, at: 0, big: false };
        let text = if self.signature.starts_with('s') { cursor.string() } else { None };
        text.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn reply(kind: u8, signature: &str, body: &[u8]) -> Vec<u8> {
        let mut fields = vec![FIELD_REPLY_SERIAL, 1, b'u', 0];
        fields.extend(7_u32.to_le_bytes());
        if kind == ERROR {
            align(&mut fields, 8);
            fields.extend([FIELD_ERROR_NAME, 1, b's', 0]);
            put_string(&mut fields, "org.example.Error");
        }
        align(&mut fields, 8);
        fields.extend([FIELD_SIGNATURE, 1, b'g', 0, u8::try_from(signature.len()).unwrap()]);
        fields.extend(signature.bytes());
        fields.push(0);
        let mut message = vec![b'l', kind, 0, 1];
        for number in [size(body), 1, size(&fields)] {
            message.extend(number.to_le_bytes());
        }
        message.extend(fields);
        align(&mut message, 8);
        message.extend(body);
        message
    }

    fn parsed(bytes: &[u8]) -> Option<Message> {
        let (start, rest) = bytes.split_first_chunk::<16>()?;
        let (fields, body) = lengths(start).ok()?;
        let rest = rest.get(..fields.checked_next_multiple_of(8)?.checked_add(body)?)?;
        Message::read(start, fields, rest)
    }

    #[test]
    fn answers() {
        let message = parsed(&reply(METHOD_RETURN, "b", &1_u32.to_le_bytes())).unwrap();
        assert_eq!((message.reply_to, message.boolean()), (7, Some(true)));
        let mut text = Vec::new();
        put_string(&mut text, "ZONE_ALREADY_SET: trusted");
        let message = parsed(&reply(ERROR, "s", &text)).unwrap();
        assert_eq!(
            (message.error.as_str(), message.first_text().as_str()),
            ("org.example.Error", "ZONE_ALREADY_SET: trusted")
        );
        assert_eq!(message.boolean(), None);
    }

    #[test]
    fn calls() {
        let bytes = method_call(3, ("org.example", "/o", "org.example.I", "M"), &[Argument("x"), Argument("yy")]);
        let message = parsed(&bytes).unwrap();
        assert_eq!((message.kind, message.signature.as_str(), message.first_text().as_str()), (METHOD_CALL, "ss", "x"));
        assert_eq!(bytes.len() % 4, 3, "the last string is not padded");
    }

    proptest! {
        /// Any input is parsed or refused.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(message) = parsed(&bytes) {
                message.boolean();
                message.first_text();
            }
        }

        /// Changed single bytes do no harm either.
        #[test]
        fn corrupted_messages_are_errors(at in 0_usize..80, to in any::<u8>()) {
            let mut text = Vec::new();
            put_string(&mut text, "ZONE_ALREADY_SET");
            let mut bytes = reply(ERROR, "s", &text);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            if let Some(message) = parsed(&bytes) {
                message.boolean();
                message.first_text();
            }
        }
    }
}

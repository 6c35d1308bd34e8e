//! Domain names in DNS wire format, as options 119 (RFC 3397, compressed) and 24 of DHCPv6 carry them.

/// Longest name.
const MAX_NAME: usize = 253;
/// The high bits that mark a length octet as a pointer.
const POINTER: u8 = 0xc0;

/// Reads names up to the end. `None` if they are malformed: half a list would be a wrong list.
pub(crate) fn read(bytes: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (name, next) = name(bytes, at)?;
        at = next;
        if !name.is_empty() {
            names.push(name);
        }
    }
    Some(names)
}

/// Returns one name and the start of the next one. A pointer must point backwards, so there are no loops.
fn name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let (mut at, mut next, mut bound) = (start, None, start);
    loop {
        let length = *bytes.get(at)?;
        match length & POINTER {
            POINTER => {
                let low = *bytes.get(at + 1)?;
                let target = usize::from(length & !POINTER) << 8 | usize::from(low);
                next.get_or_insert(at + 2);
                if target >= bound {
                    return None;
                }
                (at, bound) = (target, target);
            }
            0 if length == 0 => return Some((name, next.unwrap_or(at + 1))),
            0 => {
                let label = bytes.get(at + 1..at + 1 + usize::from(length))?;
                if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                name.extend(label.iter().map(|byte| char::from(*byte)));
                if name.len() > MAX_NAME {
                    return None;
                }
                at += 1 + usize::from(length);
            }
            _ => return None,
        }
    }
}

/// Writes names without compression; labels are truncated to the maximum of a length octet.
pub(crate) fn write(names: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        for label in name.split('.').filter(|label| !label.is_empty()) {
            let label = &label.as_bytes()[..label.len().min(63)];
            bytes.push(u8::try_from(label.len()).unwrap_or(63));
            bytes.extend(label);
        }
        bytes.push(0);
    }
    bytes
}

/// Reads a text option that should be one domain name (option 15): trailing zero bytes and a trailing dot are common.
pub(crate) fn read_domain(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_matches(['\0', ' ']).trim_end_matches('.');
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!text.is_empty() && text.len() <= MAX_NAME && text.chars().all(fine)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_example_of_rfc_3397_is_read() {
        let bytes = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04";
        assert_eq!(read(bytes).unwrap(), ["eng.apple.com", "marketing.apple.com"]);
    }

    #[test]
    fn loops_forward_pointers_and_odd_labels_are_refused() {
        for bytes in [
            &b"\xc0\x00"[..],
            b"\x01a\xc0\x00\xc0",
            b"\x01a\xc0\x04\x01b\x00",
            b"\x05ab",
            b"\x02a b\x00",
            b"\x80a",
            b"\x03a b\x00",
        ] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
        assert_eq!(read(b"\x00").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_plain_name_is_a_name() {
        assert_eq!(read_domain(b"lan.example.\0").as_deref(), Some("lan.example"));
        assert_eq!(read_domain(b"two names"), None);
        assert_eq!(read_domain(b"\nnameserver 6.6.6.6"), None);
        assert_eq!(read_domain(b""), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            for name in read(&bytes).unwrap_or_default() {
                proptest::prop_assert!(name.len() <= MAX_NAME);
            }
            proptest::prop_assert!(read_domain(&bytes).is_none_or(|name| name.len() <= bytes.len()));
        }
    }
}

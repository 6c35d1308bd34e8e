//! The syntax of names: of containers, networks and interfaces.

use super::{CniError, code};

/// Returns whether a text consists of `[a-zA-Z0-9_.-]` and starts with a letter or digit.
fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Checks the syntax of a container id.
///
/// # Errors
/// Code 4.
pub fn check_container_id(id: &str) -> Result<(), CniError> {
    if id.is_empty() {
        return Err(CniError::new(code::INVALID_ENVIRONMENT, "missing containerID"));
    }
    if !is_identifier(id) {
        return Err(CniError::new(code::INVALID_ENVIRONMENT, "invalid characters in containerID").with_details(id));
    }
    Ok(())
}

/// Checks the syntax of a network name.
///
/// # Errors
/// Code 7.
pub fn check_name(name: &str) -> Result<(), CniError> {
    if name.is_empty() {
        return Err(CniError::new(code::INVALID_CONFIG, "missing network name"));
    }
    if !is_identifier(name) {
        return Err(CniError::new(code::INVALID_CONFIG, "invalid characters found in network name").with_details(name));
    }
    Ok(())
}

/// Checks the syntax of an interface name, by the kernel's rules.
///
/// # Errors
/// Code 4.
pub fn check_ifname(name: &str) -> Result<(), CniError> {
    let bad = |msg: &str| CniError::new(code::INVALID_ENVIRONMENT, msg);
    if name.is_empty() {
        return Err(bad("interface name is empty"));
    }
    if name.len() > 15 {
        return Err(bad("interface name is too long").with_details("interface name should be less than 16 characters"));
    }
    if name == "." || name == ".." {
        return Err(bad("interface name is . or .."));
    }
    // The kernel's isspace() covers ASCII and the no-break space of Latin-1. NUL would end the name early.
    if name.chars().any(|c| matches!(c, '/' | ':' | '\0') || c.is_whitespace()) {
        return Err(bad("interface name contains / or : or whitespace characters"));
    }
    // For a new link the kernel expands `%d` as a pattern, and refuses any other % (`dev_alloc_name` in
    // <https://elixir.bootlin.com/linux/v6.12/source/net/core/dev.c>): no link has such a name.
    if name.contains('%') {
        return Err(bad("interface name contains %"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn interface_names_follow_the_kernel() {
        let error = |name: &str| check_ifname(name).unwrap_err();
        let long = error("abcdefghijklmnop");
        assert_eq!((long.code, long.msg.as_str()), (4, "interface name is too long"));
        assert_eq!(long.details, "interface name should be less than 16 characters");
        assert_eq!(error("..").msg, "interface name is . or ..");
        for name in ["a/b", "a:b", "a b", "a\tb", "a\u{a0}b"] {
            assert_eq!(error(name).msg, "interface name contains / or : or whitespace characters");
        }
        assert!(check_ifname("abcdefghijklmno").is_ok());
        assert_eq!(error("eth%d").msg, "interface name contains %");
        assert!(check_ifname("...").is_ok());
    }

    #[test]
    fn identifiers_start_with_a_letter_or_digit() {
        for good in ["a", "9", "a.b-c_d", "0.1"] {
            assert!(check_name(good).is_ok() && check_container_id(good).is_ok(), "{good}");
        }
        for bad in [".a", "-a", "_a", "a b", "a/b", "ä", "a\n"] {
            let (name, id) = (check_name(bad).unwrap_err(), check_container_id(bad).unwrap_err());
            assert_eq!((name.code, name.msg.as_str()), (7, "invalid characters found in network name"));
            assert_eq!((id.code, id.msg.as_str()), (4, "invalid characters in containerID"));
        }
        assert_eq!(check_name("").unwrap_err().msg, "missing network name");
        assert_eq!(check_container_id("").unwrap_err().msg, "missing containerID");
    }
}

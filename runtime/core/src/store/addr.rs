//! Addresses in the form in which the store keeps them: fixed-width big-endian blobs, so that SQLite's byte order is
//! address order.
//!
//! The families never mix: the length of a blob (4 or 16) determines its family, and every table that is searched in
//! order also has a family column. Not here: normalising IPv4-mapped IPv6 addresses, which `verify` refuses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// An address as a column value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blob {
    bytes: [u8; 16],
    len: usize,
}

impl Blob {
    pub(crate) fn new(address: IpAddr) -> Self {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(v4) => {
                bytes[..4].copy_from_slice(&v4.octets());
                Self { bytes, len: 4 }
            }
            IpAddr::V6(v6) => Self { bytes: v6.octets(), len: 16 },
        }
    }
}

impl ToSql for Blob {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(&self.bytes[..self.len])))
    }
}

/// An address read from a column; a blob of any other length is an error, not a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored(pub(crate) IpAddr);

impl FromSql for Stored {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let blob = value.as_blob()?;
        if let Ok(four) = <[u8; 4]>::try_from(blob) {
            return Ok(Self(IpAddr::V4(Ipv4Addr::from(four))));
        }
        match <[u8; 16]>::try_from(blob) {
            Ok(sixteen) => Ok(Self(IpAddr::V6(Ipv6Addr::from(sixteen)))),
            Err(_other_length) => Err(FromSqlError::InvalidBlobSize { expected_size: 16, blob_size: blob.len() }),
        }
    }
}

/// Returns the value of the family column: 4 or 6.
pub(crate) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// Returns the next address, or `None` after the last of its family.
pub(crate) fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// Returns the previous address, or `None` before the first of its family.
pub(crate) fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_sub(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_sub(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// Returns how many addresses lie from `first` to `last`, including both; saturating; 0 if they are in the wrong order
/// or of two families.
pub(crate) fn count(first: IpAddr, last: IpAddr) -> u64 {
    let wide = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(u32::from(b)).checked_sub(u128::from(u32::from(a))),
        (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(b).checked_sub(u128::from(a)),
        _ => None,
    };
    wide.map_or(0, |between| u64::try_from(between.saturating_add(1)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn blobs_read_back_and_keep_the_family() {
        for text in ["0.0.0.0", "255.255.255.255", "10.1.2.3", "::", "::ffff:10.1.2.3", "2001:db8::1"] {
            let address = ip(text);
            let blob = Blob::new(address);
            let ToSqlOutput::Borrowed(value) = blob.to_sql().unwrap() else { panic!("not borrowed") };
            assert_eq!(Stored::column_result(value).unwrap(), Stored(address));
        }
        assert!(Stored::column_result(ValueRef::Blob(&[1, 2, 3])).is_err());
        assert!(Stored::column_result(ValueRef::Text(b"10.0.0.1")).is_err());
    }

    #[test]
    fn the_ends_of_a_family_have_no_neighbours() {
        assert_eq!(next(ip("255.255.255.255")), None);
        assert_eq!(next(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), None);
        assert_eq!(previous(ip("0.0.0.0")), None);
        assert_eq!(previous(ip("::")), None);
        assert_eq!(next(ip("10.0.0.255")), Some(ip("10.0.1.0")));
        assert_eq!(previous(ip("2001:db8:1::")), Some(ip("2001:db8:0:ffff:ffff:ffff:ffff:ffff")));
    }

    #[test]
    fn counting_saturates() {
        assert_eq!(count(ip("0.0.0.0"), ip("255.255.255.255")), 1 << 32);
        assert_eq!(count(ip("::"), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), u64::MAX);
        assert_eq!(count(ip("10.0.0.2"), ip("10.0.0.1")), 0);
        assert_eq!(count(ip("10.0.0.2"), ip("::1")), 0);
        assert_eq!(count(ip("::1"), ip("::1")), 1);
    }
}

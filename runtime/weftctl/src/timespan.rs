//! Durations on the command line, in the stock daemon's syntax: `10s`, `1m2s`,
//! `1500ms`.

use std::time::Duration;

/// Parses a duration. Zero is refused.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write for example 10s, 1m2s or 1500ms");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_not_a_number| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let one = match &rest[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            _ => return Err(wrong()),
        };
        total += one * number;
        rest = &rest[unit..];
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_stock_daemon_reads_them() {
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("1m2s"), Ok(Duration::from_secs(62)));
        assert_eq!(parse("1500ms"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "10", "s", "1d", "0s", "-1s", "1m2", "99999999999s"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

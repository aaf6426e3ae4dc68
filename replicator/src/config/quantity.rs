//! Durations and sizes as people write them: `250ms`, `7d`, `1GiB`, `5%`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest duration, in seconds: a hundred years, so that adding it to a
/// clock never overflows.
const SECONDS_MAX: u64 = 100 * 365 * 24 * 60 * 60;

/// `0`, `5` (seconds, as in lsyncd), `250ms`, `1.5s`, `10m`, `2h`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let millis_per_unit: f64 = match unit {
        "ms" => 1.0,
        "" | "s" => 1e3,
        "m" | "min" => 60e3,
        "h" => 3600e3,
        "d" => 86_400e3,
        _ => return Err(NO_DURATION.into()),
    };
    let millis = parse_number(number).ok_or(NO_DURATION)? * millis_per_unit;
    if millis > SECONDS_MAX as f64 * 1e3 {
        return Err("is longer than a hundred years".into());
    }
    // Rounded up, so that no wait becomes none.
    Ok(Duration::from_millis(millis.ceil() as u64))
}

/// `4096`, `512KiB`, `1GiB`, `1.5TB`, in bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let unit = unit.to_ascii_lowercase();
    let bytes_per_unit: u64 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(NO_SIZE.into()),
    };
    let bytes = parse_number(number).ok_or(NO_SIZE)? * bytes_per_unit as f64;
    if bytes > i64::MAX as f64 {
        return Err("is more than any file system holds".into());
    }
    Ok(bytes as u64)
}

/// Space to leave free on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    Bytes(u64),
    /// Of the file system's size, 0 to 100.
    Percent(u8),
}

impl MinFree {
    /// In bytes, on a file system of this size.
    pub fn bytes_of(self, file_system_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (file_system_bytes / 100).saturating_mul(percent.into()),
        }
    }
}

impl FromStr for MinFree {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix('%') {
            None => parse_size(text).map(Self::Bytes),
            Some(number) => match number.trim().parse() {
                Ok(percent @ 0..=100) => Ok(Self::Percent(percent)),
                _ => Err(NO_SIZE.into()),
            },
        }
    }
}

impl fmt::Display for MinFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

const NO_DURATION: &str = "is no duration: write it like 250ms, 10s, 5m, 2h or 7d";
const NO_SIZE: &str = "is no size: write it like 512MiB, 10GiB or, for free space, 5%";

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    (number, unit.trim_start())
}

/// Digits with at most one point; no sign, exponent or infinity.
fn parse_number(text: &str) -> Option<f64> {
    if !text.starts_with(|character: char| character.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("5", 5_000),
            ("250ms", 250),
            ("1.5s", 1_500),
            ("10 s", 10_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("0.1ms", 1),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "-1s", "1e9s", "inf", "1..2s", "5 weeks", "40000000000h", ".5s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("4096", 4096), ("1GiB", 1 << 30), ("1 g", 1 << 30), ("1.5kB", 1500), ("0", 0)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "GiB", "1 ZiB", "-1", "99999999TiB", "5%"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn free_space_is_a_size_or_a_share() {
        assert_eq!("5%".parse(), Ok(MinFree::Percent(5)));
        assert_eq!("1GiB".parse(), Ok(MinFree::Bytes(1 << 30)));
        assert!("101%".parse::<MinFree>().is_err());
        assert!("-1%".parse::<MinFree>().is_err());
        assert_eq!(MinFree::Percent(5).bytes_of(1_000), 50);
        assert_eq!(MinFree::Bytes(7).bytes_of(1_000), 7);
    }
}

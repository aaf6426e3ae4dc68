//! Points in time as names: sortable text that people can read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `20261122T224512.123456789Z`: the text order is the order of time.
pub(super) fn name(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let nanos = since.subsec_nanos();
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{nanos:09}Z")
}

/// How many bytes every name has: up to the year 9999.
pub(super) const NAME_BYTES: usize = 26;

/// Days since 1970 to a date of the Gregorian calendar: counting years from
/// March puts the leap day at their end, and 400 of them have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| name(UNIX_EPOCH + Duration::new(seconds, 7));
        assert_eq!(at(0), "19700101T000000.000000007Z");
        assert_eq!(at(951_782_400), "20000229T000000.000000007Z");
        assert_eq!(at(1_795_387_512), "20261122T224512.000000007Z");
        assert_eq!(at(4_107_542_400), "21000301T000000.000000007Z");
        assert_eq!(at(0).len(), NAME_BYTES);
    }
}

//! Local time as text, and what the kernel thinks of its clock.
//!
//! The one place of this room with `unsafe`: the C library owns the time
//! zone data.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// As `ctime(3)` writes it, without the line end: `Sun Nov 22 12:35:48 2026`.
pub fn ctime(when: SystemTime) -> String {
    let time = local(when);
    let pick = |names: &[&'static str], index: libc::c_int| {
        usize::try_from(index).ok().and_then(|index| names.get(index).copied()).unwrap_or("???")
    };
    format!(
        "{} {} {:>2} {:02}:{:02}:{:02} {}",
        pick(&WEEKDAYS, time.tm_wday),
        pick(&MONTHS, time.tm_mon),
        time.tm_mday,
        time.tm_hour,
        time.tm_min,
        time.tm_sec,
        i64::from(time.tm_year) + 1900
    )
}

/// The time of day: `12:35:48`.
pub fn time_of_day(when: SystemTime) -> String {
    let time = local(when);
    format!("{:02}:{:02}:{:02}", time.tm_hour, time.tm_min, time.tm_sec)
}

/// The instant so many milliseconds after 1970.
pub fn from_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
}

/// Milliseconds since 1970, 0 before.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Does something (NTP) keep the kernel's clock right? `None` where the kernel
/// does not tell.
pub fn is_disciplined() -> Option<bool> {
    // SAFETY: `timex` is a structure of integers, for which zero is a valid
    // value; `modes` 0 asks the kernel to change nothing.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&mut timex)
    };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

fn local(when: SystemTime) -> libc::tm {
    let seconds = match when.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    };
    // SAFETY: `tm` is a structure of integers and a pointer that may be null,
    // so zero is a valid value; both pointers are valid for the call. A year
    // out of range leaves `tm` as it is.
    unsafe {
        let mut time: libc::tm = std::mem::zeroed();
        libc::localtime_r(&seconds, &mut time);
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_date_prints() {
        let when = UNIX_EPOCH + Duration::from_secs(1_795_350_948);
        let date = std::process::Command::new("date")
            .args(["-d", "@1795350948", "+%a %b %e %H:%M:%S %Y"])
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        assert_eq!(ctime(when), String::from_utf8(date.stdout).unwrap().trim_end());
        assert!(ctime(when).contains(&time_of_day(when)));
    }

    #[test]
    fn absurd_instants_do_not_panic() {
        ctime(from_ms(u64::MAX));
        ctime(UNIX_EPOCH - Duration::from_secs(1));
    }
}

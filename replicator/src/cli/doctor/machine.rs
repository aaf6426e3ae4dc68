//! What the kernel and the user's privileges allow, whatever the folder.

use std::time::SystemTime;

use super::Check;
use crate::status::clock;

/// Buffer of a UDP socket that lost no packets on loopback, in bytes.
const UDP_BUFFER_BYTES: u64 = 4 << 20;

/// 2026-01-01: no clock that is right shows an earlier time than the program
/// was written.
const EARLIEST_SECONDS: u64 = 1_767_225_600;

/// Capabilities the daemon uses: number, name, what it is for. That of the
/// system's administrator stands for CAP_BPF and CAP_PERFMON (capabilities(7)).
const CAPABILITIES: [(u32, &str, &str); 5] = [
    (0, "CAP_CHOWN", "owners"),
    (1, "CAP_DAC_OVERRIDE", "writing any file"),
    (2, "CAP_DAC_READ_SEARCH", "reading any file"),
    (3, "CAP_FOWNER", "modes and times of any file"),
    (21, "CAP_SYS_ADMIN", "fanotify and ebpf"),
];

pub fn checks() -> Vec<Check> {
    vec![kernel(), btf(), privileges(), io_uring(), udp_buffers(), clock_sanity()]
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    let mut next = || numbers.next().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    let version = (next(), next());
    let advice = "openat2 needs Linux 5.6, and 6.1 is the oldest one tested: use a newer kernel";
    Check::new("kernel", version >= (6, 1), format!("Linux {release}"), advice)
}

fn btf() -> Check {
    let path = "/sys/kernel/btf/vmlinux";
    let advice = "no ebpf capture, so changed files are compared leaf by leaf: \
                  use a kernel built with CONFIG_DEBUG_INFO_BTF";
    match std::fs::File::open(path) {
        Ok(_) => Check::new("kernel types (BTF)", true, path, advice),
        Err(error) => Check::new("kernel types (BTF)", false, format!("{path}: {error}"), advice),
    }
}

fn privileges() -> Check {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or(0);
    let lacking: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(number, ..)| held & (1 << number) == 0)
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    let user = rustix::process::geteuid().as_raw();
    let advice = "only files of this user are replicated faithfully, and capture falls to a lower \
                  level: run as root or grant the capabilities";
    if lacking.is_empty() {
        return Check::new("privileges", true, format!("user {user} has all that is used"), advice);
    }
    Check::new("privileges", false, format!("user {user} lacks {}", lacking.join(", ")), advice)
}

fn io_uring() -> Check {
    let advice = "files are read and written by a pool of threads instead: allow io_uring \
                  (sysctl kernel.io_uring_disabled=0, and the container's seccomp profile)";
    match io_uring::IoUring::new(2) {
        Ok(_) => Check::new("io_uring", true, "allowed", advice),
        Err(error) => Check::new("io_uring", false, error.to_string(), advice),
    }
}

fn udp_buffers() -> Check {
    let limit = |name: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}"));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    let (receive, send) = (limit("rmem_max"), limit("wmem_max"));
    let advice = "bursts may lose packets, which costs speed: \
                  sysctl -w net.core.rmem_max=7864320 net.core.wmem_max=7864320";
    let ok = receive.min(send) >= UDP_BUFFER_BYTES;
    Check::new("UDP buffers", ok, format!("receive {receive}, send {send} bytes at most"), advice)
}

fn clock_sanity() -> Check {
    let now = SystemTime::now();
    let text = clock::ctime(now);
    let advice = "conflicts are decided by the time of change, so set the clock and keep it right \
                  (chrony or systemd-timesyncd)";
    if clock::now_ms() / 1000 < EARLIEST_SECONDS {
        return Check::new("clock", false, format!("{text} is in the past"), advice);
    }
    match clock::is_disciplined() {
        Some(false) => Check::new("clock", false, format!("{text}, not synchronised"), advice),
        Some(true) => Check::new("clock", true, format!("{text}, synchronised"), advice),
        None => Check::new("clock", true, text, advice),
    }
}

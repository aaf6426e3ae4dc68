//! What this process costs the machine.

use rustix::time::{ClockId, clock_gettime};

use super::ProcessFacts;

impl ProcessFacts {
    /// Of the calling process, now.
    pub fn measure() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_ms = u64::try_from(cpu.tv_sec).unwrap_or(0) * 1000
            + u64::try_from(cpu.tv_nsec).unwrap_or(0) / 1_000_000;
        // The second number is the resident pages; without /proc it is
        // unknown, which a display shows as none.
        let pages = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
            .unwrap_or(0);
        Self { cpu_ms, rss_bytes: pages * rustix::param::page_size() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_time_are_seen() {
        let before = ProcessFacts::measure();
        let block = vec![1_u8; 64 << 20];
        let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
        let after = ProcessFacts::measure();
        assert_eq!(sum, 64 << 20);
        assert!(after.rss_bytes >= 64 << 20, "{after:?}");
        assert!(after.cpu_ms > before.cpu_ms, "{before:?} {after:?}");
        drop(block);
    }
}

//! Whether the ports of tasks are safe from the kernel, which gives ports to connections as it pleases.

use std::{fs, ops::RangeInclusive};

/// A sentence when ports of `tasks` may be given away by the kernel.
pub(crate) fn overlap(tasks: RangeInclusive<u16>) -> Option<String> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    explain(
        &tasks,
        &read("ip_local_port_range"),
        &read("ip_local_reserved_ports"),
    )
}

fn explain(tasks: &RangeInclusive<u16>, ephemeral: &str, reserved: &str) -> Option<String> {
    let mut bounds = ephemeral
        .split_ascii_whitespace()
        .filter_map(|bound| bound.parse::<u16>().ok());
    let kernel = bounds.next()?..=bounds.next()?;
    let reserved = ranges(reserved);
    let at_risk = tasks
        .clone()
        .filter(|port| kernel.contains(port) && !reserved.iter().any(|range| range.contains(port)))
        .count();
    (at_risk > 0).then(|| {
        format!(
            "{at_risk} of the ports {} to {} may be taken by outgoing connections before a task can listen on them: the \
             kernel gives out {} to {}; choose agent.port_min and agent.port_max outside of that, or reserve the range with \
             sysctl net.ipv4.ip_local_reserved_ports={}-{}",
            tasks.start(),
            tasks.end(),
            kernel.start(),
            kernel.end(),
            tasks.start(),
            tasks.end()
        )
    })
}

/// Numbers and ranges, separated by commas.
fn ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_that_the_kernel_gives_out_are_told_of() {
        let linux = "32768\t60999\n";
        assert_eq!(explain(&(20_000..=29_999), linux, "\n"), None);
        let told = explain(&(32_700..=32_799), linux, "").expect("an overlap");
        assert!(
            told.starts_with("32 of the ports 32700 to 32799") && told.contains("32768 to 60999"),
            "{told}"
        );
        assert_eq!(explain(&(32_700..=32_799), linux, "1,32768-33000\n"), None);
        assert_eq!(explain(&(1..=2), "nonsense", ""), None);
    }
}

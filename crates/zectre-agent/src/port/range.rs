//! Whether the ports of tasks are safe from the kernel, which gives ports to connections as it pleases.

use std::ops::RangeInclusive;
use zectre_service::given_ports::Given;

/// A sentence when ports of `tasks` may be given away by the kernel.
pub(crate) fn overlap(tasks: RangeInclusive<u16>) -> Option<String> {
    explain(&tasks, &Given::read()?)
}

fn explain(tasks: &RangeInclusive<u16>, given: &Given) -> Option<String> {
    let at_risk = tasks.clone().filter(|port| given.includes(*port)).count();
    (at_risk > 0).then(|| {
        format!(
            "{at_risk} of the ports {} to {} may be taken by outgoing connections before a task can listen on them: the \
             kernel gives out {} to {}; choose agent.port_min and agent.port_max outside of that, or reserve the range with \
             sysctl net.ipv4.ip_local_reserved_ports={}-{}",
            tasks.start(),
            tasks.end(),
            given.range().start(),
            given.range().end(),
            tasks.start(),
            tasks.end()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_that_the_kernel_gives_out_are_told_of() {
        let linux = |reserved| Given::parse("32768\t60999\n", reserved).expect("as Linux has it");
        assert_eq!(explain(&(20_000..=29_999), &linux("\n")), None);
        let told = explain(&(32_700..=32_799), &linux("")).expect("an overlap");
        assert!(
            told.starts_with("32 of the ports 32700 to 32799") && told.contains("32768 to 60999"),
            "{told}"
        );
        assert_eq!(explain(&(32_700..=32_799), &linux("1,32768-33000\n")), None);
    }
}

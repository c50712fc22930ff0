//! The frame of the benchmarks: build for speed, then let `zectre-bench` measure ours beside the peer.

use crate::{
    fail::Fail,
    packages, run,
    run::{cargo, step},
};
use std::process::Command;

/// Runs the named benchmarks, or all of them.
pub(crate) fn bench(names: &[&str]) -> Result<(), Fail> {
    packages::install(&[
        packages::LINKER,
        packages::LIBC,
        packages::POSTGRESQL,
        packages::BUBBLEWRAP,
    ])?;
    if names.contains(&"proxy") || names.iter().all(|name| name.starts_with('-')) {
        packages::install(&[
            packages::NGINX,
            packages::HAPROXY,
            packages::WRK,
            packages::H2LOAD,
        ])?;
    }
    step(
        "build for speed",
        cargo().args([
            "build",
            "--release",
            "--workspace",
            "--bins",
            "--exclude",
            "xtask",
            "--locked",
        ]),
    )?;
    step(
        "benchmarks",
        Command::new(run::target_dir().join("release/zectre-bench"))
            .args(names)
            .current_dir(run::root()),
    )
}

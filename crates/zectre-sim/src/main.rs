//! `zectre-sim`: many seeds, one seed with its trace, or the planted bugs.

fn main() -> std::process::ExitCode {
    zectre_sim::command::main()
}

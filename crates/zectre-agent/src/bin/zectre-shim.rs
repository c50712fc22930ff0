//! The supervisor of one native task; see `zectre_agent::shim`.

fn main() -> std::process::ExitCode {
    zectre_agent::shim::main()
}

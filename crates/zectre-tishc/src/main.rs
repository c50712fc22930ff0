//! See the library: this only hands over the arguments and the exit code.

fn main() -> std::process::ExitCode {
    zectre_tishc::run()
}

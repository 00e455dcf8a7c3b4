//! PID 1 of the node. Not built yet: says so and fails.

fn main() -> std::process::ExitCode {
    eprintln!("loam-init: this build has no init");
    std::process::ExitCode::FAILURE
}

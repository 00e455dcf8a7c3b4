//! The init of OCI machines. Not built yet: says so and fails.

fn main() -> std::process::ExitCode {
    eprintln!("loam-guest-init: this build has no guest init");
    std::process::ExitCode::FAILURE
}

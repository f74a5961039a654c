//! PID 1 of a machine that was allocated.

fn main() {
    if std::process::id() != 1 {
        // It would overwrite the first disk of the machine it runs on.
        eprintln!("standin-os runs as PID 1 of a test machine only");
        std::process::exit(64);
    }
    bootlace_agent::console::set_name("standin");
    bootlace_agent::pid1::run(standin_os::system::run())
}

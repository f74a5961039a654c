//! PID 1 of a discovered machine.

fn main() {
    if std::process::id() != 1 {
        // It would mount, load modules and, when told, wipe every disk of the machine it runs on.
        eprintln!("bootlace-agent runs as PID 1 of a network-booted machine only");
        std::process::exit(64);
    }
    bootlace_agent::pid1::main();
}

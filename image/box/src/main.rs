//! `bootlace-box`: PID 1 of a stick; on other machines it checks a stick's configuration.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        bootlace_box::main();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [flag, path] = &words[..] else {
        eprintln!(
            "bootlace-box is PID 1 of a stick; elsewhere it checks a configuration: bootlace-box --check FILE"
        );
        return ExitCode::from(2);
    };
    if flag != "--check" {
        eprintln!("bootlace-box: unknown argument {flag:?}");
        return ExitCode::from(2);
    }
    match bootlace_box::config::check_file(path.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bootlace-box: {error:#}");
            // As the appliance says it.
            ExitCode::from(64)
        }
    }
}

//! One calm line per thing that happened, for whoever looks at the screen or the serial console.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::OnceLock;

static NAME: OnceLock<&str> = OnceLock::new();
static KEEPER: OnceLock<fn(&str)> = OnceLock::new();

/// Says who speaks, before the first line; the agent if nobody says it.
pub fn set_name(name: &'static str) {
    let _ = NAME.set(name);
}

/// Says who gets every line beside the console.
pub fn set_keeper(keep: fn(&str)) {
    let _ = KEEPER.set(keep);
}

/// Writes a line. A console that cannot be written to is no reason to stop.
pub fn line(text: Arguments<'_>) {
    let text = format!("{}: {text}", NAME.get_or_init(|| "bootlace-agent"));
    if let Some(keep) = KEEPER.get() {
        keep(&text);
    }
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Writes a line to the console, as `format!` would render it.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::console::line(format_args!($($text)*)) };
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

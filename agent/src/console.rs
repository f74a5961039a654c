//! One calm line per thing that happened, for whoever looks at the screen or the serial console.

use std::fmt::Arguments;
use std::io::Write;

/// Writes a line. A console that cannot be written to is no reason to stop.
pub fn line(text: Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "bootlace-agent: {text}");
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

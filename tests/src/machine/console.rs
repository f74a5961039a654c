//! A machine's serial console: lines with the time since power-on, in memory and in a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::wait::{TimedOut, Watched};

/// One line of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How often the machine had been powered on by then, from 1.
    pub cycle: u32,
    /// Since power-on.
    pub at: Duration,
    /// Without escape sequences.
    pub text: String,
}

/// The console over all power cycles of a machine.
#[derive(Debug, Clone)]
pub struct Console {
    path: PathBuf,
    screen: Arc<Watched<Screen>>,
}

#[derive(Debug, Default)]
struct Screen {
    lines: Vec<Line>,
    /// What has no line end yet; firmware prompts stay here for long.
    partial: Option<Line>,
}

impl Screen {
    fn all(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().chain(&self.partial)
    }
}

impl Console {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, screen: Arc::default() }
    }

    /// The log file: `cycle seconds text`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.screen.lock().all().cloned().collect()
    }

    /// The last lines as text, for error messages.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lines();
        let shown = lines.iter().skip(lines.len().saturating_sub(count)).map(render);
        shown.collect::<Vec<_>>().join("\n")
    }

    /// Waits for a line that contains `text`, in any power cycle.
    pub fn wait(&self, limit: Duration, text: &str) -> Result<Line, TimedOut> {
        self.wait_for(limit, text, |line| line.text.contains(text))
    }

    /// Waits for a line that `wanted` takes.
    pub fn wait_for(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Line) -> bool,
    ) -> Result<Line, TimedOut> {
        let what = format!("{what:?} on the console {}", self.path.display());
        self.screen.wait(limit, &what, |screen| screen.all().find(|line| wanted(line)).cloned())
    }

    /// Reads one power cycle's output on a thread until its end.
    pub(crate) fn follow(
        &self,
        cycle: u32,
        since: Instant,
        mut output: impl Read + Send + 'static,
    ) -> io::Result<()> {
        let mut log = OpenOptions::new().create(true).append(true).open(&self.path)?;
        let screen = Arc::clone(&self.screen);
        let read = move || {
            let mut terminal = Terminal::default();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let at = since.elapsed();
                let texts = terminal.feed(&buffer[..count]);
                let line = |text: String| Line { cycle, at, text };
                screen.change(|screen| {
                    for text in texts {
                        push(screen, &mut log, line(text));
                    }
                    screen.partial = terminal.partial().map(line);
                });
            }
            screen.change(|screen| {
                if let Some(line) = screen.partial.take() {
                    push(screen, &mut log, line);
                }
            });
        };
        thread::Builder::new().name("console".into()).spawn(read).map(drop)
    }
}

fn push(screen: &mut Screen, log: &mut File, line: Line) {
    // A full disk must not stop the machine; the lines are still in memory.
    let _ = writeln!(log, "{}", render(&line));
    screen.lines.push(line);
}

fn render(line: &Line) -> String {
    format!("{} {:8.3} {}", line.cycle, line.at.as_secs_f64(), line.text)
}

/// Cuts a terminal's byte stream into lines of text; escape sequences and control characters go.
#[derive(Debug, Default)]
struct Terminal {
    text: Vec<u8>,
    escape: Escape,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    No,
    /// After ESC.
    Begun,
    /// Between `ESC [` and the letter that ends it.
    Sequence,
}

impl Terminal {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            self.escape = match (self.escape, byte) {
                (_, 0x1b) => Escape::Begun,
                (Escape::Begun, b'[') => Escape::Sequence,
                (Escape::Begun, _) => {
                    // ESC c resets the terminal: SeaBIOS begins with it, in the middle of what was printed before.
                    if byte == b'c' {
                        lines.extend(self.take());
                    }
                    Escape::No
                }
                (Escape::Sequence, 0x40..=0x7e) => {
                    // A jump of the cursor is how firmware starts a new line.
                    if byte == b'H' {
                        lines.extend(self.take());
                    }
                    Escape::No
                }
                (Escape::Sequence, _) => Escape::Sequence,
                (Escape::No, b'\r' | b'\n') => {
                    lines.extend(self.take());
                    Escape::No
                }
                (Escape::No, _) => {
                    if byte >= b' ' || byte == b'\t' {
                        self.text.push(byte);
                    }
                    Escape::No
                }
            };
        }
        lines
    }

    fn partial(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.text).trim_end().to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn take(&mut self) -> Option<String> {
        let text = self.partial();
        self.text.clear();
        text
    }
}

#[cfg(test)]
mod tests;

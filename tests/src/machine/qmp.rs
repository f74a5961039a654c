//! QMP, as far as a power switch needs it: commands and the end of the machine, over QEMU's stdin and stdout.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

/// QEMU answers in milliseconds; under heavy load the main loop may be late.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Qmp {
    commands: ChildStdin,
    answers: Receiver<Result<Value, Value>>,
}

impl Qmp {
    /// Negotiates; `ended` is called on a thread when QEMU closes its end, which is when it ends.
    pub(crate) fn connect(
        commands: ChildStdin,
        output: ChildStdout,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let (answer, answers) = mpsc::channel();
        let read = move || {
            for line in BufReader::new(output).lines() {
                let Ok(message) =
                    line.map_err(drop).and_then(|line| serde_json::from_str(&line).map_err(drop))
                else {
                    break;
                };
                // Events (`RESET`, `SHUTDOWN`, ..) and the greeting need no reaction.
                let _ = match message {
                    Value::Object(mut map) if map.contains_key("return") => {
                        answer.send(Ok(map["return"].take()))
                    }
                    Value::Object(mut map) if map.contains_key("error") => {
                        answer.send(Err(map["error"].take()))
                    }
                    _ => Ok(()),
                };
            }
            ended();
        };
        thread::Builder::new().name("qmp".into()).spawn(read)?;
        let mut qmp = Self { commands, answers };
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let message = json!({ "execute": command, "arguments": arguments });
        writeln!(self.commands, "{message}").with_context(|| format!("cannot send {command} to QEMU"))?;
        let answer = self.answers.recv_timeout(ANSWER_LIMIT);
        let answer = answer.with_context(|| format!("QEMU does not answer {command}"))?;
        answer.map_err(|error| anyhow!("QEMU refuses {command}: {error}"))
    }
}

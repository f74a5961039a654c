//! QMP, as far as a power switch needs it: commands and the end of the machine, over QEMU's stdin and stdout.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

/// QEMU answers in milliseconds; under heavy load the main loop may be late.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Qmp {
    commands: ChildStdin,
    answers: Receiver<Result<Value, Value>>,
    /// Names of the events that nobody has waited for yet; a machine has a handful in its life.
    events: Receiver<String>,
}

impl Qmp {
    /// Negotiates; `ended` is called on a thread when QEMU closes its end, which is when it ends.
    pub(crate) fn connect(
        commands: ChildStdin,
        output: ChildStdout,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let (answer, answers) = mpsc::channel();
        let (event, events) = mpsc::channel();
        let read = move || {
            for line in BufReader::new(output).lines() {
                let message = line.map_err(drop).and_then(|line| serde_json::from_str(&line).map_err(drop));
                let Ok::<Value, ()>(mut message) = message else { break };
                // What is neither an answer nor an event is the greeting; nobody may be waiting any more.
                let mut take = |key: &str| message.get_mut(key).map(Value::take);
                if let Some(value) = take("return") {
                    let _ = answer.send(Ok(value));
                } else if let Some(error) = take("error") {
                    let _ = answer.send(Err(error));
                } else if let Some(Value::String(name)) = take("event") {
                    let _ = event.send(name);
                }
            }
            ended();
        };
        thread::Builder::new().name("qmp".into()).spawn(read)?;
        let mut qmp = Self { commands, answers, events };
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

    /// Runs a command and waits until QEMU tells that `event` happened.
    pub(crate) fn execute_until(&mut self, command: &str, event: &str) -> Result<()> {
        self.events.try_iter().for_each(drop);
        self.execute(command, &json!({}))?;
        ensure!(self.wait(event, ANSWER_LIMIT), "no {event} after {command}");
        Ok(())
    }

    /// Waits for an event; false when it does not come.
    pub(crate) fn wait(&mut self, event: &str, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(name) if name == event => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }
}

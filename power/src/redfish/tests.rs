//! The core against transcripts of BMCs, shaped after their makers' manuals and the reports of others.

use std::collections::VecDeque;
use std::fmt::Write as _;

use futures_util::FutureExt;
use serde_json::Value;
use uuid::uuid;

use super::dialogue::{DialogueError, Done, Known, Order, REQUESTS_MAX, carry_out, farewell};
use super::wire::{Answer, Auth, Login, Request, Target, Wire};
use crate::PxeMode;

fn login() -> Login {
    Login::new("root", "calvin-1")
}

fn target() -> Target {
    Target {
        origin: "https://192.0.2.7:443".to_owned(),
        machine: Some(uuid!("4c4c4544-0044-4810-8031-b2c04f595831")),
        set_mode: true,
    }
}

/// One line of a transcript, with the lines that belong to it.
enum Line {
    Order(Order),
    Ask(String),
    Answer(Answer),
    Pause,
    Done(String),
}

fn order(text: &str) -> Order {
    match text {
        "look" => Order::Look,
        "on" => Order::On,
        "off" => Order::Off,
        "restart" => Order::Restart,
        "network uefi" => Order::BootNetwork(PxeMode::Uefi),
        "network bios" => Order::BootNetwork(PxeMode::Bios),
        "as configured" => Order::BootAsConfigured,
        other => panic!("no order `{other}`"),
    }
}

/// `200 Name: value | Name: value` and the body's lines.
fn answer(head: &str, body: &str) -> Answer {
    let (status, headers) = head.split_once(' ').unwrap_or((head, ""));
    let mut answer = http::Response::builder().status(status.parse::<u16>().unwrap());
    for header in headers.split(" | ").filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(": ").unwrap();
        answer = answer.header(name, value);
    }
    answer.body(body.to_owned().into()).unwrap()
}

/// The same request is the same text, whatever the order of its body's fields.
fn normal(request: &str) -> String {
    let Some(at) = request.find('{') else { return request.to_owned() };
    let body: Value = serde_json::from_str(&request[at..]).unwrap();
    format!("{}{body}", &request[..at])
}

fn transcript(text: &str) -> VecDeque<Line> {
    let mut lines = VecDeque::new();
    let mut rest = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    let begins =
        |line: &str| ["order: ", "> ", "< ", "done: ", "pause"].iter().any(|word| line.starts_with(word));
    while let Some(line) = rest.next() {
        lines.push_back(match line.split_once(' ') {
            None if line == "pause" => Line::Pause,
            Some(("order:", text)) => Line::Order(order(text)),
            Some((">", request)) => Line::Ask(normal(request)),
            Some(("done:", text)) => Line::Done(text.to_owned()),
            Some(("<", head)) => {
                let mut body = String::new();
                while let Some(more) = rest.next_if(|line| !begins(line)) {
                    body.push_str(more);
                }
                Line::Answer(answer(head, &body))
            }
            _ => panic!("`{line}`?"),
        });
    }
    lines
}

/// A controller that says what is written.
struct Script {
    lines: VecDeque<Line>,
    name: &'static str,
}

impl Wire for Script {
    type Error = &'static str;

    async fn ask(&mut self, request: &Request) -> Result<Answer, &'static str> {
        let mut asked = request.to_string();
        match &request.auth {
            Auth::Nobody => asked.push_str(" as nobody"),
            Auth::Basic(code) => {
                assert_eq!(code, "cm9vdDpjYWx2aW4tMQ==");
                asked.push_str(" as basic");
            }
            Auth::Session { token, .. } => write!(asked, " as session {token}").unwrap(),
        }
        if let Some(etag) = &request.if_match {
            write!(asked, " if-match {etag}").unwrap();
        }
        if let Some(body) = &request.body {
            write!(asked, " {body}").unwrap();
        }
        match self.lines.pop_front() {
            Some(Line::Ask(expected)) => assert_eq!(asked, expected, "{}", self.name),
            _ => panic!("{}: nothing more to be asked: {asked}", self.name),
        }
        match self.lines.pop_front() {
            Some(Line::Answer(answer)) => Ok(answer),
            _ => panic!("{}: no answer to {asked}", self.name),
        }
    }

    async fn pause(&mut self, _: std::time::Duration) {
        assert!(matches!(self.lines.pop_front(), Some(Line::Pause)), "{}: a pause", self.name);
    }
}

fn told(result: Result<Done, DialogueError<&'static str>>) -> String {
    match result {
        Ok(Done { doubt: Some(doubt), .. }) => format!("doubt {doubt}"),
        Ok(Done { powered_on: Some(true), .. }) => "on".into(),
        Ok(Done { powered_on: Some(false), .. }) => "off".into(),
        Ok(Done { powered_on: None, .. }) => "ok".into(),
        Err(DialogueError::Refused { request, status, detail }) => {
            format!("refused {request} {status} {detail}")
        }
        Err(DialogueError::Unauthorized { detail }) => format!("unauthorized {detail}"),
        Err(DialogueError::Protocol { request, reason }) => format!("error {request}: {reason}"),
        Err(DialogueError::Wire { request, error }) => format!("broken {request}: {error}"),
    }
}

/// Goes through a transcript; gives what is known in the end.
fn go_through(name: &'static str, text: &str, target: &Target) -> Known {
    let mut script = Script { lines: transcript(text), name };
    let mut known = Known::default();
    while let Some(line) = script.lines.pop_front() {
        let Line::Order(order) = line else { panic!("{name}: an order") };
        let result = carry_out(&mut script, &login(), target, &mut known, order).now_or_never().unwrap();
        let result = told(result);
        assert!(!result.contains("calvin-1"), "{name}: {result}");
        match script.lines.pop_front() {
            Some(Line::Done(expected)) => assert_eq!(result, expected, "{name} {order:?}"),
            Some(Line::Ask(left)) => panic!("{name} {order:?}: {result}, and not asked: {left}"),
            _ => panic!("{name} {order:?}: {result}"),
        }
    }
    known
}

#[test]
fn a_dell_idrac9_is_switched_over_an_expired_session() {
    let known = go_through("idrac9", include_str!("golden/idrac9.txt"), &target());
    assert_eq!(known.name, "");
    let farewell = farewell(&known).unwrap();
    assert_eq!(farewell.to_string(), "DELETE /redfish/v1/SessionService/Sessions/13");
}

#[test]
fn a_dell_idrac10_takes_boot_settings_apart_and_as_a_task() {
    let known = go_through("idrac10", include_str!("golden/idrac10.txt"), &target());
    assert_eq!(known.name, "Dell, Redfish 1.20.1");
    // The scheme's own port is not in the link.
    assert_eq!(farewell(&known).unwrap().path, "/redfish/v1/SessionService/Sessions/1");
}

#[test]
fn an_hpe_ilo5_redirects_and_refuses_the_boot_mode() {
    let known = go_through("ilo5", include_str!("golden/ilo5.txt"), &target());
    assert_eq!(known.name, "HPE ProLiant DL360 Gen10, Redfish 1.2.0");
}

#[test]
fn a_supermicro_is_told_the_boot_mode_and_asked_again_when_busy() {
    go_through("supermicro", include_str!("golden/supermicro.txt"), &target());
}

#[test]
fn an_openbmc_says_elsewhere_how_it_is_reset() {
    go_through("openbmc", include_str!("golden/openbmc.txt"), &target());
}

#[test]
fn an_ami_megarac_demands_a_version_and_keeps_the_next_start_apart() {
    go_through("ami", include_str!("golden/ami.txt"), &target());
}

#[test]
fn of_several_systems_the_one_with_the_machines_uuid_is_switched_or_none() {
    let known = go_through("hgx", include_str!("golden/hgx.txt"), &target());
    assert_eq!(known.auth, Some(Auth::basic(&login())));
    assert_eq!(farewell(&known), None);
}

#[test]
fn refusals_are_told_in_the_controllers_words_without_the_password() {
    go_through("refusals", include_str!("golden/refusals.txt"), &target());
}

#[test]
fn the_boot_mode_is_left_out_where_it_shall_not_be_set() {
    let text = "order: network uefi\n\
        > GET /redfish/v1/ as nobody\n< 401\n\
        > POST /redfish/v1/SessionService/Sessions as nobody {\"UserName\": \"root\", \"Password\": \"calvin-1\"}\n< 201 X-Auth-Token: t\n\
        > GET /redfish/v1/Systems as session t\n< 200\n{\"Members\": [{\"@odata.id\": \"/redfish/v1/Systems/1\"}]}\n\
        > GET /redfish/v1/Systems/1 as session t\n< 200\n{}\n\
        > PATCH /redfish/v1/Systems/1 as session t {\"Boot\": {\"BootSourceOverrideEnabled\": \"Once\", \"BootSourceOverrideTarget\": \"Pxe\"}}\n< 204\n\
        > GET /redfish/v1/Systems/1 as session t\n< 200\n{\"Boot\": {\"BootSourceOverrideEnabled\": \"Once\", \"BootSourceOverrideTarget\": \"Pxe\"}}\n\
        done: ok\n";
    go_through("no mode", text, &Target { set_mode: false, ..target() });
}

#[test]
fn links_lead_to_the_controller_and_nowhere_else() {
    let target = target();
    for (link, path) in [
        ("/redfish/v1/Systems/1", Some("/redfish/v1/Systems/1")),
        ("/redfish/v1/Systems/1#/Boot", Some("/redfish/v1/Systems/1")),
        ("https://192.0.2.7:443/redfish/v1", Some("/redfish/v1")),
        ("https://192.0.2.7/redfish/v1", Some("/redfish/v1")),
        ("https://192.0.2.77/redfish/v1", None),
        ("http://192.0.2.7/redfish/v1", None),
        ("https://192.0.2.7.elsewhere.example/redfish/v1", None),
        ("https://192.0.2.7:443@elsewhere.example/", None),
        ("//elsewhere.example/redfish/v1", None),
        ("https://192.0.2.7//elsewhere.example", None),
        ("Systems/1", None),
        ("/redfish/v1/Systems/1\r\nX-Evil: 1", None),
        ("/redfish/v1/Systems/my system", None),
        ("", None),
    ] {
        assert_eq!(target.path_of(link).as_deref(), path, "{link}");
    }
    assert_eq!(target.path_of(&format!("/{}", "a".repeat(600))), None);
}

/// Says the same to everything.
struct Parrot(Answer, usize);

impl Wire for Parrot {
    type Error = &'static str;

    async fn ask(&mut self, _: &Request) -> Result<Answer, &'static str> {
        self.1 += 1;
        Ok(self.0.clone())
    }

    async fn pause(&mut self, _: std::time::Duration) {}
}

#[test]
fn a_controller_that_always_says_the_same_is_given_up() {
    let task = r#"{"TaskState": "Running", "Systems": {"@odata.id": "/a"}, "Members": [{"@odata.id": "/b"}, {"@odata.id": "/c"}]}"#;
    for head in
        ["200", "202 Location: /t | X-Auth-Token: t", "301 Location: /redfish/v1/", "412", "503", "403"]
    {
        for order in [Order::Look, Order::On, Order::Restart, Order::BootNetwork(PxeMode::Uefi)] {
            let mut parrot = Parrot(answer(head, task), 0);
            let (login, target, mut known) = (login(), target(), Known::default());
            let result = carry_out(&mut parrot, &login, &target, &mut known, order).now_or_never().unwrap();
            assert!(result.is_err(), "{head} {order:?} {result:?}");
            assert!(parrot.1 <= REQUESTS_MAX);
        }
    }
}

#[test]
fn nothing_that_is_printed_holds_a_secret() {
    let known =
        Known { auth: Some(Auth::Session { token: "t0ken".into(), location: None }), ..Known::default() };
    let request = Request { auth: Auth::basic(&login()), ..Request::get("/") };
    let printed = format!("{:?} {known:?} {request:?} {request}", login());
    assert!(
        !printed.contains("calvin") && !printed.contains("t0ken") && !printed.contains("cm9v"),
        "{printed}"
    );
    assert!(request.auth.header().unwrap().1.is_sensitive());
}

#[test]
fn a_certificate_that_changes_is_noticed_once() {
    let mut known = None;
    assert_eq!(super::another(&mut known, b"one"), None, "the first is as good as any");
    assert_eq!(super::another(&mut known, b"one"), None);
    let (before, now) = super::another(&mut known, b"two").unwrap();
    assert!(before.starts_with("7692c3ad3540bb80") && now.starts_with("3fc4ccfe745870e2"), "{before} {now}");
    assert_eq!(super::another(&mut known, b"two"), None);
}

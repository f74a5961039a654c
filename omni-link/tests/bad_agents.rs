//! Agents that say what they should not, or nothing: the journal names it, and nobody else suffers.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/site.rs"]
mod site;

use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_wire::management::agent_service_server::AgentServiceServer;
use agent_wire::tunnel;
use omni_link::Happening;
use site::{Agent, FINGERPRINT, ID, LIMIT, Link, Manner, Site, WIPED};
use tonic::metadata::MetadataMap;

/// A site whose machine was accepted, with this agent.
async fn accepted(agent: Agent) -> (Site, Link) {
    let mut site = Site::new().await;
    // Agents that do answer do so at once.
    site.call_limit = Duration::from_millis(700);
    site.agent = agent;
    let link = site.link().await;
    site.accept().await;
    link.dial(&site.agent, FINGERPRINT);
    (site, link)
}

fn power_failed(happening: &Happening, wanted: &str) -> bool {
    matches!(happening, Happening::PowerFailed { reason } if reason.contains(wanted))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_never_answers_is_named_and_its_machine_is_not_wiped() {
    let (site, link) = accepted(Agent { manner: Manner::Never, ..Agent::default() }).await;
    site.until_told("silence", |told| power_failed(told, "the agent did not answer within 700ms")).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 0);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_keeps_its_inventory_to_itself_is_named_and_the_machine_goes_on() {
    let (site, link) = accepted(Agent { keeps_inventory: true, ..Agent::default() }).await;
    link.until_status("ready", |status| status.ready_to_use).await;
    let reason = "cannot read the inventory: the agent did not answer within 700ms".to_owned();
    assert_eq!(site.happened(&Happening::AgentFailed { reason }), 1, "{:?}", site.news());
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_over_the_limit_is_named() {
    let (site, link) = accepted(Agent { manner: Manner::TooLong, ..Agent::default() }).await;
    site.until_told("the limit", |told| power_failed(told, "bytes is over the limit of 4096")).await;
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wipe_of_a_disk_that_is_not_there_is_named_in_one_printable_line() {
    let (site, link) = accepted(Agent { manner: Manner::UnknownDisk, ..Agent::default() }).await;
    site.until_told("the disk", |told| {
        matches!(told, Happening::WipeFailed { reason }
            if reason.contains("NotFound: failed to wipe: nvme9n1: no such disk")
                && reason.len() < 600
                && !reason.chars().any(char::is_control))
    })
    .await;
    assert!(!site.news().contains(&Happening::Ready));
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_disks_wipe_is_told_once_and_kept() {
    let (site, link) = accepted(Agent::default()).await;
    site.until_news(&Happening::Ready).await;
    assert_eq!(site.happened(&Happening::DiskReport { report: WIPED.into() }), 1);
    let record = link.view.machine(ID).unwrap().wipe.as_ref().unwrap().spec.clone();
    assert_eq!(record.disk_reports, [WIPED], "and kept");
    assert!(record.wiped_at.is_some());
    link.stop().await;
}

/// Dials with an id of the test's; what the appliance says to it.
async fn dial_as(link: &Link, id: Option<&str>) -> String {
    let uri = format!("http://{}", link.tunnel_address).parse().unwrap();
    let channel = tunnel::connect(uri).await.unwrap();
    let mut metadata = MetadataMap::new();
    if let Some(id) = id {
        metadata.insert(tunnel::MACHINE_ID_HEADER, id.parse().unwrap());
    }
    let routes = tonic::service::Routes::new(AgentServiceServer::new(Agent::default()));
    let served = tokio::time::timeout(LIMIT, tunnel::serve(channel, metadata, routes)).await;
    match served.expect("is told at once") {
        Ok(ended) => ended.reason,
        Err(tunnel::ServeError::Refused(status)) => status.message().to_owned(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_do_not_say_who_they_are_are_told_with_their_address_and_not_over_and_over() {
    let site = Site::new().await;
    let link = site.link().await;
    for _ in 0..5 {
        assert_eq!(dial_as(&link, None).await, "metadata machine-id is missing");
        let told = dial_as(&link, Some("../../etc/passwd")).await;
        assert!(told.contains("metadata machine-id is no UUID"), "{told}");
    }
    let refusal = |reason: &str| Happening::TunnelRefused {
        reason: reason.into(),
        peer: Some("127.0.0.1".parse().unwrap()),
    };
    let (missing, none) =
        (refusal("metadata machine-id is missing"), refusal("metadata machine-id is no UUID"));
    assert_eq!((site.happened(&missing), site.happened(&none)), (1, 1), "a repetition is no news");
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_machine_with_the_id_of_one_that_is_connected_is_refused_and_named() {
    let (site, link) = accepted(Agent::default()).await;
    site.until_news(&Happening::TunnelOpened).await;
    let impostor = Agent::default();
    for _ in 0..3 {
        let ended = link.dial(&impostor, "bb").await.unwrap().unwrap();
        assert!(ended.reason.contains("another machine with the same UUID"), "{}", ended.reason);
    }
    link.until_status("ready", |status| status.ready_to_use).await;
    let reason = "another machine with the same UUID: its fingerprint is bb, the machine's is aa".to_owned();
    let refused = Happening::TunnelRefused { reason, peer: Some("127.0.0.1".parse().unwrap()) };
    assert_eq!(site.happened(&refused), 1, "{:?}", site.news());
    assert_eq!(impostor.wipes.load(Ordering::SeqCst), 0);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_dies_and_comes_back_is_one_machine() {
    let (site, link) = accepted(Agent::default()).await;
    let held = site.agent.holding.clone().lock_owned().await;
    site.until_news(&Happening::WipeStarted).await;
    // The first tunnel dies within the wipe; the second is there before its end is noticed.
    let second = link.dial(&site.agent, FINGERPRINT);
    site.until_told("the second tunnel", |_| site.happened(&Happening::TunnelOpened) == 2).await;
    drop(held);
    link.until_status("ready", |status| status.ready_to_use).await;
    assert_eq!(link.view.ids().len(), 1);
    assert!(!site.news().iter().any(|told| matches!(told, Happening::TunnelRefused { .. })));
    link.stop().await;
    second.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_a_bmc_is_named() {
    let (site, link) = accepted(Agent { manner: Manner::NoBmc, ..Agent::default() }).await;
    site.until_told("no BMC", |told| power_failed(told, "has no BMC that its agent can see")).await;
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_is_taken_over_with_a_user_of_ours_and_its_silence_is_named() {
    // Takes what is sent to it, and says nothing.
    let bmc = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = bmc.local_addr().unwrap().port();
    let (site, link) = accepted(Agent { manner: Manner::Bmc(port), ..Agent::default() }).await;
    link.until("recorded", |machine| machine.bmc.is_some()).await;
    let ipmi = link.view.machine(ID).unwrap().bmc.as_ref().unwrap().spec.ipmi.clone().unwrap();
    assert_eq!(
        (ipmi.address.as_str(), ipmi.port, ipmi.username.as_str()),
        ("127.0.0.1", port.into(), "talos-agent")
    );
    let made = site.agent.bmc_user.lock().unwrap().clone();
    assert_eq!(made, Some((ipmi.username, ipmi.password.clone())), "what is recorded is what was set");
    assert_eq!(ipmi.password.len(), 16);
    // Get Channel Authentication Capabilities, in the wrapper of IPMI 1.5.
    let mut asked = [0; 64];
    let length = bmc.recv(&mut asked).await.unwrap();
    assert_eq!((&asked[..5], asked[19], length), (&[6, 0, 0xff, 7, 0][..], 0x38, 23));
    site.until_told("silence", |told| power_failed(told, "does not answer Get Chassis Status")).await;
    assert!(!format!("{:?}", site.news()).contains(&ipmi.password), "no password in the journal");
    link.stop().await;
}

//! What other clients see of the service on the wire: codes, empty messages, API versions.

use cosi::client::GrpcState;
use cosi::{
    EventStream, Kind, ListOptions, Pointer, Resource, State, StateError, UpdateOptions, Version,
    WatchOptions, WatchTarget,
};
use cosi_wire::resource as wire;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Code, Status};
use wire::state_client::StateClient;

use crate::support::{Events, NAMESPACE, OWNER, Remote, TYPE, embedded, kind, machine, pointer, remote};

fn client(remote: &Remote) -> StateClient<Channel> {
    StateClient::new(remote.channel.clone())
}

fn metadata(id: &str) -> wire::Metadata {
    wire::Metadata { namespace: NAMESPACE.into(), r#type: TYPE.into(), id: id.into(), ..Default::default() }
}

fn create(id: &str) -> wire::CreateRequest {
    let resource = wire::Resource { metadata: Some(metadata(id)), spec: Some(wire::Spec::default()) };
    wire::CreateRequest { resource: Some(resource), options: None }
}

fn watch(api_version: i32, options: wire::WatchOptions) -> wire::WatchRequest {
    wire::WatchRequest {
        namespace: NAMESPACE.into(),
        r#type: TYPE.into(),
        id: None,
        options: Some(options),
        api_version,
    }
}

fn destroy(id: &str, owner: &str) -> wire::DestroyRequest {
    wire::DestroyRequest {
        namespace: NAMESPACE.into(),
        r#type: TYPE.into(),
        id: id.into(),
        options: Some(wire::DestroyOptions { owner: owner.into() }),
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

#[tokio::test]
async fn each_refusal_has_the_code_of_the_peer() {
    let remote = remote(embedded()).await;
    let mut client = client(&remote);
    let get = wire::GetRequest { namespace: NAMESPACE.into(), r#type: TYPE.into(), ..Default::default() };
    assert_eq!(code(client.get(get).await), Code::NotFound);
    let stored = client.create(create("a")).await.unwrap().into_inner().resource.unwrap();
    assert_eq!(code(client.create(create("a")).await), Code::AlreadyExists);
    assert_eq!(code(client.destroy(destroy("a", "somebody")).await), Code::PermissionDenied);
    assert_eq!(code(client.destroy(destroy("b", "")).await), Code::NotFound);

    let update = |version: &str, owner: &str, phase: Option<&str>| {
        let mut resource = stored.clone();
        let metadata = resource.metadata.as_mut().unwrap();
        metadata.version = version.into();
        metadata.finalizers = vec!["f".into()];
        let options =
            wire::UpdateOptions { owner: owner.into(), expected_phase: phase.map(ToOwned::to_owned) };
        wire::UpdateRequest { new_resource: Some(resource), options: Some(options) }
    };
    for version in ["undefined", "", "2"] {
        assert_eq!(code(client.update(update(version, "", None)).await), Code::FailedPrecondition);
    }
    assert_eq!(code(client.update(update("1", "somebody", None)).await), Code::PermissionDenied);
    assert_eq!(code(client.update(update("1", "", Some("tearingDown"))).await), Code::InvalidArgument);
    assert_eq!(code(client.update(update("1", "", Some("asleep"))).await), Code::InvalidArgument);
    assert_eq!(code(client.update(update("one", "", None)).await), Code::InvalidArgument);
    client.update(update("1", "", Some("running"))).await.unwrap();
    assert_eq!(code(client.destroy(destroy("a", "")).await), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_missing_part_is_unknown() {
    let remote = remote(embedded()).await;
    let mut client = client(&remote);
    let mut request = create("a");
    request.resource.as_mut().unwrap().spec = None;
    let status = client.create(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "spec is missing"));
    assert_eq!(code(client.create(wire::CreateRequest::default()).await), Code::Unknown);
    assert_eq!(code(client.update(wire::UpdateRequest::default()).await), Code::Unknown);
}

#[tokio::test]
async fn versions_phases_and_times_have_the_forms_of_the_wire() {
    let remote = remote(embedded()).await;
    let mut client = client(&remote);
    let stored = client.create(create("a")).await.unwrap().into_inner().resource.unwrap();
    let metadata = stored.metadata.unwrap();
    assert_eq!((metadata.version.as_str(), metadata.phase.as_str()), ("1", "running"));
    assert!(metadata.created.unwrap().seconds >= crate::support::START);
    let request = wire::TeardownRequest {
        namespace: NAMESPACE.into(),
        r#type: TYPE.into(),
        id: "a".into(),
        options: None,
    };
    assert!(client.teardown(request).await.unwrap().into_inner().destroy_ready);
    let torn = remote.state.get(&pointer("a")).await.unwrap();
    assert_eq!(torn.metadata.phase.as_str(), "tearingDown");
}

#[tokio::test]
async fn the_first_message_of_a_watch_is_empty() {
    let remote = remote(embedded()).await;
    let mut messages = client(&remote).watch(watch(1, Default::default())).await.unwrap().into_inner();
    assert_eq!(messages.message().await.unwrap().unwrap(), wire::WatchResponse::default());
    remote.state.create(machine("a"), "").await.unwrap();
    let message = messages.message().await.unwrap().unwrap();
    assert_eq!(message.event.len(), 1);
    assert_eq!(message.event[0].event_type(), wire::EventType::Created);
    assert_eq!(message.event[0].bookmark.as_ref().unwrap().len(), 8);
}

#[tokio::test]
async fn a_watch_without_options_of_an_absent_one_tells_its_absence() {
    let remote = remote(embedded()).await;
    let request = wire::WatchRequest { options: None, id: Some("a".into()), ..watch(1, Default::default()) };
    let mut messages = client(&remote).watch(request).await.unwrap().into_inner();
    messages.message().await.unwrap().unwrap();
    let event = messages.message().await.unwrap().unwrap().event.remove(0);
    assert_eq!(event.event_type(), wire::EventType::Destroyed);
    assert_eq!(event.resource.unwrap().metadata.unwrap().version, "undefined");
}

#[tokio::test]
async fn a_client_of_api_version_0_gets_only_what_it_knows() {
    let remote = remote(embedded()).await;
    remote.state.create(machine("a"), "").await.unwrap();
    let options = wire::WatchOptions {
        bootstrap_contents: true,
        bootstrap_bookmark: true,
        aggregated: true,
        ..Default::default()
    };
    let mut types = Vec::new();
    for api_version in [0, 1] {
        let request = watch(api_version, options.clone());
        let mut messages = client(&remote).watch(request).await.unwrap().into_inner();
        messages.message().await.unwrap().unwrap();
        let batch = messages.message().await.unwrap().unwrap();
        types.push(batch.event.iter().map(wire::Event::event_type).collect::<Vec<_>>());
    }
    use wire::EventType::{Bootstrapped, Created, Noop};
    assert_eq!(types, [vec![Created], vec![Created, Bootstrapped, Noop]]);
}

#[tokio::test]
async fn an_api_version_0_client_that_falls_behind_gets_a_status() {
    let options = cosi::embedded::Options { history_changes: 2, ..crate::support::options() };
    let state = cosi::embedded::EmbeddedState::in_memory(options).unwrap();
    for number in 0..3 {
        state.create(machine(&format!("{number}")), "").await.unwrap();
    }
    // One change with a spec that the buffers of the connection do not hold, so that the server waits.
    let large = |id: &str| Resource::new(NAMESPACE, TYPE, id, vec![0; 128 << 10]);
    let remote = remote(state.clone()).await;
    let mut messages = client(&remote).watch(watch(0, Default::default())).await.unwrap().into_inner();
    messages.message().await.unwrap().unwrap();
    for number in 10..40 {
        state.create(large(&format!("{number}")), "").await.unwrap();
    }
    let status = loop {
        match messages.message().await {
            Ok(message) => assert!(message.is_some(), "the watch ended in silence"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn options_that_nobody_has_are_refused_at_the_start() {
    let remote = remote(embedded()).await;
    let mut client = client(&remote);
    let tail = wire::WatchOptions { tail_events: 3, ..Default::default() };
    let status = client.watch(watch(1, tail)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "tail events are not supported"));
    let bookmark = wire::WatchOptions {
        start_from_bookmark: Some(b"nonsense!".as_slice().into()),
        ..Default::default()
    };
    assert_eq!(code(client.watch(watch(1, bookmark)).await), Code::FailedPrecondition);
    let term = wire::LabelTerm { key: "x".into(), op: 99, ..Default::default() };
    let options =
        wire::ListOptions { label_query: vec![wire::LabelQuery { terms: vec![term] }], ..Default::default() };
    let request = wire::ListRequest { options: Some(options), ..Default::default() };
    assert_eq!(code(client.list(request).await), Code::Unimplemented);
}

#[tokio::test]
async fn the_old_not_exists_of_a_query_is_understood() {
    let remote = remote(embedded()).await;
    remote.state.create(machine("a").with_label("x", ""), "").await.unwrap();
    remote.state.create(machine("b"), "").await.unwrap();
    let term = wire::LabelTerm {
        key: "x".into(),
        op: wire::label_term::Operation::NotExists.into(),
        ..Default::default()
    };
    let request = wire::ListRequest {
        namespace: NAMESPACE.into(),
        r#type: TYPE.into(),
        options: Some(wire::ListOptions {
            label_query: vec![wire::LabelQuery { terms: vec![term] }],
            ..Default::default()
        }),
    };
    let mut answers = client(&remote).list(request).await.unwrap().into_inner();
    let only = answers.message().await.unwrap().unwrap().resource.unwrap().metadata.unwrap();
    assert_eq!(only.id, "b");
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn teardown_and_destroy_is_a_call_that_waits() {
    let remote = remote(embedded()).await;
    let mut held = machine("a");
    held.insert_finalizer("agent");
    remote.state.create(held, OWNER).await.unwrap();
    let request = wire::TeardownAndDestroyRequest {
        namespace: NAMESPACE.into(),
        r#type: TYPE.into(),
        id: "a".into(),
        options: Some(wire::TeardownAndDestroyOptions { owner: OWNER.into() }),
    };
    let mut client = client(&remote);
    let release = async {
        while !remote.state.get(&pointer("a")).await.unwrap().is_tearing_down() {
            tokio::task::yield_now().await;
        }
        cosi::remove_finalizer(&remote.state, &pointer("a"), "agent").await.unwrap();
    };
    let (answer, ()) = tokio::join!(client.teardown_and_destroy(request.clone()), release);
    answer.unwrap();
    assert!(remote.state.get(&pointer("a")).await.unwrap_err().is_not_found());
    assert_eq!(code(client.teardown_and_destroy(request).await), Code::NotFound);
}

#[tokio::test]
async fn gzip_is_taken_and_large_lists_come_whole() {
    let remote = remote(embedded()).await;
    let mut zipped = client(&remote).send_compressed(CompressionEncoding::Gzip);
    zipped.create(create("a")).await.unwrap();
    // Together more than an aggregated item takes.
    for number in 0..8 {
        let large = Resource::new(NAMESPACE, TYPE, format!("{number}"), vec![1; 1 << 20]);
        remote.state.create(large, "").await.unwrap();
    }
    assert_eq!(remote.state.list(&kind(), &ListOptions::default()).await.unwrap().len(), 9);
    let options = WatchOptions { bootstrap_contents: true, aggregated: true, ..WatchOptions::default() };
    let mut events = Events::of(remote.state.watch(&WatchTarget::kind(kind()), &options).await.unwrap());
    for _ in 0..9 {
        assert_eq!(events.next().await.typ, cosi::EventType::Created);
    }
    assert_eq!(events.next().await.typ, cosi::EventType::Bootstrapped);
}

#[tokio::test]
async fn a_server_that_is_gone_is_unavailable_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.sock");
    let store = embedded();
    let serve = || {
        // A runtime of its own, which takes the connections with it.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let entered = runtime.enter();
        crate::support::serve(&path, store.clone());
        drop(entered);
        runtime
    };
    let runtime = std::thread::scope(|scope| scope.spawn(serve).join().unwrap());
    let state = GrpcState::connect_unix(&path).await.unwrap();
    let stored = state.create(machine("a"), "").await.unwrap();
    let target = WatchTarget::kind(kind());
    let mut events = Events::of(state.watch(&target, &WatchOptions::default()).await.unwrap());

    runtime.shutdown_background();
    let error = events.batch().await.unwrap().unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(events.batch().await.is_none());
    let error = state.get(&pointer("a")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");

    std::fs::remove_file(&path).unwrap();
    let runtime = std::thread::scope(|scope| scope.spawn(serve).join().unwrap());
    assert_eq!(state.get(&pointer("a")).await.unwrap(), stored);
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_named() {
    let error = GrpcState::connect_unix("/nonexistent/state.sock").await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/state.sock"));
}

/// Stands for a server from before the teardown call.
struct Old(cosi::embedded::EmbeddedState);

#[tonic::async_trait]
impl State for Old {
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        self.0.get(pointer).await
    }

    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        self.0.list(kind, options).await
    }

    async fn create(&self, resource: Resource, owner: &str) -> Result<Resource, StateError> {
        self.0.create(resource, owner).await
    }

    async fn update(&self, resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        self.0.update(resource, options).await
    }

    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError> {
        self.0.destroy(pointer, owner).await
    }

    async fn teardown(&self, _: &Pointer, _: &str) -> Result<bool, StateError> {
        Err(StateError::Unimplemented("unknown method Teardown".into()))
    }

    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError> {
        self.0.watch(target, options).await
    }
}

#[tokio::test]
async fn teardown_works_with_a_server_that_lacks_the_call() {
    let remote = remote(Old(embedded())).await;
    let mut held = machine("a");
    held.insert_finalizer("agent");
    remote.state.create(held, OWNER).await.unwrap();
    for _ in 0..2 {
        assert!(!remote.state.teardown(&pointer("a"), OWNER).await.unwrap());
        let torn = remote.state.get(&pointer("a")).await.unwrap();
        assert!(torn.is_tearing_down());
        assert_eq!(torn.metadata.version, Version::Number(2));
    }
    let error = remote.state.teardown(&pointer("b"), OWNER).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    cosi::remove_finalizer(&remote.state, &pointer("a"), "agent").await.unwrap();
    cosi::teardown_and_destroy(&remote.state, &pointer("a"), OWNER).await.unwrap();
}

/// Stands for a channel that signs its calls.
#[derive(Clone)]
struct Refusing;

impl tonic::service::Interceptor for Refusing {
    fn call(&mut self, _: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        Err(Status::unauthenticated("invalid signature"))
    }
}

#[tokio::test]
async fn a_client_works_behind_an_interceptor() {
    let remote = remote(embedded()).await;
    let channel = tonic::service::interceptor::InterceptedService::new(remote.channel.clone(), Refusing);
    let state: std::sync::Arc<dyn State> = std::sync::Arc::new(GrpcState::new(channel));
    let error = state.get(&pointer("a")).await.unwrap_err();
    assert_eq!(error, StateError::Unauthenticated("invalid signature".into()));
}

use std::sync::Mutex;

use agent_wire::inventory::{DEFINITIONS, HOSTNAME, LINKS, NAMESPACES, SYSTEM_DISK};
use agent_wire::talos::network::HostnameStatusSpec;
use cosi_wire::resource::{EventType, LabelTerm, ListOptions, WatchOptions};
use futures_util::StreamExt;
use tonic::Code;

use super::*;
use crate::inventory::Item;
use crate::inventory::registry::{LOOK_AGAIN, MAX_WATCHES};

/// A machine whose names a test changes.
#[derive(Default)]
struct Names(Mutex<Vec<(&'static str, &'static str)>>);

impl Source for Names {
    fn items(&self) -> Vec<Item> {
        let names = self.0.lock().unwrap();
        let item = |(id, hostname): &(&str, &str)| {
            Item::new(id, &HostnameStatusSpec { hostname: (*hostname).to_owned(), ..Default::default() })
        };
        names.iter().map(item).collect()
    }
}

fn inventory(names: &[(&'static str, &'static str)]) -> (Arc<Names>, Inventory<Names>) {
    let source = Arc::new(Names(Mutex::new(names.to_vec())));
    (source.clone(), Inventory { registry: Arc::new(Registry::new(source)) })
}

fn kind((namespace, typ): (&str, &str), options: Option<WatchOptions>) -> WatchRequest {
    WatchRequest {
        namespace: namespace.to_owned(),
        r#type: typ.to_owned(),
        options,
        api_version: 1,
        ..WatchRequest::default()
    }
}

/// What a message says: type and id of each event.
fn said(response: &WatchResponse) -> Vec<(EventType, String)> {
    let id = |event: &cosi_wire::resource::Event| {
        event.resource.clone().unwrap().metadata.map(|metadata| metadata.id).unwrap_or_default()
    };
    response.event.iter().map(|event| (event.event_type(), id(event))).collect()
}

async fn watch(inventory: &Inventory<Names>, request: WatchRequest) -> Result<Out<WatchResponse>, Status> {
    inventory.watch(Request::new(request)).await.map(Response::into_inner)
}

async fn list(
    inventory: &Inventory<Names>,
    (namespace, typ): (&str, &str),
    options: Option<ListOptions>,
) -> Result<Vec<Resource>, Status> {
    let request = ListRequest { namespace: namespace.to_owned(), r#type: typ.to_owned(), options };
    let stream = inventory.list(Request::new(request)).await?.into_inner();
    Ok(stream.map(|one| one.unwrap().resource.unwrap()).collect().await)
}

#[tokio::test]
async fn resources_come_with_both_forms_of_their_spec() {
    let (_, inventory) = inventory(&[("hostname", "a")]);
    let found = list(&inventory, HOSTNAME, None).await.unwrap();
    let (metadata, spec) = (found[0].metadata.clone().unwrap(), found[0].spec.clone().unwrap());
    assert_eq!(
        (metadata.id.as_str(), metadata.version.as_str(), metadata.phase.as_str()),
        ("hostname", "1", "running")
    );
    assert!(metadata.created.is_some() && metadata.updated.is_some());
    assert_eq!(spec.yaml_spec, "hostname: a\ndomainname: ''\n");
    assert_eq!(spec.proto_spec[..], [10, 1, b'a']);
}

#[tokio::test]
async fn the_types_are_told_without_reading_the_machine() {
    let source = Arc::new(|| -> Vec<Item> { panic!("the machine was read") });
    let inventory = Inventory { registry: Arc::new(Registry::new(source)) };
    let request = |(namespace, typ): (&str, &str)| {
        Request::new(ListRequest { namespace: namespace.to_owned(), r#type: typ.to_owned(), options: None })
    };
    let types: Vec<_> = inventory.list(request(DEFINITIONS)).await.unwrap().into_inner().collect().await;
    assert!(types.len() > 15);
    assert!(
        !inventory.list(request(NAMESPACES)).await.unwrap().into_inner().collect::<Vec<_>>().await.is_empty()
    );
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_served_are_told_apart() {
    let (_, inventory) = inventory(&[]);
    let get = async |(namespace, typ): (&str, &str)| {
        let request = GetRequest {
            namespace: namespace.to_owned(),
            r#type: typ.to_owned(),
            id: "x".to_owned(),
            options: None,
        };
        inventory.get(Request::new(request)).await.unwrap_err().code()
    };
    assert_eq!(get(SYSTEM_DISK).await, Code::NotFound);
    assert_eq!(get(("runtime", "Secrets.secrets.talos.dev")).await, Code::PermissionDenied);
    assert_eq!(get(("secrets", LINKS.1)).await, Code::PermissionDenied);
    assert!(list(&inventory, LINKS, None).await.unwrap().is_empty());
}

#[tokio::test]
async fn nothing_can_be_written() {
    let (_, inventory) = inventory(&[("hostname", "a")]);
    let refused = [
        inventory.create(Request::new(CreateRequest::default())).await.map(drop),
        inventory.update(Request::new(UpdateRequest::default())).await.map(drop),
        inventory.destroy(Request::new(DestroyRequest::default())).await.map(drop),
        inventory.teardown(Request::new(TeardownRequest::default())).await.map(drop),
        inventory.teardown_and_destroy(Request::new(TeardownAndDestroyRequest::default())).await.map(drop),
    ];
    assert!(refused.into_iter().all(|result| result.unwrap_err().code() == Code::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_what_is_there_then_each_change() {
    let (source, inventory) = inventory(&[("a", "1"), ("b", "1")]);
    let options = WatchOptions { bootstrap_contents: true, ..WatchOptions::default() };
    let mut watch = watch(&inventory, kind(HOSTNAME, Some(options))).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap(), WatchResponse::default());
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(said(&first), [(EventType::Created, "a".to_owned())]);
    assert_eq!(said(&watch.next().await.unwrap().unwrap()), [(EventType::Created, "b".to_owned())]);
    assert_eq!(said(&watch.next().await.unwrap().unwrap()), [(EventType::Bootstrapped, String::new())]);
    *source.0.lock().unwrap() = vec![("b", "2"), ("c", "1")];
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(watch.next().await.unwrap().unwrap().event.remove(0));
    }
    let types: Vec<_> = told.iter().map(|event| event.event_type()).collect();
    assert_eq!(types, [EventType::Updated, EventType::Created, EventType::Destroyed]);
    let versions = |resource: &Option<Resource>| resource.clone().unwrap().metadata.unwrap().version;
    assert_eq!((versions(&told[0].resource), versions(&told[0].old)), ("2".to_owned(), "1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_contents_tells_changes_only() {
    let (source, inventory) = inventory(&[("a", "1")]);
    let mut watch = watch(&inventory, kind(HOSTNAME, None)).await.unwrap();
    watch.next().await.unwrap().unwrap();
    let quiet = tokio::time::timeout(LOOK_AGAIN * 10, watch.next()).await;
    assert!(quiet.is_err());
    source.0.lock().unwrap().clear();
    assert_eq!(said(&watch.next().await.unwrap().unwrap()), [(EventType::Destroyed, "a".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn an_aggregated_watch_tells_all_at_once_and_old_clients_hear_no_new_words() {
    let (source, inventory) = inventory(&[("a", "1"), ("b", "1")]);
    let options = WatchOptions { bootstrap_contents: true, aggregated: true, ..WatchOptions::default() };
    let mut all = watch(&inventory, kind(HOSTNAME, Some(options.clone()))).await.unwrap();
    all.next().await.unwrap().unwrap();
    assert_eq!(all.next().await.unwrap().unwrap().event.len(), 3);
    let mut old = kind(HOSTNAME, Some(options));
    old.api_version = 0;
    let mut old = watch(&inventory, old).await.unwrap();
    old.next().await.unwrap().unwrap();
    assert_eq!(old.next().await.unwrap().unwrap().event.len(), 2);
    source.0.lock().unwrap().clear();
    assert_eq!(all.next().await.unwrap().unwrap().event.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_one_begins_with_how_it_is() {
    let (source, inventory) = inventory(&[("a", "1"), ("b", "1")]);
    let one = |id: &str| WatchRequest { id: Some(id.to_owned()), ..kind(HOSTNAME, None) };
    let mut there = watch(&inventory, one("a")).await.unwrap();
    let mut missing = watch(&inventory, one("c")).await.unwrap();
    for stream in [&mut there, &mut missing] {
        stream.next().await.unwrap().unwrap();
    }
    assert_eq!(said(&there.next().await.unwrap().unwrap()), [(EventType::Created, "a".to_owned())]);
    assert_eq!(said(&missing.next().await.unwrap().unwrap()), [(EventType::Destroyed, "c".to_owned())]);
    *source.0.lock().unwrap() = vec![("a", "1"), ("b", "2"), ("c", "1")];
    assert_eq!(said(&missing.next().await.unwrap().unwrap()), [(EventType::Created, "c".to_owned())]);
    assert!(tokio::time::timeout(LOOK_AGAIN * 3, there.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_is_good_until_something_changes() {
    let (source, inventory) = inventory(&[("a", "1")]);
    let options = WatchOptions { bootstrap_bookmark: true, ..WatchOptions::default() };
    let mut first = watch(&inventory, kind(HOSTNAME, Some(options))).await.unwrap();
    first.next().await.unwrap().unwrap();
    let noop = first.next().await.unwrap().unwrap().event.remove(0);
    assert_eq!(noop.event_type(), EventType::Noop);
    let again = WatchOptions { start_from_bookmark: noop.bookmark, ..WatchOptions::default() };
    assert!(watch(&inventory, kind(HOSTNAME, Some(again.clone()))).await.is_ok());
    source.0.lock().unwrap().clear();
    let event = first.next().await.unwrap().unwrap().event.remove(0);
    let later = WatchOptions { start_from_bookmark: event.bookmark, ..WatchOptions::default() };
    assert!(watch(&inventory, kind(HOSTNAME, Some(later))).await.is_ok());
    for bad in [again.start_from_bookmark.unwrap(), vec![0; 16].into(), vec![].into()] {
        let options = WatchOptions { start_from_bookmark: Some(bad), ..WatchOptions::default() };
        let refused = watch(&inventory, kind(HOSTNAME, Some(options))).await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition);
    }
}

#[tokio::test]
async fn watches_are_counted_and_given_back() {
    let (_, inventory) = inventory(&[]);
    let mut open = Vec::new();
    for _ in 0..MAX_WATCHES {
        open.push(watch(&inventory, kind(HOSTNAME, None)).await.unwrap());
    }
    let refused = watch(&inventory, kind(HOSTNAME, None)).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    open.pop();
    assert!(watch(&inventory, kind(HOSTNAME, None)).await.is_ok());
}

#[tokio::test]
async fn label_queries_see_no_labels() {
    let (_, inventory) = inventory(&[("a", "1")]);
    let term =
        |op: Operation, invert| LabelTerm { key: "k".into(), op: op.into(), invert, ..Default::default() };
    let query = |terms: Vec<LabelTerm>| {
        Some(ListOptions { label_query: vec![LabelQuery { terms }], ..ListOptions::default() })
    };
    for (terms, count) in [
        (vec![], 1),
        (vec![term(Operation::Exists, false)], 0),
        (vec![term(Operation::Exists, true)], 1),
        (vec![term(Operation::NotExists, false)], 1),
        (vec![term(Operation::NotExists, false), term(Operation::Equal, false)], 0),
    ] {
        assert_eq!(list(&inventory, HOSTNAME, query(terms)).await.unwrap().len(), count);
    }
    let many = vec![term(Operation::Exists, true); MAX_TERMS + 1];
    assert_eq!(list(&inventory, HOSTNAME, query(many)).await.unwrap_err().code(), Code::InvalidArgument);
}

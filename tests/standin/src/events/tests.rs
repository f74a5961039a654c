use std::sync::Mutex;

use agent_wire::events::EventResponse;
use agent_wire::events::event_sink_service_server::{EventSinkService, EventSinkServiceServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;

/// A sink that passes on what it gets, or refuses everything.
struct Sink(Mutex<Option<mpsc::UnboundedSender<EventRequest>>>);

#[tonic::async_trait]
impl EventSinkService for Sink {
    async fn publish(&self, request: Request<EventRequest>) -> Result<Response<EventResponse>, Status> {
        match &*self.0.lock().unwrap() {
            Some(sender) => sender.send(request.into_inner()).unwrap(),
            None => return Err(Status::unknown("no machines found for address")),
        }
        Ok(Response::new(EventResponse {}))
    }
}

async fn sink(sender: Option<mpsc::UnboundedSender<EventRequest>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = EventSinkServiceServer::new(Sink(Mutex::new(sender)));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

#[tokio::test]
async fn events_arrive_as_talos_sends_them() {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let address = sink(Some(sender)).await;
    for event in [install_ended(), boot_began()] {
        publish(&address, None, &event).await.unwrap();
        let data = receiver.recv().await.unwrap().data.unwrap();
        assert_eq!(data.type_url, "talos/runtime/machine.SequenceEvent");
        assert_eq!(SequenceEvent::decode(data.value.as_slice()).unwrap(), event);
    }
}

#[tokio::test]
async fn a_refusal_says_who_refused_what() {
    let address = sink(None).await;
    let error = format!("{:#}", publish(&address, None, &boot_began()).await.unwrap_err());
    assert!(error.contains(&address) && error.contains("boot") && error.contains("no machines"), "{error}");
}

#[test]
fn ids_sort_by_time() {
    let now = SystemTime::now();
    assert!(event_id(now) < event_id(now + Duration::from_nanos(1)));
    assert!(event_id(UNIX_EPOCH) < event_id(now));
}

//! Omni's API for callers that sign: `cosi.resource.State`, and of `management.ManagementService` what has something
//! behind it here.
//!
//! Each call of the former is made on the store as its caller sees it ([`AccessState`]). Everything else that Omni has
//! there is answered `Unimplemented`, which its clients take as an older server.

use std::sync::Arc;

use cosi::server::StateService;
use cosi::{MAX_MESSAGE_BYTES, State};
use cosi_wire::resource as wire;
use omni_auth::{Identity, Role, VerifyLayer};
use tonic::codec::CompressionEncoding;
use tonic::service::interceptor::InterceptedService;
use tonic::service::{LayerExt as _, Routes};
use tonic::{Request, Response, Status};
use wire::state_server::{State as Calls, StateServer};

use crate::Hub;
use crate::access_state::AccessState;
use crate::limits::MAX_MANAGEMENT_MESSAGE;
use crate::management::Management;
use crate::management::wire::management::management_service_server::ManagementServiceServer;

/// The service: one for all callers.
struct Api {
    state: Arc<dyn State>,
}

/// Who calls without a signature, where only operators can call.
const OPERATOR: &str = "operator";

type Service = StateService<AccessState>;

pub(crate) fn routes(hub: &Hub) -> Routes {
    let keys = hub.keys.clone();
    let clock = Arc::clone(&hub.clock);
    let verify =
        VerifyLayer::new(Arc::new(move |fingerprint: &str| keys.find(fingerprint))).with_clock(clock);
    let server = StateServer::new(Api { state: hub.state() })
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let management = management(hub);
    let verified = tower::ServiceBuilder::new().layer(verify);
    Routes::new(verified.clone().named_layer(server)).add_service(verified.named_layer(management))
}

fn management(hub: &Hub) -> ManagementServiceServer<Management> {
    ManagementServiceServer::new(Management(hub.clone()))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_MANAGEMENT_MESSAGE)
}

/// The management API with every caller an administrator.
pub(crate) fn for_operators(hub: &Hub) -> Routes {
    let operator = |mut request: Request<()>| {
        request.extensions_mut().insert(Identity { id: OPERATOR.to_owned(), role: Role::Admin });
        Ok(request)
    };
    Routes::new(InterceptedService::new(management(hub), operator))
}

impl Api {
    /// The store as the caller sees it.
    fn of<T>(&self, request: &Request<T>) -> Result<Service, Status> {
        let identity = request.extensions().get::<Identity>();
        // The layer puts it there; without it nobody is let in.
        let identity = identity.ok_or_else(|| Status::unauthenticated(omni_auth::INVALID_SIGNATURE))?;
        Ok(StateService::new(AccessState::new(Arc::clone(&self.state), identity.clone())))
    }
}

#[tonic::async_trait]
impl Calls for Api {
    type ListStream = <Service as Calls>::ListStream;
    type WatchStream = <Service as Calls>::WatchStream;

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        self.of(&request)?.get(request).await
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        self.of(&request)?.list(request).await
    }

    async fn create(
        &self,
        request: Request<wire::CreateRequest>,
    ) -> Result<Response<wire::CreateResponse>, Status> {
        self.of(&request)?.create(request).await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        self.of(&request)?.update(request).await
    }

    async fn destroy(
        &self,
        request: Request<wire::DestroyRequest>,
    ) -> Result<Response<wire::DestroyResponse>, Status> {
        self.of(&request)?.destroy(request).await
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.of(&request)?.watch(request).await
    }

    async fn teardown(
        &self,
        request: Request<wire::TeardownRequest>,
    ) -> Result<Response<wire::TeardownResponse>, Status> {
        self.of(&request)?.teardown(request).await
    }

    async fn teardown_and_destroy(
        &self,
        request: Request<wire::TeardownAndDestroyRequest>,
    ) -> Result<Response<wire::TeardownAndDestroyResponse>, Status> {
        self.of(&request)?.teardown_and_destroy(request).await
    }
}

//! Service accounts whose keys others make, as `omnictl` does it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cosi::{State, StateError};
use omni_auth::{AccountName, ServiceAccountKey, Signed};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::site::*;
use crate::management::wire::management::management_service_client::ManagementServiceClient;
use crate::management::wire::management::{
    CreateServiceAccountRequest, DestroyServiceAccountRequest, RenewServiceAccountRequest,
};
use crate::store::pointer;

type Client = ManagementServiceClient<Signed<Channel>>;

async fn management(site: &Site, key: ServiceAccountKey) -> Client {
    let channel = Endpoint::from_shared(format!("http://{}", site.omni)).unwrap().connect().await.unwrap();
    ManagementServiceClient::new(Signed::new(channel, Some(Arc::new(key))))
}

async fn admin(site: &Site) -> Client {
    management(site, site.hub.create_admin_key("admin", SystemTime::now(), YEAR).await.unwrap()).await
}

fn new_key(name: &str, lifetime: Duration) -> ServiceAccountKey {
    let name: AccountName = name.parse().unwrap();
    ServiceAccountKey::generate_for(&name, SystemTime::now(), lifetime).unwrap()
}

fn create(name: &str, role: &str, key: &ServiceAccountKey) -> CreateServiceAccountRequest {
    CreateServiceAccountRequest {
        armored_pgp_public_key: key.public_armored(),
        use_user_role: false,
        role: role.to_owned(),
        name: name.to_owned(),
    }
}

#[tokio::test]
async fn a_key_that_the_caller_made_works_until_its_account_is_removed() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let mut admin = admin(&site).await;
    let name = "infra-provider:other";
    let provider = cosi::Resource::empty(&pointer::<provider::specs::InfraProviderSpec>("other"));
    site.users.state.create(provider, "").await.unwrap();
    let first = new_key(name, YEAR);
    let request = create(name, "InfraProvider", &first);
    let answer = admin.create_service_account(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.public_key_id, first.fingerprint());
    assert_eq!(admin.create_service_account(request).await.unwrap_err().code(), Code::AlreadyExists);
    let second = new_key(name, YEAR);
    let renew =
        RenewServiceAccountRequest { name: name.to_owned(), armored_pgp_public_key: second.public_armored() };
    admin.renew_service_account(renew).await.unwrap();
    let accounts = admin.list_service_accounts(()).await.unwrap().into_inner().service_accounts;
    let account = accounts.iter().find(|account| account.name == name).unwrap();
    assert_eq!((account.role.as_str(), account.pgp_public_keys.len()), ("InfraProvider", 2));
    assert!(accounts.iter().any(|account| account.name == "admin" && account.role == "Admin"));

    let version = pointer::<provider::specs::SysVersionSpec>("current");
    let (first, second) = (site.client(Some(first)).await, site.client(Some(second)).await);
    first.get(&version).await.unwrap();
    second.get(&version).await.unwrap();
    let destroy = DestroyServiceAccountRequest { name: name.to_owned() };
    admin.destroy_service_account(destroy.clone()).await.unwrap();
    for client in [first, second] {
        assert!(matches!(client.get(&version).await, Err(StateError::Unauthenticated(_))));
    }
    assert_eq!(admin.destroy_service_account(destroy).await.unwrap_err().code(), Code::NotFound);
    site.kill().await;
}

#[tokio::test]
async fn only_admins_manage_accounts() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let (_, key) = site.hub.create_provider(PROVIDER, SystemTime::now(), YEAR).await.unwrap();
    let mut provider = management(&site, key).await;
    let request = create("evil", "Admin", &new_key("evil", YEAR));
    let refused = provider.create_service_account(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(provider.list_service_accounts(()).await.unwrap_err().code(), Code::PermissionDenied);
    site.kill().await;
}

#[tokio::test]
async fn accounts_that_make_no_sense_are_refused() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let mut admin = admin(&site).await;
    let good = new_key("ci", YEAR);
    let long = new_key("ci", 2 * YEAR);
    let mut garbage = create("ci", "Reader", &good);
    garbage.armored_pgp_public_key = "nonsense".to_owned();
    let mut huge = create("ci", "Reader", &good);
    huge.armored_pgp_public_key = "x".repeat(20_000);
    for request in [
        create("", "Reader", &good),
        create("a b", "Reader", &good),
        create("ci", "Emperor", &good),
        create("ci", "InfraProvider", &good),
        create("infra-provider:x", "Admin", &good),
        create("ci", "Reader", &long),
        garbage,
        huge,
    ] {
        let text = format!("{} {}", request.name, request.role);
        let refused = admin.create_service_account(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{text}");
    }
    let renew =
        RenewServiceAccountRequest { name: "ci".to_owned(), armored_pgp_public_key: good.public_armored() };
    assert_eq!(admin.renew_service_account(renew).await.unwrap_err().code(), Code::NotFound);
    admin.create_service_account(create("ci", "Reader", &good)).await.unwrap();
    let reader = site.client(Some(good)).await;
    reader
        .list(&crate::store::kind::<provider::specs::ClusterSpec>(), &cosi::ListOptions::default())
        .await
        .unwrap();
    site.kill().await;
}

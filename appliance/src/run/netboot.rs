//! HTTP, TFTP and DHCP.

use std::sync::Arc;

use agent_wire::tunnel::TunnelService;
use anyhow::Context;
use netboot::dhcp::{Proxy, ProxyConfig};
use netboot::ipxe::{BaseUrl, init_script};
use netboot::journal::Sink;
use netboot_assets::factory::{Factory, FactoryImages};
use netboot_assets::{AssetDir, BootFiles};
use netboot_link::{dhcp, http, tftp};
use omni_link::tunnels::Tunnels;
use omni_link::view::View;

use super::Site;
use super::sockets::BootSockets;
use crate::policy::{Images, Policy, Settings};
use crate::recorder::unix_millis;

pub(super) fn start(
    site: &mut Site,
    sockets: BootSockets,
    view: Arc<View>,
    tunnels: Arc<Tunnels>,
) -> anyhow::Result<()> {
    let config = &site.config;
    let port = config.api.listen.port();
    let base = BaseUrl::new(site.advertise, port);
    let init = init_script(base).text();
    let extra = vec![("autoexec.ipxe".to_owned(), init.clone().into_bytes())];
    let ipxe_dir = &config.netboot.ipxe_dir;
    let files = BootFiles::load(ipxe_dir, extra)
        .with_context(|| format!("cannot read iPXE binaries from {}", ipxe_dir.display()))?;
    let files = Arc::new(files);
    let assets_path = &config.boot.assets_path;
    let assets = AssetDir::new(assets_path).with_context(|| {
        format!("cannot open the directory of boot assets {}; set boot.assets_path", assets_path.display())
    })?;
    let settings = Settings {
        base,
        disk_method: config.boot.disk_method,
        schematic: config.boot.schematic.clone(),
        agent: config.agent.kind.clone(),
        extra_documents: config.boot.extra_documents.clone(),
        agent_test_mode: config.agent.test_mode,
        agent_args: config.agent.extra_kernel_args.clone(),
        talos_args: config.boot.extra_kernel_args.clone(),
    };
    let factory = Factory::new(&config.boot.factory).context("cannot use the Image Factory")?;
    let (factory, worker) = FactoryImages::new(factory);
    let images = Images { assets: assets.clone(), factory: Arc::new(factory) };
    let policy = Arc::new(Policy::new(settings, images, view));
    policy.recall(site.recorder.since(0).iter().map(|entry| &entry.event), unix_millis());
    let sink: Sink = {
        let (policy, journal) = (Arc::clone(&policy), site.recorder.sink());
        Arc::new(move |event| {
            policy.saw(&event);
            journal(event);
        })
    };
    let tunnels = tonic::service::Routes::new(TunnelService::new(tunnels).into_server()).into_axum_router();
    let router = http::router(http::HttpConfig {
        policy,
        files: Arc::clone(&files),
        assets,
        init_script: init,
        sink: Arc::clone(&sink),
    })
    .merge(tunnels);

    let shutdown = site.shutdown.clone();
    let factory = worker.run(shutdown.clone());
    site.spawn("image factory", async move {
        factory.await;
        Ok(())
    });
    let server = http::serve(sockets.http, router, shutdown.clone());
    site.spawn("http", async move {
        server.await;
        Ok(())
    });
    if let Some(socket) = sockets.dhcp {
        let config = ProxyConfig { server: site.advertise, http_port: port, binaries: files.binaries() };
        let server = dhcp::run(socket, Proxy::new(config), Arc::clone(&sink), shutdown.clone());
        site.spawn("dhcp", async move { Ok(server.await?) });
    }
    let server = tftp::run(sockets.tftp, files, sink, shutdown);
    site.spawn("tftp", async move { Ok(server.await?) });
    Ok(())
}

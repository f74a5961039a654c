//! The network as `[box]` says: DHCP on every interface or on one, a static address, a VLAN.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use bootlace_agent::net::{self, Nic, SYS_NET};
use bootlace_agent::{say, sys as agent_sys};
use tokio::sync::{mpsc, watch};

use crate::config::{Config, Static};
use crate::sys;

/// Keeps the network up, and says when there is an address. Never returns.
pub(crate) async fn run(config: Arc<Config>, ready: watch::Sender<bool>) {
    let _ = fs::write("/etc/hosts", format!("127.0.0.1 localhost {}\n", config.name));
    let _ = agent_sys::link::link_up("lo");
    net::write_resolv(&config.dns);
    let mut seed = [0; 4];
    let _ = agent_sys::random(&mut seed, false);
    let seed = u32::from_ne_bytes(seed);
    let (sender, mut addresses) = mpsc::channel::<net::Up>(16);
    let follow = async {
        while let Some(up) = addresses.recv().await {
            if config.dns.is_empty() {
                net::write_resolv(&up.lease.dns);
            }
            ready.send_replace(true);
        }
    };
    let keep = async {
        if config.interface.is_none() && config.vlan.is_none() && config.address.is_none() {
            return net::run(sender, seed).await;
        }
        let mut nic = wait_for(config.interface.as_deref()).await;
        if let Some(vlan) = config.vlan {
            nic = add_vlan(nic, vlan).await;
        }
        match config.address {
            None => net::configure(nic, sender, seed).await,
            Some(address) => {
                set_static(&nic.name, address);
                ready.send_replace(true);
                std::future::pending().await
            }
        }
    };
    tokio::join!(follow, keep);
}

/// The interface of that name, or the first one, once its driver is there. Brings it up.
async fn wait_for(name: Option<&str>) -> Nic {
    let events = net::LinkEvents::open();
    let mut told = false;
    loop {
        let found =
            net::nics(Path::new(SYS_NET)).into_iter().find(|nic| name.is_none_or(|name| nic.name == name));
        if let Some(nic) = found {
            if let Err(error) = agent_sys::link::link_up(&nic.name) {
                say!("{}: cannot be brought up: {error}", nic.name);
            }
            return nic;
        }
        if !told {
            told = true;
            say!("waits for interface {}", name.unwrap_or("of any name"));
        }
        match &events {
            Ok(events) => events.changed().await,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// The VLAN's interface on top of another.
async fn add_vlan(below: Nic, id: u16) -> Nic {
    // Its driver has no device that would ask for it.
    bootlace_agent::modules::load_named("8021q");
    let name = format!("{}.{id}", below.name);
    if let Err(error) = sys::add_vlan(&below.name, id).and_then(|()| agent_sys::link::link_up(&name)) {
        say!("{name}: cannot be made: {error}");
        return std::future::pending().await;
    }
    let index = fs::read_to_string(Path::new(SYS_NET).join(&name).join("ifindex"));
    let index = index.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(below.index);
    Nic { name, index, mac: below.mac }
}

fn set_static(name: &str, Static { address, prefix, gateway }: Static) {
    let netmask = Ipv4Addr::from(u32::MAX << (32 - u32::from(prefix)));
    match agent_sys::link::set_address(name, address, netmask) {
        Ok(()) => say!("{name}: address {address}/{prefix}"),
        Err(error) => say!("{name}: address {address} cannot be set: {error}"),
    }
    if let Some(gateway) = gateway
        && let Err(error) = agent_sys::link::add_default_route(gateway)
    {
        say!("{name}: route over {gateway} cannot be set: {error}");
    }
}

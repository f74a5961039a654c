use std::fs;
use std::os::unix::fs::symlink;

use agent_wire::inventory::*;
use agent_wire::talos::network::LinkStatusSpec;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::inventory::rtnetlink::Link;

/// A machine with a SATA disk, an NVMe disk, a NIC and QEMU's firmware, as `/sys` shows it.
fn machine() -> (tempfile::TempDir, Machine) {
    let root = tempfile::tempdir().unwrap();
    let sys = root.path();
    let write = |path: &str, text: &str| {
        let path = sys.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let ata = "devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0";
    write(&format!("{ata}/block/sda/size"), "4096\n");
    write(&format!("{ata}/block/sda/ro"), "0\n");
    write(&format!("{ata}/block/sda/queue/logical_block_size"), "512\n");
    write(&format!("{ata}/block/sda/queue/minimum_io_size"), "4096\n");
    write(&format!("{ata}/block/sda/queue/optimal_io_size"), "0\n");
    write(&format!("{ata}/block/sda/queue/rotational"), "1\n");
    write(&format!("{ata}/block/sda/device/model"), "QEMU HARDDISK   \n");
    write("block/loop0/size", "8\n");
    write("block/nvme0n1/size", "2048\n");
    write("block/nvme0n1/device/serial", "S1\n");
    write("block/nvme0n1/wwid", "eui.1\n");
    symlink(sys.join(format!("{ata}/block/sda")), sys.join("block/sda")).unwrap();
    write("devices/pci0000:00/0000:00:02.0/vendor", "0x8086\n");
    write("devices/pci0000:00/0000:00:02.0/device", "0x100e\n");
    write("drivers/e1000/x", "");
    symlink(sys.join("drivers/e1000"), sys.join("devices/pci0000:00/0000:00:02.0/driver")).unwrap();
    for (file, text) in [
        ("ifindex", "2"),
        ("type", "1"),
        ("address", "52:54:00:00:00:01"),
        ("broadcast", "ff:ff:ff:ff:ff:ff"),
        ("mtu", "1500"),
        ("flags", "0x1003"),
        ("operstate", "up"),
        ("carrier", "1"),
        ("speed", "1000"),
        ("duplex", "full"),
    ] {
        write(&format!("class/net/eth0/{file}"), &format!("{text}\n"));
    }
    symlink(sys.join("devices/pci0000:00/0000:00:02.0"), sys.join("class/net/eth0/device")).unwrap();
    write("class/net/bonding_masters", "");
    write("class/net/lo/ifindex", "1");
    write("class/net/lo/speed", "-1");
    write("class/dmi/id/sys_vendor", "QEMU\n");
    write("class/dmi/id/product_uuid", "4C4C4544-0031-3010-8034-C2C04F4E5131\n");
    fs::create_dir_all(sys.join("firmware/dmi/tables")).unwrap();
    fs::write(sys.join("firmware/dmi/tables/DMI"), crate::smbios::tests::table_of_qemu()).unwrap();
    write("proc/cmdline", "BOOT_IMAGE=x talos.config=http://10.0.0.1/config?u=${uuid} quiet\n");
    write("proc/sys/kernel/hostname", "node-1.rack.example\n");
    write("proc/sys/kernel/domainname", "(none)\n");
    let machine = Machine { proc: sys.join("proc"), sys: sys.to_owned(), live: false, settle: false };
    (root, machine)
}

#[test]
fn disks_are_told_with_what_the_kernel_knows() {
    let (_root, machine) = machine();
    let disks = disks(&machine.sys.join("block"));
    let names: Vec<_> = disks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["nvme0n1", "sda"]);
    let (nvme, sda) = (&disks[0].1, &disks[1].1);
    assert_eq!((nvme.transport.as_str(), nvme.serial.as_str(), nvme.wwid.as_str()), ("nvme", "S1", "eui.1"));
    assert_eq!((sda.size, sda.io_size, sda.sector_size, sda.rotational), (2 << 20, 4096, 512, true));
    assert_eq!((sda.model.as_str(), sda.transport.as_str()), ("QEMU HARDDISK", "sata"));
    assert_eq!(sda.bus_path, "/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0");
    assert_eq!(sda.dev_path, "/dev/sda");
}

#[test]
fn links_are_told_with_what_the_kernel_knows() {
    let (_root, machine) = machine();
    let told = Told { permanent: [("eth0".to_owned(), [9; 6])].into(), ..Told::default() };
    let links = links(&machine.sys.join("class/net"), &told);
    let names: Vec<_> = links.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["eth0", "lo"]);
    let eth0 = &links[0].1;
    assert_eq!((eth0.index, eth0.r#type, eth0.flags, eth0.mtu), (2, 1, 0x1003, 1500));
    assert_eq!(
        (eth0.operational_state, eth0.link_state, eth0.speed_megabits, eth0.duplex),
        (6, true, 1000, 1)
    );
    assert_eq!((eth0.driver.as_str(), eth0.pciid.as_str()), ("e1000", "8086:100E"));
    assert_eq!((eth0.vendor_id.as_str(), eth0.product_id.as_str()), ("0x8086", "0x100e"));
    assert_eq!(eth0.bus_path, "0000:00:02.0");
    assert_eq!(eth0.hardware_addr[..], [0x52, 0x54, 0, 0, 0, 1]);
    assert_eq!(eth0.permanent_addr[..], [9; 6]);
    assert_eq!(links[1].1.speed_megabits, 0);
}

/// One link of each sort, two addresses and a default route.
fn told() -> Told {
    let mut told = Told::default();
    let link = |name: &str, kind: &str| Link { name: name.into(), kind: kind.into(), ..Link::default() };
    told.network.links = [(1, link("lo", "")), (2, link("eth0", ""))].into();
    let prefix = |ip: &[u8], prefix_length| {
        Some(agent_wire::common::NetIpPrefix { ip: ip.to_vec().into(), prefix_length })
    };
    let gateway = Some(agent_wire::common::NetIp { ip: vec![10, 0, 0, 1].into() });
    for (ip, length, link_index) in [(&[127, 0, 0, 1][..], 8, 1), (&[10, 0, 0, 5], 24, 2)] {
        told.network.addresses.push(agent_wire::talos::network::AddressStatusSpec {
            address: prefix(ip, length),
            link_index,
            family: 2,
            ..Default::default()
        });
    }
    told.network.routes.push(agent_wire::talos::network::RouteStatusSpec {
        gateway,
        family: 2,
        table: 254,
        r#type: 1,
        out_link_index: 2,
        priority: 1024,
        ..Default::default()
    });
    told
}

fn ids(items: &[Item], (namespace, kind): (&str, &str)) -> Vec<String> {
    let of_kind = items.iter().filter(|item| (item.namespace, item.kind) == (namespace, kind));
    of_kind.map(|item| item.id.clone()).collect()
}

fn shown(items: &[Item], (_, kind): (&str, &str), id: &str) -> String {
    items.iter().find(|item| (item.kind, item.id.as_str()) == (kind, id)).unwrap().shown.text()
}

#[test]
fn the_whole_inventory_has_every_type_and_unique_ids() {
    let (_root, machine) = machine();
    let items = machine.items_with(&told());
    let mut keys: Vec<_> = items.iter().map(|item| (item.kind, item.id.clone())).collect();
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count);
    for kind in [
        SYSTEM_INFORMATION,
        PROCESSORS,
        MEMORY_MODULES,
        DISKS,
        LINKS,
        ADDRESSES,
        ROUTES,
        NODE_ADDRESSES,
        HOSTNAME,
        PLATFORM_METADATA,
        SECURITY_STATE,
        KERNEL_CMDLINE,
        EXTENSIONS,
        MACHINE_STATUS,
        VERSION,
    ] {
        assert!(!ids(&items, kind).is_empty(), "{kind:?}");
    }
    let module = items.iter().find(|item| item.kind == MEMORY_MODULES.1).unwrap();
    assert_eq!(MemoryModuleSpec::decode(&module.spec[..]).unwrap().size, 2048);
}

#[test]
fn ids_are_those_of_talos() {
    let (_root, machine) = machine();
    let items = machine.items_with(&told());
    assert_eq!(ids(&items, PROCESSORS), ["CPU-0"]);
    assert_eq!(ids(&items, MEMORY_MODULES), ["DIMM-0", "DIMM-2"]);
    assert_eq!(ids(&items, ADDRESSES), ["lo/127.0.0.1/8", "eth0/10.0.0.5/24"]);
    assert_eq!(ids(&items, ROUTES), ["inet4/10.0.0.1//1024"]);
    assert_eq!(ids(&items, NODE_ADDRESSES), ["default", "current"]);
    assert_eq!(ids(&items, HOSTNAME), ["hostname"]);
}

#[test]
fn resources_are_shown_as_talos_shows_them() {
    let (_root, machine) = machine();
    let items = machine.items_with(&told());
    assert_eq!(
        shown(&items, ROUTES, "inet4/10.0.0.1//1024"),
        "family: inet4\ndst: ''\nsrc: ''\ngateway: 10.0.0.1\noutLinkIndex: 2\noutLinkName: eth0\n\
         table: main\npriority: 1024\nscope: global\ntype: unicast\nflags: ''\nprotocol: unspec\n"
    );
    assert_eq!(shown(&items, NODE_ADDRESSES, "current"), "addresses:\n- 10.0.0.5/24\nsortAlgorithm: v1\n");
    assert_eq!(shown(&items, HOSTNAME, "hostname"), "hostname: node-1\ndomainname: rack.example\n");
    assert_eq!(
        shown(&items, KERNEL_CMDLINE, "cmdline"),
        "cmdline: BOOT_IMAGE=x talos.config=http://10.0.0.1/config?u=${uuid} quiet\n"
    );
    assert_eq!(
        shown(&items, MACHINE_STATUS, "machine"),
        "stage: maintenance\nstatus:\n  ready: true\n  unmetConditions: []\n"
    );
    assert!(shown(&items, EXTENSIONS, "0").contains("name: metal-agent\n"));
    assert!(shown(&items, LINKS, "eth0").contains("flags: UP,BROADCAST,MULTICAST\nhardwareAddr: 52:54:00"));
}

#[test]
fn an_unnamed_machine_has_no_hostname() {
    let (root, machine) = machine();
    for filler in ["(none)\n", "localhost\n", ""] {
        fs::write(root.path().join("proc/sys/kernel/hostname"), filler).unwrap();
        assert!(ids(&machine.items(), HOSTNAME).is_empty(), "{filler:?}");
    }
}

#[test]
fn the_kernel_tells_which_links_are_made_by_software() {
    let (_root, machine) = machine();
    let mut told = told();
    told.network.links.get_mut(&2).unwrap().kind = "veth".into();
    let found = links(&machine.sys.join("class/net"), &told);
    let eth0: &LinkStatusSpec = &found.iter().find(|(name, _)| name == "eth0").unwrap().1;
    assert_eq!(eth0.kind, "veth");
    // Somebody renamed links meanwhile: what netlink tells is of another one.
    told.network.links.get_mut(&2).unwrap().name = "eth1".into();
    let found = links(&machine.sys.join("class/net"), &told);
    assert!(found.iter().all(|(_, link)| link.kind.is_empty()));
}

#[test]
fn a_virtio_card_is_found_behind_its_bus_and_a_usb_adapter_is_on_no_card() {
    let (root, machine) = machine();
    let sys = root.path();
    for (name, index, device) in [
        ("eth1", "5", "devices/pci0000:00/0000:00:03.0/virtio0"),
        ("eth2", "6", "devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0"),
    ] {
        let device = sys.join(device);
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(sys.join("class/net").join(name)).unwrap();
        fs::write(sys.join("class/net").join(name).join("ifindex"), index).unwrap();
        symlink(&device, sys.join("class/net").join(name).join("device")).unwrap();
    }
    for (file, text) in [("vendor", "0x1af4\n"), ("device", "0x1000\n")] {
        fs::write(sys.join("devices/pci0000:00/0000:00:03.0").join(file), text).unwrap();
        fs::write(sys.join("devices/pci0000:00/0000:00:14.0").join(file), text).unwrap();
    }
    let found = links(&machine.sys.join("class/net"), &Told::default());
    let link = |wanted: &str| &found.iter().find(|(name, _)| name == wanted).unwrap().1;
    assert_eq!((link("eth1").bus_path.as_str(), link("eth1").vendor_id.as_str()), ("0000:00:03.0", "0x1af4"));
    assert_eq!(link("eth1").pciid, "");
    assert_eq!((link("eth2").bus_path.as_str(), link("eth2").vendor_id.as_str()), ("1-1:1.0", ""));
}

#[test]
fn addresses_that_nobody_can_reach_are_not_the_machines() {
    let (root, machine) = machine();
    let current = |machine: &Machine| {
        let items = machine.items_with(&told());
        shown(&items, NODE_ADDRESSES, "current")
    };
    assert!(current(&machine).contains("10.0.0.5/24"));
    fs::write(root.path().join("class/net/eth0/carrier"), "0\n").unwrap();
    assert_eq!(current(&machine), "addresses: []\nsortAlgorithm: v1\n");
}

#[test]
fn a_machine_that_tells_nothing_is_told_as_such() {
    let root = tempfile::tempdir().unwrap();
    let machine =
        Machine { sys: root.path().to_owned(), proc: root.path().to_owned(), live: false, settle: false };
    let items = machine.items();
    let kinds: Vec<_> = items.iter().map(|item| item.kind).collect();
    let of_the_agent =
        [SYSTEM_INFORMATION, PLATFORM_METADATA, SECURITY_STATE, EXTENSIONS, MACHINE_STATUS, VERSION];
    assert_eq!(kinds, of_the_agent.map(|(_, kind)| kind));
    assert_eq!(SystemInformationSpec::decode(&items[0].spec[..]).unwrap(), SystemInformationSpec::default());
}

#[test]
fn without_a_memory_table_all_memory_is_one_module() {
    let found = memory_modules(&[], "MemFree:  1 kB\nMemTotal:       2031424 kB\n");
    assert_eq!(found[0].0, "UNKNOWN");
    assert_eq!(found[0].1.size, 1983);
    for nothing in ["", "MemTotal: x kB", "MemTotal: 18446744073709551615 kB", "MemTotal: -1 kB"] {
        assert!(memory_modules(&[], nothing).iter().all(|(_, module)| module.size > 0));
    }
}

#[test]
fn the_same_place_twice_gives_two_names() {
    let names = with_ids(vec!["A 1", "A 1", "", "A-1"], "X", |place| (*place).to_owned());
    let ids: Vec<_> = names.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["A-1", "A-1-1", "X-2", "A-1-3"]);
}

#[test]
fn this_machine_is_told_with_its_network() {
    let items = Machine { settle: false, ..Machine::default() }.items();
    assert!(ids(&items, LINKS).contains(&"lo".to_owned()));
    assert!(!ids(&items, KERNEL_CMDLINE).is_empty());
}

proptest! {
    #[test]
    fn no_contents_of_the_files_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let (root, machine) = machine();
        for file in ["proc/cmdline", "proc/sys/kernel/hostname", "class/net/eth0/flags", "class/net/eth0/type",
            "class/net/eth0/address", "class/net/eth0/ifindex", "class/dmi/id/product_uuid",
            "firmware/dmi/tables/DMI", "block/nvme0n1/size", "block/nvme0n1/device/serial"] {
            fs::write(root.path().join(file), &bytes).unwrap();
        }
        fs::write(root.path().join("proc/cpuinfo"), &bytes).unwrap();
        fs::write(root.path().join("proc/meminfo"), &bytes).unwrap();
        prop_assert!(!machine.items_with(&told()).is_empty());
    }
}

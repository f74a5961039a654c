use std::fs;
use std::os::unix::fs::symlink;

use agent_wire::talos::hardware::MemoryModuleSpec;

use super::*;

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
    let machine = Machine { sys: sys.to_owned() };
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
    let links = links(&machine.sys.join("class/net"), &|name| (name == "eth0").then_some([9; 6]));
    let names: Vec<_> = links.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["eth0", "lo"]);
    let eth0 = &links[0].1;
    assert_eq!((eth0.index, eth0.r#type, eth0.flags, eth0.mtu), (2, 1, 0x1003, 1500));
    assert_eq!(
        (eth0.operational_state, eth0.link_state, eth0.speed_megabits, eth0.duplex),
        (6, true, 1000, 1)
    );
    assert_eq!((eth0.driver.as_str(), eth0.pciid.as_str()), ("e1000", "8086:100e"));
    assert_eq!(eth0.bus_path, "0000:00:02.0");
    assert_eq!(eth0.hardware_addr[..], [0x52, 0x54, 0, 0, 0, 1]);
    assert_eq!(eth0.permanent_addr[..], [9; 6]);
    assert_eq!(links[1].1.speed_megabits, 0);
}

#[test]
fn the_whole_inventory_has_every_type_and_unique_ids() {
    let (_root, machine) = machine();
    let items = machine.items();
    let mut keys: Vec<_> = items.iter().map(|item| (item.kind, item.id.clone())).collect();
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count);
    for (namespace, kind) in [SYSTEM_INFORMATION, PROCESSORS, MEMORY_MODULES, DISKS, LINKS] {
        assert!(items.iter().any(|item| (item.namespace, item.kind) == (namespace, kind)), "{kind}");
    }
    let module = items.iter().find(|item| item.kind == MEMORY_MODULES.1).unwrap();
    assert_eq!(MemoryModuleSpec::decode(&module.spec[..]).unwrap().size, 2048);
}

#[test]
fn a_machine_that_tells_nothing_is_told_as_such() {
    let root = tempfile::tempdir().unwrap();
    let items = Machine { sys: root.path().to_owned() }.items();
    assert_eq!(items.len(), 1);
    assert_eq!(SystemInformationSpec::decode(&items[0].spec[..]).unwrap(), SystemInformationSpec::default());
}

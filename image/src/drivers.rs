//! Which kernel modules a kind of machine needs. Tables, so that a new card is one line.

use crate::binary::Arch;

/// A named list of modules.
#[derive(Debug)]
pub struct DriverSet {
    /// The name, as given to `--drivers`.
    pub name: &'static str,
    /// For whom it is.
    pub about: &'static str,
    /// The modules in the order in which they are loaded; dependencies are found by themselves.
    pub modules: &'static [&'static str],
}

/// Every set there is.
pub const SETS: &[DriverSet] = &[
    DriverSet {
        name: "virtio",
        about: "virtual machines: virtio network, disks and SCSI",
        modules: &["virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "sd_mod"],
    },
    DriverSet {
        name: "metal",
        about: "servers and virtual machines: network cards, NVMe, SATA, SAS, USB, IPMI",
        modules: &[
            // Bus and network of virtual machines; these come first, since they are found first.
            "virtio_pci",
            "virtio_net",
            "virtio_blk",
            "virtio_scsi",
            "vmxnet3",
            "hv_netvsc",
            "ena",
            "gve",
            // Network cards. PHY drivers first: a card without its PHY's driver gets a generic one for good.
            "realtek",
            "broadcom",
            "e1000",
            "e1000e",
            "igb",
            "igc",
            "ixgbe",
            "i40e",
            "ice",
            "tg3",
            "bnx2",
            "bnx2x",
            "bnxt_en",
            "r8169",
            "atlantic",
            "mlx4_en",
            "mlx5_core",
            "be2net",
            "enic",
            "qede",
            "cxgb4",
            "sfc",
            "sfc_siena",
            "ionic",
            "nfp",
            "jme",
            "sky2",
            "alx",
            "atl1c",
            // Network of arm64 servers and boards.
            "hns3",
            "hclge",
            "hns_enet_drv",
            "nicvf",
            "thunder_bgx",
            "xgene_enet",
            "amd_xgbe",
            "mvneta",
            "mvpp2",
            "dwmac_rk",
            "fsl_dpaa2_eth",
            "fsl_enetc",
            "genet",
            "macb",
            // Disks.
            "sd_mod",
            "nvme",
            "ahci",
            "ata_piix",
            "mpt3sas",
            "megaraid_sas",
            "smartpqi",
            "hpsa",
            "aacraid",
            "mvsas",
            "vmw_pvscsi",
            "hv_storvsc",
            "sdhci_pci",
            "mmc_block",
            // Disks of arm64 servers and boards, and of virtual machines without PCI.
            "virtio_mmio",
            "ahci_platform",
            "ahci_xgene",
            "ahci_seattle",
            "ahci_dwc",
            "hisi_sas_v2_hw",
            "hisi_sas_v3_hw",
            "sdhci_iproc",
            "sdhci_of_dwcmshc",
            "sdhci_acpi",
            "phy_rockchip_naneng_combphy",
            // USB: disks to be seen, network adapters to boot from, a keyboard on the console.
            "xhci_pci",
            "ehci_pci",
            "uhci_hcd",
            "ohci_pci",
            "xhci_plat_hcd",
            "usb_storage",
            "uas",
            "r8152",
            "ax88179_178a",
            "asix",
            "cdc_ether",
            "cdc_ncm",
            "usbhid",
            "hid_generic",
            // The management controller, from inside.
            "i2c_i801",
            "ipmi_si",
            "ipmi_ssif",
            "ipmi_devintf",
            // What the machine booted from, and whether Secure Boot is on.
            "efivarfs",
        ],
    },
    DriverSet {
        name: "box",
        about: "the box itself, beside what is in metal: its data, VLANs, a watchdog",
        modules: &[
            "ext4",
            "crc32c_generic",
            "crc32c_intel",
            "8021q",
            "iTCO_wdt",
            "sp5100_tco",
            "wdat_wdt",
            "i6300esb",
            "ipmi_watchdog",
            "softdog",
        ],
    },
];

/// Drivers that only one architecture's kernels have; elsewhere nobody misses them.
const ONLY: &[(Arch, &[&str])] = &[
    (Arch::Amd64, &["vmw_pvscsi", "vmxnet3", "uhci_hcd", "i2c_i801", "ata_piix"]),
    (
        Arch::Arm64,
        &[
            "hns3",
            "hclge",
            "hns_enet_drv",
            "nicvf",
            "thunder_bgx",
            "xgene_enet",
            "mvneta",
            "mvpp2",
            "dwmac_rk",
            "fsl_dpaa2_eth",
            "fsl_enetc",
            "genet",
            "macb",
            "ahci_platform",
            "ahci_xgene",
            "ahci_seattle",
            "ahci_dwc",
            "hisi_sas_v2_hw",
            "hisi_sas_v3_hw",
            "sdhci_iproc",
            "sdhci_of_dwcmshc",
            "phy_rockchip_naneng_combphy",
        ],
    ),
];

/// Whether a kernel of this architecture could have the driver.
pub fn is_expected(driver: &str, arch: Arch) -> bool {
    !ONLY.iter().any(|(only, drivers)| *only != arch && drivers.contains(&driver))
}

/// What a driver wants beside it although nothing in the kernel says so: before it, and after it.
#[derive(Debug)]
pub struct Companions {
    /// The driver.
    pub driver: &'static str,
    /// Loaded before it.
    pub before: &'static [&'static str],
    /// Loaded after it.
    pub after: &'static [&'static str],
}

/// All of them.
pub const COMPANIONS: &[Companions] = &[
    // A card without its PHY's driver gets a generic one for good.
    Companions { driver: "tg3", before: &["broadcom"], after: &[] },
    // The BMC's driver without its device file is of no use.
    Companions { driver: "ipmi_si", before: &[], after: &["ipmi_devintf"] },
    Companions { driver: "ipmi_ssif", before: &[], after: &["ipmi_devintf"] },
];

/// The modules of a list such as `virtio` or `virtio,e1000e`: set names and module names, in order.
pub fn expand(words: &[String]) -> Vec<String> {
    let mut modules = Vec::new();
    for word in words {
        match SETS.iter().find(|set| set.name == word) {
            Some(set) => modules.extend(set.modules.iter().map(|module| (*module).to_owned())),
            None => modules.push(word.clone()),
        }
    }
    modules
}

/// Whether a word names a set, whose modules may be missing from a kernel, or a single module, which may not.
pub fn is_set(word: &str) -> bool {
    SETS.iter().any(|set| set.name == word)
}

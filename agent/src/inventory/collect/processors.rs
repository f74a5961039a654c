//! Processors, from SMBIOS; where the firmware tells none, from `/proc/cpuinfo`.

use std::collections::BTreeMap;

use agent_wire::talos::hardware::ProcessorSpec;

use super::with_ids;
use crate::smbios;

/// More than the largest machine has.
const MAX_PACKAGES: usize = 64;

/// The processors by their sockets.
pub fn processors(table: &[u8], cpuinfo: &str) -> Vec<(String, ProcessorSpec)> {
    let told = smbios::processors(table);
    if !told.is_empty() {
        return with_ids(told, "CPU", |processor| processor.socket.clone());
    }
    from_cpuinfo(cpuinfo)
}

/// One for each package. What the kernel does not tell (arm64 names neither maker nor model) stays empty.
fn from_cpuinfo(text: &str) -> Vec<(String, ProcessorSpec)> {
    let mut packages: BTreeMap<u32, ProcessorSpec> = BTreeMap::new();
    for block in text.split("\n\n") {
        let value = |wanted: &str| {
            block.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == wanted).then(|| value.trim())
            })
        };
        // A number here; arm and others also have a text of that name.
        if value("processor").and_then(|number| number.parse::<u32>().ok()).is_none() {
            continue;
        }
        let number = |key: &str| value(key).and_then(|number| number.parse::<u32>().ok());
        let package = number("physical id").unwrap_or(0);
        if packages.len() >= MAX_PACKAGES && !packages.contains_key(&package) {
            continue;
        }
        let spec = packages.entry(package).or_insert_with(|| ProcessorSpec {
            manufacturer: value("vendor_id").unwrap_or_default().to_owned(),
            product_name: value("model name").unwrap_or_default().to_owned(),
            core_count: number("cpu cores").unwrap_or(0),
            core_enabled: number("cpu cores").unwrap_or(0),
            ..ProcessorSpec::default()
        });
        spec.thread_count = spec.thread_count.saturating_add(1);
    }
    packages.into_iter().map(|(package, spec)| (format!("CPU-{package}"), spec)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two packages with two cores of two threads each, shortened.
    fn x86() -> String {
        let thread = |number: u32| {
            format!(
                "processor\t: {number}\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) CPU E5-2620\n\
                 cpu MHz\t\t: 1200.000\nphysical id\t: {}\nsiblings\t: 4\ncpu cores\t: 2\nflags\t\t: fpu vme: x\n",
                number / 4
            )
        };
        (0..8).map(thread).collect::<Vec<_>>().join("\n")
    }

    const ARM64: &str = "processor\t: 0\nBogoMIPS\t: 100.00\nCPU implementer\t: 0x41\n\n\
                         processor\t: 1\nBogoMIPS\t: 100.00\nCPU implementer\t: 0x41\n";

    #[test]
    fn the_packages_of_cpuinfo_are_told_where_the_firmware_tells_none() {
        let found = processors(&[], &x86());
        let ids: Vec<_> = found.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["CPU-0", "CPU-1"]);
        let (_, first) = &found[0];
        assert_eq!((first.core_count, first.thread_count), (2, 4));
        assert_eq!(first.product_name, "Intel(R) Xeon(R) CPU E5-2620");
    }

    #[test]
    fn what_arm64_does_not_tell_stays_empty() {
        let found = processors(&[], ARM64);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].1.core_count, found[0].1.thread_count), (0, 2));
        assert!(found[0].1.product_name.is_empty());
    }

    #[test]
    fn the_firmware_goes_first_and_names_the_socket() {
        let found = processors(&smbios::tests::table_of_qemu(), &x86());
        assert_eq!(found.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["CPU-0"]);
        assert_eq!(found[0].1.manufacturer, "QEMU");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(processor|physical id|cpu cores|[a-z: \t\n0-9])*") {
            let _ = from_cpuinfo(&text);
        }
    }
}

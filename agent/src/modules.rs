//! Loads the kernel modules that the image lists, in the image's order.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Where the image builder writes the list: one path per line, NIC drivers first.
pub const ORDER: &str = "/etc/modules.order";

/// The list's lines; comments and blank lines are skipped, relative paths are below `/`.
pub fn parse_order(text: &str) -> Vec<PathBuf> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| Path::new("/").join(line))
        .collect()
}

/// Loads them all. A module that is missing or has no hardware is told, not fatal.
pub fn load(order: &Path) {
    let text = match std::fs::read_to_string(order) {
        Ok(text) => text,
        Err(error) => return crate::say!("no kernel modules to load: {}: {error}", order.display()),
    };
    let mut loaded = 0;
    for path in parse_order(&text) {
        match load_one(&path) {
            Ok(()) => loaded += 1,
            // Built in, or loaded by an earlier line.
            Err(LoadError::Kernel(Errno::EEXIST)) => {}
            // The usual word of a driver without its hardware.
            Err(LoadError::Kernel(Errno::ENODEV)) => {}
            Err(error) => crate::say!("module {}: {}", path.display(), crate::console::chain(&error)),
        }
    }
    crate::say!("loaded {loaded} kernel modules");
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("cannot be opened")]
    Open(#[source] std::io::Error),
    #[error("refused by the kernel: {0}")]
    Kernel(Errno),
}

fn load_one(path: &Path) -> Result<(), LoadError> {
    let file = File::open(path).map_err(LoadError::Open)?;
    nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()).map_err(LoadError::Kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_in_order() {
        let order = parse_order("# NICs\n/lib/modules/6.1/e1000.ko\n\n lib/modules/6.1/ahci.ko \n");
        assert_eq!(order, [Path::new("/lib/modules/6.1/e1000.ko"), Path::new("/lib/modules/6.1/ahci.ko")]);
    }
}

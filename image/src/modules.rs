//! Which files of a kernel's module directory to take, and in which order to load them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::drivers;

/// A kernel's module directory, `/lib/modules/VERSION`, as depmod describes it.
#[derive(Debug)]
pub struct Tree {
    directory: PathBuf,
    version: String,
    /// Module name to path relative to the directory.
    paths: BTreeMap<String, String>,
    /// Path to the paths that it depends on.
    dependencies: BTreeMap<String, Vec<String>>,
    /// Names of modules that the kernel has built in.
    built_in: BTreeSet<String>,
    /// Module name to names to load before and after it, if they are there.
    soft: BTreeMap<String, SoftDependencies>,
    /// Other names of modules; soft dependencies use them, as in `libcrc32c pre: crc32c`.
    aliases: BTreeMap<String, Vec<String>>,
    /// Patterns of the devices that modules drive, as (pattern, module).
    devices: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct SoftDependencies {
    before: Vec<String>,
    after: Vec<String>,
}

/// What [`Tree::plan`] found.
#[derive(Debug, Default)]
pub struct Plan {
    /// Paths relative to the directory, each after everything that it depends on.
    pub order: Vec<String>,
    /// Drivers of a set that this kernel does not have.
    pub missing: Vec<String>,
    /// The modules that were asked for by their own names, and those whose hardware nothing can be told of.
    pub always: Vec<String>,
}

impl Tree {
    /// Reads depmod's files in a directory such as `/lib/modules/6.1.0-56-amd64`.
    pub fn open(directory: &Path) -> Result<Self> {
        let text = |name: &str| fs::read_to_string(directory.join(name));
        let dep = text("modules.dep").with_context(|| {
            format!(
                "{} is no kernel module directory: cannot read modules.dep there; give a directory such as \
                 /lib/modules/$(uname -r), after depmod",
                directory.display()
            )
        })?;
        let version = directory
            .canonicalize()
            .ok()
            .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .with_context(|| {
                format!("{} has no name to take the kernel version from", directory.display())
            })?;

        let mut paths = BTreeMap::new();
        let mut dependencies = BTreeMap::new();
        for line in dep.lines().filter(|line| !line.trim().is_empty()) {
            let (path, rest) = line
                .split_once(':')
                .with_context(|| format!("{}/modules.dep has the line {line:?}", directory.display()))?;
            paths.insert(module_name(path), path.to_owned());
            dependencies.insert(path.to_owned(), rest.split_whitespace().map(str::to_owned).collect());
        }
        // These files may be absent: then nothing is built in, depends softly on another, or has a second name.
        let built_in = text("modules.builtin").unwrap_or_default().lines().map(module_name).collect();
        let soft = parse_soft(&text("modules.softdep").unwrap_or_default());
        let alias = text("modules.alias").unwrap_or_default();
        let (aliases, devices) = (parse_aliases(&alias), parse_devices(&alias));
        let directory = directory.to_owned();
        Ok(Self { directory, version, paths, dependencies, built_in, soft, aliases, devices })
    }

    /// The kernel version that the modules are for: the directory's name.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Finds the drivers named by sets and modules (see [`drivers::expand`]). A set's driver that this kernel
    /// does not have is noted; a driver that was asked for by its own name must be there.
    pub fn plan(&self, words: &[String]) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut seen = BTreeSet::new();
        for word in words {
            for name in drivers::expand(std::slice::from_ref(word)) {
                let name = module_name(&name);
                if self.built_in.contains(&name) {
                    continue;
                }
                if self.paths.contains_key(&name) {
                    self.visit(&name, &mut seen, &mut plan.order)?;
                    if !drivers::is_set(word) {
                        plan.always.push(name);
                    }
                } else if drivers::is_set(word) {
                    plan.missing.push(name);
                } else {
                    let sets: Vec<_> = drivers::SETS.iter().map(|set| set.name).collect();
                    bail!(
                        "kernel {} has no module {name}, and no driver set has that name (sets: {})",
                        self.version,
                        sets.join(", ")
                    );
                }
            }
        }
        Ok(plan)
    }

    /// The lines of `modules.alias` for the modules of a plan: which device wants which of them. Sorted.
    pub fn device_aliases(&self, plan: &Plan) -> String {
        let planned: BTreeSet<String> = plan.order.iter().map(|path| module_name(path)).collect();
        let lines: BTreeSet<String> = self
            .devices
            .iter()
            .filter(|(_, module)| planned.contains(module))
            .map(|(pattern, module)| format!("alias {pattern} {module}\n"))
            .collect();
        lines.into_iter().collect()
    }

    /// For each module of a plan all paths to load for it, in order and with itself; companions are in it.
    pub fn loads(&self, plan: &Plan) -> Result<Vec<(String, Vec<String>)>> {
        let mut loads = Vec::new();
        for path in &plan.order {
            let name = module_name(path);
            let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
            let companions = drivers::COMPANIONS.iter().find(|companions| companions.driver == name);
            let (before, after) = companions.map_or((&[][..], &[][..]), |with| (with.before, with.after));
            for module in before.iter().chain([&name.as_str()]).chain(after) {
                if self.paths.contains_key(*module) {
                    self.visit(module, &mut seen, &mut order)?;
                }
            }
            // A soft dependency of another driver's companion may not be in the image.
            order.retain(|path| plan.order.contains(path));
            loads.push((name, order));
        }
        loads.sort();
        Ok(loads)
    }

    /// The bytes of a module, as they are: stripping one would remove its signature, and a locked-down kernel
    /// then refuses it.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let full = self.directory.join(path);
        ensure!(
            path.ends_with(".ko"),
            "{} is compressed, and the agent does not unpack modules: use a kernel with plain .ko files, such as \
             Debian 12's",
            full.display()
        );
        fs::read(&full).with_context(|| {
            format!("cannot read {}, which modules.dep names: run depmod {}", full.display(), self.version)
        })
    }

    /// Depth first, dependencies from the last to the first: so depmod writes them.
    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) -> Result<()> {
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.paths.get(name) else {
            bail!(
                "modules.dep of kernel {} names {name} as a dependency, but has no line for it",
                self.version
            );
        };
        for dependency in self.dependencies.get(path).into_iter().flatten().rev() {
            self.visit(&module_name(dependency), seen, order)?;
        }
        let soft = self.soft.get(name);
        self.visit_soft(soft.map_or(&[], |soft| &soft.before), seen, order)?;
        order.push(path.clone());
        self.visit_soft(soft.map_or(&[], |soft| &soft.after), seen, order)
    }

    /// A soft dependency may name a module, several by an alias, or nothing that is there; then the module does
    /// without.
    fn visit_soft(
        &self,
        names: &[String],
        seen: &mut BTreeSet<String>,
        order: &mut Vec<String>,
    ) -> Result<()> {
        for name in names {
            let aliased = self.aliases.get(name).into_iter().flatten();
            for module in std::iter::once(name).chain(aliased).filter(|name| self.paths.contains_key(*name)) {
                self.visit(module, seen, order)?;
            }
        }
        Ok(())
    }
}

/// A module's name from a path or another spelling: `kernel/drivers/nvme/host/nvme-core.ko` is `nvme_core`.
pub(crate) fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.replace('-', "_")
}

/// Lines such as `softdep r8169 pre: realtek post: other`.
fn parse_soft(text: &str) -> BTreeMap<String, SoftDependencies> {
    let mut all: BTreeMap<String, SoftDependencies> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { continue };
        let soft = all.entry(module_name(name)).or_default();
        let mut list = None;
        for word in words {
            match word {
                "pre:" => list = Some(&mut soft.before),
                "post:" => list = Some(&mut soft.after),
                name => {
                    if let Some(list) = &mut list {
                        list.push(module_name(name));
                    }
                }
            }
        }
    }
    all
}

/// Lines such as `alias crc32c crc32c_generic`. Patterns, which match devices, are not names.
fn parse_aliases(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["alias", alias, module] = words[..]
            && !alias.contains(['*', '?', '[', ':'])
        {
            all.entry(module_name(alias)).or_default().push(module_name(module));
        }
    }
    all
}

/// Lines such as `alias pci:v00008086d0000100E* e1000`.
fn parse_devices(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["alias", pattern, module] if pattern.contains(':') => {
            Some((pattern.to_owned(), module_name(module)))
        }
        _ => None,
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests;

//! The firewall of this network namespace, as nftables loads it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::binaries::{Part, ensure, run};
use crate::debian;

/// The program, and the libraries that no other program here brings.
const PACKAGES: [&str; 6] = ["nftables", "libnftables1", "libnftnl11", "libmnl0", "libjansson4", "libxtables12"];

/// nft.
#[derive(Clone, Debug)]
pub struct Nftables {
    folder: PathBuf,
}

impl Nftables {
    /// Makes sure that nft is in the cache. Needs a Debian or Ubuntu and its packages the first time.
    pub fn ensure() -> anyhow::Result<Self> {
        let make = |work: &Path, out: &Path| debian::unpack(&PACKAGES, "nftables", work, out);
        let [folder] = ensure([Part { key: "debian-nftables".into(), make }])?;
        Ok(Self { folder })
    }

    /// Puts the rules of a file in force.
    pub fn load(&self, rules: &Path) -> anyhow::Result<()> {
        let mut nft = Command::new(self.folder.join("usr/sbin/nft"));
        run(nft.env("LD_LIBRARY_PATH", self.libraries()?).arg("-f").arg(rules)).context("nft takes the rules for wrong")?;
        Ok(())
    }

    /// `usr/lib` has one folder, named after the machine's kind.
    fn libraries(&self) -> anyhow::Result<OsString> {
        let folders = std::fs::read_dir(self.folder.join("usr/lib"))?.collect::<Result<Vec<_>, _>>()?;
        Ok(std::env::join_paths(folders.iter().map(std::fs::DirEntry::path))?)
    }
}

//! Links between pages lead somewhere.

use std::path::{Component, Path, PathBuf};

use anyhow::ensure;
use testbed::operator::repository;

use crate::page::Page;

/// Every relative link names a file that is there, and every anchor a heading of it.
pub fn follow(pages: &[Page]) -> anyhow::Result<()> {
    let mut broken = Vec::new();
    let mut followed = 0;
    for page in pages {
        for (line, target) in page.links.iter().filter(|(_, target)| !target.contains("://") && !target.starts_with("mailto:")) {
            followed += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { PathBuf::from(&page.name) } else { flat(&Path::new(&page.name).with_file_name("").join(file)) };
            let known = pages.iter().find(|page| Path::new(&page.name) == path);
            let is_there = known.is_some() || repository().join(&path).exists();
            let has_anchor = anchor.is_empty() || known.is_some_and(|page| page.anchors.iter().any(|a| a == anchor));
            if !is_there || !has_anchor {
                broken.push(format!("{}:{line}: {target}", page.name));
            }
        }
    }
    ensure!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    ensure!(followed > 0, "no link was found at all");
    println!("{followed} links lead somewhere");
    Ok(())
}

/// Without `.` and `..`.
fn flat(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                flat.pop();
            }
            Component::CurDir => {}
            part => flat.push(part),
        }
    }
    flat
}

//! A page of Markdown: its blocks, headings and links.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use testbed::operator::repository;

/// What is done with a block.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Run, and not shown to readers.
    Hidden,
    Run,
    Check,
    /// Taken by the API server; the name of the file that it is.
    Objects(Option<String>),
    /// A part of a spec of that kind.
    Part(String),
    Values,
    Json,
    Env(String),
    Text,
}

impl Kind {
    fn parse(info: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = info.split_whitespace().collect();
        Ok(match (words.as_slice(), words.last().and_then(|word| word.rsplit_once('.'))) {
            (["sh" | "bash"], _) => Self::Run,
            (["sh" | "bash", "no-run"], _) => Self::Check,
            (["yaml"], _) => Self::Objects(None),
            (["yaml", "values"], _) => Self::Values,
            (["yaml", _], Some((kind, "spec"))) => Self::Part(kind.to_owned()),
            (["yaml", file], Some((_, "yaml"))) => Self::Objects(Some((*file).to_owned())),
            (["json"], _) => Self::Json,
            (["env", file], Some((_, "env"))) => Self::Env((*file).to_owned()),
            (["text"], _) => Self::Text,
            _ => bail!("no test knows what to do with a block of {info:?}; testbed/tests/docs/main.rs has the words there are"),
        })
    }
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// Where it begins.
    pub line: usize,
    pub kind: Kind,
    pub text: String,
}

/// A page, with its path below the repository.
#[derive(Debug)]
pub struct Page {
    pub name: String,
    all: Vec<Block>,
    /// Anchors of its headings.
    pub anchors: Vec<String>,
    /// Targets of its links, and where they stand.
    pub links: Vec<(usize, String)>,
}

impl Page {
    pub fn parse(name: String, text: &str) -> anyhow::Result<Self> {
        let mut page = Self { name, all: Vec::new(), anchors: Vec::new(), links: Vec::new() };
        let mut lines = text.lines().enumerate();
        let mut is_excused = false;
        while let Some((n, line)) = lines.next() {
            let inner = line.trim_start();
            let indent = line.len() - inner.len();
            let (kind, end) = match (inner.strip_prefix("```"), inner.strip_prefix("<!-- sh")) {
                (Some(info), _) => (Kind::parse(info).with_context(|| format!("{}:{}", page.name, n + 1))?, "```"),
                (_, Some("")) => (Kind::Hidden, "-->"),
                _ => {
                    is_excused |= inner.starts_with("<!-- Not run");
                    page.read(n + 1, line);
                    continue;
                }
            };
            ensure!(kind != Kind::Check || is_excused, "{}:{}: say before it why not: <!-- Not run: ... -->", page.name, n + 1);
            let mut text = String::new();
            let is_closed = loop {
                match lines.next() {
                    None => break false,
                    Some((_, line)) if line.trim() == end => break true,
                    Some((_, line)) => text += &format!("{}\n", line.get(indent..).unwrap_or_default()),
                }
            };
            ensure!(is_closed, "{}:{} is never closed", page.name, n + 1);
            page.all.push(Block { line: n + 1, kind, text });
        }
        Ok(page)
    }

    /// A file of manifests, which is one block.
    fn manifests(name: String, text: String) -> Self {
        let block = Block { line: 1, kind: Kind::Objects(None), text };
        Self { name, all: vec![block], anchors: Vec::new(), links: Vec::new() }
    }

    /// A line of prose.
    fn read(&mut self, n: usize, line: &str) {
        let heading = line.trim_start_matches('#');
        if heading.len() < line.len() && heading.starts_with(' ') {
            let slug = slug(heading.trim());
            let same = self
                .anchors
                .iter()
                .filter(|a| **a == slug || a.strip_prefix(&format!("{slug}-")).is_some_and(|n| n.parse::<u32>().is_ok()))
                .count();
            self.anchors.push(if same == 0 { slug } else { format!("{slug}-{same}") });
        }
        // Not what stands in backticks.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| (n, target.to_owned()));
        self.links.extend(targets);
    }

    /// What a reader sees, and what is run unseen.
    pub fn with_hidden(&self) -> impl Iterator<Item = &Block> {
        self.all.iter()
    }

    /// What a reader sees.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.all.iter().filter(|block| block.kind != Kind::Hidden)
    }

    /// Blocks; those run, checked and left alone.
    pub fn counts(&self) -> [usize; 4] {
        let of = |is: fn(&Kind) -> bool| self.blocks().filter(|block| is(&block.kind)).count();
        let (all, run, free) = (of(|_| true), of(|k| *k == Kind::Run), of(|k| *k == Kind::Text));
        [all, run, all - run - free, free]
    }
}

/// The anchor of a heading.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// All pages, first those at the root, and the manifests that they point to.
pub fn all() -> anyhow::Result<Vec<Page>> {
    let root = repository().canonicalize()?;
    let mut files: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root.join(name)).into();
    gather(&root.join("docs"), &["md"], &mut files)?;
    for folder in ["gitops", "examples"] {
        gather(&root.join(folder), &["md", "yaml"], &mut files)?;
    }
    let read = |file: &PathBuf| {
        let (name, text) = (file.strip_prefix(&root)?.display().to_string(), std::fs::read_to_string(file)?);
        if file.extension().is_some_and(|e| e == "md") { Page::parse(name, &text) } else { Ok(Page::manifests(name, text)) }
    };
    files.iter().map(read).collect()
}

fn gather(folder: &Path, extensions: &[&str], files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            gather(&path, extensions, files)?;
        } else if path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted)) {
            files.push(path);
        }
    }
    Ok(())
}

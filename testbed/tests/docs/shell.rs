//! Commands of a block that is only checked: split as a shell does, so that the programs themselves can say whether they know them.

use anyhow::{Context, bail, ensure};

/// Programs that are not here, or that must not be asked: nothing is known of their flags.
pub const STRANGERS: [&str; 27] = [
    "kind",
    "docker",
    "curl",
    "git",
    "cargo",
    "jq",
    "open",
    "cd",
    "echo",
    "export",
    "sleep",
    "sed",
    "grep",
    "cat",
    "base64",
    "chmod",
    "cp",
    "ln",
    "rm",
    "for",
    "do",
    "done",
    "argocd",
    "flux",
    "sha256sum",
    "gh",
    "cosign",
];

/// What asks each program of a block about each of its commands, without doing any.
pub fn questions(block: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    for command in commands(block)? {
        let words: Vec<&str> = command.iter().map(String::as_str).skip_while(|word| is_assignment(word)).collect();
        let Some((program, rest)) = words.split_first() else { continue };
        match *program {
            "aether" | "aether-operator" | "kubectl" | "helm" => text += &asking(program, rest),
            "make" => text += &format!("make -C \"$CHECKOUT\" -n {} >/dev/null\n", quoted(rest)),
            known if STRANGERS.contains(&known) => {}
            other => bail!("nobody knows the program {other}; is it in STRANGERS, or misspelt?"),
        }
    }
    Ok(text)
}

/// Parsed up to `--help`: a flag or command that is not there is told before.
fn asking(program: &str, rest: &[&str]) -> String {
    let end = rest.iter().position(|word| *word == "--").unwrap_or(rest.len());
    let guard = if program == "helm" { "! command -v helm >/dev/null || " } else { "" };
    format!("{guard}{program} {} --help >/dev/null\n", quoted(&rest[..end]))
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect::<Vec<_>>().join(" ")
}

fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name);
    name.is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
}

/// The commands of a block, as lists of words.
pub fn commands(block: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let mut all = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut redirected = false;
    let mut chars = block.chars().peekable();
    macro_rules! end_word {
        () => {
            if let Some(word) = word.take() {
                if !std::mem::take(&mut redirected) {
                    all.last_mut().context("no command")?.push(word);
                }
            }
        };
    }
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(c) => word.get_or_insert_default().push(c),
            },
            '\'' | '"' => {
                let inside: String = chars.by_ref().take_while(|d| *d != c).collect();
                // What a shell would do inside double quotes is of no interest here, but what it would run is.
                if c == '"' && inside.contains("$(") {
                    all.extend(substituted(&inside)?);
                    all.rotate_right(1);
                }
                word.get_or_insert_default().push_str(&inside);
            }
            '$' if chars.peek() == Some(&'(') => {
                let mut depth = 0;
                let inside: String = chars
                    .by_ref()
                    .skip(1)
                    .take_while(|d| {
                        depth += i32::from(*d == '(') - i32::from(*d == ')');
                        depth >= 0
                    })
                    .collect();
                let at = all.len() - 1;
                all.splice(at..at, commands(&inside)?);
                word.get_or_insert_default().push('x');
            }
            '#' if word.is_none() => while chars.next_if(|d| *d != '\n').is_some() {},
            '<' if chars.peek() == Some(&'<') => bail!("a here-document in a block that is not run; make it a file of its own"),
            '>' | '<' => {
                end_word!();
                redirected = true;
                while chars.next_if(|d| *d == '>' || *d == '&').is_some() {}
            }
            '\n' | ';' | '|' | '&' => {
                end_word!();
                all.push(Vec::new());
            }
            c if c.is_whitespace() => end_word!(),
            c => word.get_or_insert_default().push(c),
        }
    }
    end_word!();
    ensure!(!redirected, "nothing stands behind a > or <");
    all.retain(|command| !command.is_empty());
    Ok(all)
}

fn substituted(text: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let inner = text.split("$(").skip(1).filter_map(|rest| rest.rsplit_once(')')).map(|(inner, _)| commands(inner));
    Ok(inner.collect::<anyhow::Result<Vec<_>>>()?.concat())
}

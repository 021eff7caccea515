//! Variables out of a text: an `.env` file, or the `-e` of a `docker run`.

use std::collections::BTreeMap;

use super::{ConvertError, error};

/// The variables that a text sets.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, ConvertError> {
    let mut found = BTreeMap::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    while !rest.is_empty() {
        rest = rest.trim_start();
        let at = format!("line {}", text[..text.len() - rest.len()].matches('\n').count() + 1);
        if rest.starts_with('#') {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
        } else if rest.starts_with('-') || word_after(rest, "docker").is_some() {
            let (words, after) = words(rest, &at)?;
            of_command(words, &at, &mut found)?;
            rest = after;
        } else if !rest.is_empty() {
            let line = word_after(rest, "export").unwrap_or(rest);
            let (name, value) = line.split_once('=').filter(|(name, _)| !name.contains('\n')).ok_or_else(|| ConvertError {
                variable: at.clone(),
                message: "no variable is set here; write NAME=VALUE, or # before a comment".into(),
            })?;
            let (value, after) = of_file(name.trim(), value)?;
            keep(&mut found, name.trim(), value, &at)?;
            rest = after;
        }
    }
    Ok(found)
}

/// What follows a first word.
fn word_after<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    line.strip_prefix(word).filter(|rest| rest.starts_with([' ', '\t'])).map(str::trim_start)
}

fn keep(found: &mut BTreeMap<String, String>, name: &str, value: String, at: &str) -> Result<(), ConvertError> {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !first || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return error(at, "what is before the = is no name of a variable");
    }
    // Here nobody is there to put in what it stands for.
    if value.starts_with("$(") || value.starts_with("${") || value.starts_with('`') {
        return error(name, "is a reference to something else; write the value itself");
    }
    match found.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => error(name, "is set twice; keep one"),
    }
}

/// A value as in an `.env` file, and what comes after its line. In quotes it may go over several lines.
fn of_file<'a>(name: &str, text: &'a str) -> Result<(String, &'a str), ConvertError> {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let (line, after) = text.split_once('\n').unwrap_or((text, ""));
        let end = line.char_indices().find(|(at, c)| *c == '#' && (*at == 0 || line[..*at].ends_with([' ', '\t'])));
        return Ok((end.map_or(line, |(at, _)| &line[..at]).trim().to_owned(), after));
    };
    let (value, after) = quoted(&text[1..], quote).ok_or_else(|| unclosed(name))?;
    let (tail, after) = after.split_once('\n').unwrap_or((after, ""));
    match tail.trim() {
        "" => Ok((value, after)),
        tail if tail.starts_with('#') => Ok((value, after)),
        _ => error(name, "has something after the closing quote; put all of it in quotes"),
    }
}

/// A text up to its closing quote, and what comes after. Within double quotes a backslash speaks for what follows it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((value, &text[at + 1..])),
            '\\' if quote == '"' => match chars.next()?.1 {
                'n' => value.push('\n'),
                c @ ('"' | '\\' | '$' | '`') => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
    None
}

fn unclosed(name: &str) -> ConvertError {
    ConvertError { variable: name.into(), message: "has an opening quote and no closing one".into() }
}

/// The words of a command, which goes on after a backslash at the end of a line, and what comes after it.
fn words<'a>(text: &'a str, at: &str) -> Result<(Vec<String>, &'a str), ConvertError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\n' => break,
            '\\' => {
                if let Some(next) = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n')) {
                    rest = next;
                } else {
                    let next = rest.chars().next().map_or("", |c| &rest[..c.len_utf8()]);
                    word.get_or_insert_default().push_str(next);
                    rest = &rest[next.len()..];
                }
            }
            '"' | '\'' => {
                let (value, after) = quoted(rest, c).ok_or_else(|| unclosed(at))?;
                word.get_or_insert_default().push_str(&value);
                rest = after;
            }
            c if c.is_whitespace() => words.extend(word.take()),
            '#' if word.is_none() => rest = rest.find('\n').map_or("", |end| &rest[end..]),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok((words, rest))
}

/// The variables of a command line; its other words are about the container.
fn of_command(words: Vec<String>, at: &str, found: &mut BTreeMap<String, String>) -> Result<(), ConvertError> {
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let pair = match word.as_str() {
            "-e" | "--env" => words.next().unwrap_or_default(),
            "--env-file" => return error(at, "--env-file is not followed; convert that file by itself"),
            word => match word.strip_prefix("--env=").or_else(|| word.strip_prefix("-e")) {
                Some(pair) => pair.to_owned(),
                None => continue,
            },
        };
        match pair.split_once('=') {
            Some((name, value)) => keep(found, name, value.to_owned(), at)?,
            // Docker takes the value from its own environment.
            None => return error(at, "a variable without a value; write -e NAME=VALUE"),
        }
    }
    Ok(())
}

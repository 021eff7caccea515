//! Reads Prometheus' text format 0.0.4 and OpenMetrics 1.0: strict, bounded, never panicking.
//!
//! Own code, because no crate fits: the ones there are skip lines they cannot read, carry a regex or
//! a grammar engine, cannot stop at a number of samples, or are LGPL. Names and labels borrow from
//! the text; lines of families nobody asked for are checked but not kept.
//!
//! The last line may lack its line feed (many hand-written exporters forget it). Whether a text came
//! whole is the transport's to say, and OpenMetrics' own `# EOF`, which is demanded.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// A label list longer than this is an attack or a fault.
const MOST_LABELS: usize = 128;

/// Which of the two formats a text is in; they differ in timestamps, exemplars and the end mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// By the response's `Content-Type`; without one it is the older format, as Prometheus has it.
    pub fn of_content_type(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }
}

/// What a family is declared as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up, but for restarts.
    Counter,
    /// Goes both ways.
    Gauge,
    /// Cumulative buckets.
    Histogram,
    /// Quantiles computed by the process.
    Summary,
    /// Anything else.
    Other,
}

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Metric name, suffixes such as `_total` and `_bucket` included.
    pub name: Cow<'a, str>,
    /// Labels in the order of the text, each name once.
    pub labels: Vec<Label<'a>>,
    /// Its value; may be NaN or infinite.
    pub value: f64,
    /// Explicit timestamp in ms since 1970.
    pub timestamp_ms: Option<i64>,
}

/// Name and value.
pub type Label<'a> = (Cow<'a, str>, Cow<'a, str>);

impl Sample<'_> {
    /// The value of a label; a label that is absent and one that is empty are the same thing to Prometheus, but not here.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_ref())
    }
}

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition<'a> {
    /// The samples asked for, in the order of the text.
    pub samples: Vec<Sample<'a>>,
    /// What the families asked for are declared as, by the name in the declaration.
    pub types: BTreeMap<&'a str, Kind>,
}

/// What to keep of a text.
#[derive(Clone, Copy)]
pub struct Keep {
    /// More samples than this are an error: half a text must not be counted.
    pub most: usize,
    /// Which sample names to keep.
    pub wanted: fn(&str) -> bool,
}

impl Default for Keep {
    fn default() -> Self {
        Self { most: 50_000, wanted: |_| true }
    }
}

/// Why a text cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpositionError {
    /// Not in the format.
    #[error("line {line}: expected {expected}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What should have been there.
        expected: &'static str,
    },
    /// Longer than anyone wants to read.
    #[error("line {line}: more than {most} samples; give their labels fewer values, as routes instead of paths")]
    TooMany {
        /// Counted from 1.
        line: usize,
        /// The bound.
        most: usize,
    },
}

/// Reads a whole text or says on which line it went wrong.
pub fn parse(bytes: &[u8], format: Format, keep: Keep) -> Result<Exposition<'_>, ExpositionError> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let before = bytes.get(..e.valid_up_to()).unwrap_or_default();
        ExpositionError::Syntax { line: before.split(|b| *b == b'\n').count(), expected: "UTF-8" }
    })?;
    let mut found = Exposition::default();
    let mut labels = Vec::new();
    let mut ended = false;
    let mut last = 0;
    for (number, line) in text.split_terminator('\n').enumerate() {
        let line_number = number + 1;
        last = line_number;
        let syntax = |expected| ExpositionError::Syntax { line: line_number, expected };
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start_matches(BLANK);
        if ended {
            return Err(syntax("nothing after # EOF"));
        }
        if line.is_empty() {
            continue;
        }
        if let Some(comment) = line.strip_prefix('#') {
            match descriptor(comment, format, keep).map_err(syntax)? {
                Descriptor::Type(name, kind) => drop(found.types.entry(name).or_insert(kind)),
                Descriptor::End => ended = true,
                Descriptor::Comment => {}
            }
            continue;
        }
        let (name, value, timestamp_ms) = sample(line, format, &mut labels).map_err(syntax)?;
        if !(keep.wanted)(&name) {
            continue;
        }
        if found.samples.len() >= keep.most {
            return Err(ExpositionError::TooMany { line: line_number, most: keep.most });
        }
        found.samples.push(Sample { name, labels: std::mem::take(&mut labels), value, timestamp_ms });
    }
    if format == Format::OpenMetrics && !ended {
        return Err(ExpositionError::Syntax { line: last + 1, expected: "# EOF" });
    }
    Ok(found)
}

const BLANK: [char; 2] = [' ', '\t'];

enum Descriptor<'a> {
    Type(&'a str, Kind),
    End,
    Comment,
}

/// What follows a `#`: HELP and UNIT only need a name, TYPE is remembered, all else is for people.
fn descriptor(comment: &str, format: Format, keep: Keep) -> Result<Descriptor<'_>, &'static str> {
    let mut words = comment.trim_start_matches(BLANK).splitn(3, BLANK);
    // `#HELP` without a blank is a comment.
    let word = if comment.starts_with(BLANK) { words.next().unwrap_or_default() } else { "" };
    match word {
        "EOF" if format == Format::OpenMetrics => Ok(Descriptor::End),
        "HELP" | "UNIT" => words.next().filter(|n| is_name(n)).map(|_| Descriptor::Comment).ok_or("a metric name"),
        "TYPE" => {
            let name = words.next().filter(|n| is_name(n)).ok_or("a metric name")?;
            let kind = match words.next().unwrap_or_default().trim_matches(BLANK) {
                "" => return Err("a metric type"),
                "counter" => Kind::Counter,
                "gauge" => Kind::Gauge,
                "histogram" => Kind::Histogram,
                "summary" => Kind::Summary,
                _ => Kind::Other,
            };
            Ok(if (keep.wanted)(name) { Descriptor::Type(name, kind) } else { Descriptor::Comment })
        }
        _ => Ok(Descriptor::Comment),
    }
}

/// Declared names may be quoted since Prometheus 3.
fn is_name(name: &str) -> bool {
    name.starts_with('"') || (!name.is_empty() && name_end(name, true) == name.len())
}

/// How far a bare name reaches; 0 where there is none. Metric names may hold colons, label names may not.
fn name_end(text: &str, colons: bool) -> usize {
    let starts = |b: u8| b.is_ascii_alphabetic() || b == b'_' || (colons && b == b':');
    match text.as_bytes().first() {
        Some(first) if starts(*first) => text.bytes().position(|b| !(starts(b) || b.is_ascii_digit())).unwrap_or(text.len()),
        _ => 0,
    }
}

/// Name, value and timestamp of a line; its labels go into `labels`, which is emptied first.
fn sample<'a>(line: &'a str, format: Format, labels: &mut Vec<Label<'a>>) -> Result<(Cow<'a, str>, f64, Option<i64>), &'static str> {
    labels.clear();
    let (bare, rest) = line.split_at_checked(name_end(line, true)).ok_or("a metric name")?;
    let rest = rest.trim_start_matches(BLANK);
    let mut name = (!bare.is_empty()).then_some(Cow::Borrowed(bare));
    let rest = match rest.strip_prefix('{') {
        Some(inside) => label_list(inside, &mut name, labels)?,
        None if bare.is_empty() => return Err("a metric name"),
        None if rest.len() + bare.len() == line.len() => return Err("a blank or { after the name"),
        None => rest,
    };
    let name = name.ok_or("a metric name")?;
    let (value, rest) = number(rest).ok_or("a number")?;
    let (timestamp, rest) = match rest.chars().next() {
        None | Some('#') => (None, rest),
        Some(_) => timestamp(rest, format).map(|(t, rest)| (Some(t), rest))?,
    };
    let rest = match (rest.strip_prefix('#'), format) {
        (Some(exemplar), Format::OpenMetrics) => skip_exemplar(exemplar)?,
        _ => rest,
    };
    if rest.is_empty() { Ok((name, value, timestamp)) } else { Err("the end of the line") }
}

/// `{trace_id="x"} 0.5 1700000000.1`: checked, not kept.
fn skip_exemplar(text: &str) -> Result<&str, &'static str> {
    let inside = text.trim_start_matches(BLANK).strip_prefix('{').ok_or("an exemplar's labels")?;
    let mut unnamed = Some(Cow::Borrowed(""));
    let rest = label_list(inside, &mut unnamed, &mut Vec::new())?;
    let (_, rest) = number(rest).ok_or("an exemplar's number")?;
    if rest.is_empty() { Ok(rest) } else { timestamp(rest, Format::OpenMetrics).map(|(_, rest)| rest) }
}

/// What follows `{`, to behind the `}`. A quoted string without `=` is the metric's name, where it has none yet.
fn label_list<'a>(text: &'a str, name: &mut Option<Cow<'a, str>>, labels: &mut Vec<Label<'a>>) -> Result<&'a str, &'static str> {
    let mut rest = text.trim_start_matches(BLANK);
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok(rest.trim_start_matches(BLANK));
        }
        let (key, after) = if let Some(inside) = rest.strip_prefix('"') {
            quoted(inside)?
        } else {
            let (key, after) = rest.split_at_checked(name_end(rest, false)).unwrap_or_default();
            (Cow::Borrowed(key), after)
        };
        let after = after.trim_start_matches(BLANK);
        let after = match after.strip_prefix('=') {
            Some(value) if !key.is_empty() => {
                let inside = value.trim_start_matches(BLANK).strip_prefix('"').ok_or("a quoted label value")?;
                let (value, after) = quoted(inside)?;
                if labels.iter().any(|(known, _)| *known == key) {
                    return Err("each label once");
                }
                if labels.len() >= MOST_LABELS {
                    return Err("at most 128 labels");
                }
                labels.push((key, value));
                after.trim_start_matches(BLANK)
            }
            None if name.is_none() && rest.starts_with('"') && !key.is_empty() => {
                *name = Some(key);
                after
            }
            _ if key.is_empty() => return Err("a label name or }"),
            _ => return Err("= after the label name"),
        };
        rest = match after.strip_prefix(',') {
            Some(more) => more.trim_start_matches(BLANK),
            None if after.starts_with('}') => after,
            None => return Err(", or } after the label"),
        };
    }
}

/// What follows an opening quote, and what follows the closing one.
fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    const CLOSING: &str = "a closing quote";
    let stop = text.find(['"', '\\']).ok_or(CLOSING)?;
    let (plain, mut rest) = text.split_at_checked(stop).ok_or(CLOSING)?;
    if let Some(rest) = rest.strip_prefix('"') {
        return Ok((Cow::Borrowed(plain), rest));
    }
    let mut value = plain.to_owned();
    loop {
        if let Some(after) = rest.strip_prefix('"') {
            return Ok((Cow::Owned(value), after));
        }
        if let Some(escape) = rest.strip_prefix('\\') {
            let mut chars = escape.chars();
            match chars.next().ok_or(CLOSING)? {
                'n' => value.push('\n'),
                c @ ('"' | '\\') => value.push(c),
                // No escape, but a backslash that somebody forgot to double. Prometheus takes both as they are.
                c => value.extend(['\\', c]),
            }
            rest = chars.as_str();
        }
        let stop = rest.find(['"', '\\']).ok_or(CLOSING)?;
        let (plain, after) = rest.split_at_checked(stop).ok_or(CLOSING)?;
        value.push_str(plain);
        rest = after;
    }
}

/// The next word as a number, and what follows it without blanks.
fn number(text: &str) -> Option<(f64, &str)> {
    let (word, rest) = word(text);
    Some((number_of(word)?, rest))
}

/// A number as both formats write it. Rust's own parser would also take `infinity` and `nan` in any dress, which is what Go does too.
pub fn number_of(word: &str) -> Option<f64> {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    let known = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || ["inf", "infinity", "nan"].iter().any(|w| unsigned.eq_ignore_ascii_case(w));
    if known { word.parse().ok() } else { None }
}

/// Milliseconds in the older format, seconds with fractions in OpenMetrics.
fn timestamp(text: &str, format: Format) -> Result<(i64, &str), &'static str> {
    let (word, rest) = word(text);
    let ms = match format {
        Format::Text => word.parse().ok(),
        Format::OpenMetrics => number_of(word).and_then(ms_of_seconds),
    };
    Ok((ms.ok_or("a timestamp")?, rest))
}

/// Whole milliseconds, where they are of this millennium or the next.
#[allow(clippy::cast_possible_truncation, reason = "bounded right before")]
pub fn ms_of_seconds(seconds: f64) -> Option<i64> {
    let ms = (seconds * 1000.0).round();
    (ms.abs() < 1e14).then_some(ms as i64)
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(BLANK).unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    (word, rest.trim_start_matches(BLANK))
}

#[cfg(test)]
#[path = "exposition_tests.rs"]
mod tests;

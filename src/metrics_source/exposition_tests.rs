use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn read(text: &str, format: Format) -> Result<Exposition<'_>, ExpositionError> {
    parse(text.as_bytes(), format, Keep::default())
}

fn one(line: &str) -> Sample<'_> {
    let mut found = read(line, Format::Text).unwrap();
    assert_eq!(found.samples.len(), 1, "{line}");
    found.samples.remove(0)
}

const PAGE: &str = r#"# HELP http_requests_total Requests with a \ and a "quote".
# TYPE http_requests_total counter
http_requests_total{code="200",method="GET"} 1027 1395066363000
http_requests_total { code = "500" , method="POST", } 3

# just words
#HELP no descriptor
msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\""} 1.458255915e9
metric_without_timestamp_and_labels 12.47
something_weird{problem="division by zero"} +Inf -3982045
  indented	-1e-3
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{le="0.05"} 24054
http_request_duration_seconds_bucket{le="+Inf"}144320
http_request_duration_seconds_sum 53423
http_request_duration_seconds_count 144320
# TYPE rpc summary
rpc{quantile="0.99"} NaN
a:b:c{} 0
größe_no 1"#;

#[test]
fn the_older_format_is_read() {
    let page = PAGE.strip_suffix("\ngröße_no 1").unwrap();
    let found = read(page, Format::Text).unwrap();
    assert_eq!(found.samples.len(), 12);
    let first = &found.samples[0];
    assert_eq!((first.name.as_ref(), first.value, first.timestamp_ms), ("http_requests_total", 1027.0, Some(1_395_066_363_000)));
    assert_eq!((first.label("code"), first.label("method"), first.label("le")), (Some("200"), Some("GET"), None));
    assert_eq!(found.samples[1].label("code"), Some("500"));
    assert_eq!(found.samples[2].label("path"), Some("C:\\DIR\\FILE.TXT"));
    assert_eq!(found.samples[2].label("error"), Some("Cannot find file:\n\"FILE.TXT\""));
    assert_eq!((found.samples[4].value, found.samples[4].timestamp_ms), (f64::INFINITY, Some(-3_982_045)));
    assert_eq!(found.samples[5].value.to_bits(), (-1e-3f64).to_bits());
    assert!(found.samples[10].value.is_nan());
    assert_eq!(found.types["http_requests_total"], Kind::Counter);
    assert_eq!(found.types["http_request_duration_seconds"], Kind::Histogram);
    // What is no name is said where it is.
    assert_eq!(read(PAGE, Format::Text).unwrap_err().to_string(), "line 20: expected a blank or { after the name");
}

#[test]
fn openmetrics_is_read() {
    let page = "# TYPE foo counter\n# UNIT foo seconds\n# HELP foo\n\
                foo_total{a=\"b\"} 17.0 1520879607.789 # {trace_id=\"KOO5S4vxi0o\"} 0.67\n\
                foo_created 1520430000.123\nbar_bucket{le=\"0.1\"} 8 # {} 0.054\n\
                bar_bucket{le=\"1\"} 11 # {t=\"x\"} 0.67 1520879607.7\n# EOF\n";
    let found = read(page, Format::OpenMetrics).unwrap();
    let seen: Vec<_> = found.samples.iter().map(|s| (s.name.as_ref(), s.value, s.timestamp_ms)).collect();
    assert_eq!(
        seen,
        [
            ("foo_total", 17.0, Some(1_520_879_607_789)),
            ("foo_created", 1_520_430_000.123, None),
            ("bar_bucket", 8.0, None),
            ("bar_bucket", 11.0, None)
        ]
    );
    // Without the end mark it is only a beginning.
    let cut = page.strip_suffix("# EOF\n").unwrap();
    assert_eq!(read(cut, Format::OpenMetrics).unwrap_err().to_string(), "line 8: expected # EOF");
    assert_eq!(read(&format!("{page}x 1\n"), Format::OpenMetrics).unwrap_err().to_string(), "line 9: expected nothing after # EOF");
}

#[test]
fn quoted_names_are_read() {
    let sample = one(r#"{"http.server.requests",code="200","my.label"="x"} 4"#);
    assert_eq!((sample.name.as_ref(), sample.label("my.label"), sample.value), ("http.server.requests", Some("x"), 4.0));
    assert!(read("# TYPE \"a.b\" counter\n", Format::Text).is_ok());
}

/// As Prometheus reads them: a page with a Windows path in it is a page.
#[test]
fn what_is_no_escape_is_taken_as_it_is() {
    let sample = one(r#"a{b="C:\temp\d\\e\"\n",c="\é\""} 1"#);
    assert_eq!((sample.label("b"), sample.label("c")), (Some("C:\\temp\\d\\e\"\n"), Some("\\é\"")));
}

#[test]
fn line_ends_of_all_kinds_are_read() {
    for text in ["a 1\r\nb 2\r\n", "a 1\nb 2", "a 1\r\n\r\nb 2\r", "a 1 \nb 2\t\n"] {
        let found = read(text, Format::Text).unwrap();
        assert_eq!(found.samples.iter().map(|s| s.value).collect::<Vec<_>>(), [1.0, 2.0], "{text:?}");
    }
    assert!(read("", Format::Text).unwrap().samples.is_empty());
}

#[rstest]
#[case("a", "a blank or { after the name")]
#[case("a ", "a number")]
#[case("1a 1", "a metric name")]
#[case("{} 1", "a metric name")]
#[case("a{b} 1", "= after the label name")]
#[case("a{1b=\"x\"} 1", "a label name or }")]
#[case("a{b=x} 1", "a quoted label value")]
#[case("a{b=\"x} 1", "a closing quote")]
#[case("a{b=\"x\\", "a closing quote")]
#[case("a{b=\"x\\\"} 1", "a closing quote")]
#[case("a{b=\"x\" c=\"y\"} 1", ", or } after the label")]
#[case("a{b=\"x\"", ", or } after the label")]
#[case("a{b=\"x\",b=\"y\"} 1", "each label once")]
#[case("a{,} 1", "a label name or }")]
#[case("a{\"n\"} 1", "= after the label name")]
#[case("a{b=\"x\"} one", "a number")]
#[case("a 0x10", "a number")]
#[case("a 1_000", "a number")]
#[case("a infinite", "a number")]
#[case("a 1 2.5", "a timestamp")]
#[case("a 1 2 3", "the end of the line")]
#[case("a 1 # {} 1", "the end of the line")]
#[case("# TYPE 1 counter", "a metric name")]
#[case("# TYPE a", "a metric type")]
#[case("# HELP", "a metric name")]
fn what_is_wrong_is_said_with_its_line(#[case] line: &str, #[case] what: &'static str) {
    let error = read(&format!("ok 1\n{line}\nok 1\n"), Format::Text).unwrap_err();
    assert_eq!(error, ExpositionError::Syntax { line: 2, expected: what });
}

#[test]
fn other_bytes_are_said_with_their_line() {
    let error = parse(b"a 1\nb{c=\"\xff\"} 1\n", Format::Text, Keep::default()).unwrap_err();
    assert_eq!(error.to_string(), "line 2: expected UTF-8");
}

#[test]
fn there_is_an_end_to_samples_and_labels() {
    let keep = Keep { most: 2, wanted: |n| n != "noise" };
    let read = |text: &'static str| parse(text.as_bytes(), Format::Text, keep);
    assert_eq!(read("a 1\nnoise 1\nb 1\nnoise 2\n").unwrap().samples.len(), 2);
    assert_eq!(
        read("a 1\nb 1\nc 1\n").unwrap_err().to_string(),
        "line 3: more than 2 samples; give their labels fewer values, as routes instead of paths"
    );
    // Nobody asked for it, and still it must be in the format.
    assert!(read("noise{ 1\n").is_err());
    let labels: Vec<_> = (0..200).map(|n| format!("l{n}=\"\"")).collect();
    let many = format!("a{{{}}} 1", labels.join(","));
    assert_eq!(parse(many.as_bytes(), Format::Text, keep).unwrap_err().to_string(), "line 1: expected at most 128 labels");
}

#[rstest]
#[case("application/openmetrics-text; version=1.0.0; charset=utf-8", Format::OpenMetrics)]
#[case("Application/OpenMetrics-Text", Format::OpenMetrics)]
#[case("text/plain; version=0.0.4", Format::Text)]
#[case("", Format::Text)]
fn the_content_type_tells_the_format(#[case] content_type: &str, #[case] format: Format) {
    assert_eq!(Format::of_content_type(content_type), format);
}

/// A family as a program might have it.
#[derive(Clone, Debug)]
struct Line {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
    timestamp_ms: Option<i64>,
}

fn line() -> impl Strategy<Value = Line> {
    let labels = proptest::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_]{0,6}", any::<String>(), 0..4);
    let value = prop_oneof![any::<f64>(), (0u32..1_000_000).prop_map(f64::from)];
    ("[a-zA-Z_:][a-zA-Z0-9_:]{0,12}", labels, value, proptest::option::of(-1_000_000_000_000i64..10_000_000_000_000))
        .prop_map(|(name, labels, value, timestamp_ms)| Line { name, labels: labels.into_iter().collect(), value, timestamp_ms })
}

fn print(line: &Line, format: Format) -> String {
    let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<_> = line.labels.iter().map(|(n, v)| format!("{n}=\"{}\"", escape(v))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let value = if line.value.is_infinite() { format!("{:+}", line.value).replace("inf", "Inf") } else { line.value.to_string() };
    let timestamp = line.timestamp_ms.map_or(String::new(), |ms| match format {
        Format::Text => format!(" {ms}"),
        Format::OpenMetrics => {
            format!(" {}.{:03}", if ms < 0 { format!("-{}", -ms / 1000) } else { (ms / 1000).to_string() }, (ms % 1000).abs())
        }
    });
    format!("{}{labels} {value}{timestamp}", line.name)
}

fn same(sample: &Sample<'_>, line: &Line) -> bool {
    let labels: Vec<_> = sample.labels.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    let value = sample.value.to_bits() == line.value.to_bits() || (sample.value.is_nan() && line.value.is_nan());
    sample.name == line.name && labels == line.labels && value && sample.timestamp_ms == line.timestamp_ms
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes, Format::Text, Keep::default());
        let _ = parse(&bytes, Format::OpenMetrics, Keep::default());
    }

    /// Closer to the format than random bytes are.
    #[test]
    fn no_text_of_its_own_signs_makes_it_panic(
        text in "[a-c_:{}=\",\\\\ \t\r\n#0-9.+eINaf]{0,200}|(# (TYPE|HELP|EOF|UNIT)? ?[a{\"\\\\]{0,3}\n?){0,9}",
    ) {
        let _ = read(&text, Format::Text);
        let _ = read(&text, Format::OpenMetrics);
    }

    #[test]
    fn what_is_written_is_read(lines in proptest::collection::vec(line(), 0..20), open in any::<bool>(), crlf in any::<bool>()) {
        let format = if open { Format::OpenMetrics } else { Format::Text };
        let end = if crlf { "\r\n" } else { "\n" };
        let mut text: String = lines.iter().map(|l| print(l, format) + end).collect();
        if open {
            text.push_str("# EOF");
        }
        let found = read(&text, format).unwrap();
        prop_assert_eq!(found.samples.len(), lines.len());
        for (sample, line) in found.samples.iter().zip(&lines) {
            prop_assert!(same(sample, line), "{:?} of {:?}", sample, line);
        }
    }

    /// A text that was cut gives an error, or the lines that came whole with their values, and at most one line more.
    #[test]
    fn a_cut_text_never_changes_whole_lines(
        lines in proptest::collection::vec(line(), 1..8),
        cut in any::<proptest::sample::Index>(),
        open in any::<bool>(),
    ) {
        let format = if open { Format::OpenMetrics } else { Format::Text };
        let mut text: String = lines.iter().map(|l| print(l, format) + "\n").collect();
        if open {
            text.push_str("# EOF\n");
        }
        let cut = cut.index(text.len());
        let bytes = &text.as_bytes()[..cut];
        // A label value may hold other line ends than the one that counts.
        let whole = bytes.split(|b| *b == b'\n').count() - 1;
        if let Ok(found) = parse(bytes, format, Keep::default()) {
            prop_assert!(!open || cut + 1 >= text.len(), "OpenMetrics without its end");
            prop_assert!(found.samples.len() == whole.min(lines.len()) || found.samples.len() == whole + 1);
            for (sample, line) in found.samples.iter().zip(&lines).take(whole) {
                prop_assert!(same(sample, line));
            }
        }
    }
}

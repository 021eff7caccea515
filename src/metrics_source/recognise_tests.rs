use rstest::rstest;

use super::*;

fn at() -> Time {
    Time::from_timestamp_millis(1_700_000_000_000).unwrap()
}

fn read(page: &str) -> Recognised {
    read_pod(page.as_bytes(), Format::Text, &Uncounted::default(), at()).unwrap()
}

/// (source, requests, errors)
fn counted(found: &Recognised) -> (Option<&'static str>, u64, u64) {
    let requests = found.snapshot.requests.series.as_deref().unwrap_or_default();
    let sum = |which: fn(Counts) -> bool| requests.iter().filter(|r| which(r.counts)).map(|r| r.value).sum();
    (found.snapshot.requests.source, sum(|_| true), sum(|c| c == Counts::FailedRequest))
}

fn timed(found: &Recognised) -> (Option<&'static str>, u64) {
    let durations = found.snapshot.durations.series.as_deref().unwrap_or_default();
    (found.snapshot.durations.source, durations.iter().filter_map(|h| h.below.last()).sum())
}

fn buckets(name: &str, labels: &str, counts: &[(&str, u64)]) -> String {
    let lines: Vec<_> = counts.iter().map(|(le, n)| format!("{name}_bucket{{{labels}le=\"{le}\"}} {n}\n")).collect();
    lines.concat()
}

#[rstest]
#[case::plain_code("http_requests_total{code=\"200\"} 7\nhttp_requests_total{code=\"503\"} 2\n", "http_requests_total", 9, 2)]
#[case::plain_status("http_requests_total{status=\"2xx\"} 7\nhttp_requests_total{status=\"5xx\"} 2\n", "http_requests_total", 9, 2)]
#[case::plain_status_code("http_requests_total{status_code=\"404\"} 7\n", "http_requests_total", 7, 0)]
#[case::otel(
    "http_server_request_duration_seconds_count{http_response_status_code=\"500\"} 1\n\
        http_server_request_duration_seconds_count{error_type=\"timeout\"} 2\n\
        http_server_request_duration_seconds_count{http_route=\"/\"} 4\n",
    "http_server_request_duration_seconds_count",
    7,
    3
)]
#[case::micrometer(
    "http_server_requests_seconds_count{status=\"200\",uri=\"/\"} 5\n\
        http_server_requests_seconds_count{status=\"UNKNOWN\"} 1\n\
        http_server_requests_seconds_count{status=\"500\"} 1\n",
    "http_server_requests_seconds_count",
    7,
    1
)]
#[case::istio(
    "istio_requests_total{reporter=\"destination\",response_code=\"200\",response_flags=\"-\"} 5\n\
        istio_requests_total{reporter=\"destination\",response_code=\"0\"} 1\n\
        istio_requests_total{reporter=\"destination\",response_code=\"0\",response_flags=\"DC\"} 10\n\
        istio_requests_total{reporter=\"destination\",response_code=\"0\",response_flags=\"UH\"} 2\n\
        istio_requests_total{reporter=\"destination\",response_code=\"0\",response_flags=\"UF,DC\"} 4\n\
        istio_requests_total{reporter=\"source\",response_code=\"500\"} 90\n",
    "istio_requests_total",
    22,
    7
)]
#[case::linkerd(
    "response_total{direction=\"inbound\",classification=\"success\"} 5\n\
        response_total{direction=\"inbound\",classification=\"failure\"} 2\n\
        response_total{direction=\"outbound\",classification=\"failure\"} 90\n",
    "response_total",
    7,
    2
)]
#[case::counted_by_a_histogram("http_request_duration_seconds_count{code=\"502\"} 3\n", "http_request_duration_seconds_count", 3, 3)]
fn well_known_names_are_counted(#[case] page: &str, #[case] source: &str, #[case] requests: u64, #[case] errors: u64) {
    let found = read(page);
    assert_eq!(counted(&found), (Some(source), requests, errors));
    assert_eq!(found.problems, []);
}

#[test]
fn one_family_is_read_and_never_two() {
    let app = "http_requests_total{code=\"200\"} 100\nhttp_request_duration_seconds_count{code=\"200\"} 100\n";
    let sidecar = "istio_requests_total{reporter=\"destination\",response_code=\"200\"} 103\n";
    assert_eq!(counted(&read(app)), (Some("http_requests_total"), 100, 0));
    assert_eq!(counted(&read(&format!("{app}{sidecar}"))), (Some("istio_requests_total"), 103, 0));
    // A sidecar that only saw what goes out says nothing of what came in.
    let outbound = "istio_requests_total{reporter=\"source\",response_code=\"200\"} 9\n";
    assert_eq!(counted(&read(&format!("{outbound}{app}"))), (Some("http_requests_total"), 100, 0));
}

#[test]
fn a_counter_that_does_not_tell_failures_is_no_source() {
    assert_eq!(counted(&read("http_requests_total{path=\"/\"} 100\n")), (None, 0, 0));
    let beside_its_parts = "http_requests_total 100\nhttp_requests_total{code=\"200\"} 99\nhttp_requests_total{code=\"500\"} 1\n";
    assert_eq!(counted(&read(beside_its_parts)), (Some("http_requests_total"), 100, 1));
    let no_code_at_all = "http_server_request_duration_seconds_count{code=\"500\"} 4\n";
    assert_eq!(counted(&read(no_code_at_all)), (None, 0, 0));
}

#[test]
fn nothing_known_is_nothing_yet() {
    let found = read("up 1\n");
    assert_eq!(found.snapshot.requests, Part::default());
    assert_eq!(found.snapshot.durations, Part::default());
    assert_eq!(found.problems, []);
}

#[rstest]
#[case("http_requests_total{code=\"200\"} NaN\n", "http_requests_total has a value that is not a number")]
#[case("http_requests_total{code=\"200\"} -1\n", "http_requests_total has a value that is negative")]
#[case("http_requests_total{code=\"200\"} +Inf\n", "http_requests_total has a value that is too large to count with")]
#[case(
    "http_requests_total{code=\"200\"} 0.5\n",
    "http_requests_total has a value that is a fraction, so no raw counter (leave rate() and increase() out)"
)]
#[case("http_requests_total{code=\"OK\"} 5\n", "http_requests_total has a code that is no HTTP status")]
#[case("http_requests_total{code=\"200\"} 5\nhttp_requests_total{code=\"200\"} 6\n", "http_requests_total has one series twice")]
#[case(
    "# TYPE http_requests_total gauge\nhttp_requests_total{code=\"200\"} 5\n",
    "http_requests_total is declared as a gauge, not as a counter"
)]
fn one_bad_counter_rejects_all_counters(#[case] page: &str, #[case] problem: &str) {
    let found = read(&format!("http_requests_total{{code=\"404\"}} 5\n{page}"));
    assert_eq!(found.snapshot.requests.series, None);
    assert_eq!(found.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [problem]);
    // Durations are another matter.
    assert!(found.snapshot.durations.series.is_some());
}

#[test]
fn histograms_are_put_together_by_their_labels() {
    let page = buckets("http_request_duration_seconds", "path=\"/a\",", &[("0.1", 1), ("0.3", 4), ("+Inf", 5)])
        + &buckets("http_request_duration_seconds", "path=\"/b\",", &[("+Inf", 7), ("0.1", 6)])
        + "http_request_duration_seconds_sum{path=\"/a\"} 1.5\nhttp_request_duration_seconds_count{path=\"/a\"} 5\n";
    let found = read(&page);
    assert_eq!(timed(&found), (Some("http_request_duration_seconds"), 12));
    let histograms = found.snapshot.durations.series.unwrap();
    let a = histograms.iter().find(|h| h.series.contains("/a")).unwrap();
    assert_eq!(a.edges.as_ref(), [Edge::of_ms(100), Edge::of_ms(300), Edge::INFINITE]);
    assert_eq!((a.below.as_ref(), a.sum_us), ([1, 4, 5].as_slice(), Some(1_500_000)));
    let b = histograms.iter().find(|h| h.series.contains("/b")).unwrap();
    assert_eq!((b.below.as_ref(), b.sum_us), ([6, 7].as_slice(), None));
}

#[rstest]
#[case::sidecar(
    "istio_requests_total{reporter=\"destination\",response_code=\"200\"} 5\n",
    "istio_request_duration_milliseconds",
    "reporter=\"destination\","
)]
#[case::linkerd("response_total{direction=\"inbound\",classification=\"success\"} 5\n", "response_latency_ms", "direction=\"inbound\",")]
#[case::plain("http_requests_total{code=\"200\"} 5\n", "http_request_duration_milliseconds", "")]
#[case::plain_with_otel("http_requests_total{code=\"200\"} 5\n", "http_server_request_duration_seconds", "")]
fn durations_are_those_of_the_same_requests(#[case] requests: &str, #[case] name: &str, #[case] labels: &str) {
    let other = buckets("http_request_duration_seconds", "app=\"x\",", &[("1", 90), ("+Inf", 90)]);
    let own = buckets(name, labels, &[("1", 3), ("+Inf", 5)]);
    let others = if labels.is_empty() { String::new() } else { other };
    assert_eq!(timed(&read(&format!("{requests}{others}{own}"))).1, 5);
    // What goes out is not ours.
    if !labels.is_empty() {
        let outbound = own.replace("destination", "source").replace("inbound", "outbound");
        assert_eq!(timed(&read(&format!("{requests}{outbound}"))).1, 0);
    }
}

#[test]
fn a_summary_has_a_mean_and_no_edges() {
    let page = "http_server_requests_seconds_count{status=\"200\"} 5\n\
        http_server_requests_seconds_sum{status=\"200\"} 0.25\n\
        http_server_requests_seconds{status=\"200\",quantile=\"0.99\"} 0.1\n";
    let found = read(page);
    let histogram = &found.snapshot.durations.series.unwrap()[0];
    assert_eq!((histogram.edges.as_ref(), histogram.below.as_ref()), ([Edge::INFINITE].as_slice(), [5].as_slice()));
    assert_eq!(histogram.sum_us, Some(250_000));
}

#[rstest]
#[case(&[("0.1", 5), ("0.3", 4), ("+Inf", 9)], "histogram http_request_duration_seconds has buckets that fall")]
#[case(&[("0.1", 5), ("0.3", 7)], "histogram http_request_duration_seconds has no bucket le=\"+Inf\"")]
#[case(&[("0.1", 5), ("0.10", 5), ("+Inf", 9)], "histogram http_request_duration_seconds has one bucket twice")]
#[case(&[("fast", 5), ("+Inf", 9)], "histogram http_request_duration_seconds has a le that is no duration")]
#[case(&[("-1", 5), ("+Inf", 9)], "histogram http_request_duration_seconds has a le that is no duration")]
fn a_bad_histogram_is_rejected_and_counters_are_not(#[case] counts: &[(&str, u64)], #[case] problem: &str) {
    let found = read(&format!("http_requests_total{{code=\"200\"}} 9\n{}", buckets("http_request_duration_seconds", "", counts)));
    assert_eq!(found.snapshot.durations.series, None);
    assert_eq!(found.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [problem]);
    assert_eq!(counted(&found).1, 9);
}

#[rstest]
#[case("200", Some(false))]
#[case("499", Some(false))]
#[case("500", Some(true))]
#[case("599", Some(true))]
#[case("5xx", Some(true))]
#[case("4XX", Some(false))]
#[case("0", Some(true))]
#[case("", Some(false))]
#[case("UNKNOWN", Some(false))]
#[case("5", None)]
#[case("50", None)]
#[case("5000", None)]
#[case("error", None)]
#[case("5é", None)]
fn codes_are_told_apart(#[case] code: &str, #[case] failed: Option<bool>) {
    assert_eq!(is_failure(code), failed);
}

fn read_without(paths: &[&str], page: &str) -> Recognised {
    let polled: Vec<_> = paths.iter().map(|p| (*p).to_owned()).collect();
    read_pod(page.as_bytes(), Format::Text, &Uncounted::new(4191, "/metrics", &polled), at()).unwrap()
}

/// One series per route, of a counter and of its histogram.
fn by_route(requests: &str, durations: &str, code: &str, label: &str, routes: &[(&str, u64)]) -> String {
    let one = |(route, n): &(&str, u64)| {
        let labels = format!("{label}=\"{route}\",{code}=\"500\",");
        let counter = if requests.ends_with("_count") { String::new() } else { format!("{requests}{{{labels}}} {n}\n") };
        format!("{counter}{durations}_count{{{labels}}} {n}\n") + &buckets(durations, &labels, &[("0.1", 0), ("+Inf", *n)])
    };
    routes.iter().map(one).collect()
}

#[rstest]
#[case::spring("http_server_requests_seconds_count", "http_server_requests_seconds", "status", "uri")]
#[case::fastapi("http_requests_total", "http_request_duration_seconds", "status", "handler")]
#[case::express("http_request_duration_seconds_count", "http_request_duration_seconds", "status_code", "route")]
#[case::otel(
    "http_server_request_duration_seconds_count",
    "http_server_request_duration_seconds",
    "http_response_status_code",
    "http_route"
)]
fn who_reads_and_who_probes_are_no_users(#[case] requests: &str, #[case] durations: &str, #[case] code: &str, #[case] label: &str) {
    let machines = [("/metrics", 900), ("/ready", 80)];
    let users = [("/orders", 5), ("/", 2)];
    let page = |routes: &[(&str, u64)]| by_route(requests, durations, code, label, routes);
    let found = read_without(&["/ready", "/"], &(page(&machines) + &page(&users)));
    assert_eq!((counted(&found), timed(&found).1), ((Some(requests), 7, 7), 7));
    assert_eq!(found.problems, []);
    // The same family is read before any user has called, so that the first one's requests count from 0.
    let unused = read_without(&["/ready"], &page(&machines));
    assert_eq!((counted(&unused), timed(&unused).1), ((Some(requests), 0, 0), 0));
}

#[test]
fn another_counter_of_the_same_does_not_bring_them_back() {
    let page = "http_requests_total{path=\"/metrics\",code=\"200\"} 9\nhttp_request_duration_seconds_count{code=\"200\"} 9\n";
    assert_eq!(counted(&read_without(&[], page)), (Some("http_requests_total"), 0, 0));
}

#[test]
fn linkerds_own_and_the_probes_it_passes_on_are_left_out() {
    let series = |labels: &str, n: u64| {
        let labels = format!("direction=\"inbound\",{labels},");
        format!("response_total{{{labels}classification=\"success\"}} {n}\n")
            + &buckets("response_latency_ms", &labels, &[("1", n), ("+Inf", n)])
    };
    let page = series("target_addr=\"0.0.0.0:4191\",route_kind=\"default\",route_name=\"default\"", 900)
        + &series("target_addr=\"10.0.0.9:8080\",route_kind=\"default\",route_name=\"probe\"", 80)
        + &series("target_addr=\"10.0.0.9:8080\",route_kind=\"default\",route_name=\"default\"", 7);
    let found = read_without(&[], &page);
    assert_eq!((counted(&found), timed(&found).1), ((Some("response_total"), 7, 0), 7));
}

#[test]
fn a_pod_has_only_so_many_series() {
    let line = |n| format!("http_requests_total{{code=\"200\",path=\"/{n}\"}} 1\n");
    let page = |n: usize| (0..n).map(line).collect::<Vec<_>>().concat();
    assert_eq!(counted(&read(&page(2_000))).1, 2_000);
    let found = read(&page(2_001));
    assert_eq!(found.snapshot.requests.series, None);
    let problem = "http_requests_total has more than 2000 series; give its labels fewer values, as routes instead of paths";
    assert_eq!(found.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [problem]);
    // Those that nobody counts are no burden.
    let polled: Vec<_> = (0..10).map(|n| format!("/{n}")).collect();
    let polled: Vec<_> = polled.iter().map(String::as_str).collect();
    assert_eq!(counted(&read_without(&polled, &page(2_010))).1, 2_000);
    // Buckets are bounded by the page.
    let many = read_pod(page(50_001).as_bytes(), Format::Text, &Uncounted::default(), at()).unwrap_err();
    assert!(many.to_string().starts_with("line 50001: more than 50000 samples"), "{many}");
}

#[test]
fn histograms_of_a_page_share_their_edges() {
    let page = buckets("http_request_duration_seconds", "path=\"/a\",", &[("1", 1), ("+Inf", 1)])
        + &buckets("http_request_duration_seconds", "path=\"/b\",", &[("1", 1), ("+Inf", 1)])
        + &buckets("http_request_duration_seconds", "path=\"/c\",", &[("2", 1), ("+Inf", 1)]);
    let histograms = read(&page).snapshot.durations.series.unwrap();
    assert!(Arc::ptr_eq(&histograms[0].edges, &histograms[1].edges));
    assert_eq!(histograms[2].edges.as_ref(), [Edge::of_ms(2000), Edge::INFINITE]);
}

/// The pages our own test pods show.
#[test]
fn the_test_bed_is_recognised() {
    let page = "# HELP http_requests_total Requests answered.\n\
        # TYPE http_requests_total counter\n\
        http_requests_total{code=\"200\",method=\"GET\"} 4\n\
        http_requests_total{code=\"500\",method=\"POST\"} 1\n\
            # TYPE http_request_duration_seconds histogram\n\
            http_request_duration_seconds_bucket{le=\"0.005\"} 2\n\
        http_request_duration_seconds_bucket{le=\"1\"} 4\n\
            http_request_duration_seconds_bucket{le=\"+Inf\"} 5\n\
            http_request_duration_seconds_sum 20.711\n\
        http_request_duration_seconds_count 5\n";
    let found = read(page);
    assert_eq!(counted(&found), (Some("http_requests_total"), 5, 1));
    assert_eq!(timed(&found), (Some("http_request_duration_seconds"), 5));
}

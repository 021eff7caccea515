use std::fmt::Write as _;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::metrics_source::promql::{Backend, Preset, questions};
use crate::metrics_source::window::{TargetId, Totals, Window};

const NOW: i64 = 1_700_000_000;

fn now() -> Time {
    Time::from_timestamp(NOW, 0).unwrap()
}

fn demand() -> Demand {
    Demand { now: now(), max_age: TimeDelta::seconds(60), most_series: 100 }
}

fn matrix(result: &str) -> String {
    format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{result}],"stats":{{"x":1}}}},"infos":["PromQL info"]}}"#)
}

fn good(body: &str) -> Answer {
    read(body.as_bytes(), demand()).unwrap()
}

#[test]
fn the_last_value_of_a_range_is_read_with_its_own_time() {
    let body = matrix(&format!(
        r#"{{"metric":{{"__name__":"a_total","code":"200","pod":"x"}},"values":[[{},"3"],[{}.781,"4"]]}}"#,
        NOW - 30,
        NOW - 16
    ));
    let answer = good(&body);
    assert_eq!(answer.newest, Time::from_timestamp_millis((NOW - 16) * 1000 + 781));
    let series = &answer.series[0];
    assert_eq!((series.name.as_ref(), series.value, series.label("code")), ("a_total", 4.0, Some("200")));
    assert_eq!(series.label("__name__"), None);
}

#[test]
fn without_series_nothing_is_new() {
    let answer = good(&matrix(&format!(r#"{{"metric":{{}},"values":[[{NOW},"+Inf"]]}}"#)));
    assert_eq!((answer.series[0].value, answer.newest), (f64::INFINITY, Some(now())));
    assert_eq!(good(&matrix("")), Answer { series: vec![], newest: None });
}

#[rstest]
#[case("", "the answer is not that of a Prometheus API")]
#[case("<html>secret</html>", "the answer is not that of a Prometheus API")]
#[case("{}", "the answer is not that of a Prometheus API")]
#[case(r#"{"status":"success"}"#, "the answer is not that of a Prometheus API")]
#[case(r#"{"status":"error","errorType":"bad_data","error":"parse error: secret"}"#, "the query was refused as wrong (bad_data)")]
#[case(r#"{"status":"error","errorType":"timeout","error":"secret"}"#, "the query failed (timeout)")]
#[case(r#"{"status":"error","errorType":"secret"}"#, "the query failed (no known reason)")]
#[case(
    r#"{"status":"success","warnings":["secret store is away"],"data":{"resultType":"matrix","result":[]}}"#,
    "the answer came with warnings, so it may be partial"
)]
#[case(
    r#"{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}"#,
    "the answer is a scalar, not series over a range; end the query in one, like [2m]"
)]
#[case(
    r#"{"status":"success","data":{"resultType":"string","result":[1,"secret"]}}"#,
    "the answer is a string, not series over a range; end the query in one, like [2m]"
)]
// It says of every value that it is of the moment of the question.
#[case(
    r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1700000000,"1"]}]}}"#,
    "the answer is a vector, not series over a range; end the query in one, like [2m]"
)]
#[case(
    r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"histograms":[[1,{"count":"4"}]]}]}}"#,
    "the answer has native histograms; ask for classic ones"
)]
#[case(
    r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1700000000,"secret"]]}]}}"#,
    "the answer is not that of a Prometheus API"
)]
#[case(r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{}}]}}"#, "the answer is not that of a Prometheus API")]
#[case(
    r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1699999900,"1"]]}]}}"#,
    "the newest sample is over 60 s old"
)]
#[case(
    r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1700000100,"1"]]}]}}"#,
    "the newest sample is over 60 s in the future; check the clocks"
)]
fn what_cannot_be_used_is_said_without_repeating_it(#[case] body: &str, #[case] why: &str) {
    assert_eq!(read(body.as_bytes(), demand()).unwrap_err().to_string(), why);
    assert!(!why.contains("secret"));
}

#[test]
fn two_replicas_in_one_answer_are_refused() {
    let one = |replica: &str| format!(r#"{{"metric":{{"prometheus_replica":"{replica}"}},"values":[[{NOW},"1"]]}}"#);
    assert!(read(matrix(&[one("a"), one("a")].join(",")).as_bytes(), demand()).is_ok());
    assert_eq!(read(matrix(&[one("a"), one("b")].join(",")).as_bytes(), demand()), Err(AnswerError::Replicas));
}

#[test]
fn there_is_an_end_to_series() {
    let one = format!(r#"{{"metric":{{}},"values":[[{NOW},"1"]]}}"#);
    assert_eq!(read(matrix(&vec![one; 101].join(",")).as_bytes(), demand()), Err(AnswerError::TooMany(100)));
}

/// Name, labels, value.
type Given<'a, V = u64> = (&'a str, &'a [(&'a str, &'a str)], V);

/// A preset's answer with these series of `name{labels} value`, all of one moment.
fn answer(at: i64, series: &[Given<'_>]) -> Answer {
    let mut result = String::new();
    for (name, labels, value) in series {
        let labels: String = labels.iter().fold(String::new(), |mut text, (n, v)| {
            let _ = write!(text, ",\"{n}\":\"{v}\"");
            text
        });
        let _ = write!(result, r#",{{"metric":{{"__name__":"{name}"{labels}}},"values":[[{at},"{value}"]]}}"#);
    }
    read(matrix(result.trim_start_matches(',')).as_bytes(), Demand { now: Time::from_timestamp(at, 0).unwrap(), ..demand() }).unwrap()
}

const BACKEND: Backend<'_> = Backend { namespace: "shop", service: "cart-2", workload: "cart", pods: "cart-.*", version: "2" };

/// Adds rounds of answers to a window and gives its totals at 500 ms.
fn count(preset: Preset<'_>, rounds: Vec<Vec<Answer>>) -> (Totals, Vec<String>) {
    let questions = questions(preset, BACKEND).unwrap();
    let mut window = Window::new(now());
    let mut problems = Vec::new();
    for (n, answers) in rounds.into_iter().enumerate() {
        let answers: Vec<_> = questions.iter().cloned().zip(answers).collect();
        let found = recognise(&answers, now() + TimeDelta::seconds(i64::try_from(n).unwrap()));
        problems.extend(found.problems.iter().map(ToString::to_string));
        problems.extend(window.add("2", &TargetId::prometheus(), None, found.snapshot).iter().map(ToString::to_string));
    }
    (window.totals("2", 500), problems)
}

#[test]
fn traefiks_series_are_subtracted() {
    let round = |at, ok, failed: Option<u64>, below: [u64; 2]| {
        let (requests, bucket) = ("traefik_service_requests_total", "traefik_service_request_duration_seconds_bucket");
        let mut series: Vec<Given<'_>> = vec![
            (requests, &[("code", "200"), ("pod", "a")], ok),
            (bucket, &[("code", "200"), ("le", "0.3")], below[0]),
            (bucket, &[("code", "200"), ("le", "+Inf")], below[1]),
        ];
        series.extend(failed.map(|n| (requests, [("code", "502"), ("pod", "a")].as_slice(), n)));
        vec![answer(at, &series)]
    };
    // The first answer is a baseline; the new version's first errors are seen.
    let rounds = vec![round(NOW, 1000, None, [900, 1000]), round(NOW + 15, 1040, Some(2), [930, 1042])];
    let (totals, problems) = count(Preset::Traefik, rounds);
    assert_eq!(problems, [""; 0]);
    assert_eq!((totals.requests, totals.errors, totals.timed, totals.slow_low, totals.slow_high), (42, 2, 42, 0, 12));
}

#[test]
fn an_empty_first_answer_is_an_answer() {
    let full = answer(NOW + 15, &[("traefik_service_requests_total", &[("code", "500")], 3)]);
    let (totals, _) = count(Preset::Traefik, vec![vec![answer(NOW, &[])], vec![full]]);
    assert_eq!((totals.requests, totals.errors), (3, 3));
}

#[test]
fn an_answer_without_series_is_as_new_as_the_others() {
    let read = |answer: Answer| {
        let questions = questions(Preset::Traefik, BACKEND).unwrap();
        Ok(recognise(&questions.into_iter().zip([answer]).collect::<Vec<_>>(), now()))
    };
    let with_series = || read(answer(NOW - 40, &[("traefik_service_requests_total", &[("code", "200")], 7)]));
    let without = || read(answer(NOW, &[]));
    let at = |read: Result<Recognised, Unread>| read.map(|r| r.snapshot.at.timestamp() - NOW);
    assert_eq!(at(dated(without(), newest(&with_series()))), Ok(-40), "nobody has called it yet");
    assert_eq!(at(dated(with_series(), newest(&without()))), Ok(-40), "its own series are enough");
    // A gateway that is not scraped, or not any more, and an other version that cannot be read.
    for other in [without(), Err(Unread::Failed("timed out".into()))] {
        assert!(matches!(dated(without(), newest(&other)), Err(Unread::Failed(why)) if why.contains("no series of either version")));
    }
    // Series that were there do not go away by themselves, however well the other version is scraped.
    assert_eq!(at(dated(still_there(with_series()), newest(&with_series()))), Ok(-40));
    assert!(
        matches!(dated(still_there(without()), newest(&with_series())), Err(Unread::Failed(why)) if why.contains("new version any more"))
    );
    // What was rejected is something, and tells of itself.
    let rejected = Part { series: None, ..Part::default() };
    let rejected = without().map(|r| Recognised { snapshot: Snapshot { requests: rejected, ..r.snapshot }, ..r });
    assert_eq!(at(dated(rejected, None)), Ok(0));
}

#[test]
fn linkerds_requests_without_an_answer_are_errors() {
    let name = "outbound_http_route_backend_response_statuses_total";
    let round = |at, n| {
        let ok: Given<'_> = (name, &[("http_status", "200"), ("error", "")], 10 * n);
        vec![answer(
            at,
            &[ok, (name, &[("http_status", ""), ("error", "FAIL_FAST")], n), (name, &[("http_status", "503"), ("error", "")], n)],
        )]
    };
    let (totals, problems) = count(Preset::Linkerd, vec![round(NOW, 1), round(NOW + 9, 2)]);
    assert_eq!((totals.requests, totals.errors), (12, 2));
    assert_eq!(problems, [""; 0]);
}

#[test]
fn a_lagging_replica_is_no_reset() {
    let round = |at, n| vec![answer(at, &[("envoy_cluster_upstream_rq", &[("envoy_response_code", "200")], n)])];
    let (totals, problems) = count(Preset::Envoy, vec![round(NOW, 1000), round(NOW - 7, 990), round(NOW + 15, 1010)]);
    assert_eq!(totals.requests, 10);
    assert_eq!(problems, ["the reading is older than the last one"]);
}

#[test]
fn a_lagging_replica_is_no_reset_for_own_queries_either() {
    let queries = [("requests".to_owned(), "r{s=\"{{service}}\"}[2m]".to_owned())].into_iter().collect();
    let round = |at, n| vec![answer(at, &[("r", &[("code", "500")], n)])];
    let (totals, _) = count(Preset::Custom(&queries), vec![round(NOW, 1000), round(NOW - 7, 990), round(NOW + 15, 1010)]);
    assert_eq!((totals.requests, totals.errors), (10, 10));
}

#[test]
fn custom_queries_are_put_together() {
    let queries =
        [("requests", "r{s='{{service}}'}[2m]"), ("errors", "e{s='{{service}}'}[2m]"), ("durationMilliseconds", "d{s='{{service}}'}[2m]")];
    let queries = queries.iter().map(|(n, q)| ((*n).to_owned(), (*q).to_owned())).collect();
    // In the order of the questions: durations, errors, requests. The errors' series is one of the requests'.
    let round = |at, n: u64| {
        let failed: Given<'_> = ("r", &[("result", "bad")], n);
        vec![
            answer(at, &[("d_bucket", &[("le", "500")], 9 * n), ("d_bucket", &[("le", "+Inf")], 11 * n)]),
            answer(at, &[failed]),
            answer(at, &[("r", &[("result", "good")], 10 * n), failed]),
        ]
    };
    let (totals, problems) = count(Preset::Custom(&queries), vec![round(NOW, 1), round(NOW + 15, 3)]);
    assert_eq!(problems, [""; 0]);
    assert_eq!((totals.requests, totals.errors, totals.timed, totals.slow_low, totals.slow_high), (22, 2, 22, 4, 4));
}

#[rstest]
#[case(&[("r", &[("code", "200")] as &[_], "NaN")], "query requests has a value that is not a number")]
#[case(&[("r", &[("code", "200")] as &[_], "-3")], "query requests has a value that is negative")]
#[case(&[("r", &[("path", "/")] as &[_], "3")], "query requests has a series without a label code, status or status_code")]
fn what_custom_queries_get_wrong_is_said(#[case] series: &[Given<'_, &str>], #[case] why: &str) {
    let (name, labels, value) = series[0];
    let body = matrix(&format!(r#"{{"metric":{{"__name__":"{name}","{}":"{}"}},"values":[[{NOW},"{value}"]]}}"#, labels[0].0, labels[0].1));
    let queries = [("requests".to_owned(), "r{s=\"{{service}}\"}[2m]".to_owned())].into_iter().collect();
    let (totals, problems) = count(Preset::Custom(&queries), vec![vec![good(&body)]]);
    assert_eq!((totals, problems), (Totals::default(), vec![why.to_owned()]));
}

/// A slip in the name of its metric would make every version look good.
#[test]
fn a_query_for_errors_that_finds_none_of_those_that_are_shown_is_told() {
    let queries = ["requests", "errors"].map(|n| (n.to_owned(), "r{s=\"{{service}}\"}[2m]".to_owned())).into_iter().collect();
    let requests = |at, code, n| answer(at, &[("r", &[("code", code)], n)]);
    let rounds = |code, errors: Answer| {
        // By name: errors come first.
        let (totals, problems) = count(Preset::Custom(&queries), vec![vec![errors, requests(NOW, code, 7)]]);
        (totals.requests, problems.into_iter().map(|p| p.split(';').next().unwrap().to_owned()).collect::<Vec<_>>())
    };
    let nothing = || answer(NOW, &[]);
    assert_eq!(
        rounds("500", nothing()),
        (0, vec!["query errors finds none of the requests that their code label calls failed (5xx)".into()])
    );
    assert_eq!(rounds("200", nothing()), (0, vec![]));
    assert_eq!(rounds("500", answer(NOW, &[("e", &[("of", "500")], 7)])), (0, vec![]));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes, demand());
    }

    #[test]
    fn no_answer_of_the_right_shape_makes_it_panic(at in any::<f64>(), value in "[-+0-9.eNaInf]{0,8}", label in "\\PC{0,5}") {
        let series = serde_json::json!({"metric": {"le": label}, "values": [[at, value]]});
        let body = serde_json::json!({"status": "success", "data": {"resultType": "matrix", "result": [series]}});
        if let Ok(answer) = read(body.to_string().as_bytes(), demand()) {
            for role in [Role::Errors, Role::Requests { by_code: true }, Role::Durations(crate::metrics_source::snapshot::Unit::Seconds)] {
                let question = Question { role, promql: String::new() };
                let _ = recognise(&[(question, answer.clone())], now());
            }
        }
    }
}

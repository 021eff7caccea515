use rstest::rstest;

use super::*;

const BACKEND: Backend<'_> =
    Backend { namespace: "shop", service: "cart-2.0", workload: "cart", pods: "cart-2-0-[a-z0-9]+-.+", version: "2.0.0+b1" };

/// The names and the labels that a preset asks for.
fn asked(preset: Preset<'_>) -> (String, String) {
    let questions = questions(preset, BACKEND).unwrap();
    assert_eq!(questions.len(), 1);
    let inside = questions[0].promql.strip_prefix("{__name__=~\"").and_then(|p| p.strip_suffix("}[2m]")).unwrap();
    let (names, labels) = inside.split_once("\",").unwrap();
    (names.to_owned(), labels.to_owned())
}

#[rstest]
#[case(
    Preset::Traefik,
    "traefik_service_requests_total|traefik_service_request_duration_seconds_(bucket|sum|count)",
    r#"service=~"httproute-shop-.+-svc-shop-cart-2\\.0-[0-9]+@kubernetesgateway""#
)]
#[case(
    Preset::Istio,
    "istio_requests_total|istio_request_duration_milliseconds_(bucket|sum|count)",
    r#"reporter="destination",destination_workload="cart",destination_workload_namespace="shop""#
)]
#[case(
    Preset::Envoy,
    "envoy_cluster_upstream_rq|envoy_cluster_upstream_rq_time_(bucket|sum|count)",
    r#"envoy_cluster_name=~"(.*[^a-z0-9-])?(shop[/_:]cart-2\\.0|cart-2\\.0[.]shop)([^a-z0-9-].*)?""#
)]
#[case(
    Preset::Linkerd,
    "outbound_http_route_backend_response_statuses_total|outbound_http_route_backend_response_duration_seconds_(bucket|sum|count)",
    r#"backend_name="cart-2.0",backend_namespace="shop""#
)]
fn presets_ask_for_raw_series_of_one_version(#[case] preset: Preset<'_>, #[case] names: &str, #[case] labels: &str) {
    assert_eq!(asked(preset), (names.to_owned(), labels.to_owned()));
}

#[rstest]
#[case("service/shop/cart/8080", true)]
#[case("shop_cart_8080", true)]
#[case("kube_shop_cart_8080", true)]
#[case("shop/cilium-gateway-gw/shop_cart_8080", true)]
#[case("outbound|80||cart.shop.svc.cluster.local", true)]
#[case("service/shop/cart-2/8080", false)]
#[case("service/shop/my-cart/8080", false)]
#[case("service/workshop/cart/8080", false)]
#[case("kube_my-shop_cart_8080", false)]
#[case("httproute/shop/cart/rule/0", true)] // a route of the Service's name: documented
fn envoys_cluster_names_are_told_apart(#[case] cluster: &str, #[case] ours: bool) {
    // The same expression as a simple matcher: prefixes and suffixes bounded by what no Kubernetes name holds.
    let bounded = |needle: &str| {
        cluster.match_indices(needle).any(|(start, found)| {
            let edge = |c: Option<char>| c.is_none_or(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            edge(cluster[..start].chars().next_back()) && edge(cluster[start + found.len()..].chars().next())
        })
    };
    let by_hand = ["shop/cart", "shop_cart", "shop:cart", "cart.shop"].into_iter().any(bounded);
    assert_eq!(by_hand, ours);
    let regex = regex::Regex::new(&format!("^(?:{})$", envoy_cluster("shop", "cart"))).unwrap();
    assert_eq!(regex.is_match(cluster), ours);
}

#[rstest]
// As Traefik 3.7's own tests have it.
#[case("httproute-default-http-app-1-gw-default-my-gateway-ep-web-0-af329269dd38031b03e3-svc-default-whoami-0@kubernetesgateway", true)]
#[case("httproute-default-http-app-1-gw-default-my-gateway-ep-web-0-af329269dd38031b03e3-svc-default-whoami-12@kubernetesgateway", true)]
#[case("httproute-default-http-app-1-gw-default-my-gateway-ep-web-1-9618b798382aa725aa8b-svc-default-whoami2-0@kubernetesgateway", false)]
#[case("httproute-default-http-app-1-gw-default-my-gateway-ep-web-0-af329269dd38031b03e3-svc-default-whoami-2-0@kubernetesgateway", false)]
#[case("httproute-default-http-app-1-gw-default-my-gateway-ep-web-0-af329269dd38031b03e3-wrr@kubernetesgateway", false)]
#[case("default-whoami-80@kubernetes", false)]
fn traefiks_services_are_told_apart(#[case] service: &str, #[case] ours: bool) {
    let regex = regex::Regex::new(&format!("^(?:{})$", traefik_service("default", "whoami"))).unwrap();
    assert_eq!(regex.is_match(service), ours);
}

fn custom(queries: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let queries = queries.iter().map(|(n, q)| ((*n).to_owned(), (*q).to_owned())).collect();
    match questions(Preset::Custom(&queries), BACKEND) {
        Ok(questions) => Ok(questions.into_iter().map(|q| q.promql).collect()),
        Err(error) => Err(error.to_string()),
    }
}

#[rstest]
#[case(r#"r{app="{{service}}",ns='{{ namespace }}'}[2m]"#, r#"r{app="cart-2.0",ns='shop'}[2m]"#)]
#[case(r#"r{app=~"x-{{service}}-.*",v!~ "{{version}}"}[2m]"#, r#"r{app=~"x-cart-2\\.0-.*",v!~ "2\\.0\\.0\\+b1"}[2m]"#)]
#[case("r{app=~`{{service}}`,w=`{{workload}}`}[2m]", r"r{app=~`cart-2\.0`,w=`cart`}[2m]")]
#[case(r#"r{pod=~"{{pods}}",q="a\"{{version}}"}[2m]"#, r#"r{pod=~"cart-2-0-[a-z0-9]+-.+",q="a\"2.0.0+b1"}[2m]"#)]
fn placeholders_are_escaped_for_where_they_stand(#[case] query: &str, #[case] filled: &str) {
    assert_eq!(custom(&[("requests", query)]), Ok(vec![filled.to_owned()]));
}

#[rstest]
#[case("error_rate {s='{{service}}'} [ 1h30m ] ", "error_rate {s='cart-2.0'} [ 1h30m ] ")]
#[case("{\"http.requests\", a!=\"{{workload}}\"}[2m]", "{\"http.requests\", a!=\"cart\"}[2m]")]
#[case("r{a=\"rate(x[2m:]) } [{{workload}}\", b='#'}[2m]", "r{a=\"rate(x[2m:]) } [cart\", b='#'}[2m]")]
#[case("# the shop's sum(\nr{a=\"{{workload}}\", # {{pods}} in } [5m:]\n}[2m] # rate(", "\nr{a=\"cart\", \n}[2m] ")]
fn one_selector_that_ends_in_a_range_is_asked(#[case] query: &str, #[case] asked: &str) {
    assert_eq!(custom(&[("requests", query)]), Ok(vec![asked.to_owned()]));
}

#[rstest]
#[case::instant("r")]
#[case::instant_with_matchers("r{a=\"b\"}")]
#[case::nothing("")]
#[case::no_selector("[2m]")]
#[case::subquery("r[2m:]")]
#[case::subquery_with_step("r{a=\"b\"}[2m:15s]")]
#[case::offset("r[2m] offset 5m")]
#[case::offset_before("r offset 5m[2m]")]
#[case::at_a_time("r[2m] @ 1700000000")]
#[case::brackets("(r)[2m]")]
#[case::two("r[2m] or s[2m]")]
#[case::two_instants("r{a=\"b\"} + s{a=\"b\"}[2m]")]
#[case::two_ranges("r[2m][2m]")]
#[case::recording_rule("job:r:sum{a=\"b\"}[2m]")]
#[case::no_duration("r[]")]
#[case::variable("r[$__range]")]
#[case::open_quote("r{a=\"b}[2m]")]
#[case::open_brace("r{a=\"b\"[2m]")]
#[case::range_in_a_string("r{a=\"[2m]\"}")]
#[case::range_in_a_comment("r # [2m]")]
fn whatever_else_is_refused(#[case] query: &str) {
    let wanted = "query requests must be one selector of raw counters (no recording rule's) that ends in a range, \
                  like http_requests_total{service=\"{{service}}\"}[2m], and nothing else";
    assert_eq!(custom(&[("requests", query)]), Err(wanted.to_owned()));
}

#[rstest]
#[case("sum(rate(r[1m]))", "sum")]
#[case("rate(r{a=\"b\"}[2m])", "rate")]
#[case(" increase (r[1m])", "increase")]
#[case("sum by (code) (r)", "sum")]
#[case("sum (r) by (code)", "sum")]
#[case("max_over_time(r[2m:])[2m]", "max_over_time")]
#[case("histogram_quantile(0.99, r)", "histogram_quantile")]
#[case("1 - sum without(pod) (r)[2m]", "sum")]
fn a_calculation_is_named(#[case] query: &str, #[case] function: &str) {
    let wanted = format!(
        "query errors has {function}(); ask for the raw counters, like http_requests_total{{service=\"{{{{service}}}}\"}}[2m]: \
         they are subtracted here, per series"
    );
    assert_eq!(custom(&[("requests", "r{s='{{service}}'}[2m]"), ("errors", query)]), Err(wanted));
}

#[rstest]
#[case(&[("errors", "e")], "QUERIES needs a query named requests")]
#[case(&[("requests", "r[2m]"), ("p99", "x")], "QUERIES has p99; it may have requests, errors, durationSeconds and durationMilliseconds")]
#[case(&[("requests", ""), ("durationSeconds", ""), ("durationMilliseconds", "")], "QUERIES has BOTH; keep one")]
#[case(&[("requests", "r{a=\"{{pod}}\"}")], "query requests has {{pod}}; known are namespace, service, workload, pods and version")]
#[case(&[("requests", "{{service}}_total")], "query requests has {{service}} outside of a quoted label value")]
#[case(&[("requests", "r{a=\"b\"}[2m]")], "query requests asks the same of both versions; tell them apart by {{service}}, {{workload}}, {{version}} or {{pods}}")]
#[case(&[("requests", "r{n=\"{{namespace}}\"}[2m]")], "query requests asks the same of both versions; tell them apart by {{service}}, {{workload}}, {{version}} or {{pods}}")]
#[case(&[("requests", "r{pod=\"{{pods}}\"}")], "query requests must compare {{pods}} with =~")]
fn custom_queries_are_refused_with_what_to_change(#[case] queries: &[(&str, &str)], #[case] why: &str) {
    assert_eq!(
        custom(queries),
        Err(why.replace("QUERIES", "spec.metrics.prometheus.queries").replace("BOTH", "durationSeconds and durationMilliseconds"))
    );
}

#[test]
fn roles_follow_the_names() {
    let ask = |names: &[&str]| {
        let queries = names.iter().map(|n| ((*n).to_owned(), "x{s='{{service}}'}[2m]".to_owned())).collect();
        questions(Preset::Custom(&queries), BACKEND).unwrap().into_iter().map(|q| q.role).collect::<Vec<_>>()
    };
    assert_eq!(ask(&["requests"]), [Role::Requests { by_code: true }]);
    assert_eq!(
        ask(&["requests", "errors", "durationMilliseconds"]),
        [Role::Durations(Unit::Milliseconds), Role::Errors, Role::Requests { by_code: false }]
    );
}

#[test]
fn escaping_is_complete() {
    assert_eq!(in_string("a\"b\\c'd\ne\u{7}"), "a\\\"b\\\\c\\'d\\ne\\u0007");
    assert_eq!(regex_literal("a.b*c+d?(e)|[f]{g}^h$i\\j-k"), r"a\.b\*c\+d\?\(e\)\|\[f\]\{g\}\^h\$i\\j-k");
}

proptest::proptest! {
    /// A hostile name can end neither the string nor the expression.
    #[test]
    fn no_name_escapes_its_quotes(name in "\\PC{0,12}") {
        let literal = regex_literal(&name);
        let regex = regex::Regex::new(&format!("^(?:{literal})$")).unwrap();
        proptest::prop_assert!(regex.is_match(&name));
        let inside = in_string(&literal);
        let mut chars = inside.chars();
        while let Some(c) = chars.next() {
            proptest::prop_assert!(!matches!(c, '"' | '\''));
            if c == '\\' {
                proptest::prop_assert!(matches!(chars.next(), Some('\\' | '"' | '\'' | 'n' | 'u')));
            }
        }
    }
}

//! Requests that no user sends: somebody reads the metrics page, or the kubelet probes. Most middleware counts them like any
//! other; an update that nobody calls would then look well, and a failing one better than it is.
//!
//! So a series is left out whose route is that of the page or of a probe. What is in doubt is counted:
//! - A route is that path, without query and slashes at its ends, or what is left of the path where an application does not
//!   show the first part that all its routes share: `/actuator/health` of `/shop/actuator/health`, but not `/health`.
//! - `/` is never left out: users call it as well.
//! - A series without any of the labels in [`ROUTES`] tells nothing, and is counted.

use super::exposition::Sample;

/// The labels that tell a request's route, by whichever library: Micrometer's `uri`, OpenTelemetry's `http_route` and
/// `url_path`, FastAPI's `handler`, and what people choose for themselves.
const ROUTES: [&str; 12] = [
    "uri",
    "route",
    "path",
    "handler",
    "endpoint",
    "url",
    "url_rule",
    "http_route",
    "url_path",
    "http_target",
    "http_path",
    "path_template",
];

/// How Spring shows all that is below its health endpoint, the groups that probes ask for, as one route.
const GROUPS_OF_HEALTH: [&str; 2] = ["health/**", "health/{*path}"];

/// What is not counted of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uncounted {
    /// Paths without slashes at their ends.
    paths: Vec<String>,
    /// Where the page is: Linkerd's proxy counts who asks the proxy itself.
    port: u16,
}

impl Uncounted {
    /// For a page at that port and path, of a pod that machines ask for those paths.
    pub fn new(port: u16, page: &str, polled: &[String]) -> Self {
        let paths = polled.iter().map(String::as_str).chain([page]).map(bare).filter(|path| !path.is_empty());
        Self { paths: paths.map(str::to_owned).collect(), port }
    }

    /// Whether these requests are none of users.
    pub fn holds(&self, sample: &Sample<'_>) -> bool {
        let is_ours = |label: &str| self.paths.iter().any(|path| leads_to(label, path));
        let mut routes = sample.labels.iter().filter(|(name, _)| ROUTES.contains(&name.as_ref()));
        routes.any(|(_, route)| is_ours(route)) || self.is_linkerds_own(sample)
    }

    /// The proxy names the port that was asked for, and has one route for the probes of the pod.
    fn is_linkerds_own(&self, sample: &Sample<'_>) -> bool {
        let port = || sample.label("target_addr")?.rsplit_once(':')?.1.parse().ok();
        let is_probe = || sample.label("route_kind") == Some("default") && sample.label("route_name") == Some("probe");
        port() == Some(self.port) || is_probe()
    }
}

/// A path without query, and without slashes at its ends.
fn bare(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default().trim_matches('/')
}

/// Whether that route is taken for this path.
fn leads_to(route: &str, path: &str) -> bool {
    // Go's patterns begin with the method.
    let route = bare(route.rsplit(' ').next().unwrap_or_default());
    let groups = GROUPS_OF_HEALTH.iter().find_map(|groups| {
        let before = route.strip_suffix(groups)?;
        (before.is_empty() || before.ends_with('/')).then(|| route.get(..before.len() + "health".len())).flatten()
    });
    match groups {
        Some(health) => path.match_indices('/').filter_map(|(at, _)| path.get(..at)).any(|above| is(health, above)),
        None => is(route, path),
    }
}

/// The same, or the end of it if that is long enough to be no other's.
fn is(route: &str, path: &str) -> bool {
    let is_whole = |before: &str| before.is_empty() || (before.ends_with('/') && route.contains('/'));
    !route.is_empty() && path.strip_suffix(route).is_some_and(is_whole)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::metrics_source::exposition::{Format, Keep, parse};

    fn is_left_out(labels: &str) -> bool {
        let probes = ["/healthz/", "/shop/actuator/health/liveness?full=1", "/", "/shop/login"].map(str::to_owned);
        let uncounted = Uncounted::new(4191, "/shop/metrics", &probes);
        let page = format!("requests_total{{{labels}}} 1\n");
        uncounted.holds(&parse(page.as_bytes(), Format::Text, Keep::default()).unwrap().samples[0])
    }

    #[rstest]
    #[case::page("path=\"/shop/metrics\"")]
    #[case::query("url=\"/shop/metrics?name[]=up\"")]
    #[case::probe("handler=\"/healthz\"")]
    #[case::slash("route=\"/healthz/\"")]
    #[case::no_slash("endpoint=\"healthz\"")]
    #[case::go("http_route=\"GET /healthz\"")]
    #[case::context_path("uri=\"/actuator/health/liveness\"")]
    #[case::groups("uri=\"/actuator/health/**\"")]
    #[case::groups_under_the_context_path("uri=\"/shop/actuator/health/**\"")]
    #[case::groups_of_webflux("uri=\"/actuator/health/{*path}\"")]
    #[case::any_label("http_route=\"other\",url_path=\"/healthz\"")]
    #[case::linkerd_itself("direction=\"inbound\",target_addr=\"0.0.0.0:4191\"")]
    #[case::linkerd_ipv6("direction=\"inbound\",target_addr=\"[fd00::1]:4191\"")]
    #[case::linkerd_probe("direction=\"inbound\",target_addr=\"10.0.0.1:8080\",route_kind=\"default\",route_name=\"probe\"")]
    fn what_machines_ask_for(#[case] labels: &str) {
        assert!(is_left_out(labels));
    }

    #[rstest]
    #[case::nothing_told("code=\"200\"")]
    #[case::the_root_though_it_is_probed("path=\"/\"")]
    #[case::the_root_by_another_name("uri=\"root\"")]
    #[case::empty("path=\"\"")]
    #[case::another("path=\"/orders\"")]
    #[case::longer("path=\"/healthz/orders\"")]
    #[case::within_a_part("path=\"/thz\"")]
    #[case::the_end_within_a_part("path=\"/tuator/health/liveness\"")]
    #[case::one_part_may_be_anybodys("path=\"/login\"")]
    #[case::one_part_of_the_page("path=\"/metrics\"")]
    #[case::above("path=\"/shop\"")]
    #[case::every_route("uri=\"/**\"")]
    #[case::a_wildcard_of_users("uri=\"/shop/**\"")]
    #[case::a_wildcard_of_another_health("uri=\"/stealth/**\"")]
    #[case::a_placeholder("path=\"/{name}\"")]
    #[case::no_route("version=\"/healthz\"")]
    #[case::linkerd_users("direction=\"inbound\",target_addr=\"10.0.0.1:8080\",route_kind=\"default\",route_name=\"default\"")]
    #[case::a_users_route_called_probe("route_kind=\"HTTPRoute\",route_name=\"probe\"")]
    fn what_users_may_ask_for(#[case] labels: &str) {
        assert!(!is_left_out(labels));
    }

    #[test]
    fn health_at_the_root_has_groups_too() {
        let uncounted = Uncounted::new(80, "/", &["/health/readiness".to_owned()]);
        let has = |route: &str| {
            let page = format!("requests_total{{uri=\"{route}\"}} 1\n");
            uncounted.holds(&parse(page.as_bytes(), Format::Text, Keep::default()).unwrap().samples[0])
        };
        assert!(has("/health/**") && has("/health/readiness"));
        assert!(!has("/**") && !has("/") && !has("/readiness"));
    }
}

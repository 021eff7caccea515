//! A pod's status as the kubelet writes it.

use std::net::Ipv4Addr;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::life::{Exit, State, Status};
use super::pod::{PodKey, Wish};

/// The strategic merge patch that brings a pod's status to `status`. Conditions are merged by type, so that the
/// scheduler's stays; within a condition, keys that no longer hold have to be taken away by name. The uid makes the patch fail on
/// another pod of the same name.
pub fn patch(key: &PodKey, wish: &Wish, status: &Status, ip: Ipv4Addr, host_ip: Ipv4Addr) -> Value {
    let unready = unready(wish, status);
    let accepted = time(status.accepted);
    let since = time(status.ready_since);
    let ended = matches!(status.state, State::Ended(_));
    let because = if ended {
        (json!("PodCompleted"), Value::Null)
    } else if unready.is_empty() {
        (Value::Null, Value::Null)
    } else {
        (json!("ContainersNotReady"), json!(format!("containers with unready status: [{}]", unready.join(" "))))
    };
    let condition = |kind: &str, holds: bool, since: &str, (reason, message): (Value, Value)| {
        json!({
            "type": kind, "status": if holds { "True" } else { "False" }, "lastProbeTime": null,
            "lastTransitionTime": since, "reason": reason, "message": message,
        })
    };
    let sandbox_since = if ended { &since } else { &accepted };
    let containers: Vec<_> = wish.containers.iter().enumerate().map(|(n, c)| container(key, c, status, n == 0)).collect();
    let init: Vec<_> = wish.init_containers.iter().map(|c| init_container(key, c, status)).collect();
    json!({
        "metadata": {"uid": key.uid},
        "status": {
            "phase": phase(status),
            "hostIP": host_ip, "hostIPs": [{"ip": host_ip}], "podIP": ip, "podIPs": [{"ip": ip}],
            "startTime": accepted,
            "conditions": [
                condition("PodReadyToStartContainers", !ended, sandbox_since, (Value::Null, Value::Null)),
                condition("Initialized", true, &accepted, (Value::Null, Value::Null)),
                condition("Ready", status.ready, &since, because.clone()),
                condition("ContainersReady", status.ready, &since, because),
            ],
            "containerStatuses": containers,
            "initContainerStatuses": init,
        },
    })
}

fn phase(status: &Status) -> &'static str {
    match &status.state {
        State::Ended(Exit { code: 0, .. }) => "Succeeded",
        State::Ended(_) => "Failed",
        _ if status.started => "Running",
        _ => "Pending",
    }
}

/// Names of the containers that are not ready; only the first one ever is.
fn unready<'a>(wish: &'a Wish, status: &Status) -> Vec<&'a str> {
    let first = wish.containers.first().filter(|_| !status.ready);
    first.map(|(name, _)| name.as_str()).into_iter().collect()
}

/// The status of one container: the first one has the pod's fate, the others run as long as the pod is there.
fn container(key: &PodKey, (name, image): &(String, String), status: &Status, first: bool) -> Value {
    let id = format!("testbed://{}/{name}/{}", key.uid, status.restarts);
    let ended = matches!(status.state, State::Ended(_));
    let (state, runs) = match &status.state {
        State::Ended(exit) => (terminated(exit, &id), false),
        _ if !first => (json!({"running": {"startedAt": time(status.accepted)}}), true),
        State::Accepted => (waiting("ContainerCreating", ""), false),
        State::Unmakeable(why) => (waiting("CreateContainerConfigError", why), false),
        State::PullFailed { .. } => {
            (waiting("ErrImagePull", &format!("failed to pull image {image:?}: the registry has no such image")), false)
        }
        State::PullBackOff => (waiting("ImagePullBackOff", &format!("Back-off pulling image {image:?}")), false),
        State::Running { since } | State::Draining { since } => (json!({"running": {"startedAt": time(*since)}}), true),
        State::Exited(exit) => (terminated(exit, &id), false),
        State::BackOff { delay, .. } => {
            let pod = format!("{}_{}({})", key.name, key.namespace, key.uid);
            let message = format!("back-off {}s restarting failed container={name} pod={pod}", delay.as_secs());
            (waiting("CrashLoopBackOff", &message), false)
        }
    };
    // The end before this one: not repeated while it is the current state.
    let last = status.last_exit.as_ref().filter(|_| first && !ended && !matches!(status.state, State::Exited(_)));
    json!({
        "name": name, "image": image, "imageID": image_id(image),
        "containerID": if status.started || !first { id.as_str() } else { "" },
        "ready": if first { status.ready } else { runs },
        "started": runs,
        "restartCount": if first { status.restarts } else { 0 },
        "state": state,
        "lastState": last.map_or_else(|| json!({}), |exit| terminated(exit, &id)),
    })
}

/// Init containers have done their work before anything else is seen of a pod.
fn init_container(key: &PodKey, (name, image): &(String, String), status: &Status) -> Value {
    let id = format!("testbed://{}/{name}/0", key.uid);
    let exit = Exit { code: 0, started: status.accepted, finished: status.accepted };
    json!({
        "name": name, "image": image, "imageID": image_id(image), "containerID": id.as_str(),
        "ready": true, "started": false, "restartCount": 0, "state": terminated(&exit, &id), "lastState": {},
    })
}

fn image_id(image: &str) -> String {
    format!("testbed://{image}")
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"waiting": {"reason": reason, "message": message}})
}

fn terminated(exit: &Exit, id: &str) -> Value {
    json!({"terminated": {
        "exitCode": exit.code, "reason": if exit.code == 0 { "Completed" } else { "Error" },
        "startedAt": time(exit.started), "finishedAt": time(exit.finished), "containerID": id,
    }})
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::{Pod, PodStatus};

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_893_456_000 + second, 0).unwrap()
    }

    fn status(state: State) -> Status {
        Status { state, last_exit: None, restarts: 0, started: true, ready: false, ready_since: at(0), accepted: at(0) }
    }

    /// The patch, read by the types of the API: a misspelt or mistyped field would be missed.
    fn read(status: &Status) -> (Value, PodStatus) {
        let key = PodKey { namespace: "shop".into(), name: "web-1".into(), uid: "u".into() };
        let containers = vec![("app".to_owned(), "web:1".to_owned()), ("side".to_owned(), "side:1".to_owned())];
        let wish = Wish { containers, ..Wish::default() };
        let value = patch(&key, &wish, status, Ipv4Addr::new(10, 244, 0, 1), Ipv4Addr::LOCALHOST);
        let pod: Pod = serde_json::from_value(value.clone()).unwrap();
        (value, pod.status.unwrap())
    }

    fn condition<'a>(status: &'a PodStatus, kind: &str) -> (&'a str, Option<&'a str>) {
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
        (condition.status.as_str(), condition.reason.as_deref())
    }

    #[test]
    fn running_and_ready() {
        let running = Status { ready: true, ready_since: at(2), ..status(State::Running { since: at(1) }) };
        let (value, read) = read(&running);
        assert_eq!(read.phase.as_deref(), Some("Running"));
        assert_eq!(read.pod_ip.as_deref(), Some("10.244.0.1"));
        assert_eq!(condition(&read, "Ready"), ("True", None));
        assert_eq!(condition(&read, "Initialized"), ("True", None));
        assert_eq!(value["metadata"]["uid"], "u");
        assert_eq!(value["status"]["conditions"][2]["lastTransitionTime"], "2030-01-01T00:00:02Z");
        // An absent reason would leave an old one in place.
        assert!(value["status"]["conditions"][2].as_object().unwrap()["reason"].is_null());
        assert!(read.container_statuses.unwrap().iter().all(|c| c.ready && c.started == Some(true)));
    }

    #[test]
    fn waiting_shows_why() {
        let exit = Exit { code: 1, started: at(1), finished: at(3) };
        let looping = State::BackOff { exit, delay: Duration::from_secs(20) };
        for (state, started, reason, phase) in [
            (looping, true, "CrashLoopBackOff", "Running"),
            (State::PullFailed { at: at(0) }, false, "ErrImagePull", "Pending"),
            (State::PullBackOff, false, "ImagePullBackOff", "Pending"),
            (State::Unmakeable("annotation x".into()), false, "CreateContainerConfigError", "Pending"),
        ] {
            let last_exit = started.then_some(exit);
            let (_, read) = read(&Status { last_exit, started, restarts: 2, ..status(state) });
            assert_eq!(read.phase.as_deref(), Some(phase));
            assert_eq!(condition(&read, "Ready"), ("False", Some("ContainersNotReady")));
            let containers = read.container_statuses.unwrap();
            let waiting = containers[0].state.as_ref().unwrap().waiting.as_ref().unwrap();
            assert_eq!(waiting.reason.as_deref(), Some(reason));
            assert_eq!(containers[0].last_state.as_ref().is_some_and(|last| last.terminated.is_some()), started);
            assert!(containers[1].ready);
        }
    }

    #[test]
    fn an_ended_pod_has_ended_in_all_containers() {
        let exit = |code| State::Ended(Exit { code, started: at(1), finished: at(3) });
        for (code, phase) in [(0, "Succeeded"), (137, "Failed")] {
            let (_, read) = read(&status(exit(code)));
            assert_eq!(read.phase.as_deref(), Some(phase));
            assert_eq!(condition(&read, "Ready"), ("False", Some("PodCompleted")));
            for container in read.container_statuses.unwrap() {
                assert_eq!(container.state.unwrap().terminated.unwrap().exit_code, i32::from(code));
            }
        }
    }
}

//! From the index to an [`Observation`]: looking up, never deciding.

use std::sync::Arc;

use crate::api::rolling_update::{Objects, ShiftMode, TrafficMode};
use crate::api::{State, names};
use crate::cluster::facts::{Deployment, Key, Kind, ReplicaSet, Update};
use crate::cluster::index::Index;
use crate::metrics_source::measure::Release;
use crate::traffic::apex::Pin;
use crate::traffic::gateway;

use super::build;
use super::decide::{is_another, keeps_old};
use super::model::{Endpoints, Live, Observation, Side, Unreadable, is_revision_of, is_service_of};
use super::wish::{SpecError, Wish};

/// Looks up everything a decision about that RollingUpdate needs. `None`: there is no such object.
pub fn observe(index: &Index, key: &Key) -> Option<Observation> {
    let update = index.update(key)?;
    let namespace = key.namespace.as_str();
    let (wish, status) = match &update.object {
        Ok(object) => {
            let status = object.status.clone().unwrap_or_default();
            let last_resort = || Box::new(Wish::last_resort(Some(&object.spec), &status));
            (Wish::parse(&object.spec).map_err(|error| Unreadable { error, last_resort: last_resort() }), status)
        }
        Err(unreadable) => {
            let (error, status) = (SpecError { field: String::new(), message: unreadable.clone() }, <_>::default());
            (Err(Unreadable { error, last_resort: Box::new(Wish::last_resort(None, &status)) }), status)
        }
    };
    // One that is being deleted starts nothing; it lets go of what it has.
    let anew = starts_anew(&status, &wish) && !(update.meta.deleting && status.state.is_terminal());
    let recorded = status.objects.as_ref().filter(|_| !anew);
    // What an update works on stays what it was when it started, however the spec is edited meanwhile.
    let (workload, service) = match (recorded, &wish) {
        (Some(objects), _) => (objects.workload.clone(), objects.service.clone()),
        (None, Ok(wish)) => (wish.workload.clone(), wish.service.clone()),
        (None, Err(_)) => <_>::default(),
    };
    let workload = index.deployment(&Key::new(namespace, workload));
    let apex = index.service(&Key::new(namespace, &service));
    let live = live(index, &wish, workload.as_deref());
    let objects = recorded.cloned().unwrap_or_else(|| propose(index, &update, &wish, &live));
    let side = |revision: &str, service: &str| side(index, namespace, &objects.workload, (revision, service));
    let mut old = side(&objects.old_revision, &objects.old_service);
    let mut new = side(&objects.new_revision, &objects.new_revision);

    let names = gateway::Names { apex: &service, old: &objects.old_service, new: &objects.new_revision };
    let ours = |r: &&Arc<_>| gateway::names_service(r, names.apex) || gateway::is_split(r, names);
    let (routes, missing_routes) = match wish.as_ref().ok().and_then(|w| w.routes.as_ref()) {
        None => (index.routes(namespace).filter(ours).cloned().collect::<Vec<_>>(), Vec::new()),
        Some(wanted) => {
            let routes: Vec<_> = index.routes(namespace).filter(|r| wanted.contains(&r.meta.name)).cloned().collect();
            let missing = wanted.iter().filter(|n| !routes.iter().any(|r| r.meta.name == **n)).cloned().collect();
            (routes, missing)
        }
    };
    let (mut objects, mut routes, mut serving) = (objects, routes, Endpoints::default());
    if recorded.is_none() {
        objects.mode = mode(&wish, routes.is_empty() && missing_routes.is_empty());
    }
    if objects.mode == ShiftMode::Pods {
        routes.clear();
        serving = std::mem::take(&mut new.endpoints);
        for side in [&mut old, &mut new] {
            side.endpoints.ready = side.staying().filter(|p| p.ready).map(|p| p.meta.name.clone()).collect();
        }
    }
    let release = Release::of(&update.meta, &status, &objects);
    Some(Observation {
        measured: index.measured(key).filter(|m| m.release == release),
        serving,
        autoscaler: workload.as_ref().and_then(|w| index.autoscaler_of(Kind::Deployment, &w.meta.key())),
        autoscaled: index.autoscaler_of(Kind::RollingUpdate, key).is_some(),
        apex_endpoints: endpoints(index, &Key::new(namespace, &service)),
        rival: wish.as_ref().ok().and_then(|w| rival(index, &update, &w.workload)),
        meta: update.meta.clone(),
        wish,
        status,
        objects,
        live,
        workload,
        apex,
        old,
        new,
        routes,
        missing_routes,
    })
}

/// How an update that starts now would shift traffic.
fn mode(wish: &Result<Wish, Unreadable>, no_route: bool) -> ShiftMode {
    match wish.as_ref().map(|w| w.mode) {
        Ok(TrafficMode::Pods) => ShiftMode::Pods,
        Ok(TrafficMode::Auto) if no_route => ShiftMode::Pods,
        _ => ShiftMode::Gateway,
    }
}

/// The recorded objects belong to a version or attempt that is over, or to none yet.
fn starts_anew(status: &crate::api::RollingUpdateStatus, wish: &Result<Wish, Unreadable>) -> bool {
    match wish {
        Ok(wish) if status.state.is_terminal() => is_another(status, wish) && !keeps_old(status),
        _ => status.state == State::Pending,
    }
}

/// The version that carries the traffic: recorded on the workload, else what its own template says.
fn live(index: &Index, wish: &Result<Wish, Unreadable>, workload: Option<&Deployment>) -> Result<Live, String> {
    let (Ok(wish), Some(workload)) = (wish, workload) else { return Err("the workload is not known".into()) };
    let note = |name: &str| workload.meta.annotations.get(name).cloned();
    if let (Some(version), Some(revision)) = (note(names::LIVE), note(names::LIVE_REVISION)) {
        let runs_elsewhere = revision != workload.meta.name
            && index.deployment(&Key::new(&workload.meta.namespace, &revision)).is_some_and(|d| is_revision_of(&d, &revision));
        // The note about the workload itself holds only while we keep its template from rolling out.
        let held = revision == workload.meta.name && note(names::PAUSED_TEMPLATE).is_some();
        if runs_elsewhere || held {
            return Ok(Live { version, revision });
        }
    }
    let version = build::template_version(workload, wish.container.as_deref()).map_err(|e| e.to_string())?;
    Ok(Live { version, revision: workload.meta.name.clone() })
}

/// The names an update that starts now would use.
fn propose(index: &Index, update: &Update, wish: &Result<Wish, Unreadable>, live: &Result<Live, String>) -> Objects {
    let (Ok(wish), Ok(live)) = (wish, live) else { return Objects::default() };
    let namespace = &update.meta.namespace;
    let seed = format!("{} {} {} {}", update.meta.uid, wish.version, wish.attempt, update.meta.generation);
    let service_taken = |name: &str| index.service(&Key::new(namespace, name)).is_some_and(|s| !is_service_of(&s, &update.meta.uid));
    let taken = |name: &str| service_taken(name) || index.deployment(&Key::new(namespace, name)).is_some();
    let new_revision = build::revision_name(&wish.workload, &wish.version, &seed, taken);
    let old_service = if live.revision == wish.workload {
        let seed = format!("old {seed}");
        build::revision_name(&wish.workload, &live.version, &seed, |name| service_taken(name) || name == new_revision)
    } else if service_taken(&live.revision) {
        build::revision_name(&wish.workload, &live.version, &format!("old {seed}"), |_| true)
    } else {
        live.revision.clone()
    };
    Objects {
        mode: ShiftMode::Gateway,
        workload: wish.workload.clone(),
        service: wish.service.clone(),
        old_revision: live.revision.clone(),
        old_service,
        new_revision,
        routes: Vec::new(),
    }
}

fn side(index: &Index, namespace: &str, workload: &str, (revision, service): (&str, &str)) -> Side {
    let deployment = index.deployment(&Key::new(namespace, revision));
    let operators = deployment.as_ref().map_or(revision != workload, |d| is_revision_of(d, revision));
    let service_key = Key::new(namespace, service);
    let set = deployment.as_ref().and_then(|d| filled_set(index, d));
    let hash = || Some(Pin { key: names::POD_TEMPLATE_HASH, value: set.as_ref()?.meta.labels.get(names::POD_TEMPLATE_HASH)?.clone() });
    Side {
        // Pods of ours are known by their label: it outlives their owners.
        pods: match &deployment {
            Some(d) if !operators => index.pods(&d.meta.uid),
            _ if revision.is_empty() => Vec::new(),
            _ => index.pods_labelled(namespace, names::REVISION, revision).cloned().collect(),
        },
        pin: if operators { Some(Pin { key: names::REVISION, value: revision.to_owned() }) } else { hash() },
        set,
        edited: deployment.as_ref().map(|d| filled_sets(index, d).filter(|s| s.serving.is_some()).collect()).unwrap_or_default(),
        service: index.service(&service_key),
        endpoints: endpoints(index, &service_key),
        deployment,
    }
}

/// The one ReplicaSet with pods that a Deployment owns; none or several: not told.
fn filled_set(index: &Index, deployment: &Deployment) -> Option<Arc<ReplicaSet>> {
    let mut filled = filled_sets(index, deployment);
    let (first, second) = (filled.next()?, filled.next());
    second.is_none().then_some(first)
}

fn filled_sets(index: &Index, deployment: &Deployment) -> impl Iterator<Item = Arc<ReplicaSet>> {
    index.replica_sets(&deployment.meta.uid).into_iter().filter(|s| s.replicas > 0)
}

fn endpoints(index: &Index, service: &Key) -> Endpoints {
    let slices = index.slices(service);
    Endpoints { known: !slices.is_empty(), ready: slices.iter().flat_map(|s| s.ready.iter().cloned()).collect() }
}

/// Another RollingUpdate at work on the workload.
fn rival(index: &Index, update: &Update, workload: &str) -> Option<String> {
    let me = (&update.meta.namespace, &update.meta.name);
    index
        .updates_in(me.0)
        .filter(|other| other.meta.name != *me.1)
        .filter_map(|other| other.object.as_ref().ok())
        .filter(|other| {
            let status = other.status.as_ref().filter(|s| s.state.is_active());
            status.and_then(|s| s.objects.as_ref()).is_some_and(|o| o.workload == workload)
        })
        .find_map(|other| other.metadata.name.clone())
}

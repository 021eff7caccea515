//! Who may give which orders, as data: policies by which the API server asks for the verb of each order, whatever client it
//! comes from, and notes who gave it; and roles that have the verbs.

use serde_json::{Map, Value, json};

use super::{NAME, metadata};
use crate::api::names;

/// Role for people who look.
pub const VIEWER: &str = "aether-viewer";
/// Role for people who release.
pub const EDITOR: &str = "aether-editor";
/// Role for people who only approve.
pub const APPROVER: &str = "aether-approver";

/// An order that takes a verb of its own.
struct Order {
    verb: &'static str,
    resource: &'static str,
    role: &'static str,
    /// What a person changes to give it.
    written_in: &'static str,
    /// CEL: it is given.
    is_given: &'static str,
}

/// Every order. An unset field and one taken away are told from each other: optional values compare as such.
const ORDERS: [Order; 5] = [
    Order {
        verb: "route",
        resource: "rollingupdates",
        role: EDITOR,
        written_in: "spec.control.routing or paused, or takes an outcome back",
        // What was asked of one attempt is taken away with the next one, which takes no verb.
        is_given: "(variables.orders.?routing != variables.ordersBefore.?routing \
            && (variables.sameRelease || variables.orders.?routing.hasValue())) \
            || (variables.orders.?paused.orValue(false) != variables.ordersBefore.?paused.orValue(false) \
            && (variables.sameRelease || variables.orders.?paused.orValue(false))) \
            || (variables.sameRelease && variables.ordersBefore.?outcome.hasValue() && !variables.orders.?outcome.hasValue())",
    },
    Order {
        verb: "approve",
        resource: "rollingupdates",
        role: APPROVER,
        written_in: "spec.control.approved, or takes requireManualApproval away",
        is_given: "(variables.orders.?approved.hasValue() && variables.orders.?approved != variables.ordersBefore.?approved) \
            || (variables.sameRelease && variables.was.?spec.?requireManualApproval.orValue(false) \
            && !variables.is.?spec.?requireManualApproval.orValue(false))",
    },
    Order {
        verb: "complete",
        resource: "rollingupdates",
        role: EDITOR,
        written_in: "spec.control.outcome to Complete",
        is_given: "variables.orders.?outcome.orValue('') == 'Complete' && variables.ordersBefore.?outcome.orValue('') != 'Complete'",
    },
    Order {
        verb: "rollback",
        resource: "rollingupdates",
        role: EDITOR,
        written_in: "spec.control.outcome to Rollback",
        is_given: "variables.orders.?outcome.orValue('') == 'Rollback' && variables.ordersBefore.?outcome.orValue('') != 'Rollback'",
    },
    Order {
        verb: "destroy",
        resource: "proxypools",
        role: EDITOR,
        written_in: "what the annotation aether.dev/evict names",
        is_given: "request.resource.resource == 'proxypools' && variables.evict.exists(e, !(e in variables.evictBefore))",
    },
];

/// Asks for the verb of every order that an object is written with, and lets nobody write another's name as its giver.
///
/// Orders are compared as far as they are in force: those for another version are none, and with another `spec.version` all of
/// them are new. Status and scale are other resources and do not come by here. Needs Kubernetes 1.30. `namespace`: the operator's.
pub fn orders_policy(namespace: &str) -> Vec<Value> {
    let in_force = |object: &str| format!("{object}.?spec.?control.?version == {object}.?spec.?version");
    let entries = |object: &str| format!("{}.split(',').map(e, e.trim()).filter(e, e != '')", annotation(object, names::EVICT));
    let own = [
        ("sameVersion", "variables.is.?spec.?version == variables.was.?spec.?version".to_owned()),
        (
            "sameRelease",
            "variables.sameVersion && variables.is.?spec.?attempt.orValue(1) == variables.was.?spec.?attempt.orValue(1)".to_owned(),
        ),
        ("orders", format!("{} ? variables.is.?spec.?control.orValue({{}}) : dyn({{}})", in_force("variables.is"))),
        (
            "ordersBefore",
            format!("variables.sameVersion && {} ? variables.was.?spec.?control.orValue({{}}) : dyn({{}})", in_force("variables.was")),
        ),
        ("evict", entries("variables.is")),
        ("evictBefore", entries("variables.was")),
    ];
    let given = ORDERS.iter().map(|o| (o.verb, o.is_given.to_owned()));
    let variables = variables().into_iter().chain(own).chain(given).map(variable);

    let mut validations: Vec<Value> = ORDERS
        .iter()
        .map(|Order { verb, resource, role, written_in, .. }| {
            let message = format!(
                "request.userInfo.username + ' may not {verb} {resource} ' + request.namespace + '/' + request.name + ', which changes \
                 {written_in}: the verb {verb} on {resource}.aether.dev is missing; ClusterRole {role} has it'"
            );
            json!({
                "expression": format!("!variables.{verb} || authorizer.requestResource.check('{verb}').allowed()"),
                "messageExpression": message, "reason": "Forbidden",
            })
        })
        .collect();
    validations.push(json!({
        "expression": format!(
            "variables.by == '' || variables.by == variables.byBefore || variables.by == request.userInfo.username || request.userInfo.username == '{}'",
            operator(namespace)
        ),
        "messageExpression": format!(
            "request.userInfo.username + ' may not write the name of somebody else into the annotation {}; leave it out, it is set by itself'",
            names::ORDERED_BY
        ),
        "reason": "Forbidden",
    }));
    let each = ORDERS.iter().map(|o| format!("(variables.{0} ? ['{0}'] : [])", o.verb)).collect::<Vec<_>>();
    let given = format!("({}).join(',')", each.join(" + "));
    let spec = json!({
        "failurePolicy": "Fail",
        "matchConstraints": written(),
        "variables": variables.collect::<Vec<_>>(),
        "validations": validations,
        // The API server's audit log says which orders each write was; an empty text is left out of it.
        "auditAnnotations": [{"key": "orders", "valueExpression": given}],
    });
    policy("Validating", "aether-orders", &spec, &json!({"policyName": "aether-orders", "validationActions": ["Deny"]}))
}

/// Has the API server write down who changed last what is asked for, and keep that where somebody writes the object without
/// it. The operator writes the name of whom it took an order from. Needs Kubernetes 1.36; without it orders over REST alone
/// have names. `namespace`: the operator's.
pub fn ordered_by_policy(namespace: &str) -> Vec<Value> {
    let differs = |field: &str| format!("variables.is.?spec.?{field} != variables.was.?spec.?{field}");
    let evicts = format!("{} != {}", annotation("variables.is", names::EVICT), annotation("variables.was", names::EVICT));
    let own = [
        ("ordered", [differs("version"), differs("attempt"), differs("control"), evicts].join(" || ")),
        ("wanted", "variables.ordered ? request.userInfo.username : variables.by == '' ? variables.byBefore : variables.by".to_owned()),
    ];
    let add = |path: &str, value: &str| format!("[JSONPatch{{op: 'add', path: {path}, value: {value}}}]");
    let name = names::ORDERED_BY;
    let expression = format!(
        "variables.wanted == variables.by ? [] : has(object.metadata.annotations) ? {} : {}",
        add(&format!("'/metadata/annotations/' + jsonpatch.escapeKey('{name}')"), "variables.wanted"),
        add("'/metadata/annotations'", &format!("{{'{name}': variables.wanted}}")),
    );
    let spec = json!({
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "Never",
        "matchConstraints": written(),
        "matchConditions": [{
            "name": "not-the-operator",
            "expression": format!("request.userInfo.username != '{}'", operator(namespace)),
        }],
        "variables": variables().into_iter().chain(own).map(variable).collect::<Vec<_>>(),
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
    });
    policy("Mutating", "aether-ordered-by", &spec, &json!({"policyName": "aether-ordered-by"}))
}

/// Roles to give to people; the cluster's own view, edit and admin have them as well.
pub fn roles() -> Vec<Value> {
    let may = |resources: &[&str], verbs: &[&str]| json!({"apiGroups": ["aether.dev"], "resources": resources, "verbs": verbs});
    let orders = |resource: &str, role: &str| {
        let verbs: Vec<&str> = ORDERS.iter().filter(|o| (o.resource, o.role) == (resource, role)).map(|o| o.verb).collect();
        may(&[resource], &verbs)
    };
    let both = ["rollingupdates", "proxypools"];
    let role = |name: &str, into: &[&str], rules: Vec<Value>| {
        let labels: Map<String, Value> =
            into.iter().map(|role| (format!("rbac.authorization.k8s.io/aggregate-to-{role}"), json!("true"))).collect();
        let mut metadata = metadata(name, None);
        json_patch::merge(&mut metadata, &json!({"labels": labels}));
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules})
    };
    let (look, change) = (["get", "list", "watch"], ["get", "list", "watch", "create", "update", "patch", "delete"]);
    let size = may(&["rollingupdates/scale", "proxypools/scale"], &["get", "update", "patch"]);
    let edits = vec![may(&both, &change), size, orders("rollingupdates", EDITOR), orders("proxypools", EDITOR)];
    let approves = vec![may(&["rollingupdates"], &["get", "list", "watch", "patch"]), orders("rollingupdates", APPROVER)];
    vec![
        role(VIEWER, &["view", "edit", "admin"], vec![may(&both, &look)]),
        role(EDITOR, &["edit", "admin"], edits),
        role(APPROVER, &["admin"], approves),
    ]
}

/// The verbs of all orders about a resource.
pub(super) fn verbs(resource: &str) -> Vec<&'static str> {
    ORDERS.iter().filter(|o| o.resource == resource).map(|o| o.verb).collect()
}

/// The object as it is to be and as it was, both as plain data, and who is said to have ordered.
fn variables() -> [(&'static str, String); 4] {
    [
        ("is", "dyn(object)".to_owned()),
        ("was", "oldObject == null ? dyn({}) : dyn(oldObject)".to_owned()),
        ("by", annotation("variables.is", names::ORDERED_BY)),
        ("byBefore", annotation("variables.was", names::ORDERED_BY)),
    ]
}

fn annotation(object: &str, name: &str) -> String {
    format!("{object}.?metadata.?annotations[?'{name}'].orValue('')")
}

fn variable((name, expression): (&str, String)) -> Value {
    json!({"name": name, "expression": expression})
}

fn operator(namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:{NAME}")
}

/// What people write orders into.
fn written() -> Value {
    let resources = ["rollingupdates", "proxypools"];
    json!({"resourceRules": [{"apiGroups": ["aether.dev"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": resources}]})
}

fn policy(what: &str, name: &str, spec: &Value, binding: &Value) -> Vec<Value> {
    let object = |kind: &str, spec: &Value| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": metadata(name, None), "spec": spec});
    vec![object(&format!("{what}AdmissionPolicy"), spec), object(&format!("{what}AdmissionPolicyBinding"), binding)]
}

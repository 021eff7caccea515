//! The OpenAPI document, made of the table of routes.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::orders::Refusal;

use super::call::Call;
use super::routes::{Group, Needs, Nothing, Route, table};

/// Where schemas with a name are.
const SCHEMAS: &str = "/components/schemas";

pub(super) async fn answer(_: Call, _: Nothing) -> Result<Value, Refusal> {
    Ok(document())
}

/// The OpenAPI 3.1 document of the API.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = SCHEMAS.into();
        s.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let mut paths = Map::new();
    for route in table() {
        let operation = operation(route, &mut schemas);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.as_str().to_ascii_lowercase(), operation);
        }
    }
    let mut named = schemas.take_definitions(true);
    for group in [Group::Updates, Group::Pools] {
        named.insert(error_name(group).into(), error_schema(group));
    }
    let tags = [Group::Updates, Group::Pools, Group::Server].map(|g| json!({"name": g.tag()}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Aether for Kubernetes",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Rolling updates with gradual traffic shifting, and proxy pools. Calls write what is wanted and answer with it; the operator follows as fast as is safe.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": named,
            "securitySchemes": {"token": {
                "type": "http", "scheme": "bearer",
                "description": "A Kubernetes token for the audience of this API: kubectl create token NAME --audience aether.dev. `aether proxy` needs none.",
            }},
        },
    })
}

/// The document as it is kept in a file.
pub fn text() -> String {
    format!("{:#}\n", document())
}

fn operation(route: &Route, schemas: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = names(route.path)
        .map(|name| json!({"name": name, "in": "path", "required": true, "description": about(name), "schema": {"type": "string"}}))
        .collect();
    parameters.extend(
        route
            .query
            .iter()
            .map(|p| json!({"name": p.name, "in": "query", "required": p.is_needed, "description": p.about, "schema": (p.schema)()})),
    );
    let answer = json!({"description": "As asked.", "content": {"application/json": {"schema": (route.handler.answer)(schemas)}}});
    let mut answers = Map::from_iter([("200".to_owned(), answer)]);
    for (code, about) in errors(route) {
        let schema = json!({"$ref": format!("#{SCHEMAS}/{}", error_name(route.group))});
        answers.insert(code.into(), json!({"description": about, "content": {"application/json": {"schema": schema}}}));
    }
    let mut operation = json!({
        "operationId": id(route),
        "tags": [route.group.tag()],
        "summary": route.summary,
        "description": route.needs.sentence(),
        "parameters": parameters,
        "responses": answers,
    });
    let Some(object) = operation.as_object_mut() else { return operation };
    if let Some(body) = route.handler.body {
        let content = json!({"application/json": {"schema": body(schemas)}});
        object.insert("requestBody".into(), json!({"required": route.handler.needs_body, "content": content}));
    }
    if route.needs == Needs::Public {
        object.insert("security".into(), json!([]));
    }
    operation
}

/// The names in the braces of a path.
fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn about(name: &str) -> &'static str {
    match name {
        "id" => "Id of the update, or `current` where exactly one is active.",
        "provider" => "digitalocean, aws, gcp, hetzner, vultr or kubernetes.",
        _ => "Name of the pool among those of its provider.",
    }
}

/// The codes besides 200 that say something about this route.
fn errors(route: &Route) -> Vec<(&'static str, &'static str)> {
    let mut errors = Vec::new();
    let invalid = match route.group {
        Group::Pools => ("422", "It makes no sense; the field is named."),
        Group::Updates | Group::Server => ("400", "It makes no sense; the field is named."),
    };
    errors.push(invalid);
    if route.needs != Needs::Public {
        errors.push(("401", "Whoever asks is not known."));
        errors.push(("403", "Whoever asks may not; the verb is named."));
        errors.push(("404", "What it is about is not there."));
    }
    if route.group == Group::Updates {
        errors.push(("409", "It makes sense, but not now."));
    }
    if route.handler.body.is_some() {
        errors.push(("413", "The body is larger than 64 KiB."));
        errors.push(("415", "The body is not said to be JSON."));
    }
    errors.push(("503", "The API server does not answer, or too much is asked at once; try again."));
    errors
}

/// `POST /rolling-update/{id}/routing` -> `postRollingUpdateIdRouting`.
fn id(route: &Route) -> String {
    let words = route.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    let mut id = route.method.as_str().to_ascii_lowercase();
    for word in words {
        let (first, rest) = word.split_at(1);
        id.push_str(&first.to_ascii_uppercase());
        id.push_str(rest);
    }
    if route.path == "/" { format!("{id}Proxies") } else { id }
}

fn error_name(group: Group) -> &'static str {
    match group {
        Group::Pools => "PoolError",
        Group::Updates | Group::Server => "UpdateError",
    }
}

fn error_schema(group: Group) -> Value {
    let key = group.error_key();
    json!({
        "type": "object", "required": [key], "additionalProperties": false,
        "properties": {key: {"type": "string", "description": "What is wrong, and the way out."}},
    })
}

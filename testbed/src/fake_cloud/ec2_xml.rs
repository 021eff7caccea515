//! EC2's answers, as XML: JSON values in other clothes.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::knobs::Refusal;

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";
const REQUEST_ID: &str = "00000000-0000-4000-8000-000000000000";
const TYPE: [(&str, &str); 1] = [("content-type", "text/xml;charset=UTF-8")];

/// An answer with that root element.
pub(super) fn answer(root: &str, value: &Value) -> Response {
    let mut text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root} xmlns=\"{NAMESPACE}\"><requestId>{REQUEST_ID}</requestId>");
    write(value, &mut text);
    text.extend(["</", root, ">"]);
    (TYPE, text).into_response()
}

/// Members are elements, entries of lists are `item` elements, and what is null is not there.
fn write(value: &Value, text: &mut String) {
    let mut element = |name: &str, value: &Value| {
        text.extend(["<", name, ">"]);
        write(value, text);
        text.extend(["</", name, ">"]);
    };
    match value {
        Value::Object(members) => members.iter().filter(|(_, value)| !value.is_null()).for_each(|(name, value)| element(name, value)),
        Value::Array(entries) => entries.iter().for_each(|value| element("item", value)),
        Value::String(content) => text.push_str(&escaped(content)),
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) => text.push_str(&value.to_string()),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn refuse(refusal: &Refusal) -> Response {
    let (status, code, message) = match refusal {
        Refusal::Unauthorized => (401, "AuthFailure", "AWS was not able to validate the provided access credentials"),
        Refusal::Forbidden => (403, "UnauthorizedOperation", "You are not authorized to perform this operation."),
        Refusal::NotFound(id) => return error(400, "InvalidInstanceID.NotFound", &format!("The instance ID '{id}' does not exist")),
        Refusal::Invalid(why) if why.starts_with("Invalid id") => (400, "InvalidInstanceID.Malformed", why.as_str()),
        Refusal::Invalid(why) if why.starts_with("no action") => (400, "InvalidAction", why.as_str()),
        Refusal::Invalid(why) => (400, "InvalidParameterValue", why.as_str()),
        Refusal::TokenReused => (
            400,
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        ),
        Refusal::Throttled(_) => (503, "RequestLimitExceeded", "Request limit exceeded."),
        Refusal::Quota => (400, "VcpuLimitExceeded", "You have requested more vCPU capacity than your current vCPU limit allows."),
        Refusal::NoCapacity => {
            (500, "InsufficientInstanceCapacity", "We currently do not have sufficient capacity in the Availability Zone you requested.")
        }
        Refusal::Locked => (400, "OperationNotPermitted", "The instance may not be terminated."),
        Refusal::Broken => (500, "InternalError", "An internal error has occurred"),
        Refusal::Unavailable => (503, "Unavailable", "The server is overloaded and can't handle the request."),
        // Names are nothing here.
        Refusal::NameTaken(_) => (400, "InvalidParameterValue", "The name is taken"),
    };
    error(status, code, message)
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{}</Message></Error></Errors>\
         <RequestID>{REQUEST_ID}</RequestID></Response>",
        escaped(message)
    );
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), TYPE, text).into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_become_elements() {
        let mut text = String::new();
        write(&json!({"a": [{"k": "<&\">"}, {"n": 1}], "b": null, "c": []}), &mut text);
        assert_eq!(text, "<a><item><k>&lt;&amp;&quot;&gt;</k></item><item><n>1</n></item></a><c></c>");
    }
}

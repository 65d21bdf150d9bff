//! The OpenAPI document says what there is: every address and method, and every field.

use std::collections::BTreeSet;

use oncemail::admin::model::{
    ActionRequest, ActionResult, BreakerState, BulkRequest, BulkResult, Destination, Destinations,
    ExplainedHost, Explanation, HostState, KeyStory, Messages, Overview, Problem, RecipientStory, Reloaded,
    Replay, Reply, ResetRequest, ResetResult, Series, Session, Story, Summary, Suppression, SuppressionList,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::rig::Rig;

fn document() -> Value {
    serde_json::from_str(include_str!("../../src/admin/openapi.json")).unwrap()
}

#[tokio::test]
async fn it_is_served_and_every_operation_in_it_is_there() {
    let rig = Rig::new().await;
    let served = rig.read("/api/v1/openapi.json").await.ok();
    assert_eq!(served, document());
    for (path, operations) in served["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "01KAPZ0000000000000000000A");
        // It would not end.
        let path = if path.ends_with("/stream") { format!("{path}?no=query") } else { path };
        for method in ["get", "post", "delete", "put"] {
            let answer = rig.operate(&format!("{} {path}", method.to_uppercase()), "").await;
            let is_there = answer.status != 405;
            assert_eq!(is_there, operations.get(method).is_some(), "{method} {path}: {}", answer.status);
            if !is_there {
                continue;
            }
            let said = &operations[method]["responses"];
            assert!(
                said.get(answer.status.to_string()).is_some(),
                "{method} {path}: {} is not said",
                answer.status
            );
            if answer.status == 404 {
                assert!(
                    !answer.json()["detail"].as_str().unwrap().contains("nothing here"),
                    "{method} {path}"
                );
            }
        }
    }
}

/// Something of each type, as the document's schema has it.
fn example(schema: &Value, schemas: &Map<String, Value>, optional: bool) -> Value {
    if let Some(name) = schema["$ref"].as_str() {
        return example(&schemas[name.rsplit('/').next().unwrap()], schemas, optional);
    }
    if let Some(word) = schema["enum"].get(0) {
        return word.clone();
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).expect("a type");
    match kind {
        "string" => "x".into(),
        "integer" => 7.into(),
        "number" => 0.5.into(),
        "boolean" => true.into(),
        "array" => vec![example(&schema["items"], schemas, optional)].into(),
        _ => {
            let required: BTreeSet<_> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let properties = schema["properties"].as_object().into_iter().flatten();
            let shown = properties.filter(|(name, _)| optional || required.contains(name.as_str()));
            Value::Object(
                shown.map(|(name, schema)| (name.clone(), example(schema, schemas, optional))).collect(),
            )
        }
    }
}

/// What the document says of a type is read, and written as it was: no field too few, none too many.
#[track_caller]
fn agrees<T: Serialize + DeserializeOwned>(name: &str) {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for optional in [true, false] {
        let example = example(&schemas[name], schemas, optional);
        let read: T =
            serde_json::from_value(example.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut written = serde_json::to_value(read).unwrap();
        // A field that may be left out and says nothing.
        if !optional && let (Some(written), Some(example)) = (written.as_object_mut(), example.as_object()) {
            let names = &schemas[name]["properties"];
            written.retain(|field, _| example.contains_key(field) || names.get(field).is_none());
        }
        assert_eq!(written, example, "{name}");
    }
}

#[test]
fn every_field_of_every_document_is_in_it() {
    agrees::<Summary>("Summary");
    agrees::<Messages>("Messages");
    agrees::<Story>("Story");
    agrees::<RecipientStory>("RecipientStory");
    agrees::<Reply>("Reply");
    agrees::<Replay>("Replay");
    agrees::<ActionRequest>("ActionRequest");
    agrees::<ActionResult>("ActionResult");
    agrees::<BulkRequest>("BulkRequest");
    agrees::<BulkResult>("BulkResult");
    agrees::<KeyStory>("KeyStory");
    agrees::<Destinations>("Destinations");
    agrees::<Destination>("Destination");
    agrees::<HostState>("HostState");
    agrees::<BreakerState>("BreakerState");
    agrees::<ResetRequest>("ResetRequest");
    agrees::<ResetResult>("ResetResult");
    agrees::<SuppressionList>("SuppressionList");
    agrees::<Suppression>("Suppression");
    agrees::<Reloaded>("Reloaded");
    agrees::<Explanation>("Explanation");
    agrees::<ExplainedHost>("ExplainedHost");
    agrees::<Overview>("Overview");
    agrees::<Series>("Series");
    agrees::<Session>("Session");
    agrees::<Problem>("Problem");
}

//! The pod's labels in a configuration.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{ConfError, Object};

/// `args.cni.labels`: an object, or the specification's list of `{"key", "value"}`.
pub(super) fn labels(args: &Object) -> Result<Vec<(String, String)>, ConfError> {
    let mut labels = BTreeMap::new();
    match args.get("labels") {
        Some(Value::Array(_)) => {
            for label in args.objects("labels")?.unwrap_or_default() {
                let text = |key| Ok::<_, ConfError>(label.str(key)?.unwrap_or_default().to_owned());
                labels.insert(text("key")?, text("value")?);
            }
        }
        _ => {
            // Label keys are case-sensitive, so do not use the object's lookup.
            let object = args.object_or_empty("labels")?;
            for (key, value) in object.as_value().as_object().into_iter().flatten() {
                let text = value.as_str().ok_or_else(|| ConfError::BadValue {
                    key: object.path_text(key),
                    value: value.to_string(),
                    want: "a string",
                })?;
                labels.insert(key.clone(), text.to_owned());
            }
        }
    }
    Ok(labels.into_iter().collect())
}

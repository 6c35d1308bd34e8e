//! A JSON object with the lookup rules of the reference plugins, which are those of Go's `encoding/json`.
//!
//! - Keys ignore case. If several keys of an object match, the last one counts.
//! - `null` means absent.
//! - A number is an integer only if it is written as one.
//!
//! Getters return `Ok(None)` for an absent value and [`Mistyped`] for a wrong type, so that no mistake is silently read
//! as a default.

use serde_json::{Map, Value};

use super::document::KeyPath;

/// A value of the wrong type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("json: cannot unmarshal {found} into field {path} of type {want}")]
pub struct Mistyped {
    /// The key, preceded by those of its parent objects.
    pub path: String,
    /// The value that was found.
    pub found: String,
    /// The expected type, in Go's words.
    pub want: &'static str,
}

/// A JSON object; see the module for its lookup rules.
#[derive(Debug, Clone)]
pub struct Object {
    /// Always `Value::Object`.
    value: Value,
    /// The keys that lead to this object, for error texts; empty at the top.
    path: String,
    /// The objects inside that have a repeated key.
    repeated: Vec<KeyPath>,
}

impl Default for Object {
    fn default() -> Self {
        Self { value: Value::Object(Map::new()), path: String::new(), repeated: Vec::new() }
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Object {
    /// Creates an object from a value.
    ///
    /// # Errors
    /// The value is not an object (`null` is an empty one).
    pub fn from_value(value: Value) -> Result<Self, Mistyped> {
        Self::from_value_at(value, "")
    }

    /// Like `from_value`, for an object whose path in error texts is `path`.
    pub(crate) fn from_value_at(value: Value, path: &str) -> Result<Self, Mistyped> {
        match value {
            Value::Object(_) => Ok(Self { value, path: path.to_owned(), repeated: Vec::new() }),
            Value::Null => Ok(Self { path: path.to_owned(), ..Self::default() }),
            other => Err(mistyped(if path.is_empty() { "(document)" } else { path }, &other, "object")),
        }
    }

    fn entries(&self) -> impl DoubleEndedIterator<Item = (&String, &Value)> {
        self.value.as_object().into_iter().flatten()
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn wrong(&self, key: &str, found: &Value, want: &'static str) -> Mistyped {
        mistyped(&self.path_of(key), found, want)
    }

    /// Returns the value of a key, unless it is absent or `null`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        let found = self.entries().rev().find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// Returns the object without the key of exactly this spelling: Go has another field of that name there, so it is
    /// not a spelling of ours.
    #[must_use]
    pub fn without_exact_key(mut self, key: &str) -> Self {
        if let Value::Object(map) = &mut self.value {
            map.shift_remove(key);
        }
        self
    }

    /// Returns a string.
    ///
    /// # Errors
    /// The value has another type.
    pub fn str(&self, key: &str) -> Result<Option<&str>, Mistyped> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "string")),
        }
    }

    /// Returns a non-empty string: an empty one counts as absent, as for Go's `omitempty`.
    ///
    /// # Errors
    /// The value has another type.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Mistyped> {
        Ok(self.str(key)?.filter(|text| !text.is_empty()))
    }

    /// Returns a boolean.
    ///
    /// # Errors
    /// The value has another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Mistyped> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(key, other, "bool")),
        }
    }

    /// Returns an integer.
    ///
    /// # Errors
    /// The value has another type, or does not fit.
    pub fn int(&self, key: &str) -> Result<Option<i64>, Mistyped> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| self.wrong(key, value, "int")),
        }
    }

    /// Returns an integer from 0 to 2³²−1.
    ///
    /// # Errors
    /// The value has another type, or does not fit.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Mistyped> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let fits = value.as_u64().and_then(|number| u32::try_from(number).ok());
        fits.map(Some).ok_or_else(|| self.wrong(key, value, "uint32"))
    }

    /// Returns an integer from −2³¹ to 2³¹−1.
    ///
    /// # Errors
    /// The value has another type, or does not fit.
    pub fn i32(&self, key: &str) -> Result<Option<i32>, Mistyped> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let fits = value.as_i64().and_then(|number| i32::try_from(number).ok());
        fits.map(Some).ok_or_else(|| self.wrong(key, value, "int"))
    }

    /// Returns an integer from 0 to 2⁶⁴−1.
    ///
    /// # Errors
    /// The value has another type, or does not fit.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, Mistyped> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| self.wrong(key, value, "uint64"))
    }

    /// Returns an object inside this one.
    ///
    /// # Errors
    /// The value has another type.
    pub fn object(&self, key: &str) -> Result<Option<Object>, Mistyped> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let inner = Self::from_value_at(value.clone(), &self.path_of(key))?;
        Ok(Some(Self { repeated: paths_below(&self.repeated, key), ..inner }))
    }

    /// Returns an object inside this one, or an empty one.
    ///
    /// # Errors
    /// The value has another type.
    pub fn object_or_empty(&self, key: &str) -> Result<Object, Mistyped> {
        Ok(self.object(key)?.unwrap_or_else(|| Self { path: self.path_of(key), ..Self::default() }))
    }

    /// Returns a list.
    ///
    /// # Errors
    /// The value has another type.
    pub fn list(&self, key: &str) -> Result<Option<&[Value]>, Mistyped> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(self.wrong(key, other, "list")),
        }
    }

    /// Returns a list of strings; a `null` in it is an empty string.
    ///
    /// # Errors
    /// The value, or an item of it, has another type.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>, Mistyped> {
        let Some(items) = self.list(key)? else { return Ok(None) };
        let text = |(index, item): (usize, &Value)| match item {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Ok(String::new()),
            other => Err(self.wrong(&format!("{key}[{index}]"), other, "string")),
        };
        items.iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// Returns a list of objects.
    ///
    /// # Errors
    /// The value, or an item of it, has another type.
    pub fn objects(&self, key: &str) -> Result<Option<Vec<Object>>, Mistyped> {
        let Some(items) = self.list(key)? else { return Ok(None) };
        let repeated = paths_below(&self.repeated, key);
        let object = |(index, item): (usize, &Value)| {
            let inner = Self::from_value_at(item.clone(), &format!("{}[{index}]", self.path_of(key)))?;
            Ok(Self { repeated: paths_below(&repeated, &index.to_string()), ..inner })
        };
        items.iter().enumerate().map(object).collect::<Result<_, _>>().map(Some)
    }

    /// Parses a document. Unlike `from_value`, this detects repeated keys.
    ///
    /// # Errors
    /// It is not JSON, or not an object.
    pub fn from_text(text: &[u8]) -> Result<Self, String> {
        let document = super::document::read(text).map_err(|error| error.to_string())?;
        let object = Self::from_value(document.value).map_err(|error| error.to_string())?;
        Ok(Self { repeated: document.repeated, ..object })
    }

    /// Returns whether one of its own keys is repeated in exactly the same spelling. (The last one counts.)
    #[must_use]
    pub fn repeats_a_key(&self) -> bool {
        self.repeated.iter().any(Vec::is_empty)
    }

    /// Returns all values of an object of texts in order, with their keys as written; a `null` is an empty text.
    ///
    /// # Errors
    /// A value has another type.
    pub fn texts(&self) -> Result<Vec<(String, String)>, Mistyped> {
        let text = |(key, value): (&String, &Value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            Value::Null => Ok((key.clone(), String::new())),
            other => Err(self.wrong(key, other, "string")),
        };
        self.entries().map(text).collect()
    }

    /// Returns the keys as written.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries().map(|(name, _)| name.as_str())
    }

    /// Returns the keys that are not in `known`, ignoring case.
    pub fn unknown<'a>(&'a self, known: &'a [&str]) -> impl Iterator<Item = &'a str> {
        self.keys().filter(|name| !known.iter().any(|known| known.eq_ignore_ascii_case(name)))
    }

    /// Returns whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries().next().is_none()
    }

    /// Returns the whole object as a value.
    #[must_use]
    pub fn as_value(&self) -> &Value {
        &self.value
    }

    /// Returns the whole object as compact JSON text.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.value.to_string()
    }

    /// Sets a key and removes all its previous matches.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.remove(key);
        if let Value::Object(map) = &mut self.value {
            map.insert(key.to_owned(), value.into());
        }
    }

    /// Removes every key that matches.
    pub fn remove(&mut self, key: &str) {
        if let Value::Object(map) = &mut self.value {
            map.retain(|name, _| !name.eq_ignore_ascii_case(key));
        }
    }

    /// Returns the same object with a key set.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    /// Returns the object as the top of a document of its own: error texts no longer contain its old path.
    #[must_use]
    pub fn into_root(self) -> Self {
        Self { path: String::new(), ..self }
    }

    /// Returns the place of this object, for error texts; empty at the top.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the place of a key of this object, for error texts.
    #[must_use]
    pub fn path_text(&self, key: &str) -> String {
        self.path_of(key)
    }
}

/// Returns those paths that lead through a key, from there on.
fn paths_below(paths: &[KeyPath], key: &str) -> Vec<KeyPath> {
    let through = paths.iter().filter_map(|path| path.split_first());
    through.filter(|(first, _)| first.eq_ignore_ascii_case(key)).map(|(_, rest)| rest.to_vec()).collect()
}

/// Maximum length of an excerpt of a wrong value in an error text, in characters.
const EXCERPT: usize = 64;

pub(super) fn mistyped(path: &str, found: &Value, want: &'static str) -> Mistyped {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("bool {value}"),
        Value::Number(number) => format!("number {number}"),
        Value::String(text) if text.chars().count() > EXCERPT => {
            let excerpt: String = text.chars().take(EXCERPT).collect();
            format!("string {excerpt:?}...")
        }
        Value::String(text) => format!("string {text:?}"),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    Mistyped { path: path.to_owned(), found, want }
}

#[cfg(test)]
mod tests;

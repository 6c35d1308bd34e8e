//! A JSON document with a detail that a parsed value does not show: which objects have a repeated key.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Keys and list indexes that lead to an object.
pub(super) type KeyPath = Vec<String>;

/// A JSON document.
pub(super) struct Document {
    pub(super) value: Value,
    /// Objects with a repeated key.
    pub(super) repeated: Vec<KeyPath>,
}

/// Parses a document. The last value of a repeated key counts.
pub(super) fn read(text: &[u8]) -> Result<Document, serde_json::Error> {
    let mut notes = Notes::default();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Reader(&mut notes).deserialize(&mut reader)?;
    reader.end()?;
    Ok(Document { value, repeated: notes.repeated })
}

#[derive(Default)]
struct Notes {
    here: KeyPath,
    repeated: Vec<KeyPath>,
}

/// Reads a value of any type.
struct Reader<'a>(&'a mut Notes);

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            self.0.here.push(list.len().to_string());
            let item = items.next_element_seed(Reader(self.0))?;
            self.0.here.pop();
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let mut repeats = false;
        while let Some(key) = entries.next_key::<String>()? {
            self.0.here.push(key.clone());
            let value = entries.next_value_seed(Reader(self.0))?;
            self.0.here.pop();
            repeats |= map.insert(key, value).is_some();
        }
        if repeats {
            self.0.repeated.push(self.0.here.clone());
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn values_are_those_of_the_json_library() {
        for text in [
            "null",
            "[1, -2, 3.5, 18446744073709551615, true, \"a\\u0041\"]",
            r#"{"a": {"b": [{}, [], {"c": null}]}, "d": 1e3}"#,
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(read(text.as_bytes()).unwrap().value, value, "{text}");
        }
        for text in ["", "{", "{} {}", "[1,]", "nul"] {
            let (ours, theirs) = (read(text.as_bytes()).err(), serde_json::from_str::<Value>(text).err());
            assert_eq!(ours.map(|error| error.to_string()), theirs.map(|error| error.to_string()), "{text}");
        }
    }

    #[test]
    fn repeated_keys_are_found_where_they_are() {
        let repeated = |text: &str| {
            let found = read(text.as_bytes()).unwrap().repeated;
            found.into_iter().map(|path| path.join("/")).collect::<Vec<_>>()
        };
        assert_eq!(repeated(r#"{"a": {"b": 1}, "c": {"b": 1}, "A": 1}"#), Vec::<String>::new());
        assert_eq!(repeated(r#"{"a": 1, "a": 1}"#), [""]);
        assert_eq!(repeated(r#"{"s": [{}, {"x": {"k": 1, "l": 2, "k": 1}}]}"#), ["s/1/x"]);
    }
}

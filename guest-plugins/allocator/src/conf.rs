//! Reads an `ipam` object by the stock plugins' rules: keys ignore case, `null` means absent, and unknown keys are
//! ignored.

pub use serde_json::Value;

use serde_json::Map;
use weft_sdk::address::ParseError;
use weft_sdk::{Denial, Dns, IpAddress, IpPrefix, Problem, Route};

/// An object of the configuration, with its place.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    map: &'a Map<String, Value>,
    at: String,
}

/// Parses an `ipam` object.
///
/// # Errors
///
/// The text is not JSON.
pub fn parse(config: &str) -> Result<Value, Problem> {
    serde_json::from_str(config).map_err(|error| problem("", format!("not valid JSON: {error}")))
}

/// Returns the top of a parsed configuration.
///
/// # Errors
///
/// It is not an object.
pub fn top_object(value: &Value) -> Result<Object<'_>, Problem> {
    object(value, String::new())
}

/// Converts a configuration problem to a refusal.
#[must_use]
pub fn invalid(problem: Problem) -> Denial {
    Denial::InvalidConfig(problem.message)
}

/// Creates a problem at a place.
pub fn problem(at: impl Into<String>, message: impl Into<String>) -> Problem {
    Problem { at: at.into(), message: message.into() }
}

// === impl Object ===

impl<'a> Object<'a> {
    /// Returns the JSON pointer of a key of this object.
    #[must_use]
    pub fn place(&self, key: &str) -> String {
        format!("{}/{key}", self.at)
    }

    /// Returns the JSON pointer of this object.
    #[must_use]
    pub fn at(&self) -> &str {
        &self.at
    }

    /// Returns a value; an exact key takes precedence over one that differs in case.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        let value = self.map.get(key).or_else(|| {
            self.map.iter().find(|(name, _value)| name.eq_ignore_ascii_case(key)).map(|(_name, value)| value)
        });
        value.filter(|value| !value.is_null())
    }

    /// Refuses keys that are not in `known`.
    ///
    /// # Errors
    ///
    /// Names the first unknown key, with the known ones.
    pub fn refuse_unknown(&self, known: &[&str]) -> Result<(), Problem> {
        let is_known = |key: &&String| known.iter().any(|known| known.eq_ignore_ascii_case(key));
        match self.map.keys().find(|key| !is_known(key)) {
            None => Ok(()),
            Some(key) => {
                let place = self.place(key);
                let message = format!("unknown key {place}: known are {}", known.join(", "));
                Err(problem(place, message))
            }
        }
    }

    /// Returns all pairs of this object.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Returns the pairs of this object, for maps of names to texts.
    ///
    /// # Errors
    ///
    /// A value is not a string.
    pub fn texts(&self) -> Result<Vec<(&'a str, &'a str)>, Problem> {
        let text = |(key, value): (&'a String, &'a Value)| match value {
            Value::String(text) => Ok((key.as_str(), text.as_str())),
            other => Err(mistyped(self.place(key), "a string", other)),
        };
        self.map.iter().map(text).collect()
    }

    /// Returns a string.
    ///
    /// # Errors
    ///
    /// It has another type.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(mistyped(self.place(key), "a string", other)),
        }
    }

    /// Returns a whole number.
    ///
    /// # Errors
    ///
    /// It has another type, or does not fit in 32 bits.
    pub fn number(&self, key: &str) -> Result<Option<u32>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| mistyped(self.place(key), "a whole number from 0 to 4294967295", value))
    }

    /// Returns an address; as in the stock plugins, an empty text means none.
    ///
    /// # Errors
    ///
    /// It is not an address.
    pub fn address(&self, key: &str) -> Result<Option<IpAddress>, Problem> {
        match self.text(key)? {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_bad: ParseError| problem(self.place(key), format!("invalid IP address: {text}"))),
        }
    }

    /// Returns an address with a prefix length.
    ///
    /// # Errors
    ///
    /// It is not one.
    pub fn prefix(&self, key: &str) -> Result<Option<IpPrefix>, Problem> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_bad: ParseError| problem(self.place(key), format!("invalid CIDR address: {text}")))
    }

    /// Returns the entries of a list, each with its place; an absent list is empty.
    ///
    /// # Errors
    ///
    /// It has another type.
    pub fn list(&self, key: &str) -> Result<Vec<(String, &'a Value)>, Problem> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(value) => entries(value, &self.place(key)),
        }
    }

    /// Returns a list of strings.
    ///
    /// # Errors
    ///
    /// It has another type.
    pub fn text_list(&self, key: &str) -> Result<Vec<String>, Problem> {
        let text = |(at, value): (String, &Value)| match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(mistyped(at, "a string", other)),
        };
        self.list(key)?.into_iter().map(text).collect()
    }

    /// Returns an object.
    ///
    /// # Errors
    ///
    /// It has another type.
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>, Problem> {
        self.get(key).map(|value| object(value, self.place(key))).transpose()
    }
}

/// Returns a value as an object.
///
/// # Errors
///
/// It has another type.
pub fn object(value: &Value, at: String) -> Result<Object<'_>, Problem> {
    match value {
        Value::Object(map) => Ok(Object { map, at }),
        other => Err(mistyped(at, "an object", other)),
    }
}

/// Returns a value as a list, each entry with its place. `null` is an empty list.
///
/// # Errors
///
/// It has another type.
pub fn entries<'a>(value: &'a Value, at: &str) -> Result<Vec<(String, &'a Value)>, Problem> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => Ok(list.iter().enumerate().map(|(i, value)| (format!("{at}/{i}"), value)).collect()),
        other => Err(mistyped(at.to_owned(), "a list", other)),
    }
}

/// Reports a value of the wrong type. The message contains the place, because a refusal has no other field for it.
#[must_use]
pub fn mistyped(at: String, wanted: &str, got: &Value) -> Problem {
    let mut shown = got.to_string();
    if let Some((cut, _char)) = shown.char_indices().nth(60) {
        shown.truncate(cut);
        shown.push_str("...");
    }
    let place = if at.is_empty() { "the configuration" } else { &at };
    let message = format!("{place} must be {wanted}, got {shown}");
    problem(at, message)
}

/// Returns the `routes` of an `ipam` object in order; repeated destinations are kept (they make multipath routes).
///
/// # Errors
///
/// An entry is not a route.
pub fn routes(ipam: &Object<'_>) -> Result<Vec<Route>, Problem> {
    let mut routes = Vec::new();
    for (at, value) in ipam.list("routes")? {
        let entry = object(value, at)?;
        let dst = entry.prefix("dst")?.ok_or_else(|| problem(entry.at(), format!("{} has no dst", entry.at())))?;
        routes.push(Route {
            dst,
            gw: entry.address("gw")?,
            mtu: entry.number("mtu")?,
            advmss: entry.number("advmss")?,
            priority: entry.number("priority")?,
            table: entry.number("table")?,
            scope: entry.number("scope")?,
        });
    }
    Ok(routes)
}

/// Returns the `dns` object, or `None` if nothing is set.
///
/// # Errors
///
/// It has another type.
pub fn dns(ipam: &Object<'_>) -> Result<Option<Dns>, Problem> {
    let Some(dns) = ipam.object("dns")? else { return Ok(None) };
    Ok(Some(Dns {
        nameservers: dns.text_list("nameservers")?,
        domain: dns.text("domain")?.filter(|domain| !domain.is_empty()).map(str::to_owned),
        search: dns.text_list("search")?,
        options: dns.text_list("options")?,
    }))
}

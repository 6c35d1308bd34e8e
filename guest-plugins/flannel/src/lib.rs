//! The `flannel` delegate policy: completes the delegate's configuration with flanneld's data for the node.
//!
//! ```json
//! {"delegates": [{"name": "pods", "type": "bridge", "settable": ["mtu", "ipMasq", "isGateway", "ipam.type", "ipam.ranges", "ipam.routes"]}],
//!  "select": {"policy": "flannel", "files": {"subnet.env": "/run/flannel/subnet.env"}}}
//! ```
//! The rules are those of flannel's own plugin: `ipMasq` (unless flanneld masquerades), `mtu`, and `isGateway` of a bridge are
//! set where the delegate does not say; `ipam.type` is host-local where it is not set; `ipam.ranges` are the node's subnets,
//! whatever the configuration says; `ipam.routes` are its own and then every network of flannel's.

use serde_json::{Map, Value, json};
use weft_allocator::conf::{self, Object, problem};
use weft_sdk::choice::{Candidate, Choice, ChoiceRequest};
use weft_sdk::{DelegatePolicy, Denial, Pair, Problem};

mod subnet;

use subnet::SubnetEnv;

/// Name of the file among those the operator declares.
const FILE: &str = "subnet.env";

/// Keys of the `select` object.
const KEYS: [&str; 3] = ["policy", "files", "delegate"];

/// Keys that must be settable; without them there are no addresses of this node's subnet.
const NEEDED: [&str; 2] = ["ipam.ranges", "ipam.routes"];

struct Flannel;

impl DelegatePolicy for Flannel {
    fn choose(request: &ChoiceRequest) -> Result<Choice, Denial> {
        let config = conf::parse(&request.config).map_err(conf::invalid)?;
        let select = conf::top_object(&config).map_err(conf::invalid)?;
        select.refuse_unknown(&KEYS).map_err(conf::invalid)?;
        let candidate = candidate(&select, &request.candidates).map_err(conf::invalid)?;
        if let Some(problem) = not_settable(candidate) {
            return Err(conf::invalid(problem));
        }
        let env = load(request)?;
        let settings = render(candidate, &env).map_err(Denial::InvalidConfig)?;
        let list =
            |prefixes: &[weft_sdk::IpPrefix]| prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let reason = format!(
            "{FILE}: {} of {}, MTU {}, flannel {} itself",
            list(&env.subnets),
            list(&env.networks),
            env.mtu,
            if env.masquerades { "masquerades" } else { "does not masquerade" }
        );
        Ok(Choice { name: candidate.name.clone(), settings, reason })
    }

    fn validate(config: &str, candidates: &[Candidate]) -> Vec<Problem> {
        check(config, candidates).unwrap_or_else(|problem| vec![problem])
    }

    fn config_schema() -> String {
        include_str!("schema.json").to_owned()
    }
}

fn check(config: &str, candidates: &[Candidate]) -> Result<Vec<Problem>, Problem> {
    let config = conf::parse(config)?;
    let select = conf::top_object(&config)?;
    let mut problems = Vec::new();
    problems.extend(select.refuse_unknown(&KEYS).err());
    match select.object("files") {
        Ok(files) if files.as_ref().is_some_and(|files| files.get(FILE).is_some()) => {}
        Ok(_without) => problems.push(problem("/files", undeclared())),
        Err(problem) => problems.push(problem),
    }
    match candidate(&select, candidates) {
        Ok(candidate) => problems.extend(not_settable(candidate)),
        Err(problem) => problems.push(problem),
    }
    Ok(problems)
}

fn undeclared() -> String {
    format!("the policy needs flannel's file: declare it as \"files\": {{\"{FILE}\": \"/run/flannel/{FILE}\"}}")
}

/// Returns the delegate that `delegate` names; without it, the only one.
fn candidate<'a>(select: &Object<'_>, candidates: &'a [Candidate]) -> Result<&'a Candidate, Problem> {
    let names = || candidates.iter().map(|candidate| candidate.name.as_str()).collect::<Vec<_>>().join(", ");
    match (select.text("delegate")?, candidates) {
        (None, [only]) => Ok(only),
        (None, _) => {
            let message = format!("several delegates are declared ({}): name one of them as \"delegate\"", names());
            Err(problem(select.place("delegate"), message))
        }
        (Some(name), _) => candidates.iter().find(|candidate| candidate.name == name).ok_or_else(|| {
            problem(select.place("delegate"), format!("no delegate is named {name:?}; there are {}", names()))
        }),
    }
}

fn not_settable(candidate: &Candidate) -> Option<Problem> {
    let missing: Vec<&str> = NEEDED.into_iter().filter(|key| !is_settable(candidate, key)).collect();
    if missing.is_empty() {
        return None;
    }
    let keys = missing.join(" and ");
    let message = format!("flannel sets {keys} of the delegate {:?}: list them in its \"settable\"", candidate.name);
    Some(problem("", message))
}

fn is_settable(candidate: &Candidate, key: &str) -> bool {
    candidate.settable.iter().any(|settable| settable.eq_ignore_ascii_case(key))
}

/// Reads the file. Its mistakes are flanneld's; the texts are the plugin's.
fn load(request: &ChoiceRequest) -> Result<SubnetEnv, Denial> {
    let file =
        request.files.iter().find(|file| file.name == FILE).ok_or_else(|| Denial::InvalidConfig(undeclared()))?;
    let text = |error: &str| {
        format!("failed to load flannel 'subnet.env' file: {error}. Check the flannel pod log for this node.")
    };
    let path = &file.path;
    // flanneld writes it after it has got its lease, so a node that has just started has none yet.
    let absent = || Denial::TryAgain(text(&format!("open {path}: no such file or directory")));
    let content = file.content.as_ref().ok_or_else(absent)?;
    subnet::parse(path, content).map_err(|error| Denial::InvalidConfig(text(&error)))
}

/// Returns the settings for the delegate's configuration.
fn render(candidate: &Candidate, env: &SubnetEnv) -> Result<Vec<Pair>, String> {
    let unreadable = |problem: Problem| format!("failed to load netconf: {}", problem.message);
    let config = conf::parse(&candidate.config).map_err(unreadable)?;
    let empty = Map::new();
    let delegate = config.as_object().unwrap_or(&empty);
    let ipam = delegate.get("ipam").and_then(Value::as_object).unwrap_or(&empty);
    let mut settings = Vec::new();
    let mut set = |key: &str, value: &Value| settings.push(Pair { key: key.to_owned(), value: value.to_string() });
    // As in the plugin, keys are case-sensitive, and `null` counts as set.
    let mut fill = |key: &str, value: Value| {
        if !delegate.contains_key(key) && is_settable(candidate, key) {
            set(key, &value);
        }
    };
    fill("ipMasq", json!(!env.masquerades));
    fill("mtu", json!(env.mtu));
    if delegate.get("type").and_then(Value::as_str) == Some("bridge") {
        fill("isGateway", json!(true));
    }
    if !ipam.contains_key("type") && is_settable(candidate, "ipam.type") {
        set("ipam.type", &json!("host-local"));
    }
    let range = |subnet: &weft_sdk::IpPrefix| json!([{ "subnet": subnet.to_string() }]);
    set("ipam.ranges", &env.subnets.iter().map(range).collect());
    set("ipam.routes", &routes(ipam, env)?);
    Ok(settings)
}

/// Returns the routes of the configuration, then one to every flannel network.
fn routes(ipam: &Map<String, Value>, env: &SubnetEnv) -> Result<Value, String> {
    let context = "failed to assemble Delegate IPAM: failed to read IPAM routes: failed to parse ipam.routes";
    let mut routes = match ipam.get("routes") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(routes)) => routes.clone(),
        Some(other) => {
            return Err(format!("{context}: {}", conf::mistyped("/ipam/routes".into(), "a list", other).message));
        }
    };
    let whole = Value::Object(ipam.clone());
    let checked = conf::object(&whole, "/ipam".to_owned()).and_then(|ipam| conf::routes(&ipam));
    checked.map_err(|problem| format!("{context}: {}", problem.message))?;
    routes.extend(env.networks.iter().map(|network| json!({ "dst": network.to_string() })));
    Ok(Value::Array(routes))
}

weft_sdk::delegate_policy!(Flannel);

#[cfg(test)]
mod tests;

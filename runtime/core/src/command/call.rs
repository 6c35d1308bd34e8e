//! One CNI call: environment and stdin in, one document out. Writes nothing to stdout or stderr itself.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read as _};
use std::time::{Duration, Instant};

use crate::attach::{self, AttachError, Call, Context, Node};
use crate::cni::{self, CniError, Environment, Invoked, Verb, code};
use crate::conf::Persona;
use crate::exec;
use crate::log::{Level, Logger, Subject};
use crate::pod::{self, PodCall};

/// A call that takes longer is logged as slow.
const SLOW: Duration = Duration::from_secs(1);

/// Maximum size of a network configuration; larger ones are refused before they fill memory.
const STDIN_LIMIT: u64 = 16 << 20;

/// The output of a call, which the process prints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// The one document for stdout; empty where CNI prints none.
    pub stdout: String,
    /// Lines for stderr: log lines that were kept, and messages for a person.
    pub stderr: String,
    /// Whether the call succeeded.
    pub ok: bool,
}

/// A call with its parsed configuration.
pub(super) enum Read {
    One(Box<Call>),
    Pod(Box<PodCall>),
}

impl Output {
    pub(super) fn failure(error: &CniError) -> Self {
        Self { stdout: error.to_json(), stderr: String::new(), ok: false }
    }
}

/// Answers one CNI call.
pub fn run(
    program: &std::ffi::OsStr,
    env: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn io::Read,
    context: &Context,
) -> Output {
    let Answered { output, node, .. } = run_call(program, env, stdin, context);
    if let Some(mut node) = node {
        attach::observe(&mut node);
    }
    output
}

/// The outcome of a call.
pub(super) struct Answered<'c> {
    pub(super) output: Output,
    /// The call, if it is an ADD that succeeded.
    pub(super) made: Option<Read>,
    /// The node, if work is left for after the output.
    pub(super) node: Option<Node<'c>>,
}

/// Like `run`, but leaves what can wait until the output is printed.
pub(super) fn run_call<'c>(
    program: &std::ffi::OsStr,
    env: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn io::Read,
    context: &'c Context,
) -> Answered<'c> {
    let mut log = String::new();
    let (mut made, mut node) = (None, None);
    match answer(program, env, stdin, context, (&mut log, &mut made, &mut node)) {
        Ok(stdout) => Answered { output: Output { stdout, stderr: log, ok: true }, made, node },
        Err(error) => Answered { output: Output { stderr: log, ..Output::failure(&error) }, made: None, node },
    }
}

fn answer<'c>(
    program: &std::ffi::OsStr,
    env: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn io::Read,
    context: &'c Context,
    (log, made, after): (&mut String, &mut Option<Read>, &mut Option<Node<'c>>),
) -> Result<String, CniError> {
    let persona = Persona::from_argv0(program).map_err(|error| AttachError::from(error).to_cni())?;
    let environment = match cni::read_environment(env)? {
        Invoked::Cni(environment) => environment,
        // A person started the program: like the stock plugins, it introduces itself on stderr.
        Invoked::About => {
            log.push_str(&cni::about_message(
                &format!("CNI {} plugin, in weft {}", persona.name(), env!("CARGO_PKG_VERSION")),
                persona.oldest(),
            ));
            return Ok(String::new());
        }
    };
    if environment.verb == Verb::Version {
        return Ok(cni::version_document(persona.oldest()));
    }
    let verb = environment.verb;
    let began = Instant::now();
    let mut node = Node::new(context);
    node.logger().set_subject(log_subject(persona, &environment));
    if let Persona::Pod(program) = persona
        && env(exec::INSIDE).is_some()
    {
        let refused = pod::called_by_weft(program, verb);
        conclude(node.logger(), verb, &refused, began.elapsed());
        log.push_str(&node.take_log());
        return refused;
    }
    // Some runtimes ask for the status every few seconds.
    let level = if verb == Verb::Status { Level::Debug } else { Level::Info };
    node.logger().first_line(level, &format!("{} begins", verb.name()));
    let (network, answer) = read_and_carry_out(stdin, persona, environment, &mut node, made);
    let code = answer.as_ref().err().map_or(0, |error| error.code);
    conclude(node.logger(), verb, &answer, began.elapsed());
    node.counts().call(verb.name(), &network, code, began.elapsed());
    node.write_counts();
    log.push_str(&node.take_log());
    if node.is_watched() {
        *after = Some(node);
    } else {
        node.leave();
    }
    answer
}

/// Reads the configuration and executes the call. Returns the network under which the call is counted, and the
/// document.
fn read_and_carry_out(
    stdin: &mut dyn io::Read,
    persona: Persona,
    environment: Environment,
    node: &mut Node<'_>,
    made: &mut Option<Read>,
) -> (String, Result<String, CniError>) {
    // A pod's call is counted under the program's name, whatever its networks.
    let mut network = persona.name().to_owned();
    let verb = environment.verb;
    let read = read_stdin(stdin).and_then(|stdin| {
        let call = read_call(node.context(), persona, &environment, &stdin);
        if let (Verb::Add, Err(error)) = (verb, &call) {
            attach::record_unparsed(node.context(), &environment, &stdin, error);
        }
        call
    });
    let answer = read.and_then(|call| {
        let answer = match &call {
            Read::One(call) => {
                network = call.attachment().network;
                node.logger().set_network(&network);
                carry_out(verb, node, call)
            }
            Read::Pod(call) => carry_out_for_pod(node, call),
        };
        *made = (verb == Verb::Add).then_some(call);
        answer
    });
    (network, answer)
}

/// Parses a call.
fn read_call(context: &Context, persona: Persona, environment: &Environment, stdin: &[u8]) -> Result<Read, CniError> {
    let environment = environment.clone();
    if let Persona::Pod(program) = persona {
        return PodCall::read(program, environment, stdin.to_vec()).map(|call| Read::Pod(Box::new(call)));
    }
    let call = Call::read(context, persona, environment, stdin).map_err(|error| error.to_cni())?;
    Ok(Read::One(Box::new(call)))
}

/// Returns the subject of the log lines, as far as it is known before the configuration is read.
fn log_subject(persona: Persona, environment: &Environment) -> Subject {
    let argument = |key: &str| {
        let pairs = environment.args.split(';').filter_map(|pair| pair.split_once('='));
        pairs.rev().find(|(name, _value)| *name == key).map(|(_name, value)| value).unwrap_or_default()
    };
    let pod = match (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME")) {
        ("", "") => String::new(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    Subject {
        verb: environment.verb.name().to_owned(),
        plugin: persona.name().to_owned(),
        network: String::new(),
        container: environment.container_id.clone(),
        ifname: environment.ifname.clone(),
        pod,
    }
}

/// Logs the last line of a call.
fn conclude(log: &Logger, verb: Verb, answer: &Result<String, CniError>, took: Duration) {
    let (verb, millis) = (verb.name(), took.as_millis());
    match answer {
        Ok(_document) if took >= SLOW => log.info(&format!("{verb} succeeded after {millis} ms")),
        Ok(_document) => log.debug(|| format!("{verb} succeeded after {millis} ms")),
        Err(CniError { code, msg, details }) if details.is_empty() => {
            log.error(&format!("{verb} failed with code {code}: {msg}"));
        }
        Err(CniError { code, msg, details }) => {
            log.error(&format!("{verb} failed with code {code}: {msg} ({details})"));
        }
    }
}

/// Reads the configuration.
fn read_stdin(stdin: &mut dyn io::Read) -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::new();
    stdin.take(STDIN_LIMIT + 1).read_to_end(&mut bytes).map_err(|error| {
        let msg = match error.kind() {
            ErrorKind::TimedOut => "the network configuration on stdin does not end; close stdin after it",
            _ => "cannot read the network configuration from stdin",
        };
        CniError::new(code::IO, msg).with_details(error.to_string())
    })?;
    if bytes.len() as u64 > STDIN_LIMIT {
        let msg = format!("the network configuration on stdin is larger than {STDIN_LIMIT} bytes");
        return Err(CniError::new(code::DECODE, msg));
    }
    Ok(bytes)
}

/// Executes a verb and returns its document; empty if CNI prints none.
fn carry_out(verb: Verb, node: &mut Node<'_>, call: &Call) -> Result<String, CniError> {
    let outcome = match verb {
        Verb::Add => return attach::add(node, call).map_err(|error| error.to_cni())?.to_json(call.version()),
        Verb::Del => attach::del(node, call),
        Verb::Check => attach::check(node, call),
        Verb::Gc => attach::gc(node, call),
        Verb::Status => attach::status(node, call),
        // It has no configuration, and was answered before one was read.
        Verb::Version => Ok(()),
    };
    outcome.map(|()| String::new()).map_err(|error| error.to_cni())
}

/// Like `carry_out`, for all networks of a pod.
fn carry_out_for_pod(node: &mut Node<'_>, call: &PodCall) -> Result<String, CniError> {
    let outcome = match call.verb() {
        Verb::Add => {
            let added = pod::add(node, call);
            // What fails inside an attachment has a record of its own, with the policy's request.
            if let Err(error) = &added
                && !node.has_kept_failure()
            {
                call.keep_failure(node.context(), error);
            }
            return added;
        }
        Verb::Del => pod::del(node, call),
        Verb::Check => pod::check(node, call),
        Verb::Gc => pod::gc(node, call),
        Verb::Status => pod::status(node, call),
        Verb::Version => Ok(()),
    };
    outcome.map(|()| String::new())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn weft_pod_is_not_run_by_weft() {
        let state = tempfile::tempdir().unwrap();
        let context = Context::new(state.path().to_owned());
        let conf = r#"{"cniVersion": "1.1.0", "name": "evil", "type": "weft-pod", "binDir": "/tenant", "delegates": [{"type": "p"}]}"#;
        let call = |program: &str, verb: &str, inside: bool| {
            let env = |name: &str| match name {
                "CNI_COMMAND" => Some(verb.into()),
                "CNI_CONTAINERID" => Some("c1".into()),
                "CNI_NETNS" => Some("/nowhere/netns".into()),
                "CNI_IFNAME" => Some("net1".into()),
                "CNI_PATH" => Some("/nowhere/bin".into()),
                exec::INSIDE => inside.then(|| "1".into()),
                _ => None,
            };
            run(program.as_ref(), &env, &mut conf.as_bytes(), &context)
        };
        for program in ["/opt/cni/bin/weft-pod", "multus", "multus-shim"] {
            for verb in ["ADD", "CHECK", "STATUS"] {
                let answer = call(program, verb, true);
                assert!(!answer.ok && answer.stdout.contains("\"code\": 7"), "{program} {verb}: {}", answer.stdout);
                assert!(answer.stdout.contains("weft does not run it"), "{program} {verb}: {}", answer.stdout);
            }
            for verb in ["DEL", "GC", "VERSION"] {
                let answer = call(program, verb, true);
                assert!(answer.ok, "{program} {verb}: {}", answer.stdout);
            }
        }
        let outside = call("weft-pod", "ADD", false);
        assert!(!outside.ok && !outside.stdout.contains("weft does not run it"), "{}", outside.stdout);
    }
}

//! The interface of services, and the table of all services.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use weft_core::agent::{Envelope, Fault, Refusal, Service};

use crate::Log;

/// The time between the agent's answer and the caller's deadline.
const MARGIN: Duration = Duration::from_millis(500);

/// The time until which a caller waits.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Creates a deadline this far from now, or none.
    #[must_use]
    pub fn after(limit: Option<Duration>) -> Self {
        Self(limit.and_then(|limit| Instant::now().checked_add(limit.saturating_sub(MARGIN.min(limit / 4)))))
    }

    /// Returns the remaining time, at most `most`.
    #[must_use]
    pub fn remaining(self, most: Duration) -> Duration {
        self.0.map_or(most, |at| at.saturating_duration_since(Instant::now()).min(most))
    }

    /// Returns the instant, if there is one.
    #[must_use]
    pub fn instant(self) -> Option<Instant> {
        self.0
    }
}

/// The server side of a service.
///
/// A request is dropped at an `await` when its caller disconnects or the deadline passes; work that must continue is
/// spawned as a task (`tokio::task::spawn_local`).
pub trait Handler: 'static {
    /// Its name and messages.
    type Service: Service;

    /// Answers one request.
    fn handle(
        &self,
        request: <Self::Service as Service>::Request,
        deadline: Deadline,
    ) -> impl Future<Output = Result<<Self::Service as Service>::Reply, Refusal>>;
}

type Answering = Pin<Box<dyn Future<Output = Result<Value, Refusal>>>>;

/// A handler without its types.
trait Erased {
    fn version(&self) -> u32;
    fn call(self: Rc<Self>, request: Value, deadline: Deadline) -> Answering;
}

impl<H: Handler> Erased for H {
    fn version(&self) -> u32 {
        H::Service::VERSION
    }

    fn call(self: Rc<Self>, request: Value, deadline: Deadline) -> Answering {
        Box::pin(async move {
            let name = H::Service::NAME;
            let request = serde_json::from_value(request).map_err(|error| {
                Refusal::new(Fault::Request, format!("the service {name} cannot read this request: {error}"))
            })?;
            let reply = self.handle(request, deadline).await?;
            serde_json::to_value(reply)
                .map_err(|error| Refusal::new(Fault::Internal, format!("cannot write the reply of {name}: {error}")))
        })
    }
}

/// The services of an agent, by name.
#[derive(Default)]
pub struct Services {
    table: BTreeMap<&'static str, Rc<dyn Erased>>,
    /// Services that are switched off, with the way to switch them on.
    off: BTreeMap<&'static str, String>,
}

impl Services {
    /// Adds a service.
    #[must_use]
    pub fn with_handler<H: Handler>(mut self, handler: Rc<H>) -> Self {
        self.table.insert(H::Service::NAME, handler);
        self
    }

    /// Registers a service that is not offered, and how a person enables it.
    #[must_use]
    pub fn with_disabled<S: Service>(mut self, remedy: &str) -> Self {
        self.off.insert(S::NAME, remedy.to_owned());
        self
    }

    /// Returns the names of the offered services.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.table.keys().copied()
    }

    fn find(&self, name: &str, v: u32) -> Result<Rc<dyn Erased>, Refusal> {
        let own = env!("CARGO_PKG_VERSION");
        let Some(service) = self.table.get(name) else {
            return Err(Refusal::new(
                Fault::UnknownService,
                match self.off.get(name) {
                    Some(remedy) => format!("the agent does not offer the service {name:?}: {remedy}"),
                    None => format!(
                        "the agent (weftctl {own}) has no service {name:?}; restart \"weftctl agent\" after an upgrade"
                    ),
                },
            ));
        };
        let spoken = service.version();
        if spoken != v {
            return Err(Refusal::new(
                Fault::UnknownVersion,
                format!(
                    "the agent (weftctl {own}) speaks version {spoken} of the service {name:?}, and version {v} was \
                     asked; restart \"weftctl agent\" after an upgrade"
                ),
            ));
        }
        Ok(Rc::clone(service))
    }

    /// Answers a request within its deadline, whatever the service does.
    pub(super) async fn call(&self, envelope: Envelope, log: Log) -> Result<Value, Refusal> {
        let Envelope { v, service: name, deadline_ms, request } = envelope;
        let service = self.find(&name, v)?;
        let deadline = Deadline::after(deadline_ms.map(Duration::from_millis));
        // Use a separate task, so that a panic ends there.
        let mut task = AbortOnDrop(tokio::task::spawn_local(service.call(request, deadline)));
        let outcome = match deadline.instant() {
            None => (&mut task.0).await,
            Some(at) => match timeout_at(at, &mut task.0).await {
                Ok(outcome) => outcome,
                Err(_late) => {
                    let limit = deadline_ms.unwrap_or_default();
                    let text =
                        format!("the service {name:?} of the agent could not answer within {limit} ms; try again");
                    return Err(Refusal::new(Fault::Deadline, text));
                }
            },
        };
        outcome.unwrap_or_else(|error| {
            let text = format!("the service {name:?} of the agent failed: {error}");
            log.warn(&text);
            Err(Refusal::new(Fault::Internal, text))
        })
    }
}

/// A task that ends with its caller.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

//! The watches that update the copies, one task each. A watch that fails starts over, with new credentials if there are
//! any.

use std::fmt::Debug;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use kube::core::ObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, Resource};

use super::Cluster;
use super::cache::Cache;
use super::objects::{LabelSet, Nad, NadObject, NamespaceMeta, NodeMeta, Pod, PodMeta, nad_resource};

/// Objects per page of a list, which limits the memory of a first list.
const PAGE: u32 = 100;
/// The interval of checks for a first client.
const WAIT: Duration = Duration::from_millis(250);

/// Starts all watches.
pub(super) fn start(cluster: &Rc<Cluster>) {
    let node = cluster.node.clone();
    let of_node = Config::default().page_size(PAGE).fields(&format!("spec.nodeName={node}"));
    keep(
        cluster,
        "pods",
        |cluster| &cluster.pods,
        move |client| {
            reduced(watcher(Api::<PodMeta>::all(client), of_node.clone()), |object| {
                (key(&object.metadata), Pod::from(object.metadata))
            })
        },
    );
    keep(
        cluster,
        "network-attachment-definitions",
        |cluster| &cluster.nads,
        |client| {
            let api = Api::<NadObject>::all_with(client, &nad_resource());
            reduced(watcher(api, Config::default().page_size(PAGE)), |object| {
                (key(&object.metadata), Nad::from(object))
            })
        },
    );
    keep(
        cluster,
        "namespaces",
        |cluster| &cluster.namespaces,
        |client| {
            let all = watcher(Api::<NamespaceMeta>::all(client), Config::default().page_size(PAGE));
            reduced(all, |object| (key(&object.metadata), LabelSet::from(object.metadata)))
        },
    );
    keep(
        cluster,
        "nodes",
        |cluster| &cluster.nodes,
        move |client| {
            let own = Config::default().fields(&format!("metadata.name={node}"));
            reduced(watcher(Api::<NodeMeta>::all(client), own), |object| {
                (key(&object.metadata), LabelSet::from(object.metadata))
            })
        },
    );
}

type Reduced<V> = Event<((String, String), V)>;

fn key(meta: &ObjectMeta) -> (String, String) {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Reduces the objects of a watch to their cached part.
fn reduced<K, V>(
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    reduce: impl Fn(K) -> ((String, String), V),
) -> impl Stream<Item = watcher::Result<Reduced<V>>>
where
    K: Resource + Clone + Debug,
{
    stream.map(move |event| {
        event.map(|event| match event {
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
            Event::InitApply(object) => Event::InitApply(reduce(object)),
            Event::Apply(object) => Event::Apply(reduce(object)),
            Event::Delete(object) => Event::Delete(reduce(object)),
        })
    })
}

fn keep<V, S>(
    cluster: &Rc<Cluster>,
    kind: &'static str,
    cache: fn(&Cluster) -> &Cache<V>,
    stream: impl Fn(Client) -> S + 'static,
) where
    V: 'static,
    S: Stream<Item = watcher::Result<Reduced<V>>> + 'static,
{
    let cluster = Rc::clone(cluster);
    tokio::task::spawn_local(async move {
        let mut last_fault = String::new();
        loop {
            let generation = cluster.credentials.generation();
            let Ok(client) = cluster.client() else {
                tokio::time::sleep(WAIT).await;
                continue;
            };
            let mut events = pin!(stream(client).default_backoff());
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        last_fault.clear();
                        cache(&cluster).apply(event);
                    }
                    Err(error) => {
                        let text = format!("cannot watch {kind}: {error}");
                        if text != last_fault {
                            cluster.log.warn(&text);
                            last_fault = text;
                        }
                        if is_unauthorized(&error) {
                            cluster.credentials.reload();
                        }
                        if cluster.credentials.generation() != generation {
                            break;
                        }
                    }
                }
            }
        }
    });
}

fn is_unauthorized(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => status.code == 401,
        _ => false,
    }
}

//! One unary gRPC call over a unix socket: kubelet's podresources and the container runtime's CRI.

use std::path::Path;

use prost::Message;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

/// Calls a method. `limit` is the maximum size of the answer in octets.
///
/// # Errors
/// An error text: the socket does not exist, the server refuses, or its answer cannot be read.
pub(crate) async fn call<Q, A>(socket: &Path, method: &'static str, request: Q, limit: usize) -> Result<A, String>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(|error| chain(&error))?;
    let channel = endpoint.connect().await.map_err(|error| chain(&error))?;
    let mut client = Grpc::new(channel).max_decoding_message_size(limit);
    client.ready().await.map_err(|error| chain(&error))?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let answer = client.unary(Request::new(request), PathAndQuery::from_static(method), codec).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| format!("{method}: {} ({:?})", status.message(), status.code()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

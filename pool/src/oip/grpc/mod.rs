//! The gRPC server, with Triton's names, so that its clients work.

mod convert;

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tracing::error;

use convert::Read;

use super::listen::{Accept, Connection, Listener, Peer};
use super::models::{Entry, Models};
use super::parameters::earlier;
use super::shared::{self, Shown};
use super::statistics::{Counts, Total};
use super::{EXTENSIONS, SERVER_NAME, since_epoch_ms, told};
use crate::inference::{self, Metadata, Refusal, Terms};

#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::enum_variant_names,
    reason = "generated from the protocol"
)]
mod proto {
    // `tests/protocol.rs` compares it with the definition, and writes it.
    include!("../../../proto/inference.rs");
}

use proto::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use proto::model_metadata_response::TensorMetadata;
use proto::repository_index_response::ModelIndex;
use proto::system_shared_memory_status_response::RegionStatus;
use proto::*;

/// Bytes of one message.
const MAX_MESSAGE: usize = 64 << 20;

/// Requests of one stream at a time.
const STREAM_DEPTH: usize = 32;

/// Calls of one connection at a time.
const MAX_CALLS: u32 = 256;

/// What a client may send before it hears of the pool: a frame of video is not held up.
const STREAM_WINDOW: u32 = 2 << 20;

/// The same for all calls of a connection.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A connection whose peer does not answer a ping is closed.
const PING: Duration = Duration::from_secs(60);

/// Serves until the task is dropped.
pub async fn serve(listener: Listener, models: Models) {
    let accept = Accept::new(listener);
    let connections = stream::unfold(accept, |accept| async {
        let connection = accept.next().await;
        Some((Ok::<Connection, std::io::Error>(connection), accept))
    });
    let service = GrpcInferenceServiceServer::new(Service(models))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(usize::MAX);
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_CALLS)
        .http2_keepalive_interval(Some(PING))
        .add_service(service)
        .serve_with_incoming(connections)
        .await;
    if let Err(reason) = served {
        error!("gRPC server: {reason}");
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        let message = told(&message);
        match refusal {
            Refusal::NotFound(_) => Self::not_found(message),
            Refusal::Invalid(_) => Self::invalid_argument(message),
            Refusal::TooLarge(_) => Self::resource_exhausted(message),
            Refusal::Unavailable(_) | Refusal::Expired(_) => Self::unavailable(message),
            Refusal::Cancelled => Self::cancelled(message),
            Refusal::Failed(_) => Self::internal(message),
            Refusal::Full { retry_after, .. } => {
                let mut status = Self::unavailable(message);
                let pause = i32::try_from(retry_after.as_millis()).unwrap_or(i32::MAX);
                status.metadata_mut().insert("grpc-retry-pushback-ms", pause.into());
                status
            }
        }
    }
}

struct Service(Models);

fn some(version: &str) -> Option<&str> {
    Some(version).filter(|version| !version.is_empty())
}

/// What the head of a call says.
fn terms<T>(request: &Request<T>) -> Terms {
    let metadata = request.metadata();
    let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
    let client = match request.extensions().get::<Peer>() {
        Some(peer) => peer.client(text("x-downbeat-client")),
        None => "unknown".into(),
    };
    let mut terms = Terms::of(client);
    terms.traceparent = text("traceparent").map(str::to_owned);
    terms.parent = text("x-downbeat-parent").map(str::to_owned);
    if let Some(limit) = deadline(metadata) {
        terms.deadline = earlier(None, terms.arrival, limit);
    }
    terms
}

/// gRPC's own deadline.
fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    time_limit(metadata.get("grpc-timeout")?.to_str().ok()?)
}

/// Reads a message that was not received by this server.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn parse(message: bytes::Bytes, terms: Terms) -> Result<inference::Request, Refusal> {
    let message = <ModelInferRequest as prost::Message>::decode(message)
        .map_err(|error| Refusal::Invalid(format!("not a ModelInferRequest: {error}")))?;
    Ok(convert::request(message, terms)?.request)
}

/// At most eight digits and a unit.
fn time_limit(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

async fn infer(
    models: &Models,
    peer: Option<&Peer>,
    message: ModelInferRequest,
    terms: Terms,
) -> Result<ModelInferResponse, Refusal> {
    // A missing model is told before its tensors are looked at.
    models.model_ready(&message.model_name, some(&message.model_version))?;
    let (model, arrival) = (message.model_name.clone(), terms.arrival);
    let unreadable = |refusal| models.unreadable(&model, arrival, refusal);
    let Read { mut request, placed, raw } = convert::request(message, terms).map_err(unreadable)?;
    request.shared = shared::open(placed, &models.backend().regions, peer).map_err(unreadable)?;
    let id = request.id.clone();
    let response = models.infer(request).await?;
    Ok(convert::answer(model, id, response, raw))
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.0.ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = self.0.model_ready(&name, some(&version))?;
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: SERVER_NAME.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: EXTENSIONS.map(Into::into).into(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let Metadata { name, versions, platform, inputs, outputs, .. } =
            self.0.metadata(&name, some(&version))?;
        let tensors = |specs: Vec<downbeat_link::TensorSpec>| {
            let tensor = |spec: downbeat_link::TensorSpec| TensorMetadata {
                name: spec.name,
                datatype: spec.datatype.name().into(),
                shape: spec.shape,
            };
            specs.into_iter().map(tensor).collect()
        };
        let (inputs, outputs) = (tensors(inputs), tensors(outputs));
        Ok(Response::new(ModelMetadataResponse { name, versions, platform, inputs, outputs }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let terms = terms(&request);
        let limit = terms.deadline;
        let peer = request.extensions().get::<Peer>().cloned();
        match infer(&self.0, peer.as_ref(), request.into_inner(), terms).await {
            Ok(answer) => Ok(Response::new(answer)),
            // The call's own deadline has a status of its own.
            Err(Refusal::Expired(reason)) if limit.is_some_and(|it| it <= Instant::now()) => {
                Err(Status::deadline_exceeded(reason))
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    type ModelStreamInferStream = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let head = terms(&request);
        let peer = request.extensions().get::<Peer>().cloned();
        let answers = request
            .into_inner()
            .map(answering(self.0.clone(), peer, head))
            // In the order of the requests; each is asked in that order too, so a sequence keeps its.
            .buffered(STREAM_DEPTH);
        Ok(Response::new(answers.boxed()))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let found = self.0.statistics(some(&name), some(&version))?;
        let model_stats = found.into_iter().map(shown).collect();
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let ready = request.into_inner().ready;
        let entries = self.0.index().into_iter().filter(|entry| entry.ready() || !ready);
        let shown = |entry: Entry| {
            let state = entry.state().into();
            ModelIndex { name: entry.name, version: entry.version, state, reason: entry.reason }
        };
        Ok(Response::new(RepositoryIndexResponse { models: entries.map(shown).collect() }))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<SystemSharedMemoryStatusResponse>, Status> {
        let user = shared::user(request.extensions().get())?;
        let name = request.into_inner().name;
        let found = self.0.backend().regions.shown(user, some(&name))?;
        let status = |Shown { name, key, offset, byte_size }: Shown| {
            (name.clone(), RegionStatus { name, key, offset, byte_size })
        };
        let regions = found.into_iter().map(status).collect();
        Ok(Response::new(SystemSharedMemoryStatusResponse { regions }))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<SystemSharedMemoryRegisterResponse>, Status> {
        let user = shared::user(request.extensions().get())?;
        let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } =
            request.into_inner();
        self.0.backend().regions.register(user, Shown { name, key, offset, byte_size })?;
        Ok(Response::new(SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<SystemSharedMemoryUnregisterResponse>, Status> {
        let user = shared::user(request.extensions().get())?;
        let name = request.into_inner().name;
        self.0.backend().regions.unregister(user, some(&name));
        Ok(Response::new(SystemSharedMemoryUnregisterResponse {}))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        self.0.load(&request.into_inner().model_name).await?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        self.0.unload(&request.into_inner().model_name)?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }
}

/// The answer to one message of a stream; a refusal is an answer there, and the stream goes on.
type Answer =
    Pin<Box<dyn Future<Output = Result<ModelStreamInferResponse, Status>> + Send + 'static>>;

fn answering(
    models: Models,
    peer: Option<Peer>,
    head: Terms,
) -> impl FnMut(Result<ModelInferRequest, Status>) -> Answer {
    move |message| {
        let (models, peer) = (models.clone(), peer.clone());
        // Each message arrives at its own time; the call's deadline is that of the whole stream.
        let terms = Terms { arrival: Instant::now(), ..head.clone() };
        Box::pin(async move {
            let message = message?;
            let id = message.id.clone();
            Ok(match infer(&models, peer.as_ref(), message, terms).await {
                Ok(response) => ModelStreamInferResponse {
                    error_message: String::new(),
                    infer_response: Some(response),
                },
                Err(refusal) => ModelStreamInferResponse {
                    error_message: told(&refusal.to_string()).to_owned(),
                    infer_response: Some(ModelInferResponse { id, ..Default::default() }),
                },
            })
        })
    }
}

fn shown((entry, counts): (Entry, Counts)) -> ModelStatistics {
    let total = |total: Total| Some(StatisticDuration { count: total.count, ns: total.ns() });
    let batch_stats = counts
        .batches
        .iter()
        .map(|(size, batches)| InferBatchStatistics {
            batch_size: *size as u64,
            compute_infer: total(Total { count: batches.requests, time: batches.time }),
            ..Default::default()
        })
        .collect();
    ModelStatistics {
        name: entry.name,
        version: entry.version,
        last_inference: since_epoch_ms(counts.last),
        inference_count: counts.success.total.count,
        execution_count: counts.executions(),
        inference_stats: Some(InferStatistics {
            success: total(counts.success.total),
            fail: total(counts.fail),
            queue: total(counts.queue.total),
            compute_infer: total(counts.compute.total),
            ..Default::default()
        }),
        batch_stats,
    }
}

#[cfg(test)]
mod tests;

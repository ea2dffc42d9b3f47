//! The gRPC server.

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::{
    DataType, INPUT, MAX_BODY, OUTPUT, PLATFORM, Refusal, SERVER_NAME, Service, Shape, Sound,
    check_outputs, only_input,
};

#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::enum_variant_names,
    reason = "generated from the protocol"
)]
mod proto {
    tonic::include_proto!("inference");
}

use proto::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use proto::model_infer_response::InferOutputTensor;
use proto::model_metadata_response::TensorMetadata;
use proto::*;

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, service: Service) -> Result<(), tonic::transport::Error> {
    let server = GrpcInferenceServiceServer::new(service)
        .max_decoding_message_size(MAX_BODY)
        .max_encoding_message_size(2 * MAX_BODY);
    Server::builder().add_service(server).serve_with_incoming(TcpIncoming::from(listener)).await
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound(message) => Self::not_found(message),
            Refusal::Invalid(message) => Self::invalid_argument(message),
            Refusal::Unavailable(message) => Self::unavailable(message),
            Refusal::Failed(message) => Self::internal(message),
        }
    }
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
        Ok(Response::new(ServerReadyResponse { ready: self.ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = self.model(&name, &version)?.ready;
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: SERVER_NAME.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: Vec::new(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        self.model(&name, &version)?;
        let tensor = |name: &str| TensorMetadata {
            name: name.into(),
            datatype: DataType::Fp32.name().into(),
            shape: vec![-1, -1],
        };
        Ok(Response::new(ModelMetadataResponse {
            name,
            versions: Vec::new(),
            platform: PLATFORM.into(),
            inputs: vec![tensor(INPUT)],
            outputs: vec![tensor(OUTPUT)],
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.into_inner();
        let (name, version) = (request.model_name.clone(), request.model_version.clone());
        self.model(&name, &version)?;
        let id = request.id.clone();
        let (sound, raw) = parse(request)?;
        let sound = self.infer(&name, &version, sound).await?;
        Ok(Response::new(answer(name, id, sound, raw)))
    }
}

/// The sound of a request, and whether it came as raw bytes.
pub(super) fn parse(request: ModelInferRequest) -> Result<(Sound, bool), Refusal> {
    check_outputs(request.outputs.iter().map(|output| output.name.as_str()))?;
    let input = only_input(request.inputs, |input| &input.name)?;
    let (datatype, shape) = (DataType::parse(&input.datatype)?, Shape::parse(&input.shape)?);
    let raw = request.raw_input_contents.as_slice();
    let elements: Vec<f64> = match (raw, input.contents) {
        ([raw], None) => from_raw(datatype, raw)?,
        ([], Some(contents)) => match datatype {
            DataType::Fp32 => contents.fp32_contents.into_iter().map(f64::from).collect(),
            DataType::Int16 => contents.int_contents.into_iter().map(f64::from).collect(),
        },
        _ => {
            return Err(Refusal::Invalid(format!(
                "`{INPUT}` needs its elements once: in raw_input_contents or in its contents"
            )));
        }
    };
    Ok((Sound::new(datatype, shape, &elements)?, !raw.is_empty()))
}

fn from_raw(datatype: DataType, raw: &[u8]) -> Result<Vec<f64>, Refusal> {
    let (elements, rest): (Vec<f64>, _) = match datatype {
        DataType::Fp32 => {
            let (chunks, rest) = raw.as_chunks::<4>();
            (chunks.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect(), rest)
        }
        DataType::Int16 => {
            let (chunks, rest) = raw.as_chunks::<2>();
            (chunks.iter().map(|bytes| f64::from(i16::from_le_bytes(*bytes))).collect(), rest)
        }
    };
    if rest.is_empty() {
        return Ok(elements);
    }
    Err(Refusal::Invalid(format!(
        "raw `{INPUT}` has {} bytes, which is no whole number of {} elements",
        raw.len(),
        datatype.name()
    )))
}

fn answer(model_name: String, id: String, sound: Sound, raw: bool) -> ModelInferResponse {
    let (mut contents, mut raw_output_contents) = (None, Vec::new());
    match (raw, sound.datatype) {
        (true, DataType::Fp32) => {
            raw_output_contents.push(sound.floats().flat_map(f32::to_le_bytes).collect());
        }
        (true, DataType::Int16) => {
            raw_output_contents
                .push(sound.samples.iter().flat_map(|sample| sample.to_le_bytes()).collect());
        }
        (false, DataType::Fp32) => {
            let fp32_contents = sound.floats().collect();
            contents = Some(InferTensorContents { fp32_contents, ..Default::default() });
        }
        (false, DataType::Int16) => {
            let int_contents = sound.samples.iter().copied().map(i32::from).collect();
            contents = Some(InferTensorContents { int_contents, ..Default::default() });
        }
    }
    let output = InferOutputTensor {
        name: OUTPUT.into(),
        datatype: sound.datatype.name().into(),
        shape: sound.shape.dimensions,
        parameters: Default::default(),
        contents,
    };
    ModelInferResponse {
        model_name,
        model_version: String::new(),
        id,
        parameters: Default::default(),
        outputs: vec![output],
        raw_output_contents,
    }
}

#[cfg(test)]
#[path = "grpc_tests.rs"]
mod tests;

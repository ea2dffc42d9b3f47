"""A runtime of MLServer that computes an ONNX model, as its documentation says one is made."""

import os
import pathlib

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri
import onnxruntime


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        # As the others: one thread, which is also the fastest for a model of this size.
        options.intra_op_num_threads = 1
        uri = await get_model_uri(self._settings)
        self._session = onnxruntime.InferenceSession(uri, options, providers=["CPUExecutionProvider"])
        pathlib.Path(os.environ["DOWNBEAT_BENCH_READY"]).touch()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {it.name: NumpyCodec.decode_input(it) for it in payload.inputs}
        names = [it.name for it in self._session.get_outputs()]
        outputs = self._session.run(names, inputs)
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name, it) for name, it in zip(names, outputs)],
        )

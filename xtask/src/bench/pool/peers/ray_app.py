"""The same model behind Ray Serve, with the same JSON: `ray_app.py PORT MODEL.onnx FOLDER`."""

import os
import pathlib
import signal
import sys

import numpy
import onnxruntime
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

port, model, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Model:
    def __init__(self, file):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.names = [it.name for it in self.session.get_outputs()]

    async def __call__(self, request: Request) -> JSONResponse:
        asked = await request.json()
        kinds = {"UINT8": numpy.uint8, "FP32": numpy.float32}
        inputs = {
            it["name"]: numpy.array(it["data"], kinds[it["datatype"]]).reshape(it["shape"])
            for it in asked["inputs"]
        }
        outputs = self.session.run(self.names, inputs)
        return JSONResponse(
            {
                "id": asked.get("id"),
                "outputs": [
                    {"name": name, "datatype": "FP32", "shape": it.shape, "data": it.ravel().tolist()}
                    for name, it in zip(self.names, outputs)
                ],
            }
        )


ray.init(
    num_cpus=2,
    include_dashboard=False,
    object_store_memory=100 << 20,
    _temp_dir=folder,
    logging_level="warning",
    log_to_driver=False,
)
serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
serve.run(Model.bind(model), route_prefix="/")
pathlib.Path(os.environ["DOWNBEAT_BENCH_READY"]).touch()
signal.sigwait([signal.SIGTERM, signal.SIGINT])

"""Messages and stubs of the public API, made from its .proto file as a user would make them."""

import importlib
import subprocess
import sys

from support.cluster import ROOT


def make_stubs(folder):
    """The messages' module, InferenceStub and, as `services`, its gRPC module included. `folder`: an empty one, for the generated code."""
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={folder}",
         f"--grpc_python_out={folder}", "proto/paceline/v1/inference.proto"], check=True)
    sys.path.insert(0, str(folder))
    messages = importlib.import_module("proto.paceline.v1.inference_pb2")
    services = importlib.import_module("proto.paceline.v1.inference_pb2_grpc")
    messages.InferenceStub = services.InferenceStub
    messages.services = services
    return messages

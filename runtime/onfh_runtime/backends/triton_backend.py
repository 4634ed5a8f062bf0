"""A Triton server elsewhere, over HTTP or gRPC: an explicit choice, since voxels of a patient leave the machine.

What is sent is a stage's input tensor and nothing else. The server says in its configuration which model it holds; a
stage that is not the bundle's own is refused.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.backends.protocol import TensorSpec, check_tensors
from onfh_runtime.bundle import LoadedBundle, Stage
from onfh_runtime.errors import BackendError, MissingExtraError, UsageError

__all__ = ["MODEL_NAMES", "MODEL_VERSION", "Parameter", "TritonBackend"]

MODEL_NAMES = {"classifier": "onfh_classifier", "segmenter": "onfh_segmenter"}
"""Stage to the name of its model on the server."""
MODEL_VERSION = "1"
Parameter = Literal["onfh_bundle_sha256", "onfh_model_sha256", "onfh_precision", "onfh_stage"]
"""Parameters of a model's configuration; ``onfh_model_sha256`` is that of the stage's ONNX file in the bundle."""

_SCHEMES = ("http", "https", "grpc", "grpcs")
_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype(np.float32), "FP16": np.dtype(np.float16)}
_CONNECT_S = 5.0
"""A server that is up says that it lives in milliseconds."""


@dataclass(frozen=True)
class _Address:
    scheme: str
    host: str
    """With its port."""


class TritonBackend:
    """One stage on a Triton server that serves a repository of :func:`onfh_export.triton_repository`.

    Args:
        url: ``http://``, ``https://``, ``grpc://`` or ``grpcs://``, host and port. TLS checks the server's certificate.
        stage: ``classifier`` or ``segmenter``.
        bundle: the bundle whose model the server must hold.
        timeout_s: how long one batch may take, the server's queue included.

    Raises:
        UsageError: ``triton_url_invalid``.
        MissingExtraError: ``missing_extra``, without tritonclient.
        BackendError: ``triton_unreachable``, ``triton_model_missing`` or ``triton_model_differs``.
    """

    name = "triton"

    def __init__(
        self, url: str, stage: Literal["classifier", "segmenter"], *, bundle: LoadedBundle, timeout_s: float = 120.0
    ) -> None:
        self._address, self._stage, self._model = _address_from_url(url), stage, MODEL_NAMES[stage]
        self._spec: Stage = bundle.content.classifier if stage == "classifier" else bundle.content.segmenter
        self._ours = {precision: bundle.content.files[file] for precision, file in self._spec.models.items()}
        server = self._reached()
        with contextlib.ExitStack() as opened:
            client = opened.enter_context(contextlib.closing(_Client(self._address, timeout_s)))
            config = self._check_model(client)
            metadata = self._asked(client, "model_metadata")
            self.precision: str = _parameter(config, "onfh_precision")
            self._ours = {precision: sha256 for precision, sha256 in self._ours.items() if precision == self.precision}
            said = (server.get("name", "?"), server.get("version", "?"), metadata.get("platform", "?"))
            self.device = "{} ({} {}, {})".format(self._address.host, *said)
            self.batch_limit: int | None = int(config.get("max_batch_size", 0)) or None
            """Of the server; the bundle's own limit is the same unless someone edited the repository."""
            self.inputs = tuple(map(self._tensor_spec, metadata["inputs"]))
            self.outputs = tuple(map(self._tensor_spec, metadata["outputs"]))
            self._check_tensors()
            opened.pop_all()
        self._client: _Client | None = client

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], *, stream: Any = None
    ) -> None:
        """Fill ``outputs`` (NumPy arrays owned by the caller) from ``inputs``; ``stream`` is ignored.

        The server's model is looked at again after the answer, so that one that was exchanged meanwhile is noticed.
        """
        client = self._client
        if client is None:
            raise BackendError("stage_failed", f"The {self._stage} was closed and cannot run.", "Open it again.")
        check_tensors(self._stage, self.inputs, inputs)
        check_tensors(self._stage, self.outputs, outputs)
        try:
            answer = client.infer(
                self._model,
                {spec.name: inputs[spec.name] for spec in self.inputs},
                [spec.name for spec in self.outputs],
            )
        except Exception as error:
            self._reached()
            raise BackendError(
                "stage_failed", f"The {self._stage} failed on {self._address.host}: {_said(error)}"
            ) from error
        self._check_model(client)
        for name, array in answer.items():
            if array is None or array.shape != outputs[name].shape or array.dtype != outputs[name].dtype:
                raise BackendError(
                    "stage_failed",
                    f"The {self._stage} on {self._address.host} gave no {name!r} of the shape it promised.",
                )
            np.copyto(outputs[name], array)

    def close(self) -> None:
        """Drop the connection."""
        if self._client is not None:
            self._client.close()
        self._client = None

    def _reached(self) -> dict[str, Any]:
        """What the server says of itself, once it is known to live and to have the model ready."""
        with contextlib.closing(_Client(self._address, _CONNECT_S)) as client:
            try:
                live = client.ask("is_server_live")
                server = client.document("server_metadata") if live else {}
                ready = live and client.ask("is_model_ready", self._model, MODEL_VERSION)
            except Exception as error:  # the transports' exception classes share no base but Exception
                raise self._unreachable(_said(error)) from error
        if not live:
            raise self._unreachable("what answers is no live Triton server")
        if not ready:
            raise BackendError(
                "triton_model_missing",
                f"The Triton server at {self._address.host} has no model {self._model} that is ready.",
                "Serve the folder that `onfh export --triton` wrote, and look into the server's log.",
            )
        return server

    def _check_model(self, client: _Client) -> dict[str, Any]:
        """The model's configuration, once it is known to be of the bundle's own file."""
        config = self._asked(client, "model_config")
        precision = _parameter(config, "onfh_precision")
        if _parameter(config, "onfh_stage") != self._stage or precision not in self._ours:
            raise self._differs(f"is no {' or '.join(sorted(self._ours))} {self._stage} of a bundle")
        if _parameter(config, "onfh_model_sha256") != self._ours[precision]:
            raise self._differs(f"was not made from the {precision} {self._stage} of the bundle in use")
        return config

    def _check_tensors(self) -> None:
        wanted = {self._spec.input_name: (len(self._spec.input.windows), *self._spec.input.size)}
        if {spec.name: spec.shape for spec in self.inputs} != wanted:
            raise self._differs(f"takes {[(s.name, s.shape) for s in self.inputs]}, the bundle says {wanted}")
        if [spec.name for spec in self.outputs] != [self._spec.output_name]:
            raise self._differs(f"gives {[s.name for s in self.outputs]}, the bundle says {self._spec.output_name!r}")

    def _tensor_spec(self, tensor: dict[str, Any]) -> TensorSpec:
        name, kind = tensor["name"], tensor["datatype"]
        batch, *shape = (int(n) for n in tensor["shape"])  # protobuf's JSON writes 64-bit numbers as strings
        if kind not in _DTYPES or batch != -1 or min(shape, default=0) < 1:
            raise self._differs(
                f"has the tensor {name!r} of type {kind} and shape {[batch, *shape]}; all but the batch must be fixed, "
                "and the type FP32 or FP16"
            )
        return TensorSpec(name, tuple(shape), _DTYPES[kind])

    def _asked(self, client: _Client, what: str) -> dict[str, Any]:
        try:
            return client.document(what, self._model, MODEL_VERSION)
        except Exception as error:
            self._reached()
            raise BackendError(
                "stage_failed", f"{self._address.host} does not give its {what}: {_said(error)}."
            ) from error

    def _unreachable(self, said: str) -> BackendError:
        return BackendError(
            "triton_unreachable",
            f"There is no answer from a Triton server at {self._address.host}: {said}.",
            "Check that the server runs, and the scheme, host and port of the URL.",
        )

    def _differs(self, text: str) -> BackendError:
        return BackendError(
            "triton_model_differs",
            f"The model {self._model} at {self._address.host} {text}.",
            "Write the repository again from this bundle, or run the bundle it was written from.",
        )


class _Client:
    """One face for tritonclient's two clients.

    The HTTP one belongs to the thread that made it, so both live in a thread of their own and serve every other.
    """

    def __init__(self, address: _Address, timeout_s: float) -> None:
        grpc, secure = address.scheme.startswith("grpc"), address.scheme.endswith("s")
        try:
            self._module: Any = import_module("tritonclient.grpc" if grpc else "tritonclient.http")
        except (ImportError, RuntimeError) as error:  # RuntimeError: tritonclient is there, its transport is not
            raise MissingExtraError(
                "missing_extra", "tritonclient cannot be imported.", "Run: pip install 'onfh-edge[triton]'"
            ) from error
        self._of_call: dict[str, float] = {"client_timeout": timeout_s} if grpc else {}
        self._of_document: dict[str, bool] = {"as_json": True} if grpc else {}
        options: dict[str, Any] = {"ssl": secure}
        if not grpc:
            options |= {"connection_timeout": _CONNECT_S, "network_timeout": timeout_s}
            # Left to itself, the HTTP client trusts a list of its own and not what this machine trusts.
            options["ssl_context_factory"] = lambda cafile=None: ssl.create_default_context()
        self._lane = ThreadPoolExecutor(1, "onfh-triton")
        self._client: Any = self._in_lane(self._module.InferenceServerClient, address.host, **options)

    def ask(self, method: str, *arguments: str) -> Any:
        return self._in_lane(getattr(self._client, method), *arguments, **self._of_call)

    def document(self, what: str, *arguments: str) -> dict[str, Any]:
        method = getattr(self._client, f"get_{what}")
        answer = self._in_lane(method, *arguments, **self._of_document, **self._of_call)
        document: dict[str, Any] = answer.get("config", answer)
        return document

    def infer(self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: list[str]) -> dict[str, Any]:
        given = []
        for name, array in inputs.items():
            kind = next(kind for kind, dtype in _DTYPES.items() if dtype == array.dtype)
            given.append(self._module.InferInput(name, list(array.shape), kind))
            given[-1].set_data_from_numpy(array)
        wanted = [self._module.InferRequestedOutput(name) for name in outputs]
        answer = self._in_lane(
            self._client.infer, model, given, model_version=MODEL_VERSION, outputs=wanted, **self._of_call
        )
        return {name: answer.as_numpy(name) for name in outputs}

    def close(self) -> None:
        self._in_lane(self._client.close)
        if not self._of_call:
            # The event loop of the HTTP client keeps a file open for as long as the process lives.
            self._in_lane(lambda: import_module("gevent").get_hub().destroy())
        self._lane.shutdown()

    def _in_lane(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return self._lane.submit(function, *arguments, **named).result()


def _address_from_url(url: str) -> _Address:
    """Scheme and ``host:port``; a URL with anything more is refused, and not repeated: it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    host = parts.netloc
    if (
        parts.scheme not in _SCHEMES
        or not parts.hostname
        or port is None
        or "@" in host
        or url != f"{parts.scheme}://{host}"
    ):
        raise UsageError(
            "triton_url_invalid",
            f"A Triton server is named by one of {', '.join(f'{s}://' for s in _SCHEMES)}, its host and its port, and "
            "nothing more.",
            "For example: triton:grpc://127.0.0.1:8001",
        )
    return _Address(parts.scheme, host)


def _parameter(config: dict[str, Any], key: Parameter) -> str:
    return str(config.get("parameters", {}).get(key, {}).get("string_value", ""))


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__

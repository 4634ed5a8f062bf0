"""The two pairs of stages that the GPU figures are for, with seeded weights, and how they are opened.

Case A is ViT-B/16 with UperNet-Swin-T at 512, case B ViT-B/16 with Swin-Unet at 224. A study has 25 slices, of which 10
are segmented whatever stage 1 says; ``max_batch`` is those numbers, so that no row is made for nothing. The FP16 graphs
are those of `onfh export` without its search for islands, which on weights that mean nothing finds nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from onfh_runtime.backends import DEVICE_BACKENDS, DeviceBackend, TensorSpec, refusal_of
from onfh_runtime.backends.on_device import open_device_stage
from onfh_runtime.bundle import Bundle, LoadedBundle, Stage, StageName
from onfh_runtime.device import Device, Stream
from onfh_runtime.device_compute import DeviceCompute
from onfh_runtime.device_stage import DeviceStage

STAGES: tuple[StageName, StageName] = ("classifier", "segmenter")
SLICES, GATED = 25, 10
GMAC = {"vit": 17.58, "upernet": 236.9, "swin_unet": 6.1}
"""Of one slice, as the networks are published: what a cheaper graph saves makes the floor no lower."""
CASES = {"a": ("upernet", 512), "b": ("swin_unet", 224)}
BONE = {"center": 500.0, "width": 2000.0}
Opener = Callable[[StageName, Stage, Device, Stream], DeviceBackend]


def flop(case: str) -> float:
    """Floating-point operations of one study."""
    return 2e9 * (SLICES * GMAC["vit"] + GATED * GMAC[CASES[case][0]])


def rules_of(case: str) -> Bundle:
    """The bundle's rules: 25 whole slices, 10 of them on to stage 2."""

    def stage(name: str, size: int, rows: int) -> dict[str, Any]:
        three = {"windows": [BONE] * 3, "mean": [0.5] * 3, "std": [0.5] * 3}
        return {
            "architecture": name,
            "models": {"fp16": f"{name}.onnx"},
            "input_name": "pixel_values",
            "output_name": "logits",
            "max_batch": rows,
            "input": {"size": [size, size], **three},
        }

    segmenter, size = CASES[case]
    return Bundle.model_validate(
        {
            "schema": "onfh-bundle/1",
            "name": f"case-{case}",
            "version": "0",
            "description": "Seeded weights, for timing only.",
            "slice_spacing_mm": 3.0,
            "coverage": {"margin_mm": 500.0},
            "classifier": stage("vit", 224, SLICES),
            "segmenter": stage(segmenter, size, GATED),
            "gate": {"threshold": 0.0, "max_slices": GATED},
            "slice_threshold": 0.0,
            "patient_rule": {"k": 1, "threshold": 0.0},
            "minimum_volume_mm3": 0.0,
            "files": {},
        }
    )


def bundle_of(case: str, graphs: Path) -> LoadedBundle:
    """The case's bundle over the graphs that :func:`write_graph` wrote; made in memory, nothing is verified."""
    rules = rules_of(case)
    names = [spec.models["fp16"] for spec in (rules.classifier, rules.segmenter)]
    files = {name: hashlib.sha256((graphs / name).read_bytes()).hexdigest() for name in names}
    rules = rules.model_copy(update={"files": files})
    return LoadedBundle(graphs, rules, hashlib.sha256(json.dumps(files).encode()).hexdigest())


def network_of(name: str) -> Any:
    """``vit``, ``upernet`` or ``swin_unet``: the torch module, FP32, in evaluation mode."""
    import torch

    if name == "swin_unet":
        from onfh_export.swin_unet import swin_unet

        torch.manual_seed(0)
        return swin_unet().eval()
    from large_stages import large_networks

    return large_networks()["classifier" if name == "vit" else "segmenter"]


def write_graph(name: str, folder: Path) -> Path:
    """Write the FP16 graph of a network as export does, inputs and outputs in FP16."""
    import onnx

    from onfh_export.graph.precision import half_from_float
    from onfh_export.graph.upernet import mix_channels_early
    from onfh_export.onnx_export import onnx_from_network

    side = 512 if name == "upernet" else 224
    model = onnx_from_network(network_of(name), (3, side, side))
    if name == "upernet":
        model, _ = mix_channels_early(model)
    path = folder / f"{name}.onnx"
    onnx.save(half_from_float(model, dtype="fp16", io="fp16"), path.with_suffix(".part"))
    return path.with_suffix(".part").replace(path)


def torch_opener(graphs: Mapping[StageName, Path], *, precision: str = "fp16", on: str = "cuda") -> Opener:
    """Opens a stage in torch: its graph where there is one, of that precision, else the FP16 network of a case."""
    import torch
    from torch_device import TorchDeviceBackend

    def opened(stage: StageName, spec: Stage, device: Device, stream: Stream) -> DeviceBackend:
        half = np.dtype(np.float16)
        tensors = [TensorSpec(spec.input_name, (len(spec.input.windows), *spec.input.size), half)]
        if stage in graphs:
            import onnx
            from onnx_torch import OnnxInTorch

            network: Any = OnnxInTorch(graphs[stage], on)
            graph = onnx.load(graphs[stage], load_external_data=False).graph
            tensors = [_spec(value) for value in (*graph.input, *graph.output)]
        else:
            network = network_of(spec.architecture).to(on, torch.float16)
            sides = (2,) if stage == "classifier" else (2, *spec.input.size)
            tensors.append(TensorSpec(spec.output_name, sides, half))
        return TorchDeviceBackend(
            network,
            stage=stage,
            given=tensors[0],
            made=tensors[1],
            precision=precision,
            max_rows=spec.max_batch,
            device=device,
            stream=stream,
            on=on,
        )

    return opened


def bundle_opener(bundle: LoadedBundle, backend: str) -> Opener:
    """Opens a stage of a bundle on a backend of the runtime."""
    return lambda stage, _, device, stream: open_device_stage(bundle, stage, backend, device, stream)


def usable_backends() -> Iterator[tuple[str, str]]:
    """The runtime's GPU backends, fastest first, each with why it does not run here ("" when it does)."""
    for name in DEVICE_BACKENDS:
        error = refusal_of(name)
        yield name, f"{error.text} [{error.code}]" if error else ""


def open_case(device: Device, rules: Bundle, opener: Opener) -> DeviceCompute:
    """Both stages on a device, which the result owns."""
    with ExitStack() as opened:
        opened.callback(device.close)
        stream, stages = device.stream(), []
        for stage, spec in zip(STAGES, (rules.classifier, rules.segmenter), strict=True):
            backend = opener(stage, spec, device, stream)
            opened.callback(backend.close)
            stages.append(DeviceStage(stage, spec, backend))
        compute = DeviceCompute(device, rules, *stages, stream=stream)
        opened.pop_all()
    return compute


def _spec(value: Any) -> TensorSpec:
    """Name, shape without the batch, and type of a graph's input or output."""
    kind = value.type.tensor_type
    dtype = {1: np.float32, 10: np.float16}[kind.elem_type]
    return TensorSpec(value.name, tuple(size.dim_value for size in kind.shape.dim[1:]), np.dtype(dtype))

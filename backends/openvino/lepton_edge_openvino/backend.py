"""The backend class: what the core calls."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lepton_edge.backend import (
    Aside,
    Backend,
    Compiled,
    DecoderForm,
    Device,
    Generation,
    Generator,
    Graph,
    Precision,
    Probe,
    Quantization,
    Setting,
)
from lepton_edge.errors import BackendError
from lepton_edge_openvino.cache import model_cache
from lepton_edge_openvino.library import last_line, openvino, runtime_errors
from lepton_edge_openvino.options import OpenVINOOptions

if TYPE_CHECKING:
    from lepton_edge.target import Target
    from lepton_edge_openvino.session import OpenVINOSession
    from lepton_edge_openvino.stepper import OpenVINOStepper


class OpenVINOBackend(Backend):
    """OpenVINO IR, on the devices that this machine's OpenVINO has."""

    name: ClassVar[str] = "openvino"
    Options = OpenVINOOptions
    decoder: ClassVar[DecoderForm] = DecoderForm(attention="sdpa", logits="all", keeps_dtype=True)
    takes_adapters: ClassVar[bool] = True

    def probe(self) -> Probe:
        library = openvino()
        core = library.Core()
        devices = []
        for name in core.available_devices:
            with runtime_errors(f"ask the device {name}"):
                full_name = core.get_property(name, "FULL_DEVICE_NAME")
                capabilities = tuple(core.get_property(name, "OPTIMIZATION_CAPABILITIES"))
            devices.append(Device(name, full_name, capabilities))
        return Probe(library.__version__.split("-")[0], tuple(devices))

    def version(self) -> str:
        version: str = openvino().__version__
        return version

    def tunings(self, compiled: Compiled) -> list[dict[str, Setting]]:
        """The two hints and, as far as there are cores, several streams or fewer threads: never
        more threads than the recipe gives it.

        Then fp32, where the artifact leaves the arithmetic to the device or computes in 16 bits:
        it is nearer to the original than whatever the build's checks measured. Never the other
        way: an artifact that computes in fp32 was checked in fp32.
        """
        own = {**_OWN, **compiled.settings}
        latency: dict[str, Setting] = {"performance_hint": "latency"}
        if "streams" in own:
            latency["streams"] = 1
        throughput: dict[str, Setting] = {"performance_hint": "throughput"}
        choices = [latency, throughput]
        for count in _halves(min(_cores(), int(own.get("threads", _cores())))):
            choices.append({**latency, "threads": count})
            if count > 1:  # one stream is the hint latency
                choices.append({**throughput, "streams": count})
        choices.append({"compute": "fp32"})
        # No more than what differs, which is what a table of them should say.
        found: list[dict[str, Setting]] = []
        for choice in choices:
            other = {key: value for key, value in choice.items() if own.get(key) != value}
            if other and other not in found:
                found.append(other)
        return found

    def build(
        self,
        graph: Graph,
        target: Target,
        precision: Precision,
        options: OpenVINOOptions,
        directory: Path,
        quantization: Quantization | None = None,
        aside: Aside = Aside(),
    ) -> Compiled:
        from lepton_edge_openvino.build import ir_from_graph
        from lepton_edge_openvino.decoder import generative_ir_from_graph, is_decoder

        make = generative_ir_from_graph if is_decoder(graph) else ir_from_graph
        return make(graph, precision, options, directory, quantization, aside.say)

    def load(
        self,
        directory: Path,
        compiled: Compiled,
        device: str | None = None,
        cache: Path | None = None,
    ) -> OpenVINOSession:
        from lepton_edge_openvino.session import OpenVINOSession

        library = openvino()
        core = library.Core()
        device = device or "CPU"
        _check_device(core, device)
        # OpenVINO's cache tells models apart by their paths, and does not follow links.
        path = str(directory.resolve() / "model.xml")
        try:
            properties = session_properties(core, device, compiled.settings)
            asked = f"{path} {sorted(properties.items())}"
            with model_cache(core, device, library.__version__, cache, asked) as cached:
                try:
                    model = core.compile_model(path, device, properties | cached)
                except RuntimeError:
                    if not cached:
                        raise
                    model = core.compile_model(path, device, properties)
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO {library.__version__.split('-')[0]} cannot open {directory} on "
                f"{device}: {last_line(error)}",
                hint=f"it was built with {compiled.requires}: install that, or build it again "
                "(with precision: fp32, if it is a build that failed)",
            ) from error
        return OpenVINOSession(model, compiled, device)

    def prove_steps(self, directory: Path, compiled: Compiled, aside: Aside) -> OpenVINOStepper:
        from lepton_edge_openvino.stepper import open_stepper

        return open_stepper(openvino().Core(), directory, compiled, "CPU")

    def load_generator(
        self,
        directory: Path,
        compiled: Compiled,
        generation: Generation,
        device: str | None = None,
        cache: Path | None = None,
    ) -> Generator:
        from lepton_edge_openvino.pipeline import open_generator

        core = openvino().Core()
        device = device or "CPU"
        _check_device(core, device)
        return open_generator(core, directory.resolve(), compiled, generation, device)


def session_properties(
    core: Any, device: str, settings: Mapping[str, Setting]
) -> dict[str, Setting]:
    """OpenVINO's properties for a session. Arithmetic that the device lacks becomes fp32."""
    hint = str(settings.get("performance_hint", "latency"))
    properties: dict[str, Setting] = {"PERFORMANCE_HINT": hint.upper()}
    if "threads" in settings:
        properties["INFERENCE_NUM_THREADS"] = settings["threads"]
    if "streams" in settings:
        properties["NUM_STREAMS"] = settings["streams"]
    compute = str(settings.get("compute", "auto"))
    if compute not in ("auto", *_OPENVINO_NAMES):
        raise BackendError(
            f"this lepton-edge-openvino does not compute in {compute!r}, as the manifest asks",
            hint="pip install --upgrade lepton-edge-openvino",
        )
    if compute != "auto":
        able = compute.upper() in core.get_property(device, "OPTIMIZATION_CAPABILITIES")
        properties["INFERENCE_PRECISION_HINT"] = _OPENVINO_NAMES[compute if able else "fp32"]
    return properties


def generator_properties(
    core: Any, device: str, settings: Mapping[str, Setting]
) -> dict[str, Setting]:
    """OpenVINO's properties for a decoder."""
    properties = session_properties(core, device, settings)
    properties["PERFORMANCE_HINT"] = "LATENCY"  # many texts are one batch, and not many streams
    properties.pop("NUM_STREAMS", None)
    if "kv_cache_precision" in settings:
        kept = settings["kv_cache_precision"]
        # What is computed in 16 bits cannot be kept in 32, and would be no better for it.
        if kept == "f32" and computes_in(core, device, properties) != "f32":
            kept = computes_in(core, device, properties)
        properties["KV_CACHE_PRECISION"] = kept
    if "dynamic_quantization_group_size" in settings:
        size = settings["dynamic_quantization_group_size"]
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = size
    return properties


def computes_in(core: Any, device: str, properties: Mapping[str, Setting]) -> str:
    """OpenVINO's name of the arithmetic's number format, as it chooses it where nobody does."""
    able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    return str(properties.get("INFERENCE_PRECISION_HINT", "bf16" if "BF16" in able else "f32"))


def _check_device(core: Any, device: str) -> None:
    # Asking which devices there are loads every device's library; the CPU is always there.
    if device == "CPU":
        return
    available = core.available_devices
    if device.partition(".")[0] not in {name.partition(".")[0] for name in available}:
        raise BackendError(
            f"OpenVINO has no device {device!r} here", hint=f"available: {', '.join(available)}"
        )


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _halves(cores: int) -> list[int]:
    """Half of the cores, and a quarter, and so on down to one."""
    found = []
    while cores > 1:
        cores //= 2
        found.append(cores)
    return found


_OWN: dict[str, Setting] = {"performance_hint": "latency", "compute": "auto"}
_OPENVINO_NAMES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.system import device
from detseg3d.system.device import (
    autocast,
    autocast_dtype,
    choose_precision,
    compute_in,
    has_fast_bfloat16,
    precision_in_use,
    require_correct_convolutions,
    resolve_device,
)
from tests.forks import ForkOutcome, ForkScript, run_in_forks


def give_cuda(monkeypatch: pytest.MonkeyPatch, count: int, bfloat16: bool = True) -> None:
    """Simulate a machine with ``count`` CUDA devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16 or including_emulation
    )


def give_cpu(monkeypatch: pytest.MonkeyPatch, bfloat16: bool) -> None:
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda: bfloat16)


@pytest.mark.parametrize(("count", "device"), [(0, "cpu"), (2, "cuda")])
def test_cuda_is_the_default_if_it_is_available(monkeypatch: pytest.MonkeyPatch, count: int, device: str) -> None:
    give_cuda(monkeypatch, count)
    assert resolve_device(None) == torch.device(device)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_an_available_device_is_returned(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    give_cuda(monkeypatch, 2)
    assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:2", 2), ("meta", 1), ("xpu", 1)])
def test_a_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    give_cuda(monkeypatch, count)
    with pytest.raises(DetSeg3DError) as caught:
        resolve_device(name)
    assert (caught.value.value, caught.value.remedy) == (name, "use -device cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        resolve_device(name)
    assert caught.value.value == name
    assert caught.value.expected is not None and caught.value.expected.startswith("cpu, cuda")


def test_a_device_with_correct_convolutions_is_accepted() -> None:
    require_correct_convolutions(torch.device("cpu"))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("part", ["output", "gradient", "not finite"])
def test_a_device_with_wrong_convolutions_is_refused(
    monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format, part: str
) -> None:
    plain, calls = torch.conv3d, []

    def wrong(image: torch.Tensor, kernel: torch.Tensor, **options: Any) -> torch.Tensor:
        calls.append(None)
        output = plain(image, kernel, **options)
        # Every second call is that of the device. The device is wrong only for many channels in one layout.
        if len(calls) % 2 or image.shape[1] < 24 or not image.is_contiguous(memory_format=layout):
            return output
        if part == "gradient":
            output.register_hook(lambda gradient: gradient * 1.01)
            return output
        return output.roll(1, dims=1) if part == "output" else output * torch.nan

    monkeypatch.setattr(torch, "conv3d", wrong)
    with pytest.raises(DetSeg3DError) as caught:
        require_correct_convolutions(torch.device("cpu"))
    assert "cpu" in caught.value.value and "-device cpu" in str(caught.value.remedy)


def test_the_convolutions_of_mps_are_tried_before_use(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[torch.device] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(device, "require_correct_convolutions", tried.append)
    assert resolve_device("mps") == torch.device("mps")
    assert tried == [torch.device("mps")]


@pytest.mark.parametrize(("bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_old_cuda_devices_use_float16(monkeypatch: pytest.MonkeyPatch, bfloat16: bool, dtype: torch.dtype) -> None:
    give_cuda(monkeypatch, 1, bfloat16)
    assert autocast_dtype(torch.device("cuda")) is dtype


def test_the_precision_depends_on_the_selected_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    @contextmanager
    def using(device: torch.device) -> Iterator[None]:
        current.append(device.index)
        yield
        current.pop()

    give_cuda(monkeypatch, 2, True)
    monkeypatch.setattr(torch.cuda, "device", using)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: current[-1] == 1)
    assert autocast_dtype(torch.device("cuda:1")) is torch.bfloat16
    assert autocast_dtype(torch.device("cuda:0")) is torch.float16


@pytest.mark.parametrize(("bfloat16", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_processors_with_bfloat16_instructions_use_bfloat16(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool, dtype: torch.dtype | None
) -> None:
    give_cpu(monkeypatch, bfloat16)
    assert autocast_dtype(torch.device("cpu")) is dtype


@pytest.mark.parametrize(("bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast_computes_in_the_chosen_precision(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool, dtype: torch.dtype
) -> None:
    give_cpu(monkeypatch, bfloat16)
    layer = torch.nn.Linear(4, 4)
    with autocast(torch.device("cpu")):
        assert layer(torch.ones(1, 4)).dtype is dtype
    assert layer(torch.ones(1, 4)).dtype is torch.float32


# -- What runs decides, not the processor's flags ----------------------------------------------------------------------

HAS_BFLOAT16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


# The forks have used neither oneDNN nor ATen, which read these variables when they are used for the first time.
IMPORTS = """
import logging, time, torch
from detseg3d.core.precision import Precision
from detseg3d.system.device import compute_in, has_fast_bfloat16
torch.set_num_threads(1)
"""
TIMES = """
import time, torch
from detseg3d.system.device import has_fast_bfloat16
print(has_fast_bfloat16())
image = torch.randn(2, 32, 8, 16, 16).contiguous(memory_format=torch.channels_last_3d)
for dtype in (torch.bfloat16, torch.float32):
    layer = torch.nn.Conv3d(32, 32, 3, padding=1).to(dtype)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        layer(image.to(dtype))
        seconds.append(time.process_time() - start)
    print(min(seconds))
"""
SETTING = """
import logging, torch
from detseg3d.core.precision import Precision
from detseg3d.system.device import compute_in
logging.basicConfig(format="%(message)s")
print(compute_in(torch.device("cpu"), Precision("{}")), flush=True)
"""
CAPABILITIES = {"AVX2": "avx2", "AVX512_CORE": "avx512", "AVX512_CORE_BF16": "avx2", "ALL": "default"}


def limited_to(instructions: str) -> dict[str, str]:
    return {"ONEDNN_MAX_CPU_ISA": instructions, "ATEN_CPU_CAPABILITY": CAPABILITIES[instructions]}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, ForkOutcome]:
    """Return the outcome of TIMES for each set of instructions, and of SETTING for each wanted precision."""
    scripts = {instructions: ForkScript(TIMES, limited_to(instructions)) for instructions in CAPABILITIES}
    scripts |= {wanted: ForkScript(SETTING.format(wanted), limited_to("AVX2")) for wanted in ("auto", "bf16")}
    outcomes = dict(zip(scripts, run_in_forks(IMPORTS, list(scripts.values())), strict=True))
    assert [outcome.errors for outcome in outcomes.values() if outcome.code != 0] == []
    return outcomes


@pytest.mark.parametrize(
    ("instructions", "native"), [("AVX2", False), ("AVX512_CORE", False), ("AVX512_CORE_BF16", True), ("ALL", True)]
)
def test_the_instructions_that_onednn_uses_decide_whether_bfloat16_is_fast(
    outcomes: dict[str, ForkOutcome], instructions: str, native: bool
) -> None:
    words = outcomes[instructions].output.split()
    answer, half, single = words[0] == "True", float(words[1]), float(words[2])
    assert answer == (native and HAS_BFLOAT16)
    # Emulation without AVX-512 takes about 100 times as long as float32. The instructions take no longer than float32.
    assert half < 5 * single if answer else half > 5 * single or instructions != "AVX2"


def test_a_processor_without_bfloat16_instructions_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("nothing to compute")

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch, "conv3d", fail)
    assert not has_fast_bfloat16.__wrapped__()


@pytest.mark.parametrize(("value", "native"), [(0.0, True), (2.0**-125, False)])
def test_results_below_the_smallest_normal_number_identify_an_emulation(
    monkeypatch: pytest.MonkeyPatch, value: float, native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch, "conv3d", lambda *_: torch.full((1, 32, 4, 4, 4), value, dtype=torch.bfloat16))
    assert has_fast_bfloat16.__wrapped__() is native


def test_a_chosen_precision_applies_to_one_type_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cpu(monkeypatch, True)
    monkeypatch.setattr(device, "_IN_USE", {})
    compute_in(torch.device("cpu"), Precision.FP32)
    assert autocast_dtype(torch.device("cpu")) is None
    with autocast(torch.device("cpu")):
        assert torch.nn.Linear(4, 4)(torch.ones(1, 4)).dtype is torch.float32
    give_cuda(monkeypatch, 1)
    assert autocast_dtype(torch.device("cuda")) is torch.bfloat16


@pytest.fixture
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_IN_USE", {})


@pytest.mark.usefixtures("nothing_chosen")
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("wanted", [Precision.BF16, Precision.FP32])
def test_a_processor_uses_the_requested_precision(
    monkeypatch: pytest.MonkeyPatch, native: bool, wanted: Precision
) -> None:
    give_cpu(monkeypatch, native)
    assert compute_in(torch.device("cpu"), wanted) is precision_in_use(torch.device("cpu")) is wanted
    with autocast(torch.device("cpu")):
        dtype = torch.nn.Linear(4, 4)(torch.ones(1, 4)).dtype
    assert dtype is (torch.bfloat16 if wanted is Precision.BF16 else torch.float32)


@pytest.mark.usefixtures("nothing_chosen")
def test_auto_replaces_an_earlier_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cpu(monkeypatch, True)
    compute_in(torch.device("cpu"), Precision.FP32)
    assert compute_in(torch.device("cpu"), Precision.AUTO) is Precision.BF16
    assert precision_in_use(torch.device("cpu")) is Precision.BF16


@pytest.mark.usefixtures("nothing_chosen")
@pytest.mark.parametrize(
    ("name", "wanted"),
    [("cpu", Precision.FP16), ("mps", Precision.FP16), ("mps", Precision.BF16), ("xpu", Precision.BF16)],
)
def test_a_precision_that_the_device_does_not_compute_in_is_refused(name: str, wanted: Precision) -> None:
    with pytest.raises(DetSeg3DError) as raised:
        compute_in(torch.device(name), wanted)
    assert raised.value.value == f"--precision {wanted} on {name}"
    assert "fp32" in str(raised.value.expected)
    assert raised.value.remedy == "use --precision auto"
    assert device._IN_USE == {}  # unchanged


@pytest.mark.usefixtures("nothing_chosen")
@pytest.mark.parametrize("wanted", [Precision.BF16, Precision.FP16, Precision.FP32])
def test_cuda_computes_in_each_precision(monkeypatch: pytest.MonkeyPatch, wanted: Precision) -> None:
    give_cuda(monkeypatch, 1, bfloat16=True)
    assert compute_in(torch.device("cuda"), wanted) is wanted
    assert autocast_dtype(torch.device("cuda")) is {"bf16": torch.bfloat16, "fp16": torch.float16}.get(wanted.value)


@pytest.mark.usefixtures("nothing_chosen")
@pytest.mark.parametrize(
    ("native", "wanted", "warned"),
    [(False, Precision.BF16, True), (True, Precision.BF16, False), (False, Precision.AUTO, False)],
)
def test_a_warning_states_the_slowness_of_requested_but_emulated_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    native: bool,
    wanted: Precision,
    warned: bool,
) -> None:
    give_cpu(monkeypatch, native)
    monkeypatch.setattr(device, "_slowness", lambda device, dtype: 42.0)
    compute_in(torch.device("cpu"), wanted)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    assert ("42 times" in caplog.text) == warned


@pytest.mark.parametrize(("wanted", "chosen", "warned"), [("auto", "fp32", False), ("bf16", "bf16", True)])
def test_with_a_limited_onednn_auto_avoids_bfloat16_and_its_slowness_is_measured(
    outcomes: dict[str, ForkOutcome], wanted: str, chosen: str, warned: bool
) -> None:
    outcome = outcomes[wanted]
    assert outcome.output.split() == [chosen]
    assert bool(outcome.errors) == warned
    if warned:
        [times] = re.findall(r"takes (\d+) times as long", outcome.errors)
        assert int(times) > 2


def test_auto_is_not_a_number_format() -> None:
    assert [Precision(name).bytes_per_value for name in ("bf16", "fp16", "fp32")] == [2, 2, 4]
    with pytest.raises(ValueError, match="auto"):
        _ = Precision.AUTO.bytes_per_value


def test_choosing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cpu(monkeypatch, True)
    monkeypatch.setattr(device, "_IN_USE", {})
    assert choose_precision(torch.device("cpu"), Precision.FP32) is Precision.FP32
    assert precision_in_use(torch.device("cpu")) is Precision.BF16

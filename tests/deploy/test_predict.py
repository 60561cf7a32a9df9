from __future__ import annotations

import builtins
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import detseg3d
from detseg3d.cli import export_model as export_command
from detseg3d.cli import predict as predict_command
from detseg3d.core.backend import Backend, NetworkFormat
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.precision import Precision
from detseg3d.data.folders import ModelFolder
from detseg3d.data.images import read_image, write_image
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.memory import prediction_bytes
from detseg3d.inference.model_file import model_backend, opened_model
from detseg3d.inference.predictor import Predictor
from detseg3d.inference.result import Prediction
from detseg3d.pipeline.exchange import export_model, install_model
from detseg3d.preprocessing.case import preprocess_case
from detseg3d.system.device import compute_in
from tests.scans import make_scan
from tests.shared_models import ModelContent, changed_model, read_content

for package in ("onnx", "openvino", "onnxruntime"):
    if importlib.util.find_spec(package) is None:  # to import onnxruntime here would start its telemetry
        pytest.skip(f"{package} is in the extra deploy", allow_module_level=True)

BACKENDS = (Backend.OPENVINO, Backend.ONNXRUNTIME)
Files = dict[Backend, Path]


@pytest.fixture(scope="module")
def files(whole_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The tiny model with two folds, exported for each backend."""
    folder = tmp_path_factory.mktemp("exported")
    files = {backend: folder / f"{backend}.safetensors" for backend in BACKENDS}
    for backend, file in files.items():
        export_model(whole_model, file, network_format=backend.network_format)
    return files


@pytest.fixture(autouse=True)
def in_float32() -> Any:
    compute_in(torch.device("cpu"), Precision.FP32)
    yield
    compute_in(torch.device("cpu"), Precision.AUTO)


def load(model: Path, backend: Backend, folds: tuple[int, ...] = (0, 1), **options: Any) -> Predictor:
    usual = {"device": "cpu", "backend": backend, "precision": Precision.FP32, **options}
    with opened_model(model) as folder:
        return Predictor.from_model_folder(folder, folds, LoadOptions(**usual))


def predict(predictor: Predictor, image: np.ndarray) -> Prediction:
    return predictor.predict_array(image, (1, 1, 1), keep_probabilities=True)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / max(1, int(first.sum() + second.sum()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("folds", "seed", "shape"), [((1,), 40, (30, 36, 33)), ((0, 1), 41, (21, 40, 35))])
def test_all_backends_find_the_same_lesions(
    whole_model: Path, files: Files, backend: Backend, folds: tuple[int, ...], seed: int, shape: tuple[int, ...]
) -> None:
    image, _ = make_scan(seed, lesions=3, shape=shape)
    wanted = predict(load(whole_model, Backend.TORCH, folds), image)
    given = predict(load(files[backend], backend, folds), image)
    assert len(wanted.lesions) > 0
    assert [lesion.box for lesion in given.lesions] == [lesion.box for lesion in wanted.lesions]
    assert [lesion.score for lesion in given.lesions] == pytest.approx(
        [lesion.score for lesion in wanted.lesions], abs=1e-3
    )
    assert dice(given.instances > 0, wanted.instances > 0) > 0.999


@pytest.mark.parametrize("backend", BACKENDS)
def test_mirrored_copies_are_averaged(tiny_model: Path, files: Files, backend: Backend, tmp_path: Path) -> None:
    scan, _ = make_scan(43)
    plain, mirrored = (load(files[backend], backend, (0,)) for _ in range(2))
    wanted = load(tiny_model, Backend.TORCH, (0,))
    plain.mirror_axes, mirrored.mirror_axes, wanted.mirror_axes = (), (0, 2), (0, 2)
    usual, candidates, reference = (
        model.find_candidates(scan[None], Geometry(scan.shape)) for model in (plain, mirrored, wanted)
    )
    assert usual.detections.scores.tolist() != candidates.detections.scores.tolist()
    assert candidates.detections.scores == pytest.approx(reference.detections.scores, abs=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scan_without_lesions_is_predicted(files: Files, backend: Backend) -> None:
    predictor = load(files[backend], backend, candidate_threshold=1.0)
    result = predictor.predict_array(np.random.default_rng(0).normal(100, 10, (16, 18, 20)), (1, 1, 1))
    assert result.lesions == () or list(result.lesions) == []
    assert not result.instances.any()


def test_exported_networks_are_expected_to_need_more_memory(tiny_model: Path, files: Files) -> None:
    scan = make_scan(40)[0][None]
    exported, usual = load(files[Backend.ONNXRUNTIME], Backend.ONNXRUNTIME, (0,)), load(tiny_model, Backend.TORCH, (0,))
    transform = preprocess_case(scan, (1, 1, 1), usual.plans).transform
    needed = prediction_bytes(usual.plans, transform, usual.device)
    for predictor in (exported, usual):
        predictor.memory_gb = (1.5 * needed + scan.nbytes) / 1e9
    assert len(usual.find_candidates(scan, Geometry(scan.shape[1:])).detections) > 0
    with pytest.raises(DetSeg3DError):
        exported.find_candidates(scan, Geometry(scan.shape[1:]))


def test_the_backend_of_a_file_is_the_default(whole_model: Path, files: Files) -> None:
    assert [model_backend(files[backend]) for backend in BACKENDS] == list(BACKENDS)
    assert model_backend(whole_model) is Backend.TORCH
    image, _ = make_scan(40)
    found = detseg3d.predict(image, files[Backend.ONNXRUNTIME], spacing=(1, 1, 1), device="cpu")
    assert len(found.lesions) > 0


def test_another_backend_than_that_of_the_model_is_refused(whole_model: Path, files: Files) -> None:
    for model, backend in (
        (files[Backend.OPENVINO], Backend.ONNXRUNTIME),
        (files[Backend.OPENVINO], Backend.TORCH),
        (whole_model, Backend.OPENVINO),
    ):
        with pytest.raises(DetSeg3DError) as caught:
            model_backend(model, backend)
        assert caught.value.file == model


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exported_model_can_be_installed(files: Files, backend: Backend, tmp_path: Path) -> None:
    installed = install_model(files[backend], tmp_path)
    fold = ModelFolder(installed.folder).fold(0)
    assert fold.weights(backend.network_format).is_file() and not fold.final_weights.exists()
    assert model_backend(installed.folder) is backend
    predictor = load(installed.folder, backend)
    assert predictor.plans.inference.score_threshold == pytest.approx(0.123)  # the operating point is used
    again = install_model(files[backend], tmp_path, overwrite=True)
    assert again.kept is None  # an unchanged installation


def test_a_trained_and_an_exported_model_give_different_digests(whole_model: Path, files: Files) -> None:
    digests = {load(whole_model, Backend.TORCH).identity.digest}
    digests |= {load(files[Backend.ONNXRUNTIME], Backend.ONNXRUNTIME).identity.digest}
    assert len(digests) == 2


def flip_a_bit(content: ModelContent) -> None:
    name = next(name for name in content.tensors if name.startswith("fold_0/stage2"))
    content.tensors[name][-9] ^= 1


def swap_folds(content: ModelContent) -> None:
    for name in [name for name in content.tensors if name.startswith("fold_0/")]:
        other = name.replace("fold_0", "fold_1")
        content.tensors[name], content.tensors[other] = content.tensors[other], content.tensors[name]


@pytest.mark.parametrize("change", [flip_a_bit, swap_folds])
@pytest.mark.parametrize("backend", BACKENDS)
def test_damaged_or_swapped_networks_are_found_by_the_checksum(
    files: Files, backend: Backend, change: Any, tmp_path: Path
) -> None:
    content = read_content(files[backend])
    checksum = stored_checksum(files[backend])
    change(content)
    damaged = content.write(tmp_path / "m.safetensors", sha256=checksum, networks=str(backend.network_format))
    with pytest.raises(DetSeg3DError) as caught, opened_model(damaged):
        pass
    assert caught.value.file == damaged and "checksum" in caught.value.problem


def stored_checksum(file: Path) -> str:
    from safetensors import safe_open

    with safe_open(str(file), framework="np") as stored:
        return str(json.loads(stored.metadata()["detseg3d"])["sha256"])


@pytest.mark.parametrize("networks", ["detseg3d", "onnx", "openvino"])
def test_a_file_with_networks_of_another_kind_than_it_states_is_refused(
    files: Files, networks: str, tmp_path: Path
) -> None:
    held = Backend.OPENVINO if networks == "onnx" else Backend.ONNXRUNTIME
    wrong = read_content(files[held]).write(tmp_path / "m.safetensors", networks=networks)
    with pytest.raises(DetSeg3DError) as caught:
        install_model(wrong, tmp_path / "results")
    assert caught.value.file == wrong
    assert not list((tmp_path / "results").glob("Dataset*"))


def test_a_network_that_does_not_fit_its_plans_is_refused(files: Files, tmp_path: Path) -> None:
    def swap_stages(content: ModelContent) -> None:
        for fold in ("fold_0", "fold_1"):
            names = f"{fold}/stage1.onnx", f"{fold}/stage2.onnx"
            first, second = (content.tensors[name] for name in names)
            content.tensors[names[0]], content.tensors[names[1]] = second, first

    source = files[Backend.ONNXRUNTIME]
    content = read_content(source)
    swap_stages(content)
    wrong = content.write(tmp_path / "m.safetensors", networks="onnx")
    with pytest.raises(DetSeg3DError) as caught:
        load(wrong, Backend.ONNXRUNTIME)
    assert "image" in str(caught.value.expected) and "crops" in str(caught.value.value)


@pytest.mark.parametrize("package", ["openvino", "onnxruntime"])
def test_a_missing_package_is_named_with_the_extra(files: Files, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def without_package(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return usual(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_package)
    with pytest.raises(DetSeg3DError) as caught:
        load(files[Backend(package)], Backend(package))
    assert "detseg3d[deploy]" in str(caught.value.remedy)


def test_both_commands_work_together(whole_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, _ = make_scan(44)
    write_image(image, Geometry(image.shape), tmp_path / "scans" / "case_0000.nii.gz")
    file, results = tmp_path / "m.safetensors", str(whole_model.parent)
    exported = ["1", "-f", "0", "-o", str(file), "--format", "onnx", "--results", results]
    assert export_command.main(exported) == 0
    usual = ["-i", str(tmp_path / "scans"), "--no_progress", "--precision", "fp32"]
    commands = {
        "torch": [*usual, "-m", str(whole_model), "-f", "0", "-device", "cpu"],
        "onnxruntime": [*usual, "-m", str(file), "--backend", "onnxruntime"],
    }
    for name, command in commands.items():
        assert predict_command.main([*command, "-o", str(tmp_path / name)]) == 0
    masks = [read_image(tmp_path / name / "case.nii.gz")[0] for name in commands]
    assert masks[0].any() and dice(masks[0] > 0, masks[1] > 0) > 0.999


@pytest.mark.parametrize("flag", [["--network", "math:sqrt"], ["-chk", "best"], ["-device", "mps"]])
def test_flags_that_exported_networks_do_not_have_are_refused(
    files: Files, tmp_path: Path, flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    image, _ = make_scan(44)
    write_image(image, Geometry(image.shape), tmp_path / "scan.nii.gz")
    command = ["-i", str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "out"), "-m", str(files[Backend.OPENVINO])]
    assert predict_command.main([*command, *flag]) == 2 or predict_command.main([*command, *flag]) == 1
    assert not (tmp_path / "out" / "scan.nii.gz").exists()


def test_a_custom_network_is_not_exported(whole_model: Path, tmp_path: Path) -> None:
    def name_network(content: ModelContent) -> None:
        for document in ("fold_0/plans.json", "fold_1/plans.json", "plans.json"):
            data = json.loads(content.documents[document])
            data["training"]["network"] = "mine:build"
            content.documents[document] = json.dumps(data)

    export_model(whole_model, tmp_path / "usual.safetensors")
    custom = changed_model(tmp_path / "usual.safetensors", tmp_path / "custom.safetensors", name_network)
    folder = install_model(custom, tmp_path / "results").folder
    with pytest.raises(DetSeg3DError) as caught:
        export_model(folder, tmp_path / "m.safetensors", network_format=NetworkFormat.OPENVINO)
    assert caught.value.value == "mine:build" and caught.value.file == folder / "fold_0"
    assert not (tmp_path / "m.safetensors").exists()


def test_onnx_runtime_stores_and_sends_no_telemetry(tmp_path: Path) -> None:
    """Without the switch, version 1.32 writes an identifier of the machine and events into the home folder."""
    script = (
        "from detseg3d.deploy import runners\n"
        "package = runners._onnxruntime()\n"
        "package.get_available_providers()\n"
        "import os; print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == "1"
    assert [path for path in tmp_path.rglob("*") if "Microsoft" in str(path)] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is concerned")
def test_openvino_leaves_no_signal_stack_behind(files: Files) -> None:
    """On processors with AMX, OpenVINO 2026.4 leaves a stack that is freed: the next signal would end the process."""
    script = (
        "import ctypes, sys\n"
        "from detseg3d.inference.load_options import LoadOptions\n"
        "from detseg3d.inference.model_file import opened_model\n"
        "from detseg3d.inference.predictor import Predictor\n"
        "class Stack(ctypes.Structure):\n"
        "    _fields_ = [('address', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t)]\n"
        "with opened_model(sys.argv[1]) as folder:\n"
        "    predictor = Predictor.from_model_folder(folder, None, LoadOptions(device='cpu'))\n"
        "stack = Stack()\n"
        "assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0\n"
        "print(stack.flags)\n"
    )
    words = [sys.executable, "-c", script, str(files[Backend.OPENVINO])]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr  # 2: no stack is set

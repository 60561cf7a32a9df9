from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from detseg3d.core.backend import Backend
from detseg3d.core.errors import DetSeg3DError
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.model_source import ModelSource


def test_the_backend_of_the_flags_is_used_or_refused(tiny_model: Path) -> None:
    assert ModelSource(tiny_model).with_backend().load.backend is Backend.TORCH
    source = ModelSource(tiny_model, ("0",), LoadOptions(device="cpu", backend=Backend.ONNXRUNTIME))
    for call in (source.with_backend, source.open):
        with pytest.raises(DetSeg3DError) as caught:
            call()
        assert (caught.value.file, caught.value.value) == (tiny_model, "networks for torch")


def test_the_stamp_shows_a_changed_model(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model / "fold_0", tmp_path / "Dataset001" / "fold_0")).parent
    source = ModelSource(model)
    before = source.stamp()
    assert [Path(name).name for name, _, _ in before] == ["plans.json", "model_final.safetensors"]
    assert source.stamp() == before
    os.utime(model / "fold_0" / "model_final.safetensors", ns=(1, 1))
    changed = source.stamp()
    assert changed != before
    (model / "operating_point.json").write_text("{}", encoding="utf-8")
    assert [Path(name).name for name, _, _ in source.stamp()][2:] == ["operating_point.json"]


def test_another_process_receives_the_same_source(tiny_model: Path) -> None:
    source = ModelSource(tiny_model, ("0",), LoadOptions(memory_gb=2.0))
    assert pickle.loads(pickle.dumps(source)) == source


def test_a_program_names_a_model_without_importing_torch() -> None:
    script = (
        "import sys\nfrom detseg3d.serving.model import ServedModel\nfrom detseg3d.inference.load_options import "
        "LoadOptions\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

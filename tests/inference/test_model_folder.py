from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import FoldFolder
from detseg3d.inference.model_folder import load_reference, restrict_mirroring, same_network
from detseg3d.planning.plans import Plans


def test_folds_with_and_without_a_default_spacing_can_be_averaged(tiny_plans: Plans) -> None:
    assert same_network(tiny_plans, tiny_plans.evolve(default_spacing=(3.0, 1.0, 1.0)))


def test_copies_are_mirrored_as_all_folds_were_trained(tiny_plans: Plans, caplog: pytest.LogCaptureFixture) -> None:
    everywhere = tiny_plans.evolve(inference={"mirror_axes": (0, 1, 2)})
    across = tiny_plans.evolve(training={"mirror_axes": (2,)}, inference={"mirror_axes": (2,)})
    with caplog.at_level("WARNING", logger="detseg3d"):
        assert restrict_mirroring(everywhere, [everywhere, everywhere]) == everywhere
        assert restrict_mirroring(across, [across, everywhere]) == across
    assert not caplog.records
    assert restrict_mirroring(everywhere, [everywhere, across]).inference.mirror_axes == (2,)
    assert "trained on scans flipped along z y" in caplog.text


def test_a_model_that_does_not_describe_its_training_scans_is_refused(tiny_plans: Plans, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        load_reference(FoldFolder(tmp_path), tiny_plans)
    assert caught.value.file == tmp_path / "appearance.json"
    assert caught.value.remedy is not None and "--val" in caught.value.remedy


@pytest.mark.parametrize(
    "change",
    [
        {"channel_names": ["T1"]},
        {"normalization": [{"scheme": "none"}]},
        {"channel_names": ["FLAIR", "T1"], "normalization": [{"scheme": "zscore"}] * 2},
    ],
)
def test_training_scans_of_other_channels_are_refused(
    tiny_model: Path, tiny_plans: Plans, change: dict[str, Any]
) -> None:
    assert load_reference(FoldFolder(tiny_model / "fold_0"), tiny_plans).cases == 6
    with pytest.raises(DetSeg3DError) as caught:
        load_reference(FoldFolder(tiny_model / "fold_0"), tiny_plans.evolve(**change))
    assert caught.value.file == tiny_model / "fold_0" / "appearance.json" and caught.value.value == ["FLAIR"]

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.models.custom import CustomCode, check_network_is_named, load_function
from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.plans import Plans
from tests.models.factory import make_targets, train

HERE = "tests.models.test_custom"


class Wider(DetSeg3D):
    """A network with an additional layer."""

    def __init__(self, plans: Plans) -> None:
        super().__init__(plans)
        self.entrance = torch.nn.Conv3d(plans.num_channels, plans.num_channels, 1)


def constant_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return logits.float().flatten(1).mean(1) * 0 + 7


def wrong_type(plans: Plans) -> torch.nn.Module:
    return torch.nn.Identity()


def failing(plans: Plans) -> DetSeg3D:
    raise KeyError("nothing")


def test_the_named_network_and_loss_are_used(tiny_plans: Plans) -> None:
    model = CustomCode(f"{HERE}:Wider", f"{HERE}:constant_loss").build(tiny_plans)
    assert isinstance(model, Wider)
    assert model.mask_loss is constant_loss


def test_without_a_name_the_network_is_detseg3d(tiny_plans: Plans) -> None:
    assert type(CustomCode().build(tiny_plans)) is DetSeg3D


@pytest.mark.parametrize("name", ["module", "module:", ":function", "a b", "module:not a name", ""])
def test_a_name_of_another_form_is_an_error(name: str) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        load_function(name)
    assert caught.value.value == name and caught.value.expected == "module:function"


@pytest.mark.parametrize("name", ["no_such_module_anywhere:build", f"{HERE}:no_such_function", f"{HERE}:HERE"])
def test_a_function_that_cannot_be_imported_is_an_error(name: str) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        CustomCode(network=name).check()
    assert caught.value.value == name


@pytest.mark.parametrize("name", ["wrong_type", "failing"])
def test_a_network_function_that_makes_no_detseg3d_is_an_error(tiny_plans: Plans, name: str) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        CustomCode(f"{HERE}:{name}").build(tiny_plans)
    assert caught.value.value == f"{HERE}:{name}"


def test_a_module_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_plans: Plans
) -> None:
    (tmp_path / "my_network_in_this_folder.py").write_text("from math import sqrt as root\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_function("my_network_in_this_folder:root")(9.0) == 3.0


def test_the_example_of_the_documentation_is_a_network_and_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_plans: Plans
) -> None:
    page = Path(__file__).parents[2] / "docs" / "how_to" / "new_network_or_loss.md"
    _, _, rest = page.read_text(encoding="utf-8").partition("cat > my_network.py <<'END'\n")
    (tmp_path / "my_network.py").write_text(rest.partition("END\n")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = CustomCode("my_network:Mixed", "my_network:squared").build(tiny_plans)
    losses = train(model, [make_targets((24, 20, 22), [[4, 4, 4, 8, 8, 8]])])
    assert torch.isfinite(losses.total(1.0, 0.25)) and "mixture.weight" in model.state_dict()


def test_a_recorded_network_is_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_plans: Plans
) -> None:
    (tmp_path / "somebody_elses_code.py").write_text("open('was_run', 'w').close()\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    plans = tiny_plans.evolve(training={"network": "somebody_elses_code:build"})
    for call in (lambda: check_network_is_named(plans), lambda: CustomCode().build(plans)):
        with pytest.raises(DetSeg3DError) as caught:
            call()
        assert caught.value.value == "somebody_elses_code:build"
        assert "--network somebody_elses_code:build" in str(caught.value.remedy)
    assert not (tmp_path / "was_run").exists()

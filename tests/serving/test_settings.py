from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.serving.settings import Access, read_token

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert Access(host).admits("")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "server.example", "127.0.0.1.example"])
def test_any_other_address_needs_a_token(host: str) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        Access(host)
    assert caught.value.value == host
    access = Access(host, token=TOKEN)
    assert access.admits(TOKEN) and not access.admits("") and not access.admits(TOKEN + "x") and not access.admits("é")


def test_a_further_name_needs_a_token() -> None:
    with pytest.raises(DetSeg3DError) as caught:
        Access(names=("lesions.example",))
    assert caught.value.value == ["lesions.example"]
    assert "lesions.example" in Access(names=("Lesions.example",), token=TOKEN).hosts


def test_an_address_for_all_networks_is_reached_as_localhost() -> None:
    assert "localhost" in Access("0.0.0.0", token=TOKEN).hosts
    assert "localhost" not in Access("192.168.1.5", token=TOKEN).hosts


@pytest.mark.parametrize("token", ["", "pa55word", "é" * 20])
def test_a_weak_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        Access(token=token)
    assert caught.value.value is None and (not token or token not in str(caught.value))


def test_the_token_is_not_part_of_the_representation() -> None:
    assert TOKEN not in repr(Access(token=TOKEN))


def test_a_token_is_read_without_the_end_of_its_line(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n", encoding="utf-8")
    assert read_token(tmp_path / "token") == TOKEN
    with pytest.raises(DetSeg3DError) as caught:
        read_token(tmp_path / "missing")
    assert caught.value.file == tmp_path / "missing"

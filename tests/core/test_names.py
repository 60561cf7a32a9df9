from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import named_like, normal_name


@given(st.text())
def test_all_normal_forms_of_a_name_become_equal(name: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    assert normal_name(composed) == normal_name(decomposed) == normal_name(name)


def test_a_name_that_is_not_utf_8_stays_unchanged() -> None:
    name = os.fsdecode(b"m\xfcller")
    assert normal_name(name) == name
    assert named_like({name: 1}, [name]) == {name: 1}


def test_matching_entries_get_the_preferred_names_and_others_keep_their_names() -> None:
    found = {"u\u0308": 1, "a": 2, "\u00e9": 3}
    assert named_like(found, ["\u00fc", "e\u0301", "b"]) == {"\u00fc": 1, "a": 2, "e\u0301": 3}


@pytest.mark.parametrize(("found", "names"), [({"u\u0308": 1, "\u00fc": 2}, []), ({}, ["u\u0308", "\u00fc"])])
def test_two_names_that_look_the_same_are_refused(found: dict[str, int], names: list[str]) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        named_like(found, names)
    assert set(caught.value.value) == {ascii("u\u0308"), ascii("\u00fc")}  # type: ignore[call-overload]

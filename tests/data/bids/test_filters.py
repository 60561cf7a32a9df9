from __future__ import annotations

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.bids.filters import parse_channels, parse_filter
from detseg3d.data.bids.names import BidsName, parse_bids_name


def name_of(text: str) -> BidsName:
    name = parse_bids_name(f"{text}.nii.gz")
    assert name is not None
    return name


@pytest.mark.parametrize(
    ("words", "name", "accepted"),
    [
        (["acq=highres"], "sub-1_acq-highres_FLAIR", True),
        (["acq=highres"], "sub-1_FLAIR", False),
        (["acq="], "sub-1_FLAIR", True),
        (["acq="], "sub-1_acq-highres_FLAIR", False),
        (["run=1"], "sub-1_run-01_FLAIR", True),
        (["run=1"], "sub-1_run-10_FLAIR", False),
        (["sub=1"], "sub-01_FLAIR", False),
        (["ses=1", "ses=2"], "sub-1_ses-2_FLAIR", True),
        (["ses=1", "acq="], "sub-1_ses-1_acq-x_FLAIR", False),
        (["suffix=roi"], "sub-1_FLAIR_roi", True),
    ],
)
def test_a_filter_accepts_names_with_its_values(words: list[str], name: str, accepted: bool) -> None:
    assert parse_filter(words).accepts(name_of(name)) is accepted


def test_a_mask_without_an_entity_does_not_contradict_a_filter() -> None:
    chosen = parse_filter(["acq=highres"])
    assert not chosen.contradicts(name_of("sub-1_mask"))
    assert chosen.contradicts(name_of("sub-1_acq-lowres_mask"))


@pytest.mark.parametrize("word", ["acq", "=1", "acq-highres", "acq=a b", "acq==1"])
def test_a_filter_of_another_form_is_refused(word: str) -> None:
    with pytest.raises(DetSeg3DError) as error:
        parse_filter([word])
    assert error.value.value == word


def test_the_filter_of_a_channel_replaces_the_general_filter() -> None:
    plain, contrast = parse_channels(["T1w,ce=", "T1w,ce=gadolinium"])
    general = parse_filter(["ce=other", "run=1"])
    assert (plain.name, contrast.name) == ("T1w", "T1w_ce-gadolinium")
    assert plain.accepts(name_of("sub-1_run-1_T1w"), general)
    assert contrast.accepts(name_of("sub-1_ce-gadolinium_run-1_T1w"), general)
    assert not contrast.accepts(name_of("sub-1_ce-gadolinium_run-2_T1w"), general)
    assert not plain.accepts(name_of("sub-1_T1w_run-1_T1w"), general)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], []),
        (["FLAIR", "FLAIR"], ["FLAIR", "FLAIR"]),
        (["T1w,ce"], "ce"),
        (["FLAIR.nii.gz"], "FLAIR.nii.gz"),
        (["sub-1_FLAIR"], "sub-1_FLAIR"),
    ],
)
def test_channels_of_another_form_are_refused(words: list[str], value: object) -> None:
    with pytest.raises(DetSeg3DError) as error:
        parse_channels(words)
    assert error.value.value == value

"""Choices among the files of BIDS: suffixes and values of entities."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.bids.names import BidsName

__all__ = ["BidsChannel", "BidsFilter", "parse_channels", "parse_filter"]

_PAIR = re.compile(r"([a-zA-Z0-9]+)=([^=,\s]*)")
_NAME = re.compile(r"[a-zA-Z0-9]+")


@dataclass(frozen=True)
class BidsFilter:
    """Values that entities of a name may have.

    Attributes
    ----------
    values : tuple of (str, str)
        Key and value. A key may occur several times: one of its values must match. An empty value stands for a name
        without the entity. The key ``suffix`` stands for the suffix.

    Examples
    --------
    >>> from detseg3d.data.bids.names import parse_bids_name
    >>> chosen = parse_filter(["acq=highres", "run=1", "run=2"])
    >>> chosen.accepts(parse_bids_name("sub-1_acq-highres_run-02_FLAIR.nii.gz"))
    True
    >>> chosen.accepts(parse_bids_name("sub-1_run-02_FLAIR.nii.gz"))
    False
    """

    values: tuple[tuple[str, str], ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Each key once."""
        return tuple(dict.fromkeys(key for key, _ in self.values))

    def accepts(self, name: BidsName) -> bool:
        """Return whether a name has an accepted value of each entity."""
        return all(self._accepts_entity(name, key) for key in self.keys)

    def contradicts(self, name: BidsName) -> bool:
        """Return whether an entity of a name has a value that the filter does not accept.

        Missing entities do not contradict, because the name of a mask often lacks entities of its image.
        """
        return any(name.value(key) is not None and not self._accepts_entity(name, key) for key in self.keys)

    def _accepts_entity(self, name: BidsName, key: str) -> bool:
        return any(name.has(key, value) for other, value in self.values if other == key)

    def overriding(self, general: BidsFilter) -> BidsFilter:
        """Return both filters; keys of this one replace those of the general one."""
        return BidsFilter((*(pair for pair in general.values if pair[0] not in self.keys), *self.values))


@dataclass(frozen=True)
class BidsChannel:
    """One channel of the scans: a suffix and, if several images have the suffix, values of entities."""

    suffix: str
    filter: BidsFilter = field(default_factory=BidsFilter)

    @property
    def name(self) -> str:
        """Name of the channel, such as ``FLAIR`` or ``T1w_ce-gadolinium``."""
        return "_".join([self.suffix, *(f"{key}-{value}" for key, value in self.filter.values if value)])

    def accepts(self, name: BidsName, general: BidsFilter) -> bool:
        """Return whether an image may be this channel."""
        return name.suffix == self.suffix and not name.words and self.filter.overriding(general).accepts(name)


def parse_filter(words: Sequence[str]) -> BidsFilter:
    """Return the filter that ``KEY=VALUE`` words describe.

    Raises
    ------
    DetSeg3DError
        If a word has another form.
    """
    pairs = [_PAIR.fullmatch(word) for word in words]
    wrong = [word for word, pair in zip(words, pairs, strict=True) if pair is None]
    if wrong:
        raise DetSeg3DError(
            "a filter of BIDS files cannot be understood",
            value=wrong[0],
            expected="ENTITY=VALUE, such as acq=highres, or ENTITY= for files without the entity",
        )
    return BidsFilter(tuple((pair.group(1), pair.group(2)) for pair in pairs if pair is not None))


def parse_channels(words: Sequence[str]) -> tuple[BidsChannel, ...]:
    """Return the channels that words such as ``FLAIR`` or ``T1w,ce=gadolinium`` describe.

    Raises
    ------
    DetSeg3DError
        If a word has another form, or two channels are equal.

    Examples
    --------
    >>> [channel.name for channel in parse_channels(["T1w,ce=", "T1w,ce=gadolinium"])]
    ['T1w', 'T1w_ce-gadolinium']
    """
    channels = []
    for word in words:
        suffix, *pairs = word.split(",")
        if not _NAME.fullmatch(suffix):
            raise DetSeg3DError(
                "a suffix of BIDS images cannot be understood",
                value=word,
                expected="SUFFIX, or SUFFIX,ENTITY=VALUE, such as FLAIR or T1w,ce=gadolinium",
            )
        channels.append(BidsChannel(suffix, parse_filter(pairs)))
    names = [channel.name for channel in channels]
    if not names or len(set(names)) != len(names):
        raise DetSeg3DError(
            "two channels have the same suffix" if names else "no suffix is given",
            value=list(words),
            expected="a different suffix for each channel, or a filter such as T1w,ce=gadolinium",
        )
    return tuple(channels)

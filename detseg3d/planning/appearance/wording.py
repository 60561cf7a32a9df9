"""Describe the differences between a scan and the training scans in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from detseg3d.planning.appearance.comparison import Comparison
from detseg3d.planning.appearance.measures import Kind

__all__ = ["WORDS"]


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _percent(comparison: Comparison) -> tuple[str, str]:
    low, high = (f"{100 * value:.0f} %" for value in (comparison.training_minimum, comparison.training_maximum))
    return f"{100 * comparison.value:.0f} %", _range(low, high)


def _amount(comparison: Comparison, unit: str) -> tuple[str, str]:
    low, high = (f"{value:.2g}" for value in (comparison.training_minimum, comparison.training_maximum))
    if comparison.training_minimum >= 10:
        low, high = (f"{value:.0f}" for value in (comparison.training_minimum, comparison.training_maximum))
    value = f"{comparison.value:.0f}" if comparison.value >= 10 else f"{comparison.value:.2g}"
    return f"{value} {unit}", f"{_range(low, high)} {unit}"


def _of(comparison: Comparison) -> str:
    return "" if comparison.channel is None else f" of channel {comparison.channel}"


def _share(text: str) -> Any:
    def describe(comparison: Comparison) -> str:
        value, training = _percent(comparison)
        return f"{value} of the voxels{_of(comparison)} {text}; {training} in the training"

    return describe


def _length(name: str) -> Any:
    def describe(comparison: Comparison) -> str:
        value, training = _amount(comparison, "mm")
        return f"{name}{_of(comparison)} along {comparison.axis} is {value}; {training} in the training"

    return describe


def _detail_words(comparison: Comparison) -> str:
    value, training = _amount(comparison, "mm")
    blurred = comparison.value > comparison.training_median
    cause = "thick slices or blur" if blurred else "noise or finer slices"
    return (
        f"the finest detail{_of(comparison)} along {comparison.axis} is {value}, as with {cause}; "
        f"{training} in the training"
    )


def _constant(comparison: Comparison) -> str:
    return f"all voxels{_of(comparison)} have the same value"


def _tilt(comparison: Comparison) -> str:
    value, training = f"{comparison.value:.0f}°", f"{comparison.training_maximum:.0f}°"
    return f"the volume is tilted by {value} against the axes of the patient; at most {training} in the training"


def _channel_order(comparison: Comparison) -> str:
    return f"the intensities{_of(comparison)} are more similar to another channel of the training"


def _layout_words(comparison: Comparison) -> str:
    return (
        f"bright and dark regions{_of(comparison)} lie elsewhere than in the training: their correlation is "
        f"{comparison.value:.2f}; at least {comparison.training_minimum:.2f} in the training"
    )


def _noise_words(comparison: Comparison) -> str:
    ratio, low, high = (
        value / comparison.training_median
        for value in (comparison.value, comparison.training_minimum, comparison.training_maximum)
    )
    return (
        f"the noise{_of(comparison)} is {ratio:.2g} times that of the median training scan; "
        f"{_range(f'{low:.2g}', f'{high:.2g}')} times in the training"
    )


def _histogram_words(comparison: Comparison) -> str:
    return (
        f"the normalised intensities{_of(comparison)} lie {comparison.value:.2g} standard deviations from those of the "
        f"training on average; at most {comparison.training_maximum:.2g} in the training"
    )


WORDS: Final[Mapping[Kind, Any]] = {
    Kind.CONSTANT: _constant,
    Kind.SPACING: _length("the spacing"),
    Kind.FIELD_OF_VIEW: _length("the field of view"),
    Kind.OBLIQUITY: _tilt,
    Kind.ABOVE_WINDOW: _share("lie above the CT window of the training"),
    Kind.BELOW_WINDOW: _share("lie below the CT window of the training"),
    Kind.CHANNEL_ORDER: _channel_order,
    Kind.COMMONEST_VALUE: _share("have the same value, as in a masked background"),
    Kind.BACKGROUND: _share("are background"),
    Kind.LAYOUT: _layout_words,
    Kind.DETAIL: _detail_words,
    Kind.NOISE: _noise_words,
    Kind.HISTOGRAM: _histogram_words,
}

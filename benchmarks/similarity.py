"""How often scans of a data set are called unlike the training, as they are and after changes that ought to be noticed.

    python benchmarks/similarity.py DATA [DATA …] [--scans 8] [--two_channels]

DATA are raw data sets (DatasetXXX_Name). Each set is divided into five folds. "As it is" counts all validation scans
against the training scans of their fold. A change is made to some validation scans of each fold (--scans in all). The
table says how many of them were called unlike the training, and the commonest first reason. Nothing is trained.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.core.body import body_box
from detseg3d.core.geometry import Geometry
from detseg3d.data.dataset import RawDataset, load_raw_dataset
from detseg3d.data.images import read_channels
from detseg3d.planning.appearance.comparison import Similarity
from detseg3d.planning.appearance.measures import Kind
from detseg3d.planning.appearance.scan import ScanAppearance, measure_appearance
from detseg3d.planning.appearance.training import TrainingAppearance
from detseg3d.planning.measuring import measure_dataset
from detseg3d.planning.planner import choose_normalization
from detseg3d.planning.sections import ChannelNormalization, ZScoreNormalization
from detseg3d.system.run import Run

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scan:
    """Channels ``(C, Z, Y, X)`` at their place."""

    images: Array
    geometry: Geometry

    def each(self, change: Callable[[Array], Array]) -> Scan:
        """The same change for every channel; a new size keeps the spacing."""
        images = np.stack([np.asarray(change(channel), np.float32) for channel in self.images])
        return Scan(images, replace(self.geometry, shape=images.shape[1:]))

    def look(self) -> ScanAppearance:
        """Its appearance."""
        return measure_appearance(self.images, self.geometry)


# -- Changes -----------------------------------------------------------------------------------------------------------


def thick_slices(scan: Scan, millimetres: float = 8.0) -> Scan:
    """Means of neighbouring slices, as a scan of thicker slices has them."""
    factor = max(2, round(millimetres / scan.geometry.spacing[0]))
    count = max(1, scan.images.shape[1] // factor)
    cut = scan.images[:, : count * factor]
    images = cut.reshape(len(cut), count, -1, *cut.shape[2:])[:, :, :factor].mean(axis=2)
    spacing = (scan.geometry.spacing[0] * factor, *scan.geometry.spacing[1:])
    return Scan(images.astype(np.float32), replace(scan.geometry, shape=images.shape[1:], spacing=spacing))


def thick_slices_interpolated(scan: Scan) -> Scan:
    """Thick slices, resampled linearly to the number that there was."""
    thick = thick_slices(scan)
    zoom = (1, scan.images.shape[1] / thick.images.shape[1], 1, 1)
    images = ndimage.zoom(thick.images, zoom, order=1, mode="nearest", grid_mode=True).astype(np.float32)
    return Scan(images, replace(scan.geometry, shape=images.shape[1:]))


def masked(scan: Scan) -> Scan:
    """Nothing but the inside of an ellipsoid, as after a brain extraction; elsewhere the lowest value or 0."""
    grid = np.indices(scan.images.shape[1:], np.float32)
    box = np.array(body_box(scan.images)).reshape(2, 3)
    middle, radii = box.sum(axis=0) / 2 - 0.5, (box[1] - box[0]) * 0.38
    outside = sum(((g - m) / r) ** 2 for g, m, r in zip(grid, middle, radii, strict=True)) > 1
    return scan.each(lambda channel: np.where(outside, min(0.0, float(channel.min())), channel))


def noisy(scan: Scan, factor: float = 5.0) -> Scan:
    """Add white noise outside the padding, so that the noise is ``factor`` times as strong."""
    random = np.random.default_rng(0)
    look = scan.look()
    images = []
    for channel, figures in zip(scan.images, look.channels, strict=True):
        sigma = (figures.noise or 0.0) * np.sqrt(factor**2 - 1)
        noise = random.normal(0, sigma, channel.shape)
        changed = np.abs(channel + noise) if channel.min() >= 0 else channel + noise
        images.append(np.where(channel == channel.min(), channel, changed))
    return Scan(np.stack(images).astype(np.float32), scan.geometry)


def middle_part(scan: Scan, shares: Sequence[float]) -> Scan:
    """The middle of the volume, a share of each axis."""
    cuts = []
    for length, share in zip(scan.images.shape[1:], shares, strict=True):
        keep = max(1, round(length * share))
        first = (length - keep) // 2
        cuts.append(slice(first, first + keep))
    return scan.each(lambda channel: channel[tuple(cuts)])


def upside_down(scan: Scan) -> Scan:
    """The patient stands on the head; the header says nothing of it."""
    return scan.each(lambda channel: channel[::-1])


def inverted(channel: Array) -> Array:
    """Bright is dark."""
    return channel.max() + channel.min() - channel


CHANGES: dict[str, Callable[[Scan], Scan]] = {
    "+1024": lambda scan: scan.each(lambda channel: channel + 1024),
    "× 10": lambda scan: scan.each(lambda channel: channel * 10),
    "× 0.001": lambda scan: scan.each(lambda channel: channel * 1e-3),
    "inverted contrast": lambda scan: scan.each(inverted),
    "masked, 0 outside": masked,
    "8 mm slices": thick_slices,
    "8 mm slices, interpolated": thick_slices_interpolated,
    "three slices": lambda scan: middle_part(scan, (3 / scan.images.shape[1], 1, 1)),
    "a quarter of each slice": lambda scan: middle_part(scan, (1, 0.5, 0.5)),
    "a quarter of each axis": lambda scan: middle_part(scan, (0.25, 0.25, 0.25)),
    "twice the field of view": lambda scan: scan.each(
        lambda channel: np.pad(channel, [(n // 2, n // 2) for n in channel.shape], mode="reflect")
    ),
    "5 × the noise": noisy,
    "blurred, 1.5 voxels": lambda scan: scan.each(lambda channel: ndimage.gaussian_filter(channel, 1.5)),
    "all zero": lambda scan: scan.each(np.zeros_like),
    "one value": lambda scan: scan.each(lambda channel: np.full_like(channel, 100)),
    "upside down": upside_down,
    "other order of the channels": lambda scan: Scan(scan.images[::-1].copy(), scan.geometry),
}


def second_sequence(image: Array) -> Array:
    """Another sequence of the same head: fluid bright, fat and white matter dark, with noise of its own."""
    tissue = image / np.percentile(image[image > 0], 99)
    other = np.exp(-2.5 * tissue) * (tissue > 0.1) + 0.05 * np.random.default_rng(1).random(image.shape)
    return (300 * other).astype(np.float32)


# -- Measuring ---------------------------------------------------------------------------------------------------------


@dataclass
class Set:
    """A data set of which everything that is needed is in memory: looks of all scans, and some scans themselves."""

    name: str
    normalization: list[ChannelNormalization]
    channel_names: tuple[str, ...]
    looks: list[ScanAppearance]
    folds: list[npt.NDArray[np.int64]]
    load: Callable[[int], Scan]

    def reference(self, fold: int, looks: Sequence[ScanAppearance] | None = None) -> TrainingAppearance:
        """Of the training scans of a fold, or of other looks of them."""
        held_out = set(self.folds[fold].tolist())
        chosen = [look for index, look in enumerate(looks or self.looks) if index not in held_out]
        return TrainingAppearance.of(chosen, self.channel_names, self.normalization)


def folds_of(count: int) -> list[npt.NDArray[np.int64]]:
    order = np.random.default_rng(0).permutation(count)
    return [part for part in np.array_split(order, min(5, count)) if len(part)]


def open_set(folder: Path) -> Set:
    raw = load_raw_dataset(folder)
    fingerprint = measure_dataset(raw, Run(0, show_progress=False))
    looks = [scan.appearance for scan in fingerprint.scans if scan.appearance is not None]
    normalization = choose_normalization(fingerprint.summary.intensity, raw.channel_names)
    return Set(raw.name, normalization, raw.channel_names, looks, folds_of(len(looks)), lambda index: read(raw, index))


def read(raw: RawDataset, index: int) -> Scan:
    return Scan(*read_channels(raw.cases[index].images))


def with_second_sequence(data: Set) -> Set:
    """The set with a second channel of another contrast."""

    def load(index: int) -> Scan:
        scan = data.load(index)
        return Scan(np.stack([scan.images[0], second_sequence(scan.images[0])]), scan.geometry)

    looks = [load(index).look() for index in range(len(data.looks))]
    names = (*data.channel_names, "second")
    normalization = [*data.normalization, ZScoreNormalization()]
    return Set(f"{data.name} and a second sequence", normalization, names, looks, data.folds, load)


def summarize(results: Sequence[Similarity]) -> str:
    """Warned of all, and the commonest kind of the first reasons."""
    warned = [result for result in results if result.unlike]
    order = list(Kind)
    kinds = Counter(min((c.kind for c in result.comparisons if c.unlike), key=order.index).value for result in warned)
    return f"{len(warned)}/{len(results)}" + (f" {kinds.most_common(1)[0][0]}" if kinds else "")


def false_alarms(data: Set, verbose: bool) -> list[Similarity]:
    results = []
    for fold, held_out in enumerate(data.folds):
        reference = data.reference(fold)
        for index in held_out:
            results.append(reference.compare(data.looks[index]))
            if verbose and results[-1].unlike:
                print(f"    {data.name} scan {index}: {results[-1].summary()}")
    return results


def examine(data: Set, others: Sequence[Set], scans: int, verbose: bool) -> dict[str, str]:
    """The column of a set: change to what became of it."""
    column = {"as it is": summarize(false_alarms(data, verbose))}
    chosen = [(fold, int(index)) for fold, held_out in enumerate(data.folds) for index in held_out]
    chosen = chosen[:: max(1, len(chosen) // scans)][:scans]
    references = {fold: data.reference(fold) for fold, _ in chosen}
    loaded = [(references[fold], data.load(index)) for fold, index in chosen]
    for name, change in CHANGES.items():
        if name == "other order of the channels" and len(data.channel_names) < 2:
            continue
        results = [reference.compare(change(scan).look()) for reference, scan in loaded]
        column[name] = summarize(results)
        first = next((result for result in results if result.unlike), None)
        if verbose:
            print(f"    {data.name}, {name}: {column[name]}: {first.summary() if first else '–'}")
    masked_looks = [masked(data.load(index)).look() for index in range(min(len(data.looks), 25))]
    reference = TrainingAppearance.of(masked_looks, data.channel_names, data.normalization)
    column["whole, the training masked"] = summarize([reference.compare(scan.look()) for _, scan in loaded])
    for other in others:
        if other.name == data.name or len(other.channel_names) != len(data.channel_names):
            continue
        results = []
        for number, (reference, own) in enumerate(loaded):
            scan = other.load(number % len(other.looks))
            results.append(reference.compare(scan.look()))
            del own
        column[f"scans of {other.name}"] = summarize(results)
        # The intensities of the other set on the grid of this one: nothing but the modality differs.
        results = [
            reference.compare(on_grid(other.load(number % len(other.looks)), own).look())
            for number, (reference, own) in enumerate(loaded)
        ]
        column[f"intensities of {other.name}"] = summarize(results)
        if verbose:
            first = next((result for result in results if result.unlike), None)
            print(f"    {data.name}, intensities of {other.name}: {first.summary() if first else '–'}")
    return column


def on_grid(scan: Scan, own: Scan) -> Scan:
    """A scan stretched to the size and spacing of another."""
    zoom = (1, *(a / b for a, b in zip(own.images.shape[1:], scan.images.shape[1:], strict=True)))
    images = ndimage.zoom(scan.images, zoom, order=1, mode="nearest", grid_mode=True).astype(np.float32)
    return Scan(images, own.geometry)


def write_table(columns: dict[str, dict[str, str]]) -> None:
    rows = dict.fromkeys(change for column in columns.values() for change in column)
    print("\n| change | " + " | ".join(re.sub(r"^Dataset", "", name) for name in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for row in rows:
        print(f"| {row} | " + " | ".join(column.get(row, "") for column in columns.values()) + " |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--scans", type=int, default=8, help="scans of each set that are changed")
    parser.add_argument("--two_channels", action="store_true", help="also the first set with a second sequence")
    parser.add_argument("--verbose", action="store_true", help="print reasons")
    options = parser.parse_args(arguments)
    sets: list[Set] = []
    for folder in options.data:
        started = time.perf_counter()
        sets.append(open_set(folder))
        print(f"{sets[-1].name}: {len(sets[-1].looks)} scans measured in {time.perf_counter() - started:.0f} s")
    columns: dict[str, Any] = {data.name: examine(data, sets, options.scans, options.verbose) for data in sets}
    if options.two_channels:
        both = with_second_sequence(sets[0])
        columns[both.name] = examine(both, (), options.scans, options.verbose)
    write_table(columns)


if __name__ == "__main__":
    main()

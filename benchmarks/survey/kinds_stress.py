"""Kinds that try a limit: few slices, one scan unlike the rest, tiny and giant lesions, few and many cases."""

from __future__ import annotations

from benchmarks.survey.model import Counts, Exemption, Kind, LesionClass, Modality, Placement, Rule, Scans, Sizes

__all__ = ["STRESS_KINDS"]

_HEAD = (Scans((1, 1, 1), (160, 200, 180)),)
_USUAL = (LesionClass("lesion", Counts(5, 0.4), Sizes(8, 0.5, 3, 25)),)
_CLASS_NAMES = tuple(f"class_{number}" for number in range(20))

STRESS_KINDS = (
    Kind(
        "one_slice",
        "few slices",
        "radiographs of 0.5 mm, one slice",
        200,
        (Scans((1, 0.5, 0.5), (1, 512, 512)),),
        (LesionClass("lesion", Counts(4, 0.5), Sizes(8, 0.6, 2, 40)),),
        (Modality.OTHER,),
    ),
    Kind(
        "one_slice_isotropic",
        "few slices",
        "one slice as thick as its pixels",
        200,
        (Scans((1, 1, 1), (1, 512, 512)),),
        (LesionClass("lesion", Counts(4, 0.5), Sizes(18, 0.7, 3, 120)),),
        (Modality.OTHER,),
    ),
    Kind(
        "two_slices",
        "few slices",
        "two slices",
        60,
        (Scans((6, 0.8, 0.8), (2, 320, 320)),),
        (LesionClass("lesion", Counts(3, 0.5), Sizes(10, 0.5, 3, 50)),),
    ),
    Kind(
        "three_slices",
        "few slices",
        "three thick slices",
        100,
        (Scans((8, 0.7, 0.7), (3, 384, 384)),),
        (LesionClass("lesion", Counts(3, 0.5), Sizes(10, 0.6, 3, 50)),),
    ),
    Kind(
        "one_column",
        "few slices",
        "a volume of one voxel along x",
        40,
        (Scans((0.5, 0.5, 2), (400, 400, 1)),),
        (LesionClass("lesion", Counts(3, 0.5), Sizes(9, 0.5, 3, 40)),),
    ),
    Kind(
        "one_body_among_heads",
        "unlike scans",
        "59 heads and a body of six times their length",
        60,
        (Scans((3, 1, 1), (600, 500, 500)), *_HEAD),
        (LesionClass("lesion", Counts(6, 0.5), Sizes(6, 0.6, 2, 50)),),
        outlier=True,
    ),
    Kind(
        "one_fine_scan",
        "unlike scans",
        "a scan of 0.2 mm among scans of 1 mm",
        40,
        (Scans((0.2, 0.2, 0.2), (800, 1000, 900)), *_HEAD),
        _USUAL,
        outlier=True,
    ),
    Kind(
        "mixed_fields",
        "unlike scans",
        "heads and bodies in equal parts",
        80,
        (Scans((1, 1, 1), (180, 220, 200)), Scans((3, 1.5, 1.5), (330, 340, 340))),
        (LesionClass("lesion", Counts(6, 0.6), Sizes(9, 0.6, 3, 60)),),
    ),
    Kind(
        "mixed_spacings",
        "unlike scans",
        "from 0.5 to 6 mm along z",
        80,
        tuple(Scans((z, 0.6, 0.6), (round(160 / z), 400, 400)) for z in (0.5, 1, 2, 3, 6)),
        (LesionClass("lesion", Counts(5, 0.6), Sizes(9, 0.5, 3, 50)),),
    ),
    Kind(
        "very_flat",
        "unlike scans",
        "slices of 10 mm with pixels of 0.4 mm",
        40,
        (Scans((10, 0.4, 0.4), (16, 512, 512)),),
        (LesionClass("lesion", Counts(4, 0.5), Sizes(12, 0.5, 4, 60)),),
    ),
    Kind(
        "very_long",
        "unlike scans",
        "2000 slices of 64×64",
        30,
        (Scans((1, 1, 1), (2000, 64, 64)),),
        (LesionClass("lesion", Counts(20, 0.5), Sizes(8, 0.5, 3, 30)),),
    ),
    Kind(
        "one_voxel",
        "lesion sizes",
        "lesions of one voxel",
        40,
        _HEAD,
        (LesionClass("lesion", Counts(10, 0.3), Sizes(1, 0, 1, 1)),),
        exemptions=(
            Exemption(
                Rule.SMALLEST_CELL,
                "a grid with a head of stride 1 is one step coarser than the scan, which the memory asks for",
            ),
        ),
    ),
    Kind(
        "one_voxel_pairs",
        "lesion sizes",
        "lesions of a few voxels, crowded",
        40,
        (Scans((2, 2, 2), (90, 110, 90)),),
        (
            LesionClass(
                "lesion", Counts(60, 0.4), Sizes(4, 0.3, 2, 10), region=(0.3, 0.3, 0.3), placement=Placement.CLUSTERED
            ),
        ),
    ),
    Kind(
        "giant",
        "lesion sizes",
        "one lesion that fills half of each axis",
        40,
        _HEAD,
        (LesionClass("lesion", Counts(1), Sizes(80, 0.1, 70, 95)),),
    ),
    Kind(
        "one_giant_lesion",
        "lesion sizes",
        "one lesion of 150 mm among lesions of 4 mm",
        40,
        _HEAD,
        (
            LesionClass("lesion", Counts(8, 0.3), Sizes(4, 0.3, 2, 9)),
            LesionClass("mass", Counts(1, 0, 0.95), Sizes(140, 0, 140, 140)),
        ),
    ),
    Kind(
        "all_equal",
        "lesion sizes",
        "balls of one size in a box",
        20,
        _HEAD,
        (LesionClass("ball", Counts(60), Sizes(12, 0, 12, 12), placement=Placement.PACKED),),
        (Modality.CT,),
    ),
    Kind(
        "rods",
        "lesion sizes",
        "needles of 60×2×2 mm",
        40,
        _HEAD,
        (LesionClass("needle", Counts(6, 0.3), Sizes(60, 0.2, 40, 90), (1, 0.04, 0.04)),),
    ),
    Kind(
        "sheets",
        "lesion sizes",
        "plates of 3×50×50 mm",
        40,
        _HEAD,
        (LesionClass("plate", Counts(3, 0.3), Sizes(50, 0.2, 35, 80), (0.06, 1, 1)),),
    ),
    Kind(
        "satellites",
        "lesion sizes",
        "small lesions close around large ones",
        40,
        _HEAD,
        (
            LesionClass("lesion", Counts(2, 0.2), Sizes(45, 0.2, 30, 60)),
            LesionClass("satellite", Counts(12, 0.4), Sizes(4, 0.3, 2, 8)),
        ),
    ),
    Kind(
        "nested",
        "classes",
        "three classes, one within the other, with equal centres",
        60,
        _HEAD,
        (
            LesionClass("outer", Counts(2, 0.3), Sizes(40, 0.3, 15, 70)),
            LesionClass("middle", Counts(1), Sizes(0.7, 0.05, 0.6, 0.8), placement=Placement.NESTED, host="outer"),
            LesionClass("inner", Counts(1), Sizes(0.4, 0.05, 0.3, 0.5), placement=Placement.NESTED, host="outer"),
        ),
    ),
    Kind(
        "twenty_classes",
        "classes",
        "twenty classes, one of them large",
        100,
        (Scans((1.5, 1, 1), (200, 256, 256)),),
        tuple(
            LesionClass(name, Counts(1, 0, 0.5), Sizes(50 if number == 7 else 5, 0.25, 3, 70))
            for number, name in enumerate(_CLASS_NAMES)
        ),
    ),
    Kind(
        "rare_class",
        "classes",
        "a class with one lesion in one of a hundred scans",
        100,
        _HEAD,
        (*_USUAL, LesionClass("rare", Counts(1, 0, 0.99), Sizes(10, 0.2, 5, 20))),
    ),
    Kind("one_case", "cases", "a single scan", 1, (Scans((1, 1, 1), (96, 128, 128)),), _USUAL),
    Kind("two_cases", "cases", "two scans", 2, (Scans((1, 1, 1), (96, 128, 128)),), _USUAL),
    Kind("four_cases", "cases", "four scans", 4, (Scans((1, 1, 1), (96, 128, 128)),), _USUAL),
    Kind(
        "tiny_500",
        "cases",
        "500 crops of 20 voxels",
        500,
        (Scans((1, 1, 1), (20, 20, 20)),),
        (LesionClass("lesion", Counts(1, 0.3, 0.3), Sizes(4, 0.4, 2, 9)),),
    ),
    Kind(
        "thousand_cases",
        "cases",
        "1000 scans",
        1000,
        (Scans((1, 0.8, 0.8), (150, 220, 220)),),
        (LesionClass("lesion", Counts(3, 0.7, 0.3), Sizes(9, 0.5, 3, 40)),),
    ),
    Kind(
        "only_negatives",
        "cases",
        "50 scans without a lesion",
        50,
        _HEAD,
        (LesionClass("lesion", Counts(0, 0, 1), Sizes(1, 0, 1, 1)),),
    ),
    Kind(
        "one_positive",
        "cases",
        "one lesion in 50 scans",
        50,
        _HEAD,
        (LesionClass("lesion", Counts(1, 0, 0.98), Sizes(9, 0.2, 5, 15)),),
    ),
    Kind("constant", "intensities", "images of one value", 40, _HEAD, _USUAL, (Modality.CONSTANT,)),
    Kind("twelve_channels", "intensities", "twelve channels", 40, _HEAD, _USUAL, (Modality.MR,) * 12),
    Kind(
        "micrometres",
        "units",
        "heads in µm, written as mm",
        40,
        (Scans((1000, 1000, 1000), (160, 200, 180)),),
        (LesionClass("lesion", Counts(5, 0.4), Sizes(8000, 0.5, 3000, 25000)),),
    ),
)

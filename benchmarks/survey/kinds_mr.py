"""Kinds of magnetic resonance imaging and of ultrasound, after public data sets."""

from __future__ import annotations

from benchmarks.survey.model import Counts, Exemption, Kind, LesionClass, Modality, Placement, Rule, Scans, Sizes

__all__ = ["BODY_KINDS", "BRAIN_KINDS"]

_HEAD = (0.9, 0.8, 0.75)
_MR = Modality.MR

BRAIN_KINDS = (
    Kind(
        "brats_mets",
        "brain MR",
        "BraTS-METS 2023: core, oedema and enhancing part, nested (Moawad 2024)",
        238,
        (Scans((1, 1, 1), (155, 240, 240), 1, 0, _HEAD),),
        (
            LesionClass("oedema", Counts(4, 0.9, 0, 60), Sizes(17, 0.7, 3, 90)),
            LesionClass(
                "enhancing", Counts(1, 0.1), Sizes(0.5, 0.3, 0.2, 0.9), placement=Placement.NESTED, host="oedema"
            ),
            LesionClass(
                "core", Counts(1, 0, 0.6), Sizes(0.25, 0.3, 0.1, 0.5), placement=Placement.NESTED, host="oedema"
            ),
        ),
        (_MR,) * 4,
    ),
    Kind(
        "brain_metastases_small",
        "brain MR",
        "StanfordBrainMetShare: 105 studies, many below 6 mm (Grøvik 2020)",
        105,
        (Scans((1, 0.94, 0.94), (160, 256, 256), 1, 0, _HEAD),),
        (LesionClass("metastasis", Counts(5, 1.1, 0, 100), Sizes(6, 0.6, 2, 45)),),
        (_MR,) * 4,
    ),
    Kind(
        "brats_glioma",
        "brain MR",
        "BraTS 2021: 1251 scans, one large tumour each (Baid 2021)",
        1251,
        (Scans((1, 1, 1), (155, 240, 240), 1, 0, _HEAD),),
        (LesionClass("tumour", Counts(1.2, 0.3), Sizes(62, 0.35, 12, 120)),),
        (_MR,) * 4,
    ),
    Kind(
        "isles",
        "brain MR",
        "ISLES 2022: 250 scans, infarcts of one voxel to a hemisphere (Hernandez Petzsche 2022)",
        250,
        (Scans((2, 2, 2), (73, 112, 112), 1, 0, _HEAD),),
        (LesionClass("infarct", Counts(4, 1.1, 0.02, 120), Sizes(7, 0.9, 2, 120), placement=Placement.CLUSTERED),),
        (_MR,) * 3,
    ),
    Kind(
        "atlas",
        "brain MR",
        "ATLAS 2: 655 scans of chronic strokes (Liew 2022)",
        655,
        (Scans((1, 1, 1), (189, 233, 197), 1, 0, _HEAD),),
        (LesionClass("stroke", Counts(1.7, 0.6), Sizes(18, 0.8, 2, 140)),),
    ),
    Kind(
        "wmh",
        "brain MR",
        "WMH 2017: 60 scans of three scanners (Kuijf 2019)",
        60,
        (
            Scans((3, 0.96, 0.95), (48, 240, 240), 1, 0, _HEAD),
            Scans((3, 1, 1), (48, 232, 256), 1, 0, _HEAD),
            Scans((3, 1.2, 0.98), (83, 132, 256), 1, 0, _HEAD),
        ),
        (
            LesionClass(
                "hyperintensity",
                Counts(50, 0.6, 0, 200),
                Sizes(5, 0.7, 1, 70),
                (0.8, 1.0, 0.8),
                (0.5, 0.7, 0.6),
                Placement.CLUSTERED,
                6,
            ),
        ),
        (_MR,) * 2,
    ),
    Kind(
        "ms_flair",
        "brain MR",
        "MSLesSeg: 93 studies of 53 patients at 1 mm (Guarnera 2025)",
        93,
        (Scans((1, 1, 1), (182, 218, 182), 1, 0, _HEAD),),
        (
            LesionClass(
                "lesion",
                Counts(25, 0.7, 0, 150),
                Sizes(6, 0.6, 1, 50),
                region=(0.5, 0.7, 0.6),
                placement=Placement.CLUSTERED,
                clusters=8,
            ),
        ),
        (_MR,) * 3,
    ),
    Kind(
        "ms_thick",
        "brain MR",
        "Routine FLAIR of 5 mm (MSSEG-2 and clinical archives)",
        60,
        (Scans((5, 0.5, 0.5), (28, 420, 420), 1, 0, _HEAD),),
        (LesionClass("lesion", Counts(12, 0.7, 0, 80), Sizes(7, 0.5, 2, 40)),),
    ),
    Kind(
        "ms_mixed",
        "brain MR",
        "Half of the scans isotropic, half of 5 mm",
        80,
        (Scans((1, 1, 1), (182, 218, 182), 1, 0, _HEAD), Scans((5, 0.5, 0.5), (28, 420, 420), 1, 0, _HEAD)),
        (LesionClass("lesion", Counts(20, 0.7, 0, 150), Sizes(6, 0.6, 1, 50)),),
    ),
    Kind(
        "aneurysm_mra",
        "brain MR",
        "ADAM: 113 angiograms, 125 unruptured aneurysms (Timmins 2021)",
        113,
        (Scans((0.6, 0.36, 0.36), (140, 560, 560), 1, 0.1, (1, 0.8, 0.7)),),
        (LesionClass("aneurysm", Counts(1.2, 0.3, 0.18), Sizes(4, 0.5, 1, 18), region=(0.4, 0.4, 0.5)),),
    ),
    Kind(
        "microbleeds",
        "brain MR",
        "VALDO task 2: 72 scans (Sudre 2024)",
        72,
        (
            Scans((1.2, 0.5, 0.5), (120, 440, 384), 0.6, 0.1, _HEAD),
            Scans((3, 0.94, 0.94), (50, 256, 256), 0.4, 0.1, _HEAD),
        ),
        (LesionClass("microbleed", Counts(3, 1.2, 0.25, 80), Sizes(3.5, 0.35, 1.5, 10)),),
        (_MR,) * 3,
    ),
    Kind(
        "perivascular_spaces",
        "brain MR",
        "VALDO task 1: hundreds of fine tubes (Sudre 2024)",
        40,
        (Scans((0.8, 0.8, 0.8), (220, 280, 220), 1, 0, _HEAD),),
        (
            LesionClass(
                "space",
                Counts(250, 0.6, 0, 900),
                Sizes(3.0, 0.4, 0.8, 20),
                (1.5, 0.8, 0.8),
                (0.5, 0.5, 0.5),
                Placement.PACKED,
            ),
        ),
        (_MR,) * 3,
    ),
    Kind(
        "lacunes",
        "brain MR",
        "VALDO task 3: few lacunes of 3 to 15 mm",
        40,
        (Scans((1, 1, 1), (182, 218, 182), 1, 0, _HEAD),),
        (LesionClass("lacune", Counts(2, 0.9, 0.4), Sizes(6, 0.4, 3, 15)),),
        (_MR,) * 3,
    ),
    Kind(
        "schwannoma",
        "brain MR",
        "CrossMoDA: 242 scans, a tumour each (Shapey 2021)",
        242,
        (Scans((1.5, 0.41, 0.41), (110, 512, 512), 1, 0.1, _HEAD),),
        (LesionClass("tumour", Counts(1), Sizes(17, 0.4, 5, 45), region=(0.2, 0.2, 0.6)),),
    ),
    Kind(
        "hippocampus",
        "brain MR",
        "Decathlon task 4: 260 crops of 36×50×35 voxels; two parts",
        260,
        (Scans((1, 1, 1), (36, 50, 35)),),
        (
            LesionClass("anterior", Counts(1), Sizes(18, 0.1, 12, 24), (1, 1.2, 1), (0.2, 0.2, 0.2)),
            LesionClass("posterior", Counts(1), Sizes(18, 0.1, 12, 24), (1, 1.3, 0.8), (0.5, 0.5, 0.3)),
        ),
    ),
)

BODY_KINDS = (
    Kind(
        "picai",
        "body MR",
        "PI-CAI: 1500 studies, 425 with significant cancer (Saha 2024)",
        1500,
        (
            Scans((3, 0.5, 0.5), (21, 640, 640), 0.5, 0),
            Scans((3.6, 0.3, 0.3), (19, 640, 640), 0.2, 0),
            Scans((3, 0.56, 0.56), (25, 384, 384), 0.3, 0),
        ),
        (LesionClass("cancer", Counts(1.1, 0.2, 0.72), Sizes(15, 0.4, 4, 60), region=(0.4, 0.15, 0.15)),),
        (_MR,) * 3,
    ),
    Kind(
        "msd_prostate",
        "body MR",
        "Decathlon task 5: 32 scans; two zones",
        32,
        (Scans((3.6, 0.62, 0.62), (20, 320, 320)),),
        (
            LesionClass("transition", Counts(1), Sizes(45, 0.2, 30, 70), (0.8, 0.8, 1), (0.1, 0.1, 0.1)),
            LesionClass("peripheral", Counts(1), Sizes(45, 0.15, 30, 70), (0.9, 0.5, 1), (0.1, 0.2, 0.1)),
        ),
        (_MR,) * 2,
    ),
    Kind(
        "breast_dce",
        "body MR",
        "MAMA-MIA: 1506 studies (Garrucho 2025); a part of it",
        400,
        (Scans((2, 0.7, 0.7), (90, 448, 448), 1, 0.2, (1, 0.6, 0.9)),),
        (LesionClass("tumour", Counts(1.3, 0.4), Sizes(24, 0.55, 5, 100)),),
        (_MR,) * 6,
    ),
    Kind(
        "fibroids",
        "body MR",
        "UMD: 300 sagittal scans; uterus with fibroids, cysts (Pan 2024)",
        300,
        (Scans((0.7, 0.7, 6), (384, 384, 24)),),
        (
            LesionClass("uterus", Counts(1), Sizes(110, 0.25, 70, 200), (1, 0.7, 0.6), (0.1, 0.1, 0.1)),
            LesionClass(
                "fibroid", Counts(2, 0.8, 0, 20), Sizes(0.35, 0.5, 0.08, 0.8), placement=Placement.NESTED, host="uterus"
            ),
        ),
    ),
    Kind(
        "spine_discs",
        "body MR",
        "SPIDER: 447 sagittal series; vertebrae and discs stacked (van der Graaf 2024)",
        218,
        (Scans((0.6, 0.6, 4.4), (600, 600, 15), 1, 0),),
        (
            LesionClass(
                "vertebra", Counts(8, 0.1), Sizes(40, 0.1, 30, 50), (0.7, 0.9, 1), placement=Placement.COLUMN, step=35
            ),
        ),
        (_MR,),
        True,
    ),
    Kind(
        "spine_metastases",
        "body MR",
        "Sagittal T2 of 4.4 mm with bone metastases",
        70,
        (Scans((0.6, 0.6, 4.4), (448, 448, 15)),),
        (LesionClass("metastasis", Counts(4, 0.8, 0.1), Sizes(13, 0.5, 4, 45), region=(0.9, 0.3, 0.3)),),
    ),
    Kind(
        "whole_body_coronal",
        "body MR",
        "Neurofibromatosis, coronal whole-body STIR of 8 mm, many tumours",
        80,
        (Scans((0.7, 8, 0.7), (1100, 36, 512)),),
        (LesionClass("neurofibroma", Counts(20, 1.2, 0, 300), Sizes(22, 0.6, 6, 150)),),
    ),
    Kind(
        "myeloma_dwi",
        "body MR",
        "Whole-body diffusion of 5 mm, focal bone lesions",
        100,
        (Scans((5, 2.1, 2.1), (180, 144, 200)),),
        (LesionClass("lesion", Counts(8, 1.0, 0.2, 100), Sizes(14, 0.5, 6, 70)),),
        (_MR,) * 2,
    ),
    Kind(
        "polycystic_kidneys",
        "body MR",
        "Instance maps of cysts: 400 to 1600 a scan (Kline 2022)",
        40,
        (Scans((4, 1.5, 1.5), (40, 256, 256)),),
        (
            LesionClass(
                "cyst",
                Counts(800, 0.4, 0, 1600),
                Sizes(8, 0.5, 3, 60),
                region=(0.9, 0.5, 0.8),
                placement=Placement.PACKED,
            ),
        ),
        (_MR,),
        True,
    ),
    Kind(
        "msd_heart",
        "body MR",
        "Decathlon task 2: 20 scans, one left atrium each",
        20,
        (Scans((1.37, 1.25, 1.25), (115, 320, 320)),),
        (LesionClass("atrium", Counts(1), Sizes(80, 0.12, 60, 110), region=(0.2, 0.1, 0.1)),),
    ),
    Kind(
        "breast_ultrasound",
        "ultrasound",
        "TDSC-ABUS 2023: 200 volumes, a tumour each (Luo 2024)",
        200,
        (Scans((0.48, 0.073, 0.2), (330, 680, 860)),),
        (LesionClass("tumour", Counts(1), Sizes(18, 0.5, 5, 60), (1, 0.6, 1)),),
        (Modality.OTHER,),
        exemptions=(
            Exemption(
                Rule.ROI_MAGNIFICATION,
                "tumours have hundreds of voxels along the axis of 0.073 mm, and an RoI at most 64 samples",
            ),
        ),
    ),
)

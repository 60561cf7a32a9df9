"""Kinds of computed tomography and of positron emission tomography, after public data sets.

Figures are those of the publications or of the sets' own tables, rounded: median spacing and shape, scans, lesions per
scan, and the lesions' diameters.
"""

from __future__ import annotations

from benchmarks.survey.model import Counts, Exemption, Kind, LesionClass, Modality, Placement, Rule, Scans, Sizes

__all__ = ["CT_KINDS", "PET_KINDS"]

_CT = (Modality.CT,)
_TRUNK = (1.0, 0.8, 0.95)  # the body in a field of view of 512 × 512

CT_KINDS = (
    Kind(
        "luna16",
        "CT",
        "LUNA16: 888 scans, 1186 nodules of 3 mm and more (Setio 2017)",
        888,
        (
            Scans((0.7, 0.68, 0.68), (430, 512, 512), 0.5, 0.15, _TRUNK),
            Scans((1.25, 0.7, 0.7), (250, 512, 512), 0.3, 0.1, _TRUNK),
            Scans((2.5, 0.7, 0.7), (130, 512, 512), 0.2, 0.1, _TRUNK),
        ),
        (LesionClass("nodule", Counts(1.6, 0.7, 0.32), Sizes(6.5, 0.5, 3, 32)),),
        _CT,
    ),
    Kind(
        "lidc_types",
        "CT",
        "LIDC-IDRI, nodules by malignancy, as instance maps (Armato 2011)",
        600,
        (Scans((1.25, 0.7, 0.7), (250, 512, 512), 1, 0.3, _TRUNK),),
        (
            LesionClass("benign", Counts(1.8, 0.8, 0.3), Sizes(6, 0.4, 3, 25)),
            LesionClass("malignant", Counts(1.2, 0.6, 0.5), Sizes(12, 0.5, 4, 45)),
        ),
        _CT,
        True,
        exemptions=(
            Exemption(
                Rule.SMALLEST_CELL,
                "the smallest nodules have 3 mm, as have the finest cells of a whole chest that fit into the memory",
            ),
        ),
    ),
    Kind(
        "msd_lung",
        "CT",
        "Decathlon task 6: 63 scans, a tumour each (Antonelli 2022)",
        63,
        (Scans((1.24, 0.79, 0.79), (252, 512, 512), 1, 0.2, _TRUNK),),
        (LesionClass("tumour", Counts(1), Sizes(32, 0.55, 8, 110)),),
        _CT,
    ),
    Kind(
        "lits",
        "CT",
        "LiTS: 131 scans, 0 to 75 tumours (Bilic 2023)",
        131,
        (
            Scans((1, 0.77, 0.77), (432, 512, 512), 0.8, 0.35, _TRUNK),
            Scans((5, 0.8, 0.8), (90, 512, 512), 0.2, 0.1, _TRUNK),
        ),
        (LesionClass("tumour", Counts(4, 1.0, 0.1, 75), Sizes(15, 0.75, 2.5, 130), region=(0.35, 0.5, 0.5)),),
        _CT,
    ),
    Kind(
        "msd_liver",
        "CT",
        "LiTS with the liver as a class around its tumours",
        131,
        (Scans((1, 0.77, 0.77), (432, 512, 512), 1, 0.3, _TRUNK),),
        (
            LesionClass("liver", Counts(1), Sizes(180, 0.15, 120, 260), (0.9, 0.9, 1.1), (0.1, 0.1, 0.1)),
            LesionClass(
                "tumour",
                Counts(4, 1.0, 0.1, 75),
                Sizes(0.08, 0.6, 0.015, 0.5),
                placement=Placement.NESTED,
                host="liver",
            ),
        ),
        _CT,
    ),
    Kind(
        "kits23",
        "CT",
        "KiTS23: 489 scans; kidneys, tumours and cysts (Heller 2023)",
        489,
        (
            Scans((1, 0.78, 0.78), (200, 512, 512), 0.5, 0.3, _TRUNK),
            Scans((3, 0.79, 0.79), (100, 512, 512), 0.3, 0.2, _TRUNK),
            Scans((5, 0.8, 0.8), (60, 512, 512), 0.2, 0.1, _TRUNK),
        ),
        (
            LesionClass("kidney", Counts(2), Sizes(75, 0.1, 55, 110), (1.3, 0.8, 0.8), (0.4, 0.4, 0.7)),
            LesionClass("tumour", Counts(1.1, 0.3), Sizes(36, 0.55, 8, 130)),
            LesionClass("cyst", Counts(1.2, 0.6, 0.5), Sizes(18, 0.6, 4, 80)),
        ),
        _CT,
    ),
    Kind(
        "msd_pancreas",
        "CT",
        "Decathlon task 7: 281 scans; pancreas and mass",
        281,
        (Scans((2.5, 0.8, 0.8), (93, 512, 512), 1, 0.25, _TRUNK),),
        (
            LesionClass("pancreas", Counts(1), Sizes(110, 0.15, 70, 160), (0.6, 0.5, 1.0), (0.2, 0.2, 0.2)),
            LesionClass("mass", Counts(1), Sizes(0.25, 0.4, 0.06, 0.7), placement=Placement.NESTED, host="pancreas"),
        ),
        _CT,
    ),
    Kind(
        "msd_colon",
        "CT",
        "Decathlon task 10: 126 scans, a tumour each",
        126,
        (Scans((5, 0.78, 0.78), (95, 512, 512), 1, 0.3, _TRUNK),),
        (LesionClass("tumour", Counts(1), Sizes(48, 0.4, 15, 130)),),
        _CT,
    ),
    Kind(
        "msd_hepatic_vessel",
        "CT",
        "Decathlon task 8: 303 scans; vessel trees and tumours",
        303,
        (Scans((5, 0.8, 0.8), (49, 512, 512), 1, 0.3, _TRUNK),),
        (
            LesionClass("vessel", Counts(2, 0.4), Sizes(80, 0.4, 20, 170), (0.6, 1.0, 1.0), (0.5, 0.5, 0.5)),
            LesionClass("tumour", Counts(1.6, 0.7), Sizes(26, 0.6, 5, 100)),
        ),
        _CT,
    ),
    Kind(
        "msd_spleen",
        "CT",
        "Decathlon task 9: 41 scans, one organ",
        41,
        (Scans((5, 0.79, 0.79), (90, 512, 512), 1, 0.3, _TRUNK),),
        (LesionClass("spleen", Counts(1), Sizes(105, 0.15, 70, 150)),),
        _CT,
    ),
    Kind(
        "lymph_nodes",
        "CT",
        "NIH lymph nodes: 176 scans, 983 nodes (Roth 2014)",
        176,
        (Scans((1, 0.8, 0.8), (560, 512, 512), 1, 0.2, _TRUNK),),
        (
            LesionClass(
                "node", Counts(4.5, 0.6), Sizes(15, 0.35, 6, 45), (1.4, 1.0, 0.8), (0.5, 0.3, 0.4), Placement.CLUSTERED
            ),
        ),
        _CT,
    ),
    Kind(
        "ribfrac",
        "CT",
        "RibFrac: 420 scans, about 9 fractures each (Jin 2020)",
        420,
        (Scans((1.25, 0.74, 0.74), (360, 512, 512), 1, 0.1, _TRUNK),),
        (LesionClass("fracture", Counts(7, 0.7, 0.05, 40), Sizes(18, 0.4, 6, 60), (0.7, 1.0, 1.0)),),
        _CT,
        True,
    ),
    Kind(
        "ribfrac_types",
        "CT",
        "RibFrac with its kinds of fracture",
        420,
        (Scans((1.25, 0.74, 0.74), (360, 512, 512), 1, 0.1, _TRUNK),),
        tuple(
            LesionClass(name, Counts(count, 0.6, without), Sizes(18, 0.4, 6, 60), (0.7, 1.0, 1.0))
            for name, count, without in (
                ("buckle", 2.5, 0.4),
                ("nondisplaced", 3.0, 0.3),
                ("displaced", 2.5, 0.6),
                ("segmental", 1.5, 0.8),
            )
        ),
        _CT,
        True,
    ),
    Kind(
        "ribs",
        "CT",
        "RibSeg: 490 scans, 24 ribs each (Yang 2021)",
        490,
        (Scans((1.25, 0.74, 0.74), (340, 512, 512), 1, 0.1, _TRUNK),),
        (
            LesionClass(
                "rib",
                Counts(24, 0.02),
                Sizes(115, 0.15, 60, 150),
                (0.55, 1.1, 0.9),
                placement=Placement.TWO_COLUMNS,
                step=24,
            ),
        ),
        _CT,
        True,
        exemptions=(
            Exemption(
                Rule.BOUND,
                "boxes of 115 mm lie 24 mm apart: some centres share a cell of the level that takes such boxes",
            ),
        ),
    ),
    Kind(
        "verse",
        "CT",
        "VerSe: 374 scans, 4 to 25 vertebrae (Sekuboyina 2021)",
        374,
        (Scans((1, 1, 1), (450, 250, 250), 1, 0.25),),
        (
            LesionClass(
                "vertebra",
                Counts(11, 0.5, 0, 24),
                Sizes(60, 0.15, 40, 95),
                (0.8, 1.3, 1.2),
                placement=Placement.COLUMN,
                step=30,
            ),
        ),
        _CT,
        True,
    ),
    Kind(
        "cervical_spine",
        "CT",
        "RSNA 2022: 87 scans with segmented vertebrae, 7 and more, closely stacked",
        87,
        (Scans((0.8, 0.4, 0.4), (300, 512, 512), 1, 0.2),),
        (
            LesionClass(
                "vertebra", Counts(9, 0.1), Sizes(55, 0.1, 45, 75), (0.6, 1.1, 1.1), placement=Placement.COLUMN, step=17
            ),
        ),
        _CT,
        True,
    ),
    Kind(
        "teeth",
        "CT",
        "ToothFairy2: 480 cone-beam scans, each tooth a class (Bolelli 2024)",
        120,
        (Scans((0.3, 0.3, 0.3), (170, 280, 360)),),
        tuple(
            LesionClass(
                f"tooth_{number}",
                Counts(1, 0, 0.1),
                Sizes(9, 0.1, 7, 12),
                (2.2, 1.0, 1.0),
                placement=Placement.ARCH,
                step=7.5,
            )
            for number in range(32)
        ),
        _CT,
    ),
    Kind(
        "covid",
        "CT",
        "COVID-19-20: 199 scans of 5 mm, many consolidations (Roth 2022)",
        199,
        (
            Scans((5, 0.75, 0.75), (65, 512, 512), 0.7, 0.1, _TRUNK),
            Scans((1, 0.7, 0.7), (300, 512, 512), 0.3, 0.1, _TRUNK),
        ),
        (
            LesionClass(
                "lesion",
                Counts(14, 0.9, 0, 120),
                Sizes(14, 1.0, 2, 160),
                (1.0, 0.8, 1.0),
                placement=Placement.CLUSTERED,
                clusters=8,
            ),
        ),
        _CT,
    ),
    Kind(
        "haemorrhage",
        "CT",
        "INSTANCE 2022: 100 head scans of 5 mm (Li 2023)",
        100,
        (Scans((5, 0.43, 0.43), (30, 512, 512), 1, 0.1, (1, 0.85, 0.7)),),
        (LesionClass("haemorrhage", Counts(1.6, 0.6), Sizes(28, 0.7, 4, 110)),),
        _CT,
    ),
    Kind(
        "embolism",
        "CT",
        "CAD-PE: 91 angiograms, small and long clots (González 2020)",
        91,
        (Scans((0.9, 0.7, 0.7), (420, 512, 512), 1, 0.25, _TRUNK),),
        (LesionClass("embolus", Counts(5, 0.8, 0.1), Sizes(12, 0.6, 3, 70), (1.2, 0.7, 1.0), (0.3, 0.3, 0.5)),),
        _CT,
    ),
    Kind(
        "aneurysm_cta",
        "CT",
        "CTA aneurysms: 1186 scans, 1373 aneurysms (Bo 2021); a part of it",
        400,
        (Scans((0.6, 0.42, 0.42), (300, 512, 512), 1, 0.15, (1, 0.9, 0.75)),),
        (LesionClass("aneurysm", Counts(1.1, 0.3, 0.2), Sizes(5.5, 0.5, 1.5, 30), region=(0.2, 0.3, 0.4)),),
        _CT,
    ),
    Kind(
        "coronary_calcium",
        "CT",
        "Gated scans of 3 mm with small calcifications (orCaScore, Wolterink 2016)",
        72,
        (Scans((3, 0.4, 0.4), (50, 512, 512), 1, 0.1),),
        (
            LesionClass(
                "calcification",
                Counts(7, 0.9, 0.2, 60),
                Sizes(4, 0.6, 1.2, 25),
                region=(0.5, 0.3, 0.4),
                placement=Placement.CLUSTERED,
                clusters=4,
            ),
        ),
        _CT,
    ),
    Kind(
        "bone_metastases",
        "CT",
        "Sclerotic and lytic metastases of the spine, up to 100 a scan",
        60,
        (Scans((1, 0.8, 0.8), (600, 512, 512), 1, 0.15, _TRUNK),),
        (
            LesionClass("lytic", Counts(5, 1.0, 0.3, 60), Sizes(14, 0.6, 4, 70), region=(0.9, 0.2, 0.3)),
            LesionClass("sclerotic", Counts(8, 1.0, 0.3, 100), Sizes(11, 0.6, 3, 60), region=(0.9, 0.2, 0.3)),
        ),
        _CT,
    ),
    Kind(
        "liver_metastases_200",
        "CT",
        "A miliary spread: up to 200 small metastases a scan",
        50,
        (Scans((1.5, 0.8, 0.8), (250, 512, 512), 1, 0, _TRUNK),),
        (LesionClass("metastasis", Counts(30, 1.2, 0.2, 200), Sizes(8, 0.5, 2.5, 60), region=(0.6, 0.5, 0.5)),),
        _CT,
    ),
)

PET_KINDS = (
    Kind(
        "autopet",
        "PET",
        "autoPET: 1014 studies, half without a lesion (Gatidis 2022)",
        1014,
        (Scans((3, 2.04, 2.04), (326, 400, 400), 1, 0, (1, 0.55, 0.75)),),
        (
            LesionClass(
                "lesion",
                Counts(4, 1.2, 0.5, 100),
                Sizes(15, 0.65, 4, 150),
                region=(0.8, 0.5, 0.6),
                placement=Placement.CLUSTERED,
                clusters=5,
            ),
        ),
        (Modality.CT, Modality.PET),
    ),
    Kind(
        "psma_pet",
        "PET",
        "PSMA-PET of autoPET III: 597 studies, 537 with lesions (Jeblick 2024)",
        597,
        (
            Scans((3, 2.7, 2.7), (330, 300, 300), 0.6, 0.1, (1, 0.5, 0.7)),
            Scans((5, 4.07, 4.07), (220, 200, 200), 0.4, 0.1, (1, 0.5, 0.7)),
        ),
        (LesionClass("lesion", Counts(5, 1.2, 0.1, 150), Sizes(12, 0.5, 5, 80)),),
        (Modality.CT, Modality.PET),
        exemptions=(
            Exemption(
                Rule.SMALLEST_CELL,
                "the smallest lesions are one voxel of the coarser scans, less than the cells that fit into the memory",
            ),
        ),
    ),
    Kind(
        "hecktor",
        "PET",
        "HECKTOR 2022: 524 studies; primary tumour and nodes (Andrearczyk 2023)",
        524,
        (Scans((3, 0.98, 0.98), (120, 512, 512), 1, 0.1, (1, 0.5, 0.6)),),
        (
            LesionClass("primary", Counts(1, 0, 0.05), Sizes(30, 0.4, 8, 80), region=(0.3, 0.3, 0.3)),
            LesionClass("node", Counts(1.6, 0.6, 0.2), Sizes(20, 0.4, 6, 70), region=(0.4, 0.3, 0.5)),
        ),
        (Modality.CT, Modality.PET),
    ),
    Kind(
        "lymphoma_pet",
        "PET",
        "Lymphoma, whole body, coarse PET of 4 mm, many nodes",
        200,
        (Scans((4, 4, 4), (260, 168, 168), 1, 0.05, (1, 0.55, 0.7)),),
        (
            LesionClass(
                "lesion",
                Counts(12, 1.0, 0, 150),
                Sizes(22, 0.6, 6, 160),
                region=(0.6, 0.5, 0.5),
                placement=Placement.CLUSTERED,
            ),
        ),
        (Modality.CT, Modality.PET),
    ),
)

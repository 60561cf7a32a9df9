"""The label format that the training of a model used."""

from __future__ import annotations

from detseg3d.data.dataset import RawDataset, as_instance_maps
from detseg3d.data.labels import LabelFormat
from detseg3d.planning.plans import Plans

__all__ = ["label_format_of"]


def label_format_of(plans: Plans, dataset: RawDataset) -> LabelFormat:
    """Return the format in which to read the labels of a data set: the format that the training used.

    dataset.json alone is not enough, because ``detseg3d_plan_and_preprocess --instances`` changes only the plans.

    Parameters
    ----------
    plans : Plans
        Plans of the model.
    dataset : RawDataset
        Data set that the labels belong to.

    Returns
    -------
    LabelFormat
    """
    classes = dict(zip(plans.class_names, plans.class_labels, strict=True))
    if plans.instances and plans.num_classes > 1:
        dataset = as_instance_maps(dataset)
    return LabelFormat(
        classes,
        truth_instances=plans.instances,
        default_spacing=dataset.default_spacing,
        instance_classes=dataset.instance_classes,
    )

"""Scans and lesion masks of a data set in BIDS, the Brain Imaging Data Structure (https://bids.neuroimaging.io).

The reader is kept by hand. Two libraries were tried in November 2026. ancpbids 0.4 leaves out masks with names that
data sets of lesions use (``sub-1_T1w_label-lesion_roi.nii.gz``, ``sub-1_FLAIR_lesion-manual.nii.gz``). It does not
report them, so that a scan with lesions would have none. bids2table 2.3 drops the ``T1w`` in such a name, does not
report an entity that a name states twice, and needs Python 3.11 and pyarrow.
"""

"""Scans and lesion masks of a data set in BIDS, the Brain Imaging Data Structure (https://bids.neuroimaging.io).

The reader is kept by hand. The libraries bids2table and ancpbids were tried in November 2026. Both leave out masks with
names that data sets of lesions use (``sub-1_T1w_label-lesion_roi.nii.gz``, ``sub-1_FLAIR_lesion-manual.nii.gz``, masks
in ``derivatives`` without a description) and do not report them. A mask that is left out makes a scan without lesions.
"""

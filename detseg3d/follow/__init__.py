"""Lesions followed over time: registration of two scans, matching of their lesions, and the state of each lesion."""

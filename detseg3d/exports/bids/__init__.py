"""Results as a derivative of BIDS, the Brain Imaging Data Structure."""

"""Random scans for pretraining: random anatomy, intensities, lesions, scanner and protocol."""

from detseg3d.io.paths import spare_numexpr

spare_numexpr()  # before blosc2 is imported anywhere

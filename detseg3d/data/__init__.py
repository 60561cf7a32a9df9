from detseg3d.data.roots import spare_numexpr

spare_numexpr()  # before blosc2 is imported anywhere

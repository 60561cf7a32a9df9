"""The survey: plans for many kinds of data sets, without images, held against rules that every plan must keep."""

"""Ways to find a circuit. A method is a frozen dataclass of its options, and so its own record.

One kind searches: ``acdc`` decides on every edge and ends with a circuit. The others score every
edge, and ``circuits/selection.py`` makes a circuit of the scores. ``catalogue.py`` says what there
is, ``make.py`` makes one of options.
"""

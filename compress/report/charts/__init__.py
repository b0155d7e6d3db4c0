"""Charts as SVG. The numbers of each chart are also in a table on the page.

Baseline is hollow and candidate filled, training is solid and validation dashed, so colour is redundant.
"""

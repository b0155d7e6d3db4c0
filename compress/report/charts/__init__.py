"""Charts as SVG. Each has its numbers in a table of the page.

The baseline is hollow and the candidate filled, training is solid and validation dashed: colour repeats it.
"""

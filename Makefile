# Shorthands for the README's commands; they need no make.
.PHONY: demo test slow reference
demo test reference:
	python3 .ci/dev.py $@
slow:
	python3 .ci/dev.py test -m slow

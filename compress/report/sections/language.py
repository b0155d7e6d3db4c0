"""What a report says of a language model: perplexity, and the speed of reading and of writing tokens."""

from __future__ import annotations

from compress.measure.results import Interval, Language, LatencyComparison
from compress.report.schema import RunReport
from compress.report.tables import Table
from compress.report.words import (
    decode_setting,
    interval_text,
    milliseconds,
    perplexity_words,
    ratio_text,
    setting,
    size_words,
    speedup_words,
)

__all__ = ["LANGUAGE_NOTE", "language_sentences", "language_tables"]

LANGUAGE_NOTE = (
    "Perplexity is exp of the mean loss a token, each row read on its own from an empty past; bits per byte "
    "is the same loss by the bytes of text, and compares between tokenizers. Reading is a prompt at once, "
    "with the answer to each of its positions; writing is the last token of such a prompt, with the keys and "
    "values of those before it kept."
)


def language_sentences(language: Language) -> tuple[str, ...]:
    """What became of perplexity, and of the speed of writing at each setting."""
    words = perplexity_words(language)
    writing = (f"Writing at {decode_setting(each)}: {speedup_words(each)}." for each in language.decode)
    return (f"{words[:1].upper()}{words[1:]}.", *writing)


def language_tables(report: RunReport) -> tuple[Table, ...]:
    """Figures of the losses, and tokens a second at each setting."""
    language = report.measurement.language
    assert language is not None
    return _losses(language), _speeds(report, language)


def _losses(language: Language) -> Table:
    before, after, ratio = language.baseline, language.candidate, language.perplexity_ratio
    rows = [
        (
            f"perplexity, {language.tokens:,} test tokens",
            f"{before.perplexity:.3f}",
            f"{after.perplexity:.3f}",
            _ratio(ratio),
        ),
        ("loss, nats a token", f"{before.loss:.4f}", f"{after.loss:.4f}", ""),
    ]
    if before.bits_per_byte is not None and after.bits_per_byte is not None:
        shown = f"{before.bits_per_byte:.4f}", f"{after.bits_per_byte:.4f}"
        rows.append((f"bits per byte, {language.text_bytes:,} bytes", *shown, ""))
    cache = before.cache_bytes_per_token, after.cache_bytes_per_token
    rows.append(
        ("keys and values, bytes a token", f"{cache[0]:,}", f"{cache[1]:,}", size_words(cache[0], cache[1]))
    )
    return Table(("figure", "baseline", "candidate", "change"), tuple(rows), "lrrl", sorts=False)


def _ratio(ratio: Interval) -> str:
    return f"{ratio.value:.3f}x (95 % interval {ratio.low:.3f} to {ratio.high:.3f})"


def _speeds(report: RunReport, language: Language) -> Table:
    rows = []
    for read, write in zip(report.measurement.latency, language.decode, strict=True):
        rows.append(("read the prompt", setting(read), *_speed(read, read.sequence)))
        rows.append(("write a token", decode_setting(write), *_speed(write, 1)))
    columns = ("what", "where", "baseline tokens/s", "candidate tokens/s", "candidate p50", "speed-up")
    return Table((*columns, "95 % interval"), tuple(rows), "llrrrrr", "tokens a second")


def _speed(timed: LatencyComparison, tokens: int) -> tuple[str, ...]:
    return (
        f"{timed.baseline.throughput_per_s * tokens:,.0f}",
        f"{timed.candidate.throughput_per_s * tokens:,.0f}",
        milliseconds(timed.candidate.p50_ms),
        ratio_text(timed.speedup, timed.speedup_low, timed.speedup_high),
        interval_text(timed.speedup, timed.speedup_low, timed.speedup_high),
    )

"""Report of a language model: perplexity, and the speed of prefill and of decoding."""

from __future__ import annotations

from compress.measure.results import Interval, Language, LatencyComparison
from compress.page import Bullets, Section, Table, Text, Tile
from compress.page.format import capital, interval_text, milliseconds, place, ratio_text, size_words
from compress.report.phrases import TaskPage, headline, setting, speed_tile, speedup_words
from compress.report.schema import RunReport

__all__ = ["LANGUAGE", "decode_setting", "perplexity_words"]

_NOTE = (
    "Perplexity is exp of the mean loss per token; each row is evaluated on its own, without cached tokens. "
    "Bits per byte is the same loss per byte of text, which is comparable between tokenizers. Prefill is a "
    "whole prompt in one call, with logits at every position; decoding is the last token of such a prompt, "
    "with the keys and values of all tokens before it cached."
)


def decode_setting(latency: LatencyComparison) -> str:
    """The setting of decoding: `batch 1, token 256, 1 thread`; the 255 tokens before it are cached."""
    return place(latency.batch, latency.sequence, latency.threads, of="token")


def perplexity_words(language: Language) -> str:
    """Change in perplexity in words; not called worse or better if the interval contains 1."""
    ratio = language.perplexity_ratio
    was, now = language.baseline.perplexity, language.candidate.perplexity
    tail = f"{was:.2f} to {now:.2f}, {ratio.value:.3f}x, 95 % interval {ratio.low:.3f} to {ratio.high:.3f}"
    if ratio.low <= 1 <= ratio.high:
        return f"no measurable change in perplexity ({tail})"
    percents = f"{100 * abs(ratio.value - 1):.1f} %"
    return f"perplexity is {percents} {'higher' if ratio.value > 1 else 'lower'} ({tail})"


def _language(report: RunReport) -> Language:
    assert report.measurement.language is not None
    return report.measurement.language


def _verdict(report: RunReport) -> str:
    measured, language, read = report.measurement, _language(report), headline(report)
    small = size_words(measured.baseline.size.file_bytes, measured.candidate.size.file_bytes)
    write = language.decode[0]
    clauses = [
        f"{small} than the fp32 ONNX model",
        f"decoding: {speedup_words(write)} at {decode_setting(write)}",
        *([] if read is None else [f"prefill of {read.sequence} tokens: {speedup_words(read)}"]),
        perplexity_words(language),
    ]
    return capital("; ".join(clauses)) + "."


def _tiles(report: RunReport) -> list[Tile]:
    """Perplexity, and the time per token at the first setting."""
    language = _language(report)
    ratio, write = language.perplexity_ratio, language.decode[0]
    values = f"{language.baseline.perplexity:.2f}", f"{language.candidate.perplexity:.2f}"
    note = f"95 % interval {ratio.low:.3f} to {ratio.high:.3f}"
    words = "No measurable change" if ratio.low <= 1 <= ratio.high else f"{ratio.value:.3f}x"
    perplexity = Tile("Perplexity", words, *values, note)
    return [perplexity, speed_tile("Decoding one token", write, decode_setting(write))]


def _sections(report: RunReport) -> tuple[Section, ...]:
    language = _language(report)
    lines = [
        f"{capital(perplexity_words(language))}.",
        *(f"Decoding at {decode_setting(each)}: {speedup_words(each)}." for each in language.decode),
    ]
    parts = (Bullets(tuple(lines)), _losses(language), _speeds(report, language), Text(_NOTE, "note"))
    return (Section("Language model", parts, "language"),)


def _losses(language: Language) -> Table:
    before, after, ratio = language.baseline, language.candidate, language.perplexity_ratio
    rows = [
        (
            f"perplexity, {language.tokens:,} test tokens",
            f"{before.perplexity:.3f}",
            f"{after.perplexity:.3f}",
            _ratio(ratio),
        ),
        ("loss, nats per token", f"{before.loss:.4f}", f"{after.loss:.4f}", ""),
    ]
    if before.bits_per_byte is not None and after.bits_per_byte is not None:
        shown = f"{before.bits_per_byte:.4f}", f"{after.bits_per_byte:.4f}"
        rows.append((f"bits per byte, {language.text_bytes:,} bytes", *shown, ""))
    cache = before.cache_bytes_per_token, after.cache_bytes_per_token
    rows.append(
        ("keys and values, bytes per token", f"{cache[0]:,}", f"{cache[1]:,}", size_words(cache[0], cache[1]))
    )
    return Table(("figure", "baseline", "candidate", "change"), tuple(rows), "lrrl", sorts=False, stacks=True)


def _ratio(ratio: Interval) -> str:
    return f"{ratio.value:.3f}x (95 % interval {ratio.low:.3f} to {ratio.high:.3f})"


def _speeds(report: RunReport, language: Language) -> Table:
    rows = []
    for read, write in zip(report.measurement.latency, language.decode, strict=True):
        rows.append(("prefill", setting(read), *_speed(read, read.sequence or 1)))
        rows.append(("decoding", decode_setting(write), *_speed(write, 1)))
    columns = ("phase", "setting", "baseline tokens/s", "candidate tokens/s", "candidate p50", "speed-up")
    return Table((*columns, "95 % interval"), tuple(rows), "llrrrrr", "tokens per second")


def _speed(timed: LatencyComparison, tokens: int) -> tuple[str, ...]:
    return (
        f"{timed.baseline.throughput_per_s * tokens:,.0f}",
        f"{timed.candidate.throughput_per_s * tokens:,.0f}",
        milliseconds(timed.candidate.p50_ms),
        ratio_text(timed.speedup, timed.speedup_low, timed.speedup_high),
        interval_text(timed.speedup, timed.speedup_low, timed.speedup_high),
    )


LANGUAGE = TaskPage(_verdict, _tiles, _sections)

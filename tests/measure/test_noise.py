from __future__ import annotations

from compress.measure import Latency, LatencyComparison
from compress.measure.process.noise import busy_note, disturbed_notes, spread_notes, usable_threads


def comparison(low: float, high: float, rounds: int = 5) -> LatencyComparison:
    latency = Latency(p50_ms=1, p95_ms=1, mean_ms=1, throughput_per_s=1000, calls=9)
    return LatencyComparison(
        batch=1,
        sequence=128,
        threads=2,
        baseline=latency,
        candidate=latency,
        speedup=2.0,
        speedup_low=low,
        speedup_high=high,
        rounds=rounds,
    )


def test_spread_notes_name_in_one_line_the_settings_whose_interval_is_wider_than_a_fifth():
    (note,) = spread_notes([comparison(1.9, 2.1), comparison(1.7, 2.2), comparison(1.5, 2.5)])
    assert "1.70x to 2.20x at batch 1, sequence 128, 2 threads; 1.50x to 2.50x at batch 1" in note
    assert "measure.rounds" in note


def test_the_first_clause_of_a_note_names_its_settings():
    def at(threads: int, high: float = 2.5, disturbed: int = 3) -> LatencyComparison:
        changes = {"threads": threads, "disturbed_rounds": disturbed}
        return comparison(1.5, high).model_copy(update=changes)

    timed = [at(1, high=1.6, disturbed=0), at(2), at(3), at(4)]
    for notes in (spread_notes, disturbed_notes):
        (one,), (two,), (many,) = (notes(timed[:until]) for until in (2, 3, 4))
        first, of_two, of_many = (each.partition(":")[0] for each in (one, two, many))
        assert str(timed[1].setting) in first and str(timed[0].setting) not in first
        assert all(str(each.setting) in of_two for each in timed[1:3])
        assert "3 of 4 settings" in of_many


def test_spread_notes_warn_once_of_few_rounds():
    (note,) = spread_notes([comparison(2, 2, rounds=3), comparison(2, 2, rounds=3)])
    assert "fewer than 5 rounds" in note and "measure.rounds" in note


def test_disturbed_notes_name_the_settings_and_what_disturbed_them():
    quiet = comparison(1.9, 2.1).model_copy(update={"disturbed_rounds": 0, "used_by_others": 0.05})
    busy = comparison(1.9, 2.1).model_copy(update={"disturbed_rounds": 3, "used_by_others": 0.63})
    stopped = busy.model_copy(update={"throttled_rounds": 3, "used_by_others": 0.0})
    assert disturbed_notes([comparison(1.9, 2.1), quiet]) == ()
    (note,) = disturbed_notes([quiet, busy])
    assert "63% of the cores, in 3 of 5 rounds at batch 1, sequence 128, 2 threads" in note
    (note,) = disturbed_notes([stopped])
    assert "CPU quota" in note and "3 of 5 rounds" in note


def test_busy_note_speaks_when_others_use_more_than_a_fifth_of_the_cores():
    assert busy_note(0.2) == ()
    (note,) = busy_note(0.63)
    assert "63%" in note


def test_usable_threads_drops_what_exceeds_the_cores_and_says_so():
    assert usable_threads([1, 2], 2) == ((1, 2), ())
    kept, (note,) = usable_threads([1, 4, 8], 2)
    assert kept == (1,)
    assert note.startswith("measure.threads: 4, 8 ") and "2 cores" in note and note.endswith(" 1")


def test_usable_threads_takes_the_cores_when_all_are_too_many():
    kept, (note,) = usable_threads([16, 16], 1)
    assert kept == (1,)
    assert note.startswith("measure.threads: 16 ") and "1 core;" in note

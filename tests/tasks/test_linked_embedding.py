"""Embeddings judged by pairs with scores or by search: by hand, by other libraries, intervals that cover."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from compress.tasks import TASKS, Task, Truth, task_class, task_from, task_of_measurement
from compress.tasks.embeddings.retrieval import Retrieval
from compress.tasks.embeddings.scored_pairs import ScoredPairs
from compress.tasks.embeddings.search import SEARCH_METRICS, search_quality
from compress.tasks.links import Links
from compress.tasks.registry import label_kinds

NO = np.zeros(0, dtype=np.int64)


def _search(queries: int, documents: int, seed: int, *, graded: bool = True) -> Links:
    """Queries are the first rows; each has one to five relevant documents."""
    draw = np.random.default_rng(seed)
    pairs = [
        (query, queries + int(document))
        for query in range(queries)
        for document in draw.choice(documents, draw.integers(1, 6), replace=False)
    ]
    scores = draw.integers(1, 4, len(pairs)) if graded else np.ones(len(pairs))
    rows = np.arange(queries + documents)
    return Links(rows, np.array(pairs), scores.astype(np.float64), rows[queries:])


def _vectors(rows: int, seed: int, size: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32)


def _truth(vectors: np.ndarray, links: Links | None) -> Truth:
    return Truth(vectors, np.ones(len(vectors), dtype=np.int64), links)


def _at(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)


def _linked(pairs: list[tuple[int, int]], scores: list[float], rows: int, documents: range) -> Links:
    return Links(np.arange(rows), np.array(pairs), np.array(scores), np.array(documents, dtype=np.int64))


def test_search_by_hand() -> None:
    # The query at 0 degrees finds documents at 10, 20, 30 and 40; the second and the fourth are relevant.
    vectors = _at(0, 10, 20, 30, 40)
    links = _linked([(0, 2), (0, 4)], [1.0, 3.0], 5, range(1, 5))
    ((ndcg, recall, recall_100, reciprocal),) = search_quality(vectors, links)
    gain = 1 / np.log2(3) + 3 / np.log2(5)
    assert ndcg == pytest.approx(gain / (3 + 1 / np.log2(3)), abs=1e-9)
    assert (recall, recall_100, reciprocal) == (1.0, 1.0, 0.5)
    assert SEARCH_METRICS == ("nDCG@10", "recall@10", "recall@100", "MRR@10")


def test_what_is_after_the_tenth_place_does_not_count() -> None:
    vectors = _at(0, *range(1, 15))
    links = _linked([(0, 3), (0, 14)], [1.0, 1.0], 15, range(1, 15))
    ((ndcg, recall, recall_100, reciprocal),) = search_quality(vectors, links)
    assert ndcg == pytest.approx(0.5 / (1 + 1 / np.log2(3))) and (recall, recall_100) == (0.5, 1.0)
    assert reciprocal == pytest.approx(1 / 3)
    late = _linked([(0, 11)], [1.0], 15, range(1, 15))
    assert search_quality(vectors, late).tolist() == [[0.0, 0.0, 1.0, 0.0]]


def test_equal_cosines_share_their_places() -> None:
    vectors = _at(0, 5, 20, 20, 20, 50)
    links = _linked([(0, 3)], [1.0], 6, range(1, 6))  # in one of the places 2 to 4
    ((ndcg, recall, _, reciprocal),) = search_quality(vectors, links)
    assert ndcg == pytest.approx(np.mean(1 / np.log2([3, 4, 5]))) and recall == 1
    assert reciprocal == pytest.approx(1 / 4)
    many = _at(0, *[20] * 40)  # all tied: 10 of 40 places count
    found = search_quality(many, _linked([(0, 3)], [1.0], 41, range(1, 41)))
    assert found[0].tolist() == pytest.approx([np.sum(1 / np.log2(np.arange(2, 12))) / 40, 0.25, 1.0, 0.0])


def test_a_query_does_not_find_itself() -> None:
    vectors = _at(0, 10, 30)
    every = _linked([(0, 2)], [1.0], 3, range(3))  # the query's text is a document too
    assert search_quality(vectors, every)[0, 3] == 0.5
    own = replace(every, pairs=np.array([(0, 0), (0, 2)]), scores=np.ones(2))
    assert search_quality(vectors, own)[0, 1] == 1.0


def test_a_relevance_of_0_is_not_relevant() -> None:
    links = _linked([(0, 2), (0, 3), (1, 2)], [1.0, 0.0, 0.0], 4, range(2, 4))
    assert len(search_quality(_at(0, 5, 10, 1), links)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_ndcg_is_that_of_scikit_learn(seed: int) -> None:
    links, vectors = _search(20, 70, seed), _vectors(90, seed)
    vectors[40] = vectors[41] = vectors[42]  # ties
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance = np.zeros((20, 70))
    relevance[links.pairs[:, 0], links.pairs[:, 1] - 20] = links.scores
    cosines = np.round(unit[:20] @ unit[20:].T, 6)
    wanted = [ndcg_score(relevance[[at]], cosines[[at]], k=10) for at in range(20)]
    assert search_quality(vectors, links)[:, 0].tolist() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_that_of_scipy(seed: int) -> None:
    vectors = _vectors(80, seed)
    links = _linked(
        [(at, at + 40) for at in range(40)],
        np.random.default_rng(seed).integers(0, 6, 40).tolist(),
        80,
        range(0),
    )
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = spearmanr((unit[:40] * unit[40:]).sum(1), links.scores).statistic
    task = ScoredPairs((), size=12)
    assert task.value(vectors, _truth(vectors, links)) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_sentence_transformers(seed: int) -> None:
    evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    links, vectors = _search(20, 150, seed, graded=False), _vectors(170, seed)
    texts = {f"text {row}": vectors[row] for row in range(170)}
    relevant: dict[str, set[str]] = {}
    for query, document in links.pairs.tolist():
        relevant.setdefault(str(query), set()).add(str(document))

    class Model:
        similarity_fn_name = "cosine"
        model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *_: None)

        def similarity(self, one: np.ndarray, other: np.ndarray) -> object:
            import torch
            from torch.nn.functional import normalize

            return normalize(torch.as_tensor(one)) @ normalize(torch.as_tensor(other)).T

        def encode(self, sentences: list[str], **_: object) -> object:
            import torch

            return torch.from_numpy(np.stack([texts[each] for each in sentences]))

        encode_query = encode_document = encode

    judge = evaluation.InformationRetrievalEvaluator(
        {str(row): f"text {row}" for row in range(20)},
        {str(row): f"text {row}" for row in range(20, 170)},
        relevant,
        ndcg_at_k=[10],
        precision_recall_at_k=[10, 100],
        mrr_at_k=[10],
        score_functions={"cosine": Model().similarity},
        write_csv=False,
    )
    found = judge.compute_metrices(Model())["cosine"]
    wanted = (found["ndcg@k"][10], found["recall@k"][10], found["recall@k"][100], found["mrr@k"][10])
    assert search_quality(vectors, links).mean(0).tolist() == pytest.approx(wanted, abs=1e-9)


def test_links_follow_rows_that_are_picked_sorted_and_appended() -> None:
    links = _linked([(0, 2), (1, 3), (0, 3)], [1.0, 2.0, 3.0], 4, range(2, 4))
    picked = links.at(np.array([3, 0]))
    places, scores = picked.places
    assert places.tolist() == [[1, 0]] and scores.tolist() == [3.0] and picked.searched.tolist() == [0]
    longer = picked.followed_by(2)
    assert longer.places[0].tolist() == [[1, 0]] and len(longer.ids) == 4
    assert not len(links.at(np.array([0, 1])).places[0])


def test_a_sample_keeps_links() -> None:
    links = _search(100, 900, 0)
    picked = links.drawn(100, seed=3)
    assert len(set(picked.tolist())) == 100 and picked.tolist() == sorted(picked)
    kept = links.at(picked)
    assert len(kept.places[0]) >= 25 and len(kept.searched) > 50
    pairs = replace(links, documents=NO)
    assert len(pairs.at(pairs.drawn(100, seed=3)).places[0]) >= 45
    assert links.drawn(100, seed=4).tolist() != picked.tolist()


def test_groups_for_training_are_pairs_that_change_with_the_seed() -> None:
    links = _search(30, 60, 0)
    first, second = (links.together(seed, 1.0) for seed in (0, 1))
    joined = {tuple(pair) for pair in links.pairs.tolist()}
    for groups in (first, second):
        numbers, counts = np.unique(groups, return_counts=True)
        assert counts.max() == 2 and (counts == 2).sum() >= 25
        for number in numbers[counts == 2]:
            assert tuple(np.flatnonzero(groups == number).tolist()) in joined
    assert first.tolist() != second.tolist()
    assert len(set(links.together(0, 9.0).tolist())) == 90


def test_scores_and_differences() -> None:
    vectors = _vectors(90, 1)
    moved = vectors + 0.4 * _vectors(90, 2)
    searched, pairs = _search(30, 60, 0), replace(_search(30, 60, 0), documents=NO)
    for task, links, unit, units in (
        (Retrieval((), size=12), searched, "query", 30),
        (ScoredPairs((), size=12), pairs, "pair", len(pairs.pairs)),
    ):
        truth = _truth(vectors, links)
        score, change = task.score(moved, truth), task.difference(vectors, moved, truth)
        assert (score.unit, score.units, score.rows, score.metric) == (unit, units, 90, task.words.metric)
        assert score.low < score.value == task.value(moved, truth) < score.high
        assert change.value == pytest.approx(score.value - task.value(vectors, truth))
        assert change.low < change.value < change.high and change.unit == unit
        same = task.difference(vectors, vectors, truth)
        assert same.value == 0 and same.low < 0 < same.high and same.agreement == 1
        table = task.breakdown(vectors, moved, truth, ({}, {}))
        assert (
            table.rows[0][0] == task.words.metric
            and table.rows[0][3] == task.words.scale.change(change.value, change.low, change.high)[0]
        )
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert "mean cosine" in [row[0] for row in table.rows]


def test_rows_without_links_have_no_score() -> None:
    vectors = _vectors(5, 0)
    for task in (Retrieval((), size=12), ScoredPairs((), size=12)):
        for links in (None, _search(1, 6, 0).at(np.array([0]))):
            truth = _truth(vectors[: 5 if links is None else 1], links)
            answers = vectors[: len(truth.labels)]
            assert task.value(answers, truth) == 0 and task.score(answers, truth).units == 0
            assert task.difference(answers, answers, truth).low == -1


def test_chance_is_a_random_order_and_no_correlation() -> None:
    vectors = _vectors(260, 0)
    truth = _truth(vectors, _search(60, 200, 1))
    search = Retrieval((), size=12)
    chance, gain = search.above_constant(vectors, truth)
    at_random = [search.value(_vectors(260, seed), truth) for seed in range(1, 21)]
    assert chance == pytest.approx(np.mean(at_random), abs=0.01) and gain.low < 0 < gain.high
    pairs = ScoredPairs((), size=12)
    assert (
        pairs.above_constant(vectors, replace(truth, links=replace(_search(60, 200, 1), documents=NO)))[0]
        == 0
    )


@pytest.mark.parametrize("noise", [0.3, pytest.param(1.0, marks=pytest.mark.slow)])
def test_intervals_of_search_cover(noise: float) -> None:
    # Queries are drawn from many that search the same documents; the truth is the mean over all of these.
    documents, draw = _vectors(60, 0, 8), np.random.default_rng(5)
    targets = draw.integers(0, 60, 2000)
    queries = documents[targets] + noise * draw.standard_normal((2000, 8)).astype(np.float32)
    other = documents[targets] + (noise + 0.2) * draw.standard_normal((2000, 8)).astype(np.float32)
    task = Retrieval((), size=8)

    def taken(rows: np.ndarray) -> tuple[Truth, np.ndarray, np.ndarray]:
        count = len(rows)
        pairs = np.stack((np.arange(count), count + targets[rows]), axis=1)
        links = Links(np.arange(count + 60), pairs, np.ones(count), np.arange(count, count + 60))
        both = (np.concatenate((each[rows], documents)) for each in (queries, other))
        one, two = both
        return _truth(one, links), one, two

    assert (_covered(task, taken, 2000, draw.choice(2000, (60, 60))) >= 0.87).all()


@pytest.mark.slow
def test_intervals_of_pairs_cover() -> None:
    draw, task = np.random.default_rng(6), ScoredPairs((), size=8)
    first = draw.standard_normal((4000, 8)).astype(np.float32)
    second = first + draw.uniform(0.2, 3, (4000, 1)) * draw.standard_normal((4000, 8))
    scores = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    noisy = second + 0.5 * draw.standard_normal(second.shape)

    def taken(rows: np.ndarray) -> tuple[Truth, np.ndarray, np.ndarray]:
        count = len(rows)
        pairs = np.stack((np.arange(count), count + np.arange(count)), axis=1)
        links = Links(np.arange(2 * count), pairs, scores[rows] + 0.0, NO)
        one, two = (np.concatenate((first[rows], each[rows])) for each in (second + 0.2 * noisy, noisy))
        return _truth(one, links), one, two

    assert (_covered(task, taken, 4000, draw.choice(4000, (60, 80))) >= 0.87).all()


def _covered(
    task: Task,
    taken: Callable[[np.ndarray], tuple[Truth, np.ndarray, np.ndarray]],
    rows: int,
    samples: np.ndarray,
) -> np.ndarray:
    """Shares of the samples whose intervals contain the value, and the change, over all rows."""
    truth, one, two = taken(np.arange(rows))
    value, change = task.value(two, truth), task.change(one, two, truth)
    inside = np.zeros(2)
    for picked in samples:
        some, one, two = taken(picked)
        score, difference = task.score(two, some), task.difference(one, two, some)
        inside += [score.low <= value <= score.high, difference.low <= change <= difference.high]
    return inside / len(samples)


def _restored(task: Task) -> Task:
    return task_from(task.facts())


def test_the_kind_of_labels_decides_the_class_and_travels() -> None:
    assert label_kinds("embedding") == ("none", "scores", "relevances")
    assert (
        task_class("embedding", "relevances") is Retrieval
        and task_class("embedding", "scores") is ScoredPairs
    )
    for name in TASKS:
        for labels in label_kinds(name):
            kind = task_class(name, labels)
            assert kind.name == name and kind.label_kind == labels
    for task in (Retrieval((), size=3), ScoredPairs((), size=3), task_class("embedding")((), size=3)):
        assert _restored(task) == task and type(_restored(task)) is type(task)
        measured = SimpleNamespace(
            task="embedding", labels=(), difference=SimpleNamespace(metric=task.words.metric)
        )
        assert type(task_of_measurement(measured)) is type(task)

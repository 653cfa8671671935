"""Orders of reads: what holds for any requests, compiled and plain, and what is the best where it can be known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.units import MB
from tapeserver import ordering, orderplain
from tapeserver.drivemodel import Geometry, model_of
from tapeserver.ordering import insert_reads, order_reads

# The first run on a machine compiles the loops, on a busy one for minutes; later ones load them from a cache.
pytestmark = pytest.mark.timeout(900)

MEDIA = ("LTO-7", "LTO-9", "helical")
GEOMETRIES = {medium: Geometry(model_of(medium)) for medium in MEDIA}
objectives = st.sampled_from(["total", "home", "completion"])
ways = st.booleans()


@pytest.fixture(scope="module", autouse=True)
def compiled_loops():
    pytest.importorskip("numba")
    assert ordering.warm_up()


@st.composite
def wanted(draw, most=40):
    """(geometry, starts, lengths, weights, head): anywhere, apart or side by side, some twice."""
    geometry = GEOMETRIES[draw(st.sampled_from(MEDIA))]
    count = draw(st.integers(0, most))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = random.integers(0, draw(st.sampled_from([1, 10**6, 3 * 10**9])) + 1, count)
    starts = random.integers(0, geometry.capacity_bytes - 4 * 10**9, count)
    if draw(st.booleans()) and count:
        starts = starts[0] + np.concatenate(([0], np.cumsum(lengths)[:-1]))
        starts = random.permutation(np.minimum(starts, geometry.capacity_bytes))
    weights = random.choice([0.5, 1.0, 20.0], count)
    return geometry, starts.astype(np.int64), lengths.astype(np.int64), weights, draw(st.sampled_from([0, 3 * 10**10]))


def ordered(objective, geometry, starts, lengths, weights, head, *, plain):
    """By one of the objectives, or "home": the rewind behind the last counts too."""
    by = {"objective": "total", "home": True} if objective == "home" else {"objective": objective}
    return order_reads(geometry, starts, lengths, head=head, weights=weights, plain=plain, **by)


def seconds_of(geometry, starts, lengths, head, order):
    done, now = [], 0.0
    for index in order:
        now += geometry.locate_seconds(head, int(starts[index])) + geometry.transfer_seconds(int(lengths[index]))
        head = int(starts[index] + lengths[index])
        done.append(now)
    return done


def value_of(objective, geometry, starts, lengths, weights, head, order):
    done = seconds_of(geometry, starts, lengths, head, order)
    if objective == "home" and done:
        return done[-1] + geometry.rewind_seconds(int((starts + lengths)[order[-1]]))
    if objective != "completion":
        return done[-1] if done else 0.0
    return float(sum(second * weights[index] for second, index in zip(done, order, strict=True)))


def nearest_first(geometry, starts, lengths, head):
    left, order = list(range(len(starts))), []
    while left:
        order.append(min(left, key=lambda index: (geometry.locate_seconds(head, int(starts[index])), index)))
        left.remove(order[-1])
        head = int(starts[order[-1]] + lengths[order[-1]])
    return order


@given(wanted(), objectives, ways)
@settings(max_examples=60, deadline=None)
def test_every_file_is_read_once_and_what_it_takes_is_told_truly(request, objective, plain):
    geometry, starts, lengths, weights, head = request
    order = ordered(objective, geometry, starts, lengths, weights, head, plain=plain)
    assert sorted(order.indices.tolist()) == list(range(len(starts)))
    told, kind = (order.weighted_seconds, objective) if objective == "completion" else (order.seconds, "total")
    assert told == pytest.approx(value_of(kind, geometry, starts, lengths, weights, head, order.indices))
    assert order.seconds == pytest.approx(order.locate_seconds + geometry.transfer_seconds(int(lengths.sum())))


@given(wanted(), objectives, ways)
@settings(max_examples=60, deadline=None)
def test_never_worse_than_block_order_or_nearest_first(request, objective, plain):
    geometry, starts, lengths, weights, head = request
    order = ordered(objective, geometry, starts, lengths, weights, head, plain=plain)
    rest = (geometry, starts, lengths, weights, head)
    ours = value_of(objective, *rest, order.indices)
    for other in (np.argsort(starts, kind="stable"), nearest_first(geometry, starts, lengths, head)):
        assert ours <= value_of(objective, *rest, other) * (1 + 1e-9) + 1e-6


@given(wanted(), objectives, ways)
@settings(max_examples=20, deadline=None)
def test_the_same_requests_give_the_same_order(request, objective, plain):
    geometry, starts, lengths, weights, head = request

    def again():
        return ordered(objective, geometry, starts, lengths, weights, head, plain=plain).indices.tolist()

    assert again() == again()


@given(wanted(most=5), objectives, ways)
@settings(max_examples=60, deadline=None)
def test_a_few_files_are_read_in_the_best_of_all_orders(request, objective, plain):
    geometry, starts, lengths, weights, head = request
    rest = (geometry, starts, lengths, weights, head)
    order = ordered(objective, geometry, starts, lengths, weights, head, plain=plain)
    best = min(value_of(objective, *rest, other) for other in itertools.permutations(range(len(starts))))
    assert value_of(objective, *rest, order.indices) == pytest.approx(best)


def test_seven_files_are_read_in_the_best_of_all_orders():
    geometry = GEOMETRIES["LTO-7"]
    starts = np.random.default_rng(5).integers(0, geometry.capacity_bytes, 7)
    lengths = np.full(7, 200 * MB)
    matrix = geometry.locate_matrix(np.append(starts + lengths, 0), starts)
    best = min(
        matrix[7, order[0]] + sum(matrix[a, b] for a, b in itertools.pairwise(order))
        for order in itertools.permutations(range(7))
    )
    assert order_reads(geometry, starts, lengths).locate_seconds == pytest.approx(best)


@pytest.mark.parametrize("seed", range(40))
def test_on_one_track_with_the_head_behind_all_files_the_recurrence_is_exact(seed):
    from tapeserver.orderweighted import linear_order

    random = np.random.default_rng(seed)
    count = int(random.integers(1, 7))
    edges = np.sort(random.choice(60, 2 * count, replace=False)).astype(np.float64)
    left, right, weight = edges[::2].copy(), edges[1::2].copy(), random.integers(1, 9, count) / 2.0

    def value(order):
        now, here, total = 0.0, right[-1], 0.0
        for index in order:
            now += abs(left[index] - here) + right[index] - left[index]
            here = right[index]
            total += weight[index] * now
        return total

    found = linear_order(left, right, right - left, weight)
    assert sorted(found.tolist()) == list(range(count))
    assert value(found) == pytest.approx(min(value(order) for order in itertools.permutations(range(count))))


def test_more_files_than_are_planned_singly_are_taken_together_where_they_lie_close(monkeypatch):
    monkeypatch.setattr(ordering, "NODES_MAX", 50)
    geometry = GEOMETRIES["LTO-7"]
    starts = np.random.default_rng(1).permutation(300) * 5 * MB
    order = order_reads(geometry, starts, np.full(300, 5 * MB), effort=0.0)
    assert order.indices.tolist() == np.argsort(starts).tolist()


def test_what_is_taken_together_lies_closest_and_on_one_wrap(monkeypatch):
    monkeypatch.setattr(ordering, "NODES_MAX", 40)
    geometry, clusters, each = GEOMETRIES["LTO-7"], 40, 6
    random = np.random.default_rng(2)
    # Far apart, and inside the wraps: a gap of a megabyte to the next of the same cluster.
    wrap = geometry.capacity_bytes // geometry.model.wraps
    begins = random.choice(geometry.model.wraps, clusters, replace=False) * wrap + wrap // 3
    starts = (begins[:, None] + np.arange(each) * 6 * MB).ravel()
    mixed = random.permutation(len(starts))
    order = order_reads(geometry, starts[mixed], np.full(len(starts), 5 * MB), effort=0.0)
    read = mixed[order.indices].reshape(clusters, each)
    assert (read % each == np.arange(each)).all()
    assert (read // each == read[:, :1] // each).all()
    # The nearest pair of all lies across the turn of a wrap: it is the one that is not taken together.
    turn = int(np.flatnonzero(np.diff(geometry.places(np.arange(0, 3 * wrap, MB))[0]))[0]) * MB
    starts = np.concatenate(([turn - 5 * MB, turn + 2 * MB], wrap // 3 + np.arange(39) * 50 * MB))
    pieces = list(ordering._pieces(geometry, starts, np.full(41, 5 * MB)))
    assert len(pieces) == 40
    assert [sorted(piece.tolist()) for piece in pieces if len(piece) > 1] not in ([], [[0, 1]])


def test_heavy_files_come_early_when_completion_counts():
    geometry = GEOMETRIES["LTO-7"]
    starts = np.random.default_rng(3).integers(0, geometry.capacity_bytes, 60)
    weights = np.ones(60)
    weights[17] = 1000.0
    order = order_reads(geometry, starts, np.full(60, 3000 * MB), weights=weights, objective="completion")
    assert order.indices[0] == 17


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("medium", "files"), [("LTO-7", 8), ("LTO-9", 12), ("LTO-9", 40)])
def test_with_the_rewind_counted_a_mount_is_shorter_and_its_pass_hardly_longer(medium, files, plain):
    geometry, saved, longer = GEOMETRIES[medium], [], []
    for seed in range(8):
        starts = np.random.default_rng(seed).integers(0, geometry.capacity_bytes - 10**10, files)
        lengths = np.full(files, 2000 * MB)
        takes = [ordered(one, geometry, starts, lengths, None, 0, plain=plain) for one in ("total", "home")]
        rewinds = [geometry.rewind_seconds(int((starts + lengths)[one.indices[-1]])) for one in takes]
        longer.append(takes[1].seconds / takes[0].seconds)
        saved.append(takes[0].seconds + rewinds[0] - takes[1].seconds - rewinds[1])
    assert min(saved) > (-1e-9 if not plain else -60)
    assert np.mean(saved) > (25 if files < 40 else 0)
    assert np.mean(longer) < 1.2


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="differ"):
        order_reads(GEOMETRIES["LTO-7"], [1, 2], [1])
    with pytest.raises(ValueError, match="objective"):
        order_reads(GEOMETRIES["LTO-7"], [1], [1], objective="fastest")


@given(wanted(), st.data())
@settings(max_examples=60, deadline=None)
def test_each_arrival_is_put_where_it_costs_least_among_those_that_stay_in_their_order(request, data):
    geometry, starts, lengths, _, head = request
    standing = data.draw(st.integers(0, len(starts)))

    def seconds(order):
        ends = np.concatenate(([head], (starts + lengths)[order][:-1])) if len(order) else np.empty(0)
        return geometry.locate_many(ends, starts[order]).sum()

    expected = list(range(standing))
    for read in range(standing, len(starts)):
        ways = [np.array([*expected[:place], read, *expected[place:]]) for place in range(len(expected) + 1)]
        expected = insert_reads(geometry, starts[: read + 1], lengths[: read + 1], standing, head=head).tolist()
        assert seconds(np.array(expected)) == pytest.approx(min(map(seconds, ways)))
    assert sorted(expected) == list(range(len(starts)))
    assert [read for read in expected if read < standing] == list(range(standing))


def test_the_plain_constructions_are_permutations_of_all_files():
    geometry = GEOMETRIES["LTO-9"]
    starts = np.random.default_rng(2).integers(0, geometry.capacity_bytes, 400)
    nodes = ordering.nodes_of(geometry, starts, np.full(400, 200 * MB), 0, None)
    for construction in (
        orderplain.block_order, orderplain.two_queue_scan, orderplain.nearest_first, orderplain.greatest_loss_first,
        orderplain.heaviest_first, orderplain.dearest_first,
    ):  # fmt: skip
        assert sorted(construction(nodes).tolist()) == list(range(1, 401))


@pytest.mark.parametrize("medium", MEDIA)
@pytest.mark.parametrize("files", [1, 8, 60, 500])
@pytest.mark.parametrize(("length", "part"), [(200 * MB, 1.0), (10 * MB, 0.1)])
def test_what_a_pass_is_said_to_take_is_near_what_the_order_found_takes(medium, files, length, part):
    geometry = GEOMETRIES[medium]
    span = int(part * geometry.capacity_bytes)
    if files * length > span // 2:
        pytest.skip("more than the volume holds")
    found = []
    for seed in range(12 if files < 60 else 2):
        starts = np.sort(np.random.default_rng(seed).integers(0, span - files * length, files))
        starts += np.arange(files) * length
        found.append(order_reads(geometry, starts, np.full(files, length), effort=0.1).seconds)
    assert geometry.pass_seconds(files, files * length, span) == pytest.approx(np.mean(found), rel=0.35)


def test_without_numba_orders_are_those_of_numpy(monkeypatch):
    def missing(name):
        raise ImportError(name)

    for name in ("kernels", "search", "weighted"):
        monkeypatch.setattr(ordering._Compiled, name, None)
    monkeypatch.setattr(ordering.importlib, "import_module", missing)
    assert not ordering.warm_up()
    assert not ordering.compiled()
    geometry = GEOMETRIES["LTO-9"]
    starts = np.random.default_rng(4).integers(0, geometry.capacity_bytes, 30)
    lengths = np.full(30, MB)
    plain = order_reads(geometry, starts, lengths, plain=True)
    assert order_reads(geometry, starts, lengths).indices.tolist() == plain.indices.tolist()


def shapes():
    """(geometry, starts): sparse, clustered, and so dense that the order of blocks is hard to better."""
    for medium in ("LTO-7", "LTO-9"):
        geometry = GEOMETRIES[medium]
        for seed, count in itertools.product(range(4), (12, 60, 200, 600)):
            random = np.random.default_rng(seed)
            yield geometry, random.integers(0, geometry.capacity_bytes - 10**10, count)
            yield geometry, random.integers(0, geometry.capacity_bytes // 20, count)
            yield geometry, random.choice(count * 6 // 5, count, replace=False) * 200 * MB + 10**11


@pytest.mark.parametrize("plain", [False, True])
def test_without_any_search_the_order_is_the_best_of_all_constructions(plain, monkeypatch):
    """So that no search can ever have begun from what is worse than the order of blocks, or than nearest first."""
    from tapeserver import orderkernels, ordersearch

    monkeypatch.setattr(ordersearch, "improved", lambda *given: given[7])
    monkeypatch.setattr(orderplain, "moved_segments", lambda nodes, order: order)
    best = set()
    for geometry, starts in shapes():
        lengths = np.full(len(starts), 200 * MB)
        if plain and len(starts) > 200:
            continue
        found = order_reads(geometry, starts, lengths, plain=plain).locate_seconds
        nodes = ordering.nodes_of(geometry, starts.astype(np.int64), lengths, 0, None)
        parts = (nodes.ends, nodes.starts, nodes.terms)
        near = orderkernels.neighbours(*parts, min(ordering.NEIGHBOURS, len(starts)))
        others = {
            "block": orderplain.block_order(nodes),
            "scan": orderplain.two_queue_scan(nodes),
            "nearest": orderkernels.nearest_first(*parts, near[0])[1:-1],
            "loss": orderplain.greatest_loss_first(nodes)
            if plain
            else orderkernels.greatest_loss_first(*parts, *near)[1:-1],
        }
        takes = {name: orderplain.motion_seconds(nodes, order) for name, order in others.items()}
        assert found <= min(takes.values()) * (1 + 1e-9)
        best.add(min(takes, key=takes.__getitem__))
    # Each of them is needed: for some requests it is the best.
    assert best == set(others)


@pytest.mark.parametrize("plain", [False, True])
def test_without_any_search_weighted_completion_is_the_best_of_all_constructions(plain, monkeypatch):
    from tapeserver import orderweighted

    monkeypatch.setattr(orderweighted, "weighted_descent", lambda *given: given[5])
    for geometry, starts in itertools.islice(shapes(), 0, 24):
        count = min(len(starts), 60)
        lengths, weights = np.full(count, 200 * MB), np.random.default_rng(count).choice([0.5, 1.0, 20.0], count)
        found = order_reads(geometry, starts[:count], lengths, weights=weights, objective="completion", plain=plain)
        nodes = ordering.nodes_of(geometry, starts[:count].astype(np.int64), lengths, 0, weights)
        for construction in (
            orderplain.block_order, orderplain.two_queue_scan, orderplain.nearest_first, orderplain.heaviest_first,
            orderplain.dearest_first,
        ):  # fmt: skip
            other = orderplain.weighted_seconds(nodes, construction(nodes))
            assert found.weighted_seconds <= other * (1 + 1e-9)


def test_a_search_never_makes_an_order_worse_and_each_step_is_taken_back_that_did():
    for geometry, starts in itertools.islice(shapes(), 0, 24, 5):
        lengths = np.full(len(starts), 200 * MB)
        takes = [
            order_reads(geometry, starts, lengths, effort=effort).locate_seconds for effort in (0.0, 0.02, 0.2, 1.0)
        ]
        assert takes == sorted(takes, reverse=True)

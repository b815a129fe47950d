from __future__ import annotations

import itertools
import json
import math
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pytest
from quant.graphs import model_of

from qtool import formats
from qtool.data import open_samples
from qtool.data.held import hold
from qtool.data.state import state_of
from qtool.errors import DataError, UsageError
from qtool.quant.knapsack import cost
from qtool.runtime.ort import OrtSession
from qtool.stages import mixed
from qtool.stages._ladder import Bracket, Candidate, between, ladder
from qtool.stages._search import Trial, curve
from qtool.stages._trials import Journal, is_result, run_trial
from qtool.stages.calibrate import calibrate
from qtool.stages.quantize import quantize
from qtool.stages.tune import tune

N = 160


def classifier(w1, w2, w3, b3):
    return model_of(
        """
        net (float[n, 3, 8, 8] x, float[16,3,3,3] w1, float[16,16,3,3] w2, float[16, 10] w3,
             float[10] b3) => (float[n, 10] y) {
            a = Conv<pads = [1,1,1,1]>(x, w1)
            r = Relu(a)
            d = Conv<pads = [1,1,1,1]>(r, w2)
            e = Relu(d)
            p = GlobalAveragePool(e)
            f = Flatten(p)
            y = Gemm(f, w3, b3)
        }
        """,
        w1=w1.astype(np.float32),
        w2=w2.astype(np.float32),
        w3=w3.astype(np.float32),
        b3=np.asarray(b3, np.float32),
    )


@pytest.fixture
def net(rng, tmp_path):
    return labelled(rng, tmp_path, 4)


def labelled(rng, tmp_path, factor):
    """A classifier with samples of its own float answers; the factor makes one scale hurt it."""
    w1, w2 = rng.normal(size=(16, 3, 3, 3)) / 5, rng.normal(size=(16, 16, 3, 3)) / 12
    w1[0], w2[:, 0] = factor * w1[0], w2[:, 0] / factor
    w3 = rng.normal(size=(16, 10))
    x = rng.normal(size=(N, 3, 8, 8)).astype(np.float32)
    usual = OrtSession(classifier(w1, w2, w3, np.zeros(10))).run({"x": x})["y"].mean(axis=0)
    model = classifier(w1, w2, w3, -usual)
    y = OrtSession(model).run({"x": x})["y"].argmax(axis=1)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    formats.save(model, tmp_path / "m.onnx")
    return formats.load(tmp_path / "m.onnx")


@pytest.fixture
def asked(net, tmp_path):
    return {
        "data": str(tmp_path / "d.npz"), "output": str(tmp_path / "best.onnx"), "max_drop": 4.0,
        "threads": 1,
    }  # fmt: skip


def samples(net, folder):
    return open_samples(str(folder / "d.npz[::4]"), net.inputs())


def test_the_best_is_written_and_inside_the_budget(net, asked, tmp_path):
    found = tune(net, **asked)

    assert found.best is not None
    assert found.best.drop <= 4.0
    assert (tmp_path / "best.onnx").stat().st_size == found.best.bytes
    assert found.best.bytes == min(t.bytes for t in found.trials if t.passed)
    assert found.best in found.curve
    assert len(found.trials) <= 8
    assert all(t.drop_ci95 is not None for t in found.trials)


def test_a_budget_that_plain_int8_misses_is_met_with_float_layers(asked, tmp_path):
    net = labelled(np.random.default_rng(0), tmp_path, 8)
    options = {"per_channel": False, "equalize": "none"}
    plain = tune(net, **{**asked, "max_drop": 90.0, "trials": 1}, options=options).trials[0]

    found = tune(net, **{**asked, "max_drop": 0.75 * plain.drop}, options=options)

    assert found.best is not None
    assert 0 <= found.best.place < plain.place
    assert any(text.endswith("=float") for text in found.best.layers)


def test_the_commands_make_the_same_bytes(net, asked, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked |= {"max_drop": 20.0}
    found = tune(net, **asked, name="m.onnx", options={"per_channel": False})
    tuned = (tmp_path / "best.onnx").read_bytes()
    (tmp_path / "best.onnx").unlink()

    import shlex

    for command in found.commands:
        done = cli(*shlex.split(command)[1:])
        assert done.exit_code == 0, done.stderr

    assert len(found.commands) == 3
    ours, theirs = (formats.load(tmp_path / "best.onnx"), tuned)
    (tmp_path / "tuned.onnx").write_bytes(theirs)
    from qtool.model import fingerprint

    assert fingerprint(ours) == fingerprint(formats.load(tmp_path / "tuned.onnx"))


def test_a_second_run_takes_the_trials_from_the_journal(net, asked, tmp_path):
    first = tune(net, **asked)
    (tmp_path / "best.onnx").unlink()

    second = tune(net, **asked)

    assert all(trial.remembered for trial in second.trials)
    assert second.best is not None
    assert second.best.bytes == first.best.bytes == (tmp_path / "best.onnx").stat().st_size


def test_a_search_that_stopped_goes_on(net, asked):
    tune(net, **asked, trials=1)

    found = tune(net, **asked)

    assert [trial.remembered for trial in found.trials[:2]] == [True, False]


def test_other_options_are_other_trials(net, asked):
    tune(net, **asked, trials=1)

    found = tune(net, **asked, trials=1, options={"range": "minmax"})

    assert not found.trials[0].remembered


@pytest.mark.slow
def test_what_is_found_does_not_depend_on_jobs(net, asked, tmp_path):
    one = tune(net, **{**asked, "trials": 20})

    many = tune(net, **{**asked, "trials": 20, "output": str(tmp_path / "b.onnx")}, jobs=3)

    assert many.best.drop <= 4.0
    assert abs(many.best.bytes - one.best.bytes) <= 0.2 * one.best.bytes


class Remote(Executor):
    """What a cluster sees: tasks that survive JSON, and a function without arguments of its own."""

    def __init__(self):
        self.tasks = []

    def submit(self, fn, /, *args, **kwargs):
        (task,) = args
        self.tasks.append(task)
        future: Future = Future()
        future.set_result(json.loads(json.dumps(fn(json.loads(json.dumps(task))))))
        return future


def test_trials_run_on_an_executor_that_is_plugged_in(net, asked):
    pool = Remote()

    found = tune(net, **asked, executor=pool)

    assert len(pool.tasks) == len(found.trials) > 1
    assert found.best is not None


def test_the_time_ends_the_search_and_keeps_the_best(net, asked, tmp_path, monkeypatch):
    from qtool.stages import _trials

    now = iter(range(10**6))
    monkeypatch.setattr(_trials.time, "time", lambda: next(now))

    found = tune(net, **{**asked, "max_drop": 20.0}, seconds=250.0)

    assert found.ended == "the time is over"
    assert found.best is not None
    assert (tmp_path / "best.onnx").stat().st_size == found.best.bytes


def test_no_time_at_all_is_said(net, asked):
    with pytest.raises(UsageError, match="over before the first trial"):
        tune(net, **asked, seconds=1e-6)


def test_too_little_memory_is_said(net, asked):
    with pytest.raises(UsageError, match="--memory is too little: about"):
        tune(net, **asked, memory=1000)


def test_a_part_of_the_data_needs_calibration_samples(net, asked):
    with pytest.raises(UsageError, match="--calibration"):
        tune(net, **{**asked, "data": asked["data"] + "[0:80]"})


def test_latency_takes_no_4_bit_weights(net, asked):
    found = tune(net, **asked, goal="latency")

    assert found.best is not None
    assert not any(text.endswith("=w4") for t in found.trials for text in t.layers)


def test_the_command_fails_where_nothing_is_inside_the_budget(asked, tmp_path, cli):
    done = cli("tune", "-i", tmp_path / "m.onnx", "--data", asked["data"], "--max-drop", 0,
               "--trials", 1, "-o", tmp_path / "b.onnx", "--threads", 1)  # fmt: skip

    assert done.exit_code in (0, 3)
    assert (tmp_path / "b.onnx").is_file()
    if done.exit_code == 3:
        assert "no trial is inside the budget of 0; the closest drops by" in done.stderr


def test_the_command_prints_json_and_the_commands(asked, tmp_path, cli):
    done = cli("tune", "-i", tmp_path / "m.onnx", "--data", asked["data"], "--max-drop", 4,
               "-o", tmp_path / "b.onnx", "--json", "--threads", 1)  # fmt: skip

    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["best"]["passed"]
    assert "peak memory" in done.stderr
    assert "qtool quantize --input calibrated.qtm --data" in done.stderr


RESULT = {
    "metric": "top1", "bytes": 3, "value": 1.0, "seconds": 2, "drop": None, "agreement": None,
    "drop_ci95": [0.0, 1.0], "passed": True,
}  # fmt: skip


def test_a_torn_journal_line_is_lost_alone(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path).add("a", RESULT)
    with open(path, "ab") as file:
        file.write(b'{"key": "b", "dr')

    Journal(path).add("c", RESULT)

    assert set(Journal(path).found) == {"a", "c"}


def path_of(n):
    """Candidates, each 10 % cheaper and losing 1 more than the one before."""
    return [Candidate((), float(i), 100 * 0.9**i) for i in range(n)]


def test_without_a_failed_trial_the_middle_is_next():
    assert between(path_of(9), Bracket(0, 9), 1.0) == [5]


def test_several_places_are_even():
    assert between(path_of(9), Bracket(0, 9), 0.5, 3) == [2, 4, 6]


def test_between_two_drops_the_place_where_they_cross_the_budget_is_next():
    assert between(path_of(21), Bracket(0, 20, 0.0, 4.0), 1.4) == [7]


def test_a_crossing_near_an_end_is_kept_in_the_middle_half():
    assert between(path_of(21), Bracket(0, 20, 0.0, 100.0), 0.1) == [5]


def test_an_unknown_drop_means_the_middle():
    assert between(path_of(21), Bracket(0, 20, 0.0, math.inf), 0.1) == [10]


def test_neighbours_have_nothing_between_them():
    assert between(path_of(9), Bracket(3, 4), 1.0) == []


def test_costs_that_hardly_differ_are_not_tried():
    path = [Candidate((), 1.0, 100.0), Candidate((), 2.0, 99.5), Candidate((), 3.0, 50.0)]

    assert between(path, Bracket(0, 2), 1.0) == []


def test_the_ladder_has_all_int8_and_loses_more_from_one_to_the_next(net, tmp_path):
    calibrated = calibrate(net, data=samples(net, tmp_path), gram=True)

    found, first = ladder(mixed.choices(calibrated, types=("float", "w8", "w4")))

    assert found[first].layers == ()
    assert all(a.loss < b.loss for a, b in itertools.pairwise(found))
    assert not any(text.endswith("=float") for one in found[first:] for text in one.layers)


def test_the_curve_has_no_beaten_trial():
    def trial(size, drop):
        return Trial(0, (), size, size, 0.0, drop, None, None, True, 0.0)

    found = curve([trial(10, 3.0), trial(20, 1.0), trial(30, 2.0)], "size")

    assert [t.bytes for t in found] == [10, 20]


def test_a_mixture_within_a_budget_computes_nearly_the_same(net, tmp_path):
    calibrated = calibrate(net, data=samples(net, tmp_path), gram=True)
    data = hold(samples(net, tmp_path), 8)
    known = mixed.choices(calibrated, types=("float", "w8", "w4"), data=data)
    whole = sum(max(c.cost for c in choices) for choices in known.values())

    found = mixed.mixture(known, whole / 6)

    assert cost(found) <= whole / 6
    layers = mixed.layer_options(found)
    assert any(text.endswith("=w4") for text in layers)
    quantize(calibrated, layers=layers)


def test_the_loss_of_a_type_grows_as_bits_go(net, tmp_path):
    calibrated = calibrate(net, data=samples(net, tmp_path), gram=True)

    known = mixed.choices(calibrated, types=("float", "w8a16", "w8", "w4"), cost="macs")

    for choices in known.values():
        losses = [choice.loss for choice in choices]
        assert losses == sorted(losses)


def test_a_budget_that_is_too_small_is_said(net, tmp_path):
    calibrated = calibrate(net, data=samples(net, tmp_path), gram=True)

    with pytest.raises(UsageError, match="too small: the least is"):
        mixed.mixture(mixed.choices(calibrated, types=("w8", "w4")), 10)


def test_a_pool_of_threads_is_used_as_it_is(net, asked):
    with ThreadPoolExecutor(1) as pool:
        assert tune(net, **asked, executor=pool, trials=1).trials


def test_an_interrupt_stops_the_trial_and_says_what_there_is(net, asked, monkeypatch):
    from qtool.stages import _search

    stopped = []

    def second(task, progress):
        if len(stopped) == 0:
            stopped.append("first")
            return run_trial(task, progress)
        for _ in progress(iter(int, 1), "", None):  # without an end
            if not stopped[1:]:
                stopped.append("second")
        return {}

    wait = _search.wait

    def interrupted(waiting, **how):
        if "second" in stopped:
            raise KeyboardInterrupt
        return wait(waiting, timeout=0.05, **how)

    monkeypatch.setattr(_search, "run_trial", second)
    monkeypatch.setattr(_search, "wait", interrupted)

    with pytest.raises(KeyboardInterrupt) as seen:
        tune(net, **{**asked, "max_drop": 20.0})

    assert (
        seen.value.args[1]
        == f"{asked['output']} holds the best so far; the same command again goes on"
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda e: {"key": e["key"]},
        lambda e: {**e, "drop": "x"},
        lambda e: {**e, "drop_ci95": [1]},
        lambda e: {**e, "bytes": None},
        lambda e: {**e, "passed": 1},
        lambda e: [e],
        lambda e: {**e, "key": [1]},
    ],
)
def test_a_journal_entry_that_is_no_result_is_lost(tmp_path, damage):
    entry = {"key": "k", **RESULT}
    path = tmp_path / "journal.jsonl"
    path.write_text(f"{json.dumps(damage(entry))}\n{json.dumps({**entry, 'key': 'other'})}\n")

    assert set(Journal(path, is_result).found) == {"other"}


@pytest.mark.parametrize("name", ["choices-*.json", "calibrated-*.qtm"])
def test_a_damaged_file_of_the_folder_is_made_again(net, asked, tmp_path, name):
    first = tune(net, **asked, trials=1)
    (path,) = (tmp_path / "best.onnx.tune").glob(name)
    content = path.read_bytes()
    path.write_bytes(content[:20])

    second = tune(net, **asked, trials=1)

    assert second.trials[0].bytes == first.trials[0].bytes
    assert path.read_bytes() == content


def test_samples_that_changed_are_other_trials(net, asked):
    tune(net, **asked, trials=1)
    held = dict(np.load(asked["data"]))
    np.savez(asked["data"], **{**held, "x": held["x"] + 1})

    assert not tune(net, **asked, trials=1).trials[0].remembered


def test_missing_labels_are_said_before_calibration(net, asked, tmp_path):
    np.savez(asked["data"], x=np.load(asked["data"])["x"])

    with pytest.raises(DataError, match="no array of labels"):
        tune(net, **asked, metric="top1")

    assert not (tmp_path / "best.onnx.tune").exists()


def test_nothing_is_left_of_a_trial_that_failed(net, asked, tmp_path, monkeypatch):
    def fails(task, progress):
        run_trial(task, progress)
        raise DataError("row 3 is bad")

    monkeypatch.setattr("qtool.stages._search.run_trial", fails)

    with pytest.raises(DataError):
        tune(net, **asked)

    assert not list((tmp_path / "best.onnx.tune").glob("candidate-*"))


def test_the_model_to_compare_with_is_not_overwritten(net, tmp_path, cli):
    formats.save(net, tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()

    done = cli("tune", "-i", tmp_path / "m.onnx", "--data", tmp_path / "d.npz", "--max-drop", "1",
               "-o", tmp_path / "m.onnx")  # fmt: skip

    assert done.exit_code == 2
    assert "write to another file" in done.stderr
    assert (tmp_path / "m.onnx").read_bytes() == before


def test_the_state_of_samples_tells_of_files_in_folders_and_lists(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.npy").write_bytes(b"1")
    (tmp_path / "l.txt").write_text("f/a.npy\n")
    sources = [str(tmp_path / "f"), str(tmp_path / "l.txt"), f"{tmp_path}/f/a.npy[::2]"]

    before = [state_of(source) for source in sources]
    (tmp_path / "f" / "a.npy").write_bytes(b"22")

    assert all(a != b for a, b in zip(before, map(state_of, sources), strict=True))
    assert state_of("module:function") == state_of(None) == ""


def stored_bytes(model):
    names = {"INT8": 1.0, "INT4": 0.5, "FLOAT": 4.0}
    made = (v for v in model.graph.initializers.values() if len(v.shape) > 1)
    return sum(names[v.dtype.name] * v.const_value.size for v in made)


@pytest.mark.parametrize(("budget", "types"), [(2200, {"w4"}), (6000, {"float"})])
def test_layers_within_a_budget_leave_out_the_type_that_does_not_help(net, asked, budget, types):
    data = open_samples(asked["data"], net.inputs())

    layers = mixed.layers_within(net, budget, data=data)

    assert {text.rpartition("=")[2] for text in layers} == types
    assert stored_bytes(quantize(net, data=data, layers=layers, check=False)) <= budget


def test_the_command_takes_a_budget_and_keeps_the_types_in_the_history(net, asked, tmp_path, cli):
    formats.save(net, tmp_path / "m.onnx")
    given = ("quantize", "-i", tmp_path / "m.onnx", "--data", asked["data"])

    done = cli(*given, "--mixed", "2200", "-o", tmp_path / "q.onnx")

    assert done.exit_code == 0, done.stderr
    assert "mixture of" in done.stderr
    layers = formats.load(tmp_path / "q.onnx").history[-1].options["layers"]
    assert layers
    assert all(text.endswith("=w4") for text in layers)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--mixed", "100"), "a budget of 100 is too small: the least is"),
        (("--mixed", "2K", "--weights", "int4"), "leave --mode and --weights out"),
        (("--mixed", "lots"), "no size, such as 500M or 2G"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(net, asked, tmp_path, cli, more, said):
    formats.save(net, tmp_path / "m.onnx")

    done = cli("quantize", "-i", tmp_path / "m.onnx", "--data", asked["data"], *more,
               "-o", tmp_path / "q.onnx")  # fmt: skip

    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "q.onnx").exists()


def test_a_budget_without_samples_or_statistics_is_refused(net):
    with pytest.raises(UsageError, match="give --data, or run qtool calibrate"):
        mixed.layers_within(net, 2200)

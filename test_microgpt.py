"""The proof of microgpt.py, and of your own copy of it. Nothing but the standard library is needed.

    python test_microgpt.py                 run the facts (also: python -m unittest, pytest)
    python test_microgpt.py --check FILE    is a file that someone typed or changed right?
    python test_microgpt.py --help          all commands: for a class, recipes, comparisons

Every gradient is proved twice: against finite differences, and against a second engine of the
textbook kind that shares no line with the one under test. What the model computes is proved by
its formula, written once more for numbers of both kinds. The order: the second engine and the
formula; facts about the file, recipes, the class and ways up; the commands, one after another.
"""

import _thread
import ast
import base64
import builtins
import cmath
import collections
import concurrent.futures
import contextlib
import copy
import difflib
import dis
import doctest
import functools
import gc
import html
import importlib.util
import inspect
import io
import itertools
import json
import math
import multiprocessing
import operator
import os
import pathlib
import pickle
import platform
import random
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tokenize
import traceback
import types
import unittest
import zlib
from unittest import mock
from xml.etree import ElementTree

import microgpt
from microgpt import Adam, InputError, Model, Tokenizer, Value

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = (HERE / "microgpt.py").read_text(encoding="utf-8")
README = (HERE / "README.md").read_text(encoding="utf-8")
LAYER = "attn_wq attn_wk attn_wv attn_wo mlp_fc1 mlp_fc2".split()  # the matrices of a layer


# --- The second engine: a node for each + and *, depth-first order -------------------------------


class Plain:
    """A number of the textbook engine: slow, and hard to get wrong."""

    __slots__ = ("data", "grad", "parents", "slopes")

    def __init__(self, data, parents=(), slopes=()):
        self.data = data
        self.grad = 0.0
        self.parents = parents
        self.slopes = slopes

    def __add__(self, other):
        other = other if isinstance(other, Plain) else Plain(other)
        return Plain(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        other = other if isinstance(other, Plain) else Plain(other)
        return Plain(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, n):
        return Plain(self.data**n, (self,), (n * self.data ** (n - 1),))

    def exp(self):
        return Plain(math.exp(self.data), (self,), (math.exp(self.data),))

    def log(self):
        return Plain(math.log(self.data), (self,), (1 / self.data,))

    def relu(self):
        return Plain(max(0.0, self.data), (self,), (1.0 if self.data > 0 else 0.0,))

    __radd__ = __add__

    def backward(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, parents_done = stack.pop()
            if parents_done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                for parent in node.parents:
                    stack.append((parent, False))
        self.grad = 1.0
        for node in reversed(order):
            for parent, slope in zip(node.parents, node.slopes):
                parent.grad += slope * node.grad


# --- The formula: the model and those of the recipes, on numbers of either kind ------------------


def exp(x):
    return x.exp() if isinstance(x, Plain) else math.exp(x)


def relu(x):
    return x.relu() if isinstance(x, Plain) else max(x, 0.0)


def relu_squared(x):
    return relu(x) ** 2


def softmax(x):
    largest = max(getattr(xi, "data", xi) for xi in x)
    exps = [exp(xi + -largest) for xi in x]
    total = sum(exps)
    return [e * total**-1 for e in exps]


def gelu(x):
    """The tanh form by another road: (1 + tanh(z)) / 2 is 1 / (1 + exp(-2 z))."""
    return x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def formula(model, tokens, activation=relu_squared, rotary=False, weights=None):
    """The logits at all positions, [n] ids -> [n, vocab_size], every token at once.

    The weights (those of the model as numbers, or others) tell what the model is. NAME_norm, a
    gain and a bias, makes a norm a LayerNorm; a final_norm takes the place of the one after the
    embedding; a row that is one longer than its input ends with a bias.
    """
    weights = weights or {name: list(map(numbers, w)) for name, w in model.weights.items()}
    n_embd = model.config.n_embd
    head_dim = n_embd // model.config.n_head

    def add(x, y):  # [n, n_embd] twice -> [n, n_embd]
        return [[xs[j] + ys[j] for j in range(n_embd)] for xs, ys in zip(x, y)]

    def dense(x, name):  # [n, n_in] -> [n, n_out]
        assert {len(row) - len(x[0]) for row in weights[name]} in ({0}, {1}), name
        x = [[*xs, 1.0] for xs in x]  # where there is no bias, zip leaves the 1 out
        return [[sum(w * v for w, v in zip(row, xs)) for row in weights[name]] for xs in x]

    def norm(x, name):  # [n, n_embd] -> [n, n_embd]
        if name in weights:
            means = [sum(xs) * (1 / n_embd) for xs in x]
            x = [[v + mean * -1 for v in xs] for xs, mean in zip(x, means)]
        mean_squares = [sum(v * v for v in xs) * (1 / n_embd) for xs in x]
        scales = [(mean_square + 1e-5) ** -0.5 for mean_square in mean_squares]
        x = [[v * scale for v in xs] for xs, scale in zip(x, scales)]
        if name in weights:
            gain, bias = weights[name]
            x = [[gain[j] * xs[j] + bias[j] for j in range(n_embd)] for xs in x]
        return x

    def score(query, key, distance):  # [head_dim] twice -> number
        if not rotary:
            return sum(a * b for a, b in zip(query, key))
        total = 0.0
        for j in range(0, head_dim, 2):  # each pair is a complex number, turned by the distance
            turn = cmath.exp(1j * distance * 10000 ** (-j / head_dim))
            total += (complex(*query[j : j + 2]) * complex(*key[j : j + 2]).conjugate() * turn).real
        return total

    def attention(x, layer):  # [n, n_embd] -> [n, n_embd]
        q, k, v = (dense(x, f"{layer}.attn_w{name}") for name in "qkv")
        found = [[] for _ in x]
        for now, start in itertools.product(range(len(x)), range(0, n_embd, head_dim)):
            head, past = slice(start, start + head_dim), range(now + 1)
            scores = [score(q[now][head], k[then][head], now - then) for then in past]
            shares = softmax([s * head_dim**-0.5 for s in scores])
            for j in range(start, start + head_dim):
                found[now].append(sum(shares[then] * v[then][j] for then in past))
        return dense(found, f"{layer}.attn_wo")

    x = [weights["wte"][token] for token in tokens]
    if "wpe" in weights:  # RoPE has none
        x = add(x, weights["wpe"][: len(tokens)])
    if "final_norm" not in weights:
        x = norm(x, "embedding_norm")
    for layer in (f"layer{i}" for i in range(model.config.n_layer)):
        x = add(x, attention(norm(x, f"{layer}.attn_norm"), layer))
        hidden = dense(norm(x, f"{layer}.mlp_norm"), f"{layer}.mlp_fc1")
        x = add(x, dense([[activation(h) for h in row] for row in hidden], f"{layer}.mlp_fc2"))
    if "final_norm" in weights:
        x = norm(x, "final_norm")
    return dense(x, "lm_head")


def plain_weights(model):
    weights = model.weights.items()
    return {name: [[Plain(w.data) for w in row] for row in matrix] for name, matrix in weights}


def plain_loss(model, tokens, weights):
    """The loss of a document by the textbook engine, on weights that are Plain."""
    losses = []
    for row, target in zip(formula(model, tokens[:-1], weights=weights), tokens[1:]):
        losses.append(softmax(row)[target].log() * -1)
    return sum(losses) * (1 / len(losses))


# --- The README's code, programs, models, assertions ---------------------------------------------


def section(heading):
    """The README's text below a heading, up to the next one of the same or a higher level."""
    level = len(heading.split()[0])
    bare = re.sub(r"(?ms)^```.*?^```$", lambda block: "." * len(block.group()), README)
    found = re.search(rf"(?ms)^{re.escape(heading)}$\n(.*?)(?=^#{{1,{level}}} |\Z)", bare)
    assert found, f"no {heading!r} in the README"
    return README[found.start(1) : found.end(1)]


def tables(heading):
    """The README's tables below a heading: of each the rows, without the head, as lists of cells."""
    found = re.findall(r"(?m)^\| .* \|\n\| --- .*\n((?:\| .* \|\n)+)", section(heading))
    return [[row[2:-2].split(" | ") for row in table.splitlines()] for table in found]


@functools.lru_cache(maxsize=None)
def readme_blocks(kind):
    """The README's Python blocks whose first line is `# kind: NAME`, by their names."""
    blocks = re.findall(rf"(?ms)^```python\n(# {kind}: (.*?)\n.*?)^```$", README)
    return {name: block for block, name in blocks}


def pasted(*names, kind="recipe"):
    """The text of microgpt.py with these blocks of the README just above its last section."""
    blocks, last = readme_blocks(kind), 'if __name__ == "__main__":\n'
    above, below = SOURCE.split(last)
    names = dict.fromkeys(n for name in names for n in (*NEEDED.get(name, ()), name))
    return above + "\n\n".join([blocks[name] for name in names] + [last]) + below


def module_of(source, name="microgpt"):
    """A module with this text, as if imported."""
    module = types.ModuleType(name)
    module.__file__ = str(HERE / f"{name}.py")
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return module


def program(*recipes, kind="recipe", **settings):
    """A fresh module of microgpt.py with the README's recipes; settings override its globals."""
    module = module_of(pasted(*recipes, kind=kind))
    assert set(settings) <= set(vars(module)), settings
    vars(module).update(settings)
    return module


def config_of(module=microgpt, **changes):
    """The default of every flag, but for some changes."""
    config = {name: default for name, (default, *_) in module.HYPERPARAMETERS.items()}
    config.update(file=HERE / "names.txt", prompt="")
    assert set(changes) <= set(config), changes
    return types.SimpleNamespace(**{**config, **changes})


def model_of(docs=("abca", "bd"), spread=1.0, seed=1, module=microgpt, **config):
    """A small untrained model; a large spread makes its probabilities far from even."""
    config = config_of(module, **{"n_embd": 8, "n_head": 2, "block_size": 6, **config})
    model = module.Model(config, module.Tokenizer(docs), random.Random(seed))
    for weight in model.parameters():
        weight.data *= spread
    return model


def logits_of(model, tokens, module=microgpt):
    """The logits at each position, as numbers, one token at a time."""
    cache = {}
    return [numbers(module.gpt(model, t, i, cache)) for i, t in enumerate(tokens)]


def numbers(values):
    return [value.data for value in values]


def weights_of(model):
    return {name: [numbers(row) for row in matrix] for name, matrix in model.weights.items()}


def grads_of(*matrix):
    return [param.grad for row in matrix for param in row]


def masked(output):
    """The output without what differs from run to run: times."""
    return re.sub(r"\| +\d+\.\d ms/step \| +\d+ s left", "| ... ms/step | ... s left", output)


@contextlib.contextmanager
def in_folder(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def python(*argv, **options):
    """Run this Python in a process of its own, two minutes at most; warnings are errors there."""
    settings = {"capture_output": True, "timeout": 120, "encoding": "utf-8", **options}
    return subprocess.run([sys.executable, "-W", "error", *map(str, argv)], **settings)


BARE_ENVIRONMENT = {  # no variables, but for one without which Windows starts no Python
    name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ
}


def slope_in(value, measure):
    """How measure() changes with the value's data, by central differences."""
    middle, ends = value.data, []
    step = 1e-5 * max(1.0, abs(middle))
    for value.data in (middle + step, middle - step, middle):
        ends.append(measure())
    return (ends[0] - ends[1]) / (2 * step)


class Facts(unittest.TestCase):
    """Assertions that name the first place that differs, files, and captured output."""

    def assert_near(self, found, expected, tolerance, what=""):
        """Equal up to the tolerance, relative to the larger one above 1; tells both numbers."""
        if not math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance):
            gap = abs(found - expected)
            self.fail(f"{what}: found {found!r}, expected {expected!r}, apart by {gap:.3g}")

    def assert_all_near(self, found, expected, tolerance, what=""):
        """The same for lists of numbers, however nested; names the first place that differs."""
        if isinstance(found, (list, tuple)) and isinstance(expected, (list, tuple)):
            self.assertEqual(len(found), len(expected), f"lengths of {what}")
            for i, (a, b) in enumerate(zip(found, expected)):
                self.assert_all_near(a, b, tolerance, f"{what}[{i}]")
        elif tolerance is not None:
            self.assert_near(found, expected, tolerance, what)
        elif found != expected:
            self.fail(f"{what}: found {found!r}, expected {expected!r}")

    def assert_same(self, found, expected, what=""):
        """Nested lists are equal; assertEqual takes minutes to tell where thousands are not."""
        self.assert_all_near(found, expected, None, what)

    @functools.cached_property
    def folder(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return pathlib.Path(folder.name)

    def file(self, content, name="docs.txt"):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    @staticmethod
    def quiet(function, *args, **settings):
        """What the function returns, and what it prints."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            result = function(*args, **settings)
        return result, printed.getvalue()

    @staticmethod
    def main(module, *argv):
        """The model that module.main(argv) returns, and what it prints."""
        return Facts.quiet(module.main, [str(word) for word in argv])

    def start(self, *argv, **options):
        """This Python in a process of its own, which is killed after 100 seconds."""
        # A shell that runs these tests in the background would make its children deaf to Ctrl-C.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
        process = subprocess.Popen([sys.executable, *map(str, argv)], **{**pipes, **options})
        watchdog = threading.Timer(100, process.kill)
        watchdog.start()
        for cleanup in (watchdog.cancel, process.wait, process.kill):
            self.addCleanup(cleanup)
        for stream in (process.stdout, process.stderr):
            if stream:
                self.addCleanup(stream.close)
        return process

    def assert_exits(self, status, line, function, *args, said=""):
        """It ends the program with this status and line; with status 2, when no more was said."""
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                with self.assertRaises(SystemExit, msg=args) as stop:
                    function(*args)
        self.assertEqual(stop.exception.code, status, args)
        self.assertRegex(errors.getvalue(), rf"\A{line}\n\Z", args)
        if status == 2:
            self.assertRegex(printed.getvalue(), rf"\A{said}\Z", args)

    def assert_gradients_are_slopes(self, function, inputs, what, tolerance=1e-6):
        """backward() agrees with central differences of function(inputs), a Value."""
        for value in inputs:
            value.grad = 0.0
        function(inputs).backward()
        found = [value.grad for value in inputs]
        for i, value in enumerate(inputs):
            slope = slope_in(value, lambda: function(inputs).data)
            self.assert_near(found[i], slope, tolerance, f"{what}, d/dx{i}")


def leaves(count, rng, scale=1.0):
    return [Value(rng.gauss(0, scale)) for _ in range(count)]


def weighted(values):
    """One number out of many, in which each counts differently."""
    return sum(value * (1.0 + 0.3 * i) for i, value in enumerate(values))


# --- Facts of the calculus -----------------------------------------------------------------------

OPERATIONS = (
    "a + b; a + 3; 3 + a; a - b; a - 2.5; 2.5 - a; a * b; a * -2; -2 * a; a / b; a / 4; -a;"
    "a ** 3; a ** -2; a ** 1; a ** 0; (a * a) ** 0.5; a * a; sum([a, b, a]); exp(a);"
    "relu(a); relu(-a); (a * 2 + b) * (a + exp(b))"
).split(";")
ON_VALUES = {"exp": Value.exp, "relu": Value.relu}
ON_NUMBERS = {"exp": math.exp, "relu": relu}


class TestCalculus(Facts):
    def test_every_operation_gives_the_number_of_python_and_the_slope_of_finite_differences(self):
        rng = random.Random(3)
        for text in OPERATIONS:
            operation = eval(f"lambda a, b: {text}", ON_VALUES)
            expected = eval(f"lambda a, b: {text}", ON_NUMBERS)
            for _ in range(4):
                inputs = leaves(2, rng, 1.5)
                self.assert_near(operation(*inputs).data, expected(*numbers(inputs)), 1e-14, text)
                self.assert_gradients_are_slopes(lambda v: operation(*v), inputs, text, 1e-5)

    def test_impossible_operations_raise_what_python_raises(self):
        cases = {  # the last: a complex number, and what is no number
            ZeroDivisionError: "a / 0; a / Value(0)",
            ValueError: "a + 'two'",
            OverflowError: "Value(1000).exp(); Value(1e200) ** 3",
            TypeError: "Value(-8) ** (1 / 3); a ** a; 2 ** a; a * [1, 2]; a + None",
        }
        for error, texts in cases.items():
            for text in texts.split("; "):
                self.assertRaises(error, eval, text, {"Value": Value, "a": Value(2.0)})

    def test_what_is_no_value_becomes_a_float_before_anything_is_done_with_it(self):
        class Small:  # as NumPy's uint8, of which -2 is 254, and 2**-1 an error
            def __float__(self):
                return 2.0

            def __neg__(self):
                return 254

            def __pow__(self, n):
                raise ValueError("integers to negative integer powers")

        names = {"a": Value(3.0), "n": Small()}
        for text, data in {"a + n": 5, "n + a": 5, "a - n": 1, "n - a": -1, "a / n": 1.5}.items():
            self.assertEqual(eval(text, names).data, data, text)
        self.assertEqual((names["a"] * names["n"]).data, 6.0)

    def test_graphs_from_other_processes_can_be_continued(self):
        graphs = []
        for x in (2.0, 3.0):
            a = Value(x)
            graphs.append(pickle.loads(pickle.dumps((a, a * a * a))))
        end = graphs[1][1] + graphs[0][1]
        end.backward()
        self.assertEqual([a.grad for a, _ in graphs], [12.0, 27.0])

    def test_a_value_is_small_and_shows_its_data_and_its_gradient(self):
        value = Value(2)
        self.assertEqual((value.inputs, value.local_grads), ((), ()))
        (value * 3).backward()
        self.assertEqual(repr(value), "Value(data=2.0, grad=3.0)")
        with self.assertRaises(AttributeError):  # __slots__: 4,192 weights need no dictionaries
            value.name = "a misspelt field is an error, too"

    def test_at_the_edges_relu_and_the_activation_pass_nothing_and_hide_no_nan(self):
        for function, x in itertools.product((Value.relu, microgpt.activation), (0.0, -math.inf)):
            leaf, factor = Value(x), Value(1.0)
            end = function(leaf * factor)
            end.backward()
            self.assertEqual((end.data, leaf.grad, factor.grad), (0.0, 0.0, 0.0))
        self.assertTrue(math.isnan(microgpt.activation(Value(math.nan)).data))

    def test_leaves_add_up_over_calls_and_what_lies_between_starts_afresh(self):
        a, unreached = Value(2.0), Value(3.0)
        unreached.grad = 7.0
        unused = unreached * a
        shared = a * a
        expected = 0.0
        # The end, its slope in a, and the slope in shared of the last end that was made of it.
        ends = [(shared, 4, 1), (shared * 3, 12, 3), (shared * 5 + a, 21, 5)]
        for end, slope, shared_slope in ends * 2:
            end.backward()
            expected += slope
            self.assertEqual((a.grad, shared.grad), (expected, shared_slope))
        self.assertEqual((unreached.grad, unused.grad), (7.0, 0.0))
        a.backward()  # the end itself
        self.assertEqual(a.grad, 1.0)

    def test_the_order_holds_for_values_from_before_a_notebook_cell_was_run_again(self):
        module = module_of(SOURCE)
        x = module.Value(3.0)
        for _ in range(1000):  # older, but with a larger number if the count began at 0 again
            y = x * 3
        exec(SOURCE, vars(module))
        module.dot([y, y**2], [x, module.Value(2.0)]).backward()
        self.assertEqual(x.grad, 3 * 3 + 9 + 2 * (2 * 9) * 3)

    def test_a_chain_of_100_000_operations_neither_recurses_nor_breaks_when_freed(self):
        x = start = Value(1.0)
        for _ in range(100_000):
            x = x + 1
        x.backward()
        self.assertEqual((x.data, start.grad), (100_001.0, 1.0))
        del x

    @unittest.skipUnless(sys.implementation.name == "cpython", "only CPython counts references")
    def test_what_a_loss_no_longer_needs_is_freed_without_the_collector(self):
        def living():
            return sum(isinstance(thing, Value) for thing in gc.get_objects())

        model = model_of()
        self.addCleanup(gc.enable)
        gc.disable()
        before = living()
        loss = microgpt.document_loss(model, [4, 0, 1, 2, 0, 4])
        loss.backward()
        self.assertGreater(living(), before + 500)
        del loss
        self.assertEqual(living(), before)

    def test_a_dot_product_is_one_value_and_later_changes_of_a_list_do_not_reach_it(self):
        row, x = [Value(2.0), Value(3.0)], [Value(5.0), Value(7.0)]
        kept = row + x
        product = microgpt.dot(row, x)
        self.assertEqual((product.data, [*product.inputs]), (31.0, kept))
        row[0], x[1] = Value(100.0), Value(100.0)
        product.backward()
        self.assertEqual([value.grad for value in kept], [5.0, 7.0, 2.0, 3.0])
        microgpt.dot(x, x).backward()
        self.assertEqual([value.grad for value in x], [2.0 + 2 * 5.0, 2 * 100.0])

    def test_iterators_are_taken_whole_or_refused_in_words(self):
        x = [Value(1.0), Value(2.0)]
        rows = microgpt.linear(x, iter([x, x]))
        self.assertEqual(numbers(rows), [5.0, 5.0])
        self.assertRaisesRegex(TypeError, "generator", microgpt.linear, (v for v in x), [x])
        self.assertRaises(ValueError, microgpt.softmax, iter(x))
        self.assertRaisesRegex(ValueError, "^a dot product of 2 and 4", microgpt.linear, x * 2, [x])


# --- Facts of the model --------------------------------------------------------------------------

LARGE, EQUAL, ZEROS = [900.0, -900.0, 899.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]


class TestModel(Facts):
    def test_every_function_has_the_slopes_that_finite_differences_give(self):
        rng = random.Random(5)
        points = [numbers(leaves(3, rng)) for _ in range(3)] + [LARGE, EQUAL, ZEROS]
        matrix = [0.3, -1.2, 0.8, 1.0, 0.0, -0.4]
        functions = {
            "linear": lambda v: weighted(microgpt.linear(v[:3], [v[3:6], v[6:9]])),
            "logsumexp": lambda v: microgpt.logsumexp(v[:3]),
            "softmax": lambda v: weighted(microgpt.softmax(v[:3])),
            "rmsnorm": lambda v: weighted(microgpt.rmsnorm(v[:3])),
            "activation": lambda v: weighted([microgpt.activation(x) for x in v[:3]]),
            "cross_entropy": lambda v: microgpt.cross_entropy(v[:3], 1),
            "attend": lambda v: weighted(microgpt.attend(v[:3], [v[3:6], v[6:]], [v[6:], v[:3]])),
        }
        for (name, function), point in itertools.product(functions.items(), points):
            # At 0 the slope of rmsnorm changes fast: only the 1e-5 is left.
            tolerance = 1e-3 if name == "rmsnorm" and point == ZEROS else 2e-5
            inputs = [Value(x) for x in [*point, *matrix]]
            self.assert_gradients_are_slopes(function, inputs, f"{name} at {point}", tolerance)
        model = model_of(spread=6.0, n_embd=4)
        loss = lambda _: microgpt.document_loss(model, [4, 0, 1, 4])
        self.assert_gradients_are_slopes(loss, model.parameters(), "the loss", 1e-5)

    def test_logits_loss_and_every_gradient_agree_with_the_formula_on_the_second_engine(self):
        shapes = itertools.product((0, 1, 3), (1, 4), ("ab", "abcdabcdab"))
        for n_layer, n_head, text in shapes:
            model = model_of(("abcd",), 4.0, n_layer=n_layer, n_head=n_head)
            tokens = model.tokenizer.encode(text)[:7]  # as run cuts it: there are 6 positions
            found, expected = logits_of(model, tokens[:-1]), formula(model, tokens[:-1])
            self.assert_all_near(found, expected, 1e-12, f"the logits of {text}")
            loss = microgpt.document_loss(model, tokens)
            loss.backward()
            weights = plain_weights(model)
            expected = plain_loss(model, tokens, weights)
            expected.backward()
            self.assert_near(loss.data, expected.data, 1e-12, f"the loss of {text}")
            for name, matrix in weights.items():
                grads = [[weight.grad for weight in row] for row in matrix]
                largest = max(map(abs, sum(grads, [])))
                self.assertGreater(largest, 0.0, name)
                found = [[weight.grad / largest for weight in row] for row in model.weights[name]]
                expected = [[grad / largest for grad in row] for row in grads]
                self.assert_all_near(found, expected, 1e-12, f"{n_layer}, {n_head}, {text}: {name}")

    def test_softmax_is_exp_over_the_sum_of_exp_also_where_exp_would_overflow(self):
        for x in ([0.5, -1.0, 2.0], EQUAL, [-3.0]):
            exps = [math.exp(value) for value in x]
            found = numbers(microgpt.softmax([Value(value) for value in x]))
            self.assert_all_near(found, [e / sum(exps) for e in exps], 1e-14)
        first = 1 / (1 + math.exp(-1))
        found = numbers(microgpt.softmax([Value(value) for value in LARGE]))
        self.assert_all_near(found, [first, 0.0, 1 - first], 1e-12)
        self.assertEqual(microgpt.cross_entropy([Value(0.0), Value(5000.0)], 0).data, 5000.0)

    def test_the_weights_have_the_shapes_and_are_drawn_in_the_order_of_the_protocol(self):
        model = model_of(n_layer=2)
        shapes = {"wte": (5, 8), "wpe": (6, 8), "lm_head": (5, 8)}
        for layer in ("layer0", "layer1"):
            for name, shape in zip(LAYER, [(8, 8)] * 4 + [(32, 8), (8, 32)]):
                shapes[f"{layer}.{name}"] = shape
        found = {name: (len(matrix), len(matrix[0])) for name, matrix in model.weights.items()}
        self.assertEqual(list(found.items()), list(shapes.items()))
        rng = random.Random(1)
        drawn = [rng.gauss(0, 0.08) for _ in range(2 * 5 * 8 + 6 * 8 + 2 * 12 * 8 * 8)]
        self.assert_same(numbers(model.parameters()), drawn, "weights")


# --- Facts of Adam and the tokenizer -------------------------------------------------------------


class TestAdam(Facts):
    def test_several_steps_follow_the_rule_of_the_paper(self):
        rates = (0.1, 0.05, 0.02, 0.01)
        all_grads = [(0.5, 0.1, -0.7, 2.0), (-3.0, 4.0, 0.0, 1e-9)]
        for b1, b2, eps in [(0.85, 0.99, 1e-8), (0.9, 0.95, 1e-2)]:
            settings = {} if eps == 1e-8 else {"beta1": b1, "beta2": b2, "eps": eps}
            params = [Value(1.0), Value(-2.0)]
            optimizer = Adam(params)
            for step, rate in enumerate(rates):
                for param, grads in zip(params, all_grads):
                    param.grad = grads[step]
                optimizer.step(rate, **settings)
            for param, theta, grads in zip(params, (1.0, -2.0), all_grads):
                m = v = 0.0
                for t, (g, rate) in enumerate(zip(grads, rates), 1):
                    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
                    theta -= rate * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + eps)
                self.assert_near(param.data, theta, 1e-14)

    def test_the_learning_rate_falls_in_a_straight_line_and_training_follows_it(self):
        config = config_of(steps=4, learning_rate=0.2)
        expected = [microgpt.learning_rate_at(step, config) for step in (1, 2, 3, 4)]
        self.assert_all_near(expected, [0.2, 0.15, 0.1, 0.05], 1e-15)
        rates = []
        with mock.patch.object(Adam, "step", lambda self, rate: rates.append(rate)):
            self.main(microgpt, self.file("ab"), *TINY, "--steps", 4, "--learning-rate", 0.2)
        self.assertEqual(rates, expected)


class TestTokenizer(Facts):
    def test_characters_in_sorted_order_and_bos_after_them(self):
        tokenizer = Tokenizer(["hello", "wörld", "a b"])
        self.assertEqual(tokenizer.vocab, [*" abdehlorwö"])
        self.assertEqual((tokenizer.bos, tokenizer.vocab_size), (11, 12))
        self.assertEqual(tokenizer.encode("hole"), [11, 5, 7, 6, 4, 11])
        self.assertEqual(tokenizer.encode(""), [11, 11])

    def test_decoding_gives_the_text_back_and_an_unknown_character_is_a_clear_error(self):
        text = "naïve 😀 \t 漢字"
        tokenizer = Tokenizer([text])
        self.assertEqual(tokenizer.decode(tokenizer.encode(text)), text)
        for char, shown in (("z", r"'z' \(\\u007a\)"), ("\u0301", r"'\u0301' \(\\u0301\)")):
            message = f"^{shown} is not in the vocabulary$"
            self.assertRaisesRegex(InputError, message, tokenizer.encode, "av" + char)


# --- Facts of training ---------------------------------------------------------------------------

WORDS = "abba cab bad dab acid dice bead cede fade deaf beef face".split()
TEXT = "\n".join(WORDS)


class TestTraining(Facts):
    def test_a_single_document_is_learned_by_heart(self):
        flags = (*TINY, "--steps", 60, "--learning-rate", 0.1)
        model, output = self.main(microgpt, self.file("abracadabra"), *flags)
        self.assertRegex(output, r"(?s)step +1 / 60 \| loss 1\..*step +60 / 60 \| loss 0\.0")
        self.assertEqual(microgpt.generate(model, "", 0), "abracadabra")

    def test_the_documents_are_taken_in_shuffled_order_around_and_around(self):
        plain = microgpt.document_loss
        with mock.patch.object(microgpt, "document_loss", side_effect=plain) as losses:
            self.main(microgpt, self.file(TEXT), *TINY, "--steps", 25, "--seed", 7)
        taken = [model.tokenizer.decode(tokens) for (model, tokens), _ in losses.call_args_list]
        docs = list(WORDS)
        random.Random(7).shuffle(docs)
        self.assertEqual(taken, (docs[:11] * 3)[:25] + docs[11:])

    def test_a_tenth_of_the_documents_is_held_out_and_at_most_200(self):
        for n_docs, n_held_out in [(9, 0), (10, 1), (19, 1), (20, 2), (2000, 200), (2500, 200)]:
            path = self.file("".join(f"{i}\n" for i in range(n_docs)))
            _, output = self.main(microgpt, path, *TINY)
            self.assertIn(f"num docs: {n_docs}, {n_held_out} held out", output)
        self.assertEqual(output.splitlines()[-1], "not in the file: 0 of 0")

    def test_the_held_out_line_says_the_mean_loss_and_what_it_means(self):
        model, sequences = model_of(spread=4.0), [[4, 0, 4], [4, 1, 2, 3, 4]]
        losses = [microgpt.document_loss(model, tokens).data for tokens in sequences]
        self.assertEqual(microgpt.evaluate(model, sequences), sum(losses) / 2)
        line = (
            "\nheld-out loss 2.5000, guessing evenly 2.0794: as unsure as among 12.2 equal choices"
        )
        with mock.patch.object(microgpt, "evaluate", return_value=2.5):
            self.assertIn(f"{line}, not 8\n", self.main(microgpt, self.file(TEXT), *TINY)[1])
        line = "\nheld-out loss unknown: there is no document that is not also trained on\n"
        for text in ("a\n" * 9, "ab\nba\n" * 40):
            self.assertIn(line, self.main(microgpt, self.file(text), *TINY)[1])

    def test_the_same_seed_gives_the_same_run_and_another_seed_another(self):
        path, state = self.file(TEXT), random.getstate()
        argv = (microgpt, path, *TINY, "--steps", 5, "--samples", 5, "--seed")
        runs = [masked(self.main(*argv, seed)[1]) for seed in (5, 5, 6)]
        self.assertEqual(runs[0], runs[1])
        self.assertNotEqual(runs[0], runs[2])
        self.assertEqual(random.getstate(), state)  # the random numbers of others are left alone

    def test_each_step_starts_from_gradients_of_zero(self):
        models = [model_of(steps=3) for _ in range(2)]
        for param in models[0].parameters():
            param.grad = 1e6
        for model in models:
            self.quiet(microgpt.train, model, [[4, 0, 1, 4]])
        self.assert_same(*[numbers(model.parameters()) for model in models])

    def test_the_step_lines_on_paper_and_in_a_terminal(self):
        lines = [
            "step    1 / 250 | loss 1.0000 | last 100 1.0000 | 250.0 ms/step |   62 s left",
            "step  100 / 250 | loss 100.0000 | last 100 50.5000 | 250.0 ms/step |   38 s left",
            "step  200 / 250 | loss 200.0000 | last 100 150.5000 | 250.0 ms/step |   12 s left",
            "step  250 / 250 | loss 250.0000 | last 100 200.5000 | 250.0 ms/step |    0 s left",
        ]
        for terminal in (False, True):
            losses, printed = [], ""
            with mock.patch.object(os, "isatty", lambda number: terminal and number == 1):
                with mock.patch.object(time, "perf_counter", lambda: 50.0 + len(losses) / 4):
                    for _ in range(250):
                        losses.append(len(losses) + 1.0)
                        printed += self.quiet(microgpt.report, 250, losses, 50.0)[1]
            shown = printed.split("\r")
            self.assertEqual(len(shown), 251 if terminal else 1)
            if terminal:
                self.assertEqual(len(shown[0]), 79)
            self.assertEqual(re.sub(r"[^\n\r]*\r", "", printed).splitlines(), lines)


# --- Facts of sampling ---------------------------------------------------------------------------


class TestSampling(Facts):
    def test_probabilities_are_the_softmax_of_logits_over_temperature(self):
        logits = [1.0, -0.5, 2.0]
        for temperature in (0.1, 0.5, 1.0, 3.0, 1e17):
            exps = [math.exp(x / temperature) for x in logits]
            found = microgpt.probabilities([Value(x) for x in logits], temperature)
            self.assert_all_near(found, [e / sum(exps) for e in exps], 1e-13)
        for temperature in (0, 0.0, 1e-320, 1e-5):
            for logits in ([1.0, 3.0, 2.999], [-5.0, -4.0, -900.0]):
                found = microgpt.probabilities([Value(x) for x in logits], temperature)
                self.assert_all_near(found, [0.0, 1.0, 0.0], 1e-40)

    def test_one_draw_of_choices_a_token(self):
        model, rng, same = model_of(spread=9.0), random.Random(12), random.Random(12)
        text = microgpt.generate(model, "", 1.0, rng)
        tokens, cache = [4], {}
        for position in range(6):
            logits = microgpt.gpt(model, tokens[-1], position, cache)
            tokens += same.choices(range(5), weights=microgpt.probabilities(logits, 1.0))
            if tokens[-1] == 4:
                break
        self.assertEqual(text, model.tokenizer.decode(tokens))
        self.assertEqual(rng.random(), same.random())

    def test_the_prompt_is_kept_and_is_what_the_rest_depends_on(self):
        model = model_of(spread=9.0)
        for prompt in ("a", "abc", "ddddd"):
            self.assertTrue(microgpt.generate(model, prompt, 0).startswith(prompt))
        greedy = microgpt.generate(model, "", 0)
        for end in range(len(greedy)):
            self.assertEqual(microgpt.generate(model, greedy[:end], 0), greedy)

    def test_the_end_is_bos_or_the_last_position(self):
        model = model_of(spread=2.0)
        lengths = {len(microgpt.generate(model, "", 1.0, random.Random(i))) for i in range(60)}
        self.assertLess(min(lengths), 6)
        self.assertEqual(max(lengths), 6)
        self.assertGreaterEqual(len(microgpt.generate(model, "abcab")), 5)
        self.assertRaisesRegex(ValueError, "no position", microgpt.generate, model, "abcabc")

    def test_logits_or_a_temperature_that_are_not_finite_are_an_error(self):
        model = model_of()
        failing = (FloatingPointError, "^a score is infinite or nan$", microgpt.generate)
        self.assertRaisesRegex(*failing, model, temperature=math.nan)
        model.weights["lm_head"][2][3].data = math.nan
        self.assertRaisesRegex(*failing, model)

    def test_generate_takes_by_itself_the_temperature_of_the_flags_and_pythons_random_numbers(self):
        default, *_ = microgpt.HYPERPARAMETERS["temperature"]
        self.assertEqual(microgpt.generate.__defaults__, ("", default, random))


# --- Facts of the command line -------------------------------------------------------------------

TINY = ("--steps", 0, "--samples", 0, "--n-embd", 4, "--n-head", 1)
ERROR = r"microgpt\.py: error: "
NO_TEXT = "{file} holds no text"
NOT_PLAIN = r"{file}, line %d: not plain text \(UTF-16\?\), save as UTF-8"
BAD_FILES = {  # what is in it, and what is said
    b"": NO_TEXT,
    b" \n\t\r\n\n": NO_TEXT,
    b"\xef\xbb\xbf": NO_TEXT,
    "\u200b\n".encode(): NO_TEXT,
    "hello\n".encode("utf-16-le"): NOT_PLAIN % 1,
    "hello\n".encode("utf-16"): NOT_PLAIN % 1,
    "hello\n".encode("utf-16-be"): NOT_PLAIN % 1,
    "caf\xe9\n".encode("latin-1"): NOT_PLAIN % 1,
    b"anna\n" * 30_000 + b"jos\xe9\n": NOT_PLAIN % 30_001,  # where Python reads in pieces
    b"anna\n\n" * 500 + b"bo\0b\n": NOT_PLAIN % 1001,
    b"\x1b[31mred\n": NOT_PLAIN % 1,  # a terminal would obey
    b"ab\nc\x7fd\n": NOT_PLAIN % 2,
    "ab\nc\x9bd\n".encode(): NOT_PLAIN % 2,
    b"ab\n\xed\xa0\x80\n": NOT_PLAIN % 2,  # half of a UTF-16 pair
    bytes(range(256)): NOT_PLAIN % 1,
}
BAD_FLAGS = {  # what is said, and of which flags and values
    "{name} must be from {smallest} to {largest}": (
        f"--steps=-1 --steps={10**18} --steps=1{'0' * 400} --n-layer=-1 --n-embd=0 --n-embd=-16"
        " --n-head=0 --n-head=-1 --block-size=0 --block-size=-5 --samples=-1 --seed=-1"
        " --learning-rate=-0.1 --learning-rate=nan --learning-rate=inf --learning-rate=-inf"
        " --learning-rate=1e999 --learning-rate=1000.1 --temperature=-1 --temperature=nan"
        " --temperature=inf --temperature=1000.1 --steps=1000001 --n-layer=25 --n-embd=257"
        " --n-head=257 --block-size=513 --samples=1000001 --seed=1000000001"
    ),
    "argument {flag}: invalid int value: .*": "--steps=1.5 --steps=many --steps=nan --seed=x",
    "argument {flag}: invalid float value: .*": "--learning-rate=fast",
    "n_head \\d+ does not divide n_embd \\d+": "--n-embd=15 --n-embd=1 --n-head=3 --n-head=32",
    r"'x' \(\\u0078\) is not in the vocabulary": "--prompt=xay",
    "the prompt leaves no position to write in": f"--prompt={'ab' * 8}",
    "unrecognized arguments: {flag}.*": "--unknown=1 another",
    "argument {flag}: expected one argument": "--steps",
}


class TestCommandLine(Facts):
    def test_bad_files_are_one_clear_line(self):
        for content, message in BAD_FILES.items():
            path = self.file(content)
            message = message.format(file=re.escape(str(path)))
            self.assert_exits(2, ERROR + message, microgpt.main, [str(path)])
        for name, message in ("missing", ".* No such .*missing.*"), (".", ".*(directory|denied).*"):
            self.assert_exits(2, ERROR + message, microgpt.main, [str(self.folder / name)])

    @mock.patch.object(microgpt, "train", side_effect=EOFError)  # the flag was accepted
    def test_bad_flags_are_one_clear_line(self, _):
        path = str(self.file("ab\nba\n"))
        for message, words in BAD_FLAGS.items():
            for word in words.split():
                flag = word.split("=")[0]
                name = flag[2:].replace("-", "_")
                _, *ends, _ = microgpt.HYPERPARAMETERS.get(name, "    ")
                expected = message.format(flag=flag, name=name, smallest=ends[0], largest=ends[1])
                self.assert_exits(2, ERROR + expected, microgpt.main, [path, word])

    @mock.patch.object(microgpt, "train", side_effect=EOFError)  # the sizes were accepted
    def test_sizes_that_take_too_much_memory_together_are_refused(self, _):
        line = ERROR + r"n_layer \* n_embd \* block_size must be at most 20000, to fit into memory"
        start = [str(self.file("ab"))]
        flags = "--n-embd={0} --n-head={0} --n-layer={1} --block-size={2}"
        for sizes in ((50, 4, 100), (256, 0, 512), (8, 24, 104)):
            argv = start + flags.format(*sizes).split()
            self.assertRaises(EOFError, self.main, microgpt, *argv)
        for sizes in ((59, 3, 113), (256, 1, 512)):  # the first is one too large
            argv = start + flags.format(*sizes).split()
            self.assert_exits(2, line, microgpt.main, argv)

    def test_a_training_that_blows_up_ends_the_run_with_status_1(self):
        path = str(self.file(TEXT))
        for rate, steps, what in [
            (1e300, "9", "a score is infinite or nan"),
            (1e150, "1", "a score is infinite or nan"),
            (1e100, "2", r"(\(34, .*\)|a score is infinite or nan)"),  # too large; PyPy goes on
            (1000, "9", r"the held-out loss is \d{3,}"),
        ]:
            with mock.patch.object(microgpt, "learning_rate_at", lambda *_: rate):
                line = f"{ERROR}{what}, try a smaller --learning-rate"
                self.assert_exits(1, line, microgpt.main, [path, "--steps", steps])
        for loss in (100.0, math.nan):  # nan: from another engine
            with mock.patch.object(microgpt, "evaluate", side_effect=[99.9, loss]):
                self.main(microgpt, path, *TINY)  # 99.9 is only a bad loss
                line = f"{ERROR}the held-out loss is {loss:.0f}, try a smaller --learning-rate"
                self.assert_exits(1, line, microgpt.main, [path, "--steps", "0"])

    def test_odd_but_good_files_work(self):
        long = "abcde" * 200_000 + "\nab\n" + "a" * 15 + "\n" + "a" * 16
        files = [  # the text, how many documents, how many of them are cut, how many tokens
            ("a", 1, 0, 2),
            (b"\xef\xbb\xbfab\nb\n", 2, 0, 3),
            (b"ab\r\n\r\nb\r\n", 2, 0, 3),
            (b"ab\rb", 2, 0, 3),
            ("привет\nשלום\nनमस्ते\n漢字\n😀👍🏽\n", 5, 0, 22),
            ("\ta b\n  a\tb  \n", 2, 0, 5),
            ("a\u2028b\u00a0c\u3000d\n", 1, 0, 8),  # only what ends a line ends a document
            ("\ufeffab\nc\ufeffd\n\u200b\nd\u200bc\n", 3, 0, 5),  # two files joined; nothing to see
            ("\n\na\n\n\nb\n\n", 2, 0, 3),
            (long, 4, 2, 6),
        ]
        for content, n_docs, n_cut, n_vocab in files:
            _, output = self.main(microgpt, self.file(content), *TINY, "--steps", 4)
            start = f"num docs: {n_docs}, 0 held out, {n_cut} cut to the block size\n"
            start += f"vocab size: {n_vocab}\n"
            self.assertTrue(output.startswith(start), (content[:20], output))

    def test_the_smallest_and_the_largest_numbers_are_accepted(self):
        path = self.file("ab\nba\n")
        smallest = "--n-embd 1 --n-head 1 --block-size 1 --n-layer 0 --seed 0 --temperature 0"
        flags = [*smallest.split(), "--learning-rate", 0, "--samples", 0]
        _, output = self.main(microgpt, path, "--steps", 0, *flags)
        self.assertRegex(output, "num params: 7\nheld-out")
        with mock.patch.object(microgpt, "forward_backward", side_effect=[1.0, KeyboardInterrupt]):
            flags = ["--steps", 10**6, "--seed", 10**9, "--temperature", 1000, "--samples", 1]
            _, output = self.main(microgpt, path, *flags, "--learning-rate", 1000)
        self.assertIn("sample  1: ", output)

    def test_samples_take_the_prompt_and_the_temperature_and_the_new_ones_are_counted(self):
        texts = ["", "cab", "cnew", "could be longer ", "cc"]  # one is how a long one is cut
        path = self.file(f"{TEXT}\ncould be longer than that")
        flags = ["--steps", 0, "--samples", 5, "--prompt", "c", "--temperature", 999]
        with mock.patch.object(microgpt, "generate", side_effect=texts) as generate:
            model, output = self.main(microgpt, path, *flags)
        calls = [call[0][:3] for call in generate.call_args_list]
        self.assertEqual(calls, [(model, "c", 999)] * 5)
        self.assertIn("sample  3: cnew\nsample  4: could be longer \nsample  5: cc\n", output)
        self.assertTrue(output.endswith("\nnot in the file: 3 of 5\n"), output)

    def test_main_without_arguments_takes_the_defaults_and_ignores_the_command_line(self):
        with mock.patch.object(sys, "argv", ["x", "-x"]), mock.patch.object(microgpt, "run") as run:
            microgpt.main()
        self.assertEqual(vars(run.call_args[0][0]), vars(config_of()))

    def test_run_takes_any_object_with_the_attributes(self):
        config = type("Config", (), vars(config_of(steps=2, file=str(self.file(TEXT)))))
        model, output = self.quiet(microgpt.run, config)
        self.assertIs(model.config, config)
        self.assertIn("\nnot in the file: ", output)

    def test_the_collector_is_off_where_the_file_is_run_and_python_counts_references(self):
        argv = [str(word) for word in (self.file("ab"), *TINY)]
        code = f"import microgpt; microgpt.main({argv})"
        for start in ([HERE / "microgpt.py", *argv], ["-c", code]):
            end = "\nimport gc; print(f'collector: {gc.isenabled()}')\n"
            result = python("-i", *start, input=end, cwd=HERE)
            on = start[0] == "-c" or sys.implementation.name != "cpython"
            self.assertIn(f"collector: {on}", result.stdout, result)

    def test_import_is_silent_and_changes_nothing(self):
        state = "(random.getstate(), gc.isenabled(), sys.getrecursionlimit())"
        code = f"import gc, random, sys; x = {state}; import microgpt; assert x == {state}"
        result = python("-c", code, cwd=HERE)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))

    def test_pasted_into_a_notebook_it_runs_with_the_defaults_on_the_current_folder(self):
        self.file("ab\nba\n", "names.txt")
        self.file(SOURCE.replace('"steps": (1000,', '"steps": (3,'), "cell.txt")
        cell = "import pathlib, sys; sys.argv = {}; exec(pathlib.Path('cell.txt').read_text(), {}); import gc; assert gc.isenabled()"
        for argv, names in [  # some notebooks have a __file__, and all have an argv of their own
            (["kernel", "-f", "kernel.json"], {"__name__": "__main__"}),
            (["ipykernel_launcher.py", "-f"], {"__name__": "__main__", "__file__": "a.ipynb"}),
        ]:
            result = python("-c", cell.format(argv, names), cwd=self.folder)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertRegex(result.stdout, r"(?s)num docs: 2,.*step +3 / 3 .*sample 20: ")

    def test_python_i_in_another_folder_with_an_empty_environment_leaves_a_trained_model(self):
        self.file(SOURCE, "microgpt.py")
        self.file("ab\nba\n", "names.txt")
        (self.folder / "elsewhere").mkdir()
        argv = ["-X", "warn_default_encoding", "-i", pathlib.Path("..") / "microgpt.py", *TINY]
        options = {"cwd": self.folder / "elsewhere", "env": BARE_ENVIRONMENT}
        result = python(*argv, **options, input="print(len(model.weights))\n")
        self.assertTrue(result.stdout.startswith("num docs: 2,"), result)
        self.assertIn("9", result.stdout.split("not in the file")[1].split())

    def test_any_standard_output_is_enough_and_one_of_ascii_shows_question_marks(self):
        argv = [str(self.file("éé\nçé\n")), *"--steps 2 --samples 2 --prompt é".split()]
        plain, written = io.TextIOWrapper(io.BytesIO(), encoding="ascii"), []
        tee = types.SimpleNamespace(write=written.append)  # as a notebook may have it
        for stdout in (plain, tee, None):  # None: as under `>&-` in a shell
            with contextlib.redirect_stdout(stdout):
                self.assertIsInstance(microgpt.main(argv), Model)
        self.assertTrue(plain.line_buffering)
        self.assertRegex(plain.buffer.getvalue().decode("ascii"), r"sample  1: \?")
        self.assertRegex("".join(written), r"(?s)step +2 / 2 .*sample  2: é.*\nnot in the file")

    @unittest.skipIf(os.name == "nt", "pipes break otherwise on Windows")
    def test_output_into_head_ends_quietly(self):
        argv = (HERE / "microgpt.py", self.file(TEXT), "--steps", 5000)
        process = self.start(*argv, env=BARE_ENVIRONMENT)  # and not PYTHONUNBUFFERED
        self.assertIn("num docs", process.stdout.readline())
        process.stdout.close()
        errors = process.stderr.read()
        self.assertEqual((process.wait(60), errors), (0, ""))

    @unittest.skipIf(os.name == "nt", "signals differ on Windows")
    def test_ctrl_c_once_ends_the_training_and_twice_the_program(self):
        argv = (HERE / "microgpt.py", self.file(TEXT), *TINY, "--steps", 100_000, "--samples")
        once, twice = (self.start(*argv, samples) for samples in (3, 10**6))
        self.interrupt(once, "step  100 /")
        output, errors = once.communicate()
        self.assertEqual((once.returncode, errors), (0, ""))
        words = r"\ninterrupted: measuring and writing with what was learned so far\nheld-out loss "
        self.assertRegex(output, rf"\A(step .+\n)*{words}.+\n(sample  [123]: .*\n){{3}}not in ")
        self.interrupt(twice, "step  100 /")
        self.interrupt(twice, "interrupted: ")
        _, errors = twice.communicate()
        self.assertEqual((twice.returncode, errors), (130, ""))

    def interrupt(self, process, words):
        """Press Ctrl-C as soon as the process prints a line with these words."""
        while words not in process.stdout.readline():
            self.assertIsNone(process.poll(), words)
        process.send_signal(signal.SIGINT)

    @unittest.skipIf(os.name == "nt", "there are no such terminals on Windows")
    def test_a_terminal_shows_each_step_and_keeps_each_hundredth(self):
        import pty

        path = str(self.file(TEXT))
        ours, theirs = pty.openpty()
        self.start(HERE / "microgpt.py", path, *TINY, "--steps=102", stdout=theirs)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # as Linux ends a terminal
            for piece in iter(lambda: os.read(ours, 4096), b""):
                shown += piece
        os.close(ours)
        rows = []  # what stays on the screen
        for row in shown.decode().replace("\r\n", "\n").split("\n"):
            seen = ""
            for text in row.split("\r"):
                seen = text + seen[len(text) :]
            rows.append(seen.rstrip())
        kept = [row for row in rows if row.startswith("step ")]
        self.assertEqual([row.split()[1] for row in kept], ["1", "100", "102"], shown)
        for row in kept:
            self.assertRegex(row, r"\A.* s left\Z")
        self.assertEqual(len(re.findall(r"step +\d+ / 102 [^\r]* +\r", shown.decode())), 102)
        self.assertIn("\nmeasured 0 of 1 held-out documents ", shown.decode())
        self.assertRegex("\n".join(rows), "\nheld-out loss .* not 8\nnot in the file: 0 of 0")


# --- Facts of the files --------------------------------------------------------------------------


class TestFiles(Facts):
    def test_the_examples_of_the_readme_give_what_they_show(self):
        shown = re.findall(r"(?ms)^```pycon\n(.*?)^```$", README)
        self.assertGreater(len(shown), 10)
        examples = doctest.DocTestParser().get_doctest("\n".join(shown), {}, "README", None, 0)
        runner, complaints = doctest.DocTestRunner(verbose=False), []
        runner.run(examples, out=complaints.append)
        self.assertEqual(runner.failures, 0, "".join(complaints))
        self.assertGreaterEqual(runner.tries, 30)

    def test_what_the_readme_quotes_is_in_the_file_letter_for_letter(self):
        quoted = re.findall(r"(?ms)^```python\n(.*?)^```$", section("## The tour"))
        self.assertGreater(len(quoted), 8)
        for block in quoted:
            self.assertTrue(block in SOURCE, block)

    def test_each_fold_says_how_long_its_code_is(self):
        fold = (
            r"(?ms)\(code, (\d+) lines\)</i></summary>\n(?:(?!<details).)*?^# \w+: .*?\n(.*?)^```"
        )
        found = re.findall(fold, README)
        self.assertEqual(len(found), README.count("<i>(code, "))
        self.assertGreater(len(found), 35)
        for count, code in found:
            self.assertEqual(int(count), code.count("\n"), code)

    def test_every_link_into_the_readme_leads_to_a_heading(self):
        text = re.sub(r"(?ms)^```.*?^```$", "", README)
        anchors = []  # as GitHub makes them
        for heading in re.findall(r"(?m)^#+ (.*)$", text):
            anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            anchors.append(f"{anchor}-1" if anchor in anchors else anchor)
        links = set(re.findall(r"\]\(#(.*?)\)", text))
        self.assertGreater(len(links), 0)
        self.assertEqual(links - set(anchors), set())

    def test_the_example_of_importing_runs(self):
        block = re.search(r"(?ms)^```python\n(import microgpt\n.*?)^```$", README).group(1)
        with mock.patch.object(microgpt, "read_docs", lambda path: list(WORDS)):
            _, printed = self.quiet(exec, block, {})
        shown = re.search(r"print\(.*\) +# (.*)\n", block).group(1)
        self.assertTrue(printed.startswith(f"{shown}\nnum docs: 12,"), printed)

    def test_the_readme_shows_what_the_program_prints(self):
        block = re.search(r"(?ms)^```text\n(num docs.*?)^```$", README).group(1)
        text = pasted(*PICTURES).replace("config.steps / 20", "config.steps")  # one glance,
        text = text.replace("corpus[:20]", "corpus[:1]")  # and a short one
        script = self.file(text, "mine.py")  # the pictures only add lines, and a page
        shutil.copy(HERE / "names.txt", self.folder)
        result = python(script, cwd=self.folder, env=BARE_ENVIRONMENT)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        lines = masked(block).splitlines(keepends=True)
        shown = "".join(r"(?:.*\n)*" if line == "...\n" else re.escape(line) for line in lines)
        self.assertRegex(masked(re.sub(ADDED, "", result.stdout)), rf"\A{shown}\Z")
        album = "".join(re.findall(r"step \d+ writes .*\n", result.stdout))
        page = (self.folder / "microgpt.html").read_text("utf-8")
        near = re.findall("<li>([aeiou]: .*?)</li>", page)
        for printed in (album.rstrip(), "\n".join(near)):
            self.assertIn(f"\n```text\n{printed}\n```\n", README)
        self.assertRegex(block, r"\d ms/step \| +\d+ s left")

    def test_help_explains_every_flag(self):
        result = python(HERE / "microgpt.py", "--help")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        text = " ".join(result.stdout.split())
        self.assertIn(" file UTF-8 text, a document a line ", text)
        self.assertIn(" --prompt PROMPT what every text begins with", text)
        for name, (default, _, _, words) in microgpt.HYPERPARAMETERS.items():
            flag = f"--{name.replace('_', '-')} {name.upper()}"
            self.assertIn(f" {flag} {words} (default: {default})", text)

    def test_the_program_fits_on_the_page(self):
        self.assertLessEqual(code_tokens(SOURCE), 3000)
        self.assertLessEqual(len(SOURCE.splitlines()), 420)
        self.assertIn("3,000 tokens of code in 420 lines", " ".join(README.split()))
        for code in (SOURCE, *re.findall(r"(?ms)^```python\n(.*?)^```$", README)):
            self.assertLessEqual(max(map(len, code.splitlines())), 100, code)
        self.assertIn("SPDX-License-Identifier: MIT", SOURCE)

    def test_each_part_needs_only_the_parts_above_it(self):
        def needed(code):  # the global names that its functions use
            names = {op.argval for op in dis.get_instructions(code) if op.opname == "LOAD_GLOBAL"}
            inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
            return names.union(*map(needed, inner))

        headings = list(re.finditer(r"(?m)^# --- (\d)\. .* -+$", SOURCE))
        self.assertEqual([heading[1] for heading in headings], [*"1234567"])
        ends = [heading.start() for heading in headings[1:]] + [len(SOURCE)]
        for end in ends:
            module = module_of(SOURCE[:end])
            names = needed(compile(SOURCE[:end], "microgpt.py", "exec"))
            self.assertEqual(names - set(vars(module)) - set(dir(builtins)), set())

    def test_only_the_standard_library_is_imported(self):
        imported = re.findall(r"(?m)^(?:import|from) (\w+)", SOURCE)
        allowed = "argparse gc math operator os pathlib random re sys time"
        self.assertEqual(imported, allowed.split())

    def test_the_names_are_a_clean_list(self):
        names = (HERE / "names.txt").read_text("ascii").splitlines()
        self.assertGreaterEqual(len(names), 8000)
        self.assert_same(names, sorted(set(names)), "names")
        for name in names:
            self.assertRegex(name, r"\A[a-z]{2,15}\Z")
        wanted = "aino amina chidi fatima giulia kwame lakshmi moana olga siobhan tenzin wei yuki"
        self.assertEqual(set(wanted.split()) - set(names), set())  # people look for their own


# --- Facts of the recipes that change the model --------------------------------------------------

MODELS = "ReLU,GELU,LayerNorm,biases,weight tying,dropout,RoPE,GPT-2".split(",")
ACTIVATIONS = {"ReLU": relu, "GELU": gelu, "GPT-2": gelu}  # of those that have their own
TOGETHER = "GELU,LayerNorm,biases,weight tying,dropout,RoPE".split(",")
DOCS = "abca bcab caa abcb cb acbab bba cab bca".split()
TOKENS = [3, 0, 2, 2, 1]


def small(*recipes, spread=0.4, **settings):
    """A program, a small model of it, and the model's documents as tokens.

    The settings in capitals are the program's, the others the model's. The spread moves each
    weight, gains and biases too.
    """
    capitals = {name: settings.pop(name) for name in list(settings) if name.isupper()}
    module, rng = program(*recipes, **capitals), random.Random(5)
    model = model_of(DOCS, 1.0, 5, module, **{"n_embd": 4, **settings})
    for param in model.parameters():
        param.data += rng.gauss(0, spread)
    return module, model, [model.tokenizer.encode(doc) for doc in DOCS]


class TestModelRecipes(Facts):
    def test_logits_are_those_of_the_formula_and_gradients_the_slopes_alone_and_together(self):
        cases = [[name] for name in MODELS]
        cases += [TOGETHER, TOGETHER[::-1], ["GPT-2", "dropout", "RoPE"], ["RoPE", "GPT-2"]]
        for names in cases:
            own = [ACTIVATIONS[name] for name in names if name in ACTIVATIONS]
            module, model, _ = small(*names, n_layer=2, n_embd=8)
            expected = formula(model, TOKENS, *own, rotary="RoPE" in names)
            self.assert_all_near(logits_of(model, TOKENS, module), expected, 1e-11, names)
            module, model, _ = small(*names)

            def loss(_):
                if "dropout" in names:
                    model.coins = random.Random(3)  # the same coins each time
                return module.document_loss(model, TOKENS)

            for name, matrix in model.weights.items():
                params = [random.Random(name).choice(matrix[0]), matrix[-1][-1]]  # or a bias
                self.assert_gradients_are_slopes(loss, params, f"{names} {name}")

    def test_the_weights_have_the_first_values_and_the_counts_of_the_readme(self):
        rows = re.findall(r"\| ([\w -]+) \| 2\.\d{4} \| (\d{4}) \|", section("## Recipes"))
        self.assertEqual({name for name, _ in rows}, set(MODELS))
        sizes = {"n_embd": 16, "n_head": 4, "block_size": 16}
        for name, count in rows:
            model = model_of(["".join(map(chr, range(26)))], module=program(name), **sizes)
            self.assertEqual(len(model.parameters()), int(count), name)
            for key, matrix in weights_of(model).items():
                if key.endswith("norm"):
                    self.assertEqual(matrix, [[1.0] * 16, [0.0] * 16], name)  # gains and biases
                elif key.startswith("layer"):
                    biases = {row[-1] for row in matrix}
                    self.assertEqual(biases == {0.0}, name in ("biases", "GPT-2"), name)

    def test_dropout_leaves_out_a_tenth_and_keeps_the_mean(self):
        module, model, _ = small("dropout")
        ones = [module.Value(1)] * 10000
        model.coins = random.Random(1)
        left = [round(number, 12) for number in numbers(module.dropout(model, ones))]
        self.assertEqual(set(left), {0.0, round(10 / 9, 12)})
        self.assertAlmostEqual(left.count(0.0), 1000, delta=150)  # 5 standard deviations

    def test_dropout_falls_on_attention_and_on_the_mlp_in_training_only(self):
        for nothing in ("attn_wo", "mlp_fc2"):  # with zeros here, that half adds nothing
            module, model, _ = small("dropout", n_embd=8)
            for row in model.weights[f"layer0.{nothing}"]:
                row[:] = [module.Value(0) for _ in row]
            loss = module.document_loss(model, TOKENS).data
            losses = [module.forward_backward(model, [TOKENS], step) for step in range(1, 6)]
            self.assertEqual(len({loss, *losses}), 6)  # other coins each step
            self.assertEqual(module.forward_backward(model, [TOKENS], 5), losses[4])
            self.assertEqual(module.evaluate(model, [TOKENS]), loss)

    def test_rope_refuses_an_odd_share_of_a_head(self):
        with self.assertRaisesRegex(ValueError, "is odd"):
            model_of(module=program("RoPE"), n_embd=6, n_head=2)


# --- Facts of the recipes for training and sampling ----------------------------------------------

OFF = {  # recipe: settings with which it does nothing
    "mini-batches": {"BATCH_SIZE": 1},
    "gradient clipping": {"MAX_NORM": math.inf},
    "weight decay": {"WEIGHT_DECAY": 0.0},
    "top-k": {"TOP_K": 0},
    "top-p": {"TOP_P": 1},
    "BPE": {"MERGES": 0},
    **dict.fromkeys(["gradients", "attention", "explore", "save and load", "continue"], {}),
    **dict.fromkeys(["album", "pictures"], {}),
}
MIXED = (0.1, 0.4, 0.2, 0.3)
SAMPLERS = (  # top-k's number, top-p's, temperature, odds, what is left of them
    (2, None, 1, MIXED, (0, 4 / 7, 0, 3 / 7)),
    (2, None, 0.5, MIXED, (0, 16 / 25, 0, 9 / 25)),  # the squares of 0.4 and 0.3
    (None, 0.6, 1, MIXED, (0, 4 / 7, 0, 3 / 7)),
    (None, 0.71, 1, MIXED, (0, 4 / 9, 2 / 9, 3 / 9)),
    (None, 0, 1, MIXED, (0, 1, 0, 0)),
    (0, 1, 1, MIXED, MIXED),  # off
    (9, None, 1, MIXED, MIXED),  # there are no more
    (3, 0.6, 1, MIXED, (0, 4 / 7, 0, 3 / 7)),  # top-k leaves 4/9, 3/9, 2/9: two reach 0.6
)
TELLING = """
def start_worker(*both, start=start_worker):
    start(*both)
    os.write(1, b"ready\\n")  # in one piece

"""


def mean_of(module, model, sequences):
    """The mean loss of the sequences and its gradients, without any in the model."""
    twin = copy.deepcopy(model)
    mean = sum(module.document_loss(twin, tokens) for tokens in sequences) / len(sequences)
    mean.backward()
    return mean.data, grads_of(twin.parameters())


def shares_of(module, model, tokens):
    """What each head attends to, token by token: what it makes of one-hot values."""
    shares, attend = [], module.attend

    def watched(query, keys, values):
        one_hot = [[module.Value(i == j) for i in range(len(keys))] for j in range(len(keys))]
        shares.append(numbers(attend(query, keys, one_hot)))
        return attend(query, keys, values)

    with mock.patch.object(module, "attend", watched):
        logits_of(model, tokens, module)
    return shares


class TestTrainingAndSamplingRecipes(Facts):
    def test_switched_off_a_recipe_is_the_plain_program(self):
        argv = [self.file("\n".join(DOCS * 2)), *"--n-embd 4 --n-head 2 --steps 3".split()]
        plain, printed = self.main(program(), *argv)
        for name, settings in OFF.items():
            with in_folder(tempfile.mkdtemp(dir=self.folder)):
                model, found = self.main(program(name, **settings), *argv)
            self.assertEqual(weights_of(model), weights_of(plain), name)
            lines = iter(masked(found).split("\n"))
            for line in masked(printed).split("\n"):  # all that is printed without it, in order
                self.assertIn(line, lines, name)

    def test_mini_batches_give_means_and_gradients_shows_their_norms_every_100_steps(self):
        for step, batch in ((3, [8, 0, 1, 2]), (100, [0, 1, 2, 3]), (150, [2, 3, 4, 5])):
            module, model, sequences = small("mini-batches", "gradients", BATCH_SIZE=4)
            loss, grads = mean_of(module, model, [sequences[i] for i in batch])
            found, printed = self.quiet(module.forward_backward, model, sequences, step)
            self.assert_near(found, loss, 1e-12)
            self.assert_all_near(grads_of(model.parameters()), grads, 1e-12)
            lines = ["gradients of step 100"] if step == 100 else []
            for name, matrix in model.weights.items() if lines else ():
                lines.append(f"{name}  {math.hypot(*grads_of(*matrix)):.6f}")
            self.assertEqual([line.strip() for line in printed.split("\n") if line], lines)

    def test_clipping_keeps_the_direction_and_short_gradients(self):
        clipping = program("gradient clipping", MAX_NORM=2.0)
        for grads, clipped in (
            ([3.0, -4.0, 12.0], [6 / 13, -8 / 13, 24 / 13]),  # its norm is 13
            ([0.1, 0.2, 0.0], [0.1, 0.2, 0.0]),
        ):
            moved = []
            for optimizer, given in ((clipping.Adam, grads), (Adam, clipped)):
                params = [Value(1.0) for _ in grads]
                for param, grad in zip(params, given):
                    param.grad = grad
                optimizer(params).step(0.1, beta1=0.9, eps=0.1)
                moved.append([numbers(params), grads_of(params)])
            self.assert_all_near(*moved, 1e-14)

    def test_weight_decay_is_that_of_adamw(self):
        param = Value(2.0)
        optimizer = program("weight decay", WEIGHT_DECAY=0.3).Adam([param])
        weight, first, second = 2.0, 0.0, 0.0
        for step, grad in enumerate((0.0, 0.5, -1.5, 7.0), 1):
            param.grad = grad
            optimizer.step(0.1, beta1=0.9, beta2=0.95)
            first, second = 0.9 * first + 0.1 * grad, 0.95 * second + 0.05 * grad**2
            root = math.sqrt(second / (1 - 0.95**step)) + 1e-8
            weight -= 0.1 * (first / (1 - 0.9**step) / root + 0.3 * weight)
            self.assert_near(param.data, weight, 1e-14)

    def test_warm_up_and_then_a_cosine(self):
        for warmup, steps in ((4, 12), (0, 5), (3, 4), (10, 3)):
            module, config = program("warm-up", WARMUP=warmup), config_of(steps=steps)
            for done in range(steps):
                share = (done - warmup) / (steps - warmup)
                up, down = (done + 1) / (warmup + 1), (1 + math.cos(math.pi * share)) / 2
                rate = module.learning_rate_at(done + 1, config)
                self.assert_near(rate, 0.01 * (up if done < warmup else down), 1e-14)

    def start_file(self, names, argv, method="spawn", cores=2, above=""):
        """Start a file with these recipes, in a group of processes that can be signalled."""
        last = 'if __name__ == "__main__":\n'
        choice = f"    multiprocessing.set_start_method({method!r})\n    CORES = {cores}\n"
        path = self.file(pasted(*names).replace(last, above + last + choice), "mine.py")
        argv = [self.file("\n".join(DOCS)), *"--n-embd 4 --samples 2 --steps".split(), *argv]
        group = {"stderr": subprocess.STDOUT, "start_new_session": True}
        return self.start(path, *argv, cwd=self.folder, **group)

    def test_all_cores_give_the_numbers_of_mini_batches_with_dropout_too(self):
        argv = [self.file("\n".join(DOCS)), *"--n-embd 4 --samples 2 --steps 3".split()]
        model, expected = self.main(program("dropout", "mini-batches"), *argv)
        trained = []
        for method, cores in (("spawn", 2), ("fork", 1), ("fork", 5)):
            if method in multiprocessing.get_all_start_methods():
                names = ["dropout", "all cores", "save and load"]
                process = self.start_file(names, [3], method, cores)
                printed = masked(process.communicate()[0]).replace("saved: model.json\n", "")
                self.assertEqual((process.returncode, printed), (0, masked(expected)))
                saved = json.loads((self.folder / "model.json").read_text(encoding="utf-8"))
                trained.append([*saved["weights"].values()])
        self.assert_all_near(trained[0], [*weights_of(model).values()], 1e-9)
        self.assert_same(trained[1:], trained[:1] * (len(trained) - 1))

    def test_all_cores_end_with_an_error_or_ctrl_c(self):
        broken = "def document_loss(model, tokens):\n    raise OverflowError('too large')\n\n\n"
        printed = self.start_file(["all cores"], [9], above=broken).communicate()[0]
        words = "error: too large, try a smaller --learning-rate\n"
        self.assertEqual(printed[-len(words) :], words)
        for method in {"fork", "spawn"} & set(multiprocessing.get_all_start_methods()):
            if not hasattr(os, "killpg"):
                continue  # Ctrl-C is sent in another way here
            process = self.start_file(["all cores"], [10**6], method, above=TELLING)
            awaited = ["ready", "ready", "step "]  # it trains, and all workers are deaf to Ctrl-C
            for line in process.stdout:
                if line[:5] in awaited:
                    awaited.remove(line[:5])
                if not awaited:
                    break
            os.killpg(process.pid, signal.SIGINT)
            rest = process.stdout.read()  # a worker that lived on would keep it open
            self.assertRegex(rest, r"(?s)\ninterrupted: .*\nsample  2: .*\nnot in the file: ")
            self.assertNotIn("Traceback", rest)
            self.assertEqual(process.wait(), 0)

    def test_samplers_leave_the_likeliest(self):
        for k, p, temperature, odds, left in SAMPLERS:
            given = {"TOP_K": k, "TOP_P": p}
            settings = {name: value for name, value in given.items() if value is not None}
            names = [name.lower().replace("_", "-") for name in settings]
            module = program(*names, **settings)
            logits = [module.Value(math.log(probability)) for probability in odds]
            found = module.probabilities(logits, temperature)
            self.assertEqual([p == 0 for p in found], [p == 0 for p in left], settings)
            self.assert_all_near(found, left, 1e-12, settings)
        for name in ("top-k", "top-p", "beam search"):  # and still find a broken model
            module, model, _ = small(name)
            model.weights["lm_head"][1][0].data = math.nan
            self.assertRaises(FloatingPointError, module.generate, model, "a")

    def test_a_wide_beam_finds_the_likeliest_of_all_texts_and_a_narrow_one_is_greedy(self):
        sizes = {"n_layer": 2, "n_head": 1, "block_size": 4, "spread": 0.5}
        plain, other, _ = small(**sizes)  # in which the greedy texts are not the likeliest
        module, model, _ = small("beam search", **sizes)

        def total_loss(text):  # of the text and of the BOS after it, if that has a position
            tokens = model.tokenizer.encode(text)[:5]
            return module.document_loss(model, tokens).data * min(len(text) + 1, 4)

        texts = ["".join(chars) for n in range(5) for chars in itertools.product("abc", repeat=n)]
        for prompt in ("", "b", "ca", "abc"):
            likeliest = min((text for text in texts if text.startswith(prompt)), key=total_loss)
            greedy = plain.generate(other, prompt, 0.0)
            for module.BEAMS, expected in ((1, greedy), (1000, likeliest)):
                self.assertEqual(module.generate(model, prompt), expected)

    def test_attention_shows_the_weights_of_each_head_last(self):
        module, model, _ = small("attention", spread=1.0, n_layer=2, n_embd=6, n_head=3)
        text = "abcabcab"  # longer than the block size of 6
        grids = self.quiet(module.show_attention, model, text)[1].strip().split("\n\n")
        shares = shares_of(module, model, model.tokenizer.encode(text)[:6])
        for number in range(6):
            rows = [f"layer {number // 3}, head {number % 3}", "  ^ a b c a b"]
            for label, row in zip("^abcab", shares[number::6]):
                rows.append(" ".join([label, *(".:-=+*#%@"[round(8 * w)] for w in row)]))
            self.assertEqual(grids[number], "\n".join(rows))
        self.assertEqual(len(grids), 6)
        argv = [self.file("\n".join(DOCS)), *"--n-embd 4 --samples 2 --steps 2".split()]
        argv += "--prompt ca --temperature 0".split()
        plain, (model, found) = self.main(program(), *argv)[1], self.main(module, *argv)
        last, text = masked(found).replace(masked(plain), ""), module.generate(model, "ca", 0)
        self.assertTrue(last.startswith(f"\nlayer 0, head 0\n  ^ {' '.join(text)}\n"), last)
        self.assertEqual(found.count("layer 0, head "), 4)

    def test_explore_answers_until_an_empty_line(self):
        module = program("explore")
        argv = [self.file("\n".join(DOCS)), *"--steps 1 --samples 1 --n-embd 4".split()]
        plain, typed = self.main(program(), *argv)[1], ["ca", "?", ""]
        with mock.patch.object(module.os, "isatty", return_value=True):
            with mock.patch.object(builtins, "input", side_effect=typed) as asked:
                model, printed = self.main(module, *argv)
            for error in (EOFError, NotImplementedError):  # Ctrl-D, and a notebook that nobody sees
                with mock.patch.object(builtins, "input", side_effect=error):
                    self.assertEqual(self.main(module, *argv)[1].count("looks"), 0)
        self.assertEqual(asked.call_count, 3)
        lines = printed.splitlines()[-15:]
        tokens = model.tokenizer.encode("ca")[:-1]
        odds = sorted(zip(map(math.exp, logits_of(model, tokens, module)[-1]), [*"abc", "end"]))
        total = sum(p for p, _ in odds)
        for line, (p, name) in zip(lines, odds[::-1]):
            self.assertRegex(line, rf"^ +'{name}' +{p / total:.0%} {'#' * round(60 * p / total)}$")
        self.assertEqual(lines[4], "looks at ^ca")
        for line, shares in zip(lines[5:9], shares_of(module, model, tokens)[-4:]):
            self.assertEqual(line[9:], "".join(".:-=+*#%@"[round(8 * p)] for p in shares))
        self.assertEqual([line[:2] for line in lines[9:14]], ["ca"] * 5)
        self.assertRegex(lines[14], "'\\?' .* is not in the vocabulary")
        with mock.patch.object(module.os, "isatty", return_value=False):  # as in a pipe
            with mock.patch.dict(sys.modules):
                sys.modules.pop("ipykernel", None)  # which the test of the notebook may have left
                found = self.main(module, *argv)[1]
        self.assertEqual(masked(found), masked(plain))


# --- Facts of the recipes for data and keeping ---------------------------------------------------


class TestKeepingRecipes(Facts):
    def trained(self, *names, text="ana\nhanna\nnina\nhan\n", argv=(), change=None, **settings):
        """A program, its model after some steps, and what it printed; its files in self.folder."""
        module = program(*names, **settings)
        if change:
            change(module)
        argv = [self.file(text), *"--samples 1 --n-embd 4 --n-head 2 --steps 3".split(), *argv]
        with in_folder(self.folder):
            return (module, *self.main(module, *argv))

    def refusal(self, module, content):
        """What load says about a file with this content, as text or as something for JSON."""
        path = self.file(content if isinstance(content, (bytes, str)) else json.dumps(content))
        with self.assertRaises(module.InputError) as caught:
            module.load(path)
        self.assertRegex(str(caught.exception), r"\A\S+docs.txt is not a saved model: .*\Z")
        return str(caught.exception)

    def test_bpe_learns_the_most_frequent_neighbours(self):
        module, rng = program("BPE"), random.Random(1)
        many = ["".join(rng.choices("abcd", [4, 3, 2, 1], k=8)) for _ in range(60)]
        for docs in (many, many[::-1], ["aaaa", "aaa", "aaab"], ["ab"]):
            text, learned = "\n".join(map(" ".join, docs)), sorted(set("".join(docs)))
            for _ in range(module.MERGES):
                pairs = ["".join(pair) for pair in re.findall(r"\b(?=(\w+) (\w+))", text)]
                count, best = max(((pairs.count(p), p) for p in set(pairs)), default=(0, ""))
                if count < 2:
                    break
                learned.append(best)
                splits = "|".join(f"{best[:i]} {best[i:]}" for i in range(1, len(best)))
                text = re.sub(rf"\b({splits})\b", best, text)
            tokenizer = module.Tokenizer(docs)
            self.assertEqual((tokenizer.vocab, tokenizer.vocab_size), (learned, len(learned) + 1))
            for doc, pieces in zip(docs, text.split("\n")):
                tokens = [tokenizer.bos, *map(learned.index, pieces.split()), len(learned)]
                self.assertEqual(tokenizer.encode(doc), tokens)
                self.assertEqual(tokenizer.decode(tokens), doc)
        with self.assertRaisesRegex(module.InputError, "'e' .* is not in the vocabulary"):
            tokenizer.encode("abe")

    def test_blocks_hold_the_whole_text_in_pieces_as_long_as_the_model_sees(self):
        text, module = "\ufeffTo be,\nor not to be:\r\n\n  that is it." * 6, program("blocks")
        path = self.file(text)
        printed = self.main(module, path, *"--block-size 9 --steps 0 --samples 0".split())[1]
        blocks = module.read_docs(path)
        self.assertEqual("".join(blocks), re.sub("\ufeff|\r", "", text))
        self.assertEqual({len(block) for block in blocks[:-1]}, {9})
        self.assertRegex(printed, f"num docs: {len(blocks)}, . held out, {len(blocks) - 1} cut")
        for bad, words in (("", "no text"), (" \n\n ", "no text"), ("a\0b", "not plain text")):
            with self.assertRaisesRegex(module.InputError, words):
                module.read_docs(self.file(bad))

    def test_what_stands_in_the_file_is_not_new(self):
        flags = "--samples 3 --temperature 0 --learning-rate 0.1 --n-embd 8 --n-head 2".split()
        for name, text, argv, last in (
            ("blocks", "abcd" * 20, "--block-size 6 --prompt b --steps 60", "book: 0 of 3 texts"),
            ("BPE", "we ride the red train home\n" * 12, "--steps 40", "file: 0 of 3"),
            ("paragraphs", "ab\n  ba\n\n" * 9, "--steps 40", "file: 0 of 3"),
        ):
            printed = self.main(program(name), self.file(text), *flags, *argv.split())[1]
            self.assertRegex(printed, f"{last}\n\\Z", name)

    def test_paragraphs_keep_their_lines_and_their_indentation(self):
        module = program("paragraphs")
        text = "\n \n\ufeffif a:  \r\n\tb\n\nfor c:\n    d\n \t\n\n  e\nf\n"
        docs = module.read_docs(self.file(text.encode()))
        self.assertEqual(docs, ["if a:\n\tb", "for c:\n    d", "  e\nf"])

    def test_what_is_saved_comes_back_to_the_last_bit(self):
        path = self.folder / "model.json"
        for names in (["save and load"], ["BPE", "save and load"], ["save and load", "BPE"]):
            module, model, printed = self.trained(*names)
            self.assertIn("\nsaved: model.json\n", printed)
            again = module.load(path)
            self.assertEqual(weights_of(again), weights_of(model))
            self.assertEqual(vars(again.tokenizer), vars(model.tokenizer))
            self.assertLessEqual(vars(again.config).items(), vars(model.config).items())
        words = self.refusal(program("save and load"), path.read_bytes())
        self.assertIn("does not read 'na'", words)

    def test_saving_is_all_or_nothing(self):
        module, model, _ = self.trained("save and load")
        path = self.folder / "model.json"
        before = path.read_bytes()

        with mock.patch.object(module.os, "replace", side_effect=OSError("no space left")):
            self.assertRaises(OSError, module.save, model, path)
        model.parameters()[5].data = math.nan
        self.assertRaisesRegex(module.InputError, "nan", module.save, model, path)
        self.assertEqual(path.read_bytes(), before)
        path.unlink()
        path.mkdir()  # what cannot be written is found before the training
        line = r"microgpt.py: error: .*model.json'"
        change = lambda module: vars(module).pop("forward_backward")
        self.assert_exits(2, line, functools.partial(self.trained, change=change), "save and load")

    def test_a_file_that_is_no_model_is_refused(self):
        module, _, _ = self.trained("save and load")
        text = (self.folder / "model.json").read_text(encoding="utf-8")
        good = json.loads(text)
        config, vocab, wte = good["config"], good["vocab"], good["weights"]["wte"]
        for bad in ("", text[:-1], text + "{}", "[" * 100000, b"\xff\xfe{", [], 7):
            self.refusal(module, bad)
        for place, words, contents in (  # where in the file, what is said, what cannot stand there
            ("more", "unexpected keyword argument 'more'", [1]),
            *((part, "", [None, 3, [], {}, True]) for part in ("config", "vocab", "weights")),
            *((f"config {name}", f"{name} is {{!r}}", [True, [1], "1", None]) for name in config),
            ("config n_embd", "n_embd is {!r}", [-1, 10**18, math.nan, 4.0]),
            ("config n_embd", "wte has another shape", [8]),
            ("config n_head", "n_head is 0", [0]),
            ("config n_head", "does not divide", [3]),
            ("config n_layer", "n_layer is {!r}", [10**12]),
            ("config learning_rate", "learning_rate is {!r}", [math.nan, -0.1]),
            ("vocab", "no list", ["".join(vocab), dict.fromkeys(vocab, 0)]),
            ("vocab", "wte has another shape", [vocab[:-1], [*vocab, "z"]]),
            ("vocab", "", [[first, *vocab[1:]] for first in ("aa", vocab[1], "")]),
            ("weights", "other names", [{"wte": wte}, {**good["weights"], "more": wte}]),
            ("weights wte", "wte has another shape", [wte[:-1], [wte[0][:-1], *wte[1:]]]),
            (f"weights wte {len(wte) - 1} 3", "wte holds {!r}", [math.nan, "0.5", None, True, [1]]),
        ):
            for content in contents:
                whole = copy.deepcopy(good)
                *outer, last = [int(name) if name.isdigit() else name for name in place.split()]
                functools.reduce(operator.getitem, outer, whole)[last] = content
                self.assertIn(words.format(content), self.refusal(module, whole))
        self.assertRaises(OSError, module.load, self.folder / "missing.json")

    def test_a_run_that_goes_on_ends_as_one_that_never_stopped(self):
        many = "dropout,RoPE,mini-batches,weight decay,save and load,continue,warm-up"
        argv, saved = ["--steps", 9, "--learning-rate", 0.1], self.folder / "model.json"

        def interrupt(module):
            def step(self, rate, plain_step=module.Adam.step, **settings):
                plain_step(self, rate, **settings)
                if self.t == 8:
                    raise KeyboardInterrupt  # before what it did was kept

            module.Adam.step = step

        for names, settings in (["continue"], {}), (many.split(","), {"BATCH_SIZE": 2}):
            trained = functools.partial(self.trained, *names, argv=argv, **settings)
            _, whole, printed = trained()
            saved.unlink()
            trained(change=interrupt)
            _, model, found = trained()
            saved.unlink()
            self.assertIn("\ngoing on after step 7 (learning_rate was 0.1)\n", found)
            self.assertEqual(weights_of(model), weights_of(whole))
            tail = masked(printed[printed.index("step    9") :])
            self.assertTrue(masked(found).endswith(tail), found)

    def test_more_steps_learn_what_comes_next_and_another_run_is_refused(self):
        seen, path = [], self.folder / "model.json"

        def watch(module):
            forward_backward = module.forward_backward
            watched = lambda *args: seen.append(args[2]) or forward_backward(*args)
            module.forward_backward = watched

        for steps in (3, 5, 5):  # the last time nothing is left to do
            module, model, printed = self.trained("continue", argv=["--steps", steps], change=watch)
        self.assertEqual(seen, [1, 2, 3, 4, 5])
        self.assertIn("going on after step 5 (learning_rate was 0.01)\nsaved", printed)
        kept, other = path.read_text(), str(self.file("anna\nhanna\nnina\nhan\n", "b.txt"))
        changes = {"file": other}, {"seed": 1}, {"n_head": 1}, {"n_embd": 8}
        cases = [(kept, change, "is of another run") for change in changes]
        cases += [(kept, {"steps": 4}, "has done 5 steps"), ("{}", {}, "is not a saved model")]
        for training in (None, 7, True, [], {}):
            foreign = json.dumps({**json.loads(kept), "training": training})
            cases.append((foreign, {}, "is of another run"))
        for content, change, words in cases:
            path.write_text(content)
            config = types.SimpleNamespace(**{**vars(model.config), **change})
            with in_folder(self.folder), self.assertRaisesRegex(module.InputError, words):
                self.quiet(module.run, config)

    def test_fine_tuning_goes_on_from_the_saved_weights(self):
        names = ["RoPE", "save and load", "fine-tuning"]
        _, base, _ = self.trained(*names[:-1])
        tune = functools.partial(self.trained, *names, text="nan\n")
        flags = "--steps 0 --n-layer 2 --n-embd 6 --n-head 3 --block-size 3".split()
        model = tune(argv=flags)[1]
        for size in "n_layer n_embd n_head block_size".split():
            self.assertEqual(getattr(model.config, size), getattr(base.config, size), size)
        self.assertEqual(vars(model.tokenizer), vars(base.tokenizer))
        self.assertEqual(weights_of(model), weights_of(base))
        module, model, printed = tune(argv=["--steps", 8])
        start, tuned = (module.load(self.folder / name) for name in (module.START, module.SAVED))
        self.assertEqual(weights_of(start), weights_of(base))  # this file is left as it was
        self.assertEqual(weights_of(tuned), weights_of(model))
        nan = [model.tokenizer.encode("nan")]
        loss = module.evaluate(start, nan)
        self.assertIn(f"step    1 / 8 | loss {loss:.4f}", printed)
        self.assertLess(module.evaluate(tuned, nan), loss - 0.1)
        line = r"microgpt.py: error: model.json does not know 3 characters: \['o', 'z', 'ë'\]"
        self.assert_exits(2, line, functools.partial(tune, text="nina\nzoë\n"))
        self.assertEqual(len(os.listdir(self.folder)), 3)  # the text and the two models


# --- Facts of the pictures -----------------------------------------------------------------------

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
MEASURE = """<script>let box = e => e.getBoundingClientRect(); document.title = JSON.stringify([
document.documentElement.scrollWidth, getComputedStyle(document.querySelector("svg")).fill,
[...document.querySelectorAll("svg")].map(s => Math.min(box(s).width, box(s).height))]);
console.log("seen")</script>"""


class TestPictures(Facts):
    def elements(self, page, tag):
        """Those of a page that is well-formed, small and whole in itself, with their texts."""
        self.assertLess(len(page.encode()), 200_000)
        self.assertIsNone(re.search(r"<script|//|url\(|@import|[\",>](nan|-?inf)\b", page))
        body = ElementTree.fromstring(f"<body>{page.partition('</style>')[2]}</body>")
        return [(found.attrib, "".join(found.itertext())) for found in body.iter(tag)]

    def trained(self, names, content, *argv):
        """The program, its model, and the page that its run wrote."""
        module, docs = program(*arranged(["draw", "pictures", *names])), self.file(content)
        with in_folder(self.folder):
            model, _ = self.main(module, docs, *"--samples 2 --n-embd 4 --n-head 2".split(), *argv)
        return module, model, (self.folder / "microgpt.html").read_text(encoding="utf-8")

    def test_the_curve_is_that_of_the_losses(self):
        docs = ["".join(chars) for chars in itertools.product("abc", repeat=3)] + DOCS
        module, model, page = self.trained([], "\n".join(docs), "--steps", 40)
        ticks = [float(text) for _, text in self.elements(page, "text")[:10]]  # across, up, ...
        self.assertEqual(ticks[::2], [0, 10, 20, 30, 40])
        losses = [model.losses[step] for step in range(1, 41)]
        means = [statistics.mean(losses[: i + 1]) for i in range(40)]
        held_out = [model.held_out[step] for step in range(0, 41, 2)]
        lines = [attributes["points"] for attributes, _ in self.elements(page, "polyline")]
        for line, expected, first in zip(lines, (losses, means, held_out), (1, 1, 0)):
            places = [tuple(map(float, place.split(","))) for place in line.split()]
            steps = [(x - 40) / 440 * 40 for x, _ in places]
            self.assert_all_near(steps, [*range(first, 41, 2 - first)], 0.01)
            heights = [ticks[1] + (255 - y) / 240 * (ticks[9] - ticks[1]) for _, y in places]
            self.assert_all_near(heights, expected, 0.001)
        rng = random.Random(42)
        rng.shuffle(docs)
        sequences = [model.tokenizer.encode(doc) for doc in docs[-3:]]  # the tenth held out
        first = module.Model(model.config, model.tokenizer, rng)  # before the first step
        ends = [module.main.unwatched_pictures[1](other, sequences) for other in (first, model)]
        self.assertEqual([held_out[0], held_out[-1]], ends)

    def test_the_boxes_tell_what_attend_and_the_model_say(self):
        module, names = program("draw", "pictures"), "^maria"
        model = model_of(["maria"], 9.0, module=module, n_layer=2, block_size=9)
        page, tokens = module.pictures(model, "maria"), model.tokenizer.encode("maria")[:-1]
        shares, expected = shares_of(module, model, tokens), []
        for row in logits_of(model, tokens, module):
            probs = numbers(microgpt.softmax(list(map(Value, row))))
            expected += sorted(zip(probs, "aimr^"), reverse=True)
        for head, i in itertools.product(range(4), range(6)):
            seen = [f"{names[i]} looks at {name}" for name in names[: i + 1]]
            expected += zip(shares[4 * i + head], seen)
        boxes = self.elements(page, "rect")
        self.assertEqual([tip for _, tip in boxes], [f"{text}: {p:.1%}" for p, text in expected])
        found = [float(box["fill-opacity"]) for box, _ in boxes]
        found += [float(box["width"]) / 340 for box, _ in boxes[:30]]
        self.assert_all_near(found, [p for p, _ in expected + expected[:30]], 0.0006)
        titles = [text for _, text in self.elements(page, "figcaption")[1:-1]]
        self.assertEqual(titles, [f"layer {i}, head {j}" for i in (0, 1) for j in (0, 1)])

    def test_the_map_shows_the_directions_in_which_the_vectors_differ_most(self):
        module, rng = program("draw", "pictures"), random.Random(3)
        plain = [[4 * rng.gauss(0, 1), rng.gauss(0, 1)] for _ in range(30)]
        rows = [[7 + 0.6 * a, 0.8 * a - 1, b] for a, b in plain]  # turned and moved in space
        across, up = module.plane(rows)
        for i, j in itertools.combinations(range(30), 2):
            on_map = math.hypot(across[i] - across[j], up[i] - up[j])
            self.assert_near(on_map, math.dist(plain[i], plain[j]), 1e-9)
        self.assert_near(sum(map(operator.mul, across, up)), 0.0, 1e-9)
        self.assertGreater(statistics.stdev(across), 3 * statistics.stdev(up))
        model = model_of(["abc"], module=module)
        for value, other in zip(*model.weights["wte"][:2]):
            value.data = other.data * 2  # the same direction
        self.assertIn("<li>a: b 1.00, ", module.pictures(model))

    def test_all_that_run_accepts_is_shown_and_escaped(self):
        for names, content, argv, shown in (
            ([], "<b>\n&amp;\n'a\"\n^ ^", "--steps 2", "< > & ' \" \xb7 ^"),
            (["BPE"], "<script>\n" * 9 + "&" * 2000, "--steps 1", "<script> & ^"),
            (["blocks"], "a b\n\tc\\\n" * 9, "--steps 2", r"\n \t \\ a ^" + " \xb7"),
            ([], "ab\nba", "--steps 0 --samples 0", "a b ^"),
            ([], "ab\nba", "--steps 3 --n-layer 0 --learning-rate 0", "a b ^"),
            ([], "abc" * 9, "--steps 1 --n-layer 5 --n-head 8 --n-embd 8", "a b c ^"),
            ([], "ab\nba", "--steps 3 --n-embd 1 --n-head 1", "a b ^"),
            ([], "\n".join(map(chr, range(300, 410))), "--steps 1 --block-size 40", "\u012c"),
        ):
            _, model, page = self.trained(names, content, *argv.split())
            told = [text.split(": ")[0] for _, text in self.elements(page, "li")]
            self.assertEqual(set(shown.split()) - set(told), set())
            self.assertEqual(len(told), min(100, model.tokenizer.vocab_size))

    def test_a_model_from_before_the_paste_has_its_pictures(self):
        module = program()
        model = model_of(["maria"], module=module)
        for name in ("draw", "pictures"):
            exec(readme_blocks("recipe")[name], vars(module))
        self.assertGreater(len(self.elements(module.pictures(model, "maria"), "rect")), 10)

    def test_they_are_short_and_other_recipes_go_along(self):
        blocks = readme_blocks("recipe")
        self.assertLessEqual(blocks["album"].count("\n"), 12)
        self.assertLessEqual(blocks["pictures"].count("\n"), 105)
        for name in ("GPT-2", "ReLU", "mini-batches"):
            page = self.trained([name, "album"], "\n".join(DOCS), "--steps", 2)[-1]
            self.assertGreater(len(self.elements(page, "rect")), 10, name)

    def test_draw_tells_data_gradients_and_local_gradients(self):
        module = program("draw")
        a, b = module.Value(2.0), module.Value(-3.0)
        c = a * b + a
        self.assertIn("before backward()", module.draw(c))
        c.backward()
        page = module.draw(c, a=a, b=b, **{"<": c})._repr_html_()
        texts = sorted(text for _, text in self.elements(page, "text"))
        boxes = "a = 2,grad -2,b = -3,grad 2,-6,grad 1,< = -4,grad 1".split(",")
        self.assertEqual(texts, sorted(boxes + "-3 2 1 1".split()))
        self.assertEqual(len(self.elements(page, "path")), 4)
        end = module.logsumexp([a, *map(module.Value, range(98))])
        self.assertEqual(len(self.elements(module.draw(end), "rect")), 200)
        with self.assertRaisesRegex(module.InputError, "more than 100 nodes"):
            module.draw(end + a)

    @unittest.skipUnless(BROWSER, "no Chromium")
    def test_in_a_browser_all_has_a_size_and_nothing_is_complained_of(self):
        module, _, page = self.trained([], "\n".join(DOCS * 2), "--steps", 3)
        flags = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --dump-dom".split()
        flags += [f"--user-data-dir={self.folder / 'profile'}", "--window-size=500,900"]
        for scheme, text in enumerate((page, module.draw(module.Value(2) * 3 + 1))):  # dark, light
            flags.append(f"--blink-settings=preferredColorScheme={scheme}")
            place = self.file(text + MEASURE, "measured.html").as_uri()
            result = subprocess.run([BROWSER, *flags, place], capture_output=True, timeout=100)
            spoken = re.findall(r".*CONSOLE.*", result.stderr.decode())
            self.assertEqual([line.count('"seen"') for line in spoken], [1], spoken)
            title = re.search("<title>(.*?)</title>", result.stdout.decode()).group(1)
            width, color, sizes = json.loads(html.unescape(title))
            self.assertLessEqual(width, 500)
            self.assertEqual(color, ("rgb(255, 255, 255)", "rgb(0, 0, 0)")[scheme])
            self.assertEqual(len(sizes), text.count("<svg"))
            self.assertGreaterEqual(min(sizes), 40)  # a table of one row


# --- Facts of recipes that go together -----------------------------------------------------------


class TestWrite(Facts):
    def test_scripts_and_recipes_are_written_in_an_order_that_works(self):
        for name, script in readme_blocks("script").items():
            self.quiet(write, str(self.folder / name))
            self.assertEqual((self.folder / name).read_text(encoding="utf-8"), script)
        for asked, order in {
            "DROPOUT,relu": "ReLU,dropout",
            "gradients,all cores,dropout": "dropout,all cores,gradients",
            "fine-tuning,RoPE": "RoPE,save and load,fine-tuning",
            "GPT-2": "GELU,LayerNorm,biases,weight tying,GPT-2",
        }.items():
            self.assertEqual(arranged(asked.split(",")), order.split(","))

    def test_as_many_as_go_together_are_written_and_run(self):
        many = set(readme_blocks("recipe")) - {"ReLU", "mini-batches", "paragraphs", "fine-tuning"}
        flags = "--steps 1 --n-embd 4 --n-head 2 --block-size 4 --samples 1".split()
        argv = [self.file("to be\nor not\n"), *flags]
        for name, names in {"many.py": many, "all.py": {*many, "fine-tuning"}}.items():
            path = self.folder / name
            printed = self.quiet(write, str(path), *names)[1]
            self.assertEqual(printed, f"written: {path}\n")
            text = path.read_text(encoding="utf-8")
            self.assertEqual(text, pasted(*arranged(names)))
            self.file(text.replace("CORES = os.cpu_count()", "CORES = 1"), name)
            result = python(path, *argv, cwd=self.folder)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("\nsaved: tuned.json\n", result.stdout)

    def outcome(self, text, names):
        """What this program with these recipes prints, and its weights, in a folder of its own."""
        flags = "../docs.txt --n-embd 4 --n-head 1 --block-size 4 --samples 1 --steps"
        argv = [*flags.split(), 100 if names == ["gradients"] else 3]
        with in_folder(tempfile.mkdtemp(dir=self.folder)), mock.patch("sys.stdin", io.StringIO()):
            if "fine-tuning" in names:
                self.main(program("save and load"), *argv)
            if "all cores" not in names:
                model, printed = self.main(module_of(text), *argv)
                return masked(printed), weights_of(model)
            pathlib.Path("mine.py").write_text(text, encoding="utf-8")
            return masked(python("mine.py", *argv).stdout)

    def test_pasted_again_a_recipe_takes_its_own_place(self):
        blocks, last = readme_blocks("recipe"), 'if __name__ == "__main__":\n'
        out = "ReLU", "all cores", "paragraphs", "fine-tuning"
        many = arranged([name for name in blocks if name not in out])
        self.file("\n".join(DOCS * 3))
        for names, pastes in [*(([name], [[name]]) for name in blocks), (many, [many, *zip(many)])]:
            text = pasted(*arranged(names))
            once = self.outcome(text, names)
            self.assertIn("of 1", str(once))
            for again in pastes:
                more = "\n".join(blocks[name] for name in again)
                self.assertEqual(self.outcome(text.replace(last, more + last), names), once, again)

    def test_a_recipe_in_the_wrong_place_says_where_it_must_stand(self):
        blocks, last = readme_blocks("recipe"), 'if __name__ == "__main__":\n'
        path = self.file("\n".join(DOCS))
        known = {**ABOVE, "blocks": [], "fine-tuning": ["RoPE", "save and load"]}
        for name, others in known.items():
            for other in others:
                first = [need for need in NEEDED.get(name, []) if need != other]
                order = [*first, name, *NEEDED.get(other, []), other]
                text = SOURCE.replace(last, "\n".join(blocks[n] for n in order) + last)
                with in_folder(self.folder), self.assertRaises(SystemExit, msg=order) as caught:
                    with contextlib.redirect_stderr(io.StringIO()) as errors:
                        self.main(module_of(text), path, "--steps", 1)
                words = errors.getvalue() if caught.exception.code == 2 else caught.exception.code
                self.assertRegex(words, r"must (stand|be) (above|below)", order)

    def test_a_setting_that_makes_no_sense_is_one_line_before_the_run(self):
        for name, recipe in readme_blocks("recipe").items():
            for setting, good in re.findall(r"(?m)^([A-Z_]+) = ([\d.]+|os\S+)", recipe):
                text = pasted(name)
                for bad in ("-1", "math.nan", *([] if "." in good else ["2.5"])):
                    if (setting, bad) != ("WARMUP", "2.5"):
                        wrong = text.replace(f"\n{setting} = {good}", f"\n{setting} = {bad}")
                        with self.assertRaisesRegex(SystemExit, rf"\A.*{setting}.* must be .*\Z"):
                            module_of(wrong)

    def test_what_does_not_work_is_refused_in_words(self):
        self.file("mine", "there.py")
        for asked, words in {
            "new.py,GPT-2,ReLU": "ReLU and GELU exclude each other",
            "new.py,weight,decay": "no recipe 'weight' (a name of several words stands in quotes)",
            "new.py": "name one of numpy_gpt.py, torch_gpt.py, gpt2.py, or a new .py file and its",
            "gpt2.py,ReLU": "name one of",
            "there.py,ReLU": "there.py: File exists",
        }.items():
            name, *recipes = asked.split(",")
            line = f".*{re.escape(words)}.*"
            self.assert_exits(2, line, write, str(self.folder / name), *recipes)
        self.assertEqual([path.read_text() for path in self.folder.iterdir()], ["mine"])
        self.assertEqual(python(HERE / "test_microgpt.py", "--write").returncode, 2)


# --- Facts of the class --------------------------------------------------------------------------


class TestClass(Facts):
    """The README's class: each stage runs and learns, and the last one is microgpt.py."""

    QUICK = dict(steps=5, words=100, samples=1, n_embd=8)  # held-out losses with each 140th name:
    LOSSES = (
        "2.8820 2.8820 3.3456 3.2947 3.2943 3.2943 3.2504 3.2559 3.2648 3.2627 3.2807 3.2628 3.2629"
        " 3.2748 3.2629"
    )

    def names(self, each=1):
        names = (HERE / "names.txt").read_text(encoding="utf-8").splitlines(keepends=True)
        return self.file("".join(names[::each]), "names.txt").parent

    def losses(self, printed):
        return " ".join(re.findall(r"held-out loss (\S+),", printed))

    def test_the_last_stage_is_the_file_without_its_command_line(self):
        text = re.sub(r"(?m)^import (argparse|gc|pathlib|sys)\n", "", SOURCE)
        file = ast.parse(text.split("# --- 7. ")[0])
        for node in ast.walk(file):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                node.body = node.body[ast.get_docstring(node) is not None :] or [ast.Pass()]
        *found, config, call = ast.parse(stage("10")).body
        self.assert_same([*map(ast.dump, found)], [*map(ast.dump, file.body)], "statements")
        settings = {node.targets[0].id: ast.literal_eval(node.value) for node in config.body}
        self.assertEqual(settings, {**vars(config_of()), "file": "names.txt"})
        self.assertEqual(ast.dump(call), ast.dump(ast.parse("model = run(config)").body[0]))

    def test_every_stage_runs_and_the_tables_tell_what_is_typed(self):
        _, printed = self.quiet(plan, self.names(140), **self.QUICK)
        found = [row[2:-2].split(" | ") for row in printed.splitlines()]
        shown = tables("### The stages")[0]
        self.assertEqual([row[0].split()[0] for row in shown], STAGES)
        self.assertEqual([row[:2] + row[4:] for row in found], [row[:2] + row[4:] for row in shown])
        self.assertEqual(" ".join(row[2] for row in found if row[2].strip()), self.LOSSES)
        for name, _, loss, choices, _ in shown:
            self.assertEqual(choices, f"{math.exp(float(loss)):.1f}" if loss.strip() else "", name)

    def test_the_plans_add_up_to_the_minutes_that_they_promise(self):
        printed = self.quiet(plans)[1].strip()
        shown = re.findall(r"(?ms)^\| stage \| typed.*?(?=\n\n)", section("### The plans"))
        self.assertEqual(shown, printed.split("\n\n"))
        self.assertEqual([*the_plans()], ["45", "90", "270"])
        for length, rows in the_plans().items():
            self.assertEqual(sum(minutes(*row) for row in rows), int(length))
            for name, what, runs, talk in rows:
                for word in what.split() if what != "all" else ():
                    self.assertGreater(characters(name, word), 0, (name, word))
                if length == "90" and runs:  # something runs every ten minutes
                    self.assertLessEqual(minutes(name, what, 0, talk) / runs, 10, name)
        typed = sum(characters(*row[:2]) for row in the_plans()["90"] if row[2])
        self.assertLessEqual(typed, 5500)

    def test_what_needs_no_training_prints_what_the_readme_shows(self):
        quick = "1 2 3 3+ 4 5a 5b".split()
        printed = {name: perform(stage(name), self.names()) for name in quick}
        shown = section("## The class")
        for name in "2 3 3+ 5b".split():
            row = rf"(?m)^\| {re.escape(name)} .* \| {self.losses(printed[name])} \| "
            self.assertRegex(shown, row)
        for words in "be tagu geleri shireletare marielle erina samundo eflirlhkwazleswm".split():
            self.assertIn(f'"{words}"', " ".join(shown.split()))
            self.assertIn(f": {words}\n", "".join(printed.values()))
        for name, line in SHOWN.items():
            self.assertIn(line, printed[name])
        self.assertRegex(printed["4"], r"step 9: p is 2\.98")
        bars = re.findall(r"(?m)^(\w+) (#+)$", printed["2"])
        longest = sorted(bars, key=lambda bar: -len(bar[1]))[:4]
        self.assertEqual({letter for letter, _ in longest}, {"n", "r", "l", "end"})

    def test_fingerprints_are_those_of_the_slips(self):
        rows = list(fingerprints())
        self.assertGreaterEqual(len(rows), 20)
        for name, meant, typed, loss in rows:
            self.assertIn(meant, stage(name))
            if name in ("2", "5b"):  # the others train: --stages runs them
                self.assertEqual(fingerprint(name, meant, typed, self.names()), loss)

    def test_the_table_of_letters_is_what_counting_gives(self):
        for shown, count in (("13,880", "n_train"), ("1,000", "1000")):
            text = stage("3+").replace("corpus[:n_train]", f"corpus[:{count}]")
            texts = [changed(text, letters=letters) for letters in (1, 2, 3, 10)]
            found = [self.losses(perform(text, self.names())) for text in texts]
            self.assertIn(f"| {shown} names | {' | '.join(found)} |\n", section("## The class"))

    def test_all_stages_in_a_folder_and_what_is_between_two(self):
        folder = self.folder / "class"
        self.quiet(show_stage, "all", str(folder))
        files = {f"stage{name}.py" for name in STAGES}
        self.assertEqual({path.name for path in folder.iterdir()}, files | {"names.txt"})
        for name in STAGES:  # no heading of nothing
            self.assertNotRegex(stage(name), r"# ---.*\n+(# ---|class config)")
        printed = self.quiet(diff, "6", "7a")[1]
        self.assertIn("\n+def rmsnorm(x):  # [n] -> [n]\n", printed)
        self.assertNotIn("\n+def linear", printed)

    def test_the_notebook_runs_from_top_to_bottom_and_any_cell_again(self):
        path = self.names(140) / "class.ipynb"
        self.quiet(notebook, str(path))
        self.assertRaises(SystemExit, self.quiet, notebook, str(path))
        whole = json.loads(path.read_text(encoding="utf-8"))
        code = [cell for cell in whole["cells"] if cell["cell_type"] == "code"]
        words = "".join(cell["source"] for cell in whole["cells"] if cell["cell_type"] != "code")
        self.assertIsNone(re.search(r"`--|[Pp]aste|[Tt]yped|python |\]\(", words))
        answers = section("## The class").count("**Answer:**")
        self.assertEqual(words.count("**Answer:**"), answers)  # each below its stage
        for loss in re.findall(r"held-out loss (\S+)`", words):
            self.assertIn(f"| {loss} |", section("### The stages"))
        for cell in code:
            cell["source"] = changed(cell["source"], **self.QUICK)
        cells = [cell["source"] for cell in code]
        again = [cells[STAGES.index(name) + 1] for name in ("2", "10", "5b")]
        losses = self.losses(perform("\n\n".join(cells + again), self.folder))
        self.assertEqual(losses, f"{self.LOSSES} 2.8820 3.2629 3.2947")
        (self.folder / "browser").mkdir()
        perform(cells[0], self.folder / "browser")
        names = (self.folder / "browser" / "names.txt").read_bytes()
        self.assertEqual(names, (HERE / "names.txt").read_bytes())
        holes = self.folder / "holes.ipynb"
        self.quiet(notebook, str(holes), "--holes")
        self.assertIn("raise NotImplementedError", holes.read_text(encoding="utf-8"))
        if not all(map(importlib.util.find_spec, ("nbclient", "ipykernel"))):
            self.skipTest("it ran as a script, since there is no nbclient and ipykernel")
        import nbclient
        import nbformat

        whole = nbformat.from_dict(whole)
        nbformat.validate(whole)
        place = {"metadata": {"path": str(self.folder)}}
        nbclient.NotebookClient(whole, timeout=300, resources=place).execute()
        outputs = [out.text for cell in whole.cells for out in cell.get("outputs", ())]
        self.assertEqual(self.losses("".join(outputs)), self.LOSSES)


# --- Facts of the commands for your own file -----------------------------------------------------

SLIPS = """
2 => e / sum(exps) => e / len(exps) => softmax => differs
2 => [target] += 1 => [token] += 1 => train => differs
4 => __radd__ = __add__ => pass => Value.__add__ => wrong
5a => b_data + a_data => a_data + b_data => dot => wrong
6 => loss.backward() => pass => forward_backward => differs
6 => learning_rate = 0.3 => learning_rate = 0.03 => config => differs
7c => self.t += 1 => self.t = 1 => Adam.step => differs
6 => return loss.data => return loss => forward_backward => wrong
9a => values.append(value => values.append(vlaue => attention => wrong
9a => def attend( => def atend( => atend => differs
"""


class TestYourOwnFile(Facts):
    """--check, --bug, --holes and --compare: what is proved about a file that someone typed."""

    def judged(self, text, *name):
        """The exit status of --check, its lines, and the words that each begins with."""
        status, printed = self.quiet(check, str(self.file(text, "mine.py")), *name)
        return status, printed.splitlines(), re.findall(r"(?m)^(differs|wrong) +(.{32})", printed)

    def first(self, text):
        """The first definition that is not right, and what is said of it."""
        path = str(self.file(text, "mine.py"))
        with in_folder(self.folder):
            for name, outcome, why, _ in judged(path, text, likeliest(text)):
                if outcome != "right":
                    return name, outcome, why

    def test_what_is_right_has_nothing_wrong_in_any_spelling(self):
        renamed = SOURCE.replace('("")', "('')").replace('"attn_wq"', "'attn_wq'")
        for old, new in (("query", "q"), ("head_dim", "size"), ("losses", "ls")):
            renamed = re.sub(rf"\b{old}\b", new, renamed)
        half, top = stage("8").split("def gpt")[0], SOURCE.split("# --- 2.")[0]
        some = SOURCE[SOURCE.index("def linear") : SOURCE.index("def attention")]
        for text in (SOURCE, renamed, half, top, some):
            status, lines, found = self.judged(text)
            self.assertEqual((status, found), (0, []), lines)
        for name in ("1", "3+", "4", "7b", "9b"):
            status, lines, found = self.judged(stage(name))
            self.assertRegex(lines[0], re.escape(f"compared with stage {name}") + "$")
            self.assertEqual((status, found), (0, []), lines)

    def test_recipes_have_nothing_wrong_and_differ_in_what_they_change(self):
        changed = {"warm-up": "learning_rate_at", "top-p": "probabilities"}
        changed.update({"LayerNorm": "Model.__init__", "dropout": "forward"})
        changed["gradients,draw,save and load"] = ""
        for names, begins in changed.items():
            status, lines, found = self.judged(pasted(*names.split(",")))
            self.assertEqual((status, dict(found).get("wrong")), (0, None), names)
            self.assertTrue(found[0][1].startswith(begins) if begins else not found, (names, found))

    def test_each_bug_is_named_first(self):
        self.assertGreaterEqual(len(BUGS), 25)
        for number, (name, _, new) in enumerate(BUGS, 1):
            found = self.first(with_bug(number))
            self.assertEqual(found[0], name, (number, new, found))

    def test_slips_in_a_stage_are_named_first(self):
        for name, old, new, where, outcome in table_of(SLIPS):
            self.assertIn(old, stage(name))
            found = self.first(stage(name).replace(old, new, 1))
            self.assertEqual(found[:2], (where, outcome), found)

    def test_it_says_where_and_why(self):
        status, lines, _ = self.judged(SOURCE.replace("** -0.5  #", "** -1.5  #"))
        line = next(i for i, text in enumerate(SOURCE.splitlines(), 1) if "** -0.5" in text)
        told = "\n".join(lines)
        self.assertIn(
            f"\n         your line {line}: scale = (dot(x, x) / len(x) + 1e-5) ** -1.5", told
        )
        self.assertIn(f"\n         microgpt.py's line {line}: scale = ", told)
        self.assertIn("\nbegin with rmsnorm: what follows may only suffer from it", told)
        status, lines, found = self.judged(with_bug(9))
        self.assertEqual((status, found[0][0]), (1, "wrong"))
        why = "its local gradients give 0.49 for input 1, nudging it 1.47"
        self.assertIn(why, "\n".join(lines))
        text = SOURCE.replace("scores", "s").replace("zip(*values))  #", "zip(*keys))  #")
        lines = self.judged(re.sub(r"\bquery\b", "q", text))[1]  # other names are no slip
        told = [line.split(": ")[1] for line in lines if line.startswith("         your line")]
        self.assertEqual(
            told, ["return linear(softmax(s), zip(*keys))  # zip(*values) is V transposed"]
        )
        status, lines, found = self.judged(stage("7a").replace("** -0.5", "** -0.4"))
        self.assertEqual((status, found[0][0]), (1, "differs"))  # a stage is to be as it is
        self.assertEqual(self.judged(SOURCE.replace("** -0.5", "** -0.4"))[0], 0)  # a change

    def test_the_readme_shows_what_it_says_and_what_the_bugs_end_with(self):
        shown = section("## Is mine right?")
        block = re.search(r"(?ms)^```text\n(bug.py, .*?)^```$", shown)[1].splitlines()
        self.file(with_bug(14), "bug.py")
        with in_folder(self.folder):
            lines = iter(self.quiet(check, "bug.py")[1].splitlines())
        for line in block:
            self.assertTrue(line == "..." or line in lines, line)
        cells = re.findall(r"(?<=\| )(\d+) \| (-?\d\.\d{4}|\d+\.\d{4}|an error)(?= \|)", shown)
        self.assertEqual(sorted(int(number) for number, _ in cells), [*range(1, len(BUGS) + 1)])

    def test_what_microgpt_has_not_is_nudged_too(self):
        own = """
def bent(x):
    return [xi.relu() * xi for xi in x]

def deep(x):  # more than Python may recurse
    return sum(x for _ in range(3000))

def detached(x, y):
    return Value((x * y).data, (x, y), (y.data, 1.0))
"""
        tanh = """
    def tanh(self):
        t = math.tanh(self.data)
        return Value(t, (self,), (1 - {},))

    def sqrt(self):
        return self ** 0.25

    def __neg__"""
        for slope, outcome in (("t**2", "right"), ("t", "wrong")):
            text = SOURCE.replace("\n    def __neg__", tanh.format(slope), 1)
            text = text.replace("\n# --- 3.", own + "\n# --- 3.")
            told = "\n".join(self.judged(text)[1])
            self.assertRegex(told, rf"(?m)^{outcome} +Value.tanh")
            self.assertRegex(told, r"(?m)^differs +Value.sqrt +it gives .*, math.sqrt ")
            self.assertRegex(told, r"(?m)^right +bent$")
            self.assertRegex(told, r"(?m)^right +deep$")
            self.assertRegex(told, r"(?m)^wrong +detached +its local .* input 2, ")

    def test_it_runs_nothing_else_and_always_ends(self):
        last = 'if __name__ == "__main__":'
        text = SOURCE.replace(last, "print('a cell')\nmodel = main()\nif 0:")
        with mock.patch.object(sys, "stdin", None):
            status, lines, found = self.judged(text + "\nopen('left', 'w').close()\ninput()\n")
        self.assertEqual((status, found, os.listdir(self.folder)), (0, [], ["mine.py"]))
        self.assertNotIn("a cell", lines)
        with mock.patch(f"{__name__}.LIMIT", 0.3):
            _, lines, _ = self.judged(SOURCE.replace("                stack.pop()\n", ""))
        late = [line.split()[1] for line in lines if "it does not end within 0.3 seconds" in line]
        self.assertEqual((late[0], late[-1]), ("Value.backward", "run"))  # and not its train only
        found = self.first("import nothing_of_that_name\n" + SOURCE)
        self.assertEqual(found[:2], ("the file", "wrong"))

    def test_a_recipe_that_starts_processes_starts_none_here(self):
        text = pasted("all cores")
        with mock.patch.object(multiprocessing.process.BaseProcess, "start", side_effect=OSError):
            status, lines, found = self.judged(text)
        self.assertEqual((status, dict(found).get("wrong")), (0, None), lines)
        self.assertTrue(gc.isenabled())

    def test_holes_filled_in_are_the_stage_and_say_that_they_are_empty(self):
        for name in STAGES:
            text = self.quiet(holes, name)[1]
            if "raise NotImplementedError" not in text:
                continue
            whole, known = definitions(stage(name)), definitions(text)
            self.assertEqual(list(whole), list(known), name)
            for key, node in definitions(text).items():
                empty = isinstance(node, ast.FunctionDef) and "NotImplemented" in ast.dump(node)
                if isinstance(node, ast.FunctionDef) and not empty:
                    said = [[words for _, words in parted(t)[key]] for t in (text, stage(name))]
                    self.assertEqual(*said, (name, key))
                if empty:  # nothing but the docstring is left
                    self.assertLessEqual(len(node.body), 2, (name, key))
                    self.assertEqual(ast.dump(node.args), ast.dump(whole[key].args))
        asked = definitions(with_holes("9a", ("attend", "Adam"))).items()
        empty = {key for key, node in asked if "NotImplemented" in ast.dump(node)} - {"Adam"}
        self.assertEqual(empty, {"attend", "Adam.__init__", "Adam.step"})
        name, outcome, why = self.first(self.quiet(holes, "5b")[1])
        self.assertEqual((outcome, why), ("wrong", "still to be written"))

    def test_better_worse_or_luck(self):
        for differences, word in (
            ([-0.03, -0.02, -0.04, -0.03, -0.03], "better"),
            ([0.03, 0.02, 0.04, 0.03, 0.03], "worse"),
            ([-0.03, 0.02, 0.04, -0.03, 0.01], "cannot tell"),
            ([0.0, 0.0], "the same"),
            ([-0.5], "cannot tell"),
        ):
            self.assertEqual(judgement(differences)[2], word)
        mean, error, _ = judgement([1.0, 2.0, 3.0, 6.0])
        self.assert_near(mean, 3.0, 1e-12)
        self.assert_near(error, (14 / 3) ** 0.5 / 2, 1e-12)
        rows = {"mine.py": [2.5, 10, 6.0], "microgpt.py": [2.5, 10, 2.0]}  # 6 seconds for 2
        with mock.patch(f"{__name__}.measured", lambda path, *_: rows[path.name]):
            with contextlib.redirect_stderr(io.StringIO()):
                printed = self.quiet(compare, str(self.file(SOURCE, "mine.py")))[1]
        self.assertIn("CPU time a step  3.00 times microgpt.py's\n", printed)

    def test_two_programs_are_trained_side_by_side(self):
        mine = self.file(SOURCE.replace("return x.relu() ** 2", "return x"), "mine.py")
        flags = [self.file(TEXT), "--seeds", 2, "--steps", 4, "--n-embd", 4]
        done = python(HERE / "test_microgpt.py", "--compare", mine, *flags, cwd=self.folder)
        lines = done.stdout.splitlines()
        heads = "mine.py seed seed tokens weights CPU held-out".split()
        self.assertEqual([line.split()[0] for line in lines], heads)
        losses = [[float(x) for x in line.split()[2:]] for line in lines[1:3]]
        for seed, (_, theirs) in enumerate(losses, 1):
            argv = [flags[0], "--steps", 4, "--n-embd", 4, "--samples", 0, "--seed", seed]
            self.assertIn(f"held-out loss {theirs:.4f},", self.main(microgpt, *argv)[1])
        mean, error, word = judgement([a - b for a, b in losses])
        last = f"held-out loss    {mean:+.4f} on average, standard error {error:.4f}: {word}"
        self.assertEqual(lines[-1], last)
        self.assertEqual(int(lines[3].split()[-1]), code_tokens(SOURCE))
        self.assertEqual(sorted(os.listdir(self.folder)), ["docs.txt", "mine.py"])

    def test_what_a_command_cannot_use_is_one_line(self):
        there = self.file("a = 1\n", "there.py")
        bad = self.file("a = 1\nb = (\n", "bad.py")
        for words, line in (
            ("--check", r"--check takes FILE \[STAGE\]"),
            ("--check missing.py", "missing.py: No such file or directory"),
            (f"--check {bad}", r".*bad.py, line 2: .*"),
            (f"--check {there} 11", "no stage '11', only 1, 2, .*"),
            ("--bug 99", r"the bugs are numbered from 1 to \d+, '99' is none"),
            ("--bug x", ".*'x' is none"),
            (f"--bug 1 {there}", ".*there.py: File exists"),
            ("--holes 12", "no stage '12', only .*"),
            ("--holes 9a new.py atend", "stage 9a has no atend"),
            ("--stage 12", "no stage '12', only .*"),
            ("--stage all", "--stage all takes a new FOLDER"),
            (f"--compare {there}", ".*there.py has no main"),
            ("--compare --seeds 0", "--seeds takes a number from 1 to 99"),
            ("--compare --steps 3", "--compare takes one or two programs, .*"),
            ("--notebook", r"--notebook takes FILE.ipynb \[--holes\]"),
        ):
            line = rf"test_microgpt\.py: error: {line}"
            self.assert_exits(2, line, main, words.split())
        self.assertEqual(there.read_text(), "a = 1\n")
        helped = self.quiet(main, ["--help"])[1]
        for name in COMMANDS:
            self.assertIn(f"python test_microgpt.py {name}", helped)


class TestBenchmark(Facts):
    def test_multiply_adds_are_those_of_the_formula(self):
        config = config_of(n_embd=4, n_layer=2, block_size=3)
        forward = 3 * (2 * 12 * 16 + 5 * 4) + (1 + 2 + 3) * 2 * 4 * 2
        self.assertEqual(multiply_adds(config, 5, [4, 0, 1, 2, 3, 4]), 3 * forward)


# --- Facts of numpy_gpt.py, torch_gpt.py, gpt2.py ------------------------------------------------

NAMES = "anna otto bo hannah tabitha nat bob ian ottoban tin hobi".split()


def script_of(file, microgpt, name="script"):
    """One of the README's scripts as a module that imports this microgpt."""
    with mock.patch.dict(sys.modules, microgpt=microgpt):
        return module_of(readme_blocks("script")[file], name)


def needs(*packages):
    missing = [name for name in packages if not importlib.util.find_spec(name)]
    return unittest.skipIf(missing, f"not installed: {missing}")


class TestScriptsAlone(Facts):
    def test_a_missing_package_or_file_is_one_line(self):
        for pair in ("numpy numpy", "numpy microgpt", "torch torch", "torch microgpt"):
            name, missing = pair.split()
            with mock.patch.dict(sys.modules, {"numpy": mock.Mock(), missing: None}):
                line = rf"\A{name}_gpt.py: error: .*{missing}.*\Z"
                with self.assertRaisesRegex(SystemExit, line):
                    module_of(readme_blocks("script")[f"{name}_gpt.py"])

    def test_the_table_of_the_readme_counts_their_lines(self):
        table = section("## The ways up")
        counts = re.findall(r"(?m)^\| `(\w+_gpt.py|gpt2.py)` \| \w+ \| (\d+) ", table)
        texts = readme_blocks("script")
        self.assertEqual(dict(counts), {name: str(texts[name].count("\n")) for name in texts})

    @needs("numpy", "torch")
    def test_a_recipe_is_followed_or_refused_in_words(self):
        for name in ("numpy", "torch"):  # now, as what script_of imports first is not kept
            importlib.import_module(name)
        followed = "warm-up,top-k,top-p,beam search,BPE,blocks,paragraphs,draw,explore,attention"
        followed = followed.split(",")
        argv = [str(self.file("\n".join(NAMES * 2))), "--steps", "1", "--samples", "1"]
        for name in readme_blocks("recipe").keys() - {"fine-tuning"}:  # which needs another one
            for script in ("numpy_gpt", "torch_gpt"):
                module = script_of(f"{script}.py", program(name), script)
                if name in followed or name in ("save and load", "continue") and script[0] == "t":
                    self.main(module, *argv)
                else:
                    line = rf"{script}\.py: error: a recipe changes .*, without effect here"
                    self.assert_exits(2, line, module.main, argv)


@needs("numpy")
class TestNumpyScript(Facts):
    def setUp(self):
        numpy = importlib.import_module("numpy")  # what script_of imports first is not kept
        self.addCleanup(numpy.seterr, **numpy.geterr())
        self.docs = str(self.file("\n".join(NAMES * 2)))
        self.changed = program()  # by the script, once it is started
        self.script = script_of("numpy_gpt.py", self.changed, "numpy_gpt")

    def test_weights_losses_and_texts_are_those_of_microgpt(self):
        for flags in (
            "--n-embd 8 --n-head 2 --block-size 6 --steps 40 --samples 4 --prompt a",
            "--n-layer 0 --n-embd 4 --n-head 1 --block-size 3 --steps 12",
            "--n-layer 2 --n-embd 6 --n-head 3 --block-size 1 --steps 12 --samples 3",
            "--seed 7 --learning-rate 0.02 --temperature 0 --steps 2 --samples 2",
        ):
            model, printed = self.main(self.script, self.docs, *flags.split())
            plain, expected = self.main(microgpt, self.docs, *flags.split())
            weights = numbers(plain.parameters())
            self.assert_all_near(model.parameters().tolist(), weights, 1e-9, flags)
            self.assertEqual(masked(printed), masked(expected))

    def test_every_gradient_is_that_of_microgpt(self):
        for n_layer, doc, spread in ((1, "bo", 5), (3, "tabitha", 5), (0, "bo", 2000)):  # large exp
            plain = model_of(NAMES, spread=spread, n_layer=n_layer, block_size=5)
            model = self.script.Model(plain.config, plain.tokenizer, random.Random(1))
            for matrix in model.weights.values():
                matrix *= spread
            tokens = plain.tokenizer.encode(doc)[:6]
            expected = microgpt.forward_backward(plain, [tokens], 1)
            loss, grads = self.script.gradients(model, tokens)
            self.assert_near(loss, expected, 1e-9, f"loss of {doc}")
            with mock.patch.object(self.script, "gradients", side_effect=AssertionError):
                self.assertEqual(self.script.evaluate(model, [tokens]), loss)  # forward only
            self.assertEqual(set(grads), set(plain.weights))
            for name, rows in plain.weights.items():
                expected = [[value.grad for value in row] for row in rows]
                self.assertGreater(max(map(abs, sum(expected, []))), 1e-6, name)
                self.assert_all_near(grads[name].tolist(), expected, 1e-9, name)

    def test_errors_are_one_line_with_its_own_name_and_ctrl_c_is_none(self):
        with mock.patch.object(self.changed, "report", side_effect=[None, KeyboardInterrupt]):
            _, printed = self.main(self.script, self.docs, "--samples", 1)
        self.assertRegex(printed, "interrupted: .* is kept\nheld-out .*\nsample .*\nnot in ")
        self.assert_exits(2, "numpy_gpt.py: error: steps .*", self.script.main, ["--steps", "-1"])
        self.changed.learning_rate_at = lambda step, config: 1e200
        line = "numpy_gpt.py: error: the loss of step 3 is nan, try a smaller --learning-rate"
        self.assert_exits(1, line, self.script.main, [self.docs])


DRIVER = """
import os, signal, sys, torch_gpt
signal.alarm(90)  # no process stays behind
rank, kill_at, odd_flags = int(os.environ["RANK"]), int(sys.argv[1]), sys.argv[2].split()
rate = torch_gpt.microgpt.learning_rate_at
def learning_rate_at(step, config):
    if (step, rank, os.environ["TORCHELASTIC_RESTART_COUNT"]) == (kill_at, 1, "0"):
        os.kill(os.getpid(), signal.SIGKILL)
    return rate(step, config)
torch_gpt.microgpt.learning_rate_at = learning_rate_at
torch_gpt.main([*sys.argv[3:], *(odd_flags if rank else [])])
"""
SHAPE = "--n-embd 8 --n-head 2 --n-layer 2 --block-size 6 --samples 0".split()
BATCH = ["--batch-size", "6"]


@needs("torch")
class TestTorchScript(Facts):
    def setUp(self):
        self.torch = importlib.import_module("torch")  # what script_of imports first is not kept
        self.microgpt = program()
        self.script = script_of("torch_gpt.py", self.microgpt, "torch_gpt")
        self.docs = self.file("\n".join(NAMES * 2))
        self.path, self.kept = self.folder / "m.json", self.folder / "m.json.pt"

    def run_script(self, *argv):
        return self.main(self.script, self.docs, *SHAPE, *BATCH, *argv)

    def assert_refused(self, words, *argv, status=2):
        said = "(num docs(.|\n)*num params: \\d+\n)?(going on .*\n)?"  # and no step
        argv = [str(word) for word in [self.docs, *SHAPE, *BATCH, *argv]]
        line = rf"torch_gpt\.py: error: {words}"
        self.assert_exits(status, line, self.script.main, argv, said=said)

    def model(self, **config):
        flags = {name: default for name, (default, *_) in self.script.FLAGS.items()}
        flags.update(device="cpu", dtype="float64", processes=1, n_embd=8, n_head=2, block_size=6)
        config = types.SimpleNamespace(**{**flags, **config})
        return self.script.Model(config, self.microgpt.Tokenizer(NAMES), random.Random(1))

    def torchrun(self, *argv, kill_at=0, odd_flags=""):
        """Two processes: what they print, and their errors."""
        self.file(readme_blocks("script")["torch_gpt.py"], "torch_gpt.py")
        self.file(SOURCE, "microgpt.py")
        self.file(DRIVER, "driver.py")
        words = "-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts".split()
        words += [3 if kill_at else 0, "driver.py", kill_at, odd_flags, self.docs]
        return self.start(*words, *SHAPE, *BATCH, *argv, cwd=self.folder).communicate()

    def test_logits_losses_and_single_steps_are_those_of_microgpt(self):
        for n_layer, doc in itertools.product((0, 1, 3), ("tabitha", "bo")):
            plain = model_of(NAMES, spread=4, module=self.microgpt, n_layer=n_layer)
            model, cache = self.model(n_layer=n_layer), {}
            model.all.mul_(4)
            self.assertEqual(list(model.weights), list(plain.weights))
            self.assertEqual(model.parameters().tolist(), numbers(plain.parameters()))
            tokens = plain.tokenizer.encode(doc)[:7]
            expected = logits_of(plain, tokens[:-1], self.microgpt)
            found = self.script.forward(model, self.torch.tensor([tokens[:-1]] * 2))
            self.assert_all_near(found.tolist(), [expected] * 2, 1e-9, doc)
            steps = [self.script.gpt(model, t, i, cache) for i, t in enumerate(tokens[:-1])]
            self.assert_all_near([*map(numbers, steps)], expected, 1e-9, doc)
            several = [tokens, plain.tokenizer.encode("ian"), tokens[:3]]
            expected = [self.microgpt.document_loss(plain, each).data for each in several]
            found = [self.script.document_loss(model, each).data for each in several]
            self.assert_all_near(found, expected, 1e-9, doc)
            self.assert_near(self.script.losses(model, several).item(), sum(expected), 1e-9, doc)

    def test_training_is_that_of_microgpt_for_one_document_a_step_and_for_batches(self):
        runs = [((), 1, "--steps 5 --temperature 1 --prompt a --n-layer 0"), ((), 6, "--steps 3")]
        for recipes, batch_size, flags in [*runs, (("warm-up",), 1, "--steps 12 --seed 7")]:
            self.script = script_of("torch_gpt.py", program(*recipes))
            flags = ["--samples", 3, *flags.split()]
            model, printed = self.run_script(*flags, "--batch-size", batch_size)
            plain = program("mini-batches", *recipes, BATCH_SIZE=batch_size)
            expected, texts = self.main(plain, self.docs, *SHAPE, *flags)
            weights = numbers(expected.parameters())
            self.assert_all_near(model.parameters().tolist(), weights, 1e-9, flags)
            self.assertIn(texts.split("held-out loss")[1] + "nothing is kept", printed)

    def test_documents_come_in_order_and_then_in_other_orders(self):
        supplies = [self.script.endless("abcdefgh", seed) for seed in (1, 2, 1)] * 2
        laps = ["".join(itertools.islice(supply, 8)) for supply in supplies]
        self.assertEqual({"".join(sorted(lap)) for lap in laps}, {"abcdefgh"})
        self.assertTrue(laps[0] == laps[1] != laps[3] == laps[5] != laps[4] != laps[0])

    def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bits(self):
        path, rate = self.path, self.microgpt.learning_rate_at
        flags = ["--save", path, "--steps", 9, "--save-every", 2]
        self.run_script(*flags)
        expected = self.path.read_bytes()
        killed = mock.Mock(side_effect=KeyError)  # as if killed: nothing in the script expects it
        interrupted = functools.partial(signal.raise_signal, signal.SIGINT)
        for last, stop in itertools.product((1, 2, 3, 8, 9), (killed, interrupted)):
            path.unlink()
            self.kept.unlink()

            def rate_or_stop(step, config, last=last, stop=stop):
                return (stop() if step == last else None) or rate(step, config)

            with mock.patch.object(self.microgpt, "learning_rate_at", rate_or_stop):
                with contextlib.suppress(KeyError):
                    self.assertIn("interrupted", self.run_script(*flags)[1])
            self.assertEqual(path.exists(), stop is interrupted)  # JSON only at the end: it is slow
            printed = self.run_script(*flags)[1]
            done = last if stop is interrupted else (last - 1) // 2 * 2
            self.assertIn(f"going on after step {done}\n", printed)
            self.assertEqual(self.path.read_bytes(), expected, f"{stop} at step {last}")
        self.assertIn("step   12 / 12", self.run_script(*flags, "--steps", 12)[1])  # and longer

    def test_what_cannot_be_written_is_one_line_and_leaves_the_old_files_alone(self):
        resource = importlib.import_module("resource")
        flags = ["--steps", 2, "--save", self.path]
        self.run_script(*flags)
        before = {path: path.read_bytes() for path in self.folder.iterdir()}
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, old)
        for size in (1000, *[len(data) - 1 for data in before.values()], old[1]):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))  # as if the disk were full
            power = OSError("no power") if size == old[1] else None
            with mock.patch("os.fsync", side_effect=power):
                self.assert_refused(".*(large|write|no power).*", *flags)
        self.assertEqual({path: path.read_bytes() for path in self.folder.iterdir()}, before)
        (self.folder / "a.json").mkdir()
        (self.folder / "b.json.pt").mkdir()
        for name in ("a.json", "b.json", "no/c.json"):
            self.assert_refused(f".*{name}.*", *flags[:3], self.folder / name)

    def test_another_run_and_a_damaged_file_are_refused(self):
        going_on = ["--save", self.path, "--steps", 2]
        self.run_script(*going_on)
        whole, text = self.kept.read_bytes(), self.path.read_bytes()
        state, rng, told = self.torch.load(self.kept), random.Random(1), io.StringIO()
        for flags in ("seed 1", "batch-size 3", "dtype float32", "learning-rate 0.1", "n-head 1"):
            words = f".*pt: it is of a run with another {flags.split()[0].replace('-', '_')}.*"
            self.assert_refused(words, *going_on, *f"--{flags}".split())
        self.assert_refused(".* it is after step 2 of 1", *going_on, "--steps", 1)
        for place in rng.choices(range(len(whole)), k=60):  # in some, nobody reads
            bad = bytes([whole[place] ^ 1 << rng.randrange(8)])
            self.kept.write_bytes(whole[:place] + bad + whole[place + 1 :])
            with contextlib.suppress(SystemExit), contextlib.redirect_stderr(told):
                self.run_script(*going_on)
            self.assertEqual(self.path.read_bytes(), text, place)
        self.assertGreater(told.getvalue().count("cannot go on from"), 30)
        for change in ({"step": -1}, {"m": state["m"][:1]}, {"v": state["v"][:-1]}, {"facts": []}):
            self.torch.save({**state, **change}, self.kept)
            self.assert_refused("cannot go on from .*", *going_on)
        self.kept.write_bytes(b"")
        self.assert_refused(".*m.json.pt: it is damaged, or not ours", *going_on)
        self.kept.unlink()  # then m.json may be anybody's
        self.assert_refused("cannot go on from .*No such file.*m.json.pt'", *going_on)
        self.assertEqual(self.path.read_bytes(), text)

    def test_the_recipe_loads_what_is_saved_and_microgpt_is_left_as_it_was(self):
        plain = program("save and load")
        before = dict(vars(plain))
        self.script = script_of("torch_gpt.py", plain)
        model, _ = self.run_script("--save", self.path, "--steps", 2)
        self.assertEqual(numbers(plain.load(self.path).parameters()), model.parameters().tolist())
        self.assertEqual({n for n in before if vars(plain)[n] is not before[n]}, set())
        self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)

    def test_a_wide_model_starts_like_gpt2_and_near_an_even_guess(self):
        for n_embd, n_layer in ((40, 8), (128, 2), (1024, 1)):
            model = self.model(n_embd=n_embd, n_layer=n_layer, dtype="float32")
            for name, w in model.weights.items():
                deep = name.endswith(("attn_wo", "mlp_fc2"))
                spread = 0.02 / math.sqrt(2 * n_layer) if deep else 0.02
                self.assert_near(w.std().item() / spread, 1, 0.1, name)
            self.assertLess(abs(self.loss_of(model) - math.log(model.tokenizer.vocab_size)), 0.5)

    def loss_of(self, model):
        corpus = [model.tokenizer.encode(name)[:7] for name in NAMES]
        return self.script.losses(model, corpus).item() / len(corpus)

    def test_precisions(self):
        expected = self.loss_of(self.model())
        for dtype, least, most in (("float32", 1e-12, 1e-5), ("bfloat16", 1e-5, 1e-1)):
            gap = abs(self.loss_of(self.model(dtype=dtype)) - expected)
            self.assertTrue(least < gap < most, f"{dtype}: {gap}")
        for argv in ("32 float64", "34 float32", "8 bfloat16 --dtype bfloat16"):
            n_embd, dtype, *flags = argv.split()
            model, _ = self.run_script("--steps", 2, "--n-embd", n_embd, *flags)
            self.assertEqual(model.config.dtype, dtype)

    def test_what_cannot_be_done_is_one_line(self):
        for flags in ("batch-size 0", "n-layer 100000", "n-embd 100000", "n-embd 0", "seed -1"):
            words = f"{flags.split()[0].replace('-', '_')} must be from [01] to \\d+"
            self.assert_refused(words, *f"--{flags}".split())
        for flags in ("n-head 3", "prompt ?", "dtype float16"):
            self.assert_refused(".*(divide|in the vocabulary|invalid).*", *f"--{flags}".split())
        large = "--n-embd 16384 --n-layer 1000 --block-size 65536 --batch-size".split()
        for batch_size in (1, 10**6):  # petabytes, and what does not fit into 64 bits
            self.assert_refused(".*can't allocate memory.*", *large, batch_size, status=1)
        for name, text in (("RANK", "1"), ("WORLD_SIZE", "2"), ("RANK", "")):
            with mock.patch.dict(os.environ, {name: text}):
                self.assert_refused("RANK, WORLD_SIZE and such are torchrun's to set: .*")
        alone = {"rank": 0, "processes": 2, "device": "cpu"}
        lost = mock.Mock(side_effect=RuntimeError("closed by the other\nframe #0"))
        with mock.patch.multiple(self.script, meet=lambda to: vars(to).update(alone), agree=lost):
            self.assert_refused("closed by the other", status=1)
        with importlib.import_module("multiprocessing.pool").ThreadPool(1) as thread:
            thread.apply(self.run_script, ["--steps", 2])  # works where there is no Ctrl-C
        with mock.patch.object(self.microgpt, "learning_rate_at", lambda step, config: 1e200):
            line = r"torch_gpt\.py: error: a weight after step 3 is not a number, try a smaller .*"
            self.assert_exits(1, line, self.run_script, "--steps", 3)

    def test_two_processes_survive_a_kill_with_the_same_bits_and_refuse_to_differ(self):
        flags = ["--steps", 7, "--save-every", 2]
        with mock.patch.object(self.script, "add_up", side_effect=self.script.add_up) as add_up:
            alone = self.run_script(*flags)[0].parameters().tolist()
        self.assertEqual(add_up.call_count, 7)  # each step, all gradients go in one piece
        whole = self.folder / "whole.json"
        printed, errors = self.torchrun(*flags, "--save", whole)
        self.assertEqual(printed.count("num params"), 1, errors)
        weights = json.loads(whole.read_bytes())["weights"].values()
        flat = [number for rows in weights for row in rows for number in row]
        self.assert_all_near(flat, alone, 1e-9)
        printed, errors = self.torchrun(*flags, "--save", "m.json", kill_at=5)
        self.assertIn("going on after step 4", printed, errors)
        self.assertEqual(self.path.read_bytes(), whole.read_bytes())
        printed, errors = self.torchrun(*flags, odd_flags="--seed 2 --block-size 5")
        self.assertIn("error: the processes differ in block_size, seed, ", errors)
        self.assertNotIn("step    1", printed)


def gpt2_logits(gpt2, folder, ids):
    """The logits at each position, as gpt2.py computes them from the files in this folder."""
    model, cache = gpt2.read_tokenizer(folder), {}
    with gpt2.opened(folder, "model.safetensors") as file:
        gpt2.read_weights(file, model)
    rows = [gpt2.gpt(model, token, i, cache) for i, token in enumerate(ids)]
    return [gpt2.linear(row, model["wte"], [0.0] * len(model["wte"])) for row in rows]


END = "<|endoftext|>"
MERGES = ["t h", "th e", "Ġ the", "Ġ Ġ", "a a", "Ã x"]
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 4, "n_positions": 8, "vocab_size": 263}
THEIRS = "ln_1 attn.c_attn attn.c_proj ln_2 mlp.c_fc mlp.c_proj".split()  # names of a layer
OURS = "attn_norm attn_wq+attn_wk+attn_wv attn_wo mlp_norm mlp_fc1 mlp_fc2".split()
KINDS = {"F32": ("<f", 0), "F16": ("<e", 0), "BF16": ("<f", 2), "F64": ("<d", 0)}  # bytes cut off
BAD_CHECKPOINTS = [  # (what is wrong in config.json, in the tensors, and a part of the error)
    *(({name: n}, {}, f"{name} is not 1") for name in SIZES for n in (-1, 0, 1e9, "2", True, None)),
    ({"n_head": 3}, {}, "config.json: n_head does not divide"),
    *(({"n_layer": n}, {}, "2 layers, and not n_layer") for n in (1, 3, 10**30)),
    *(({"n_positions": n}, {}, "wpe.weight is not there") for n in (7, 9, 10**30)),
    *(({"vocab_size": n}, {}, "vocab.json: its length") for n in (262, 10**30)),
    *(({"n_embd": n}, {}, "wpe.weight is not there") for n in (2, 8, 2 * 10**30)),
    ({}, {"h.1.ln_2.bias": None}, "h.1.ln_2.bias is not there as [4]"),
    ({}, {"h.2.ln_2.bias": ([4], [0.5] * 4)}, "3 layers, and not n_layer"),
    *(({}, {"wpe.weight": ([8, 4], [1] * 31 + [x])}, "finite") for x in (1e999, -1e999, math.nan)),
    *(({}, {"ln_f.bias": ([4], [0.5] * n)}, "cut in ln_f.bias") for n in (3, 5)),
    ({"n_positions": 10**13}, {"wpe.weight": ([10**13, 4], [])}, "cut in wpe.weight"),
]


class TestGPT2Script(Facts):
    @classmethod
    def setUpClass(cls):
        cls.gpt2, cls.module = module_of(readme_blocks("script")["gpt2.py"]), program("GPT-2")
        cls.vocab = [*cls.gpt2.CHARS, *(pair.replace(" ", "") for pair in MERGES), END]
        config, rng = config_of(n_layer=2, n_head=2, n_embd=4, block_size=8), random.Random(4)
        cls.model = cls.module.Model(config, types.SimpleNamespace(vocab_size=263), rng)
        for param in cls.model.parameters():  # 8 bits, as many as BF16 has
            param.data = rng.randrange(-127, 128) / 64
        rows = {name: list(map(numbers, w)) for name, w in cls.model.weights.items()}
        found = {"wte.weight": rows["wte"], "wpe.weight": rows["wpe"]}
        names = [(f"h.{i}.{a}", f"layer{i}.", b) for i in range(2) for a, b in zip(THEIRS, OURS)]
        for name, layer, ours in [*names, ("ln_f", "", "final_norm")]:
            matrix = sum((rows[layer + part] for part in ours.split("+")), [])  # [n_out, n_in + 1]
            *weight, bias = matrix if "ln_" in name else zip(*matrix)  # [n_in, n_out], [n_out]
            found.update({name + ".weight": weight, name + ".bias": [bias]})
        cls.tensors = {}  # by name: [n] or [n_in, n_out], and the numbers
        for name, rows in found.items():
            shape = [len(rows), len(rows[0])][len(rows) == 1 :]
            cls.tensors[name] = shape, [*itertools.chain(*rows)]

    def save(self, config={}, tensors={}, kind="F32", prefix="", offset=0):
        """The four files, but for some changes; safetensors is written by hand as it is defined."""
        self.file(json.dumps({**SIZES, **config}), "config.json")
        self.file(json.dumps({text: i for i, text in enumerate(self.vocab)}), "vocab.json")
        self.file("\n".join(["#version: 0.2", *MERGES, ""]), "merges.txt")
        header, data, (form, cut) = {"__metadata__": {"format": "pt"}}, b"", KINDS[kind]
        for name, tensor in {**self.tensors, **tensors}.items():
            if tensor:
                start = len(data) + offset
                data += b"".join(struct.pack(form, number)[cut:] for number in tensor[1])
                ends = [start, len(data) + offset]
                header[prefix + name] = dict(dtype=kind, shape=tensor[0], data_offsets=ends)
        packed = json.dumps(header).encode()
        self.file(struct.pack("<Q", len(packed)) + packed + data, "model.safetensors")

    def write(self, *argv):  # -> the ids, and the standard output
        return self.main(self.gpt2, *argv, "--folder", self.folder)

    def assert_refused(self, part, *argv):
        argv, part = [*(argv or ["the"]), "--folder", str(self.folder)], re.escape(part)
        self.assert_exits(2, rf"gpt2\.py: error: (?!.*Error).*{part}.*", self.gpt2.main, argv)

    def test_the_logits_are_those_of_the_formulas_and_of_the_recipe(self):
        ids = [262, 5, 200, 5, 17, 0, 99, 258]
        expected = formula(self.model, ids, gelu)
        self.assert_all_near(logits_of(self.model, ids, self.module), expected, 1e-11, "recipe")
        more = {"lm_head.weight": self.tensors["wte.weight"], "h.1.attn.bias": ([1], [1])}
        for kind, prefix in (("F32", ""), ("F16", "transformer."), ("BF16", "")):
            self.save({}, more if prefix else {}, kind, prefix)
            for numpy in {self.gpt2.numpy, None}:
                with mock.patch.object(self.gpt2, "numpy", numpy):
                    found = gpt2_logits(self.gpt2, self.folder, ids)
                self.assert_all_near(found, expected, 1e-5 if numpy else 1e-11, kind)

    def test_greedy_and_sampled(self):
        self.save({"activation_function": "gelu_pytorch_tanh"})
        ids, out = self.write("the", "--tokens", 4)
        self.assertEqual((out[:3], ids[0], len(ids)), ("the", 257, 5))
        for length in range(1, len(ids)):
            row = formula(self.model, ids[:length], gelu)[-1]
            self.assertEqual(ids[length], row.index(max(row)))
        flags = ("--tokens", 6, "--temperature", 9, "--seed")
        one, same, other = (self.write("the", *flags, seed)[0] for seed in (1, 1, 2))
        self.assertTrue(one == same != other)
        self.assertEqual(self.write("the", *flags, 1, "--top-k", 1)[0][:5], ids)
        longest, _ = self.write("", "--tokens", 100)
        self.assertTrue(longest[0] == 262 and (len(longest) == 9 or longest[-1] == 262))
        rng, logits = random.Random(0), [0.0, math.log(3), -5.0, 1.0]
        drawn = [self.gpt2.choose(logits, 1.0, 2, rng) for _ in range(2000)]
        self.assertAlmostEqual(drawn.count(1) / 2000, 3 / (3 + math.e), delta=0.04)

    def test_the_end_of_text_stops_the_text(self):
        # ln_f gives a constant vector, and the row of END points along it.
        ln_f = {"ln_f.weight": ([4], [0.0] * 4), "ln_f.bias": ([4], [1.0] * 4)}
        self.save({}, {"wte.weight": ([263, 4], [0.0] * 1048 + [1.0] * 4), **ln_f})
        self.assertEqual(self.write("the"), ([257, 262], "the\n"))
        # A character of several tokens is written whole.
        wanted = self.gpt2.encode("é😀", self.gpt2.read_tokenizer(self.folder)) + [262]
        with mock.patch.object(self.gpt2, "choose", side_effect=wanted):
            self.assertEqual(self.write("a")[1], "aé😀\n")

    @unittest.skipIf(os.name == "nt", "pipes differ on Windows")
    def test_output_that_is_not_utf_8_shows_question_marks_and_a_closed_pipe_nothing(self):
        self.save()
        script = self.file(readme_blocks("script")["gpt2.py"], "gpt2.py")
        command = (script, "é the", "--folder", self.folder, "--tokens", 2)
        result = python(*command, env={**BARE_ENVIRONMENT, "PYTHONIOENCODING": "ascii"})
        self.assertEqual((result.returncode, result.stderr, result.stdout[:5]), (0, "", "? the"))
        process = self.start(*command)
        process.stdout.close()  # before it writes
        self.assertEqual((process.stderr.read(), process.wait()), ("", 0))

    def test_the_text_is_split_by_classes_of_characters(self):
        kinds = ["aÉß字ªʰ𝔘", "0½ⅷ٣①𝟙", "!_😀\u0301\u200d\x1c\0"]
        spaces = "\t\n\x85\u00a0\u2028\u3000"
        texts = [kinds + kinds, kinds[::-1], [" " + kind for kind in kinds], ["a", spaces]]
        texts += [[spaces, " a", "  ", " !", "\n", "\n", "0"]]  # the last space goes to the word
        with mock.patch.object(self.gpt2, "merge", lambda piece, model: [piece]):
            for pieces in [*texts, "x 's 't 're 've 'm 'll 'd ' S".split(" ")]:
                self.assertEqual(self.gpt2.encode("".join(pieces), {}), pieces)

    def test_tokenizers_are_read_as_transformers_reads_them(self):
        self.save({"vocab_size": 265}, {"wte.weight": ([265, 4], [0.5] * 1060)})
        ids = {text: i for i, text in enumerate([*self.vocab, "[PAD]", "a\u3000b"])}
        self.file(json.dumps(ids), "vocab.json")
        expected = self.gpt2.read_tokenizer(self.folder)
        self.file("\n".join(MERGES), "merges.txt")  # without the version
        self.assertEqual(self.gpt2.read_tokenizer(self.folder), expected)
        (self.folder / "vocab.json").unlink()  # all in one file, in one of two forms
        added = [{"id": ids.pop(text), "content": text} for text in ("[PAD]", "a\u3000b")]
        for merges in (MERGES, [pair.split() for pair in MERGES]):
            whole = {"model": {"vocab": ids, "merges": merges}, "added_tokens": added}
            self.file(json.dumps(whole), "tokenizer.json")
            self.assertEqual(self.gpt2.read_tokenizer(self.folder), expected)
        with mock.patch.object(self.gpt2, "choose", side_effect=[263, 264, 262]):
            self.assertEqual(self.write("[]"), ([*b"[]", 263, 264, 262], "[][PAD]a\u3000b\n"))

    def test_merges(self):
        chars = self.gpt2.CHARS
        self.assertEqual("".join(chars[b] for b in b"\0\n !~\x7f\xa0\xa1\xad\xff"), "ĀĊĠ!~ġł¡Ńÿ")
        self.save()
        model = self.gpt2.read_tokenizer(self.folder)
        text = "".join(f"x{c} {c}{c}  {c}\n" for c in "é½ⅷ٣字\u0301😀\u00a0\u3000\x85\x1c\u200d\0")
        found = "".join(model["texts"][token] for token in self.gpt2.encode(text, model))
        self.assertEqual(bytes(map(chars.index, found)).decode(), text)  # no byte is lost
        pairs = [("b", "c"), ("a", "b"), ("bc", "a"), ("ab", "bc"), ("a", "bc")]
        ids = {text: text for text in "a ab abc abbc bca".split()}
        for text in ("ab abc", "abbc", "a bca", "bca bca"):  # the lowest rank comes first
            model = {"ranks": {pair: rank for rank, pair in enumerate(pairs)}, "ids": ids}
            self.assertEqual(self.gpt2.encode(text.replace(" ", ""), model), text.split())
        # Step by step through the whole word this would take minutes.
        model = {"ranks": {("a", "a"): 0, ("aa", "aa"): 1}, "ids": {"aaaa": 4}}
        self.assertEqual(self.gpt2.encode("a" * 50_000, model), [4] * 12_500)

    def test_missing_cut_and_foreign_files_are_refused(self):
        for name in ("model.safetensors", "config.json", "vocab.json", "merges.txt"):
            self.save()
            data = (self.folder / name).read_bytes()
            (self.folder / name).unlink()
            self.assert_refused(name)
            foreign = (b"", b"<!doctype html><html>\xff", b"[]", b"{}", b"[" * 10**5)
            for bad in (*foreign, b"PK\3\4\n" + data, data[: len(data) // 2], data[:5], data[:-9]):
                self.file(bad, name)
                self.assert_refused(name)
        for lines, words in ((MERGES + ["z z"], "it needs ['zz']"), (MERGES[:-1], "it lacks Ãx")):
            self.file("\n".join(lines), "merges.txt")
            self.assert_refused(f"merges.txt: {words}")
        for bad in (263, 0, -1, "262"):
            self.file(json.dumps({**dict(zip(self.vocab, range(262))), END: bad}), "vocab.json")
            self.assert_refused("vocab.json: ")

    def test_checkpoints_that_it_does_not_compute_are_refused(self):
        others = [({name: "other"}, {}, f"{name} is not") for name in self.gpt2.FIXED]
        for config, tensors, part in BAD_CHECKPOINTS + others:
            self.save(config, tensors)
            self.assert_refused(part)
        for kind, offset, part in (("F64", 0, "F16"), ("F32", -4, "cut"), ("F32", 4, "cut")):
            self.save(kind=kind, offset=offset)
            self.assert_refused(part)

    def test_prompt_and_flags(self):
        self.save()
        self.assertEqual(len(self.write("x" * 8)[0]), 9)
        for flag in "tokens 0,top-k -1,temperature nan,temperature -1,seed x,what".split(","):
            self.assert_refused("", "the", *f"--{flag}".split())
        with mock.patch.object(self.gpt2, "choose", side_effect=KeyboardInterrupt):
            self.assertRaisesRegex(SystemExit, "130", self.write, "the")
        (self.folder / "model.safetensors").unlink()  # the weights are not even looked for
        self.assert_refused("9 tokens", "x" * 9)
        self.assert_refused("surrogates", "\udcff")


@needs("transformers")
class TestGPT2AgainstTransformers(Facts):  # the judge: nothing is downloaded, all is random
    @classmethod
    def setUpClass(cls):
        import tokenizers
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        cls.gpt2, cls.torch = module_of(readme_blocks("script")["gpt2.py"]), torch
        cls.trainer = tokenizers.ByteLevelBPETokenizer()
        options = dict(vocab_size=600, min_frequency=2, show_progress=False, special_tokens=[END])
        cls.trainer.train_from_iterator(awkward_lines() * 3, **options)
        with tempfile.TemporaryDirectory() as folder:
            cls.trainer.save_model(folder)
            cls.tokenizer = transformers.GPT2TokenizerFast.from_pretrained(folder)
        end = cls.tokenizer.convert_tokens_to_ids(END)
        torch.manual_seed(1)
        sizes = dict(n_layer=3, n_head=4, n_embd=32, n_positions=40, vocab_size=len(cls.tokenizer))
        config = transformers.GPT2Config(bos_token_id=end, eos_token_id=end, **sizes)
        cls.model = transformers.GPT2LMHeadModel(config).eval()
        for parameter in cls.model.requires_grad_(False).parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))

    def save(self, model):
        self.trainer.save_model(str(self.folder))
        model.save_pretrained(self.folder)

    def test_logits(self):
        ids = [(7 * i * i + 3) % len(self.tokenizer) for i in range(40)]
        for dtype in (self.torch.float32, self.torch.float16, self.torch.bfloat16):
            rounded = copy.deepcopy(self.model).to(dtype)
            expected = copy.deepcopy(rounded).float()(self.torch.tensor([ids])).logits[0]
            # As saved with the head (names begin with "transformer.") and without it.
            for saved in (rounded, rounded.transformer):
                self.save(saved)
                for i, row in enumerate(gpt2_logits(self.gpt2, self.folder, ids)):
                    gap = (self.torch.tensor(row) - expected[i]).abs().max()
                    self.assertLess(gap, 1e-4 * expected[i].abs().max(), (dtype, i))

    def test_tokenizer(self):
        self.save(self.model)
        model = self.gpt2.read_tokenizer(self.folder)
        for line in awkward_lines():
            self.assertEqual(self.gpt2.encode(line, model), self.tokenizer(line)["input_ids"], line)


def awkward_lines():
    lines = [
        "I'm sure they've said we'll see it's John's, isn't it? You'd DON'T WE'LL 3rd x2 f_b ->",
        *("", " ", "  ", "\t", "\n\n", " leading", "trailing ", "a  b   c    d", "a" * 3000),
        "1234 12,345.67 ½ ² ⅷ ٣٤ १२ Ⅻ ㈠ ① 〇 一二三 ａｂｃ１２３ ßẞİıſK 𝔘𝔫𝔦 𝟙𝟚 𐍈𐌰 e\u0301 a\u0308 n\u0303",
        "emoji 😀😀 👩‍👩‍👧 🇩🇪 ❤️ Привет, мир! 日本語のテキスト 中文 한국어 العربية עברית हिन्दी ไทย क्ष",
        "\u00a0nbsp\u00a0\u00a0x \u2003em\u3000wide \u2028x\u2029y \u200bzero\u200bwidth\ufeff",
        "\x85next\x85 line \x1c\x1d a\x1eb \x1f\x00\x01\x7f\x80\xad\t\t \r\nend",
        "    def f(x):\n        return x**2\n[]^-\\ ]^ a-z " + "the" * 1000,
    ]
    parts = [*" \t\naé9½😀Ж中ا\u00a0\u3000\x85\x1c!'\u200d_", "'s", "'t", "'re", "  ", "\r\n", "Ab"]
    rng = random.Random(1)
    return lines + ["".join(rng.choices(parts, k=rng.randrange(1, 30))) for _ in range(120)]


# --- The command --check: what each definition makes of some numbers -----------------------------

LIMIT = 10  # seconds for one definition, which takes less than one
POINTS = (0.6, -1.1, 1.7, 0.4, -0.3, 2.2, 0.9, -0.8, 1.3, -2.0, 0.2, 1.1)  # no relu bends there
TINY_DOCS = ["abca", "bd", "cab", "dab", "acid", "bead", "cad", "dada", "ab", "cc", "ba"]


class SerialPool:
    """Stands in for the pools and contexts of multiprocessing: a check starts no process."""

    def __init__(self, cores=None, start=None, arguments=()):
        if start:
            start(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def starmap(self, function, tasks, chunksize=1):
        return [function(*task) for task in tasks]


SerialPool.Pool = SerialPool


def tiny(m, spread=6.0, **changes):
    """A small model of a module, with weights so large that its parts matter."""
    sizes = {"n_embd": 4, "n_head": 2, "n_layer": 1, "block_size": 5, "steps": 3, "letters": 2}
    config = {**vars(config_of()), **sizes, "file": "docs.txt", "samples": 3, "words": 20}
    config = types.SimpleNamespace(**{**config, "learning_rate": 0.05, **changes})
    model = m.Model(config, m.Tokenizer(TINY_DOCS), random.Random(3))
    if hasattr(model, "weights"):
        rng = random.Random(4)
        for param in dict.fromkeys(p for w in model.weights.values() for row in w for p in row):
            param.data = spread * param.data + rng.gauss(0, 0.1)
    elif hasattr(m, "row"):  # a table for each two letters
        model.counts = collections.defaultdict(lambda: [0.1] * 7, {(6, 0): [2, 1, 3, 1, 1, 4, 2]})
    else:
        model.counts = [[1 + (i * j + i) % 7 for j in range(7)] for i in range(7)]
    return model


def corpus_of(model):
    return [model.tokenizer.encode(doc)[: model.config.block_size + 1] for doc in TINY_DOCS]


def state_of(model):
    """What training changed: the numbers of a network, or the counts of a table."""
    if hasattr(model, "weights"):
        return weights_of(model)
    counts = getattr(model, "counts", [])
    return sorted(counts.items()) if isinstance(counts, dict) else counts


def printed_by(function, *args):
    result, printed = Facts.quiet(function, *args)
    return result, masked(printed)


def read(m, data):
    if hasattr(m, "read_blocks"):  # recipe blocks: what its run does
        m.main.block_size = 5
    pathlib.Path("docs.txt").write_bytes(data)
    try:
        return m.read_docs("docs.txt")
    except ValueError as error:
        return str(error)


def attempt(function, *args):
    """What it returns, or the words of what it raises."""
    try:
        return function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def steps_of_adam(m, x):
    params = [m.Value(0.5), m.Value(-2.0)]
    optimizer = m.Adam(params)
    for rate, grads in ((0.1, (0.5, 0.0)), (0.05, (0.1, 4.0)), (0.2, (-0.7, -3.0))):
        for param, param.grad in zip(params, grads):
            pass
        optimizer.step(rate)
    return numbers(params)


def passes_back(m, x):
    a, b = m.Value(2.0), m.Value(-3.0)
    shared = a * b + a
    found = []
    for end in (shared, shared * b, (a + shared) * (shared * a), shared):  # some parts twice
        end.backward()
        found += [a.grad, b.grad, shared.grad, end.grad]
    for _ in range(300):
        a = a + b
    a.backward()
    return found + [b.grad]


@mock.patch.object(time, "perf_counter", lambda: 50.0)
def reports(m, x):
    printed, losses = "", []
    for terminal in (False, True):
        with mock.patch.object(os, "isatty", lambda _: terminal):
            for step in (1, 2, 99, 100, 101, 250):
                losses = [5.0 - i / 100 for i in range(step)]
                printed += printed_by(m.report, 250, losses, 0.0)[1]
    return printed


def heads_of(m, x):
    model, cache = tiny(m), {}
    vectors = [[x(POINTS[4 * t + i]) for i in range(4)] for t in range(3)]
    return [m.attention(model, 0, vector, cache) for vector in vectors]


def reads(m, x):
    model, cache = tiny(m), {}
    return [m.gpt(model, token, position, cache) for position, token in enumerate((4, 0, 1, 1))]


def learns(m, x):
    model = tiny(m)
    for param in getattr(model, "parameters", list)():
        param.grad = 7.0  # from an earlier run
    said = printed_by(m.train, model, corpus_of(model))[1]
    with mock.patch.object(m, "forward_backward", side_effect=KeyboardInterrupt, create=True):
        for name in os.listdir("."):  # what a recipe has kept
            os.remove(name)
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C in the first step
            return state_of(model), said, printed_by(m.train, model, corpus_of(model))[1]
    return state_of(model), said


def goes_back(m, x):
    model = tiny(m)
    if hasattr(m, "start_worker"):  # recipe all cores: what its train does
        m.start_worker(model, corpus_of(model))
        m.workers = SerialPool()
    found = [m.forward_backward(model, corpus_of(model), step) for step in (1, 2, 13)]
    return found, {n: grads_of(*w) for n, w in model.weights.items()}


def writes(m, x):
    models = [tiny(m, spread) for spread in (2.0, 6.0)]
    texts = [
        m.generate(model, prompt, temperature, random.Random(5))
        for model in models
        for prompt, temperature in (("", 0.5), ("a", 1.0), ("bad", 1.5), ("", 0.1))
    ]
    return texts, [attempt(m.generate, models[0], text) for text in ("abcab", "xyz")]


def tells_the_story(m, x):
    config = tiny(m, steps=14).config  # once around, and on
    few = types.SimpleNamespace(**{**vars(config), "prompt": "a", "seed": 7, "temperature": 2.0})
    bad = types.SimpleNamespace(**{**vars(few), "prompt": "q"})
    said = []
    more = TINY_DOCS + ["abcabcabc", "ab"]
    for settings, docs in ((config, more), (few, TINY_DOCS[:9]), (bad, TINY_DOCS)):
        for name in os.listdir("."):  # what a recipe has kept
            os.remove(name)
        if hasattr(m, "START"):  # recipe fine-tuning: the model that it starts from
            m.save(tiny(m), m.START)
        pathlib.Path("docs.txt").write_text("\n".join(docs))
        run = lambda: printed_by(m.run, settings)[1]
        said.append(attempt(run) if settings is bad else run())
    return said


TEXTS = [b" anna\t\n\n  bob \r\nc\td", b"\xef\xbb\xbfab\n\xef\xbb\xbfcd", b"", b"ab\nc\xff", b"a\0"]
PROBES = {  # definition: what it makes of some numbers, in the order of the lesson; x makes an input
    "read_docs": lambda m, x: [read(m, text) for text in TEXTS],
    "Tokenizer.__init__": lambda m, x: vars(m.Tokenizer(["emma", "ava", "b a"])),
    "Tokenizer.encode": lambda m, x: [
        *map(m.Tokenizer(["emma", "ava"]).encode, ["", "ava", "mmv"]),
        attempt(m.Tokenizer(["emma"]).encode, "max"),
    ],
    "Tokenizer.decode": lambda m, x: m.Tokenizer(["emma", "ava"]).decode([4, 2, 0, 3, 4]),
    "Value.__init__": lambda m, x: [m.Value(3).data, m.Value(3).grad],
    "Value.__add__": lambda m, x: [x(0.7) + x(-1.2), x(0.7) + 2, 3 + x(0.4)],
    "Value.__mul__": lambda m, x: [x(0.7) * x(-1.2), x(0.7) * 2, 3 * x(0.4)],
    "Value.__pow__": lambda m, x: [x(0.7) ** 3, x(1.7) ** -0.5, x(-0.7) ** 2, x(0.3) ** 1],
    "Value.exp": lambda m, x: [x(0.7).exp(), x(-1.7).exp()],
    "Value.log": lambda m, x: [x(0.7).log(), x(1.7).log()],
    "Value.relu": lambda m, x: [x(0.7).relu(), x(-0.7).relu()],
    "Value.__neg__": lambda m, x: -x(0.7),
    "Value.__sub__": lambda m, x: [x(0.7) - x(-1.2), x(0.7) - 2],
    "Value.__rsub__": lambda m, x: 2 - x(0.7),
    "Value.__truediv__": lambda m, x: [x(0.7) / x(-1.2), x(0.7) / 4],
    "Value.__rtruediv__": lambda m, x: 2 / x(0.7),
    "Value.__repr__": lambda m, x: repr(m.Value(2.0)),
    "Value.backward": passes_back,
    "to_value": lambda m, x: [m.to_value(x(0.7)), m.to_value(2)],
    "dot": lambda m, x: [
        m.dot([x(2.0), x(-1.0)], [x(0.5), x(3.0)]),
        attempt(m.dot, [m.Value(1)] * 2, [m.Value(1)] * 3),
    ],
    "logsumexp": lambda m, x: [m.logsumexp([x(0.7), x(-1.2), x(2.1)]), m.logsumexp([x(900.0)])],
    "Model.__init__": lambda m, x: [
        state_of(m.Model(tiny(m, n_layer=2).config, m.Tokenizer(["abc"]), random.Random(1))),
        attempt(tiny, m, 1, 0) if hasattr(m, "InputError") else "",
        attempt(lambda: tiny(m, n_head=3) and 0),
    ],
    "Model.parameters": lambda m, x: numbers(tiny(m).parameters()),
    "linear": lambda m, x: m.linear([x(0.6), x(-1.1)], [[x(1), x(2)], [x(3), x(-4)], [x(0), x(5)]]),
    "add": lambda m, x: m.add([x(0.6), x(-1.1)], [x(1), x(2)]),
    "softmax": lambda m, x: m.softmax([x(0.7), x(-1.2), x(2.1)]),
    "rmsnorm": lambda m, x: m.rmsnorm([x(0.7), x(-1.2), x(2.1)]),
    "activation": lambda m, x: [m.activation(x(0.7)), m.activation(x(-0.7)), m.activation(x(2.0))],
    "attend": lambda m, x: m.attend(
        [x(0.6), x(-1.1)],
        [[x(1.7), x(0.4)], [x(-0.3), x(2.2)], [x(0.1), x(-0.8)]],
        [[x(0.9), x(-0.8)], [x(1.3), x(-2.0)], [x(0.2), x(1.1)]],
    ),
    "attention": heads_of,
    "mlp": lambda m, x: m.mlp(tiny(m), 0, [x(0.6), x(-1.1), x(1.7), x(0.4)]),
    "embed": lambda m, x: [m.embed(tiny(m), 2, 1), m.embed(tiny(m), 0, 3)],
    "row": lambda m, x: m.row(tiny(m), [4, 0, 1]),
    "gpt": reads,
    "cross_entropy": lambda m, x: m.cross_entropy([x(0.7), x(-1.2), x(2.1)], 1),
    "document_loss": lambda m, x: [m.document_loss(tiny(m), t) for t in ([4, 0, 1, 2, 4], [4, 3])],
    "Adam.__init__": lambda m, x: m.Adam([m.Value(1.0)] * 3) and 0,
    "Adam.step": steps_of_adam,
    "learning_rate_at": lambda m, x: [m.learning_rate_at(i, tiny(m).config) for i in (1, 2, 3)],
    "forward_backward": goes_back,
    "report": reports,
    "train": learns,
    "evaluate": lambda m, x: m.evaluate(tiny(m), corpus_of(tiny(m))[:4]),
    "probabilities": lambda m, x: [
        m.probabilities([x(0.7), x(-1.2), x(2.1)], temperature) for temperature in (0.5, 1, 3)
    ],
    "prompt_tokens": lambda m, x: [m.prompt_tokens(tiny(m), text) for text in ("", "cab")],
    "generate": writes,
    "run": tells_the_story,
}


# --- The command --check: is it right? -----------------------------------------------------------


def flat(found):
    """Numbers, Values and words, however they are nested, in one list."""
    if isinstance(found, dict):
        found = [thing for pair in found.items() for thing in pair]
    if isinstance(found, (list, tuple)):
        return [thing for part in found for thing in flat(part)]
    return [found]


def plain(thing):
    return getattr(thing, "data", thing)


def slopes(ends, inputs):
    """d (ends, each counted differently) / d input, by the local gradients, without backward."""
    twins, values = {}, [*ends, *inputs]
    for value in values:  # which grows: a graph may be too deep for recursion
        if id(value) not in twins:
            twins[id(value)] = Plain(0.0, slopes=value.local_grads)
            values += value.inputs
    for value in values:
        twins[id(value)].parents = [twins[id(source)] for source in value.inputs]
    weighted([twins[id(end)] for end in ends]).backward()
    return [twins[id(value)].grad for value in inputs]


def observe(m, probe, as_values=True, nudged=None, by=0.0):
    """What a probe makes of its inputs, one of which may be nudged: all of it, Values, inputs."""
    inputs = []

    def x(number):
        number += by if len(inputs) == nudged else 0.0
        inputs.append(m.Value(number) if as_values else number)
        return inputs[-1]

    found = flat(probe(m, x))
    kind = getattr(m, "Value", ())  # a file may have none yet
    return found, [f for f in found if as_values and isinstance(f, kind)], inputs


def nudge(m, probe):
    """The first input whose slope is not what nudging says, and both numbers; or None."""
    _, ends, inputs = observe(m, probe)
    claimed = slopes(ends, inputs)
    for i, slope in enumerate(claimed):
        more, less = (numbers(observe(m, probe, True, i, by)[1]) for by in (1e-5, -1e-5))
        real = (weighted(more) - weighted(less)) / 2e-5
        if not math.isclose(slope, real, rel_tol=1e-4, abs_tol=1e-5):
            return f"its local gradients give {slope:.6g} for input {i + 1}, nudging it {real:.6g}"


def same(a, b):
    """Equal numbers up to rounding, or equal words; a text may have more lines, of a recipe."""
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(a, str) and isinstance(b, str) and "\n" in b:
        lines = iter(a.split("\n"))
        return all(line in lines for line in b.split("\n"))
    return type(a) is type(b) and a == b


def definitions(text):
    """The functions and methods of a program: {name: its node}; the last of a name counts."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.pop(node.name, None)
            found[node.name] = node
        for inner in getattr(node, "body", ()) if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef):
                found[f"{node.name}.{inner.name}"] = inner
    return found


SAFE = set("itertools math collections re string operator functools os int range globals".split())


def defines(node):
    """Does a statement only define something: no call but of a harmless function, no file read?"""
    if isinstance(node, ast.If):  # as a recipe puts itself in its place, the first time
        first_time = "UnaryOp(op=Not(), operand=Call(func=Name(id='hasattr'"
        return ast.dump(node.test).startswith(first_time)
    calls = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
    while any(isinstance(call, ast.Attribute) for call in calls):
        calls = [getattr(call, "value", call) for call in calls]
    harmless = all(isinstance(call, ast.Name) and call.id in SAFE for call in calls)
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    return isinstance(node, kinds) or harmless and isinstance(node, (ast.Assign, ast.AnnAssign))


def defined_by(path, text, missing=None):
    """A module with the definitions of a file, which does nothing else; what it lacks is given."""
    tree, name = ast.parse(text, path), "your file"
    module = types.ModuleType(name)
    vars(module).update(missing or {}, __name__=name, __file__=str(path))
    sys.modules[name] = module
    for node in filter(defines, tree.body):
        simple = isinstance(node, (ast.Assign, ast.AnnAssign))  # maybe of what is not defined here
        with contextlib.suppress(*([NameError, AttributeError] if simple else [])):
            exec(compile(ast.Module([node], []), str(path), "exec"), vars(module))
    return module


class Endless(BaseException):
    pass


def limited(function, *args):
    """What it returns. Raises Endless after LIMIT seconds, also in a loop that never ends."""
    ended, rings = threading.Event(), []

    def ring():  # again and again, for a train may take the first for a Ctrl-C, and go on
        while not ended.wait(LIMIT):
            rings.append(1)
            _thread.interrupt_main()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=ring, daemon=True).start()
    try:
        result = function(*args)
    except KeyboardInterrupt:
        if not rings:
            raise
    finally:
        ended.set()
        signal.signal(signal.SIGINT, before)
    if rings:
        raise Endless
    return result


def line_of_error(error, path, node=None):
    """The last line of the file that an error went through, if possible within a definition."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    inside = [n for n in lines if node and node.lineno <= n <= node.end_lineno]
    return (inside or lines or [None])[-1]


def shortly(thing, other):
    """A number, or the first line of a text that the other text does not have there."""
    if isinstance(thing, str) and isinstance(other, str):
        pairs = itertools.zip_longest(thing.splitlines(), other.splitlines(), fillvalue="")
        thing = next((a for a, b in pairs if a != b), thing)
    return f"{thing:.6g}" if isinstance(thing, float) else repr(thing)[:70]


def compared_with(name):
    """What a file is compared with: how that is called, and its text."""
    return (name, SOURCE) if name == "microgpt.py" else (f"stage {name}", stage(name))


@functools.lru_cache(maxsize=None)
def reference(name):
    module = defined_by(*compared_with(name))
    module.__name__, _ = compared_with(name)
    return module


@functools.lru_cache(maxsize=None)
def expected_of(ref, name):
    """What the reference makes of a probe, of Values or, in early stages, of numbers; and which."""
    for as_values in (True, False):
        try:
            found, ends, _ = observe(ref, PROBES[name], as_values)
            return [plain(thing) for thing in found], as_values, len(ends)
        except Exception:
            pass
    return None, True, 0


def verdict(m, ref, name, path, node=None):
    """right, differs or wrong; the sentence that says why; the line of an error, if it raised."""
    probe = PROBES[name]
    expected, as_values, n_values = expected_of(ref, name)
    try:
        found, ends, inputs = limited(observe, m, probe, as_values)
        found = [plain(thing) for thing in found]
        if ends and inputs and hasattr(ends[0], "local_grads"):
            wrong = limited(nudge, m, probe)
            if wrong:
                return "wrong", wrong, None
    except Endless:
        return "wrong", f"it does not end within {LIMIT} seconds", None
    except Exception as error:
        if expected is None:
            return None, "", None
        words = f"{type(error).__name__}: {error}"
        empty = isinstance(error, NotImplementedError)
        return "wrong", "still to be written" if empty else words, line_of_error(error, path, node)
    if expected is None:
        return "right", "", None
    for a, b in itertools.zip_longest(found, expected):
        if not same(a, b) and name == "Value.backward":
            return "wrong", f"backward() gives a slope of {a}, nudging {b}", None
        if same(a, b) and len(ends) != n_values:
            return "wrong", "it gives Values where numbers are wanted, or numbers for Values", None
        if not same(a, b):
            return "differs", f"it gives {shortly(a, b)}, {ref.__name__} {shortly(b, a)}", None
    return "right", "", None


def own_slopes(m, name):
    """Is a method or a function of one's own, from Values to Values, right? None if it is neither."""
    holder, _, method = name.rpartition(".")
    if holder == "Value":
        tries = [lambda m, x: [getattr(x(p), method)() for p in (0.7, 1.6, 0.3)]]
    elif holder:
        return None
    else:
        calls = [lambda x: [x(0.7)], lambda x: [[x(p) for p in POINTS[:4]]]]
        calls += [lambda x: [x(0.7), x(1.6)], lambda x: [[x(0.6), x(1.7)], [x(0.4), x(-0.3)]]]
        tries = [lambda m, x, call=call: getattr(m, name)(*call(x)) for call in calls]
    for probe in tries:
        with contextlib.suppress(Exception, Endless):
            found, ends, inputs = limited(observe, m, probe)
            if ends and ends != inputs:
                wrong = limited(nudge, m, probe)
                known = getattr(math, method, None)
                if holder and known and not wrong:
                    right = [known(p) for p in (0.7, 1.6, 0.3)]
                    if not all(map(same, numbers(ends), right)):
                        mine = shortly(numbers(ends)[0], 0.0)
                        return "differs", f"it gives {mine}, math.{method} {right[0]:.6g}"
                return ("wrong", wrong) if wrong else ("right", "")


def weight_slopes(m, name):
    """backward() against nudging for some weights of a matrix: None, or what is wrong."""
    model = tiny(m)
    tokens = corpus_of(model)[0]
    m.document_loss(model, tokens).backward()
    row = max(model.weights[name], key=lambda row: max(abs(param.grad) for param in row))
    for param in sorted(row, key=lambda param: -abs(param.grad))[:2]:
        real = slope_in(param, lambda: m.document_loss(model, tokens).data)
        if not math.isclose(param.grad, real, rel_tol=1e-4, abs_tol=1e-6):
            return f"backward() says {param.grad:.6g} for one of its weights, nudging it {real:.6g}"


def statements(node):
    """(line, what it says) of each statement in a definition, which this takes to pieces.

    Local names are numbered: the same in other names says the same.
    """
    parts, names = list(ast.walk(node)), {}
    for part in parts:
        if isinstance(part, ast.arg):
            names.setdefault(part.arg, f"local {len(names)}")
    for part in parts:
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            names.setdefault(part.id, f"local {len(names)}")
    for part in parts:
        if isinstance(part, ast.Name):
            part.id = names.get(part.id, part.id)
        elif isinstance(part, (ast.arg, ast.keyword)):
            part.arg = names.get(part.arg, part.arg)
    found = []

    def walk(node):
        inside = []
        for part in ("body", "orelse", "finalbody", "handlers"):
            if isinstance(getattr(node, part, None), list):
                inside += getattr(node, part)
                setattr(node, part, [])
        if not isinstance(node, ast.Module):
            found.append((getattr(node, "lineno", 0), ast.dump(node)))
        for inner in inside:
            if not (isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant)):
                walk(inner)

    walk(node)
    return found


@functools.lru_cache(maxsize=None)
def parted(text):
    """The definitions of a program, its class config and what else it does, each as statements."""
    tree = ast.parse(text)
    nodes = definitions(text).items()
    parts = {key: statements(node) for key, node in nodes if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "config":
            parts["config"] = sorted(statements(node), key=lambda line: line[1])
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    tree.body = [node for node in tree.body if not isinstance(node, kinds)]
    parts["the last lines"] = statements(tree)
    return parts


def difference(mine, theirs):
    """The lines of the first statements that differ, in both; 0 where there is none."""
    for a, b in itertools.zip_longest(mine, theirs, fillvalue=(0, "")):
        if a[1] != b[1]:
            return a[0], b[0]
    return None


def likeliest(text):
    """The stage that a file is, or microgpt.py: the one that shares most statements with it."""
    if "HYPERPARAMETERS" in text or "Tokenizer.__init__" not in parted(text):  # or some functions
        return "microgpt.py"
    said = lambda text: collections.Counter(w for part in parted(text).values() for _, w in part)
    mine, scores, names = said(text), {}, set(parted(text))
    for name in STAGES:
        theirs = said(stage(name))
        shared = sum((mine & theirs).values())
        scores[name] = len(names & set(parted(stage(name)))), shared, -sum(theirs.values())
    return max(scores, key=scores.get)


def judged(path, text, name):
    """(definition, right or differs or wrong, why, line of an error), in the order of the lesson."""
    (label, theirs), mine = compared_with(name), parted(text)
    whole, ref = reference("microgpt.py"), reference(name)
    try:
        some = label == "microgpt.py" and "Value.__init__" not in mine  # some functions only
        m = limited(defined_by, path, text, vars(whole) if some else None)
    except (Exception, Endless) as error:
        yield "the file", "wrong", f"{type(error).__name__}: {error}", line_of_error(error, path)
        return
    there, nodes = parted(theirs), definitions(text)
    for name in mine:  # in a stage, a slip in a name
        near = difflib.get_close_matches(name, set(there) - set(mine), 1)
        if near and label != "microgpt.py" and name not in PROBES and name not in there:
            yield name, "differs", f"{label} has no definition of that name, but {near[0]}", None
    for name in [*PROBES, *(name for name in mine if name not in PROBES)]:
        outcome = None, "", None
        if not mine.get(name) or name == "the last lines" and label == "microgpt.py":
            continue
        if name in PROBES:
            outcome = verdict(m, ref if name in there else whole, name, path, nodes[name])
        elif name in there:
            apart = difference(mine[name], there[name])
            outcome = ("differs", "it has another line", None) if apart else ("right", "", None)
        else:
            outcome = (*(own_slopes(m, name) or (None, "")), None)
        if outcome[0]:
            yield (name, *outcome)
    with contextlib.suppress(Exception, Endless):
        for name in limited(tiny, m).weights if hasattr(m, "document_loss") else ():
            try:
                wrong = limited(weight_slopes, m, name)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            yield f"the gradient of {name}", "wrong" if wrong else "right", wrong, None


def told(text, name, results):
    """Print the results, and where to begin; return the exit status."""
    (label, theirs), mine = compared_with(name), parted(text)
    counts, first = collections.Counter(), None
    for name, outcome, why, number in results:
        print(f"{outcome:8} {name:32} {why or ''}".rstrip(), flush=True)
        counts[outcome] += 1
        if outcome == "right" or first:
            continue
        first, source = name, theirs if name in parted(theirs) else SOURCE
        apart = difference(mine.get(name, []), parted(source).get(name, [])) or (0, 0)
        if why == "still to be written":
            apart = apart[0], 0
        theirs_too = (f"{label}'s", source, apart[1])
        for where, lines, line in (("your", text, number or apart[0]), theirs_too):
            if line and (name in parted(source) or where == "your"):
                print(f"{'':8} {where} line {line}: {lines.splitlines()[line - 1].strip()}")
    found = [f"{counts[word]} {word}" for word in ("right", "differs", "wrong") if counts[word]]
    print(", ".join(found) or "no definition that can be checked")
    if first:
        print(f"begin with {first}: what follows may only suffer from it")
    return int(bool(counts["wrong"] or label != "microgpt.py" and counts["differs"]))


def check(path, name=None):
    """Say of each definition in a file whether it is right; return the exit status."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
        parted(text)
    except (OSError, ValueError, SyntaxError) as error:
        where = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
        refuse(f"{path}{where}: {getattr(error, 'strerror', None) or getattr(error, 'msg', error)}")
    name = name or likeliest(text)
    if name not in (*STAGES, "microgpt.py"):
        refuse(f"no stage {name!r}, only {', '.join(STAGES)}")
    print(f"{path}, compared with {compared_with(name)[0]}")
    ticks = itertools.count()
    with contextlib.ExitStack() as stack:
        stack.enter_context(in_folder(stack.enter_context(tempfile.TemporaryDirectory())))
        for patch in (
            mock.patch.object(time, "perf_counter", lambda: next(ticks) / 4),
            mock.patch.object(multiprocessing, "get_context", lambda *_: SerialPool),
            mock.patch.object(gc, "disable"),
            mock.patch.object(sys, "stdin", io.StringIO()),
        ):
            stack.enter_context(patch)
        return told(text, name, judged(path, text, name))


def refuse(message):
    """End with one line and exit status 2."""
    print(f"test_microgpt.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


# --- The commands --bug and --holes --------------------------------------------------------------


def table_of(text):
    """The cells of a table, row by row; between two cells stands =>."""
    return [re.split(" ?=> ?", line) for line in text.strip("\n").splitlines()]


BUGS = table_of("""
attention => values.append(value[start:end]) => values.append(key[start:end])
attend => dot(query, key) / len(query) ** 0.5 => dot(query, key)
Adam.step => m_hat = self.m[i] / unbias1 => m_hat = self.m[i]
embed => ["wpe"][position] => ["wpe"][0]
document_loss => enumerate(tokens[1:]) => enumerate(tokens[:-1])
run => train(model, trained) => train(model, held_out)
Value.__mul__ => [other.data, self.data]) => [self.data, other.data])
Value.relu => [self.data > 0]) => [1.0])
Value.__pow__ => [n * self.data ** (n - 1)] => [self.data ** (n - 1)]
Value.backward => source.grad += local_grad => source.grad = local_grad
Value.backward => for value in reversed(order) => for value in order
dot => b_data + a_data) => a_data + b_data)
logsumexp => [e / total for e in exps] => exps
rmsnorm => (dot(x, x) / len(x) => (dot(x, x).data / len(x)
gpt => x = add(x, attention( => x = (attention(
mlp => [activation(xi) for xi in linear( => [xi for xi in linear(
train => param.grad = 0.0 => pass
learning_rate_at => (1 - (step - 1) / config.steps) => step / config.steps
Adam.step => (1 - beta2) * param.grad**2 => (1 - beta2) * abs(param.grad)
attention => heads += attend(query[start:end], => heads += attend(query[:head_dim],
probabilities => logit / max(temperature, 1e-100) => logit * temperature
generate => gpt(model, tokens[position], position, cache) => gpt(model, tokens[position], 0, cache)
Tokenizer.encode => return tokens + [self.bos] => return tokens
forward_backward => corpus[(step - 1) % len(corpus)] => corpus[step % 10]
document_loss => return sum(losses) / len(losses) => return losses[-1]
softmax => [(xi - log_total).exp() for xi in x] => [Value((xi - log_total).exp().data) for xi in x]
cross_entropy => logsumexp(logits) - logits[target] => -softmax(logits)[target]
Model.__init__ => rng.gauss(0, 0.08) => abs(rng.gauss(0, 0.08))
""")  # the definition, its text, and what stands there instead


def with_bug(number):
    """microgpt.py with that bug of BUGS, counted from 1."""
    name, old, new = BUGS[number - 1]
    node = definitions(SOURCE)[name]
    lines = SOURCE.splitlines(keepends=True)
    inside = "".join(lines[node.lineno - 1 : node.end_lineno])
    assert inside.count(old) == 1, (name, old)
    lines[node.lineno - 1 : node.end_lineno] = [inside.replace(old, new)]
    return "".join(lines)


def bug(number, path=None):
    if not number.isdecimal() or not 1 <= int(number) <= len(BUGS):
        refuse(f"the bugs are numbered from 1 to {len(BUGS)}, {number!r} is none")
    out(with_bug(int(number)), path)


def write_new(path, text):
    """Write a file that was not there before."""
    try:
        with open(path, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        refuse(f"{path}: {error.strerror}")
    print(f"written: {path}")


def out(text, path):
    """Print a text, or write it to a new file."""
    print(text, end="") if path is None else write_new(path, text)


def with_holes(name, only=()):
    """A stage in which the bodies of these definitions, or of all new ones, are left to write."""
    text = stage(name)
    lines, known = text.splitlines(), parted("".join(map(stage, built_on(name)[-2:-1])))
    docs = {key: ast.get_docstring(node, False) for key, node in definitions(SOURCE).items()}
    for key, node in definitions(text).items():
        wanted = {key, key.split(".")[0]} & set(only) if only else key not in known
        if wanted and isinstance(node, ast.FunctionDef):
            start, margin = node.body[0].lineno, " " * (node.col_offset + 4)
            if start == node.lineno:  # all in one line
                head = lines[start - 1].split(": ")[0]
                lines[start - 1] = f"{head}: raise NotImplementedError"
                continue
            said = [f'{margin}"""{docs[key]}"""'] if docs.get(key) else []
            emptied = "\n".join([*said, f"{margin}raise NotImplementedError"])
            lines[start - 1 : node.end_lineno] = [emptied] + [None] * (node.end_lineno - start)
    return "\n".join(line for line in lines if line is not None) + "\n"


def holes(name, path=None, *only):
    known_stage(name)
    known = definitions(stage(name))
    missing = set(only) - {*known, *(key.split(".")[0] for key in known)}
    if missing:
        refuse(f"stage {name} has no {', '.join(sorted(missing))}")
    out(with_holes(name, only), path)


# --- The class: microgpt.py in ten stages --------------------------------------------------------

TYPED = {  # what of microgpt.py comes at which stage; `f: text` is what begins so within f
    "1": "config.file = 'names.txt'; config.seed = 42",  # and all that stands nowhere below
    "2": "document_loss; run: corpus; run: n_train; run: trained; run: held_out; run: train(;"
    " run: if held_out; config.block_size = 16",
    "3": "prompt_tokens; generate; run: n_cut; run: print(f'num; run: known; run: n_new;"
    " run: for number; run: print(f'not;"
    " config.prompt = ''; config.temperature = 0.5; config.samples = 20",
    "3+": "config.letters = 3",
    "4": "Value; Value.__neg__; Value.__sub__; Value.__rsub__; to_value",
    "5a": "Value.__pow__; Value.exp; Value.__truediv__; dot; dot: if; logsumexp",
    "5b": "softmax; Model.__init__: n_embd, ; Model.__init__: self.weights; Model.__init__.draw;"
    " Model.__init__: draw('wte; Model.__init__: draw('lm; Model.parameters; linear;"
    " cross_entropy; show; evaluate; run: print(f'vocab; config.n_embd = 16",
    "6": "learning_rate_at; forward_backward; train; config.steps = 1000;"
    " config.learning_rate = 0.3",
    "6+": "config.samples = 0",
    "7a": "rmsnorm; gpt",
    "7b": "add; embed; Model.__init__: draw('wpe",
    "7c": "Adam; config.learning_rate = 0.01",
    "8": "Value: __slots__; Value.relu; activation; mlp; gpt: for; Model.__init__: for; report;"
    " config.n_layer = 1",
    "8+": "config.file = 'doubled.txt'; config.words = 2000",
    "9a": "attend; attention; gpt: x = add(x, attention; Model.__init__: for name;"
    " config.n_head = 1",
    "9b": "config.n_head = 4",
    "9+": "config.file = 'doubled.txt'; config.words = 2000",
    "10": "InputError; read_docs: if re; read_docs: if not; Tokenizer.encode: if;"
    " logsumexp: if; Model.__init__: if; train: try; probabilities; prompt_tokens: if;"
    " run: prompt_tokens; run: if not loss; run: else",
}
STAGES = [*TYPED]


def built_on(name):
    """The stages that a stage consists of, itself the last; none builds on 3+, 6+, 8+ or 9+."""
    return [n for n in STAGES[: STAGES.index(name)] if "+" not in n] + [name]


def entries(names):
    return [entry for name in names for entry in TYPED[name].replace("'", '"').split("; ")]


def temporary(names):
    """The README's first forms of definitions; the config, and what runs it."""
    forms, config, main = {}, {"": "class config:"}, ""
    for name in names:
        for entry in entries([name]):
            forms.pop(entry, None)  # typed as it stays
            if entry.startswith("config."):
                config[entry.split()[0]] = entry.replace("config.", "    ")
        blocks = readme_blocks("stage").items()
        block = "".join(text.partition("\n")[2] for key, text in blocks if name in key.split(", "))
        definition = r"(?m)^(?:def|class) (\w+).*\n(?:(?: .*)?\n)*"
        forms.update((found[1], found[0]) for found in re.finditer(definition, block))
        main = re.sub(definition, "", block) or main
    return forms, "\n".join(config.values()) + "\n\n" + main


@functools.lru_cache(maxsize=None)
def stage(name):
    """A stage as a program: the lines of microgpt.py that are typed by then, and what is not.

    From microgpt.py go all docstrings, and what TYPED has at later stages. The README's first
    forms of definitions stand where the later ones will, or at the end; then come the config and
    what runs it.
    """
    forms, ending = temporary(built_on(name))
    later = tuple(set(entries(TYPED)) - set(entries(built_on(name))))
    source = SOURCE.split("# --- 7. ")[0]  # the class does without the command line
    tree, lines, gone = ast.parse(source), ["", *source.splitlines()], set()

    def look_into(parent, owner):
        for node in getattr(parent, "body", ()):
            first, text = node.lineno, lines[node.lineno].strip()
            named = hasattr(node, "name")
            key = (f"{owner}.{node.name}" if named else f"{owner}: {text}").lstrip(".: ")
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
                gone.update(range(first, node.end_lineno + 1))
                if len(parent.body) == 1:
                    lines[first - 1] += "\n    pass"
            elif not key.startswith(later):
                look_into(node, key if named else owner)
                if getattr(node, "orelse", None) and f"{owner}: else" in later:
                    gone.update(range(node.body[-1].end_lineno + 1, node.end_lineno + 1))
            elif isinstance(node, ast.Try):  # what it will guard is there already
                gone.update(range(first, node.end_lineno + 1))
                for number in range(node.body[0].lineno, node.body[-1].end_lineno + 1):
                    gone.remove(number)
                    lines[number] = lines[number][4:]
                look_into(node, owner)
            else:
                while re.match(" *# (?!---)", lines[first - 1]):  # with what is said about it
                    first -= 1
                gone.update(range(first, node.end_lineno + 1))
            if parent is tree and named and node.name in forms:
                gone.update(range(first, node.end_lineno + 1))
                lines[first - 1] += "\n" + forms.pop(node.name)

    look_into(tree, "")
    kept = [line for number, line in enumerate(lines) if number not in gone]
    return tidied("\n".join([*kept, *forms.values(), ending]))


def tidied(text):
    """Without unused imports, and headings of nothing; with the blank lines of microgpt.py."""
    imports = re.findall(r"(?m)^import (\w+)\n", text)
    for unused in (module for module in imports if f"{module}." not in text):
        text = text.replace(f"import {unused}\n", "")
    paragraphs = re.split(r"\n{2,}", text.strip())
    tidy = ""
    for paragraph, following in zip(paragraphs, [*paragraphs[1:], ""]):
        if paragraph.startswith("# ---"):
            if "\n" not in paragraph and following.startswith(("# ---", "class config")):
                continue
            tidy += "\n"  # a second blank line above it
        inside = paragraph.split("\n")[-1].lstrip().startswith(("class ", "def "))
        tidy += paragraph + ("\n" if inside else "\n\n")
    return tidy.strip() + "\n"


def before(name):
    """The text of the stage that a stage is made from."""
    return "".join(map(stage, built_on(name)[-2:-1]))


def known_stage(name):
    if name not in STAGES:
        refuse(f"no stage {name!r}, only {', '.join(STAGES)}")
    return stage(name)


def show_stage(name, path=None):
    if name != "all":
        out(known_stage(name), path)
    elif path:
        try:
            os.mkdir(path)
        except OSError as error:
            refuse(f"{path}: {error.strerror}")
        shutil.copy(HERE / "names.txt", path)
        for name in STAGES:
            write_new(os.path.join(path, f"stage{name}.py"), stage(name))
    else:
        refuse("--stage all takes a new FOLDER")


def diff(old, new):
    """What is typed: + before a line that is new, - before one that goes."""
    texts = [known_stage(name).splitlines() for name in (old, new)]
    lines = difflib.unified_diff(*texts, f"stage {old}", f"stage {new}", lineterm="")
    print(*(line for line in lines), sep="\n")


# --- The class: what is new at a stage, and how long it takes ------------------------------------


def bare(line):
    """A line of code without its comment and indentation."""
    return re.sub(r"(^|\s)# .*", "", line).strip()


@functools.lru_cache(maxsize=None)
def new_code(name):
    """(definition, line) for each line of code that the stage before has not."""
    found, text = [], stage(name)
    lines, old = [*map(bare, text.splitlines())], [*map(bare, before(name).splitlines())]
    owners = {}
    for key, node in definitions(text).items():
        owners.update((number, key) for number in range(node.lineno, node.end_lineno + 1))
    matcher = difflib.SequenceMatcher(None, old, lines, autojunk=False)
    for tag, _, _, start, end in matcher.get_opcodes():
        for number in range(start, end) if tag in ("insert", "replace") else ():
            if lines[number]:
                found.append((owners.get(number + 1, "the last lines"), lines[number]))
    return found


def characters(name, what):
    """How many are typed of these definitions, or classes, at a stage; all of them for "all"."""
    wanted, total = what.split(), 0
    for owner, line in new_code(name):
        if what == "all" or owner in wanted or owner.split(".")[0] in wanted:
            total += len(line) + 1
    return total


def changed(text, **settings):
    """The text with other settings in its config."""
    for name, value in settings.items():
        text = re.sub(rf"(?m)^    {name} = .*$", f"    {name} = {value}", text)
    return text


def perform(text, folder):
    """Run a program beside the data in a folder, and return what it prints."""
    path = pathlib.Path(folder, "stage.py")
    path.write_text(text, encoding="utf-8")
    done = python(path, cwd=folder, timeout=None)
    assert not done.stderr, done.stderr
    return done.stdout


def print_row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |")


def print_table(*heading):
    print()
    print_row(*heading)
    print_row(*("---" for _ in heading))


def the_plans():
    """The README's plans by their minutes: (stage, what is typed of it, runs, minutes of talk)."""
    found = {}
    for *rows, (*_, length) in tables("### The plans"):
        found[length] = []
        for name, typed, _, runs, talk, _ in rows:
            what = "all" if typed == "all new" else re.sub("[`,]", "", typed)
            found[length].append((name, what, int(runs or 0), int(talk or 0)))
    return found


def minutes(name, what, runs, talk):
    """120 characters a minute, two minutes a run, and what is said."""
    return math.ceil(characters(name, what) / 120) + 2 * runs + talk if name in STAGES else talk


def plans():
    """Print the README's three plans; minutes and characters are found anew."""
    for rows in the_plans().values():
        print_table("stage", "typed", "characters", "runs", "talk", "minutes")
        sums = [0, 0, 0, 0]
        for name, what, runs, talk in rows:
            typed = ", ".join(f"`{word}`" for word in what.split()).replace("`all`", "all new")
            count = characters(name, what) if name in STAGES else 0
            numbers = count, runs, talk, minutes(name, what, runs, talk)
            sums = [*map(operator.add, sums, numbers)]
            print_row(name, typed, *(number or "" for number in numbers))
        print_row("together", "", *sums)


def plan(folder, **settings):
    """Print the README's table of stages; characters, losses and choices are found anew."""
    for cells in tables("### The stages")[0]:
        name = cells[0].split()[0]
        cells[1] = characters(name, "all")
        printed = perform(changed(stage(name), **settings), folder)
        for found in re.findall(r"held-out loss (\S+), .* among (\S+) equal", printed):
            cells[2:4] = found
        print_row(*cells)


def fingerprints():
    """The README's slips: the stage, what is meant, what was typed, the loss that it ends with."""
    for name, loss, typed, meant in tables("### Is the loss wrong?")[0]:
        yield name, meant.strip("`"), typed.strip("`").replace("nothing", "pass"), loss


def fingerprint(name, meant, typed, folder):
    """The held-out loss of a stage with a slip."""
    printed = perform(stage(name).replace(meant, typed, 1), folder)
    return re.search(r"held-out loss (\S+),", printed)[1]


def stages():
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "names.txt", folder)
        plan(folder)
        for name, meant, typed, _ in fingerprints():
            print_row(name, fingerprint(name, meant, typed, folder), f"`{typed}`", f"`{meant}`")


# --- The class as a notebook ---------------------------------------------------------------------

FIRST_CELL = """# Run this first: it makes names.txt where there is none, and lets each cell be run again.
import base64, os, zlib
if not os.path.exists("names.txt"):
    with open("names.txt", "wb") as file:
        file.write(zlib.decompress(base64.b85decode(NAMES)))
kept = {"": {}}

def begin(after):
    if after not in kept:
        raise SystemExit(f"first run the cell of stage {after} to its end")
    globals().update(kept[after])

def keep(name):
    kept[name] = {key: value for key, value in globals().items() if key[0] != "_"}
"""
SHOWN = {  # of stages without a loss, a line of what they print
    "1": "[26, 4, 12, 12, 0, 26] emma",
    "4": "by nudging a: -2.0",
    "5a": "Value(data=-2.0, grad=1.0)",
}
NOT_HERE = r"`--|\b[Pp]aste|\b[Tt]yp|python |`doubled|`show_att"  # what a notebook has not


def cell_of(name, emptied=False):
    """What is new at a stage, or changed, with a mark at each line that is new in what is changed."""
    text = with_holes(name) if emptied else stage(name)
    text = text.replace("# SPDX-License-Identifier: MIT\n", "")
    split = lambda text: re.split(r"\n\n+(?=\S)", text.strip())
    old = {part.split("\n")[0].split("(")[0]: part for part in split(before(name)) if part}
    added = collections.Counter(line for _, line in new_code(name))
    parts = []
    for part in split(text)[:-1]:
        earlier = old.get(part.split("\n")[0].split("(")[0])
        if earlier is None:
            parts.append(part)
        elif earlier != part:
            mark = lambda line: "  # <-" if added[bare(line)] and "# ---" not in line else ""
            parts.append("\n".join(line + mark(line) for line in part.split("\n")))
    end = split(text)[-1]
    earlier = (built_on(name)[-2:-1] or [""])[0]
    parts = [part for part in parts if not part.startswith("# ---") or "\n" in part]
    return "\n\n".join([f'begin("{earlier}")', *parts, end, f'keep("{name}")'])


def fit_for_a_notebook(line):
    """A line of the README without the sentences, from a colon on, that speak of what is NOT_HERE."""
    kept, unfit = "", False
    for clause in re.split(r"(?<=[.:?] )", line):
        unfit = unfit or re.search(NOT_HERE, clause)
        if not unfit:
            kept += clause
        elif clause.rstrip().endswith((".", "?")):
            unfit = False
    return kept


def notebook(path, flag=""):
    """Write the class as a notebook; with --holes, what is new is left to be written."""
    if flag not in ("", "--holes"):
        refuse("--notebook takes FILE.ipynb [--holes]")
    cells = []

    def add(cell_type, text, **more):
        if text.strip():
            text = re.sub(r"\[([^]]*)\]\(#.*?\)", r"\1", text).strip()  # no link leads anywhere
            cells.append({"cell_type": cell_type, "metadata": {}, "source": text, **more})

    def code(text):
        add("code", text, outputs=[], execution_count=None)

    add(
        "markdown",
        "# From counting letters to a GPT\n\nRun the cells in order, from top to bottom."
        " A cell may be run again at any time. `# <-` marks a line that is new in what stood before.",
    )
    names = base64.b85encode(zlib.compress((HERE / "names.txt").read_bytes(), 9)).decode()
    code(FIRST_CELL.replace("NAMES", repr(names)))
    folds = r"(?ms)^```python\n# stage.*?^```\n|^</?details>.*?\n+"
    whole = re.sub(folds, "", section("## The class"))
    for part in re.split(r"(?m)^(?=### \d)", whole)[1:]:
        number, heading, words = re.match(r"(?s)### (\d+)(.*?)\n(.*)", part).groups()
        add("markdown", f"## {number}{heading}")
        words = re.sub(r"(?m)(?<=\S)\n(?=[^-|\n])", " ", words)  # one line a paragraph or item
        said = {}  # of each stage
        for piece in re.split(r"(?=\*\*\d+[abc+]?\*\*: )", words):
            label = re.match(r"\*\*(.*?)\*\*", piece)
            said[label[1] if label else number] = piece
        for title, _, loss, _, question in tables("### The stages")[0]:
            name = title.split()[0]
            if re.match(r"\d+", name)[0] == number:
                comes = f"held-out loss {loss}" if loss else SHOWN[name]
                add("markdown", f"**{title}**: {question}\n\nWhat should come: `{comes}`")
                code(cell_of(name, flag == "--holes"))
                words = said.get(name, "").split("\n")
                add("markdown", "\n".join(map(fit_for_a_notebook, words)))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4}
    write_new(path, json.dumps(whole, indent=1))


# --- The command --compare: is it better? --------------------------------------------------------

MEASURED = """
import gc, sys, time, types
path, argv = sys.argv[1], sys.argv[2:]
module = sys.modules["__main__"]
module.__file__, source = path, open(path, encoding="utf-8").read()
sys.argv = [path, *argv]
vars(module)["__name__"] = "compared"
exec(compile(source, path, "exec"), vars(module))
gc.disable()
untimed = module.train
def timed(*args):
    start = time.process_time()
    untimed(*args)
    print("seconds of training:", time.process_time() - start)
module.train = timed
module.main(argv)
"""


def measured(path, seed, flags, folder):
    """The held-out loss, the number of weights and the seconds of a training."""
    argv = [sys.executable, "-c", MEASURED, path, *flags, "--seed", seed, "--samples", 0]
    options = {"capture_output": True, "encoding": "utf-8", "cwd": folder}
    done = subprocess.run([*map(str, argv)], **options)
    wanted = ("held-out loss", "num params:", "seconds of training:")
    found = [re.search(rf"(?m)^{words} ([\d.e-]+)", done.stdout) for words in wanted]
    if done.returncode or not all(found):
        words = done.stderr.strip().splitlines() or ["it prints no held-out loss"]
        raise ValueError(f"{path} with --seed {seed}: {words[-1]}")
    return [float(match[1]) for match in found]


def judgement(differences):
    """Better, worse, or not to be told: the mean, its standard error, and the word."""
    mean = statistics.mean(differences)
    error = math.inf
    if len(differences) > 1:
        error = statistics.stdev(differences) / len(differences) ** 0.5
    if not any(differences):
        return mean, error, "the same"
    word = "cannot tell" if abs(mean) <= 3 * error else "better" if mean < 0 else "worse"
    return mean, error, word


def code_tokens(text):
    """How many tokens of code there are to read; an f-string is one."""
    layout = "NL NEWLINE INDENT DEDENT COMMENT ENCODING ENDMARKER".split()
    count = inside = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        inside += (kind == "FSTRING_START") - (kind == "FSTRING_END")  # from Python 3.12 on
        if not inside and kind not in layout and not token.string.startswith('"""'):
            count += 1
    return count


def compare(*argv):
    """Train two programs with the same seeds and say whether the first is better."""
    names = itertools.takewhile(lambda word: word.endswith(".py"), argv)
    programs = [pathlib.Path(name).resolve() for name in names]
    flags, count = list(argv[len(programs) :]), 5
    if "--seeds" in flags:
        at = flags.index("--seeds")
        number = flags[at + 1 : at + 2] or [""]
        if not re.fullmatch("[1-9][0-9]?", number[0]):
            refuse("--seeds takes a number from 1 to 99")
        count = int(number[0])
        del flags[at : at + 2]
    if not 1 <= len(programs) <= 2:
        refuse("--compare takes one or two programs, FILE.py, and then microgpt.py's own flags")
    programs += [HERE / "microgpt.py"] * (2 - len(programs))
    for path in programs:
        try:
            if "main" not in definitions(path.read_text(encoding="utf-8")):
                refuse(f"{path} has no main")
        except (OSError, ValueError, SyntaxError) as error:
            refuse(f"{path}: {getattr(error, 'strerror', None) or error}")
    data = [os.path.abspath(word) if os.path.exists(word) else word for word in flags]
    if not any(map(os.path.exists, data)):
        data = [str(HERE / "names.txt"), *flags]
    jobs = [(path, seed) for seed in range(1, count + 1) for path in programs]
    with tempfile.TemporaryDirectory() as folder:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting = [pool.submit(measured, *job, data, folder) for job in jobs]
            for count, done in enumerate(concurrent.futures.as_completed(waiting), 1):
                try:
                    done.result()
                except ValueError as error:
                    for other in waiting:
                        other.cancel()
                    refuse(str(error))
                print(f"{count} of {len(jobs)} trained", end="\r", file=sys.stderr)
    rows = [done.result() for done in waiting]
    losses = [[row[0] for row in rows[i::2]] for i in (0, 1)]
    table = [("", *(path.name for path in programs))]
    table += [(f"seed {i + 1}", f"{a:.4f}", f"{b:.4f}") for i, (a, b) in enumerate(zip(*losses))]
    table.append(("tokens of code", *(code_tokens(path.read_text("utf-8")) for path in programs)))
    table.append(("weights", *(int(row[1]) for row in rows[:2])))
    for name, a, b in table:
        print(f"{name:16}{a:>16}{b:>16}")
    mean, error, word = judgement([a - b for a, b in zip(*losses)])
    times = [a[2] / b[2] for a, b in zip(rows[::2], rows[1::2]) if b[2]] or [1]
    print(f"CPU time a step  {statistics.median(times):.2f} times {programs[1].name}'s")
    print(f"held-out loss    {mean:+.4f} on average, standard error {error:.4f}: {word}")


# --- The command --write: which recipes go together, and in which order --------------------------

EXCLUDED = {  # recipe: those that do the same in another way, or are part of it
    "ReLU": ["GELU"],
    "all cores": ["mini-batches"],
    "blocks": ["paragraphs"],
}
NEEDED = {  # recipe: those that it is pasted below
    "GPT-2": ["GELU", "LayerNorm", "biases", "weight tying"],
    "continue": ["save and load"],
    "fine-tuning": ["save and load"],
    "pictures": ["draw"],
}
PICTURES = ["album", "draw", "pictures"]
ADDED = r"\nstep \d+ writes .*\n|pictures: microgpt.html\n"  # the lines that they print
ABOVE = {  # recipe: those that must stand above it
    "gradients": ["mini-batches", "all cores", "dropout"],
    "all cores": ["dropout", "continue"],
    "continue": ["save and load"],
    "blocks": ["beam search"],
    "GPT-2": ["GELU", "LayerNorm", "biases", "weight tying"],
    "album": ["mini-batches", "all cores", "dropout"],
    "pictures": ["mini-batches", "all cores", "dropout", "draw"],
    "fine-tuning": set(readme_blocks("recipe")) - {"fine-tuning"},
}


def arranged(names):
    """These recipes and what they need, in an order that works. Raises ValueError, in words."""
    known = {name.casefold(): name for name in readme_blocks("recipe")}
    for name in names:
        if name.casefold() not in known:
            several = "a name of several words stands in quotes"
            raise ValueError(f"no recipe {name!r} ({several}), only {', '.join(known.values())}")
    asked = {known[name.casefold()] for name in names}
    asked.update(*(NEEDED.get(name, ()) for name in asked))
    left = [name for name in known.values() if name in asked]
    for name in left:
        for other in set(EXCLUDED.get(name, ())) & asked:
            raise ValueError(f"{name} and {other} exclude each other")
    order = []
    while left:
        order.append(next(name for name in left if not set(ABOVE.get(name, ())) & set(left)))
        left.remove(order[-1])
    return order


def write(path="", *names):
    """Write that script of the README, or microgpt.py with these recipes."""
    scripts, script = readme_blocks("script"), os.path.basename(path)
    try:
        if (script in scripts) == bool(names) or not path.endswith(".py"):
            raise ValueError(f"name one of {', '.join(scripts)}, or a new .py file and its recipes")
        text = pasted(*arranged(names)) if names else scripts[script]
    except ValueError as error:
        refuse(f"--write: {error}")
    write_new(path, text)


# --- The command --benchmark ---------------------------------------------------------------------

LETTERS = ["abcdefghijklmnopqrstuvwxyz"]


class Engine:
    """microgpt.py or the plain engine on the weights of a model, to be timed step by step."""

    def __init__(self, model, plain=False):
        self.model, self.plain = model, plain
        self.weights = plain_weights(model) if plain else model.weights
        params = [param for matrix in self.weights.values() for row in matrix for param in row]
        self.optimizer = Adam(params)

    def step(self, tokens):
        """The milliseconds of forward, backward and update, and the loss."""
        (gc.enable if self.plain else gc.disable)()  # as the ancestors run, and as microgpt.py does
        times = [time.perf_counter()]
        if self.plain:  # as in their loops, the last graph lives until the next one is there
            self.graph = loss = plain_loss(self.model, tokens, self.weights)
        else:
            loss = microgpt.document_loss(self.model, tokens)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        self.optimizer.step(0.01)
        for param in self.optimizer.params:
            param.grad = 0.0
        times.append(time.perf_counter())
        return [1000 * (end - start) for start, end in zip(times, times[1:])], loss.data


def full_model(module=microgpt, **config):
    """A model of the default sizes, but for some changes."""
    sizes = {"n_embd": 16, "n_head": 4, "block_size": 16, **config}
    return model_of(LETTERS, seed=42, module=module, **sizes)


def names_tokens(count):
    docs = microgpt.read_docs(HERE / "names.txt")
    random.Random(42).shuffle(docs)
    return [Tokenizer(LETTERS).encode(doc) for doc in docs[:count]]


def multiply_adds(config, vocab_size, tokens):
    """Those of the matrices and of attention: once forward, and backward once for each factor."""
    n, positions = config.n_embd, min(config.block_size, len(tokens) - 1)
    matrices = positions * (12 * n * n * config.n_layer + vocab_size * n)
    looks = positions * (positions + 1) // 2
    return 3 * (matrices + looks * 2 * n * config.n_layer)


def bare_loop(count):
    """The milliseconds of a plain loop over so many scalar multiply-adds."""
    xs, ws, result = [0.5] * count, [0.25] * count, 0.0
    start = time.perf_counter()
    for x, w in zip(xs, ws):
        result += x * w
    return 1000 * (time.perf_counter() - start)


def peak_megabytes(action, *args):
    """What Python holds at the peak of an action, beyond what it held before."""
    if sys.implementation.name != "cpython":
        return math.nan
    import tracemalloc

    gc.collect()
    tracemalloc.start()
    action(*args)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return peak


def benchmark_steps(rounds=6, documents=8):
    """The mean over the documents, each of which counts with the fastest of its rounds."""
    model = full_model()
    engines = {"`microgpt.py`": Engine(model), "the plain engine": Engine(model, plain=True)}
    times = collections.defaultdict(list)
    for index, tokens in list(enumerate(names_tokens(documents))) * rounds:
        losses = []
        for name, engine in engines.items():
            parts, loss = engine.step(tokens)
            times[name, index].append([sum(parts), *parts])
            losses.append(loss)
        assert abs(losses[0] - losses[1]) < 1e-9, losses
        loop = bare_loop(multiply_adds(model.config, 27, tokens))
        times["a bare loop over the multiply-adds", index].append([loop])
    means = collections.defaultdict(list)
    for (name, _), rows in times.items():
        means[name].append(min(rows))
    means = {name: list(map(statistics.mean, zip(*rows))) for name, rows in means.items()}
    print_table("ms a step", "together", "forward", "backward", "update")
    for name, row in means.items():
        print_row(name, *(f"{ms:.1f}" for ms in row), *[""] * (4 - len(row)))
    fast, slow = (means[name] for name in engines)
    print_row("times faster", *(f"{plain / ours:.1f}" for plain, ours in zip(slow, fast)))


def benchmark_memory():
    def two_steps(plain):
        engine = Engine(full_model(), plain)
        for _ in range(2):
            engine.step(Tokenizer(LETTERS).encode("maximiliane"))

    ours, plain = peak_megabytes(two_steps, False), peak_megabytes(two_steps, True)
    print_table("peak memory of two steps on a name of 11 letters", "MB")
    print_row("`microgpt.py`", f"{ours:.1f}")
    print_row("the plain engine", f"{plain:.1f}")
    print_row("times less", f"{plain / ours:.1f}")


def benchmark():
    """Print the tables of the README's chapter on speed."""
    print(f"{sys.implementation.name} {platform.python_version()}, collector on: {gc.isenabled()}")
    benchmark_steps()
    benchmark_memory()


# --- All commands --------------------------------------------------------------------------------

COMMANDS = {  # name: what it takes, what does it, in words
    "--check": ("FILE [STAGE]", check, "say of each definition whether it is right"),
    "--compare": ("FILE [FILE] [--seeds 5]", compare, "train with several seeds: is it better?"),
    "--bug": ("N [FILE]", bug, f"microgpt.py with a bug to be found, N from 1 to {len(BUGS)}"),
    "--holes": ("STAGE [FILE NAMES]", holes, "a stage with what is new, or NAMES, yours to write"),
    "--stage": ("STAGE [FILE]", show_stage, f"one of {' '.join(STAGES)}; or: all FOLDER"),
    "--stages": ("", stages, "run all stages and print what they end with (some minutes)"),
    "--plans": ("", plans, "the plans of the class, counted anew"),
    "--diff": ("STAGE STAGE", diff, "what is typed from one stage to another"),
    "--notebook": ("FILE.ipynb [--holes]", notebook, "write the class as a notebook"),
    "--write": ("FILE.py RECIPES", write, "microgpt.py with recipes; or a script: numpy_gpt.py"),
    "--benchmark": ("", benchmark, "measure it against the plain engine (two minutes)"),
}


def main(argv):
    """The command of COMMANDS that argv asks for, or the tests."""
    if set(argv) & {"-h", "--help"}:
        all_of_it = "prove all of it, or TestModel (a minute)"
        print("python test_microgpt.py [TEST]".ljust(60) + all_of_it)
        for name, (takes, _, words) in COMMANDS.items():
            print(f"python test_microgpt.py {name} {takes}".ljust(60) + words)
    elif argv[:1] and argv[0] in COMMANDS:
        takes, command, _ = COMMANDS[argv[0]]
        try:
            inspect.signature(command).bind(*argv[1:])
        except TypeError:
            refuse(f"{argv[0]} takes {takes or 'nothing'}")
        try:
            return command(*argv[1:])
        except BrokenPipeError:  # as with `| head`
            sys.stdout = None
    else:
        unittest.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The proof of microgpt.py, as a page of facts: about gradients, the model, training, sampling
and the command line. Nothing but the standard library is needed.

    python test_microgpt.py                 run the facts (also: python -m unittest, pytest)
    python test_microgpt.py --benchmark     measure it against the plain engine below
    python test_microgpt.py --ladder        climb from counting letters to a GPT

Every gradient is proved twice: against finite differences, and against a second engine of the
textbook kind that shares no line with the one under test.
"""

import argparse
import contextlib
import doctest
import gc
import io
import itertools
import math
import os
import pathlib
import platform
import random
import re
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import tracemalloc
import types
import unittest
from unittest import mock

import microgpt
from microgpt import Adam, InputError, Model, Tokenizer, Value

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = (HERE / "microgpt.py").read_text(encoding="utf-8")
README = (HERE / "README.md").read_text(encoding="utf-8")

# ---------------------------------------------------------------------------------------------
# The second engine: a node for each + and *, depth-first order
# ---------------------------------------------------------------------------------------------


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


def plain_weights(model):
    return {
        name: [[Plain(weight.data) for weight in row] for row in matrix]
        for name, matrix in model.weights.items()
    }


def plain_loss(weights, config, tokens):
    """The loss of a document by the textbook engine, the whole model written out once more."""

    def times(matrix, x):
        return [sum(w * number for w, number in zip(row, x)) for row in matrix]

    def norm(x):
        mean_square = sum(number * number for number in x) * (1 / len(x))
        scale = (mean_square + 1e-5) ** -0.5
        return [number * scale for number in x]

    def softmax(x):
        largest = max(number.data for number in x)
        exps = [(number + -largest).exp() for number in x]
        total = sum(exps)
        return [number * total**-1 for number in exps]

    size = config.n_embd // config.n_head
    past = [([], []) for _ in range(config.n_layer)]
    losses = []
    for position in range(min(config.block_size, len(tokens) - 1)):
        pairs = zip(weights["wte"][tokens[position]], weights["wpe"][position])
        x = norm([a + b for a, b in pairs])
        for layer, (keys, values) in enumerate(past):
            w = {name: weights[f"layer{layer}.{name}"] for name in BLOCK_MATRICES}
            h = norm(x)
            q = times(w["attn_wq"], h)
            keys.append(times(w["attn_wk"], h))
            values.append(times(w["attn_wv"], h))
            mixed = []
            for start in range(0, config.n_embd, size):
                part = range(start, start + size)
                scores = [sum(q[j] * key[j] for j in part) * size**-0.5 for key in keys]
                shares = softmax(scores)
                mixed += [sum(s * v[j] for s, v in zip(shares, values)) for j in part]
            x = [a + b for a, b in zip(x, times(w["attn_wo"], mixed))]
            hidden = [number.relu() ** 2 for number in times(w["mlp_fc1"], norm(x))]
            x = [a + b for a, b in zip(x, times(w["mlp_fc2"], hidden))]
        chances = softmax(times(weights["lm_head"], x))
        losses.append(chances[tokens[position + 1]].log() * -1)
    return sum(losses) * (1 / len(losses))


BLOCK_MATRICES = ("attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2")

# ---------------------------------------------------------------------------------------------
# The README's code
# ---------------------------------------------------------------------------------------------


def readme_blocks(kind):
    """The README's Python blocks whose first line is `# kind: NAME`, by their names."""
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", README)
    marked = [block for block in blocks if block.startswith(f"# {kind}: ")]
    return {block.split("\n", 1)[0].split(": ", 1)[1]: block for block in marked}


def pasted(*names, kind="recipe"):
    """The text of microgpt.py with these blocks of the README just above its last section."""
    blocks, last = readme_blocks(kind), 'if __name__ == "__main__":\n'
    above, below = SOURCE.split(last)
    return above + "\n\n".join([blocks[name] for name in names] + [last]) + below


def program(*names, kind="recipe"):
    """A fresh module of microgpt.py with these blocks of the README, as if imported."""
    module = types.ModuleType("microgpt")
    module.__file__ = str(HERE / "microgpt.py")
    exec(compile(pasted(*names, kind=kind), "microgpt.py", "exec"), module.__dict__)
    return module


# ---------------------------------------------------------------------------------------------
# Helpers that say what they check
# ---------------------------------------------------------------------------------------------


def config_of(**changes):
    """The default hyperparameters, but for some changes."""
    config = {name: default for name, (default, _, _) in microgpt.HYPERPARAMETERS.items()}
    assert set(changes) <= set(config), changes
    return argparse.Namespace(**{**config, **changes})


def model_of(docs=("abca", "bd"), spread=1.0, seed=1, **changes):
    """A small untrained model; a large spread makes its probabilities far from even."""
    config = config_of(**{**dict(n_embd=8, n_head=2, block_size=6), **changes})
    model = Model(config, Tokenizer(docs), random.Random(seed))
    for weight in model.parameters():
        weight.data *= spread
    return model


def logits_of(model, tokens):
    """The logits at each position, as numbers, one token at a time."""
    keys, values = {}, {}
    rows = [microgpt.gpt(model, t, i, keys, values) for i, t in enumerate(tokens)]
    return [[logit.data for logit in row] for row in rows]


def numbers(values):
    return [value.data for value in values]


def leaves(count, rng, scale=1.0):
    return [Value(rng.gauss(0, scale)) for _ in range(count)]


class Facts(unittest.TestCase):
    def assert_near(self, found, expected, tolerance, what=""):
        """Equal up to the tolerance, relative to the larger one above 1; tells both numbers."""
        gap = abs(found - expected)
        if not gap <= tolerance * max(1.0, abs(found), abs(expected)):
            self.fail(f"{what}: found {found!r}, expected {expected!r}, apart by {gap:.3g}")

    def assert_all_near(self, found, expected, tolerance, what=""):
        self.assertEqual(len(found), len(expected), what)
        for i, (a, b) in enumerate(zip(found, expected)):
            self.assert_near(a, b, tolerance, f"{what}[{i}]")

    def assert_gradients_are_slopes(self, function, inputs, what, tolerance=1e-6):
        """backward() agrees with central differences of function(inputs), a Value."""
        for value in inputs:
            value.grad = 0.0
        function(inputs).backward()
        found = [value.grad for value in inputs]
        for i, value in enumerate(inputs):
            middle = value.data
            step = 1e-5 * max(1.0, abs(middle))
            value.data = middle + step
            above = function(inputs).data
            value.data = middle - step
            below = function(inputs).data
            value.data = middle
            self.assert_near(found[i], (above - below) / (2 * step), tolerance, f"{what}, d/dx{i}")


def weighted(values):
    """One number out of many, in which each counts differently."""
    return sum(value * (0.5 + 0.3 * i) for i, value in enumerate(values))


# ---------------------------------------------------------------------------------------------
# Facts of the calculus
# ---------------------------------------------------------------------------------------------

OPERATIONS = {  # on Values, and the same on plain numbers
    "a + b": (lambda a, b: a + b,),
    "a + 3": (lambda a, b: a + 3,),
    "3 + a": (lambda a, b: 3 + a,),
    "a - b": (lambda a, b: a - b,),
    "a - 2.5": (lambda a, b: a - 2.5,),
    "2.5 - a": (lambda a, b: 2.5 - a,),
    "a * b": (lambda a, b: a * b,),
    "a * -2": (lambda a, b: a * -2,),
    "-2 * a": (lambda a, b: -2 * a,),
    "a / b": (lambda a, b: a / b,),
    "a / 4": (lambda a, b: a / 4,),
    "4 / a": (lambda a, b: 4 / a,),
    "-a": (lambda a, b: -a,),
    "a ** 3": (lambda a, b: a**3,),
    "a ** -2": (lambda a, b: a**-2,),
    "a ** 1": (lambda a, b: a**1,),
    "a ** 0": (lambda a, b: a**0,),
    "(a * a) ** 0.5": (lambda a, b: (a * a) ** 0.5,),
    "a * a, used twice": (lambda a, b: a * a,),
    "a sum": (lambda a, b: sum([a, b, a]),),
    "exp(a)": (lambda a, b: a.exp(), lambda a, b: math.exp(a)),
    "log(a * a)": (lambda a, b: (a * a).log(), lambda a, b: math.log(a * a)),
    "relu(a)": (lambda a, b: a.relu(), lambda a, b: max(a, 0.0)),
    "a diamond": (
        lambda a, b: (a * 2 + b) * (a + b.exp()),
        lambda a, b: (a * 2 + b) * (a + math.exp(b)),
    ),
}


class TestCalculus(Facts):
    def test_every_operation_gives_the_number_that_python_gives(self):
        for a, b in [(1.7, -0.6), (-0.4, 2.2), (3.0, 0.25)]:
            for name, pair in OPERATIONS.items():
                on_values, on_numbers = pair[0], pair[-1]
                found = on_values(Value(a), Value(b)).data
                self.assert_near(found, on_numbers(a, b), 1e-14, name)

    def test_every_operation_has_the_slope_that_finite_differences_give(self):
        rng = random.Random(3)
        for name, (operation, *_) in OPERATIONS.items():
            for _ in range(3):
                inputs = leaves(2, rng, 1.5)
                self.assert_gradients_are_slopes(lambda v: operation(*v), inputs, name, 1e-5)

    def test_relu_at_zero_passes_nothing_and_nan_is_not_hidden(self):
        zero = Value(0.0)
        zero.relu().backward()
        self.assertEqual(zero.grad, 0.0)
        self.assertTrue(math.isnan(Value(math.nan).relu().data))

    def test_impossible_operations_raise_what_python_raises(self):
        cases = [
            (ZeroDivisionError, lambda: Value(1.0) / 0),
            (ZeroDivisionError, lambda: Value(1.0) / Value(0.0)),
            (ValueError, lambda: Value(0.0).log()),
            (TypeError, lambda: Value(-8.0) ** (1 / 3)),  # a complex number
            (OverflowError, lambda: Value(1000.0).exp()),
            (OverflowError, lambda: Value(1e200) ** 2),
            (TypeError, lambda: Value(2.0) ** Value(2.0)),
            (TypeError, lambda: 2.0 ** Value(2.0)),
            (TypeError, lambda: Value(2.0) * [1, 2]),
            (ValueError, lambda: Value(2.0) + "two"),
            (TypeError, lambda: Value(2.0) + None),
        ]
        for error, operation in cases:
            self.assertRaises(error, operation)

    def test_a_value_shows_its_data_and_its_gradient(self):
        value = Value(2)
        (value * 3).backward()
        self.assertEqual(repr(value), "Value(data=2.0, grad=3.0)")

    def test_a_value_used_twice_gets_both_gradients(self):
        a = Value(3.0)
        (a * a + a).backward()
        self.assertEqual(a.grad, 7.0)

    def test_backward_twice_adds_to_leaves_and_starts_afresh_in_between(self):
        a, b = Value(2.0), Value(5.0)
        middle = a * b
        end = middle * middle
        for times in (1, 2, 3):
            end.backward()
            self.assertEqual((a.grad, b.grad), (100.0 * times, 40.0 * times))
            self.assertEqual((middle.grad, end.grad), (20.0, 1.0))

    def test_backward_on_an_extension_of_a_differentiated_expression(self):
        a = Value(2.0)
        b = a * 3
        b.backward()
        c = b * 2
        c.backward()
        self.assertEqual(a.grad, 9.0)

    def test_two_losses_over_one_shared_part_add_up(self):
        a = Value(2.0)
        shared = a * a
        (shared * 3).backward()
        (shared * 5).backward()
        self.assertEqual(a.grad, 4 * 3 + 4 * 5)

    def test_backward_on_a_leaf_counts_its_calls(self):
        a = Value(2.0)
        a.backward()
        a.backward()
        self.assertEqual(a.grad, 2.0)

    def test_a_leaf_that_the_loss_does_not_reach_keeps_its_gradient(self):
        a, b = Value(2.0), Value(3.0)
        b.grad = 7.0
        unused = b * a
        (a * 4).backward()
        self.assertEqual((a.grad, b.grad, unused.grad), (4.0, 7.0, 0.0))

    def test_the_order_holds_when_a_late_value_meets_an_early_one(self):
        a = Value(1.5)
        early = a * 2
        late = ((early + 1) * early).exp() * 0.1
        end = late + early * late
        end.backward()
        growth = 0.1 * math.exp(12.0)  # late, at early = 3; its slope is 2 * 3 + 1 times that
        self.assert_near(early.grad, 7 * growth + growth + 3 * 7 * growth, 1e-12)

    def test_a_chain_of_a_million_operations_neither_recurses_nor_breaks_when_freed(self):
        x = start = Value(1.0)
        for _ in range(1_000_000):
            x = x + 1
        x.backward()
        self.assertEqual((x.data, start.grad), (1_000_001.0, 1.0))
        del x

    @unittest.skipUnless(sys.implementation.name == "cpython", "only CPython counts references")
    def test_what_a_loss_no_longer_needs_is_freed_without_the_collector(self):
        model = model_of()
        tokens = model.tokenizer.encode("abca")
        gc.collect()
        gc.disable()
        try:
            microgpt.document_loss(model, tokens).backward()  # whatever is made once is made now
            before = sum(isinstance(thing, Value) for thing in gc.get_objects())
            loss = microgpt.document_loss(model, tokens)
            loss.backward()
            during = sum(isinstance(thing, Value) for thing in gc.get_objects())
            del loss
            after = sum(isinstance(thing, Value) for thing in gc.get_objects())
        finally:
            gc.enable()
        self.assertEqual(before, len(model.parameters()))
        self.assertGreater(during, before + 500)
        self.assertEqual(after, before)

    def test_a_dot_product_is_one_value_and_later_changes_of_a_list_do_not_reach_it(self):
        row, x = [Value(2.0), Value(3.0)], [Value(5.0), Value(7.0)]
        [product] = microgpt.linear(x, [row])
        self.assertEqual(product.data, 31.0)
        self.assertEqual(sum(map(len, product.inputs)), 4)
        kept_row, kept_x = list(row), list(x)
        row[0], x[1] = Value(100.0), Value(100.0)
        product.backward()
        self.assertEqual([value.grad for value in kept_row + kept_x], [5.0, 7.0, 2.0, 3.0])
        self.assertEqual((row[0].grad, x[1].grad), (0.0, 0.0))

    def test_a_dot_product_of_a_vector_with_itself(self):
        x = [Value(2.0), Value(-3.0)]
        microgpt.linear(x, [x])[0].backward()
        self.assertEqual([value.grad for value in x], [4.0, -6.0])

    def test_vectors_of_different_lengths_do_not_multiply(self):
        x = [Value(1.0)] * 3
        self.assertRaisesRegex(AssertionError, "2 .* 3", microgpt.linear, x, [x, x[:2]])


# ---------------------------------------------------------------------------------------------
# Facts of the model
# ---------------------------------------------------------------------------------------------

LARGE, EQUAL, ZEROS = [900.0, -900.0, 899.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]


def whole_sequence_logits(model, tokens):
    """The model's formula over all positions at once, on plain numbers, with a causal mask."""
    config, weights = model.config, {}
    for name, matrix in model.weights.items():
        weights[name] = [numbers(row) for row in matrix]

    def each(x, matrix):
        return [[sum(a * b for a, b in zip(row, w)) for w in matrix] for row in x]

    def norm(x):
        return [[v / math.sqrt(sum(u * u for u in r) / len(r) + 1e-5) for v in r] for r in x]

    def plus(x, y):
        return [[a + b for a, b in zip(*rows)] for rows in zip(x, y)]

    n, size = len(tokens), config.n_embd // config.n_head
    x = norm(plus([weights["wte"][token] for token in tokens], weights["wpe"]))
    for layer in range(config.n_layer):
        w = {name: weights[f"layer{layer}.{name}"] for name in BLOCK_MATRICES}
        q, k, v = (each(norm(x), w[name]) for name in ("attn_wq", "attn_wk", "attn_wv"))
        mixed = [[0.0] * config.n_embd for _ in tokens]
        for start, i in itertools.product(range(0, config.n_embd, size), range(n)):
            part = range(start, start + size)
            scores = [sum(q[i][c] * k[j][c] for c in part) / math.sqrt(size) for j in range(n)]
            masked = [math.exp(s) if j <= i else 0.0 for j, s in enumerate(scores)]
            for c in part:
                mixed[i][c] = sum(m * v[j][c] for j, m in enumerate(masked)) / sum(masked)
        x = plus(x, each(mixed, w["attn_wo"]))
        hidden = [[max(h, 0.0) ** 2 for h in row] for row in each(norm(x), w["mlp_fc1"])]
        x = plus(x, each(hidden, w["mlp_fc2"]))
    return each(x, weights["lm_head"])


class TestModel(Facts):
    def test_every_function_has_the_slopes_that_finite_differences_give(self):
        rng = random.Random(5)
        points = [numbers(leaves(3, rng)) for _ in range(3)] + [LARGE, EQUAL, ZEROS]
        matrix = [[0.3, -1.2, 0.8], [1.0, 0.0, -0.4]]
        vectors = lambda v: [v[0:3], v[3:6], v[6:9]]  # a query, and two keys that are also values
        functions = {
            "linear": lambda v: weighted(microgpt.linear(v[:3], [v[3:6], v[6:9]])),
            "logsumexp": lambda v: microgpt.logsumexp(v[:3]),
            "softmax": lambda v: weighted(microgpt.softmax(v[:3])),
            "rmsnorm": lambda v: weighted(microgpt.rmsnorm(v[:3])),
            "activation": lambda v: weighted([microgpt.activation(x) for x in v[:3]]),
            "cross_entropy": lambda v: microgpt.cross_entropy(v[:3], 1),
            "attend": lambda v: weighted(microgpt.attend(v[0:3], [v[3:6], v[6:9]], [v[6:9], v[0:3]])),
        }
        for (name, function), point in itertools.product(functions.items(), points):
            inputs = [Value(x) for x in [*point, *matrix[0], *matrix[1]]]
            if name == "rmsnorm" and point == ZEROS:
                tolerance = 1e-3  # the slope changes fast where only the 1e-5 is left
            else:
                tolerance = 2e-5
            self.assert_gradients_are_slopes(function, inputs, f"{name} at {point}", tolerance)

    def test_attention_and_mlp_have_the_slopes_that_finite_differences_give(self):
        model = model_of(spread=6.0, n_embd=4, n_head=2)
        rng = random.Random(6)
        tokens = [leaves(4, rng) for _ in range(3)]

        def attended(_):
            keys, values = {}, {}
            rows = [microgpt.attention(model, 0, x, keys, values) for x in tokens]
            return weighted(sum(rows, []))

        inputs = sum(tokens, []) + model.parameters()
        self.assert_gradients_are_slopes(attended, inputs, "attention", 1e-5)
        mlp = lambda _: weighted(microgpt.mlp(model, 0, tokens[0]))
        self.assert_gradients_are_slopes(mlp, inputs, "mlp", 1e-5)

    def test_a_hidden_unit_at_exactly_zero_passes_nothing(self):
        x = Value(0.0)
        microgpt.activation(x).backward()
        self.assertEqual((microgpt.activation(x).data, x.grad), (0.0, 0.0))

    def test_every_gradient_of_a_loss_agrees_with_the_second_engine(self):
        shapes = itertools.product((0, 1, 3), (1, 4), ("ab", "abcdabcdab"))
        for n_layer, n_head, text in shapes:
            with self.subTest(n_layer=n_layer, n_head=n_head, text=text):
                model = model_of(("abcd",), 4.0, n_layer=n_layer, n_head=n_head)
                tokens = model.tokenizer.encode(text)
                loss = microgpt.document_loss(model, tokens)
                loss.backward()
                weights = plain_weights(model)
                expected = plain_loss(weights, model.config, tokens)
                expected.backward()
                self.assert_near(loss.data, expected.data, 1e-12, "the loss")
                for name, matrix in weights.items():
                    found = [weight.grad for row in model.weights[name] for weight in row]
                    plain = [weight.grad for row in matrix for weight in row]
                    largest = max(map(abs, plain))
                    self.assertGreater(largest, 0.0, name)
                    for a, b in zip(found, plain):
                        self.assertLessEqual(abs(a - b), 1e-12 * largest, f"{name}: {a!r}, {b!r}")

    def test_one_token_at_a_time_equals_the_whole_sequence_with_a_mask(self):
        for n_layer, n_head in [(0, 1), (1, 1), (1, 4), (3, 2)]:
            model = model_of(spread=5.0, n_layer=n_layer, n_head=n_head)
            tokens = [4, 0, 1, 2, 0, 3]
            for one, whole in zip(logits_of(model, tokens), whole_sequence_logits(model, tokens)):
                self.assert_all_near(one, whole, 1e-12, f"{n_layer} layers, {n_head} heads")

    def test_no_logit_changes_when_a_later_token_does(self):
        model = model_of(spread=5.0, n_layer=2)
        first, second = logits_of(model, [4, 0, 1, 2]), logits_of(model, [4, 0, 3, 2])
        self.assertEqual(first[:2], second[:2])
        self.assertNotEqual(first[2], second[2])
        self.assertNotEqual(first[3], second[3])

    def test_the_position_matters(self):
        model = model_of(spread=5.0)
        at = [numbers(microgpt.gpt(model, 1, position, {}, {})) for position in (0, 1)]
        self.assertNotEqual(*at)

    def test_keys_and_values_grow_by_one_entry_a_layer(self):
        model = model_of(n_layer=3)
        keys, values = {}, {}
        for position in range(4):
            microgpt.gpt(model, 0, position, keys, values)
            for lists in (keys, values):
                self.assertEqual({k: len(v) for k, v in lists.items()}, dict.fromkeys(range(3), position + 1))

    def test_attention_weights_are_positive_and_sum_to_one(self):
        seen = []
        plain_softmax = microgpt.softmax
        with mock.patch.object(microgpt, "softmax", lambda x: seen.append(plain_softmax(x)) or seen[-1]):
            logits_of(model_of(spread=9.0, n_layer=2), [4, 0, 1, 2])
        self.assertEqual(sorted(map(len, seen)), sorted([1, 2, 3, 4] * 2 * 2))
        for weights in seen:
            self.assertGreaterEqual(min(numbers(weights)), 0.0)
            self.assert_near(sum(numbers(weights)), 1.0, 1e-12)

    def test_softmax_is_exp_over_the_sum_of_exp_also_where_exp_would_overflow(self):
        for x in ([0.5, -1.0, 2.0], EQUAL, [-3.0]):
            exps = [math.exp(value) for value in x]
            found = numbers(microgpt.softmax([Value(value) for value in x]))
            self.assert_all_near(found, [e / sum(exps) for e in exps], 1e-14)
        found = numbers(microgpt.softmax([Value(value) for value in LARGE]))
        self.assert_all_near(found, [1 / (1 + math.exp(-1)), 0.0, math.exp(-1) / (1 + math.exp(-1))], 1e-12)

    def test_one_head_and_many_heads_differ_as_the_formula_says(self):
        rng = random.Random(8)
        query, keys, values = leaves(4, rng), [leaves(4, rng) for _ in range(3)], [leaves(4, rng) for _ in range(3)]
        scores = [sum(q.data * k.data for q, k in zip(query, key)) / math.sqrt(4) for key in keys]
        shares = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
        expected = [sum(s * value[i].data for s, value in zip(shares, values)) for i in range(4)]
        self.assert_all_near(numbers(microgpt.attend(query, keys, values)), expected, 1e-14)
        one, four = model_of(spread=6.0, n_head=1), model_of(spread=6.0, n_head=4)
        self.assertEqual(logits_of(one, [0])[0], logits_of(four, [0])[0])  # one token: one choice
        self.assertNotEqual(logits_of(one, [0, 1])[1], logits_of(four, [0, 1])[1])

    def test_rmsnorm_gives_unit_root_mean_square(self):
        x = microgpt.rmsnorm(leaves(50, random.Random(9), 3.0))
        self.assert_near(math.sqrt(sum(v.data**2 for v in x) / 50), 1.0, 1e-5)
        self.assertEqual(numbers(microgpt.rmsnorm([Value(0.0)] * 3)), ZEROS)

    def test_activation_is_the_square_above_zero_and_zero_below(self):
        found = numbers(microgpt.activation(Value(x)) for x in (-2.0, 0.0, 0.5, 3.0))
        self.assertEqual(found, [0.0, 0.0, 0.25, 9.0])

    def test_the_gradient_of_cross_entropy_is_probabilities_minus_one_hot(self):
        logits = leaves(5, random.Random(10), 2.0)
        microgpt.cross_entropy(logits, 3).backward()
        expected = numbers(microgpt.softmax(logits))
        expected[3] -= 1
        self.assert_all_near([logit.grad for logit in logits], expected, 1e-14)

    def test_an_impossible_target_gives_a_large_loss_and_no_infinity(self):
        self.assertEqual(microgpt.cross_entropy([Value(0.0), Value(5000.0)], 0).data, 5000.0)

    def test_an_untrained_model_guesses_nearly_evenly(self):
        model = Model(config_of(), Tokenizer(["abcdefghijklmnopqrstuvwxyz"]), random.Random(42))
        loss = microgpt.document_loss(model, model.tokenizer.encode("microgpt")).data
        self.assertLess(abs(loss - math.log(27)), 0.3)

    def test_the_number_of_parameters_is_that_of_the_formula(self):
        for vocab, n, block, layers in [(27, 16, 16, 1), (5, 8, 6, 0), (9, 4, 3, 3)]:
            docs = ["".join(map(chr, range(97, 97 + vocab - 1)))]
            model = model_of(docs, n_embd=n, block_size=block, n_layer=layers)
            expected = 2 * vocab * n + block * n + layers * 12 * n * n
            self.assertEqual(len(model.parameters()), expected)
        self.assertEqual(2 * 27 * 16 + 16 * 16 + 12 * 16 * 16, 4192)

    def test_weights_are_drawn_in_the_order_of_the_protocol(self):
        model = model_of(n_layer=2)
        names = ["wte", "wpe", "lm_head"]
        names += [f"layer{layer}.{name}" for layer in (0, 1) for name in BLOCK_MATRICES]
        self.assertEqual(list(model.weights), names)
        rng = random.Random(1)
        self.assertEqual(numbers(model.parameters()), [rng.gauss(0, 0.08) for _ in model.parameters()])

    def test_a_weight_that_two_matrices_share_is_one_parameter(self):
        model = model_of()
        before = len(model.parameters())
        model.weights["lm_head"] = model.weights["wte"]
        self.assertEqual(len(model.parameters()), before - 8 * 5)


# ---------------------------------------------------------------------------------------------
# Facts of Adam and the tokenizer
# ---------------------------------------------------------------------------------------------


class TestAdam(Facts):
    def test_several_steps_follow_the_rule_of_the_paper(self):
        params, grads = [Value(1.0), Value(-2.0)], [[0.5, -3.0], [0.1, 4.0], [-0.7, 0.0], [2.0, 1e-9]]
        optimizer = Adam(params)
        for learning_rate, step in zip((0.1, 0.05, 0.02, 0.01), range(4)):
            for param, grad in zip(params, grads[step]):
                param.grad = grad
            optimizer.step(learning_rate)
        for i, theta in enumerate((1.0, -2.0)):
            m = v = 0.0
            for t, learning_rate in enumerate((0.1, 0.05, 0.02, 0.01), 1):
                g = grads[t - 1][i]
                m, v = 0.85 * m + 0.15 * g, 0.99 * v + 0.01 * g**2
                theta -= learning_rate * (m / (1 - 0.85**t)) / ((v / (1 - 0.99**t)) ** 0.5 + 1e-8)
            self.assert_near(params[i].data, theta, 1e-14)

    def test_the_first_step_is_the_learning_rate_whatever_the_size_of_the_gradient(self):
        for grad in (1e-3, 0.5, 1e6, -1e-3, -1e6):
            param = Value(3.0)
            param.grad = grad
            Adam([param]).step(0.1)
            self.assert_near(param.data, 3.0 - math.copysign(0.1, grad), 1e-5)

    def test_a_gradient_of_zero_moves_nothing(self):
        param = Value(3.0)
        Adam([param]).step(0.1)
        self.assertEqual(param.data, 3.0)


class TestTokenizer(Facts):
    def test_characters_in_sorted_order_and_bos_last(self):
        tokenizer = Tokenizer(["hello", "wörld", "a b"])
        self.assertEqual(tokenizer.vocab, [*" abdehlorwö", ""])
        self.assertEqual(tokenizer.encode("hole"), [11, 5, 7, 6, 4, 11])

    def test_decoding_gives_the_text_back(self):
        text = "naïve 😀 \t 漢字"
        tokenizer = Tokenizer([text])
        self.assertEqual(tokenizer.decode(tokenizer.encode(text)), text)
        self.assertEqual(tokenizer.decode([]), "")

    def test_an_unknown_character_is_a_clear_error(self):
        self.assertRaisesRegex(InputError, "'z'", Tokenizer(["abc"]).encode, "abz")


# ---------------------------------------------------------------------------------------------
# Facts of training
# ---------------------------------------------------------------------------------------------


def run_main(module, *argv):
    """The model that module.main(argv) returns, and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        model = module.main([str(word) for word in argv])
    return model, printed.getvalue()


class InFolder(Facts):
    """Tests with a folder of their own for files."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def file(self, content, name="docs.txt"):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path


WORDS = ["abba", "cab", "bad", "dab", "acid", "dice", "bead", "cede", "fade", "deaf", "beef", "face"]


def masked(output):
    """The output without what differs from run to run: times."""
    return re.sub(r"\| +\d+\.\d ms/step \| +\d+ s left", "| ... ms/step | ... s left", output)


class TestTraining(InFolder):
    def test_a_single_document_is_learned_by_heart(self):
        model, output = run_main(microgpt, self.file("abracadabra"), "--steps", 150)
        losses = [float(x) for x in re.findall(r"loss (\d\.\d+)", output)]
        self.assertGreater(losses[0], 1.3)
        self.assertLess(losses[-1], 0.1)
        self.assertEqual(microgpt.generate(model, "", 0), "abracadabra")

    def test_the_held_out_documents_do_not_touch_the_weights(self):
        docs = WORDS * 2
        order = list(range(len(docs)))
        random.Random(42).shuffle(order)
        changed = list(docs)
        for i in order[-2:]:
            changed[i] = changed[i][::-1] + "abc"
        runs = [run_main(microgpt, self.file("\n".join(d)), "--steps", 24) for d in (docs, changed)]
        self.assertIn("24, 2 held out", runs[0][1])
        self.assertEqual(*[numbers(model.parameters()) for model, _ in runs])
        held_out = [re.search("held-out loss .*", output).group() for _, output in runs]
        self.assertNotEqual(*held_out)
        changed[order[0]] = "face"
        model, _ = run_main(microgpt, self.file("\n".join(changed)), "--steps", 24)
        self.assertNotEqual(numbers(model.parameters()), numbers(runs[0][0].parameters()))

    def test_the_documents_are_taken_in_shuffled_order_around_and_around(self):
        taken = []
        plain = microgpt.document_loss
        record = lambda model, tokens: taken.append(model.tokenizer.decode(tokens)) or plain(model, tokens)
        with mock.patch.object(microgpt, "document_loss", record):
            run_main(microgpt, self.file("\n".join(WORDS)), "--steps", 25, "--seed", 7)
        docs = list(WORDS)
        random.Random(7).shuffle(docs)
        self.assertEqual(taken, (docs[:11] * 3)[:25] + docs[11:])

    def test_at_most_200_documents_are_held_out(self):
        _, output = run_main(microgpt, self.file("a\n" * 2500), "--steps", 0, "--samples", 0)
        self.assertIn("num docs: 2500, 200 held out", output)

    def test_the_held_out_loss_is_the_mean_over_the_documents(self):
        model, output = run_main(microgpt, self.file("\n".join(WORDS * 2)), "--steps", 3)
        docs = WORDS * 2
        random.Random(42).shuffle(docs)
        losses = [microgpt.document_loss(model, model.tokenizer.encode(d)).data for d in docs[-2:]]
        self.assertIn(f"held-out loss {sum(losses) / 2:.4f}, guessing evenly {math.log(8):.4f}", output)

    def test_a_loss_is_the_mean_over_the_positions_up_to_the_block_size(self):
        model = model_of(spread=5.0, block_size=4)
        tokens = model.tokenizer.encode("abcabd")
        logits = logits_of(model, tokens[:4])
        losses = []
        for row, target in zip(logits, tokens[1:]):
            losses.append(math.log(sum(map(math.exp, row))) - row[target])
        self.assert_near(microgpt.document_loss(model, tokens).data, sum(losses) / 4, 1e-13)

    def test_the_same_seed_gives_the_same_run_and_another_seed_another(self):
        path = self.file("\n".join(WORDS))
        run = lambda seed: masked(run_main(microgpt, path, "--steps", 20, "--seed", seed)[1])
        self.assertEqual(run(5), run(5))
        self.assertNotEqual(run(5), run(6))

    def test_the_learning_rate_falls_in_a_straight_line(self):
        rates = []
        with mock.patch.object(Adam, "step", lambda self, rate: rates.append(rate)):
            run_main(microgpt, self.file("ab"), "--steps", 4, "--learning-rate", 0.2)
        self.assert_all_near(rates, [0.2, 0.15, 0.1, 0.05], 1e-15)

    def test_each_step_starts_from_gradients_of_zero(self):
        path = self.file("ab")
        model, _ = run_main(microgpt, path, "--steps", 0)
        for param in model.parameters():
            param.grad = 1e6
        fresh, _ = run_main(microgpt, path, "--steps", 0)
        for one in (model, fresh):
            one.config.steps = 3
            with contextlib.redirect_stdout(io.StringIO()):
                microgpt.train(one, [one.tokenizer.encode("ab")])
        self.assertEqual(numbers(model.parameters()), numbers(fresh.parameters()))

    def test_the_mean_in_the_step_line_is_over_the_last_100(self):
        losses = iter(range(1, 251))
        with mock.patch.object(microgpt, "gradients", lambda *_: float(next(losses))):
            _, output = run_main(microgpt, self.file("ab"), "--steps", 250)
        found = re.findall(r"step +(\d+) / 250 \| loss (\S+) \| last 100 (\S+) \|", output)
        expected = [(1, 1.0), (100, 50.5), (200, 150.5), (250, 200.5)]
        self.assertEqual(found, [(str(n), f"{n:.4f}", f"{mean:.4f}") for n, mean in expected])

    def test_after_ctrl_c_it_goes_on_to_evaluate_and_sample(self):
        plain, calls = microgpt.gradients, itertools.count()

        def interrupted(*args):
            if next(calls) == 3:
                raise KeyboardInterrupt
            return plain(*args)

        with mock.patch.object(microgpt, "gradients", interrupted):
            model, output = run_main(microgpt, self.file("\n".join(WORDS)), "--samples", 2)
        self.assertIsInstance(model, Model)
        self.assertRegex(output, r"(?s)step +1 /.*interrupted.*held-out loss \d.*sample +2: ")

    def test_the_collector_is_off_in_training_and_restored_also_after_an_error(self):
        states, path = [], self.file("ab")
        plain = microgpt.gradients

        def watched(*args):
            states.append(gc.isenabled())
            return plain(*args)

        cpython = sys.implementation.name == "cpython"
        for enabled in (True, False):
            (gc.enable if enabled else gc.disable)()
            try:
                with mock.patch.object(microgpt, "gradients", watched):
                    run_main(microgpt, path, "--steps", 2)
                self.assertEqual(states, [enabled and not cpython] * 2)
                self.assertEqual(gc.isenabled(), enabled)
                for error in (KeyboardInterrupt, MemoryError):
                    with mock.patch.object(microgpt, "gradients", side_effect=error):
                        with contextlib.suppress(MemoryError):
                            run_main(microgpt, path, "--steps", 2)
                    self.assertEqual(gc.isenabled(), enabled)
                states.clear()
            finally:
                gc.enable()

    def test_an_interpreter_that_counts_no_references_keeps_its_collector(self):
        states = []
        with mock.patch.object(microgpt.sys, "implementation", mock.Mock()) as other:
            other.name = "another"
            look = lambda *_: states.append(gc.isenabled()) or 1.0
            with mock.patch.object(microgpt, "gradients", look):
                run_main(microgpt, self.file("ab"), "--steps", 2)
        self.assertEqual(states, [True, True])

    def test_ctrl_c_after_the_training_quits_quietly(self):
        with mock.patch.object(microgpt, "evaluate", side_effect=KeyboardInterrupt):
            with self.assertRaises(SystemExit) as stop:
                run_main(microgpt, self.file("\n".join(WORDS)), "--steps", 1)
        self.assertEqual(stop.exception.code, 130)


# ---------------------------------------------------------------------------------------------
# Facts of sampling
# ---------------------------------------------------------------------------------------------


class TestSampling(Facts):
    def test_probabilities_are_the_softmax_of_logits_over_temperature(self):
        logits = [Value(x) for x in (1.0, -0.5, 2.0)]
        for temperature in (0.1, 0.5, 1.0, 3.0):
            exps = [math.exp(x / temperature) for x in (1.0, -0.5, 2.0)]
            found = microgpt.probabilities(logits, temperature)
            self.assert_all_near(found, [e / sum(exps) for e in exps], 1e-13)

    def test_temperature_zero_and_next_to_zero_is_the_most_likely_token(self):
        for temperature in (0, 0.0, 1e-320, 1e-5):
            for logits in ([1.0, 3.0, 2.999], [-5.0, -4.0, -900.0]):
                found = microgpt.probabilities([Value(x) for x in logits], temperature)
                self.assert_all_near(found, [0.0, 1.0, 0.0], 1e-40)

    def test_a_huge_temperature_is_an_even_guess(self):
        found = microgpt.probabilities([Value(x) for x in (1.0, 3.0)], 1e308)
        self.assertEqual(found, [0.5, 0.5])

    def test_sampled_tokens_come_as_often_as_their_probability_says(self):
        model, rng, n = model_of(spread=12.0, block_size=1), random.Random(11), 4000
        expected = microgpt.probabilities(microgpt.gpt(model, 4, 0, {}, {}), 1.0)
        texts = [microgpt.generate(model, "", 1.0, rng) for _ in range(n)]
        chi_squared = 0.0
        for text, probability in zip(model.tokenizer.vocab, expected):
            chi_squared += (texts.count(text) - n * probability) ** 2 / (n * probability)
        self.assertGreater(max(expected) / min(expected), 2)
        self.assertLess(chi_squared, 33.4)  # of 4 degrees of freedom: once in a million runs

    def test_one_draw_of_choices_a_token(self):
        model, rng, same = model_of(spread=9.0), random.Random(12), random.Random(12)
        text = microgpt.generate(model, "", 1.0, rng)
        tokens, keys, values = [4], {}, {}
        for position in range(6):
            logits = microgpt.gpt(model, tokens[-1], position, keys, values)
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

    def test_a_prompt_that_leaves_no_position_is_an_error(self):
        model = model_of()
        self.assertGreaterEqual(len(microgpt.generate(model, "abcab")), 5)
        self.assertRaisesRegex(InputError, "prompt", microgpt.generate, model, "abcabc")

    def test_logits_that_are_not_finite_are_an_error(self):
        model = model_of()
        model.weights["lm_head"][2][3].data = math.nan
        self.assertRaises(FloatingPointError, microgpt.generate, model)

    def test_generate_works_without_a_random_generator(self):
        self.assertIsInstance(microgpt.generate(model_of()), str)


# ---------------------------------------------------------------------------------------------
# Facts of the command line
# ---------------------------------------------------------------------------------------------


def python(*argv, **options):
    """Run Python in a process of its own; warnings are errors there too."""
    settings = dict(capture_output=True, timeout=120, encoding="utf-8")
    settings.update(options)
    return subprocess.run([sys.executable, "-W", "error", *map(str, argv)], **settings)


TINY = ("--steps", 0, "--samples", 0, "--n-embd", 4, "--n-head", 1)
BAD_NUMBERS = {
    "--steps": ("-1", "1.5", "many", "nan"),
    "--n-layer": ("-1", "x"),
    "--n-embd": ("0", "-16", "15", "1000000", "1" + "0" * 400),
    "--n-head": ("0", "-1", "3", "32"),
    "--block-size": ("0", "-5", "1" + "0" * 20),
    "--learning-rate": ("-0.1", "nan", "inf", "-inf", "1e999", "fast"),
    "--temperature": ("-1", "nan", "inf", ""),
    "--samples": ("-1", "2.0"),
    "--seed": ("-1", "x"),
}


class TestCommandLine(InFolder):
    def main(self, *argv):
        return python(HERE / "microgpt.py", *argv, cwd=self.folder)

    def assert_error(self, argv, message, status=2):
        """One line on standard error that matches, the exit status, and no output."""
        printed, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            with self.assertRaises(SystemExit, msg=argv) as stop:
                microgpt.main([str(word) for word in argv])
        self.assertEqual(stop.exception.code, status, argv)
        self.assertRegex(errors.getvalue(), r"\Amicrogpt\.py: error: .*\n\Z", argv)
        self.assertRegex(errors.getvalue(), message, argv)
        if status == 2:
            self.assertEqual(printed.getvalue(), "", argv)

    def test_bad_files_are_one_clear_line(self):
        files = {
            "empty": (b"", "holds no text"),
            "blank": (b" \n\t\r\n\n", "holds no text"),
            "bom-only": (b"\xef\xbb\xbf", "holds no text"),
            "latin-1": ("caf\xe9\n".encode("latin-1"), "utf-8.*position 3"),
            "utf-16": ("hello\n".encode("utf-16"), "utf-8"),
            "utf-16-le": ("hello\n".encode("utf-16-le"), "holds no text"),
            "binary": (bytes(range(256)), "utf-8"),
        }
        for name, (content, message) in files.items():
            self.assert_error([self.file(content, name)], message)
        self.assert_error([self.folder / "missing"], "missing")
        self.assert_error([self.folder], "directory|denied")

    def test_numbers_out_of_range_are_one_clear_line(self):
        path = self.file("ab\nba\n")
        for flag, values in BAD_NUMBERS.items():
            for value in values:
                name = flag[2:].replace("-", ".")
                self.assert_error([path, f"{flag}={value}"], f"{name}|10,000,000 weights")

    def test_bad_prompts_and_flags_are_one_clear_line(self):
        path = self.file("ab\nba\n")
        cases = [
            (["--prompt", "xyz"], "'[xyz]'"),
            (["--prompt", "ab" * 8], "prompt leaves no position"),
            (["--prompt", "a", "--block-size", 1], "prompt leaves no position"),
            (["--unknown"], "--unknown"),
            (["--step", "3"], "--step"),
            (["--steps"], "--steps"),
            (["another"], "another"),
        ]
        for argv, message in cases:
            self.assert_error([path, *argv], message)

    def test_an_error_in_a_process_of_its_own_is_one_line_and_status_2(self):
        result = self.main("missing.txt")
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertRegex(result.stderr, r"\Amicrogpt\.py: error: .*missing\.txt.*\n\Z")

    def test_a_loss_that_is_not_finite_stops_the_training(self):
        path = self.file("\n".join(WORDS))
        self.assert_error([path, "--learning-rate", "1e300"], r"step \d+: loss nan.*--learning-rate", 1)
        self.assert_error(
            [path, "--learning-rate", "1e150", "--steps", 1], "not finite.*--learning-rate", 1
        )

    def test_odd_but_good_files_work(self):
        files = {
            "one document": ("hello", 1, 5),
            "one character": ("a", 1, 2),
            "byte-order mark": (b"\xef\xbb\xbfab\nb\n", 2, 3),
            "crlf": (b"ab\r\n\r\nb\r\n", 2, 3),
            "old mac": (b"ab\rb", 2, 3),
            "scripts and emoji": ("привет\nשלום\nनमस्ते\n漢字\n😀👍🏽\n", 5, None),
            "tabs and spaces": ("\ta b\n  a\tb  \n", 2, 5),
            "line separators inside": ("a\u2028b\x0bc\x85d\n", 1, 8),
            "blank lines": ("\n\na\n\n\nb\n\n", 2, 3),
        }
        for name, (content, n_docs, n_vocab) in files.items():
            model, output = run_main(microgpt, self.file(content), "--steps", 2, "--samples", 1)
            self.assertIn(f"num docs: {n_docs}, 0 held out", output, name)
            self.assertIn("held-out loss unknown (fewer than 10 documents)", output, name)
            if n_vocab:
                self.assertIn(f"vocab size: {n_vocab}\n", output, name)

    def test_a_document_of_a_megabyte_is_cut_and_the_program_says_so(self):
        path = self.file("abcde" * 200_000 + "\nab\n" + "a" * 15 + "\n" + "a" * 16)
        _, output = run_main(microgpt, path, "--steps", 4, "--samples", 1)
        self.assertIn("num docs: 4, 0 held out, 2 cut to the block size", output)

    def test_zero_layers_zero_steps_zero_samples(self):
        path = self.file("\n".join(WORDS))
        _, output = run_main(microgpt, path, "--n-layer", 0, "--steps", 3, "--samples", 2)
        self.assertIn("num params: 512\n", output)
        model, output = run_main(microgpt, path, "--steps", 0, "--samples", 0)
        self.assertNotIn("step ", output)
        self.assertNotIn("sample", output)
        fresh = Model(config_of(), model.tokenizer, self.rng_after_shuffle(len(WORDS)))
        self.assertEqual(numbers(model.parameters()), numbers(fresh.parameters()))

    @staticmethod
    def rng_after_shuffle(count):
        rng = random.Random(42)
        rng.shuffle(list(range(count)))
        return rng

    def test_huge_numbers_that_make_sense_work(self):
        path = self.file("ab\nba\n")
        seed = "9" * 30
        _, output = run_main(microgpt, path, *TINY[:2], "--seed", seed, "--temperature", 1e308)
        self.assertIn("sample 20: ", output)
        with mock.patch.object(microgpt, "gradients", side_effect=[1.0, KeyboardInterrupt]):
            _, output = run_main(microgpt, path, "--steps", "1" + "0" * 400, "--samples", 1)
        self.assertIn("sample  1: ", output)

    def test_what_is_printed_and_in_which_order(self):
        _, output = run_main(microgpt, self.file("\n".join(WORDS)), "--steps", 120, "--samples", 3)
        times = r"\| +\d+\.\d ms/step \| +\d+ s left\n"
        self.assertRegex(
            output,
            r"\Anum docs: 12, 1 held out, 0 cut to the block size\n"
            r"vocab size: 8\nnum params: 3584\n"
            rf"step    1 / 120 \| loss \d\.\d{{4}} \| last 100 \d\.\d{{4}} {times}"
            rf"step  100 / 120 \| loss \d\.\d{{4}} \| last 100 \d\.\d{{4}} {times}"
            rf"step  120 / 120 \| loss \d\.\d{{4}} \| last 100 \d\.\d{{4}} {times}"
            r"held-out loss \d\.\d{4}, guessing evenly 2\.0794\n"
            r"sample  1: \w*\nsample  2: \w*\nsample  3: \w*\n"
            r"not in the file: [0-3] of 3\n\Z",
        )

    def test_the_samples_that_are_not_in_the_file_are_counted(self):
        path, texts = self.file("\n".join(WORDS)), iter(["", "cab", "new", "acid", "newer"])
        with mock.patch.object(microgpt, "generate", lambda *_, **__: next(texts)):
            _, output = run_main(microgpt, path, "--steps", 0, "--samples", 4)
        self.assertIn("not in the file: 2 of 4\n", output)

    def test_every_sample_begins_with_the_prompt(self):
        _, output = run_main(microgpt, self.file("\n".join(WORDS)), "--steps", 9, "--prompt", "fa")
        self.assertEqual(len(re.findall(r"sample +\d+: fa", output)), 20)

    def test_help_explains_each_flag_with_its_default(self):
        result = self.main("--help")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        text = " ".join(result.stdout.split())
        for name, (default, _, meaning) in microgpt.HYPERPARAMETERS.items():
            flag = "--" + name.replace("_", "-")
            self.assertIn(f"{flag} {name.upper()} {meaning} (default: {default!r})", text)

    def test_import_is_silent_and_changes_nothing(self):
        code = (
            "import gc, random, sys; state = random.getstate(), gc.isenabled(), gc.get_count and 1,"
            " sys.getrecursionlimit(); import microgpt; assert state == (random.getstate(),"
            " gc.isenabled(), 1, sys.getrecursionlimit())"
        )
        result = python("-c", code, cwd=HERE)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))

    def test_a_run_touches_no_global_random_state(self):
        state = random.getstate()
        run_main(microgpt, self.file("\n".join(WORDS)), "--steps", 2, "--samples", 2)
        self.assertEqual(random.getstate(), state)

    def test_main_without_arguments_ignores_the_command_line(self):
        self.file("ab\n", "names.txt")
        with mock.patch.object(sys, "argv", ["x", "--nonsense"]), quick_defaults(microgpt):
            with mock.patch.object(microgpt, "__file__", str(self.folder / "microgpt.py")):
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    microgpt.main()
        self.assertIn("num docs: 1,", printed.getvalue())

    def test_pasted_into_a_notebook_it_runs_with_the_defaults_on_the_current_folder(self):
        self.file("ab\nba\n", "names.txt")
        self.file(quick_source(), "cell.txt")
        code = (
            "import pathlib, sys; sys.argv = ['kernel', '-f', 'kernel.json'];"
            "cell = pathlib.Path('cell.txt').read_text('utf-8'); exec(cell, {'__name__': '__main__'})"
        )
        result = python("-c", code, cwd=self.folder)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("num docs: 2,", result.stdout)
        self.assertIn("sample 20: ", result.stdout)

    def test_run_as_a_notebook_runs_a_script(self):
        path = self.file("ab\nba\n")
        with mock.patch.object(sys, "argv", ["microgpt.py", str(path), "--steps", "1"]):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                names = runpy.run_path(str(HERE / "microgpt.py"), run_name="__main__")
        self.assertIn("num docs: 2,", printed.getvalue())
        self.assertEqual(len(names["model"].parameters()), 16 * (3 * 2 + 16 + 12 * 16))

    def test_python_i_leaves_a_trained_model_at_the_prompt(self):
        path = self.file("ab\nba\n")
        result = python("-i", HERE / "microgpt.py", path, *TINY, input="print(len(model.weights))\n")
        self.assertEqual(result.stdout.splitlines()[-1], "9")

    def test_from_another_folder_with_an_empty_environment(self):
        self.file(SOURCE, "microgpt.py")
        self.file("ab\nba\n", "names.txt")
        (self.folder / "elsewhere").mkdir()
        script = pathlib.Path("..") / "microgpt.py"
        result = python(script, *TINY, cwd=self.folder / "elsewhere", env=bare_environment())
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("num docs: 2,", result.stdout)

    def test_a_terminal_that_cannot_print_the_characters_shows_question_marks(self):
        path = self.file("éé\nçé\n")
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        argv = (path, "--steps", 0, "--samples", 2, "--prompt", "é")
        result = python(HERE / "microgpt.py", *argv, env=environment)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertRegex(result.stdout, r"sample  1: \?")

    def test_a_broken_pipe_is_replaced_by_the_null_device(self):
        with open(self.file("", "output"), "w") as output:
            with mock.patch.object(microgpt, "run", side_effect=BrokenPipeError):
                with mock.patch.object(sys, "stdout", output):
                    self.assertIsNone(microgpt.main([]))
                    print("lost", flush=True)
        self.assertEqual((self.folder / "output").read_text(), "")

    @unittest.skipIf(os.name == "nt", "signals and terminals differ on Windows")
    def test_output_into_head_ends_quietly(self):
        path = self.file("\n".join(WORDS))
        process = self.start(path, "--steps", 5000)
        self.assertIn("num docs", process.stdout.readline())
        process.stdout.close()
        errors = process.stderr.read()
        self.assertEqual((process.wait(60), errors), (0, ""))

    @unittest.skipIf(os.name == "nt", "signals and terminals differ on Windows")
    def test_ctrl_c_once_ends_the_training_and_twice_the_program(self):
        path = self.file("\n".join(WORDS * 300))
        for twice in (False, True):
            process = self.start(path, "--steps", 100_000)
            self.read_until(process, "step  100 ")
            process.send_signal(signal.SIGINT)
            self.read_until(process, "interrupted")
            if twice:
                process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
            self.assertEqual(errors, "")
            self.assertEqual(process.returncode, 130 if twice else 0)
            self.assertEqual("sample 20: " in output, not twice)

    @unittest.skipIf(os.name == "nt", "signals and terminals differ on Windows")
    def test_on_a_terminal_the_step_line_is_rewritten_in_place(self):
        import pty

        path = self.file("ab\nba\n")
        ours, theirs = pty.openpty()
        argv = [sys.executable, HERE / "microgpt.py", path, "--steps", "7", "--samples", "1"]
        process = subprocess.Popen(list(map(str, argv)), stdout=theirs, stderr=theirs)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # as Linux ends a terminal
            while True:
                piece = os.read(ours, 4096)
                if not piece:
                    break
                shown += piece
        os.close(ours)
        self.assertEqual(process.wait(60), 0)
        lines = shown.decode().split("\r\n")
        [rewritten] = [line for line in lines if "step " in line]
        steps = rewritten.split("\r")
        self.assertEqual([int(step.split()[1]) for step in steps], list(range(1, 8)))
        self.assertEqual(len({len(step) for step in steps}), 1)
        self.assertLess(len(steps[0]), 80)

    def start(self, *argv):
        command = [sys.executable, HERE / "microgpt.py", *argv]
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        return process

    def read_until(self, process, words):
        for line in process.stdout:
            if words in line:
                return
        self.fail(f"the output ended without {words!r}: {process.stderr.read()}")


def bare_environment():
    """No variables, but for those without which Windows starts no Python."""
    return {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}


def quick_source():
    """The program with a default of 3 steps, so that a run with the defaults is short."""
    before, after = '"steps": (1000, 0,', '"steps": (3, 0,'
    assert before in SOURCE
    return SOURCE.replace(before, after)


def quick_defaults(module):
    return mock.patch.dict(module.HYPERPARAMETERS, {"steps": (3, 0, "fewer"), "samples": (1, 0, "")})


# ---------------------------------------------------------------------------------------------
# Facts of the files
# ---------------------------------------------------------------------------------------------


def section(heading):
    """The README's text below a heading, up to the next one of the same or a higher level."""
    level = len(heading.split()[0])
    found = re.search(rf"(?ms)^{re.escape(heading)}$\n(.*?)(?=^#{{1,{level}}} |\Z)", README)
    assert found, f"no {heading!r} in the README"
    return found.group(1)


class TestFiles(InFolder):
    def test_the_examples_of_the_readme_give_what_they_show(self):
        shown = re.findall(r"(?ms)^```pycon\n(.*?)^```$", README)
        self.assertGreater(len(shown), 10)
        names = {}
        parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
        with contextlib.redirect_stdout(io.StringIO()) as complaints:
            for block in shown:
                example = parser.get_doctest(block, names, "README", "README.md", 0)
                runner.run(example, clear_globs=False)
                names = example.globs
        self.assertEqual(runner.failures, 0, complaints.getvalue())
        self.assertGreater(runner.tries, 30)

    def test_what_the_readme_quotes_is_in_the_file_letter_for_letter(self):
        quoted = re.findall(r"(?ms)^```python\n(.*?)^```$", section("## The tour"))
        self.assertGreater(len(quoted), 8)
        for block in quoted:
            self.assertIn(block, SOURCE)

    def test_the_python_of_the_readme_is_no_longer_than_100_columns(self):
        for block in re.findall(r"(?ms)^```python\n(.*?)^```$", README):
            self.assertLessEqual(max(map(len, block.splitlines())), 100, block)
            compile(textwrap.dedent(block) if block[0] == " " else block, "README.md", "exec")

    def test_the_first_example_of_the_import_runs(self):
        [block] = [b for b in re.findall(r"(?ms)^```python\n(.*?)^```$", README) if b.startswith("import microgpt\n")]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(block, {})
        self.assertTrue(printed.getvalue().startswith("0.0 -6.0\nnum docs: "))

    def test_the_readme_shows_what_the_program_prints(self):
        [block] = re.findall(r"(?ms)^```text\n(num docs.*?)^```$", README)
        result = python(HERE / "microgpt.py", cwd=self.folder, env=bare_environment())
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(masked(result.stdout), masked(block))
        self.assertRegex(block, r"\d ms/step \| +\d+ s left")

    def test_the_flags_of_the_readme_are_those_of_the_program(self):
        rows = re.findall(r"(?m)^\| `(--[a-z-]+)` \| `(.*?)` \| (.*) \|$", section("## The flags"))
        expected = []
        for name, (default, _, meaning) in microgpt.HYPERPARAMETERS.items():
            shown = f'"{default}"' if isinstance(default, str) else str(default)
            expected.append(("--" + name.replace("_", "-"), shown, meaning))
        self.assertEqual(rows, expected)

    def test_the_program_fits_on_the_page(self):
        self.assertLessEqual(lines_of_code(SOURCE), 243)
        self.assertLessEqual(max(map(len, SOURCE.splitlines())), 100)
        self.assertIn("SPDX-License-Identifier: MIT", SOURCE)

    def test_only_the_standard_library_is_imported(self):
        imported = set(re.findall(r"(?m)^(?:import|from) (\w+)", SOURCE))
        allowed = {"argparse", "gc", "math", "operator", "os", "random", "sys", "time"}
        self.assertEqual(imported, allowed)

    def test_the_names_are_a_clean_list(self):
        text = (HERE / "names.txt").read_bytes().decode("ascii")
        names = text.split("\n")
        self.assertEqual(names.pop(), "")
        self.assertGreaterEqual(len(names), 8000)
        self.assertEqual(names, sorted(set(names)))
        for name in names:
            self.assertRegex(name, r"\A[a-z]{2,15}\Z")

    def test_the_names_a_class_would_look_for_are_there(self):
        names = set((HERE / "names.txt").read_text(encoding="ascii").split())
        wanted = (
            "emma olivia noah liam james mary sean siobhan rhys maria jose sofia mateo luca giulia"
            " pierre camille hans greta lars ingrid aino janis olga ivan agnieszka jakub eszter"
            " nikos eleni ani giorgi fatima muhammad layla yusuf zeynep noa avi priya rahul"
            " lakshmi tenzin wei yuki haruto minjun linh siti dewi kai moana kwame amina chidi"
            " ngozi thabo lerato tendai abebe"
        )
        self.assertEqual(set(wanted.split()) - names, set())


class TestLadder(Facts):
    def test_every_rung_runs_and_the_readme_shows_the_table(self):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            climb("--steps", 2)
        found = [row.split("|")[1:3] for row in printed.getvalue().splitlines()]
        shown = [row.split("|")[1:3] for row in section("## The ladder").splitlines() if row[:1] == "|"]
        self.assertEqual(found, shown)

    def test_counting_gives_the_shares_of_the_pairs(self):
        module = program("counting pairs", kind="rung")
        model = model_of(["aab"])
        model.config.steps = 1
        module.train(model, [model.tokenizer.encode("aab")])
        odds = microgpt.probabilities(module.gpt(model, 0, 0, {}, {}), 1.0)
        self.assert_all_near(odds, [2 / 5, 2 / 5, 1 / 5], 1e-14)

    def test_plain_gradient_descent_steps_against_the_gradient(self):
        param = Value(3.0)
        param.grad = -2.0
        program("plain gradient descent", kind="rung").Adam([param]).step(0.5)
        self.assertEqual(param.data, 4.0)

    def test_without_attention_only_the_letter_and_its_place_count(self):
        module, model = program("the MLP alone", kind="rung"), model_of(spread=5.0)
        runs = []
        for first in (0, 1):
            keys, values = {}, {}
            module.gpt(model, first, 0, keys, values)
            runs.append(numbers(module.gpt(model, 2, 1, keys, values)))
        self.assertEqual(*runs)


def lines_of_code(source):
    """The lines that hold code: no comments, docstrings or blank lines."""
    import ast
    import tokenize

    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    strings, code = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            strings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank + (tokenize.ENDMARKER,):
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - strings)


# ---------------------------------------------------------------------------------------------
# The benchmark: printed, never asserted, since machines differ
# ---------------------------------------------------------------------------------------------


class Ours:
    """microgpt.py on one model: forward, backward and update, each to be timed."""

    collector_off = True  # as in `train`

    def __init__(self, model):
        self.model, self.optimizer = model, Adam(model.parameters())

    def loss(self, tokens):
        return microgpt.document_loss(self.model, tokens)

    def update(self):
        self.optimizer.step(0.01)
        for param in self.optimizer.params:
            param.grad = 0.0

    def step(self, tokens):
        """The milliseconds of forward, backward and update, and the loss."""
        if self.collector_off and sys.implementation.name == "cpython":
            gc.disable()
        times = [time.perf_counter()]
        loss = self.loss(tokens)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        self.update()
        times.append(time.perf_counter())
        gc.enable()
        return [1000 * (end - start) for start, end in zip(times, times[1:])], loss.data


class Textbook(Ours):
    """The second engine on the same weights, updated by the same rule."""

    collector_off = False  # as the ancestors run

    def __init__(self, model):
        self.config, self.weights = model.config, plain_weights(model)
        rows = itertools.chain.from_iterable(self.weights.values())
        self.optimizer = Adam(list(itertools.chain.from_iterable(rows)))

    def loss(self, tokens):
        return plain_loss(self.weights, self.config, tokens)


def names_model(**changes):
    """The default model on the shuffled names, but for some changes; and the names' tokens."""
    config = config_of(**changes)
    docs = microgpt.read_docs(HERE / "names.txt")
    rng = random.Random(config.seed)
    rng.shuffle(docs)
    model = Model(config, Tokenizer(docs), rng)
    return model, [model.tokenizer.encode(doc) for doc in docs]


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


def peak_megabytes(engine, tokens):
    """What Python holds at the peak of two steps: weights, optimizer and graph."""
    gc.collect()
    tracemalloc.start()
    try:
        contestant = engine(Model(config_of(), Tokenizer(LETTERS), random.Random(1)))
        for _ in range(2):
            contestant.step(tokens)
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def least_and_middle(times):
    return f"{min(times):.1f} / {statistics.median(times):.1f}"


def print_row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |")


def print_table(*heading):
    print()
    print_row(*heading)
    print_row(*("---" for _ in heading))


# ---------------------------------------------------------------------------------------------
# The ladder
# ---------------------------------------------------------------------------------------------

LADDER = [  # what it is called, the rung of the README that is pasted, the flags
    ("counting pairs of letters", "counting pairs", ""),
    ("the same as a network, plain gradient descent", "plain gradient descent", "--n-layer 0 --learning-rate 0.3"),
    ("the same with Adam", None, "--n-layer 0"),
    ("with the MLP alone", "the MLP alone", ""),
    ("with one head of attention", None, "--n-head 1"),
    ("with four heads", None, ""),
    ("a bigger model for longer", None, "--n-embd 32 --steps 3000"),
]


def climb(*flags):
    """Print the README's table: the held-out loss on names.txt that each rung reaches."""
    print_row("rung", "flags", "held-out loss")
    print_row("---", "---", "---")
    print_row("guessing evenly", "", f"{math.log(27):.4f}")
    for name, rung, rung_flags in LADDER:
        module = program(*([rung] if rung else []), kind="rung")
        _, output = run_main(module, "--samples", 0, *rung_flags.split(), *flags)
        loss = re.search(r"held-out loss (\S+),", output).group(1)
        print_row(name, f"`{rung_flags}`" if rung_flags else "", loss)


LETTERS = ["abcdefghijklmnopqrstuvwxyz"]


def benchmark_steps(rounds=4, documents=8):
    model, sequences = names_model()
    engines = {"`microgpt.py`": Ours(model), "the plain engine": Textbook(model)}
    times, floor = {name: [] for name in engines}, []
    for tokens in sequences[:documents] * rounds:
        losses = []
        for name, engine in engines.items():
            parts, loss = engine.step(tokens)
            times[name].append([*parts, sum(parts)])
            losses.append(loss)
        assert abs(losses[0] - losses[1]) < 1e-9, losses
        floor.append(bare_loop(multiply_adds(model.config, 27, tokens)))
    print_table("ms a step, least / median", "forward", "backward", "update", "together")
    for name, rows in times.items():
        print_row(name, *map(least_and_middle, zip(*rows)))
    medians = [list(map(statistics.median, zip(*rows))) for rows in times.values()]
    print_row("times faster", *(f"{slow / fast:.1f}" for fast, slow in zip(*medians)))
    print_row("a bare loop over the multiply-adds", "", "", "", least_and_middle(floor))


def benchmark_memory():
    tokens = Tokenizer(LETTERS).encode("maximiliane")
    ours, plain = (peak_megabytes(engine, tokens) for engine in (Ours, Textbook))
    print_table("peak memory on a name of 11 letters", "MB")
    print_row("`microgpt.py`", f"{ours:.1f}")
    print_row("the plain engine", f"{plain:.1f}")
    print_row("times less", f"{plain / ours:.1f}")


def benchmark_growth():
    cases = [dict(n_embd=n) for n in (16, 32, 64)]
    cases += [dict(n_layer=n) for n in (2, 4, 8)]
    cases += [dict(block_size=n) for n in (16, 64)]
    cases += [dict(n_layer=12, block_size=64)]
    print_table("changed", "multiply-adds", "ms a step", "ns for each", "peak MB")
    for changes in cases:
        text = "thequickbrownfox" * 4 if "block_size" in changes else "evangeline"
        model = Model(config_of(**changes), Tokenizer(LETTERS), random.Random(1))
        tokens = model.tokenizer.encode(text)
        engine = Ours(model)
        count = multiply_adds(model.config, 27, tokens)
        least = min(sum(engine.step(tokens)[0]) for _ in range(max(2, min(12, 4_000_000 // count))))
        tracemalloc.start()
        engine.step(tokens)
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        name = ", ".join(f"`--{name.replace('_', '-')} {n}`" for name, n in changes.items())
        print_row(name, f"{count:,}", f"{least:.1f}", f"{1e6 * least / count:.0f}", f"{peak:.1f}")


def benchmark_generation(texts=40):
    model, _ = names_model()
    rng = random.Random(1)
    start = time.perf_counter()
    letters = sum(len(microgpt.generate(model, "", 1.0, rng)) for _ in range(texts))
    seconds = time.perf_counter() - start
    print_table("generation", "ms")
    print_row("a token", f"{1000 * seconds / (letters + texts):.2f}")


def benchmark():
    """Print the tables of the README's chapter on speed."""
    print(f"{sys.implementation.name} {platform.python_version()}, collector on: {gc.isenabled()}")
    benchmark_steps()
    benchmark_memory()
    benchmark_growth()
    benchmark_generation()


if __name__ == "__main__":
    if "--benchmark" in sys.argv[1:]:
        benchmark()
    elif "--ladder" in sys.argv[1:]:
        climb()
    else:
        unittest.main()

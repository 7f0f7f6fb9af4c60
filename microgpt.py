"""microgpt: a GPT that trains and writes, in one file of plain Python.

    python microgpt.py              learn names.txt, then print names of its own
    python microgpt.py FILE         learn any UTF-8 text, one document a line
    python microgpt.py --help       everything that can be chosen

Read it from top to bottom: numbers that know their gradients, the model made of them, the rule
that improves it, the alphabet, training and writing, and last of all the command line. Shapes
stand in comments, as in `# [n_embd] -> [vocab_size]`.
"""
# SPDX-License-Identifier: MIT

import argparse
import gc
import math
import operator
import os
import random
import sys
import time

# ---------------------------------------------------------------------------------------------
# Autograd: numbers that remember what they were computed from
# ---------------------------------------------------------------------------------------------

births = iter(range(sys.maxsize))  # 0, 1, 2, ...


class Value:
    """One number in a computation, and how the end of the computation depends on it.

    data         the number
    grad         d end / d self, as filled in by `end.backward()`; a leaf adds up its calls
    inputs       the vectors (tuples of Values) that it was computed from; a leaf has none
    local_grads  d self / d input, a plain number for each Value in those vectors
    birth        its place in the order in which all Values were made

    An operation raises what Python raises for its number or its slope: OverflowError, ValueError,
    ZeroDivisionError (0**0.5 too: its slope is infinite), TypeError for a complex power.
    """

    __slots__ = ("data", "grad", "inputs", "local_grads", "birth")

    def __init__(self, data, inputs=(), local_grads=()):
        self.data, self.grad, self.birth = float(data), 0.0, next(births)
        self.inputs, self.local_grads = inputs, local_grads

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, ((self, other),), ((1.0, 1.0),))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, ((self, other),), ((other.data, self.data),))

    def __pow__(self, n): return Value(self.data**n, ((self,),), ((n * self.data ** (n - 1),),))
    def exp(self): return Value(math.exp(self.data), ((self,),), ((math.exp(self.data),),))
    def log(self): return Value(math.log(self.data), ((self,),), ((1.0 / self.data,),))
    def relu(self): return Value(max(self.data, 0.0), ((self,),), ((float(self.data > 0),),))

    # The other operators follow from these.
    def __neg__(self): return self * -1
    def __sub__(self, other): return self + -other
    def __rsub__(self, other): return -self + other
    def __truediv__(self, other): return self * other**-1
    def __rtruediv__(self, other): return self**-1 * other
    def __repr__(self): return f"Value(data={self.data}, grad={self.grad})"
    __radd__, __rmul__ = __add__, __mul__

    def backward(self):
        """Add d self / d leaf to the grad of every leaf that self was computed from.

        A Value is born after its inputs. So, from the youngest to the oldest, each has received
        its whole gradient before it passes it on: the chain rule needs no other order. Values in
        between start at 0 in each call; leaves add up over calls, until their grad is set to 0.
        """
        reached, looked_into, vectors = set(), set(), [(self,)]
        for vector in vectors:  # which grows meanwhile
            # Many Values share a row of weights, and one look into it is enough. By id, since to
            # compare two vectors would be to look into them.
            if id(vector) not in looked_into:
                looked_into.add(id(vector))
                for value in vector:
                    if value.inputs and value not in reached:
                        reached.add(value)
                        value.grad = 0.0
                        vectors += value.inputs
        self.grad += 1.0
        for value in sorted(reached, key=operator.attrgetter("birth"), reverse=True):
            if value.grad:
                for vector, local_grads in zip(value.inputs, value.local_grads):
                    for source, local_grad in zip(vector, local_grads):
                        source.grad += local_grad * value.grad


def linear(x, w):  # [n_in], [n_out, n_in] -> [n_out]
    """w @ x: the dot product of each row with x, one Value each.

    The chain rule does not care how many inputs a Value has: the gradient of a dot product with
    respect to either vector is the other one.
    """
    x_data, x, out = [value.data for value in x], tuple(x), []
    for row in map(tuple, w):
        assert len(row) == len(x), f"a row of {len(row)} numbers times a vector of {len(x)}"
        row_data = [value.data for value in row]
        out.append(Value(sum(map(operator.mul, row_data, x_data)), (row, x), (x_data, row_data)))
    return out


def logsumexp(x):  # [n] -> one Value
    """log(sum(exp(x_i))), whose gradient is softmax(x).

    Taking out the largest x_i first changes nothing, but keeps exp from overflowing.
    """
    largest = max(value.data for value in x)
    exps = [math.exp(value.data - largest) for value in x]
    total = sum(exps)
    return Value(largest + math.log(total), (tuple(x),), ([e / total for e in exps],))


# ---------------------------------------------------------------------------------------------
# Hyperparameters: what is chosen, not learned
# ---------------------------------------------------------------------------------------------

HYPERPARAMETERS = {  # name: (default, smallest, what it is); each is also a flag
    "steps": (1000, 0, "training steps, one document each"),
    "n_layer": (1, 0, "blocks of attention and MLP"),
    "n_embd": (16, 1, "length of the vector that stands for a token"),
    "n_head": (4, 1, "attention heads, each with its share of that vector"),
    "block_size": (16, 1, "how many tokens the model sees at most"),
    "learning_rate": (0.01, 0.0, "size of the first step; it falls to 0"),
    "seed": (42, 0, "where the random numbers start: same seed, same run"),
    "temperature": (0.5, 0.0, "how freely to sample: 0 takes the likeliest token"),
    "samples": (20, 0, "how many texts to write after the training"),
    "prompt": ("", "", "what every one of them begins with"),
}


class InputError(ValueError):
    """What the user gave cannot be used; the message says why in one line."""


def check(condition, message, error=InputError):
    if not condition:
        raise error(message)


# ---------------------------------------------------------------------------------------------
# Model: from one token to the probabilities of the next
# ---------------------------------------------------------------------------------------------


class Model:
    """The weights by name, with the hyperparameters and the tokenizer they belong to.

    Raises InputError for sizes that do not go together or are too much for plain Python.
    """

    def __init__(self, config, tokenizer, rng):
        n, n_vocab, block = config.n_embd, len(tokenizer.vocab), config.block_size
        # A layer has 12 n^2 weights: 4 n^2 in attention, and twice 4 n^2 in the MLP.
        check(n * (2 * n_vocab + block + 12 * config.n_layer * n) <= 10**7, "over 10**7 weights")
        check(n % config.n_head == 0, f"n_head {config.n_head} does not divide n_embd {n}")

        def draw(n_out, n_in):  # -> [n_out, n_in]
            return [tuple(Value(rng.gauss(0, 0.08)) for _ in range(n_in)) for _ in range(n_out)]

        # Token to vector, position to vector, and vector to logits (the language model's head).
        weights = {"wte": draw(n_vocab, n), "wpe": draw(block, n), "lm_head": draw(n_vocab, n)}
        for layer in range(config.n_layer):
            for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):  # query, key, value, output
                weights[f"layer{layer}.{name}"] = draw(n, n)
            weights[f"layer{layer}.mlp_fc1"] = draw(4 * n, n)
            weights[f"layer{layer}.mlp_fc2"] = draw(n, 4 * n)
        self.config, self.tokenizer, self.weights = config, tokenizer, weights

    def parameters(self):
        """Every weight once, even where two names share a matrix."""
        return list({p: None for matrix in self.weights.values() for row in matrix for p in row})


def softmax(x):  # [n] -> [n]
    """exp(x_i) / sum(exp(x_j)): none negative, and together 1. As exp(x_i - log_total)."""
    log_total = logsumexp(x)
    [probs] = log_total.local_grads  # the gradient of logsumexp is softmax
    return [Value(p, ((value, log_total),), ((p, -p),)) for value, p in zip(x, probs)]


def rmsnorm(x):  # [n] -> [n]
    """x / sqrt(mean(x^2) + 1e-5) (Zhang and Sennrich 2019, eq. 4, without gain).

    The 1e-5 keeps it from dividing by 0.
    """
    scale = (linear(x, [x])[0] / len(x) + 1e-5) ** -0.5
    return [value * scale for value in x]


def activation(x):  # one Value -> one Value
    """ReLU squared (So et al. 2021): x^2 above 0, else 0."""
    return x.relu() * x  # relu(x) is x wherever it is not 0


def attend(query, keys, values):  # [head_dim], [n_seen, head_dim] twice -> [head_dim]
    """softmax(K q / sqrt(head_dim)) V (Vaswani et al. 2017, eq. 1), for one token and head."""
    query = [value / math.sqrt(len(query)) for value in query]
    return linear(softmax(linear(query, keys)), zip(*values))  # zip(*values) is V transposed


def attention(model, layer, x, keys, values):  # [n_embd] -> [n_embd]
    """Each head looks back for what it needs: multi-head attention over the KV lists.

    `keys` and `values` hold a list for each layer, with a vector for each token so far, which
    grows by that of this token. There is nothing ahead to look at, so no mask is needed.
    """
    w_q, w_k, w_v, w_o = (model.weights[f"layer{layer}.attn_w{name}"] for name in "qkvo")
    query = linear(x, w_q)
    keys.setdefault(layer, []).append(linear(x, w_k))
    values.setdefault(layer, []).append(linear(x, w_v))
    found, head_dim = [], len(x) // model.config.n_head
    for start in range(0, len(x), head_dim):
        head = slice(start, start + head_dim)
        head_keys, head_values = [k[head] for k in keys[layer]], [v[head] for v in values[layer]]
        found += attend(query[head], head_keys, head_values)
    return linear(found, w_o)


def mlp(model, layer, x):  # [n_embd] -> [4 * n_embd] -> [n_embd]
    """fc2 activation(fc1 x): each token thinks on its own about what it has found."""
    hidden = [activation(value) for value in linear(x, model.weights[f"layer{layer}.mlp_fc1"])]
    return linear(hidden, model.weights[f"layer{layer}.mlp_fc2"])


def gpt(model, token, position, keys, values):  # two ids -> [vocab_size]
    """One token in, the logits of the next one out."""
    w = model.weights
    x = rmsnorm([a + b for a, b in zip(w["wte"][token], w["wpe"][position])])
    for layer in range(model.config.n_layer):
        x = [a + b for a, b in zip(x, attention(model, layer, rmsnorm(x), keys, values))]
        x = [a + b for a, b in zip(x, mlp(model, layer, rmsnorm(x)))]
    return linear(x, w["lm_head"])


def cross_entropy(logits, target):  # [vocab_size], id -> one Value
    """-log(softmax(logits)[target]), without the log(0) of an improbable target."""
    return logsumexp(logits) - logits[target]


# ---------------------------------------------------------------------------------------------
# Adam: the rule that improves the weights
# ---------------------------------------------------------------------------------------------


class Adam:
    """Adam (Kingma and Ba 2015, Algorithm 1) over a list of Values, each listed once."""

    def __init__(self, params):
        self.params, self.t, self.moments = params, 0, [(0.0, 0.0)] * len(params)

    def step(self, learning_rate, beta1=0.85, beta2=0.99, eps=1e-8):
        """Move each parameter against its gradient, by about the learning rate."""
        self.t += 1
        unbias1, unbias2 = 1 - beta1**self.t, 1 - beta2**self.t  # since the moments start at 0
        for i, (param, (m, v)) in enumerate(zip(self.params, self.moments)):
            m = beta1 * m + (1 - beta1) * param.grad
            v = beta2 * v + (1 - beta2) * param.grad * param.grad
            self.moments[i] = m, v
            param.data -= learning_rate * (m / unbias1) / (math.sqrt(v / unbias2) + eps)


# ---------------------------------------------------------------------------------------------
# Tokenizer: from text to numbers and back
# ---------------------------------------------------------------------------------------------


class Tokenizer:
    """A token for each character of the documents, in sorted order, and last of all BOS.

    BOS stands before a text and after it: a model that says BOS has nothing to add. It is
    written as nothing.
    """

    def __init__(self, docs):
        self.vocab = sorted(set().union(*docs)) + [""]
        self.ids = {text: token for token, text in enumerate(self.vocab)}

    def encode(self, text):
        """BOS, a token for each character, BOS. Raises InputError for an unknown character."""
        check(set(text) <= set(self.ids), f"not in the text: {sorted(set(text) - set(self.ids))}")
        return [self.ids[char] for char in ["", *text, ""]]

    def decode(self, tokens):
        return "".join(self.vocab[token] for token in tokens)


# ---------------------------------------------------------------------------------------------
# Training, measuring, writing
# ---------------------------------------------------------------------------------------------


def read_docs(path):
    """The lines of a UTF-8 file, stripped, without blank ones. Raises OSError and ValueError."""
    with open(path, encoding="utf-8-sig") as file:
        docs = [line.strip() for line in file.read().split("\n") if line.strip()]
    check(docs and "\0" not in "".join(docs), f"{path} holds no text")
    return docs


def document_loss(model, tokens):  # [n + 1] ids -> one Value
    """The mean over the positions, at most block_size, of the loss in telling what follows."""
    keys, values, losses = {}, {}, []
    for position, token, target in zip(range(model.config.block_size), tokens, tokens[1:]):
        losses.append(cross_entropy(gpt(model, token, position, keys, values), target))
    return sum(losses) / len(losses)


def evaluate(model, sequences):
    """The mean loss of documents that are only looked at."""
    return sum(document_loss(model, tokens).data for tokens in sequences) / len(sequences)


def gradients(model, sequences, turn):
    """Add to the weights' grads what this turn's document asks for; return its loss."""
    loss = document_loss(model, sequences[turn % len(sequences)])
    loss.backward()
    return loss.data


def train(model, sequences):
    """Learn from the sequences, one a step, until the last step or Ctrl-C.

    The learning rate falls in a straight line to 0. Raises FloatingPointError for a loss that is
    not finite. A terminal shows one line, rewritten each step; elsewhere the first, every 100th
    and the last are printed.

    Python's collector looks for cycles among unused objects. The graph has none, so counting
    references is enough to free it, and the collector is off meanwhile. PyPy cannot do without.
    """
    steps, start, losses = model.config.steps, time.perf_counter(), []
    # Only a terminal has a live line; a program without a window may have no stdout at all.
    optimizer, live = Adam(model.parameters()), sys.stdout and sys.stdout.isatty()
    restore_collector = gc.enable if gc.isenabled() else gc.disable
    if sys.implementation.name == "cpython":
        gc.disable()
    try:
        for step in range(1, steps + 1):
            for param in optimizer.params:
                param.grad = 0.0
            losses.append(gradients(model, sequences, step - 1))
            check(math.isfinite(losses[-1]), f"step {step}: loss {losses[-1]}", FloatingPointError)
            optimizer.step(model.config.learning_rate * (1 - (step - 1) / steps))
            mean, pace = sum(losses[-100:]) / min(step, 100), (time.perf_counter() - start) / step
            line = f"step {step:4d} / {steps} | loss {losses[-1]:.4f} | last 100 {mean:.4f}"
            # Some numbers of steps are too large for a float, hence the 1e9.
            line += f" | {1000 * pace:5.1f} ms/step | {pace * min(steps - step, 1e9):4.0f} s left"
            if live or step in (1, steps) or step % 100 == 0:
                print(line.ljust(79 if live else 0), end="\r" if live and step < steps else "\n")
    except KeyboardInterrupt:
        print("\ninterrupted: on with what was learned")
    finally:
        restore_collector()


def probabilities(logits, temperature):  # [vocab_size] -> [vocab_size] numbers
    """softmax(logits / temperature), where temperature 0 stands for a very low one."""
    return [p.data for p in softmax([logit / max(temperature, 1e-100) for logit in logits])]


def generate(model, prompt="", temperature=0.5, rng=random):
    """The prompt and what the model adds to it, until it says BOS or the positions are used up.

    Raises InputError for a prompt that cannot be used, FloatingPointError where the model's
    logits are not finite.
    """
    *tokens, bos = model.tokenizer.encode(prompt)  # the last BOS would end the text
    check(len(tokens) <= model.config.block_size, "the prompt leaves no position to write in")
    keys, values = {}, {}
    for position in range(model.config.block_size):
        logits = gpt(model, tokens[position], position, keys, values)
        if position + 1 == len(tokens):
            probs = probabilities(logits, temperature)
            check(math.isfinite(sum(probs)), "a logit is not finite", FloatingPointError)
            tokens += rng.choices(range(len(probs)), weights=probs)
        if tokens[-1] == bos:
            break
    return model.tokenizer.decode(tokens)


def run(config):
    """The whole story: read, shuffle, hold out, train, measure, write. Returns the model.

    Raises InputError, OSError or UnicodeDecodeError, before the training, for unusable input.
    Ctrl-C ends the training early; a second one ends the program.
    """
    for name, (_, low, _) in HYPERPARAMETERS.items():
        # Not `<`: the prompt is a text. And nan is not at least anything.
        check(low <= vars(config)[name] != math.inf, f"{name} must be finite and at least {low}")
    rng = random.Random(config.seed)
    docs = read_docs(config.file)
    rng.shuffle(docs)
    model = Model(config, Tokenizer(docs), rng)
    # Written and thrown away, so that a prompt that cannot be used is found before the training.
    generate(model, config.prompt, rng=random.Random(0))
    sequences = [model.tokenizer.encode(doc) for doc in docs]
    n_cut = sum(len(tokens) > config.block_size + 1 for tokens in sequences)
    held_out = [sequences.pop() for _ in range(min(200, len(docs) // 10))]
    print(f"num docs: {len(docs)}, {len(held_out)} held out, {n_cut} cut to the block size")
    print(f"vocab size: {len(model.tokenizer.vocab)}\nnum params: {len(model.parameters())}")
    train(model, sequences)
    shown = f"{evaluate(model, held_out):.4f}" if held_out else "unknown (fewer than 10 documents)"
    print(f"held-out loss {shown}, guessing evenly {math.log(len(model.tokenizer.vocab)):.4f}")
    samples, known = [], {"", *(doc[: config.block_size] for doc in docs)}
    for number in range(1, config.samples + 1):
        samples.append(generate(model, config.prompt, config.temperature, rng))
        print(f"sample {number:2d}: {samples[-1]}")
    print(f"not in the file: {sum(text not in known for text in samples)} of {len(samples)}")
    return model


# ---------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------


def main(argv=None):
    """Do what the command line argv (default: nothing) says, and return the trained model."""
    parser = argparse.ArgumentParser("microgpt.py", allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"microgpt.py: error: {message}\n")
    beside = os.path.join(os.path.dirname(globals().get("__file__", "")), "names.txt")
    parser.add_argument("file", nargs="?", default=beside, help="UTF-8 text, a document a line")
    for name, (default, _, meaning) in HYPERPARAMETERS.items():
        flag, meaning = "--" + name.replace("_", "-"), f"{meaning} (default: {default!r})"
        parser.add_argument(flag, type=type(default), default=default, help=meaning)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    try:
        return run(parser.parse_args(argv or []))
    except BrokenPipeError:  # nobody reads on, and Python must not complain of it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except FloatingPointError as error:
        parser.exit(1, f"microgpt.py: error: {error}, try a smaller --learning-rate{'':20}\n")
    except (InputError, OSError, UnicodeDecodeError) as error:
        parser.error(error)
    except KeyboardInterrupt:
        parser.exit(130)


if __name__ == "__main__":
    # In a notebook there is no __file__, and sys.argv is the notebook's.
    model = main(sys.argv[1:] if "__file__" in globals() else None)

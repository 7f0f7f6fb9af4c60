"""microgpt: a GPT that trains and writes, in one file of plain Python.

    python microgpt.py              learn names.txt, then print names of its own
    python microgpt.py FILE         learn any UTF-8 text, one document a line
    python microgpt.py --help       everything that can be chosen

Read it from top to bottom: each part needs only the parts above it, and can be tried as soon as
it is typed. Comments tell lengths: `# [n_out, n_in]` is a list of n_out lists of n_in Values.
"""
# SPDX-License-Identifier: MIT

import argparse
import contextlib
import gc
import itertools
import math
import operator
import os
import random
import shutil
import sys
import time

# --- 1. Text to numbers ----------------------------------------------------------------------

class InputError(ValueError):
    """What the user gave cannot be used; the message says why in one line."""

def read_docs(path):
    """The lines of a UTF-8 file, stripped, without blank ones. Raises OSError or ValueError."""
    with open(path, encoding="utf-8-sig") as file:
        docs = [line.strip() for line in file if line.strip()]
    if not docs or "\0" in "".join(docs):
        raise InputError(f"{path} holds no text")
    return docs

class Tokenizer:
    """A token (a number) for each character of the documents, in sorted order, and one for BOS."""

    def __init__(self, docs):
        self.vocab = sorted(set().union(*docs))
        self.ids = {char: token for token, char in enumerate(self.vocab)}
        self.bos = len(self.vocab)  # "beginning of sequence"; after a text the same token ends it
        self.vocab_size = self.bos + 1

    def encode(self, text):
        """BOS, a token for each character, BOS. Raises InputError for an unknown character."""
        try:
            return [self.bos, *[self.ids[char] for char in text], self.bos]
        except KeyError as unknown:
            raise InputError(f"{unknown} is not in the vocabulary") from None

    def decode(self, tokens):
        """The text of the tokens; BOS has none."""
        return "".join(self.vocab[token] for token in tokens if token != self.bos)


# --- 2. Autograd: numbers that remember what they were computed from -------------------------

# Counted from the clock: if this part is run again, the new Values are still the youngest.
births = itertools.count(time.perf_counter_ns())

class Value:
    """One number in a computation, and how the end of the computation depends on it."""

    __slots__ = ("data", "grad", "inputs", "local_grads", "birth")

    def __init__(self, data, inputs=(), local_grads=()):
        self.data = float(data)
        self.grad = 0.0  # d end / d self, once end.backward() was called
        self.inputs = inputs  # the Values it was computed from; a leaf has none
        self.local_grads = local_grads  # d self / d input, a number for each input
        self.birth = next(births)  # the later it was made, the larger

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, n):
        return Value(self.data**n, (self,), (n and n * self.data ** (n - 1),))  # n = 0: slope 0

    def exp(self):
        result = math.exp(self.data)
        return Value(result, (self,), (result,))

    def log(self):
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def relu(self):
        return Value(max(self.data, 0.0), (self,), (float(self.data > 0),))

    def __neg__(self): return Value(-self.data, (self,), (-1.0,))
    def __sub__(self, other): return self + -other
    def __rsub__(self, other): return -self + other
    def __truediv__(self, other): return self * other**-1
    def __rtruediv__(self, other): return self**-1 * other
    def __repr__(self): return f"Value(data={self.data}, grad={self.grad})"
    __radd__ = __add__
    __rmul__ = __mul__

    def backward(self):
        """Add d self / d leaf to the grad of every leaf that self was computed from.

        A Value is born after its inputs. So, from the youngest to the oldest, each has its whole
        gradient before it passes it on. Only a leaf's grad adds up over calls, till it is set to 0.
        """
        reached, new = {self}, {self}
        while new:  # until there are only leaves, which pass nothing on
            new = {source for value in new for source in value.inputs if source.inputs} - reached
            reached |= new
        for value in reached:
            if value.inputs:
                value.grad = 0.0  # from an earlier call
        self.grad += 1.0  # d self / d self
        for value in sorted(reached, key=operator.attrgetter("birth"), reverse=True):
            if value.grad:  # where a relu gives 0, there is nothing to pass on
                for source, local_grad in zip(value.inputs, value.local_grads):
                    source.grad += local_grad * value.grad

def dot(a, b):  # [n], [n] -> one Value
    """a_1 * b_1 + ... + a_n * b_n. Raises ValueError for vectors of different lengths.

    Its slope in a_i is b_i, and in b_i it is a_i: that is all that one Value needs to know. It does
    the work of n products and n - 1 sums, and this is what makes the program fast.
    """
    if len(a) != len(b):
        raise ValueError(f"a dot product of {len(a)} and {len(b)} numbers")
    a_data = [value.data for value in a]
    b_data = [value.data for value in b]
    return Value(sum(map(operator.mul, a_data, b_data)), (*a, *b), b_data + a_data)

def logsumexp(x):  # [n] -> one Value
    """log(exp(x_1) + ... + exp(x_n)), whose slope in x_i is exp(x_i) over that sum."""
    largest = max(value.data for value in x)  # taken out, it keeps exp from overflowing
    exps = [math.exp(value.data - largest) for value in x]
    total = sum(exps)
    return Value(largest + math.log(total), tuple(x), [e / total for e in exps])


# --- 3. The model: from a token to logits, which are scores for each possible next token -----

class Model:
    """The weights by name: the numbers that training changes.

    `config` is any object with n_embd, n_head, n_layer and block_size. Raises InputError for
    sizes that do not fit together, or are too large.
    """

    def __init__(self, config, tokenizer, rng):
        n, n_vocab, n_position = config.n_embd, tokenizer.vocab_size, config.block_size
        if n % config.n_head:
            raise InputError(f"n_head {config.n_head} does not divide n_embd {n}")
        # A layer has 12 n^2 weights: 4 n^2 in attention, and twice 4 n^2 in the MLP.
        if n * (2 * n_vocab + n_position + 12 * config.n_layer * n) > 10**7:
            raise InputError("over 10**7 weights, too many for plain Python")

        def draw(n_out, n_in):  # -> [n_out, n_in]
            return [[Value(rng.gauss(0, 0.08)) for _ in range(n_in)] for _ in range(n_out)]

        # Token to vector, position to vector, vector to logits.
        weights = {"wte": draw(n_vocab, n), "wpe": draw(n_position, n), "lm_head": draw(n_vocab, n)}
        for layer in range(config.n_layer):
            for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):  # query, key, value, output
                weights[f"layer{layer}.{name}"] = draw(n, n)
            weights[f"layer{layer}.mlp_fc1"] = draw(4 * n, n)
            weights[f"layer{layer}.mlp_fc2"] = draw(n, 4 * n)
        self.config = config
        self.tokenizer = tokenizer
        self.weights = weights

    def parameters(self):
        """Every weight, each once, even if two names share a matrix."""
        return list({p: None for matrix in self.weights.values() for row in matrix for p in row})

def linear(x, w):  # [n_in], [n_out, n_in] -> [n_out]
    """w @ x: the dot product of each row with x."""
    return [dot(row, x) for row in w]

def add(x, y):  # [n], [n] -> [n]
    return [xi + yi for xi, yi in zip(x, y)]

def softmax(x):  # [n] -> [n]
    """exp(x_i) / (exp(x_1) + ... + exp(x_n)): shares that add up to 1."""
    log_total = logsumexp(x)
    return [(xi - log_total).exp() for xi in x]

def rmsnorm(x):  # [n] -> [n]
    """x / sqrt(mean(x^2)): its mean square is 1 (Zhang and Sennrich 2019, eq. 4, without gain)."""
    scale = (dot(x, x) / len(x) + 1e-5) ** -0.5  # 1e-5, so as not to divide by 0
    return [xi * scale for xi in x]

def activation(x):  # one Value -> one Value
    """x^2 above 0, else 0 (So et al. 2021). Without a bend, two linear steps would be one."""
    return x.relu() ** 2

def attend(query, keys, values):  # [head_dim], [n_seen, head_dim] twice -> [head_dim]
    """Mix the values by how well their keys match the query (Vaswani et al. 2017, eq. 1)."""
    scores = [dot(query, key) / math.sqrt(len(query)) for key in keys]
    return linear(softmax(scores), zip(*values))  # zip(*values) is V transposed

def attention(model, layer, x, keys, values):  # [n_embd] -> [n_embd]
    """Store this token's key and value; each head looks for what it needs in all so far."""
    weights = model.weights
    query = linear(x, weights[f"layer{layer}.attn_wq"])
    keys.setdefault(layer, []).append(linear(x, weights[f"layer{layer}.attn_wk"]))
    values.setdefault(layer, []).append(linear(x, weights[f"layer{layer}.attn_wv"]))
    found = []
    head_dim = len(x) // model.config.n_head
    for start in range(0, len(x), head_dim):
        head = slice(start, start + head_dim)
        head_keys = [vector[head] for vector in keys[layer]]
        head_values = [vector[head] for vector in values[layer]]
        found += attend(query[head], head_keys, head_values)
    return linear(found, weights[f"layer{layer}.attn_wo"])

def mlp(model, layer, x):  # [n_embd] -> [4 * n_embd] -> [n_embd]
    """fc2 activation(fc1 x): each token thinks on its own about what it has found."""
    hidden = [activation(xi) for xi in linear(x, model.weights[f"layer{layer}.mlp_fc1"])]
    return linear(hidden, model.weights[f"layer{layer}.mlp_fc2"])

def embed(model, token, position):  # token, position -> [n_embd]
    """What the model knows at first: this token, at this place."""
    return add(model.weights["wte"][token], model.weights["wpe"][position])

def gpt(model, token, position, keys, values):  # token, position -> [vocab_size]
    """One token in, the logits of the next one out; its keys and values are kept for later."""
    x = rmsnorm(embed(model, token, position))
    for layer in range(model.config.n_layer):
        x = add(x, attention(model, layer, rmsnorm(x), keys, values))  # added: x is kept, too
        x = add(x, mlp(model, layer, rmsnorm(x)))
    return linear(x, model.weights["lm_head"])

def cross_entropy(logits, target):  # [vocab_size], id -> one Value
    """How surprised the model is: -log(softmax(logits)[target]), here without any log(0)."""
    return logsumexp(logits) - logits[target]

def document_loss(model, tokens):  # [n + 1] ids -> one Value
    """The mean loss over its positions, of which at most block_size count."""
    keys, values, losses = {}, {}, []
    tokens = tokens[: model.config.block_size + 1]
    for position, target in enumerate(tokens[1:]):
        logits = gpt(model, tokens[position], position, keys, values)
        losses.append(cross_entropy(logits, target))
    return sum(losses) / len(losses)


# --- 4. Learning: change each weight a little, so that the loss falls ------------------------

class Adam:
    """Adam (Kingma and Ba 2015, Algorithm 1) over a list of Values, each listed once."""

    def __init__(self, params):
        self.params = params
        self.t = 0
        self.m = [0.0] * len(params)  # the running mean of each gradient
        self.v = [0.0] * len(params)  # the running mean of its square

    def step(self, rate, beta1=0.85, beta2=0.99, eps=1e-8):  # the paper: 0.9, 0.999
        """Move each by about `rate` against its mean gradient m: sqrt(v) takes out its size."""
        self.t += 1
        unbias1 = 1 - beta1**self.t  # the means start at 0, so they are too small at first
        unbias2 = 1 - beta2**self.t
        for i, param in enumerate(self.params):
            self.m[i] = m = beta1 * self.m[i] + (1 - beta1) * param.grad
            self.v[i] = v = beta2 * self.v[i] + (1 - beta2) * param.grad**2
            param.data -= rate * (m / unbias1) / (math.sqrt(v / unbias2) + eps)

def learning_rate(config, step):
    """The rate of a step, from 1 on: it falls in a straight line, and after the last it is 0."""
    return config.learning_rate * (1 - (step - 1) / config.steps)

def gradients(model, sequences, step):
    """One step forward and back: adds to the weights' grads, and returns the document's loss."""
    loss = document_loss(model, sequences[(step - 1) % len(sequences)])
    loss.backward()
    return loss.data

def finite(number, what):
    """The number itself. Raises FloatingPointError if it is infinite or nan."""
    if not math.isfinite(number):
        raise FloatingPointError(f"{what} is {number}")
    return number

def report(steps, losses, start):
    """Print how it goes: in a terminal one line that is written over, elsewhere every 100th."""
    step = len(losses)
    pace = (time.perf_counter() - start) / step
    line = (
        f"step {step:4d} / {steps} | loss {losses[-1]:.4f}"
        f" | last 100 {sum(losses[-100:]) / min(step, 100):.4f}"
        f" | {1000 * pace:5.1f} ms/step | {pace * (steps - step):4.0f} s left"
    )
    if sys.stdout is sys.__stdout__ and os.isatty(1):  # IDLE and notebooks replace stdout
        width = shutil.get_terminal_size().columns - 1
        end = "\r" if step < steps and math.isfinite(losses[-1]) else "\n"
        print(f"{line:<{width}.{width}}", end=end)  # filled and cut, to cover the one before
    elif step in (1, steps) or step % 100 == 0:
        print(line)

@contextlib.contextmanager
def without_collector():
    """Pause Python's search for dead cycles: Values make none, and it takes a tenth of the time."""
    was_on = gc.isenabled()
    if sys.implementation.name == "cpython":  # PyPy needs it: it does not count references
        gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

def train(model, sequences):
    """Learn, a sequence a step, until the last or Ctrl-C. Raises FloatingPointError."""
    optimizer = Adam(model.parameters())
    losses = []
    start = time.perf_counter()
    try:
        for step in range(1, model.config.steps + 1):
            for param in optimizer.params:
                param.grad = 0.0
            losses.append(gradients(model, sequences, step))
            report(model.config.steps, losses, start)
            finite(losses[-1], f"the loss of step {step}")
            optimizer.step(learning_rate(model.config, step))
    except KeyboardInterrupt:
        print("\ninterrupted: measuring and writing with what was learned so far")

def evaluate(model, sequences):
    """The mean loss of the sequences. Raises FloatingPointError if it is not finite."""
    total = sum(document_loss(model, tokens).data for tokens in sequences)
    return finite(total / len(sequences), "the held-out loss")


# --- 5. Writing ------------------------------------------------------------------------------

def probabilities(logits, temperature):  # [vocab_size] -> [vocab_size] numbers
    """softmax(logits / temperature): the lower, the surer; 0 is taken as very low."""
    return [p.data for p in softmax([logit / max(temperature, 1e-100) for logit in logits])]

def begin(model, prompt):
    """BOS and the tokens of the prompt. Raises InputError for a prompt that cannot be used."""
    tokens = model.tokenizer.encode(prompt)[:-1]  # the last BOS would end the text
    if len(tokens) > model.config.block_size:
        raise InputError("the prompt leaves no position to write in")
    return tokens

def generate(model, prompt="", temperature=0.5, rng=random):
    """The prompt and what the model adds, until it says BOS or the positions are used up."""
    tokens = begin(model, prompt)
    keys, values = {}, {}
    for position in range(model.config.block_size):
        logits = gpt(model, tokens[position], position, keys, values)
        if position + 1 == len(tokens):  # the prompt is read
            probs = probabilities(logits, temperature)
            finite(sum(probs), "the sum of the probabilities")
            tokens += rng.choices(range(len(probs)), probs)
        if tokens[-1] == model.tokenizer.bos:
            break
    return model.tokenizer.decode(tokens)


# --- 6. The whole story ----------------------------------------------------------------------

@without_collector()
def run(config):
    """Read, shuffle, hold out, train, measure, write. Returns the trained model.

    `config` has part 7's flags as attributes. Raises OSError or ValueError before the training,
    FloatingPointError in it or after it.
    """
    rng = random.Random(config.seed)
    docs = read_docs(config.file)
    rng.shuffle(docs)
    model = Model(config, Tokenizer(docs), rng)
    begin(model, config.prompt)  # so that a prompt that cannot be used is found now
    sequences = [model.tokenizer.encode(doc) for doc in docs]
    n_cut = sum(len(tokens) > config.block_size + 1 for tokens in sequences)
    n_train = len(docs) - min(200, len(docs) // 10)
    held_out = sequences[n_train:]  # not trained on, but for a line that comes twice
    print(f"num docs: {len(docs)}, {len(held_out)} held out, {n_cut} cut to the block size")
    n_vocab = model.tokenizer.vocab_size
    print(f"vocab size: {n_vocab}\nnum params: {len(model.parameters())}")
    train(model, sequences[:n_train])
    even = f"guessing evenly {math.log(n_vocab):.4f}"
    if held_out:
        loss = evaluate(model, held_out)
        choices = f"{round(math.exp(min(loss, 700)), 1)} equal choices"  # exp(710) would overflow
        print(f"held-out loss {loss:.4f}, {even}: as unsure as among {choices}, not {n_vocab}")
    else:
        print(f"held-out loss unknown (fewer than 10 documents), {even}")
    known = {"", *(doc[: config.block_size] for doc in docs)}  # a sample is no longer than that
    n_new = 0
    for number in range(1, config.samples + 1):
        text = generate(model, config.prompt, config.temperature, rng)
        print(f"sample {number:2d}: {text}")
        n_new += text not in known
    print(f"not in the file: {n_new} of {config.samples}")
    return model


# --- 7. The command line ---------------------------------------------------------------------

HYPERPARAMETERS = {  # chosen, not learned: name: (default, smallest, what it is)
    "steps": (1000, 0, "training steps, one document each"),
    "n_layer": (1, 0, "layers, each of attention and MLP"),
    "n_embd": (16, 1, "length of the vector that stands for a token"),
    "n_head": (4, 1, "attention heads, each with its share of that vector"),
    "block_size": (16, 1, "how many tokens the model sees at most"),
    "learning_rate": (0.01, 0, "size of the first step; it falls to 0"),
    "seed": (42, 0, "where the random numbers start: same seed, same run"),
    "temperature": (0.5, 0, "how freely to sample: 0 takes the likeliest token"),
    "samples": (20, 0, "how many texts to write after the training"),
}

def main(argv=()):
    """Do what the command line argv says, and return the trained model."""
    parser = argparse.ArgumentParser("microgpt.py", allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"microgpt.py: error: {message}\n")
    beside = os.path.join(os.path.dirname(globals().get("__file__", "")), "names.txt")
    parser.add_argument("file", nargs="?", default=beside, help="UTF-8 text, a document a line")
    parser.add_argument("--prompt", default="", help="what every text begins with")
    for name, (default, _, words) in HYPERPARAMETERS.items():
        flag = "--" + name.replace("_", "-")
        words += f" (default: {default})"
        parser.add_argument(flag, type=type(default), default=default, help=words)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)  # ? for what it lacks
    try:
        config = parser.parse_args(argv)
        for name, (_, smallest, _) in HYPERPARAMETERS.items():
            if not smallest <= getattr(config, name) < 10**18:  # nan fails this, too
                parser.error(f"{name} must be at least {smallest} and less than 10**18")
        return run(config)
    except BrokenPipeError:  # as with `| head`: Python must not complain of it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (FloatingPointError, OverflowError) as error:
        parser.exit(1, f"microgpt.py: error: {error}, try a smaller --learning-rate\n")
    except (InputError, OSError, UnicodeDecodeError) as error:
        parser.error(error)
    except KeyboardInterrupt:
        parser.exit(130)

if __name__ == "__main__":
    # In a notebook, which may lack __file__, sys.argv is meant for the kernel.
    as_script = "__file__" in globals() and "kernel_launcher" not in sys.argv[0]
    model = main(sys.argv[1:] if as_script else ())

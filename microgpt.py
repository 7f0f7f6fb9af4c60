"""microgpt: a GPT that trains and writes, in one file of plain Python.

    python microgpt.py [FILE]       learn names, or any text with a document a line; write more

Read it from top to bottom: each part needs only the parts above it, and can be tried as soon as
it is typed. Comments give shapes: `# [n_out, n_in]` is a list of n_out lists of n_in Values.
"""
# SPDX-License-Identifier: MIT
import argparse
import gc
import math
import operator
import os
import pathlib
import random
import re
import sys
import time

# --- 1. Text to numbers ----------------------------------------------------------------------
class InputError(ValueError):
    """What the user gave cannot be used: main shows it in one line, unlike a bug's ValueError."""

def read_docs(path):
    """The lines of a UTF-8 file, stripped, without blank ones. Raises OSError and InputError."""
    docs = []
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            # All but tabs, line ends and visible characters; bytes not UTF-8 are surrogates here.
            if re.search("[^\t\n -~\xa0-\ud7ff\ue000-\U0010ffff]", line):
                raise InputError(f"{path}, line {number}: not plain text (UTF-16?), save as UTF-8")
            doc = re.sub("[\ufeff\u200b]", "", line).strip()  # byte order mark, zero-width space
            if doc:
                docs.append(doc)
    if not docs:
        raise InputError(f"{path} holds no text")
    return docs

class Tokenizer:
    """A token (a number) for each character of the documents, in sorted order, and one for BOS."""
    def __init__(self, docs):
        self.vocab = sorted(set("".join(docs)))
        self.ids = {char: token for token, char in enumerate(self.vocab)}
        self.bos = len(self.vocab)  # "beginning of sequence"; after a text the same token ends it
        self.vocab_size = self.bos + 1

    def encode(self, text):
        """BOS, a token for each character, BOS. Raises InputError for an unknown character."""
        tokens = [self.bos]
        for char in text:
            if char not in self.ids:
                raise InputError(f"'{char}' (\\u{ord(char):04x}) is not in the vocabulary")
            tokens.append(self.ids[char])
        return tokens + [self.bos]

    def decode(self, tokens):
        """The text of the tokens; BOS has none."""
        return "".join(self.vocab[token] for token in tokens if token != self.bos)

# --- 2. Autograd: numbers that remember what they were computed from -------------------------
class Value:
    """One number in a computation, and how the end of the computation depends on it."""
    __slots__ = "data", "grad", "inputs", "local_grads"  # and no other: that saves memory and time

    def __init__(self, data, inputs=(), local_grads=()):
        self.data = float(data)
        self.grad = 0.0  # d end / d self, once end.backward() was called
        self.inputs = inputs  # the Values it was computed from; a leaf has none
        self.local_grads = local_grads  # d self / d input, a number for each input

    def __add__(self, other):
        other = to_value(other)
        return Value(self.data + other.data, [self, other], [1.0, 1.0])

    def __mul__(self, other):
        other = to_value(other)
        return Value(self.data * other.data, [self, other], [other.data, self.data])

    def __pow__(self, n):
        return Value(self.data**n, [self], [n * self.data ** (n - 1)])

    def exp(self):
        result = math.exp(self.data)
        return Value(result, [self], [result])

    def relu(self):
        return Value(max(self.data, 0.0), [self], [self.data > 0])  # in this order, max keeps a nan

    def __neg__(self): return self * -1
    def __sub__(self, other): return self + -to_value(other)
    def __rsub__(self, other): return -self + other
    def __truediv__(self, other): return self * to_value(other) ** -1
    def __repr__(self): return f"Value(data={self.data}, grad={self.grad})"
    __radd__ = __add__
    __rmul__ = __mul__

    def backward(self):
        """Add d self / d leaf to the grad of every leaf that self was computed from.

        Topological order: every computed Value comes after its inputs. Backwards through it, its
        grad is complete before it is passed on. Leaves add up over calls, the others start at 0.
        """
        order, seen, stack = [], {self}, [(self, iter(self.inputs))]
        while stack:
            value, rest = stack[-1]
            for source in rest:
                if source.inputs and source not in seen:
                    seen.add(source)
                    stack.append((source, iter(source.inputs)))
                    break  # this input comes first; after it, value goes on with the rest
            else:  # no input is left
                value.grad = 0.0
                order.append(value)
                stack.pop()
        self.grad = 1.0  # d self / d self
        for value in reversed(order):
            if value.grad:  # where a relu gives 0, there is nothing to pass on
                for source, local_grad in zip(value.inputs, value.local_grads):
                    source.grad += local_grad * value.grad

def to_value(x):  # a Value or a number -> a Value
    return x if isinstance(x, Value) else Value(x)

def dot(a, b):  # [n], [n] -> one Value
    """a_1 * b_1 + ... + a_n * b_n, whose slope in a_i is b_i, and in b_i it is a_i.

    Raises ValueError for different lengths. One Value in place of 2n - 1 is what makes it fast.
    """
    if len(a) != len(b):
        raise ValueError(f"a dot product of {len(a)} and {len(b)} numbers")
    a_data = [value.data for value in a]
    b_data = [value.data for value in b]
    return Value(sum(map(operator.mul, a_data, b_data)), [*a, *b], b_data + a_data)

def logsumexp(x):  # [n] -> one Value
    """log(exp(x_1) + ... + exp(x_n)), whose slope in x_i is exp(x_i) over that sum."""
    largest = max(value.data for value in x)  # taken out, it keeps exp from overflowing
    exps = [math.exp(value.data - largest) for value in x]
    total = sum(exps)
    if math.isnan(total):
        raise FloatingPointError("a score is infinite or nan")
    return Value(largest + math.log(total), [*x], [e / total for e in exps])

# --- 3. The model: from a token to logits, which are scores for each possible next token -----
class Model:
    """The weights by name: the numbers that training changes. The config is any object with n_embd,
    n_head, n_layer and block_size. Raises InputError if n_head does not divide n_embd."""
    def __init__(self, config, tokenizer, rng):
        n_embd, n_vocab = config.n_embd, tokenizer.vocab_size
        if n_embd % config.n_head:
            raise InputError(f"n_head {config.n_head} does not divide n_embd {n_embd}")
        self.config = config
        self.tokenizer = tokenizer
        self.weights = {}

        def draw(name, n_out, n_in):  # stores a matrix, [n_out, n_in]
            self.weights[name] = [[Value(rng.gauss(0, 0.08)) for _ in range(n_in)]
                                  for _ in range(n_out)]

        draw("wte", n_vocab, n_embd)  # token embeddings: a vector for each token
        draw("wpe", config.block_size, n_embd)  # position embeddings
        draw("lm_head", n_vocab, n_embd)  # vector to logits
        for layer in range(config.n_layer):
            for name in "attn_wq", "attn_wk", "attn_wv", "attn_wo":  # query, key, value, output
                draw(f"layer{layer}.{name}", n_embd, n_embd)
            draw(f"layer{layer}.mlp_fc1", 4 * n_embd, n_embd)
            draw(f"layer{layer}.mlp_fc2", n_embd, 4 * n_embd)

    def parameters(self):
        """All weights in one list."""
        return [param for matrix in self.weights.values() for row in matrix for param in row]

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
    scores = [dot(query, key) / len(query) ** 0.5 for key in keys]
    return linear(softmax(scores), zip(*values))  # zip(*values) is V transposed

def attention(model, layer, x, cache):  # [n_embd] -> [n_embd]
    """Keep this token's key and value; each head looks for what it needs in all so far."""
    query = linear(x, model.weights[f"layer{layer}.attn_wq"])
    key = linear(x, model.weights[f"layer{layer}.attn_wk"])
    value = linear(x, model.weights[f"layer{layer}.attn_wv"])
    heads = []
    head_dim = len(x) // model.config.n_head
    for start in range(0, len(x), head_dim):
        end = start + head_dim  # each head has its part of every vector, and its own two lists
        keys, values = cache.setdefault((layer, start), ([], []))
        keys.append(key[start:end])
        values.append(value[start:end])
        heads += attend(query[start:end], keys, values)
    return linear(heads, model.weights[f"layer{layer}.attn_wo"])

def mlp(model, layer, x):  # [n_embd] -> [4 * n_embd] -> [n_embd]
    """fc2 activation(fc1 x): each token thinks on its own about what it has found."""
    hidden = [activation(xi) for xi in linear(x, model.weights[f"layer{layer}.mlp_fc1"])]
    return linear(hidden, model.weights[f"layer{layer}.mlp_fc2"])

def embed(model, token, position):  # token, position -> [n_embd]
    """What the model knows at first: this token, at this place."""
    return add(model.weights["wte"][token], model.weights["wpe"][position])

def gpt(model, token, position, cache):  # token, position -> [vocab_size]
    """One token in, the next one's logits out. cache: {(layer, start): (keys, values)} so far."""
    x = rmsnorm(embed(model, token, position))
    for layer in range(model.config.n_layer):
        x = add(x, attention(model, layer, rmsnorm(x), cache))  # residual: added, not replaced
        x = add(x, mlp(model, layer, rmsnorm(x)))
    return linear(x, model.weights["lm_head"])

def cross_entropy(logits, target):  # [vocab_size], token -> one Value
    """How surprised the model is: -log(softmax(logits)[target]), here without any log(0)."""
    return logsumexp(logits) - logits[target]

def document_loss(model, tokens):  # [n + 1] -> one Value
    """The mean loss of predicting each token but the first; n is at most block_size."""
    cache, losses = {}, []
    for position, target in enumerate(tokens[1:]):
        logits = gpt(model, tokens[position], position, cache)
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
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * param.grad
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * param.grad**2
            m_hat = self.m[i] / unbias1
            v_hat = self.v[i] / unbias2
            param.data -= rate * m_hat / (v_hat**0.5 + eps)

def learning_rate_at(step, config):
    """The rate of a step, from 1 on: it falls in a straight line, and after the last it is 0."""
    return config.learning_rate * (1 - (step - 1) / config.steps)

def forward_backward(model, corpus, step):
    """Add the gradients of this step's document to the weights' grads, and return its loss."""
    loss = document_loss(model, corpus[(step - 1) % len(corpus)])
    loss.backward()
    return loss.data  # a number, so that the graph is gone before the next one is built

def show(line):
    """Only in a terminal: show a line that the next one overwrites."""
    if os.isatty(1):  # standard output
        print(f"{line:79}", end="\r")

def report(steps, losses, start):
    """Print how it goes at the first, the last and every 100th step; show it at the others."""
    step = len(losses)
    seconds = time.perf_counter() - start
    line = (f"step {step:4d} / {steps} | loss {losses[-1]:.4f}"
            f" | last 100 {sum(losses[-100:]) / min(step, 100):.4f}"
            f" | {1000 * seconds / step:5.1f} ms/step | {seconds * (steps / step - 1):4.0f} s left")
    show(line)
    if step in (1, steps) or step % 100 == 0:
        print(line)

def train(model, corpus):
    """Learn from a document at each step, until the last or Ctrl-C. Raises ArithmeticError."""
    optimizer = Adam(model.parameters())
    losses = []
    start = time.perf_counter()
    try:
        for step in range(1, model.config.steps + 1):
            for param in optimizer.params:
                param.grad = 0.0
            losses.append(forward_backward(model, corpus, step))
            report(model.config.steps, losses, start)
            optimizer.step(learning_rate_at(step, model.config))
    except KeyboardInterrupt:
        print("\ninterrupted: measuring and writing with what was learned so far")

def evaluate(model, corpus):
    """The mean loss of the documents."""
    total = 0.0
    for number, tokens in enumerate(corpus):
        show(f"measured {number} of {len(corpus)} held-out documents")
        total += document_loss(model, tokens).data
    return total / len(corpus)

# --- 5. Writing ------------------------------------------------------------------------------
def probabilities(logits, temperature):  # [vocab_size] -> [vocab_size] numbers
    """softmax(logits / temperature): the lower, the surer; 0 is taken as very low."""
    return [p.data for p in softmax([logit / max(temperature, 1e-100) for logit in logits])]

def prompt_tokens(model, prompt):
    """BOS and the tokens of the prompt. Raises InputError for a prompt that cannot be used."""
    tokens = model.tokenizer.encode(prompt)[:-1]  # the last BOS would end the text
    if len(tokens) > model.config.block_size:
        raise InputError("the prompt leaves no position to write in")
    return tokens

def generate(model, prompt="", temperature=0.5, rng=random):
    """The prompt and what the model adds, until it says BOS or the positions are used up."""
    tokens = prompt_tokens(model, prompt)
    cache = {}
    for position in range(model.config.block_size):
        logits = gpt(model, tokens[position], position, cache)
        if position + 1 == len(tokens):  # the prompt is read
            tokens += rng.choices(range(len(logits)), probabilities(logits, temperature))
        if tokens[-1] == model.tokenizer.bos:
            break
    return model.tokenizer.decode(tokens)

# --- 6. The whole story ----------------------------------------------------------------------
def run(config):
    """Read, shuffle, hold out, train, measure, write. Returns the trained model.

    The config has part 7's flags as attributes. Raises OSError or InputError before the training,
    ArithmeticError in it or after it, where numbers become too large.
    """
    rng = random.Random(config.seed)
    docs = read_docs(config.file)
    rng.shuffle(docs)
    model = Model(config, Tokenizer(docs), rng)
    tokenizer = model.tokenizer
    prompt_tokens(model, config.prompt)  # so that a prompt that cannot be used is found now
    corpus = [tokenizer.encode(doc)[: config.block_size + 1] for doc in docs]  # what fits
    n_cut = sum(tokens[-1] != tokenizer.bos for tokens in corpus)
    n_train = len(docs) - min(200, len(docs) // 10)  # a tenth is held out, at most 200
    trained = corpus[:n_train]
    held_out = [tokens for tokens in corpus[n_train:] if tokens not in trained]
    print(f"num docs: {len(docs)}, {len(held_out)} held out, {n_cut} cut to the block size")
    print(f"vocab size: {tokenizer.vocab_size}\nnum params: {len(model.parameters())}")
    train(model, trained)
    if held_out:
        loss = evaluate(model, held_out)
        if not loss < 100:  # nan, or far above log(vocab_size), which is to have learned nothing
            raise FloatingPointError(f"the held-out loss is {loss:.0f}")
        print(f"held-out loss {loss:.4f}, guessing evenly {math.log(tokenizer.vocab_size):.4f}: as "
              f"unsure as among {math.exp(loss):.1f} equal choices, not {tokenizer.vocab_size}")
    else:
        print("held-out loss unknown: there is no document that is not also trained on")
    known = {tokenizer.decode(tokens) for tokens in corpus}
    n_new = 0
    for number in range(config.samples):
        text = generate(model, config.prompt, config.temperature, rng)
        print(f"sample {number + 1:2d}: {text}")
        n_new += text not in known
    print(f"not in the file: {n_new} of {config.samples}")
    return model

# --- 7. The command line ---------------------------------------------------------------------
HYPERPARAMETERS = {  # chosen, not learned: name: (default, smallest, largest, what it is)
    "steps": (1000, 0, 1_000_000, "training steps, one document each"),
    "n_layer": (1, 0, 24, "layers, each of attention and MLP"),
    "n_embd": (16, 1, 256, "length of the vector that stands for a token"),
    "n_head": (4, 1, 256, "attention heads, each with its share of that vector"),
    "block_size": (16, 1, 512, "how many tokens the model sees at most"),
    "learning_rate": (0.01, 0, 1000, "size of the first step; it falls to 0"),
    "seed": (42, 0, 1_000_000_000, "where the random numbers start: same seed, same run"),
    "temperature": (0.5, 0, 1000, "how freely to sample: 0 takes the likeliest token"),
    "samples": (20, 0, 1_000_000, "how many texts to write after the training"),
}

def main(argv=()):
    """Do what the command line argv says, and return the trained model."""
    parser = argparse.ArgumentParser("microgpt.py", usage=argparse.SUPPRESS)  # so errors are a line
    beside = pathlib.Path(globals().get("__file__", "x")).with_name("names.txt")  # no file: here
    parser.add_argument("file", nargs="?", default=beside, help="UTF-8 text, a document a line")
    parser.add_argument("--prompt", default="", help="what every text begins with")
    for name, (default, _, _, words) in HYPERPARAMETERS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default,
                            help=f"{words} (default: {default})")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)  # "?" for what it lacks
    config = parser.parse_args(argv)
    for name, (_, smallest, largest, _) in HYPERPARAMETERS.items():
        if not smallest <= getattr(config, name) <= largest:  # also for nan
            parser.error(f"{name} must be from {smallest} to {largest}")
    if config.n_layer * config.n_embd * config.block_size > 20_000:  # takes up to 12 GB
        parser.error("n_layer * n_embd * block_size must be at most 20000, to fit into memory")
    try:
        return run(config)
    except BrokenPipeError:  # as with `| head`
        sys.stdout = None  # or Python would complain at exit that it cannot flush it
    except ArithmeticError as error:
        parser.exit(1, f"microgpt.py: error: {error}, try a smaller --learning-rate\n")
    except (InputError, OSError) as error:
        parser.error(error)
    except KeyboardInterrupt:
        parser.exit(130)

if __name__ == "__main__":
    as_script = "__file__" in globals() and "kernel_launcher" not in sys.argv[0]  # no notebook
    if as_script and sys.implementation.name == "cpython":
        gc.disable()  # Values make no cycles, and the search for some takes up to 25 % more time
    model = main(sys.argv[1:] if as_script else ())

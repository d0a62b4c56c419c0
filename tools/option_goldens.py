#!/usr/bin/env python3
"""Writes tests/golden/options: one small random model for each option of config.json, with its outputs.

An implementation of the model's definition that shares nothing with metala: JAX in double, one token
after another, gradients by automatic differentiation. Needs jax and safetensors from PyPI (made with
jax 0.10, Python 3.11):

    python3 tools/option_goldens.py tests/golden/options            # all of them
    python3 tools/option_goldens.py tests/golden/options no_decay   # some

A model is drawn again until float32 can compute its gradients well (`sensitivity`): otherwise the
test of an implementation in float32 would tell more about the draw than about the implementation.
"""
import json
import pathlib
import sys

import jax

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

BASE = {
    "model_type": "metala", "architectures": ["MetaLAForCausalLM"], "vocab_size": 23,
    "pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_embed_dim": 20, "decoder_layers": 2, "decoder_attention_heads": 2, "glu_act": "silu",
    "glu_dim": 24, "bias": False, "norm_type": "simplermsnorm", "no_scale_embedding": True,
    "tie_word_embeddings": False,
}
CASES = {
    "query_dim": {"query_dim": 14},
    "no_conv": {"short_conv_width": 0},
    "conv_2": {"short_conv_width": 2},
    "projected_key": {"key": "projected"},
    "fixed_decay": {"decay": "fixed"},
    "fixed_decay_projected_key": {"decay": "fixed", "key": "projected", "self_augmentation": False},
    "no_decay": {"decay": "none", "key": "projected"},
    "temperature_and_scale": {"decay_temperature": 2.5, "attention_scale": 0.7},
    "no_augmentation": {"self_augmentation": False},
    "bidirectional": {"bidirectional": True},
    "bidirectional_projected_key": {"bidirectional": True, "key": "projected"},
    "mlp": {"channel_mixer": "mlp", "bias": True},
    "identity": {"channel_mixer": "identity", "norm_type": "layernorm"},
    "layernorm": {"norm_type": "layernorm", "bias": True},
    "scaled_embedding": {"no_scale_embedding": False, "tie_word_embeddings": True},
    "glu_dim_of_the_width": {"glu_dim": -1},
    **{f"act_{a.replace('+', '_plus_')}": {"glu_act": a, "decoder_layers": 1}
       for a in ("swish", "gelu", "relu", "elu", "sigmoid", "leak", "1+elu", "2+elu", "sine", "exp")},
}
BATCH, LENGTH, GREEDY = 2, 17, 12
# How far gradients may move, relative to the largest of their tensor: a third of the 1e-4 that float32
# implementations are held to, and less where they only see weights rounded otherwise.
MOST_IN_FLOAT32, MOST_BY_ROUNDING = 3e-5, 5e-6


def activation(name, x):
    if name == "exp":
        return jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
    return {
        "silu": jax.nn.silu, "swish": jax.nn.silu, "relu": jax.nn.relu, "elu": jax.nn.elu,
        "gelu": lambda x: jax.nn.gelu(x, approximate=False), "sigmoid": jax.nn.sigmoid,
        "leak": lambda x: jnp.where(x > 0, x, 0.01 * x), "1+elu": lambda x: 1 + jax.nn.elu(x),
        "2+elu": lambda x: 2 + jax.nn.elu(x), "sine": jnp.sin,
    }[name](x)


def standardised(x):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5)


class Model:
    def __init__(self, config):
        self.c = config
        self.d = config["decoder_embed_dim"]
        self.heads = config["decoder_attention_heads"]
        self.dk = config.get("query_dim", self.d // 2)
        self.taps = config.get("short_conv_width", 4)
        self.scale = config.get("attention_scale", (self.dk / self.heads) ** -0.5)
        self.glu_dim = config["glu_dim"] if config["glu_dim"] > 0 else self.d

    def shapes(self):
        c, d, f = self.c, self.d, self.glu_dim
        norm = c["norm_type"] != "simplermsnorm"
        all = {"model.embed_tokens.weight": (c["vocab_size"], d)}
        for i in range(c["decoder_layers"]):
            p = f"model.layers.{i}."
            m = p + "token_mixer."
            if self.taps:
                all[m + "conv1d.weight"] = (d, 1, self.taps)
            all[m + "q_proj.weight"] = (self.dk, d)
            if c.get("decay", "dynamic") == "dynamic":
                all[m + "k_gate.weight"] = (self.dk, d)
            if c.get("decay") == "fixed":
                all[m + "decay"] = (self.dk,)
            if c.get("key") == "projected":
                all[m + "k_proj.weight"] = (self.dk, d)
            all[m + "v_proj.weight"] = all[m + "g_proj.weight"] = all[m + "out_proj.weight"] = (d, d)
            all[m + "g_proj.bias"] = (d,)
            if c.get("self_augmentation", True):
                all[m + "aug_balance"] = (self.dk,)
            x = p + "channel_mixer."
            mixer = c.get("channel_mixer", "glu")
            sizes = {"glu": {"l1": (f, d), "l2": (f, d), "l3": (d, f)},
                     "mlp": {"l1": (f, d), "l3": (d, f)}, "identity": {}}[mixer]
            for name, shape in sizes.items():
                all[x + name + ".weight"] = shape
                if c["bias"]:
                    all[x + name + ".bias"] = shape[:1]
            if norm:
                for n in ("token_norm", "channel_norm"):
                    all[p + n + ".weight"] = all[p + n + ".bias"] = (d,)
        if norm:
            all["model.final_norm.weight"] = all["model.final_norm.bias"] = (d,)
        if not c["tie_word_embeddings"]:
            all["lm_head.weight"] = (c["vocab_size"], d)
        return all

    def norm(self, w, name, x):
        if self.c["norm_type"] == "simplermsnorm":
            return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
        return standardised(x) * w[name + ".weight"] + w[name + ".bias"]

    def linear(self, w, name, x):
        y = x @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    def recurrence(self, q, k, a, v):
        """q, k, a [T, H, K], v [T, H, D]: outputs [T, H, D] and the last state [H, K, D]."""
        def step(s, token):
            q, k, a, v = token
            s = a[:, :, None] * s + k[:, :, None] * v[:, None, :]
            return s, self.scale * jnp.einsum("hk,hkd->hd", q, s)
        zero = jnp.zeros((q.shape[1], q.shape[2], v.shape[2]))
        last, o = jax.lax.scan(step, zero, (q, k, a, v))
        return o, last

    def mixer(self, w, p, x):
        """One sequence's normalised x [T, d]: output, state, convolution's window."""
        c, length = self.c, x.shape[0]
        window = jnp.zeros((0, self.d))
        if self.taps:
            padded = jnp.concatenate([jnp.zeros((self.taps, self.d)), x])
            window = padded[-self.taps:]
            taps = w[p + "conv1d.weight"][:, 0, :]
            x = jax.nn.silu(sum(taps[:, j] * padded[1 + j:1 + j + length]
                                for j in range(self.taps)))
        heads = lambda t: t.reshape(length, self.heads, -1)
        q, v = heads(self.linear(w, p + "q_proj", x)), heads(self.linear(w, p + "v_proj", x))
        z = self.linear(w, p + "g_proj", x)
        temperature = c.get("decay_temperature", 16)
        decay = c.get("decay", "dynamic")
        if decay == "none":
            a = jnp.ones_like(q)
        elif decay == "fixed":
            one = jax.nn.log_sigmoid(w[p + "decay"]) / temperature
            a = jnp.broadcast_to(jnp.exp(one).reshape(1, self.heads, -1), q.shape)
        else:
            a = jnp.exp(jax.nn.log_sigmoid(heads(self.linear(w, p + "k_gate", x))) / temperature)
        projected = c.get("key") == "projected"
        k = heads(self.linear(w, p + "k_proj", x)) if projected else 1 - a
        o, state = self.recurrence(q, k, a, v)
        if c.get("bidirectional"):
            o = o + self.recurrence(q[::-1], k[::-1], a[::-1], v[::-1])[0][::-1]
        if c.get("self_augmentation", True):
            aug = w[p + "aug_balance"].reshape(self.heads, -1)
            o = o + jax.nn.sigmoid((q * k * aug).sum(-1, keepdims=True) * v)
        o = standardised(o).reshape(length, self.d)
        return self.linear(w, p + "out_proj", jax.nn.silu(z) * o), state, window.T

    def channels(self, w, p, x):
        mixer = self.c.get("channel_mixer", "glu")
        if mixer == "identity":
            return x
        a = self.linear(w, p + "l1", x)
        if mixer == "mlp":
            return self.linear(w, p + "l3", activation("gelu", a))
        return self.linear(w, p + "l3",
                           activation(self.c["glu_act"], a) * self.linear(w, p + "l2", x))

    def forward(self, w, ids):
        """One sequence: logits [T, V], states and windows of the layers."""
        table = w["model.embed_tokens.weight"]
        x = table[ids] * (1 if self.c["no_scale_embedding"] else self.d ** 0.5)
        states = []
        for i in range(self.c["decoder_layers"]):
            p = f"model.layers.{i}."
            y, state, window = self.mixer(w, p + "token_mixer.", self.norm(w, p + "token_norm", x))
            x = x + y
            x = x + self.channels(w, p + "channel_mixer.", self.norm(w, p + "channel_norm", x))
            states.append((state, window))
        head = table if self.c["tie_word_embeddings"] else w["lm_head.weight"]
        return self.norm(w, "model.final_norm", x) @ head.T, states

    def loss(self, w, ids):
        logits = jax.vmap(lambda row: self.forward(w, row)[0])(ids)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), ids[:, 1:, None], -1)
        return -chosen.mean()


def random_weights(model, rng):
    weights = {}
    for name, shape in model.shapes().items():
        spread = 0.6 if len(shape) != 2 or "embed" in name else 1.4 / shape[1] ** 0.5
        value = rng.normal(0, spread, shape) + (1 if "norm.weight" in name else 0)
        weights[name] = value.astype(np.float32)
    return weights


def cast(weights, dtype):
    return {name: jnp.asarray(t, dtype) for name, t in weights.items()}


def distance(gradients, exact):
    """The largest difference of an element, relative to the largest element of its tensor."""
    return max(float(np.abs(np.asarray(gradients[name], np.float64) - g).max() / np.abs(g).max())
               for name, g in exact.items())


def sensitivity(model, gradient, stored, ids, exact):
    """What float32 does to the gradients: computed in it throughout, and in double from weights that
    are off by up to half a unit in their last place (the worst of four draws)."""
    with jax.enable_x64(False):
        single = jax.jit(jax.grad(model.loss))(cast(stored, jnp.float32), jnp.asarray(ids, jnp.int32))
    rng = np.random.default_rng(0)
    nudged = [{name: t * (1 + 2.0 ** -24 * rng.uniform(-1, 1, t.shape)) for name, t in stored.items()}
              for _ in range(4)]
    return (distance(single, exact),
            max(distance(gradient(cast(n, jnp.float64), ids)[1], exact) for n in nudged))


def draw(model, seed):
    """Weights, ids, loss and gradients of the first of the seeds seed, seed + 100, ... that float32
    can compute well."""
    gradient = jax.jit(jax.value_and_grad(model.loss))
    for attempt in range(40):
        rng = np.random.default_rng(seed + 100 * attempt)
        stored = random_weights(model, rng)
        # Without the padding id, whose embedding the authors' class gives no gradient.
        ids = rng.choice([i for i in range(model.c["vocab_size"]) if i != 2], (BATCH, LENGTH))
        loss, exact = gradient(cast(stored, jnp.float64), ids)
        in_float32, by_rounding = sensitivity(model, gradient, stored, ids, exact)
        if in_float32 <= MOST_IN_FLOAT32 and by_rounding <= MOST_BY_ROUNDING:
            print(f"  seed {seed + 100 * attempt}: {in_float32:.1e} in float32, "
                  f"{by_rounding:.1e} by rounding")
            return stored, ids, loss, exact
    sys.exit("no draw has gradients that float32 computes well; look at the case itself")


def write_case(folder, changes, seed):
    config = {**BASE, **changes}
    model = Model(config)
    stored, ids, loss, gradients = draw(model, seed)
    weights = cast(stored, jnp.float64)
    causal = not config.get("bidirectional")
    forward = jax.jit(model.forward)
    rows = [forward(weights, row) for row in ids]
    out = {"input_ids": ids.astype(np.int64),
           "logits": np.stack([r[0] for r in rows]).astype(np.float32)}
    if causal:
        for i in range(config["decoder_layers"]):
            out[f"state.{i}"] = np.stack([r[1][i][0] for r in rows]).astype(np.float32)
            if model.taps:
                out[f"conv_state.{i}"] = np.stack([r[1][i][1] for r in rows]).astype(np.float32)
        out["greedy"], out["greedy_margin"] = greedy(forward, weights, ids)
    out["loss"] = np.asarray(loss)
    out.update({"grad." + name: np.asarray(g, np.float32) for name, g in gradients.items()})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, folder / "expected.safetensors")


def greedy(forward, weights, ids):
    chosen, margins = [], []
    for row in ids:
        row, tokens, gaps = list(row), [], []
        for _ in range(GREEDY):
            # Padded on the right to one length, so that it is compiled once; a causal model does not see it.
            padded = np.array(row + [0] * (LENGTH + GREEDY - len(row)))
            logits = np.asarray(forward(weights, padded)[0][len(row) - 1])
            low, high = np.sort(logits)[-2:]
            tokens.append(int(logits.argmax()))
            gaps.append(high - low)
            row.append(tokens[-1])
        chosen.append(tokens)
        margins.append(gaps)
    return np.array(chosen, np.int64), np.array(margins, np.float32)


if __name__ == "__main__":
    wanted = set(sys.argv[2:]) or set(CASES)
    if len(sys.argv) < 2 or not wanted <= set(CASES):
        sys.exit(__doc__)
    for seed, (name, changes) in enumerate(CASES.items()):
        if name in wanted:
            print(name, flush=True)
            write_case(pathlib.Path(sys.argv[1]) / name, changes, seed + 300)

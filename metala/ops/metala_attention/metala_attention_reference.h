// The definition of MetaLA attention and of its gradient: plain loops over tokens, any scalar.
// double is the truth that the fast forms are held to, and what an f64 model runs on.
//
// The backward pass keeps the state after every token, K D (T + 1) numbers for each head.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "metala/ops/metala_attention/metala_attention_head.h"

namespace metala::metala_attention::reference {

inline constexpr double norm_epsilon = 1e-5;

// log sigmoid(u), accurate for every finite u.
template <class T>
T log_sigmoid(T u) {
  return std::min(u, T{0}) - std::log1p(std::exp(-std::abs(u)));
}

template <class T>
T sigmoid(T x) {
  return std::exp(log_sigmoid(x));
}

// One token's decay a = e^g and its complement 1 - a, each to full precision.
template <class T>
struct Decay {
  T keep, lose;
};

template <class T>
Decay<T> decay_of(const Head<T>& h, std::int64_t t, std::int64_t i) {
  if (!h.u) return {1, 0};
  const T g = log_sigmoid(h.u[t][i]) / h.temperature;
  return {std::exp(g), -std::expm1(g)};
}

template <class T>
T key_of(const Head<T>& h, std::int64_t t, std::int64_t i) {
  return h.k ? h.k[t][i] : decay_of(h, t, i).lose;
}

template <class T>
std::vector<T> initial_state(const Head<T>& h) {
  std::vector<T> state;
  for (std::int64_t i = 0; i < h.key_width; ++i) {
    for (std::int64_t j = 0; j < h.value_width; ++j) {
      state.push_back(h.before ? h.before[i][j] : T{0});
    }
  }
  return state;
}

// S[t] from S[t-1], in place. With the tied key the sum a S + (1 - a) v is written as S moving a
// share of the way to v: rounding a would otherwise shrink a long-lived state at every token.
template <class T>
void advance(const Head<T>& h, std::int64_t t, T* state) {
  for (std::int64_t i = 0; i < h.key_width; ++i) {
    const Decay<T> decay = decay_of(h, t, i);
    T* row = state + i * h.value_width;
    for (std::int64_t j = 0; j < h.value_width; ++j) {
      const T v = h.v[t][j];
      row[j] += h.k ? h.k[t][i] * v - decay.lose * row[j] : decay.lose * (v - row[j]);
    }
  }
}

// c += scale S[t]^T q[t] along a whole sequence.
template <class T>
void read_states(const Head<T>& h, std::vector<T>& state, Rows<T> c) {
  for (std::int64_t t = 0; t < h.tokens; ++t) {
    advance(h, t, state.data());
    for (std::int64_t j = 0; j < h.value_width; ++j) {
      T sum = 0;
      for (std::int64_t i = 0; i < h.key_width; ++i) {
        sum += h.q[t][i] * state[static_cast<std::size_t>(i * h.value_width + j)];
      }
      c[t][j] += h.scale * sum;
    }
  }
}

template <class T>
T augmentation_score(const Head<T>& h, std::int64_t t) {
  T score = 0;
  for (std::int64_t i = 0; i < h.key_width; ++i) score += h.q[t][i] * key_of(h, t, i) * h.aug[i];
  return score;
}

template <class T>
struct RowNorm {
  T mean = 0, inverse_deviation = 0;
  RowNorm(const T* c, std::int64_t width) {
    T variance = 0;
    for (std::int64_t j = 0; j < width; ++j) mean += c[j] / static_cast<T>(width);
    for (std::int64_t j = 0; j < width; ++j) {
      variance += (c[j] - mean) * (c[j] - mean) / static_cast<T>(width);
    }
    inverse_deviation = 1 / std::sqrt(variance + static_cast<T>(norm_epsilon));
  }
};

// sigmoid(x) less its constant half.
template <class T>
T centred_sigmoid(T x) {
  return std::tanh(x / 2) / 2;
}

template <class T>
void forward(const Head<T>& h, const HeadOutputs<T>& out) {
  const auto width = h.value_width;
  std::vector<T> c(static_cast<std::size_t>(h.tokens * width));
  const Rows<T> rows = {c.data(), width};
  std::vector<T> state = initial_state(h);
  read_states(h, state, rows);
  if (h.bidirectional) {
    std::vector<T> from_the_right(state.size());
    read_states(reversed(h), from_the_right, reversed(rows, h.tokens));
  }
  for (std::int64_t t = 0; t < h.tokens; ++t) {
    if (h.aug != nullptr) {
      const T score = augmentation_score(h, t);
      for (std::int64_t j = 0; j < width; ++j) rows[t][j] += centred_sigmoid(score * h.v[t][j]);
    }
    const RowNorm<T> norm(rows[t], width);
    for (std::int64_t j = 0; j < width; ++j) {
      const T y = (rows[t][j] - norm.mean) * norm.inverse_deviation;
      out.o[t][j] = h.z ? h.z[t][j] * sigmoid(h.z[t][j]) * y : y;
      if (out.mixed) out.mixed[t][j] = rows[t][j];
    }
  }
  if (!out.after) return;
  for (std::int64_t i = 0; i < h.key_width; ++i) {
    for (std::int64_t j = 0; j < width; ++j) {
      out.after[i][j] = state[static_cast<std::size_t>(i * width + j)];
    }
  }
}

// The gradient of c from that of o, and of z.
template <class T>
void backward_norm(const Head<T>& h, const HeadGradients<T>& d, Rows<T> dc) {
  const auto width = h.value_width;
  for (std::int64_t t = 0; t < h.tokens; ++t) {
    const T* c = d.mixed[t];
    const RowNorm<T> norm(c, width);
    T mean = 0;
    T along = 0;
    for (std::int64_t j = 0; j < width; ++j) {
      const T y = (c[j] - norm.mean) * norm.inverse_deviation;
      dc[t][j] = d.o[t][j];
      if (h.z) {
        const T z = h.z[t][j];
        const T gate = sigmoid(z);
        dc[t][j] *= z * gate;
        if (d.z) d.z[t][j] += d.o[t][j] * y * gate * (1 + z * sigmoid(-z));
      }
      mean += dc[t][j] / static_cast<T>(width);
      along += dc[t][j] * y / static_cast<T>(width);
    }
    for (std::int64_t j = 0; j < width; ++j) {
      const T y = (c[j] - norm.mean) * norm.inverse_deviation;
      dc[t][j] = norm.inverse_deviation * (dc[t][j] - mean - y * along);
    }
  }
}

// Adds a gradient of the key where it belongs: to the projected key, or through 1 - a to the gate.
template <class T>
void add_key_gradient(const Head<T>& h, const HeadGradients<T>& d, std::int64_t t, std::int64_t i,
                      T dk) {
  if (h.k) {
    if (d.k) d.k[t][i] += dk;
  } else if (d.u) {
    d.u[t][i] -= dk * decay_of(h, t, i).keep * sigmoid(-h.u[t][i]) / h.temperature;
  }
}

template <class T>
void backward_augmentation(const Head<T>& h, const HeadGradients<T>& d, Rows<T> dc) {
  for (std::int64_t t = 0; t < h.tokens; ++t) {
    const T score = augmentation_score(h, t);
    T dscore = 0;
    for (std::int64_t j = 0; j < h.value_width; ++j) {
      const T v = h.v[t][j];
      const T r = dc[t][j] * sigmoid(score * v) * sigmoid(-score * v);
      dscore += r * v;
      if (d.v) d.v[t][j] += r * score;
    }
    for (std::int64_t i = 0; i < h.key_width; ++i) {
      const T q = h.q[t][i];
      const T k = key_of(h, t, i);
      if (d.q) d.q[t][i] += dscore * k * h.aug[i];
      if (d.aug != nullptr) d.aug[i] += dscore * q * k;
      add_key_gradient(h, d, t, i, dscore * q * h.aug[i]);
    }
  }
}

// The recurrence's shares, right to left: dS[t] = scale q[t] dc[t]^T + diag(a[t+1]) dS[t+1].
template <class T>
void backward_recurrence(const Head<T>& h, const HeadGradients<T>& d, Rows<const T> dc) {
  const auto width = h.value_width;
  const auto size = static_cast<std::size_t>(h.key_width * width);
  std::vector<T> states = initial_state(h);
  for (std::int64_t t = 0; t < h.tokens; ++t) {
    states.resize(states.size() + size);
    std::copy(states.end() - 2 * static_cast<std::ptrdiff_t>(size),
              states.end() - static_cast<std::ptrdiff_t>(size),
              states.end() - static_cast<std::ptrdiff_t>(size));
    advance(h, t, states.data() + states.size() - size);
  }
  std::vector<T> dstate(size);
  for (std::int64_t i = 0; i < h.key_width && d.after; ++i) {
    std::copy_n(d.after[i], width, dstate.data() + i * width);
  }
  for (std::int64_t t = h.tokens - 1; t >= 0; --t) {
    for (std::int64_t i = 0; i < h.key_width; ++i) {
      const T* past = states.data() + (t * h.key_width + i) * width;
      const T* present = past + h.key_width * width;
      T* ds = dstate.data() + i * width;
      const Decay<T> decay = decay_of(h, t, i);
      const T k = key_of(h, t, i);
      T dq = 0;
      T dk = 0;
      T da = 0;
      for (std::int64_t j = 0; j < width; ++j) {
        ds[j] += h.scale * h.q[t][i] * dc[t][j];
        dq += h.scale * present[j] * dc[t][j];
        dk += ds[j] * h.v[t][j];
        da += ds[j] * past[j];
        if (d.v) d.v[t][j] += ds[j] * k;
        ds[j] *= decay.keep;
      }
      if (d.q) d.q[t][i] += dq;
      if (d.u) d.u[t][i] += da * decay.keep * sigmoid(-h.u[t][i]) / h.temperature;
      add_key_gradient(h, d, t, i, dk);
    }
  }
  for (std::int64_t i = 0; i < h.key_width && d.before; ++i) {
    for (std::int64_t j = 0; j < width; ++j) {
      d.before[i][j] += dstate[static_cast<std::size_t>(i * width + j)];
    }
  }
}

template <class T>
void backward(const Head<T>& h, const HeadGradients<T>& d) {
  std::vector<T> gradient(static_cast<std::size_t>(h.tokens * h.value_width));
  const Rows<T> dc = {gradient.data(), h.value_width};
  backward_norm(h, d, dc);
  if (h.aug != nullptr) backward_augmentation(h, d, dc);
  const Rows<const T> read = {gradient.data(), h.value_width};
  backward_recurrence(h, d, read);
  if (h.bidirectional) {
    backward_recurrence(reversed(h), reversed(d, h.tokens), reversed(read, h.tokens));
  }
}

template <class T>
void forward(const Options& options, const Inputs& in, Offsets offsets, const Tensor& o,
             const Tensor& mixed, const Tensor& after) {
  for (std::int64_t b = 0; b < batch_of(offsets); ++b) {
    for (std::int64_t h = 0; h < options.heads; ++h) {
      const Head<T> head = head_of<T>(options, in, offsets, b, h);
      forward(head, outputs_of(head, o, mixed, after, offsets, b, h));
    }
  }
}

template <class T>
void transition(const Options& options, const Inputs& in, Offsets offsets, const Tensor& added,
                const Tensor& decay) {
  for (std::int64_t b = 0; b < batch_of(offsets); ++b) {
    for (std::int64_t h = 0; h < options.heads; ++h) {
      const Head<T> head = head_of<T>(options, in, offsets, b, h);
      std::vector<T> state = initial_state(head);
      T* kept = decay.data<T>() + b * decay.stride(0) + h * decay.stride(1);
      std::fill_n(kept, head.key_width, T{1});
      for (std::int64_t t = 0; t < head.tokens; ++t) {
        advance(head, t, state.data());
        for (std::int64_t i = 0; i < head.key_width; ++i) kept[i] *= decay_of(head, t, i).keep;
      }
      const Rows<T> out = state_rows<T>(added, b, h);
      for (std::int64_t i = 0; i < head.key_width; ++i) {
        std::copy_n(state.data() + i * head.value_width, head.value_width, out[i]);
      }
    }
  }
}

template <class T>
void backward(const Options& options, const Inputs& in, Offsets offsets, const Tensor& mixed,
              const Tensor& do_, const Tensor& dafter, const Gradients& to) {
  for (std::int64_t b = 0; b < batch_of(offsets); ++b) {
    for (std::int64_t h = 0; h < options.heads; ++h) {
      const Head<T> head = head_of<T>(options, in, offsets, b, h);
      backward(head, gradients_of(head, mixed, do_, dafter, to, offsets, b, h));
    }
  }
}

}  // namespace metala::metala_attention::reference

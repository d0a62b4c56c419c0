// One head of one sequence as bare rows: what every form of the op works on.
//
// Heads of all sequences are independent, so a form is written for one of them and never sees
// tensors. Two choices of strides keep special cases out of the forms: one gate for all tokens is a
// matrix of row stride 0 (and so is its gradient, into which all tokens add), and a sequence walked
// right to left starts at its last row and has negative strides.
#pragma once

#include <cstddef>
#include <cstdint>

#include "metala/ops/metala_attention/metala_attention.h"

namespace metala::metala_attention {

// Rows of a matrix: tokens, or the K rows of a state. No data: absent.
template <class T>
struct Rows {
  T* data = nullptr;
  std::ptrdiff_t stride = 0;  // elements
  explicit operator bool() const { return data != nullptr; }
  T* operator[](std::int64_t row) const { return data + row * stride; }
};

template <class T>
Rows<const T> read_only(Rows<T> rows) {
  return {rows.data, rows.stride};
}

template <class T>
Rows<T> reversed(Rows<T> rows, std::int64_t count) {
  if (!rows || count == 0) return rows;
  return {rows[count - 1], -rows.stride};
}

template <class T>
struct Head {
  std::int64_t tokens = 0;
  std::int64_t key_width = 0;    // K
  std::int64_t value_width = 0;  // D
  T scale = 1;
  T temperature = 1;
  bool bidirectional = false;
  Rows<const T> q, u, k, v, z;  // u of stride 0: fixed decay; absent: no decay. k absent: tied
  const T* aug = nullptr;
  Rows<const T> before;
};

template <class T>
struct HeadOutputs {
  Rows<T> o, mixed, after;
};

// The gradients that come in, and those to add to. `aug` and a `u` of stride 0 are sums over
// tokens.
template <class T>
struct HeadGradients {
  Rows<const T> mixed, o, after;
  Rows<T> q, u, k, v, z;
  T* aug = nullptr;
  Rows<T> before;
};

// Columns [at, at + width) of a token matrix, rows from `first`.
template <class T, class U = std::remove_const_t<T>>
Rows<T> token_rows(const Tensor& matrix, std::int64_t first, std::int64_t at) {
  if (!matrix.defined()) return {};
  return {matrix.data<U>() + first * matrix.stride(0) + at, matrix.stride(0)};
}

// The [K, D] state of sequence b and head h.
template <class T, class U = std::remove_const_t<T>>
Rows<T> state_rows(const Tensor& states, std::int64_t b, std::int64_t h) {
  if (!states.defined()) return {};
  return {states.data<U>() + b * states.stride(0) + h * states.stride(1), states.stride(2)};
}

template <class T>
Head<T> head_of(const Options& options, const Inputs& in, Offsets offsets, std::int64_t b,
                std::int64_t h) {
  Head<T> head;
  const auto first = offsets[static_cast<std::size_t>(b)];
  head.tokens = offsets[static_cast<std::size_t>(b) + 1] - first;
  head.key_width = in.q.size(1) / options.heads;
  head.value_width = in.v.size(1) / options.heads;
  head.scale = static_cast<T>(options.scale);
  head.temperature = static_cast<T>(options.temperature);
  head.bidirectional = options.bidirectional;
  const auto channel = h * head.key_width;
  const auto column = h * head.value_width;
  head.q = token_rows<const T>(in.q, first, channel);
  head.u = token_rows<const T>(in.u, first, channel);
  if (in.fixed_decay.defined()) head.u = {in.fixed_decay.data<T>() + channel, 0};
  head.k = token_rows<const T>(in.k, first, channel);
  head.v = token_rows<const T>(in.v, first, column);
  head.z = token_rows<const T>(in.z, first, column);
  if (in.aug.defined()) head.aug = in.aug.data<T>() + channel;
  head.before = state_rows<const T>(in.before, b, h);
  return head;
}

template <class T>
HeadOutputs<T> outputs_of(const Head<T>& head, const Tensor& o, const Tensor& mixed,
                          const Tensor& after, Offsets offsets, std::int64_t b, std::int64_t h) {
  const auto first = offsets[static_cast<std::size_t>(b)];
  const auto column = h * head.value_width;
  return {token_rows<T>(o, first, column), token_rows<T>(mixed, first, column),
          state_rows<T>(after, b, h)};
}

// `aug` and `fixed_decay` are the [H*K] rows that sums over this head's tokens are added to.
template <class T>
HeadGradients<T> gradients_of(const Head<T>& head, const Tensor& mixed, const Tensor& do_,
                              const Tensor& dafter, const Gradients& to, Offsets offsets,
                              std::int64_t b, std::int64_t h) {
  const auto first = offsets[static_cast<std::size_t>(b)];
  const auto channel = h * head.key_width;
  const auto column = h * head.value_width;
  HeadGradients<T> d;
  d.mixed = token_rows<const T>(mixed, first, column);
  d.o = token_rows<const T>(do_, first, column);
  d.after = state_rows<const T>(dafter, b, h);
  d.q = token_rows<T>(to.q, first, channel);
  d.u = token_rows<T>(to.u, first, channel);
  if (to.fixed_decay.defined()) d.u = {to.fixed_decay.data<T>() + channel, 0};
  d.k = token_rows<T>(to.k, first, channel);
  d.v = token_rows<T>(to.v, first, column);
  d.z = token_rows<T>(to.z, first, column);
  if (to.aug.defined()) d.aug = to.aug.data<T>() + channel;
  d.before = state_rows<T>(to.before, b, h);
  return d;
}

// The same head with time running backwards.
template <class T>
Head<T> reversed(Head<T> head) {
  for (auto* rows : {&head.q, &head.u, &head.k, &head.v, &head.z}) {
    *rows = reversed(*rows, head.tokens);
  }
  return head;
}

template <class T>
HeadGradients<T> reversed(HeadGradients<T> d, std::int64_t tokens) {
  for (auto* rows : {&d.mixed, &d.o}) *rows = reversed(*rows, tokens);
  for (auto* rows : {&d.q, &d.u, &d.k, &d.v, &d.z}) *rows = reversed(*rows, tokens);
  return d;
}

}  // namespace metala::metala_attention

// Communicator: a group of ranks (processes) that exchange tensors.
//
// Every operation is collective: all ranks of the group call it, in the same order, with tensors of
// the same shape and type. An operation is started and waited for; in between the tensors it reads
// may be read and those it writes must be left alone. Results of a CPU tensor are there when `wait`
// returns; those of a GPU tensor are seen by work enqueued on the GPU after it.
//
// `what` names the tensors in errors, "gradients". Time is bounded: where another rank does not
// take part within the communicator's timeout, `wait` throws Error naming this rank, the operation
// and, where that can be found out, the rank that is missing. A group that has thrown is of no
// further use; `abort` ends all ranks.
//
// Sums are made in an order fixed by the number of ranks: the same ranks give the same bits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "metala/base/tensor.h"

namespace metala {

class Operation {
 public:
  virtual ~Operation() = default;
  virtual void wait() = 0;  // waiting again is harmless
};
using Pending = std::unique_ptr<Operation>;

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  bool alone() const { return size() == 1; }

  // values = sum over ranks. f32, f64, i64.
  virtual Pending start_all_reduce(const Tensor& values, const std::string& what) = 0;
  // into [n] = this rank's n elements of the sum of all ranks' from [size * n]. f32, f64. `into`
  // shares no memory with `from`.
  virtual Pending start_reduce_scatter(const Tensor& from, const Tensor& into,
                                       const std::string& what) = 0;
  // into [size * n] = all ranks' from [n], in order; `from` may be its own place in `into`.
  virtual Pending start_all_gather(const Tensor& from, const Tensor& into,
                                   const std::string& what) = 0;
  virtual Pending start_broadcast(const Tensor& values, int root, const std::string& what) = 0;
  // Sends `out` to rank `to` and receives `in` from rank `from`; an undefined tensor is not sent
  // or received. What a rank sends another of them must receive at the same call.
  virtual Pending start_exchange(const Tensor& out, int to, const Tensor& in, int from,
                                 const std::string& what) = 0;

  // The ranks that pass the same number, as a group of their own, in the same order.
  virtual std::unique_ptr<Communicator> split(int group) = 0;

  // Asks the other ranks, which need not take part: "rank 2 does not answer ..."; empty: all do, or
  // nobody can be asked.
  virtual std::string missing() { return ""; }

  // Ends all ranks of all groups with exit status 1.
  [[noreturn]] virtual void abort() = 0;

  void all_reduce(const Tensor& values, const std::string& what) {
    start_all_reduce(values, what)->wait();
  }
  void reduce_scatter(const Tensor& from, const Tensor& into, const std::string& what) {
    start_reduce_scatter(from, into, what)->wait();
  }
  void all_gather(const Tensor& from, const Tensor& into, const std::string& what) {
    start_all_gather(from, into, what)->wait();
  }
  void broadcast(const Tensor& values, int root, const std::string& what) {
    start_broadcast(values, root, what)->wait();
  }
  void exchange(const Tensor& out, int to, const Tensor& in, int from, const std::string& what) {
    start_exchange(out, to, in, from, what)->wait();
  }
  void barrier(const std::string& what);
  // Whether it is true on any rank.
  bool any(bool here, const std::string& what);

 protected:
  // At the door of an operation. Throws Error naming it.
  void check_same(const char* operation, const std::string& what, const Tensor& values) const;
  void check_parts(const char* operation, const std::string& what, const Tensor& whole,
                   const Tensor& part) const;
};

// The group of this process alone: every operation is a copy, or nothing.
std::unique_ptr<Communicator> alone();

}  // namespace metala

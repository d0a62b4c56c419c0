#include "metala/train/zero_optimizer.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "metala/base/error.h"
#include "metala/device/fetch.h"
#include "metala/model/stacks.h"

namespace metala {
namespace {

// Elements that tensors within a bucket start at multiples of, and that each rank's part is a
// multiple of: a cache line, and the widest loads of kernels.
constexpr std::int64_t alignment = 64;

std::int64_t rounded(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

// The layer that a parameter belongs to; what follows the layers counts as after the last, the
// embedding as before the first, since that is when their gradients are final.
std::int64_t layer_of(const std::string& name) {
  constexpr std::string_view prefix = "model.layers.";
  if (name.starts_with(prefix)) {
    std::int64_t layer = 0;
    std::from_chars(name.data() + prefix.size(), name.data() + name.size(), layer);
    return layer;
  }
  return name == "model.embed_tokens.weight" ? -1 : std::numeric_limits<std::int64_t>::max();
}

bool decays(const std::string& name, const Tensor& value, bool decay_all) {
  const bool matrix = value.rank() == 2;
  const bool norm_or_bias = name.ends_with(".bias") || name.ends_with("norm.weight");
  return decay_all ? !norm_or_bias : matrix;
}

Tensor flat(const Tensor& t) {
  return t.reshape({t.count()});
}

// Of a snapshot, which nobody else writes to.
Tensor on_cpu(const Tensor& t) {
  return t.device().is_cpu() ? t : fetch(t);
}

std::int64_t automatic_bucket(int ranks) {
  constexpr std::int64_t mib = std::int64_t{1} << 20;
  return std::clamp(2 * mib * ranks, 128 * mib, 1024 * mib);
}

std::string part_name(const std::string& tensor, std::int64_t begin, std::int64_t end) {
  return fmt::format("{}[{}:{}]", tensor, begin, end);
}

struct StoredPart {
  std::int64_t begin, end;
  Tensor values;  // [end - begin]
};

// The parts of each tensor of a state, by their names.
std::map<std::string, std::vector<StoredPart>> parts_by_tensor(
    const std::map<std::string, Tensor>& states) {
  std::map<std::string, std::vector<StoredPart>> all;
  for (const auto& [name, values] : states) {
    require(values.dtype() == DType::f32, "train: optimizer state {} is {}; wanted f32", name,
            name_of(values.dtype()));
    StoredPart part = {0, values.count(), flat(values)};
    const auto open = name.rfind('[');
    if (open != std::string::npos) {
      const char* const last = name.data() + name.size();
      const auto begin = std::from_chars(name.data() + open + 1, last, part.begin);
      require(
          begin.ec == std::errc() && begin.ptr != last && *begin.ptr == ':' && name.back() == ']',
          "train: optimizer state {}: wanted NAME[begin:end]", name);
      const auto end = std::from_chars(begin.ptr + 1, last, part.end);
      require(end.ec == std::errc() && end.ptr + 1 == last && part.begin >= 0 &&
                  part.end - part.begin == values.count(),
              "train: optimizer state {} has {} elements", name, values.count());
    }
    all[name.substr(0, open)].push_back(std::move(part));
  }
  return all;
}

// Elements [begin, end) of a tensor that has some, from whichever parts hold them.
void take_elements(const std::map<std::string, std::vector<StoredPart>>& stored,
                   const std::string& name, std::int64_t begin, std::int64_t end,
                   const Tensor& into) {
  const auto& parts = stored.at(name);
  std::int64_t at = begin;
  for (bool moved = true; at < end && moved;) {
    moved = false;
    for (const auto& part : parts) {
      const std::int64_t upto = std::min(end, part.end);
      if (part.begin > at || upto <= at) continue;
      into.rows(at - begin, upto - begin)
          .copy_from(part.values.rows(at - part.begin, upto - part.begin).to(into.device()));
      at = upto;
      moved = true;
    }
  }
  require(at == end, "train: the optimizer state lacks elements {} to {} of {}", at, end, name);
}

void check_counts(const std::map<std::string, std::vector<StoredPart>>& stored,
                  const Parameters& parameters) {
  for (const auto& [name, value] : parameters.tensors()) {
    for (const char* moment : {"first_moment.", "second_moment."}) {
      const auto found = stored.find(moment + name);
      require(found != stored.end(), "train: the optimizer state lacks {}{}", moment, name);
      for (const auto& part : found->second) {
        require(part.end <= value.count(), "train: optimizer state {}{} reaches element {} of {}",
                moment, name, part.end, value.count());
      }
    }
  }
}

}  // namespace

struct ZeroOptimizer::Bucket {
  struct Span {
    std::string name;
    Shape shape;
    std::int64_t begin;  // element of the bucket
    bool decays;
  };
  DType working_type;
  std::vector<Span> spans;
  std::int64_t count = 0;     // elements; a multiple of alignment times ranks once it is cut
  std::int64_t layer = 0;     // its gradients are final when this layer's are
  Tensor working, gradients;  // [count]
  Tensor weights, summed, first, second;  // f32, [count / ranks]: what this rank owns
  std::size_t first_slot = 0, slots = 0;
  bool sent = false;
  Pending summing, gathering;
};

struct ZeroOptimizer::Part {
  const Bucket::Span* span;
  std::int64_t begin, end;  // elements of the tensor
  std::int64_t at;          // where they begin in what is owned of the bucket
  bool whole() const { return begin == 0 && end == span->shape.count(); }
};

ZeroOptimizer::ZeroOptimizer(Communicator& ranks, const Parameters& weights, ZeroOptions options)
    : ranks_(ranks), options_(options) {
  if (options_.bucket_bytes == 0) options_.bucket_bytes = automatic_bucket(ranks.size());
  cut_into_buckets(weights);
  std::map<std::string, Tensor> values, gradients;
  for (auto& bucket : buckets_) {
    fill(bucket, weights);
    add_slots(bucket);
    summed_.push_back(bucket.summed);
    for (const auto& span : bucket.spans) {
      const std::int64_t end = span.begin + span.shape.count();
      values.emplace(span.name, bucket.working.rows(span.begin, end).reshape(span.shape));
      gradients.emplace(span.name, bucket.gradients.rows(span.begin, end).reshape(span.shape));
    }
  }
  parameters_ = Parameters(std::move(values), std::move(gradients));
}

ZeroOptimizer::~ZeroOptimizer() = default;

void ZeroOptimizer::cut_into_buckets(const Parameters& weights) {
  std::vector<std::pair<std::int64_t, std::string>> order;
  for (const auto& [name, value] : weights.tensors()) {
    require(value.dtype() == DType::f32, "train: {} is {}; training needs float32 weights", name,
            name_of(value.dtype()));
    order.emplace_back(layer_of(name), name);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  std::map<DType, Bucket> open;
  const auto close = [&](Bucket& bucket) {
    bucket.count = rounded(bucket.count, alignment * ranks_.size());
    buckets_.push_back(std::move(bucket));
  };
  const auto add = [&](std::int64_t layer, const std::string& name) {
    const Tensor& value = weights.tensors().at(name);
    const DType type = value.rank() == 2 ? options_.working : DType::f32;
    Bucket& bucket = open[type];
    bucket.working_type = type;
    bucket.layer = layer;
    bucket.spans.push_back(
        {name, value.shape(), bucket.count, decays(name, value, options_.decay_all)});
    bucket.count = rounded(bucket.count + value.count(), alignment);
  };
  for (const auto& [layer, name] : order) {
    // What shares a product stays together, in the product's order.
    const auto stack = stack_of(name, weights.tensors());
    if (name != stack.front()) continue;
    for (const auto& each : stack) add(layer, each);
    const DType type = weights.tensors().at(name).rank() == 2 ? options_.working : DType::f32;
    Bucket& bucket = open[type];
    if (bucket.count * static_cast<std::int64_t>(sizeof(float)) < options_.bucket_bytes) continue;
    close(bucket);
    open.erase(type);
  }
  for (auto& [type, bucket] : open) close(bucket);
}

void ZeroOptimizer::fill(Bucket& bucket, const Parameters& weights) {
  const Device device = options_.device;
  const std::int64_t owned = bucket.count / ranks_.size();
  const auto zeros = [&](std::int64_t n, DType type) { return Tensor::zeros({n}, type, device); };
  bucket.working = zeros(bucket.count, bucket.working_type);
  for (const auto& span : bucket.spans) {
    const Tensor value = flat(weights.tensors().at(span.name).to({}));
    const Tensor fitting =
        bucket.working_type == DType::f32 ? value : value.cast(bucket.working_type);
    bucket.working.rows(span.begin, span.begin + value.count()).copy_from(fitting.to(device));
  }
  bucket.gradients = zeros(bucket.count, DType::f32);
  bucket.summed = ranks_.alone() ? bucket.gradients : zeros(owned, DType::f32);
  bucket.first = zeros(owned, DType::f32);
  bucket.second = zeros(owned, DType::f32);
  if (bucket.working_type == DType::f32) {
    bucket.weights = owned_rows(bucket.working);
    return;
  }
  bucket.weights = zeros(owned, DType::f32);
  for (const auto& part : owned_parts(bucket)) {
    const Tensor value = flat(weights.tensors().at(part.span->name).to({}));
    bucket.weights.rows(part.at, part.at + part.end - part.begin)
        .copy_from(value.rows(part.begin, part.end).to(device));
  }
}

void ZeroOptimizer::add_slots(Bucket& bucket) {
  bucket.first_slot = slots_.size();
  const Tensor working = owned_rows(bucket.working);
  for (const auto& part : owned_parts(bucket)) {
    const auto rows = [&](const Tensor& t) {
      return t.rows(part.at, part.at + part.end - part.begin);
    };
    slots_.push_back({part.span->name, rows(bucket.weights), rows(bucket.summed),
                      rows(bucket.first), rows(bucket.second), part.span->decays,
                      bucket.working_type == DType::f32 ? Tensor() : rows(working)});
  }
  bucket.slots = slots_.size() - bucket.first_slot;
}

Tensor ZeroOptimizer::owned_rows(const Tensor& whole) const {
  const std::int64_t count = whole.count() / ranks_.size();
  return whole.rows(ranks_.rank() * count, (ranks_.rank() + 1) * count);
}

std::vector<ZeroOptimizer::Part> ZeroOptimizer::owned_parts(const Bucket& bucket) const {
  const std::int64_t owned = bucket.count / ranks_.size();
  const std::int64_t from = ranks_.rank() * owned;
  std::vector<Part> parts;
  for (const auto& span : bucket.spans) {
    const std::int64_t begin = std::max(span.begin, from);
    const std::int64_t end = std::min(span.begin + span.shape.count(), from + owned);
    if (begin < end) {
      parts.push_back({&span, begin - span.begin, end - span.begin, begin - from});
    }
  }
  return parts;
}

void ZeroOptimizer::zero_gradients() {
  for (auto& bucket : buckets_) {
    bucket.gradients.fill_zero();
    bucket.sent = false;
  }
}

void ZeroOptimizer::layer_done(std::int64_t layer) {
  for (auto& bucket : buckets_) {
    if (bucket.layer >= layer && !bucket.sent) send_gradients(bucket);
  }
}

void ZeroOptimizer::send_gradients(Bucket& bucket) {
  bucket.sent = true;
  if (ranks_.alone()) return;
  bucket.summing = ranks_.start_reduce_scatter(
      bucket.gradients, bucket.summed, fmt::format("gradients ({} ...)", bucket.spans[0].name));
}

void ZeroOptimizer::finish_gradients() {
  layer_done(-1);
  for (auto& bucket : buckets_) {
    if (bucket.summing) std::exchange(bucket.summing, nullptr)->wait();
  }
}

void ZeroOptimizer::global_norm(const Tensor& loss, const Tensor& norm) {
  adamw::sum_of_squares(summed_, norm);
  adamw::join_finiteness(loss, norm);
  ranks_.all_reduce(norm, "squared gradient norms");
  adamw::square_root(norm);
}

void ZeroOptimizer::update(const adamw::Options& options, const Tensor& norm) {
  if (ranks_.alone()) return adamw::update(options, slots_, norm);
  for (auto& bucket : buckets_) {
    adamw::update(options, std::span(slots_).subspan(bucket.first_slot, bucket.slots), norm);
    bucket.gathering =
        ranks_.start_all_gather(owned_rows(bucket.working), bucket.working,
                                fmt::format("weights ({} ...)", bucket.spans[0].name));
  }
  for (auto& bucket : buckets_) std::exchange(bucket.gathering, nullptr)->wait();
}

std::string ZeroOptimizer::first_not_finite() const {
  for (const auto& slot : slots_) {
    if (!std::isfinite(adamw::global_norm(std::span(&slot.gradient, 1)))) return slot.name;
  }
  return "";
}

ZeroOptimizer::Snapshot ZeroOptimizer::snapshot(bool with_weights) const {
  std::int64_t elements = 0, widest = 0;
  for (const auto& bucket : buckets_) {
    elements += 2 * bucket.first.count() + (with_weights ? bucket.count : 0);
    if (bucket.working_type != DType::f32) widest = std::max(widest, bucket.count);
  }
  Tensor room;
  try {
    room = Tensor::uninitialized({elements + widest}, DType::f32, options_.device);
  } catch (const Error&) {
    if (options_.device.is_cpu()) throw;  // else what is copied goes to the CPU
  }
  std::int64_t taken = 0;
  const auto take = [&](std::int64_t count) {
    if (!room.defined()) return Tensor::uninitialized({count}, DType::f32, options_.device);
    taken += count;
    return room.rows(taken - count, taken);
  };
  const auto copied = [&](const Tensor& t) {
    if (!room.defined()) return t.to({});
    const Tensor there = take(t.count());
    there.copy_from(t);
    return there;
  };
  Snapshot all;
  for (const auto& bucket : buckets_) {
    all.first.push_back(copied(bucket.first));
    all.second.push_back(copied(bucket.second));
    if (bucket.working_type == DType::f32) {
      if (with_weights) all.weights.push_back(copied(bucket.working));
      continue;
    }
    const Tensor whole = with_weights || !room.defined()
                             ? take(bucket.count)
                             : room.rows(elements, elements + bucket.count);
    ranks_.all_gather(bucket.weights, whole, "weights for a checkpoint");
    if (with_weights) all.weights.push_back(room.defined() ? whole : whole.to({}));
  }
  memory_of(options_.device).synchronize();
  return all;
}

std::map<std::string, Tensor> ZeroOptimizer::weights(const Snapshot& snapshot) const {
  std::map<std::string, Tensor> all;
  for (std::size_t i = 0; i < snapshot.weights.size(); ++i) {
    const Tensor whole = on_cpu(snapshot.weights[i]);
    for (const auto& span : buckets_[i].spans) {
      all.emplace(span.name,
                  whole.rows(span.begin, span.begin + span.shape.count()).reshape(span.shape));
    }
  }
  return all;
}

std::map<std::string, Tensor> ZeroOptimizer::state(const Snapshot& snapshot) const {
  std::map<std::string, Tensor> all;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    const Tensor first = on_cpu(snapshot.first[i]), second = on_cpu(snapshot.second[i]);
    for (const auto& part : owned_parts(buckets_[i])) {
      const auto add = [&](const std::string& name, const Tensor& from) {
        const Tensor values = from.rows(part.at, part.at + part.end - part.begin);
        if (part.whole()) {
          all.emplace(name, values.reshape(part.span->shape));
        } else {
          all.emplace(part_name(name, part.begin, part.end), values);
        }
      };
      add("first_moment." + part.span->name, first);
      add("second_moment." + part.span->name, second);
    }
  }
  return all;
}

void ZeroOptimizer::restore(const std::map<std::string, Tensor>& states) {
  const auto stored = parts_by_tensor(states);
  check_counts(stored, parameters_);
  for (auto& bucket : buckets_) {
    for (const auto& part : owned_parts(bucket)) {
      const auto take = [&](const std::string& name, const Tensor& into) {
        take_elements(stored, name, part.begin, part.end,
                      into.rows(part.at, part.at + part.end - part.begin));
      };
      take("first_moment." + part.span->name, bucket.first);
      take("second_moment." + part.span->name, bucket.second);
    }
  }
}

}  // namespace metala

// A model on sequences in parts on several ranks computes what it computes on whole ones, gradients
// included: in double, to rounding.
#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/ranks.h"
#include "metala/harness/test_models.h"
#include "metala/train/task.h"

namespace metala {
namespace {

using namespace testing_models;
using harness::world;

struct Pass {
  Tensor hidden;
  std::map<std::string, Tensor> gradients;
  double loss = 0;
};

LabelledBatch random_batch(const std::vector<std::int64_t>& lengths, const Config& config) {
  LabelledBatch batch;
  batch.offsets = {0};
  for (const auto length : lengths) {
    const auto ids = random_ids(length, config.vocab_size, static_cast<std::uint64_t>(length));
    batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
    batch.offsets.push_back(static_cast<std::int64_t>(batch.ids.size()));
  }
  for (const auto id : batch.ids) batch.labels.push_back(id % 5 == 0 ? -100 : (id + 1) % 20);
  return batch;
}

Pass run(const Config& config, DType type, const LabelledBatch& batch, Communicator* context,
         const TrainingOptions& training = {}) {
  Parameters parameters = lively_parameters(config, type);
  parameters.allocate_gradients();
  const LanguageModel model(config, parameters);
  Arena arena;
  Tape tape(arena, Tape::Mode::record);
  const Variable hidden = model.hidden(tape, batch.batch(context), {}, &training);
  const Tensor sums = cross_entropy::zero_sums({});
  functions::cross_entropy(tape, hidden, model.head(), batch.labels, 0.1, sums);
  Pass pass;
  pass.hidden = hidden.value().copy();
  tape.backward();
  for (const auto& [name, gradient] : parameters.gradients()) {
    pass.gradients.emplace(name, gradient.copy());
  }
  pass.loss = cross_entropy::read(sums).loss;
  return pass;
}

// Where the part of `rank` of each sequence begins in the whole batch.
void expect_same(const Config& config, DType type, const std::vector<std::int64_t>& lengths,
                 double bound, const TrainingOptions& training = {}) {
  const LabelledBatch whole = random_batch(lengths, config);
  const auto part_of = [&](std::int64_t rank) {
    return context_part(whole, rank, world().size(),
                        std::max<std::int64_t>(config.short_conv_width, 1));
  };
  const LabelledBatch part = part_of(world().rank());
  const Pass want = run(config, type, whole, nullptr, training);
  const Pass got = run(config, type, part, &world(), training);
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    std::int64_t begin = whole.offsets[b];
    for (int r = 0; r < world().rank(); ++r) {
      const LabelledBatch earlier = part_of(r);
      begin += earlier.offsets[b + 1] - earlier.offsets[b];
    }
    const Tensor mine = got.hidden.rows(part.offsets[b], part.offsets[b + 1]);
    EXPECT_TRUE(harness::close(mine, want.hidden.rows(begin, begin + mine.size(0)), bound)) << b;
  }
  const Tensor loss = Tensor::zeros({1}, DType::f64);
  loss.data<double>()[0] = got.loss;
  world().all_reduce(loss, "losses");
  EXPECT_TRUE(std::abs(loss.data<double>()[0] - want.loss) <= bound * want.loss);
  for (const auto& [name, gradient] : got.gradients) {
    world().all_reduce(gradient, name);
    EXPECT_TRUE(harness::close(gradient, want.gradients.at(name), 10 * bound)) << name;
  }
}

TEST(ContextParallel, EveryModelComputesWhatItComputesOnWholeSequences) {
  for (const auto& [name, config] : all_configs()) {
    SCOPED_TRACE(name);
    expect_same(config, DType::f64, {61, 37}, 1e-11);
  }
}

TEST(ContextParallel, FastFormsToo) {
  for (const auto& [name, config] : all_configs()) {
    SCOPED_TRACE(name);
    expect_same(config, DType::f32, {150, 83, 64}, 5e-5);
  }
}

TEST(ContextParallel, SequencesTooShortToCutAreWholeOnOneRank) {
  expect_same(small_config(), DType::f64, {3, 40, 0, 7, 1}, 1e-11);
}

TEST(ContextParallel, DropoutDropsWhatItDropsOfWholeSequences) {
  Config config = small_config();
  config.embedding_dropout = 0.3;
  config.hidden_dropout = 0.4;
  TrainingOptions training;
  training.dropout_seed = 11;
  training.step = 5;
  for (const bool recompute : {false, true}) {
    training.recompute_blocks = recompute;
    expect_same(config, DType::f64, {61, 3, 0, 37}, 1e-11, training);
  }
}

TEST(ContextParallel, LaterRanksNeverChangeEarlierOnes) {
  const Config config = small_config();
  LabelledBatch whole = random_batch({64}, config);
  const auto hidden = [&] {
    const LabelledBatch part = context_part(whole, world().rank(), world().size(), 4);
    return run(config, DType::f64, part, &world()).hidden;
  };
  const Tensor before = hidden();
  whole.ids.back() = (whole.ids.back() + 1) % 20;
  whole.ids[static_cast<std::size_t>(64 / world().size())] += 1;  // the first of rank 1
  whole.ids[static_cast<std::size_t>(64 / world().size())] %= 20;
  const bool same = static_cast<bool>(harness::same_bits(hidden(), before));
  EXPECT_EQ(same, world().rank() == 0);
}

}  // namespace
}  // namespace metala

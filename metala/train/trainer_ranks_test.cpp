// Training on several ranks computes what one rank computes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "metala/base/error.h"
#include "metala/base/random.h"
#include "metala/harness/compare.h"
#include "metala/harness/ranks.h"
#include "metala/harness/refusal.h"
#include "metala/train/trainer.h"

namespace metala {
namespace {

using harness::world;

constexpr std::int64_t micro_batches = 4;  // in a step, over all ranks
constexpr std::int64_t steps = 50;

// A language of seven states in which the next token follows from the last two, with some noise;
// sequences differ in length and in how many labels they bear.
class ChainTask : public TrainingTask {
 public:
  LabelledBatch training_batch(std::int64_t index) const override { return batch(index, 1); }
  std::int64_t validation_batches() const override { return 5; }
  LabelledBatch validation_batch(std::int64_t index) const override { return batch(index, 2); }

 private:
  static LabelledBatch batch(std::int64_t index, std::uint64_t stream) {
    LabelledBatch b;
    b.offsets = {0};
    b.bytes = 10;
    const Philox random(7, stream);
    auto number = static_cast<std::uint64_t>(index) * 1000;
    for (std::int64_t s = 0; s < 2; ++s) {
      std::int32_t last = 1, current = 2;
      const std::int64_t length = 17 + 5 * s + index % 3;
      for (std::int64_t t = 0; t < length; ++t) {
        const bool noise = random.below(number, 10) == 0;
        const auto next = noise ? static_cast<std::int32_t>(random.below(number, 7))
                                : (3 * last + current + 1) % 7;
        ++number;
        b.ids.push_back(current);
        b.labels.push_back(t < index % 4 ? -100 : next);
        last = current;
        current = next;
      }
      b.offsets.push_back(static_cast<std::int64_t>(b.ids.size()));
    }
    return b;
  }
};

Config small_model(bool tied) {
  Config c;
  c.width = 24;
  c.query_width = 12;
  c.layers = 3;
  c.heads = 2;
  c.glu_width = 40;
  c.vocab_size = 7;
  c.tie_word_embeddings = tied;
  c.attention_scale = 1 / std::sqrt(6.0);
  return c;
}

TrainerOptions options_for(const Communicator& ranks) {
  TrainerOptions o;
  o.steps = steps;
  o.accumulation = micro_batches / ranks.size();
  // A gentle problem, so that rounding stays rounding: with a large rate and AdamW's usual epsilon
  // training itself doubles a difference every few steps.
  o.schedule = {ScheduleKind::cosine, 3e-3, 3e-4, 5, steps};
  o.adamw.epsilon = 1e-5;
  o.validate_every = 25;
  o.bucket_bytes = 4096;  // many buckets, with more tensors than one and tensors cut by ranks
  return o;
}

Parameters fresh(const Config& config) {
  return Parameters::initialized(config, initialization_named("small"), 5);
}

struct Curve {
  std::vector<double> losses, norms, validation;
  std::map<std::string, Tensor> weights;
};

void add_steps(Trainer& trainer, std::int64_t until, Curve& curve) {
  while (trainer.step() < until) {
    const StepReport r = trainer.advance();
    curve.losses.push_back(r.loss);
    curve.norms.push_back(r.gradient_norm);
  }
  const ValidationReport v = trainer.validate();
  curve.validation = {v.loss, v.accuracy, v.bits_per_byte};
  for (const auto& [name, value] : trainer.optimizer().weights()) {
    curve.weights.insert_or_assign(name, value.copy());
  }
}

Curve train(Communicator& ranks, const Config& config, std::int64_t until = steps,
            TrainerOptions (*options)(const Communicator&) = options_for) {
  const ChainTask task;
  Trainer trainer(ranks, config, fresh(config), task, options(ranks));
  Curve curve;
  add_steps(trainer, until, curve);
  return curve;
}

void expect_close(const std::vector<double>& got, const std::vector<double>& want, double bound) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - want[i]);
    EXPECT_TRUE(error <= bound * (1 + std::abs(want[i]))) << i << ": " << got[i] << ", " << want[i];
  }
}

void expect_close(const Curve& got, const Curve& want) {
  expect_close(got.losses, want.losses, 2e-5);
  expect_close(got.norms, want.norms, 5e-4);
  expect_close(got.validation, want.validation, 2e-5);
  ASSERT_EQ(got.weights.size(), want.weights.size());
  for (const auto& [name, value] : want.weights) {
    const auto wanted = harness::values(value), found = harness::values(got.weights.at(name));
    const double bound = 2e-4 * std::max(harness::largest(wanted), 0.05);
    ASSERT_EQ(found.size(), wanted.size()) << name;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      ASSERT_TRUE(std::abs(found[i] - wanted[i]) <= bound)
          << name << ", " << i << ": " << found[i] << ", wanted " << wanted[i];
    }
  }
}

bool same_bits(const Curve& a, const Curve& b) {
  for (const auto& [name, value] : a.weights) {
    const auto* first = value.data<float>();
    if (!std::equal(first, first + value.count(), b.weights.at(name).data<float>())) return false;
  }
  return a.losses == b.losses && a.norms == b.norms;
}

TEST(TrainerOnRanks, LossesAndParametersAreThoseOfOneRank) {
  for (const bool tied : {true, false}) {
    const Config config = small_model(tied);
    const Curve want = train(*alone(), config);
    const Curve got = train(world(), config);
    EXPECT_LT(want.losses.back(), 0.9 * want.losses.front());  // it does learn something
    expect_close(got, want);
  }
}

TrainerOptions options_with_context(const Communicator& ranks) {
  TrainerOptions o = options_for(ranks);
  o.context_ranks = 2;
  o.accumulation *= 2;
  return o;
}

TEST(TrainerOnRanks, SequencesInPartsGiveWhatWholeOnesGive) {
  const Config config = small_model(true);
  const Curve want = train(*alone(), config);
  expect_close(train(world(), config, steps, options_with_context), want);
  const auto recomputing = [](const Communicator& ranks) {
    TrainerOptions o = options_with_context(ranks);
    o.model.recompute_blocks = true;
    return o;
  };
  expect_close(train(world(), config, steps, recomputing), want);
}

TEST(TrainerOnRanks, DropoutIsThatOfOneRankHoweverTheWorkIsDivided) {
  Config config = small_model(true);
  config.embedding_dropout = 0.1;
  config.hidden_dropout = 0.2;
  const Curve want = train(*alone(), config, 20);
  expect_close(train(world(), config, 20), want);
  expect_close(train(world(), config, 20, options_with_context), want);
}

TEST(TrainerOnRanks, TheSameRunGivesTheSameBitsOnAllRanks) {
  const Config config = small_model(true);
  const Curve once = train(world(), config, 20);
  EXPECT_TRUE(same_bits(once, train(world(), config, 20)));
  for (const auto& [name, value] : once.weights) {
    const Tensor of_rank_0 = value.copy();
    world().broadcast(of_rank_0, 0, name);
    const auto* mine = value.data<float>();
    EXPECT_TRUE(std::equal(mine, mine + value.count(), of_rank_0.data<float>())) << name;
  }
}

// What all ranks save, as a checkpoint would hold it: each gets the others' parts by broadcast.
std::map<std::string, Tensor> gathered_state(Communicator& ranks, const Trainer& trainer) {
  std::map<std::string, Tensor> all;
  for (int root = 0; root < ranks.size(); ++root) {
    std::vector<std::pair<std::string, Tensor>> mine;
    for (const auto& part : trainer.optimizer().state()) mine.push_back(part);
    const Tensor count = Tensor::zeros({1}, DType::i64);
    count.data<std::int64_t>()[0] = static_cast<std::int64_t>(mine.size());
    ranks.broadcast(count, root, "count");
    for (std::int64_t i = 0; i < count.data<std::int64_t>()[0]; ++i) {
      const bool here = ranks.rank() == root;
      const Tensor name = Tensor::zeros({200}, DType::u8);
      const Tensor size = Tensor::zeros({1}, DType::i64);
      const auto at = static_cast<std::size_t>(i);
      if (here) {
        std::copy(mine[at].first.begin(), mine[at].first.end(), name.data<std::uint8_t>());
        size.data<std::int64_t>()[0] = mine[at].second.count();
      }
      ranks.broadcast(name, root, "name");
      ranks.broadcast(size, root, "size");
      const Tensor values = Tensor::zeros({size.data<std::int64_t>()[0]});
      if (here) values.copy_from(mine[at].second.reshape(values.shape()));
      ranks.broadcast(values, root, "values");
      all.emplace(reinterpret_cast<const char*>(name.data<std::uint8_t>()), values);
    }
  }
  return all;
}

// The first half on `before` ranks, the second on `after`.
Curve interrupted(Communicator& before, Communicator& after, const Config& config) {
  const ChainTask task;
  Curve curve;
  Trainer first(before, config, fresh(config), task, options_for(before));
  add_steps(first, steps / 2, curve);
  const auto state = gathered_state(before, first);
  Trainer second(after, config, Parameters(curve.weights), task, options_for(after));
  second.restore(steps / 2, state);
  add_steps(second, steps, curve);
  return curve;
}

TEST(TrainerOnRanks, WhatManyRanksSavedOneGoesOnWithAndTheReverse) {
  const Config config = small_model(false);
  const auto one = alone();
  const Curve want = train(world(), config);
  EXPECT_TRUE(same_bits(interrupted(world(), world(), config), want));
  expect_close(interrupted(world(), *one, config), want);
  expect_close(interrupted(*one, world(), config), want);
}

TEST(TrainerOnRanks, AStateWithAHoleOrALiarIsRefused) {
  const Config config = small_model(false);
  const ChainTask task;
  Trainer trainer(world(), config, fresh(config), task, options_for(world()));
  auto state = gathered_state(world(), trainer);
  const auto refusal = [&](const std::map<std::string, Tensor>& states) {
    return harness::refusal_of([&] { trainer.restore(1, states); });
  };
  EXPECT_EQ(refusal(state), "accepted");
  auto holed = state;
  std::erase_if(holed, [](const auto& part) {
    return part.first.starts_with("second_moment.model.embed_tokens.weight");
  });
  EXPECT_NE(refusal(holed).find("lacks second_moment.model.embed_tokens.weight"),
            std::string::npos);
  // A part of a tensor, which one of the ranks wants.
  holed = state;
  const auto cut = std::find_if(holed.begin(), holed.end(), [](const auto& part) {
    return part.first.find("[0:") != std::string::npos;
  });
  ASSERT_NE(cut, holed.end());
  holed.erase(cut);
  const std::string hole = refusal(holed);
  EXPECT_TRUE(hole == "accepted" || hole.find("lacks elements 0 to ") != std::string::npos) << hole;
  EXPECT_TRUE(world().any(hole != "accepted", "refusals"));
  auto lying = state;
  lying["first_moment.lm_head.weight[5:1000]"] = Tensor::zeros({995});
  EXPECT_NE(refusal(lying).find("reaches element 1000"), std::string::npos);
  lying = state;
  lying["first_moment.lm_head.weight[5:9]"] = Tensor::zeros({3});
  EXPECT_NE(refusal(lying).find("has 3 elements"), std::string::npos);
}

TEST(ZeroOptimizerOnRanks, TheGlobalNormIsThatOfTheSumsOverRanks) {
  const Parameters weights = fresh(small_model(false));
  ZeroOptions options;
  options.bucket_bytes = 4096;
  ZeroOptimizer optimizer(world(), weights, options);
  optimizer.zero_gradients();
  for (const auto& [name, gradient] : optimizer.parameters().gradients()) {
    std::fill_n(gradient.data<float>(), gradient.count(), static_cast<float>(world().rank() + 1));
  }
  optimizer.finish_gradients();
  const Tensor norm = Tensor::zeros({1}, DType::f64), loss = Tensor::zeros({1}, DType::f64);
  optimizer.global_norm(loss, norm);
  const double each = world().size() * (world().size() + 1) / 2.0;
  const double want = each * std::sqrt(static_cast<double>(weights.count()));
  EXPECT_TRUE(std::abs(norm.data<double>()[0] - want) <= 1e-12 * want) << norm.data<double>()[0];
  if (world().rank() == 1) loss.data<double>()[0] = INFINITY;
  optimizer.global_norm(loss, norm);
  EXPECT_TRUE(std::isnan(norm.data<double>()[0])) << "a loss of one rank is not finite";
}

TEST(TrainerOnRanks, ALossThatIsNotFiniteIsReportedByAllWithStepAndTensor) {
  const Config config = small_model(true);
  const ChainTask task;
  Parameters poisoned = fresh(config);
  poisoned.tensors().at("model.layers.1.token_mixer.q_proj.weight").data<float>()[3] = NAN;
  Trainer trainer(world(), config, poisoned, task, options_for(world()));
  EXPECT_TRUE(harness::refuses([&] { trainer.advance(); }, "train: step 1: the gradient of "));
}

}  // namespace
}  // namespace metala

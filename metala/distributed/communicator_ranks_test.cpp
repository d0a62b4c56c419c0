// What communicators do, on as many ranks as the test was started with.
#include <gtest/gtest.h>

#include <thread>

#include "metala/distributed/agreement.h"
#include "metala/harness/ranks.h"

namespace metala {
namespace {

using harness::world;

// Element i of rank r is 100 r + i: every place of every rank is told apart.
Tensor numbered(std::int64_t count, int rank) {
  const Tensor t = Tensor::zeros({count});
  for (std::int64_t i = 0; i < count; ++i) t.data<float>()[i] = static_cast<float>(100 * rank + i);
  return t;
}

float sum_over_ranks(std::int64_t i) {
  const int n = world().size();
  return static_cast<float>(50 * n * (n - 1) + n * i);
}

TEST(Communicator, AllReduceGivesEveryRankTheSum) {
  const Tensor t = numbered(5, world().rank());
  world().all_reduce(t, "numbers");
  for (std::int64_t i = 0; i < 5; ++i) EXPECT_EQ(t.data<float>()[i], sum_over_ranks(i));
}

TEST(Communicator, ReduceScatterGivesEachRankItsPartOfTheSum) {
  const std::int64_t each = 1000;
  const Tensor from = numbered(each * world().size(), world().rank());
  const Tensor into = Tensor::zeros({each});
  world().reduce_scatter(from, into, "numbers");
  for (std::int64_t i = 0; i < each; ++i) {
    ASSERT_EQ(into.data<float>()[i], sum_over_ranks(world().rank() * each + i));
  }
}

TEST(Communicator, AllGatherLaysTheRanksPartsEndToEndAlsoInPlace) {
  const std::int64_t each = 7;
  const Tensor mine = numbered(each, world().rank());
  for (const bool in_place : {false, true}) {
    const Tensor all = Tensor::zeros({each * world().size()});
    const Tensor own = all.rows(world().rank() * each, (world().rank() + 1) * each);
    if (in_place) own.copy_from(mine);
    world().all_gather(in_place ? own : mine, all, "numbers");
    for (int rank = 0; rank < world().size(); ++rank) {
      for (std::int64_t i = 0; i < each; ++i) {
        ASSERT_EQ(all.data<float>()[rank * each + i], static_cast<float>(100 * rank + i));
      }
    }
  }
}

TEST(Communicator, BroadcastGivesEveryRankTheRootsValues) {
  const Tensor t = numbered(3, world().rank());
  world().broadcast(t, 1, "numbers");
  EXPECT_EQ(t.data<float>()[2], 102);
}

TEST(Communicator, ExchangePassesTensorsAlongTheRanks) {
  const int rank = world().rank();
  const bool first = rank == 0, last = rank + 1 == world().size();
  const Tensor out = numbered(4, rank);
  const Tensor in = Tensor::zeros({4});
  world().exchange(last ? Tensor() : out, rank + 1, first ? Tensor() : in, rank - 1, "numbers");
  EXPECT_EQ(in.data<float>()[3], first ? 0 : static_cast<float>(100 * (rank - 1) + 3));
}

TEST(Communicator, GroupsOfASplitDoNotMeet) {
  const auto half = world().split(world().rank() % 2);
  ASSERT_EQ(half->size(), world().size() / 2);
  EXPECT_EQ(half->rank(), world().rank() / 2);
  const Tensor t = numbered(1, world().rank());
  half->all_reduce(t, "numbers");
  float sum = 0;
  for (int r = world().rank() % 2; r < world().size(); r += 2) sum += static_cast<float>(100 * r);
  EXPECT_EQ(t.data<float>()[0], sum);
}

TEST(Communicator, OperationsInFlightTogetherKeepApart) {
  const std::int64_t each = 5000;
  std::vector<Tensor> from, into;
  std::vector<Pending> pending;
  for (int i = 0; i < 8; ++i) {
    from.push_back(numbered(each * world().size(), i));
    into.push_back(Tensor::zeros({each}));
    pending.push_back(world().start_reduce_scatter(from.back(), into.back(), "numbers"));
  }
  for (auto& p : pending) p->wait();
  for (int i = 0; i < 8; ++i) {
    const auto at = static_cast<float>(world().rank() * each + 3);
    EXPECT_EQ(into[static_cast<std::size_t>(i)].data<float>()[3],
              static_cast<float>(world().size()) * (static_cast<float>(100 * i) + at));
  }
}

TEST(Communicator, WrongTensorsAreRefusedBeforeAnythingIsSent) {
  EXPECT_THROW(world().all_gather(Tensor::zeros({3}), Tensor::zeros({3}), "numbers"), Error);
  EXPECT_THROW(world().all_reduce(Tensor::zeros({3}, DType::u8), "numbers"), Error);
}

std::string agreed(const std::function<void()>& f) {
  try {
    f();
  } catch (const AgreedError& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(Agreement, AFailureOfOneRankIsThrownByAllNamingIt) {
  const std::string want = fmt::format("rank 1 of {}: the disk is full", world().size());
  EXPECT_EQ(
      agreed([] { together(world(), [] { require(world().rank() != 1, "the disk is full"); }); }),
      want);
}

TEST(Agreement, AFailureOfAllNamesNone) {
  EXPECT_EQ(agreed([] { together(world(), [] { fail("no such file"); }); }), "no such file");
}

TEST(Agreement, DifferentFactsAreNamedWithRankAndValues) {
  const std::string common(3000, 'x');
  const std::string value = common + (world().rank() == 1 ? "seed 4" : "seed 3");
  const std::string message = agreed([&] {
    require_same(world(), {{"tensors", "a b"}, {"configuration", value}});
  });
  EXPECT_NE(message.find("rank 1 has another configuration than rank 0"), std::string::npos);
  EXPECT_NE(message.find("xseed 4 against"), std::string::npos) << message;
  EXPECT_NE(message.find("xseed 3"), std::string::npos) << message;
  require_same(world(), {{"configuration", common}});
}

}  // namespace
}  // namespace metala

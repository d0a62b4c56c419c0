// metala bench reports what it measured in a form that scripts can read.
#include <nlohmann/json.hpp>

#include "program.h"

namespace metala {
namespace {

using namespace program;

const std::string small =
    " --width 64 --layers 1 --heads 1 --glu-width 64 --vocab-size 64 --steps 2 --tokens 8 "
    "--repetitions 1 --json";

TEST(Bench, ComparisonHasEveryTypeOfWeightsWithOneAndSixteenSequencesAndPrefill) {
  const Outcome o = metala("bench --compare" + small);
  ASSERT_EQ(o.status, 0) << o.err;
  const auto report = nlohmann::json::parse(o.out);
  std::vector<std::string> rows;
  for (const auto& r : report["decode"]) {
    rows.push_back(r["weights"].get<std::string>() + " " + std::to_string(r["batch"].get<int>()));
    EXPECT_GT(r["tokens_per_second"].get<double>(), 0);
    EXPECT_GT(r["share_of_read_bandwidth"].get<double>(), 0);
    EXPECT_GT(r["parts"]["matrix products"].get<double>(), 0);
  }
  EXPECT_EQ(rows, (std::vector<std::string>{"f32 1", "f32 16", "bf16 1", "bf16 16", "q8 1", "q8 16",
                                            "q4 1", "q4 16"}));
  ASSERT_EQ(report["prefill"].size(), 2u);
  EXPECT_EQ(report["prefill"][1]["weights"], "q8");
  EXPECT_EQ(report["peer"].size(), 1u) << "figures of a model of another size";
}

}  // namespace
}  // namespace metala

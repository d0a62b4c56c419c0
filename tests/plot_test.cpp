// metala plot: curves from metrics.jsonl.
#include "program.h"

namespace metala {
namespace {

using namespace program;

// A run of three steps, validated once.
void make_run(const std::string& folder) {
  std::filesystem::create_directories(folder);
  spill(folder + "/metrics.jsonl",
        "{\"step\":1,\"train/lm_loss\":5.5}\n{\"step\":2,\"train/lm_loss\":4.5}\n"
        "{\"step\":3,\"train/lm_loss\":4.25}\n{\"step\":3,\"validation/lm_loss\":4.4}\n");
}

TEST(Plot, DrawsOnTheTerminalAsSvgAndSaysWhatIsMissing) {
  const Folder folder;
  make_run(folder / "run");
  const Outcome here = metala("plot " + (folder / "run"));
  EXPECT_EQ(here.status, 0) << here.err;
  EXPECT_NE(here.out.find("train/lm_loss"), std::string::npos) << here.out;
  ASSERT_EQ(metala("plot " + (folder / "run") + " -o " + (folder / "a.svg")).status, 0);
  const std::string svg = slurp(folder / "a.svg");
  EXPECT_TRUE(svg.starts_with("<svg"));
  EXPECT_NE(svg.find("run validation/lm_loss"), std::string::npos);
  EXPECT_TRUE(refuses(metala("plot " + (folder / "run") + " --metric nothing"), 1,
                      "holds no values of nothing"));
  EXPECT_TRUE(refuses(metala("plot " + (folder / "other")), 1, "other"));
}

TEST(Plot, WithoutTheConverterAPngIsRefusedAndNothingIsLeft) {
  const Folder folder;
  make_run(folder / "run");
  EXPECT_TRUE(
      refuses(metala("plot " + (folder / "run") + " -o " + (folder / "run/a.png"), "PATH=/nowhere"),
              1, "rsvg-convert makes the PNG, and it is not installed"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "run"), {}), 1);
}

TEST(Plot, WritesAPng) {
  if (std::system("command -v rsvg-convert >/dev/null") != 0) {
    GTEST_SKIP() << "rsvg-convert (librsvg2-bin) is not installed";
  }
  const Folder folder;
  make_run(folder / "run");
  const Outcome o = metala("plot " + (folder / "run") + " -o " + (folder / "run/a.png"));
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_TRUE(slurp(folder / "run/a.png").starts_with("\x89PNG\r\n"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "run"), {}), 2);
}

}  // namespace
}  // namespace metala

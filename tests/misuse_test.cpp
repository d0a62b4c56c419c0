// The command line refuses what it does not understand: status 2, one line, what to do.
#include "program.h"

namespace metala {
namespace {

using namespace program;

TEST(Program, AnUnknownOptionIsRefusedWithTheNearestMatch) {
  EXPECT_TRUE(refuses(metala("train --sequence-lenght 5"), 2,
                      "metala train: no option --sequence-lenght; did you mean --sequence-length?"
                      " See metala train --help."));
}

TEST(Program, AnUnknownCommandIsRefusedWithTheNearestMatch) {
  EXPECT_TRUE(refuses(metala("genrate"), 2, "did you mean generate?"));
}

TEST(Program, AMissingCommandIsMisuse) {
  EXPECT_TRUE(refuses(metala(""), 2, "metala --help"));
}

TEST(Program, AValueOutOfRangeIsMisuse) {
  EXPECT_EQ(metala("bench decode --batch 0").status, 2);
  EXPECT_EQ(metala("bench nothing").status, 2);
}

TEST(Program, HelpListsTheCommandsAndSucceeds) {
  const Outcome o = metala("--help");
  EXPECT_EQ(o.status, 0);
  for (const char* command :
       {"generate", "train", "convert", "inspect", "tokenize", "verify", "bench", "doctor"}) {
    EXPECT_NE(o.out.find(command), std::string::npos) << command;
  }
}

TEST(Program, DoctorNamesTheLibrariesAndKernelsInUse) {
  const Outcome o = metala("doctor");
  EXPECT_EQ(o.status, 0) << o.err;
  for (const char* word : {"processor", "threads", "OpenBLAS", "vector kernels"}) {
    EXPECT_NE(o.out.find(word), std::string::npos) << word;
  }
}

TEST(Program, AGpuThatIsNotThereIsRefusedInALineThatNamesTheCpu) {
  const std::string model = METALA_SOURCE_DIR "/tests/golden/tiny";
  const std::string shipped = METALA_SOURCE_DIR "/models/debian-en";
  EXPECT_TRUE(refuses(metala("verify " + model + " --device cuda:63"), 1, "cpu"));
  EXPECT_TRUE(refuses(metala("generate " + shipped + " hello --device cuda:63"), 1, "cpu"));
  EXPECT_TRUE(refuses(metala("verify " + model + " --device cuda:x"), 1, "cuda:NUMBER"));
  EXPECT_EQ(metala("verify " + model + " --device cpu").status, 0);
}

TEST(Program, AFolderThatIsNoModelIsRefusedByName) {
  EXPECT_TRUE(refuses(metala("generate /nonexistent hello"), 1, "/nonexistent"));
  EXPECT_TRUE(refuses(metala("verify /nonexistent"), 1, "/nonexistent"));
}

}  // namespace
}  // namespace metala

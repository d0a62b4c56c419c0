#include "metala/distributed/launch.h"

#include <gtest/gtest.h>

#include <map>

#include "metala/base/error.h"
#include "metala/distributed/agreement.h"
#include "metala/distributed/communicator.h"
#include "metala/distributed/world.h"
#include "metala/harness/refusal.h"

namespace metala {
namespace {

Environment environment(std::map<std::string, std::string> variables) {
  return [=](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  };
}

TEST(Launch, WithoutALauncherAProcessIsAlone) {
  // A batch script, in which srun has started nothing.
  const Launch launch =
      launch_from(environment({{"HOME", "/"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}}));
  EXPECT_EQ(launch.size, 1);
  EXPECT_EQ(launch.source, "");
}

TEST(Launch, EachLaunchersVariablesAreRead) {
  const Launch mpirun = launch_from(environment({{"OMPI_COMM_WORLD_RANK", "3"},
                                                 {"OMPI_COMM_WORLD_SIZE", "8"},
                                                 {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}}));
  EXPECT_EQ(mpirun.rank, 3);
  EXPECT_EQ(mpirun.size, 8);
  EXPECT_EQ(mpirun.local_rank, 1);
  EXPECT_TRUE(mpirun.by_mpi);

  const std::map<std::string, std::string> step = {{"SLURM_PROCID", "5"},
                                                   {"SLURM_STEP_NUM_TASKS", "16"},
                                                   {"SLURM_LOCALID", "5"},
                                                   {"MASTER_ADDR", "node1"}};
  const Launch srun = launch_from(environment(step));
  EXPECT_EQ(srun.rank, 5);
  EXPECT_FALSE(srun.by_mpi);
  EXPECT_EQ(srun.master, "node1:29500");
  auto with_pmix = step;
  with_pmix["PMIX_RANK"] = "5";
  EXPECT_TRUE(launch_from(environment(with_pmix)).by_mpi);

  const Launch torchrun = launch_from(environment({{"RANK", "1"},
                                                   {"WORLD_SIZE", "2"},
                                                   {"LOCAL_RANK", "1"},
                                                   {"MASTER_ADDR", "10.0.0.1"},
                                                   {"MASTER_PORT", "400"}}));
  EXPECT_EQ(torchrun.local_rank, 1);
  EXPECT_EQ(torchrun.master, "10.0.0.1:400");
}

TEST(Launch, MpirunComesBeforeTheVariablesOfTheJobAroundIt) {
  const Launch launch = launch_from(environment({{"RANK", "0"},
                                                 {"WORLD_SIZE", "1"},
                                                 {"OMPI_COMM_WORLD_RANK", "1"},
                                                 {"OMPI_COMM_WORLD_SIZE", "2"}}));
  EXPECT_EQ(launch.size, 2);
}

TEST(Launch, NonsenseIsRefusedByName) {
  const auto of = [](const char* rank, const char* size) {
    return harness::refusal_of([&] {
      launch_from(environment({{"RANK", rank}, {"WORLD_SIZE", size}}));
    });
  };
  EXPECT_NE(of("2", "2").find("RANK is 2 and WORLD_SIZE is 2"), std::string::npos);
  EXPECT_NE(of("one", "2").find("RANK is \"one\""), std::string::npos);
  EXPECT_NE(of("-1", "2").find("RANK is \"-1\""), std::string::npos);
}

TEST(World, RanksOnCpusThatNoMpiConnectsAreToldHowToStart) {
  Launch launch;
  launch.rank = 1;
  launch.size = 4;
  launch.source = "RANK";
  const std::string message =
      harness::refusal_of([&] { open_world(launch, {}, std::chrono::seconds(1)); });
  EXPECT_NE(message.find("start them with mpirun -n 4"), std::string::npos) << message;
}

TEST(Alone, OperationsAreCopiesOrNothing) {
  const auto one = alone();
  const Tensor t = Tensor::zeros({3});
  t.data<float>()[1] = 5;
  const Tensor into = Tensor::zeros({3});
  one->all_reduce(t, "t");
  one->reduce_scatter(t, into, "t");
  EXPECT_EQ(into.data<float>()[1], 5);
  EXPECT_TRUE(one->any(true, "t"));
  EXPECT_FALSE(one->any(false, "t"));
  EXPECT_THROW(one->exchange(t, 1, into, 1, "t"), Error);
  EXPECT_THROW(together(*one, [] { throw UsageError("u"); }), UsageError);
}

}  // namespace
}  // namespace metala

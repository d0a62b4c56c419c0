// The parts a training run is assembled from.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <set>

#include "metala/base/error.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"
#include "metala/io/file.h"
#include "metala/train/background_task.h"
#include "metala/train/flops.h"
#include "metala/train/metrics.h"
#include "metala/train/mqar_task.h"
#include "metala/train/plot.h"
#include "metala/train/progress.h"
#include "metala/train/schedule.h"
#include "metala/train/spike_guard.h"
#include "metala/train/tensorboard.h"
#include "metala/train/text_plot.h"
#include "metala/train/text_task.h"

namespace metala {
namespace {

using harness::TemporaryFolder;

TEST(Schedule, CosineHasTheReferencesValues) {
  const Schedule s = {ScheduleKind::cosine, 3e-4, 3e-5, 1430, 143000};
  EXPECT_NEAR(learning_rate(s, 0), 2.0979020979e-7, 1e-16);
  EXPECT_NEAR(learning_rate(s, 1), 2.0979020979e-7, 1e-16);
  EXPECT_NEAR(learning_rate(s, 2), 4.1958041958e-7, 1e-16);
  EXPECT_NEAR(learning_rate(s, 715), 1.5e-4, 1e-12);
  EXPECT_NEAR(learning_rate(s, 1430), 3e-4, 1e-12);
  EXPECT_NEAR(learning_rate(s, 1431), 2.9999999996676e-4, 1e-15);
  EXPECT_NEAR(learning_rate(s, 72215), 1.65e-4, 1e-12);
  EXPECT_NEAR(learning_rate(s, 143000), 3e-5, 1e-12);
  EXPECT_NEAR(learning_rate(s, 150000), 3e-5, 1e-12);  // stays, where the reference rises again
  Schedule reference = s;
  reference.stays = false;
  EXPECT_NEAR(learning_rate(reference, 150000), 3.162548764e-5, 1e-14);
}

TEST(Schedule, TheOtherKindsStartAtTheBaseAndEndAtTheirFloor) {
  for (const auto kind : {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::wsd}) {
    const Schedule s = {kind, 1.0, 0.1, 0, 100};
    EXPECT_NEAR(learning_rate(s, 0), 1.0, 1e-12);
    EXPECT_NEAR(learning_rate(s, 100), kind == ScheduleKind::constant ? 1.0 : 0.1, 1e-12);
  }
  EXPECT_NEAR(learning_rate({ScheduleKind::linear, 1, 0, 0, 100}, 25), 0.75, 1e-12);
  EXPECT_NEAR(learning_rate({ScheduleKind::wsd, 1, 0, 0, 100}, 80), 1.0, 1e-12);
  EXPECT_NEAR(learning_rate({ScheduleKind::wsd, 1, 0, 0, 100}, 85), 0.5, 1e-12);
  EXPECT_NEAR(learning_rate({ScheduleKind::exponential, 1, 0, 0, 100}, 100), std::exp(-0.693),
              1e-12);
  EXPECT_THROW(schedule_named("cosmic"), Error);
}

RC_GTEST_PROP(Permuted, IsAPermutation, (std::uint64_t seed)) {
  const auto n = *rc::gen::inRange<std::uint64_t>(1, 300);
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 0; i < n; ++i) {
    const auto to = permuted(i, n, seed, 3);
    RC_ASSERT(to < n);
    seen.insert(to);
  }
  RC_ASSERT(seen.size() == n);
}

TokenStream counting(std::int32_t n) {
  TokenStream s;
  for (std::int32_t i = 0; i < n; ++i) s.tokens.push_back(i);
  s.bytes = 3 * n;
  return s;
}

TEST(TextTask, AnEpochReadsEveryWindowOnceAndLabelsAreTheNextTokens) {
  const TextTask task(counting(1003), counting(50), {10, 4, 7});
  ASSERT_EQ(task.windows_per_epoch(), 100);
  std::multiset<std::int32_t> starts;
  for (std::int64_t i = 0; i < 25; ++i) {
    const LabelledBatch batch = task.training_batch(i);
    ASSERT_EQ(batch.offsets, (std::vector<std::int64_t>{0, 10, 20, 30, 40}));
    for (std::size_t n = 0; n < batch.ids.size(); ++n) {
      EXPECT_EQ(batch.labels[n], batch.ids[n] + 1);
      if (n % 10 != 0) {
        EXPECT_EQ(batch.ids[n], batch.ids[n - 1] + 1);
      }
      if (n % 10 == 0) starts.insert(batch.ids[n]);
    }
  }
  EXPECT_EQ(starts.size(), 100u);
  EXPECT_EQ(std::set<std::int32_t>(starts.begin(), starts.end()).size(), 100u);
  EXPECT_EQ(*starts.rbegin() - *starts.begin(), 990);  // windows of one epoch do not overlap
}

TEST(TextTask, BatchesBeyondAnyMemoryAreRefused) {
  for (const auto& [length, sequences] :
       {std::pair<std::int64_t, std::int64_t>{INT64_MAX, 1}, {INT64_MAX / 2, 4}, {10, INT64_MAX}}) {
    const TextTaskOptions o = {length, sequences, 7};
    EXPECT_TRUE(harness::refuses([&] { TextTask(counting(100), {}, o); }, "tokens in a batch"));
  }
}

TEST(TextTask, ABatchIsAFunctionOfSeedAndNumber) {
  const TextTask a(counting(500), {}, {10, 4, 7});
  const TextTask b(counting(500), {}, {10, 4, 7});
  const TextTask c(counting(500), {}, {10, 4, 8});
  EXPECT_EQ(a.training_batch(37).ids, b.training_batch(37).ids);
  EXPECT_NE(a.training_batch(37).ids, c.training_batch(37).ids);
  EXPECT_NE(a.training_batch(0).ids, a.training_batch(12).ids);
}

TEST(TextTask, ValidationReadsEachTokenOnceAndCountsTheTextsBytes) {
  const TextTask task(counting(100), counting(57), {10, 2, 0});
  std::vector<std::int32_t> ids;
  std::int64_t labels = 0;
  std::int64_t bytes = 0;
  for (std::int64_t i = 0; i < task.validation_batches(); ++i) {
    const LabelledBatch batch = task.validation_batch(i);
    ids.insert(ids.end(), batch.ids.begin(), batch.ids.end());
    labels +=
        std::count_if(batch.labels.begin(), batch.labels.end(), [](auto l) { return l >= 0; });
    bytes += batch.bytes;
  }
  EXPECT_EQ(ids, counting(57).tokens);
  EXPECT_EQ(labels, 56);  // nothing follows the last token
  EXPECT_EQ(bytes, 171);
}

TEST(TextTask, DocumentsOwnLabelsAreKept) {
  TokenStream own = counting(20);
  own.labels.assign(20, -100);
  own.labels[5] = 42;
  const TextTask task(own, {}, {19, 1, 0});
  const LabelledBatch batch = task.training_batch(0);
  EXPECT_EQ(std::count(batch.labels.begin(), batch.labels.end(), 42), 1);
}

TEST(Mqar, AnExampleIsPairsThenQueriesAnsweredAtTheirOwnPlace) {
  MqarOptions options;
  options.pairs = 4;
  const MqarTask task(options);
  const LabelledBatch batch = task.training_batch(0);
  for (std::size_t e = 0; e < 128; ++e) {
    const auto* ids = batch.ids.data() + 64 * e;
    const auto* labels = batch.labels.data() + 64 * e;
    std::map<std::int32_t, std::int32_t> pairs;
    for (int j = 0; j < 4; ++j) {
      ASSERT_TRUE(ids[2 * j] >= 1 && ids[2 * j] < 4096);
      ASSERT_TRUE(ids[2 * j + 1] >= 4096 && ids[2 * j + 1] < 8192);
      pairs[ids[2 * j]] = ids[2 * j + 1];
    }
    ASSERT_EQ(pairs.size(), 4u);
    int queries = 0;
    for (int t = 0; t < 64; ++t) {
      if (t < 8 || ids[t] == 0) {
        EXPECT_EQ(labels[t], -100);
        continue;
      }
      ++queries;
      EXPECT_EQ(t % 2, 0);
      EXPECT_EQ(labels[t], pairs.at(ids[t]));
    }
    EXPECT_EQ(queries, 4);
  }
}

// Share of examples with a query in slot `slot`.
double slot_share(const MqarOptions& options, std::int64_t slot) {
  const MqarTask task(options);
  LabelledBatch batch;
  for (std::int64_t i = 0; i < 4000; ++i) task.add_example(0, i, batch);
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < 4000; ++i) {
    const auto at = static_cast<std::size_t>(i * options.length + 2 * options.pairs + 2 * slot);
    used += batch.labels[at] >= 0 ? 1 : 0;
  }
  return static_cast<double>(used) / 4000;
}

TEST(Mqar, SlotsAreUsedAsOftenAsInTheReferencesGenerator) {
  MqarOptions options;
  options.length = 256;
  options.pairs = 16;
  // Within 2% and four standard deviations of 4,000 draws.
  EXPECT_NEAR(slot_share(options, 0), 0.982, 0.012);
  EXPECT_NEAR(slot_share(options, 1), 0.890, 0.03);
  EXPECT_NEAR(slot_share(options, 5), 0.523, 0.035);
  EXPECT_NEAR(slot_share(options, 10), 0.340, 0.035);
  EXPECT_NEAR(slot_share(options, 111), 0.038, 0.014);
  options.length = 64;
  options.pairs = 4;
  EXPECT_NEAR(slot_share(options, 0), 0.727, 0.035);
  EXPECT_NEAR(slot_share(options, 27), 0.046, 0.015);
}

TEST(Mqar, TrainingAndValidationNeverMeetAndEpochsDiffer) {
  MqarOptions options;
  options.training_examples = 256;
  const MqarTask task(options);
  EXPECT_NE(task.training_batch(0).ids, task.validation_batch(0).ids);
  EXPECT_NE(task.training_batch(0).ids, task.training_batch(2).ids);
  EXPECT_EQ(task.training_batch(5).ids, MqarTask(options).training_batch(5).ids);
  options.pairs = 17;
  EXPECT_THROW(MqarTask{options}, Error);
}

TEST(TensorBoard, RecordsMatchTheFormatsExamplesByteForByte) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  const std::string first(
      "\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22\x09\0\0\0\0\0\0\xf0\x3f\x1a\x0d"
      "brain.Event:2\x86\xbf\x57\x7a",
      12 + 24 + 4);
  EXPECT_EQ(tensorboard_record(version_event(1.0)), first);
  const std::string second(
      "\x20\0\0\0\0\0\0\0\x29\xed\xa9\x50\x09\0\0\0\0\0\0\0\x40\x10\x07\x2a"
      "\x13\x0a\x11\x0a\x0atrain/loss\x15\0\0\x20\x40\x9f\x7b\xa4\xf7",
      12 + 32 + 4);
  EXPECT_EQ(tensorboard_record(scalar_event(2.0, 7, "train/loss", 2.5f)), second);
}

TEST(TensorBoard, EventsAfterTheCheckpointOfAResumedRunAreDropped) {
  const TemporaryFolder folder;
  const std::string name = folder / "events.out.tfevents.0000000001.host.2";
  std::vector<std::string> records = {tensorboard_record(version_event(1.0))};
  for (std::int64_t step = 1; step <= 300; ++step) {  // steps of one and of two bytes
    records.push_back(tensorboard_record(scalar_event(2.0, step, "train/loss", 2.5f)));
  }
  const auto joined = [&](std::size_t count) {
    return std::accumulate(records.begin(), records.begin() + static_cast<std::ptrdiff_t>(count),
                           std::string());
  };
  write_file_atomically(name, joined(301) + records.back().substr(0, 20));
  const std::string other = "not events at all";
  write_file_atomically(folder / "events.out.tfevents.notes", other);
  keep_tensorboard_events_until(folder.path(), 200);
  EXPECT_EQ(read_file(name, 1 << 20), joined(201));
  EXPECT_EQ(read_file(folder / "events.out.tfevents.notes", 100), other);
  Metrics(folder.path(), 2);
  EXPECT_EQ(read_file(name, 1 << 20), joined(3));
}

TEST(Metrics, AResumedRunDropsTheRecordsAfterItsCheckpoint) {
  const TemporaryFolder folder;
  {
    Metrics m(folder.path(), 0);
    for (std::int64_t step = 1; step <= 5; ++step) {
      m.record(step, {{"loss", 1.0 / static_cast<double>(step)}, {"bad", NAN}});
    }
  }
  // A record cut short by a kill.
  std::ofstream(folder / "metrics.jsonl", std::ios::app) << "{\"step\": 6, \"lo";
  Metrics(folder.path(), 3).record(4, {{"loss", 9}});
  const auto points = read_metric(folder / "metrics.jsonl", "loss");
  ASSERT_EQ(points.size(), 4u);
  EXPECT_EQ(points[2].second, 1.0 / 3);
  EXPECT_EQ(points[3].second, 9);
  EXPECT_TRUE(read_metric(folder / "metrics.jsonl", "bad").empty());
}

TEST(Metrics, EventsThatFindNoRoomAreAnErrorThatNamesTheirFile) {
  const TemporaryFolder folder;
  // A limit on the size of files stands in for a full disk; an event is longer than its line.
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small = {400, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message;
  std::int64_t step = 0;
  try {
    Metrics m(folder.path(), 0);
    while (step < 100) m.record(++step, {{"loss", 1}});
  } catch (const Error& e) {
    message = e.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_LT(step, 10);
  EXPECT_NE(message.find("events.out.tfevents."), std::string::npos) << message;
  EXPECT_NE(message.find("write failed; is the disk full?"), std::string::npos) << message;
}

TEST(Metrics, OfStepsThatLackOneOfTwoMetricsNeitherIsRead) {
  const TemporaryFolder folder;
  folder.spill("metrics.jsonl",
               "{\"step\": 1, \"loss\": 5, \"norm\": 1}\n"
               "{\"step\": 2, \"loss\": 6, \"norm\": null}\n"
               "{\"step\": 2, \"seconds\": 3}\n"
               "{\"step\": 3, \"loss\": 7, \"norm\": 2}\n"
               "{\"step\": 4, \"loss\": 8, \"norm\": 3}\n");
  using Pairs = std::vector<std::pair<double, double>>;
  EXPECT_EQ(read_metrics_together(folder / "metrics.jsonl", "loss", "norm", 3),
            (Pairs{{5, 1}, {7, 2}}));
}

TEST(Plot, TicksAreRoundAndAnyCurvesMakeValidSvg) {
  EXPECT_EQ(round_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(round_ticks(1.3, 4.2, 3), (std::vector<double>{2, 3, 4}));
  EXPECT_EQ(round_ticks(-1, 1, 2), (std::vector<double>{-1, 0, 1}));
  EXPECT_LE(round_ticks(1e17, 1e17 + 16, 6).size(), 7u);  // the numbers there are 16 apart
  for (const Plot& plot :
       {Plot{}, Plot{"one <point> & \"more\"", "x", "y", {{"c", {{1, 1}}}}},
        Plot{"gaps", "x", "y", {{"c", {{1, 1}, {2, NAN}, {3, 2}, {4, 2.5}}}, {"none", {}}}}}) {
    const std::string text = svg(plot);
    EXPECT_TRUE(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
    EXPECT_EQ(text.find("nan"), std::string::npos);
    EXPECT_EQ(text.find("<point>"), std::string::npos);
  }
}

TEST(Plot, AMillionPointsMakeASmallDrawingWithAllItsSpikes) {
  Curve curve{"c", {}};
  for (int i = 0; i < 1000000; ++i) curve.points.emplace_back(i, i % 2);
  curve.points[777777].second = 9;
  curve.points[222222].second = -7;
  curve.points.back().second = 5;
  const std::string text = svg({"t", "x", "y", {curve}});
  EXPECT_LT(text.size(), 60000U);
  // The range is -7 .. 9 with a margin of 5%: 0.8. y = 44 + 304 (9.8 - v) / 17.6.
  EXPECT_NE(text.find(" 57.8"), std::string::npos) << "the highest point";
  EXPECT_NE(text.find(" 334.2"), std::string::npos) << "the lowest point";
  EXPECT_NE(text.find("L700.0 126.9\""), std::string::npos) << "the last point";
}

TEST(TextPlot, CurvesTicksAndLegendsFitTheirWidth) {
  const Plot plot = {
      "falling",
      "step",
      "loss",
      {{"fall", {{0, 10}, {50, 5}, {100, 0}}}, {"gap", {{0, 0}, {50, NAN}, {100, 10}}}}};
  const std::string text = text_plot(plot, 60, 11);
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
    lines.push_back(text.substr(at, text.find('\n', at) - at));
    EXPECT_LE(lines.back().size(), 60u);
  }
  ASSERT_EQ(lines.size(), 1u + 11 + 2 + 2);
  EXPECT_EQ(lines[1].find('*'), 11u);  // the first curve starts at the top left
  EXPECT_EQ(lines[11].back(), '*');    // and ends at the bottom right
  EXPECT_EQ(lines[1].back(), 'o');     // where the second one ends
  EXPECT_EQ(std::count(text.begin(), text.end(), 'o'), 2 + 1);  // two points, and the legend
  EXPECT_NE(lines[1].find("10 |"), std::string::npos);
  EXPECT_NE(lines[13].find("50"), std::string::npos);
  for (const Plot& odd :
       {Plot{}, Plot{"one", "", "", {{"c", {{1, 1}}}}}, Plot{"n", "", "", {{"c", {{1, NAN}}}}}}) {
    EXPECT_FALSE(text_plot(odd, 40, 4).empty());
  }
}

TEST(TextPlot, SmoothingTakesMeansOfNeighbours) {
  const Curve curve = {"c", {{1, 2}, {2, 4}, {3, NAN}, {4, 6}, {5, 8}, {6, 1}}};
  const Curve smooth = smoothed(curve, 2);
  EXPECT_EQ(smooth.points, (std::vector<std::pair<double, double>>{{1.5, 3}, {4.5, 7}, {6, 1}}));
}

TEST(Flops, AreThoseOfTheFormulaInNumbers) {
  Config c;  // d 1024, L 24, H 8, f 2816, V 50304
  c.vocab_size = 50304;
  c.glu_width = 2816;
  // 6 (L (4 d^2 + 3 d f) + V d) + 3 L (2 d^2 / H + 1.5 C d)
  const double matrices = 24 * (4.0 * 1024 * 1024 + 3.0 * 1024 * 2816) + 50304.0 * 1024;
  const double recurrence = 24 * (2.0 * 1024 * 1024 / 8 + 1.5 * 64 * 1024);
  EXPECT_EQ(training_flops_per_token(c), 6 * matrices + 3 * recurrence);
  c.tie_word_embeddings = false;  // looking a row up costs nothing
  EXPECT_EQ(training_flops_per_token(c), 6 * matrices + 3 * recurrence);
}

TEST(Flops, PeaksOfGpusAreFoundByTheirDriversNames) {
  EXPECT_EQ(peak_tflops("NVIDIA H200"), 989.5);
  EXPECT_EQ(peak_tflops("NVIDIA H100 80GB HBM3"), 989.5);
  EXPECT_EQ(peak_tflops("NVIDIA H100 PCIe"), 756);
  EXPECT_EQ(peak_tflops("NVIDIA A100-SXM4-80GB"), 312);
  EXPECT_EQ(peak_tflops("NVIDIA L40S"), 362);
  EXPECT_EQ(peak_tflops("NVIDIA L40"), 181);
  EXPECT_EQ(peak_tflops("NVIDIA L4"), 121);
  EXPECT_EQ(peak_tflops("NVIDIA GeForce GTX 1080"), 0);
  EXPECT_EQ(peak_tflops(""), 0);
}

TEST(SpikeGuard, ScoresStandOutFromTheLast128Steps) {
  SpikeGuard guard;
  for (int i = 0; i < 128; ++i) {
    const auto z = guard.score(i % 2 == 0 ? 1 : 3, 5);
    EXPECT_EQ(z.loss, 0);
    EXPECT_EQ(z.norm, 0);
  }
  const auto z = guard.score(7, 5);  // mean 2, deviation 1
  EXPECT_NEAR(z.loss, 5, 1e-12);
  EXPECT_EQ(z.norm, 0);  // nothing varies
}

TEST(SpikeGuard, OnlyTheLast128StepsCount) {
  const auto loss = [](int step) { return step * step % 97 + 0.5 * step; };  // no two the same
  SpikeGuard guard, later;
  for (int step = 0; step < 300; ++step) guard.score(loss(step), 5);
  for (int step = 300 - 128; step < 300; ++step) later.score(loss(step), 5);
  for (int step = 300; step < 440; ++step) {
    ASSERT_EQ(guard.score(loss(step), 6).loss, later.score(loss(step), 6).loss) << step;
  }
}

TEST(BackgroundTask, WaitsForItsJobAndHandsOnWhatItThrew) {
  BackgroundTask task;
  int done = 0;
  for (int i = 0; i < 3; ++i) task.start([&done, i] { done = done == i ? i + 1 : -1; });
  task.wait();
  EXPECT_EQ(done, 3);
  task.start([] { throw Error("disk"); });
  EXPECT_THROW(task.wait(), Error);
  task.wait();  // said once
}

TEST(Progress, AResumedJobGoesAtThePaceOfWhatItDoesItself) {
  Pace pace;
  EXPECT_TRUE(std::isnan(pace.rate()));
  pace.update(901, 64, 10);  // of 1000: the first step after resuming, a slow one
  EXPECT_EQ(short_time(pace.seconds_left(1000)), "?");
  pace.update(911, 704, 20);
  EXPECT_DOUBLE_EQ(pace.rate(), 64);
  EXPECT_DOUBLE_EQ(pace.seconds_left(1000), 89);
  EXPECT_EQ(short_time(pace.seconds_left(0)), "?");  // standard input has no length
  pace.update(1000, 6400, 109);
  EXPECT_DOUBLE_EQ(pace.seconds_left(1000), 0);
}

TEST(Progress, NumbersAndTimesAreShort) {
  EXPECT_EQ(short_number(950), "950");
  EXPECT_EQ(short_number(12345), "12.3k");
  EXPECT_EQ(short_number(3.2e6), "3.20M");
  EXPECT_EQ(short_time(65), "1:05");
  EXPECT_EQ(short_time(3729), "1:02:09");
  EXPECT_EQ(short_time(NAN), "?");
}

}  // namespace
}  // namespace metala

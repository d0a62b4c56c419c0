// Training on prepared data: GPT-NeoX's samples as batches.
#include "metala/train/packed_task.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

#include "metala/base/error.h"
#include "metala/data/dataset_info.h"
#include "metala/data/prepare.h"
#include "metala/data/token_writer.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"
#include "metala/train/packed_data.h"

namespace metala {
namespace {

using harness::TemporaryFolder;
using Ids = std::vector<std::int32_t>;

// Documents of the format's example: 5, 3, 7, 1, 6 tokens; token = 100 document + position.
void write_example(const std::string& prefix, std::int32_t plus = 0) {
  TokenWriter writer(prefix, TokenType::u16);
  std::int32_t document = 0;
  for (const int length : {5, 3, 7, 1, 6}) {
    Ids tokens;
    for (int i = 0; i < length; ++i) tokens.push_back(100 * document + i + plus);
    writer.add(tokens);
    ++document;
  }
  writer.finish();
}

SampleOptions nine_samples() {
  SampleOptions o;
  o.length = 4;
  o.wanted = 9;
  return o;
}

SampleMix example(const std::string& prefix) {
  auto set = std::make_shared<const TokenDataset>(TokenDataset::open(prefix));
  return SampleMix::of_range(set, 0, set->documents(), nine_samples());
}

PackedTaskOptions options() {
  PackedTaskOptions o;
  o.length = 4;
  o.sequences = 2;
  o.vocabulary = 600;
  return o;
}

TEST(PackedTask, BatchesAreTheReferencesSamplesInOrder) {
  const TemporaryFolder folder;
  write_example(folder / "d");
  const PackedTask task(example(folder / "d"), {}, options());
  const LabelledBatch first = task.training_batch(0);
  EXPECT_EQ(first.ids, (Ids{300, 400, 401, 402, 205, 206, 400, 401}));
  EXPECT_EQ(first.labels, (Ids{400, 401, 402, 403, 206, 400, 401, 402}));
  EXPECT_EQ(first.offsets, (std::vector<std::int64_t>{0, 4, 8}));
  EXPECT_EQ(task.training_batch(1).ids[0], 100);
  EXPECT_EQ(task.training_batch(4).ids, first.ids);  // 9 samples fill 4 batches
  EXPECT_EQ(task.validation_batches(), 0);
}

TEST(PackedTask, SamplesOfWholeDocumentsAreFilledUpWithWhatIsNotLearned) {
  const TemporaryFolder folder;
  write_example(folder / "d");
  SampleOptions samples;
  samples.length = 8;
  samples.wanted = 6;
  samples.packing = Packing::until_overflow;
  const auto set = std::make_shared<const TokenDataset>(TokenDataset::open(folder / "d"));
  PackedTaskOptions o = options();
  o.length = 8;
  o.sequences = 1;
  const PackedTask task(SampleMix::of_range(set, 0, 5, samples), {}, o);
  // Sample 2 of them: documents 4 and 3, and the first token of document 1.
  const LabelledBatch first = task.training_batch(0);
  EXPECT_EQ(first.ids, (Ids{400, 401, 402, 403, 404, 405, 300, 100}));
  EXPECT_EQ(first.labels, (Ids{401, 402, 403, 404, 405, 300, 100, -100}));
  // The last one: document 2 alone.
  const LabelledBatch last = task.training_batch(2);
  EXPECT_EQ(last.ids, (Ids{200, 201, 202, 203, 204, 205, 206, 0}));
  EXPECT_EQ(last.labels, (Ids{201, 202, 203, 204, 205, 206, -100, -100}));
}

// Labels of the example: those of odd positions, in a dataset of their own.
void write_labels(const std::string& prefix, int last_length = 6) {
  TokenWriter writer(prefix, TokenType::i32);
  std::int32_t document = 0;
  for (const int length : {5, 3, 7, 1, last_length}) {
    Ids labels;
    for (int i = 0; i < length; ++i) labels.push_back(i % 2 == 1 ? 100 * document + i : -100);
    writer.add(labels);
    ++document;
  }
  writer.finish();
}

TEST(PackedTask, ADatasetOfLabelsSaysWhatIsLearned) {
  const TemporaryFolder folder;
  write_example(folder / "d");
  write_labels(folder / "l");
  const auto mix = [&](const char* labels) {
    return SampleMix::of_files({folder / "d"}, {}, nine_samples(), {folder / labels});
  };
  const LabelledBatch first = PackedTask(mix("l"), {}, options()).training_batch(0);
  EXPECT_EQ(first.ids, (Ids{300, 400, 401, 402, 205, 206, 400, 401}));
  EXPECT_EQ(first.labels, (Ids{-100, 401, -100, 403, -100, -100, 401, -100}));

  write_labels(folder / "short", 5);
  EXPECT_TRUE(harness::refuses([&] { mix("short"); }, "short: document 4 has 5 labels, in "));
}

// What has labels is learned by them, what has none whole.
TEST(PackedTask, DatasetsWithLabelsAndWithoutBlend) {
  const TemporaryFolder folder;
  write_example(folder / "d");
  write_labels(folder / "l");
  write_example(folder / "plain", 1000);
  const SampleMix mix =
      SampleMix::of_files({folder / "d", folder / "plain"}, {}, nine_samples(), {folder / "l", ""});
  PackedTaskOptions o = options();
  o.vocabulary = 2000;
  const PackedTask task(mix, {}, o);
  bool learned_whole = false;
  for (std::int64_t i = 0; i < 4; ++i) {
    const LabelledBatch batch = task.training_batch(i);
    for (std::size_t t = 0; t < batch.ids.size(); ++t) {
      const std::int32_t label = batch.labels[t];
      if (label >= 1000) {
        learned_whole = true;
      } else if (batch.ids[t] >= 1000) {
        ADD_FAILURE() << "token " << batch.ids[t] << " has label " << label;
      } else {
        EXPECT_TRUE(label == -100 || label % 2 == 1) << label;
      }
    }
  }
  EXPECT_TRUE(learned_whole);
}

TEST(PackedTask, ResettingAtDocumentsMakesThemSequencesWithoutALabelAtTheEnd) {
  const TemporaryFolder folder;
  write_example(folder / "d");
  PackedTaskOptions o = options();
  o.reset_at_documents = true;
  const LabelledBatch batch = PackedTask(example(folder / "d"), {}, o).training_batch(0);
  EXPECT_EQ(batch.offsets, (std::vector<std::int64_t>{0, 1, 4, 6, 8}));
  EXPECT_EQ(batch.labels, (Ids{-100, 401, 402, 403, 206, -100, 401, 402}));
}

TEST(PackedTask, WhatFollowsAnEndTokenIsNotLearnedWhenMasked) {
  const TemporaryFolder folder;
  write_example(folder / "d");
  PackedTaskOptions o = options();
  o.mask_after_end = true;
  o.end_id = 206;
  const LabelledBatch batch = PackedTask(example(folder / "d"), {}, o).training_batch(0);
  EXPECT_EQ(batch.labels, (Ids{400, 401, 402, 403, 206, -100, 401, 402}));
}

TEST(PackedTask, ValidationCountsTheBytesOfItsLabels) {
  const TemporaryFolder folder;
  write_example(folder / "d");
  PackedTaskOptions o = options();
  o.validation_batches = 3;
  o.bytes_of_id.assign(600, 1);
  o.bytes_of_id[403] = 10;
  const PackedTask task({}, example(folder / "d"), o);
  EXPECT_EQ(task.validation_batches(), 3);
  EXPECT_EQ(task.validation_batch(0).bytes, 17);
  EXPECT_THROW(task.training_batch(0), Error);
}

TEST(PackedTask, AnIdBeyondTheVocabularyIsRefusedWithItsDocument) {
  const TemporaryFolder folder;
  write_example(folder / "d");
  PackedTaskOptions o = options();
  o.vocabulary = 403;
  EXPECT_TRUE(harness::refuses([&] { PackedTask(example(folder / "d"), {}, o).training_batch(0); },
                               "document 4 holds id 403, the tokenizer has 403 ids"));
}

TEST(SampleMix, ABlendReadsItsCorporaByWeight) {
  const TemporaryFolder folder;
  write_example(folder / "a");
  write_example(folder / "b", 1000);
  const SampleMix mix = SampleMix::of_files({folder / "a", folder / "b"}, {3, 1}, nine_samples());
  int from_b = 0;
  for (std::int64_t i = 0; i < 8; ++i) {
    Ids tokens(5);
    mix.read(i, 2000, tokens);
    from_b += tokens[0] >= 1000 ? 1 : 0;
  }
  EXPECT_EQ(from_b, 2);
  EXPECT_EQ(mix.tokens(), 44);
  EXPECT_EQ(mix.epochs(), 2);  // ceil(9 3/4 1.005) = 7 samples of a take two
}

RunConfig config(const TemporaryFolder& folder) {
  RunConfig c;
  c.num_layers = 1;
  c.hidden_size = 32;
  c.num_attention_heads = 1;
  c.seq_length = 4;
  c.train_micro_batch_size_per_gpu = 1;
  c.train_iters = 4;
  c.eval_iters = 1;
  c.data_path = folder / "d";
  c.split = "4,1";
  c.save = "s";
  c.vocab_size = 600;
  return c;
}

TEST(PackedData, DocumentsAreSplitAndEpochsGiveTheNumberOfSteps) {
  const TemporaryFolder folder;
  write_example(folder / "d");
  RunConfig c = config(folder);
  settle(c, 1);
  PackedData data = open_packed_data(c);
  EXPECT_EQ(data.training.tokens(), 16);
  EXPECT_EQ(data.validation.tokens(), 6);
  EXPECT_EQ(data.test.size(), 0);
  EXPECT_EQ(data.training_task(c, 1)->validation_batches(), 1);
  c = config(folder);
  c.train_iters = 0;
  c.train_epochs = 3;
  settle(c, 1);
  open_packed_data(c);
  EXPECT_EQ(c.train_iters, 10);  // (3 16 - 1) div 4 = 11 samples, one of them never counted
  EXPECT_EQ(c.lr_decay_iters, 10);
}

TEST(PackedData, LabelsPreparedWithTheDataAreFoundAndMeanWhatTheirLinesSaid) {
  const TemporaryFolder folder;
  std::string lines;
  for (int d = 0; d < 40; ++d) {
    lines +=
        fmt::format(R"({{"ids": [{0}, {1}, 5], "labels": [{1}, -100, {0}]}})", d + 10, d + 100);
    lines += "\n";
  }
  folder.spill("in.jsonl", lines);
  PrepareOptions preparing;
  preparing.inputs = {folder / "in.jsonl"};
  preparing.prefix = folder / "d";
  prepare(preparing);
  for (const bool by_paths : {false, true}) {
    RunConfig c = config(folder);
    c.vocab_size = 0;
    c.split = "1,0";
    if (by_paths) c.train_data_paths = {std::exchange(c.data_path, "")};
    settle(c, 1);
    PackedData data = open_packed_data(c);
    const auto task = data.training_task(c, 1);
    std::int64_t learned = 0;
    for (std::int64_t i = 0; i < 30; ++i) {
      const LabelledBatch b = task->training_batch(i);
      for (std::size_t t = 0; t < b.ids.size(); ++t) {
        if (b.labels[t] < 0) continue;
        ++learned;
        const bool first = b.ids[t] >= 10 && b.ids[t] < 50;  // of a document
        EXPECT_TRUE(first ? b.labels[t] == b.ids[t] + 90 : b.ids[t] == 5) << b.ids[t];
      }
    }
    EXPECT_NEAR(static_cast<double>(learned), 30 * 4 * 2 / 4.0, 8);
  }
}

TEST(PackedData, ATokenizerThatDoesNotMatchTheDataIsRefused) {
  const TemporaryFolder folder;
  write_example(folder / "d");
  const auto refusal = [&](RunConfig c) {
    return harness::refusal_of([&] {
      settle(c, 1);
      open_packed_data(c);
    });
  };
  RunConfig c = config(folder);
  EXPECT_EQ(refusal(c), "accepted");
  c.vocab_size = 0;
  EXPECT_NE(refusal(c).find("metala.vocab_size"), std::string::npos);
  write_dataset_info(folder / "d", {5, 22, 22, 600, 2, "SentencePiece"});
  c.tokenizer = "bytes";
  EXPECT_NE(refusal(c).find("prepared with SentencePiece (600 ids), the tokenizer of this run has "
                            "259"),
            std::string::npos)
      << refusal(c);
}

TEST(PackedData, ATokenizerOfTheSameSizeWithOtherIdsIsRefused) {
  const TemporaryFolder folder;
  const auto learned = [&](const char* name, const std::string& words) {
    std::string lines;
    for (int i = 0; i < 200; ++i) {
      lines += fmt::format(R"({{"text": "{} {} number {} of many"}})", words, i % 7, i);
      lines += "\n";
    }
    folder.spill("in.jsonl", lines);
    PrepareOptions o;
    o.inputs = {folder / "in.jsonl"};
    o.prefix = folder / name;
    o.tokenizer = {"sentencepiece", 300};
    prepare(o);
  };
  learned("d", "a document about birds");
  learned("e", "one letter from overseas");
  RunConfig c = config(folder);
  c.vocab_size = 0;
  settle(c, 1);
  open_packed_data(c);
  for (const bool named : {true, false}) {
    RunConfig other = config(folder);
    other.vocab_size = 0;
    if (named) {
      other.tokenizer = tokenizer_folder(folder / "e");
    } else {
      other.data_path = "";
      other.train_data_paths = {folder / "e", folder / "d"};
    }
    settle(other, 1);
    const auto open = [&] { open_packed_data(other); };
    EXPECT_TRUE(harness::refuses(open, "d: id "));
    EXPECT_TRUE(harness::refuses(open, "in the tokenizer of this run for"));
  }
}

}  // namespace
}  // namespace metala

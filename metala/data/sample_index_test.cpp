// The order of samples is GPT-NeoX's, number for number.
#include "metala/data/sample_index.h"

#include <gtest/gtest.h>

#include <numeric>

#include "metala/base/error.h"
#include "metala/data/numpy_shuffle.h"
#include "metala/data/splits.h"
#include "metala/harness/refusal.h"

namespace metala {
namespace {

using Place = SampleIndex::Place;
using Numbers = std::vector<std::uint32_t>;

const std::vector<std::int64_t> lengths = {5, 3, 7, 1, 6};

SampleIndex indexed(const SampleOptions& options, const std::vector<std::int64_t>& of = lengths) {
  return {0, static_cast<std::int64_t>(of.size()),
          [&](std::int64_t d) { return of[static_cast<std::size_t>(d)]; }, options};
}

// Token = 100 document + position, the sample's label included.
template <class T>
std::vector<T> listed(std::span<const T> numbers) {
  return {numbers.begin(), numbers.end()};
}
auto order_of(const SampleIndex& index) {
  return listed(index.maps().order);
}
auto places_of(const SampleIndex& index) {
  return listed(index.maps().places);
}
auto visits_of(const SampleIndex& index) {
  return listed(index.maps().visits);
}

std::vector<std::int64_t> sample(const SampleIndex& index, std::int64_t i) {
  std::vector<std::int64_t> tokens;
  const Place last = index.last(i);
  for (Place at = index.first(i);;) {
    const auto document = index.document(at.document);
    if (at.offset < lengths[static_cast<std::size_t>(document)]) {
      tokens.push_back(100 * document + at.offset);
      if (at == last) return tokens;
      ++at.offset;
    } else {
      at = {at.document + 1, 0};
    }
  }
}

TEST(NumpyShuffle, ShufflesAsNumpyDoes) {
  std::mt19937 random(1234);
  for (const std::uint32_t first :
       {822569775u, 2137449171u, 2671936806u, 3512589365u, 1880026316u}) {
    EXPECT_EQ(random(), first);
  }
  const auto shuffled = [](std::uint32_t seed) {
    Numbers values(10);
    std::iota(values.begin(), values.end(), 0u);
    std::mt19937 generator(seed);
    numpy_shuffle(generator, std::span(values));
    return values;
  };
  EXPECT_EQ(shuffled(0), (Numbers{2, 8, 4, 9, 1, 6, 7, 3, 0, 5}));
  EXPECT_EQ(shuffled(42), (Numbers{8, 1, 5, 0, 7, 2, 9, 4, 3, 6}));
  EXPECT_EQ(shuffled(1234), (Numbers{7, 2, 9, 1, 0, 8, 4, 5, 6, 3}));
}

TEST(NumpyShuffle, LongRowsAreNumpysToo) {
  // numpy.random.RandomState(7).shuffle(numpy.arange(100000)), by NumPy 2.4.6
  Numbers values(100000);
  std::iota(values.begin(), values.end(), 0u);
  std::mt19937 random(7);
  numpy_shuffle(random, std::span(values));
  EXPECT_EQ(Numbers(values.begin(), values.begin() + 10),
            (Numbers{33909, 92307, 89107, 9538, 31008, 71305, 71012, 62938, 20435, 3703}));
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < values.size(); ++i) sum += i * values[i];
  EXPECT_EQ(sum, 250316905599413u);
}

TEST(NumpyShuffle, DrawsBeyond32BitsTakeTwoOutputsHighWordFirst) {
  std::mt19937 random(1234);
  const std::uint64_t most = (std::uint64_t{1} << 40) - 1;
  const std::uint64_t whole = std::uint64_t{822569775} << 32 | 2137449171u;
  EXPECT_EQ(numpy_below_or_equal(random, most), whole & most);
}

TEST(SampleIndex, UnshuffledSamplesAreCutEndToEndAndShareAToken) {
  SampleOptions options;
  options.length = 4;
  options.wanted = 5;
  options.shuffle = false;
  const SampleIndex index = indexed(options);
  EXPECT_EQ(index.epochs(), 1);
  EXPECT_EQ(places_of(index), (std::vector<Place>{{0, 0}, {0, 4}, {2, 0}, {2, 4}, {4, 0}, {4, 4}}));
}

TEST(SampleIndex, ShuffledSamplesAreTheReferences) {
  SampleOptions options;
  options.length = 4;
  options.wanted = 9;
  options.seed = 1234;
  const SampleIndex index = indexed(options);
  EXPECT_EQ(index.epochs(), 2);
  EXPECT_EQ(index.size(), 9);
  EXPECT_EQ(order_of(index), (Numbers{2, 2, 4, 1, 0, 3, 4, 0, 1, 3}));
  EXPECT_EQ(
      places_of(index),
      (std::vector<Place>{
          {0, 0}, {0, 4}, {1, 1}, {1, 5}, {2, 2}, {3, 0}, {4, 1}, {5, 0}, {6, 3}, {7, 1}, {8, 0}}));
  EXPECT_EQ(visits_of(index), (Numbers{7, 3, 5, 1, 4, 8, 0, 2, 6, 9}));
  EXPECT_EQ(sample(index, 0), (std::vector<std::int64_t>{300, 400, 401, 402, 403}));
  EXPECT_EQ(sample(index, 1), (std::vector<std::int64_t>{205, 206, 400, 401, 402}));
  EXPECT_EQ(sample(index, 2), (std::vector<std::int64_t>{100, 101, 102, 0, 1}));
  EXPECT_EQ(sample(index, 9), sample(index, 0));  // wraps around behind M - 1
}

// By numpy.random.RandomState (NumPy 2.4.6) and the rules of GPT-NeoX's gpt2_dataset.py.
TEST(SampleIndex, WholeDocumentsArePackedAsTheReferencePacksThem) {
  SampleOptions options;
  options.packing = Packing::until_overflow;
  options.length = 8;
  options.wanted = 6;
  const SampleIndex index = indexed(options);
  EXPECT_EQ(index.size(), 5);
  EXPECT_EQ(order_of(index), (Numbers{2, 0, 4, 3, 1, 0, 1, 2}));
  EXPECT_EQ(places_of(index),
            (std::vector<Place>{{0, 0}, {1, 0}, {2, 0}, {4, 0}, {6, 0}, {7, 0}, {8, 0}}));
  EXPECT_EQ(visits_of(index), (Numbers{2, 1, 5, 0, 4, 3}));

  options.length = 5;
  options.seed = 7;
  options.chopped = false;  // leaves out the document of seven tokens
  const SampleIndex whole = indexed(options);
  EXPECT_EQ(order_of(whole), (Numbers{3, 4, 1, 0, 4, 1}));
  EXPECT_EQ(visits_of(whole), (Numbers{3, 5, 0, 2, 1, 4}));

  options = {.length = 8, .wanted = 5, .packing = Packing::until_overflow};
  const SampleIndex useful(
      0, 5, [](std::int64_t d) { return lengths[static_cast<std::size_t>(d)]; }, options,
      [](std::int64_t d) { return d == 2; });
  EXPECT_EQ(order_of(useful), (Numbers{3, 1, 0, 4, 1, 3, 4, 0, 3, 1, 4}));
  EXPECT_EQ(places_of(useful),
            (std::vector<Place>{{0, 0}, {3, 0}, {5, 0}, {7, 0}, {10, 0}, {11, 0}}));

  options.chopped = false;
  options.length = 1;
  options.wanted = 2;
  EXPECT_THROW(indexed(options, {5, 3}), Error);  // no document fits
}

TEST(SampleIndex, UnpackedSamplesAreADocumentEach) {
  SampleOptions options;
  options.packing = Packing::unpacked;
  options.length = 8;
  options.wanted = 6;
  const SampleIndex index = indexed(options);
  EXPECT_EQ(order_of(index), (Numbers{0, 1, 2, 3, 4, 0, 1}));
  EXPECT_EQ(places_of(index),
            (std::vector<Place>{{0, 0}, {1, 0}, {2, 0}, {3, 0}, {4, 0}, {5, 0}, {6, 0}}));
  EXPECT_EQ(visits_of(index), (Numbers{2, 1, 5, 0, 4, 3}));
  EXPECT_EQ(index.epochs(), 2);
}

TEST(SampleIndex, AsManyEpochsAsTheSamplesNeedAndNoMore) {
  SampleOptions options;
  options.length = 4;
  options.wanted = 5;  // 22 tokens: 21 div 4 = 5
  EXPECT_EQ(indexed(options).epochs(), 1);
  options.wanted = 6;
  EXPECT_EQ(indexed(options).epochs(), 2);
  options.wanted = 0;
  options.epochs = 3;
  EXPECT_EQ(indexed(options).maps().places.size(), 17u);  // 65 div 4 = 16
}

TEST(SampleIndex, EmptyDocumentsHoldNoPlace) {
  SampleOptions options;
  options.length = 2;
  options.shuffle = false;
  const SampleIndex index = indexed(options, {0, 2, 0, 0, 3, 0});
  EXPECT_EQ(places_of(index), (std::vector<Place>{{0, 0}, {4, 0}, {4, 2}}));
}

TEST(SampleIndex, TooLittleTextIsRefused) {
  SampleOptions options;
  options.length = 4;
  EXPECT_EQ(indexed(options, {3, 2}).epochs(), 2);  // two samples at least
  options.epochs = 1;
  EXPECT_THROW(indexed(options, {3, 2}), Error);
  EXPECT_THROW(indexed(options, {0, 0}), Error);
  EXPECT_THROW(indexed(options, {}), Error);
}

TEST(SampleIndex, MoreThanCanBeCountedIsRefusedByName) {
  const auto refusal = [](const SampleOptions& options) {
    const auto million = [](std::int64_t) { return 1 << 20; };
    return harness::refusal_of([&] { packed_size(0, 2, million, options); });
  };
  const std::int64_t large = std::int64_t{1} << 52;
  EXPECT_NE(refusal({.length = 4096, .wanted = large}).find("samples times their length"),
            std::string::npos);
  EXPECT_NE(refusal({.length = large, .wanted = 4096}).find("samples times their length"),
            std::string::npos);
  EXPECT_NE(refusal({.length = 8, .epochs = large}).find("epochs times tokens"), std::string::npos);
}

TEST(Splits, DocumentsAreCutAsTheReferenceCutsThem) {
  using Borders = std::array<std::int64_t, 4>;
  EXPECT_EQ(split_documents("969, 30, 1", 1000), (Borders{0, 969, 999, 1000}));
  EXPECT_EQ(split_documents("969,30,1", 10), (Borders{0, 10, 10, 10}));
  EXPECT_EQ(split_documents("1/1/1", 10), (Borders{0, 4, 7, 10}));  // 3 + 3 + 3 falls 1 short
  EXPECT_EQ(split_documents("8,2", 10), (Borders{0, 8, 10, 10}));
  EXPECT_EQ(split_documents("1", 7), (Borders{0, 7, 7, 7}));
  for (const char* bad : {"", "a,b", "1,,2", "1,2,3,4", "-1,2", "0,0,0", "nan"}) {
    EXPECT_THROW(split_documents(bad, 10), Error) << bad;
  }
}

TEST(Blend, TheCorpusThatLagsMostComesNext) {
  const std::vector<double> weights = {3, 1};
  const Blend blend(weights, 8);
  std::vector<std::int64_t> corpora, samples;
  for (std::int64_t i = 0; i < 8; ++i) {
    corpora.push_back(blend[i].corpus);
    samples.push_back(blend[i].sample);
  }
  // Lags at i = 0: .75, .25; 1: -.25, .25; 2: .5, -.5; 3: .25, -.25; 4: 0, 0 (the first wins) ...
  EXPECT_EQ(corpora, (std::vector<std::int64_t>{0, 1, 0, 0, 0, 1, 0, 0}));
  EXPECT_EQ(samples, (std::vector<std::int64_t>{0, 0, 1, 2, 3, 1, 4, 5}));
  EXPECT_THROW(Blend(std::vector<double>{0, 0}, 3), Error);
  EXPECT_THROW(Blend(std::vector<double>{1, -1}, 3), Error);
}

TEST(Blend, WeightsByDocumentsAreTheReferences) {
  const std::vector<std::int64_t> documents = {60, 30, 10};
  const auto p = weights_by_documents(documents, 1);
  // p (1 - p): .24, .21, .09 over .54
  EXPECT_NEAR(p[0], 0.24 / 0.54, 1e-12);
  EXPECT_NEAR(p[1], 0.21 / 0.54, 1e-12);
  EXPECT_NEAR(p[2], 0.09 / 0.54, 1e-12);
}

}  // namespace
}  // namespace metala

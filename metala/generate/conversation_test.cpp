#include "metala/generate/conversation.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "metala/generate/beginning.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"
#include "metala/harness/test_models.h"

namespace metala {
namespace {

const char* const mark = "0123456789abcdef";

constexpr std::int32_t letters = 26;

// Every id is a letter, so that answers of a random model are readable text; other bytes are read
// as some letter.
class Letters : public Tokenizer {
 public:
  std::int64_t size() const override { return letters; }
  using Tokenizer::encode;
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions) const override {
    std::vector<std::int32_t> ids;
    for (const char c : text) {
      const bool letter = c >= 'a' && c <= 'z';
      ids.push_back(letter ? c - 'a' : static_cast<unsigned char>(c) % letters);
    }
    return ids;
  }
  std::string_view bytes(std::int32_t id) const override {
    return std::string_view("abcdefghijklmnopqrstuvwxyz").substr(static_cast<std::size_t>(id), 1);
  }
  std::string piece(std::int32_t id) const override { return std::string(bytes(id)); }
  std::int32_t bos() const override { return 0; }
  std::int32_t eos() const override { return 1; }
  std::int32_t pad() const override { return 0; }
  std::string description() const override { return "letters"; }
  void save(const std::string&) const override { fail("the letters cannot be saved"); }
};

Config letter_config() {
  Config config = testing_models::small_config();
  config.vocab_size = letters;
  return config;
}

// A random model's answers are noise, but each letter depends on everything read before.
class ConversationTest : public testing::Test {
 protected:
  ConversationTest()
      : model_(letter_config(), testing_models::lively_parameters(letter_config(), DType::f32)) {}

  Conversation conversation() const {
    Conversation made(model_, tokenizer_, mark, plain_layout);
    made.options.max_tokens = 12;
    made.options.sampling.seed = 5;
    return made;
  }

  // What an undisturbed reader of the whole text predicts next.
  std::vector<float> prediction(const std::string& text) const {
    auto ids = tokenizer_.encode(text);
    if (model_.config().add_bos_token) {
      ids.insert(ids.begin(), model_.config().bos_token_id);
    }
    State state(model_.config(), 1);
    Arena arena;
    const std::vector<std::int64_t> offsets = {0, static_cast<std::int64_t>(ids.size())};
    model_.advance(arena, {ids, offsets}, state);
    const float* logits = state.logits().data<float>();
    return {logits, logits + state.logits().count()};
  }

  LanguageModel model_;
  Letters tokenizer_;
  harness::TemporaryFolder folder_;
  Conversation::Show silent_ = [](std::string_view) { return true; };
};

TEST_F(ConversationTest, PlainLayoutNamesTheRoles) {
  EXPECT_EQ(plain_layout({{"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Yo"}}),
            "System: Be brief.\nUser: Hi\nAssistant: Yo\nAssistant:");
}

TEST_F(ConversationTest, ATurnReadsOnlyWhatIsNew) {
  // A layout without stripping, so that the answer continues the text that was read.
  Conversation c(model_, tokenizer_, mark, [](const std::vector<Message>& messages) {
    std::string text;
    for (const auto& m : messages) text += m.role == "user" ? "<" + m.text + ">" : m.text;
    return text;
  });
  c.options.max_tokens = 12;
  c.answer("a first message of some length", silent_);
  const auto first = c.cost().read;
  c.answer("b", silent_);
  EXPECT_EQ(first, 32);
  EXPECT_EQ(c.cost().read, 3);
}

// Letters that remember how they were asked, and stand behind a `b` as whole texts.
class RememberingLetters : public Letters {
 public:
  using Tokenizer::encode;
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options) const override {
    asked.push_back(options);
    return Letters::encode(text, options);
  }
  Frame frame() const override { return {{1}, {}}; }

  mutable std::vector<EncodeOptions> asked;
};

TEST_F(ConversationTest, LayoutsAreReadWithTheirSpecialTokensAndAsOneText) {
  const RememberingLetters remembering;
  Conversation c(model_, remembering, mark, [](const std::vector<Message>& messages) {
    std::string text;
    for (const auto& m : messages) text += m.text;
    return text;
  });
  c.options.max_tokens = 3;
  c.framed = true;
  c.answer("one", silent_);
  EXPECT_EQ(c.cost().read, 4);  // the frame's b and three letters
  c.answer("two", silent_);
  EXPECT_EQ(c.cost().read, 3);
  ASSERT_EQ(remembering.asked.size(), 2u);
  EXPECT_TRUE(remembering.asked[0].special && remembering.asked[1].special);
  EXPECT_FALSE(remembering.asked[0].continues);
  EXPECT_TRUE(remembering.asked[1].continues);
}

TEST(Beginning, StandsInFrontOnceAndTheTokenizersGoesBeforeTheConfigurations) {
  Config config;
  const auto begun = [&](std::vector<std::int32_t> ids, std::vector<std::int32_t> before) {
    put_beginning(ids, std::move(before), config, 7);
    return ids;
  };
  using Ids = std::vector<std::int32_t>;
  config.add_bos_token = false;
  EXPECT_EQ(begun({5}, {}), (Ids{5}));
  EXPECT_EQ(begun({}, {}), (Ids{7}));
  EXPECT_EQ(begun({5}, {1, 2}), (Ids{1, 2, 5}));
  EXPECT_EQ(begun({1, 2, 5}, {1, 2}), (Ids{1, 2, 5}));
  config.add_bos_token = true;
  EXPECT_EQ(begun({5}, {}), (Ids{7, 5}));
  EXPECT_EQ(begun({7, 5}, {}), (Ids{7, 5}));
  EXPECT_EQ(begun({5}, {1}), (Ids{1, 5}));
}

TEST_F(ConversationTest, UndoLeavesNoTrace) {
  auto disturbed = conversation();
  auto straight = conversation();
  disturbed.answer("one", silent_);
  straight.answer("one", silent_);
  disturbed.answer("two", silent_);
  EXPECT_EQ(disturbed.undo(), "two");
  EXPECT_EQ(disturbed.messages(), straight.messages());
  disturbed.options.sampling.temperature = 0;
  straight.options.sampling.temperature = 0;
  EXPECT_TRUE(disturbed.answer("three", silent_) == straight.answer("three", silent_));
}

TEST_F(ConversationTest, UndoTakesBackTheFirstMessageOfALayoutThatWantsOne) {
  Conversation c(model_, tokenizer_, mark, [](const std::vector<Message>& messages) {
    require(messages.back().role == "user", "nobody asks");
    return plain_layout(messages);
  });
  c.options.max_tokens = 3;
  c.set_system("be terse");
  c.answer("one", silent_);
  EXPECT_EQ(c.undo(), "one");
  EXPECT_EQ(c.messages(), (std::vector<Message>{{"system", "be terse"}}));
  EXPECT_EQ(c.tokens(), 0);
}

TEST_F(ConversationTest, RegenerateDrawsAnotherAnswerFromTheSameState) {
  auto c = conversation();
  const std::string first = c.answer("tell me", silent_);
  const std::string second = c.regenerate(silent_);
  EXPECT_FALSE(first == second);
  EXPECT_EQ(c.messages().size(), 2u);
  EXPECT_EQ(c.cost().read, 0);
  c.options.sampling.temperature = 0;
  const std::string greedy = c.regenerate(silent_);
  auto fresh = conversation();
  fresh.options.sampling.temperature = 0;
  EXPECT_TRUE(fresh.answer("tell me", silent_) == greedy);
}

TEST_F(ConversationTest, AForkDoesNotDisturbItsOrigin) {
  auto trunk = conversation();
  auto undisturbed = conversation();
  trunk.answer("one", silent_);
  undisturbed.answer("one", silent_);
  auto branch = trunk;
  branch.answer("another way", silent_);
  EXPECT_TRUE(trunk.answer("two", silent_) == undisturbed.answer("two", silent_));
}

TEST_F(ConversationTest, ARestoredConversationContinuesIdentically) {
  auto c = conversation();
  c.set_system("be terse");
  c.answer("one", silent_);
  c.answer("two", silent_);
  const std::string file = folder_ / "talk.safetensors";
  c.save(file);
  auto restored = conversation();
  restored.load(file);
  EXPECT_EQ(restored.messages(), c.messages());
  EXPECT_EQ(restored.tokens(), c.tokens());
  auto again = conversation();
  again.load(file);
  EXPECT_TRUE(restored.answer("three", silent_) == c.answer("three", silent_));
  // The saved file also holds where the last answer began: drawing it again reads nothing.
  again.regenerate(silent_);
  EXPECT_EQ(again.cost().read, 0);
}

// An answer that ends with an end token, and one that ends within a character: what is saved is
// what the text says.
TEST_F(ConversationTest, ASavedConversationStandsWhereItsTextEnds) {
  auto c = conversation();
  c.options.sampling.temperature = 0;
  const std::string free = c.answer("one", silent_);
  for (const char last : {free.back(), free[2]}) {
    auto ended = conversation();
    ended.options.sampling.temperature = 0;
    ended.options.end_ids = {last - 'a'};
    const std::string cut = ended.answer("one", silent_);
    EXPECT_EQ(cut, free.substr(0, free.find(last)));
    const std::string file = folder_ / std::string(1, last);
    ended.save(file);
    auto restored = conversation();
    restored.load(file);
    restored.options = ended.options;
    EXPECT_TRUE(restored.answer("two", silent_) == ended.answer("two", silent_));
  }
}

TEST_F(ConversationTest, AnAnswerThatEndsWithinACharacterIsReadAgain) {
  const auto bytes = byte_tokenizer();
  Config config = letter_config();
  config.vocab_size = bytes->size();
  const LanguageModel model(config, testing_models::lively_parameters(config, DType::f32));
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Conversation c(model, *bytes, mark, plain_layout);
    c.options.max_tokens = 3;  // noise, much of it beginnings of characters
    c.options.sampling.seed = seed;
    c.answer("one", silent_);
    const std::string file = folder_ / "bytes";
    c.save(file);
    Conversation restored(model, *bytes, mark, plain_layout);
    restored.load(file);
    c.options.sampling.temperature = restored.options.sampling.temperature = 0;
    EXPECT_TRUE(restored.answer("two", silent_) == c.answer("two", silent_)) << seed;
  }
}

// One letter is a special token, which adds nothing to a text.
class LettersWithASpecialOne : public Letters {
 public:
  explicit LettersWithASpecialOne(std::int32_t id) : special_(id) {}
  std::string_view bytes(std::int32_t id) const override {
    return id == special_ ? std::string_view() : Letters::bytes(id);
  }

 private:
  std::int32_t special_;
};

TEST_F(ConversationTest, SpecialTokensWithinAnAnswerAreNotRemembered) {
  // Without stripping, so that the answer continues the text that was read.
  const auto layout = [](const std::vector<Message>& messages) {
    std::string all;
    for (const auto& m : messages) all += m.role == "user" ? "<" + m.text + ">" : m.text;
    return all;
  };
  Conversation c(model_, tokenizer_, mark, layout);
  c.options.max_tokens = 12;
  c.options.sampling.temperature = 0;
  const std::string free = c.answer("one", silent_);
  const LettersWithASpecialOne special(free[2] - 'a');
  Conversation other(model_, special, mark, layout);
  other.options = c.options;
  EXPECT_LT(other.answer("one", silent_).size(), free.size());
  other.options.max_tokens = 0;
  other.answer("two", silent_);
  EXPECT_EQ(other.tokens(), static_cast<std::int64_t>(layout(other.messages()).size()));
}

TEST_F(ConversationTest, TheStateHasReadExactlyTheLayout) {
  auto c = conversation();
  c.options.sampling.temperature = 0;
  c.answer("one", silent_);
  const std::string answer = c.answer("two", silent_);
  const std::string prompt =
      plain_layout({c.messages().begin(), c.messages().end() - 1});  // without the last answer
  const auto expected = prediction(prompt);
  const auto best = std::max_element(expected.begin(), expected.end()) - expected.begin();
  ASSERT_EQ(answer.size(), 12u);
  EXPECT_EQ(answer.front() - 'a', best);
}

TEST_F(ConversationTest, AnAnswerCutShortStays) {
  auto c = conversation();
  int pieces = 0;
  const std::string cut = c.answer("one", [&](std::string_view) { return ++pieces < 3; });
  EXPECT_EQ(c.messages().back().text, cut);
  EXPECT_LT(c.cost().drawn, 12);
  c.answer("two", silent_);
  EXPECT_EQ(c.messages().size(), 4u);
}

TEST_F(ConversationTest, NumbersThatAConversationCannotHaveAreRefused) {
  auto c = conversation();
  c.answer("one", silent_);
  const std::string file = folder_ / "talk";
  c.save(file);
  State::Metadata metadata;
  const State state = State::load(file, model_.config(), mark, &metadata);
  const std::string told = metadata.at("conversation");
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = told;
    const auto at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    changed.replace(at, from.size(), to);
    state.save(file, mark, {{"conversation", changed}});
    auto other = conversation();
    return harness::refusal_of([&] { other.load(file); }) == "accepted" ? "accepted" : "refused";
  };
  EXPECT_STREQ(with("\"seed\":5", "\"seed\":6"), "accepted");
  for (const char* number : {"-1", "1e300", "1.5", "\"6\"", "null"}) {
    EXPECT_STREQ(with("\"seed\":5", std::string("\"seed\":") + number), "refused") << number;
    EXPECT_STREQ(with("\"max_tokens\":12", std::string("\"max_tokens\":") + number), "refused")
        << number;
    EXPECT_STREQ(with("\"top_k\":0", std::string("\"top_k\":") + number), "refused") << number;
    EXPECT_STREQ(with("\"answers\":1", std::string("\"answers\":") + number), "refused") << number;
  }
}

TEST_F(ConversationTest, RefusesWhatCannotBe) {
  auto c = conversation();
  EXPECT_THROW(c.undo(), Error);
  EXPECT_THROW(c.regenerate(silent_), Error);
  EXPECT_THROW(c.save(folder_ / "empty"), Error);
  c.answer("one", silent_);
  const std::string file = folder_ / "talk";
  c.save(file);
  Conversation other(model_, tokenizer_, "fedcba9876543210", plain_layout);
  EXPECT_THROW(other.load(file), Error);
  State state(model_.config(), 1);
  const std::string bare = folder_ / "bare";
  state.save(bare, mark);
  EXPECT_THROW(c.load(bare), Error);
  EXPECT_EQ(c.messages().size(), 2u);  // nothing changed
}

}  // namespace
}  // namespace metala

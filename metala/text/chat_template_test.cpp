#include "metala/text/chat_template.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "metala/base/error.h"
#include "metala/harness/fixed_time.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"
#include "metala/io/file.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

using harness::fixed_now;
using harness::refusal_of;
using nlohmann::ordered_json;

const std::string goldens = METALA_SOURCE_DIR "/tests/chat_templates";

ordered_json hello() {
  return ordered_json::array({{{"role", "user"}, {"content", "Hello"}}});
}

std::vector<std::filesystem::path> golden_templates() {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(goldens)) {
    if (entry.path().extension() == ".jinja") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

ChatRequest request_of(const ordered_json& conversation, bool add_generation_prompt) {
  ChatRequest request;
  request.messages = conversation["messages"];
  if (conversation.contains("tools")) request.tools = conversation["tools"];
  if (conversation.contains("documents")) request.documents = conversation["documents"];
  if (conversation.contains("extras")) request.extras = conversation["extras"];
  request.add_generation_prompt = add_generation_prompt;
  return request;
}

TEST(ChatTemplate, EveryStyleOfTemplateGivesTheReferencesText) {
  const auto conversations =
      ordered_json::parse(read_file(goldens + "/conversations.json", 1 << 20));
  const auto templates = golden_templates();
  ASSERT_GE(templates.size(), 15u);
  int texts = 0;
  for (const auto& path : templates) {
    const ChatTemplate chat(read_file(path, 1 << 20), "T",
                            {{"bos_token", "<s>"}, {"eos_token", "</s>"}});
    auto golden_path = path;
    golden_path.replace_extension(".json");
    const auto cases = ordered_json::parse(read_file(golden_path, 1 << 20));
    ASSERT_EQ(cases.size(), 2 * conversations.size()) << path;
    for (std::size_t i = 0; i < cases.size(); ++i) {
      const auto& golden = cases[i];
      const bool prompt = golden["add_generation_prompt"].get<bool>();
      const ChatRequest request = request_of(conversations[i / 2], prompt);
      std::string text;
      const std::string error = refusal_of([&] { text = chat.render(request, {{}, fixed_now()}); });
      const auto where =
          path.filename().string() + ", " + golden["conversation"].get<std::string>();
      if (golden.contains("text")) {
        EXPECT_EQ(error, "accepted") << where;
        EXPECT_EQ(text, golden["text"].get<std::string>()) << where;
        ++texts;
      } else if (golden.contains("refused")) {
        EXPECT_TRUE(error.ends_with("the template refuses these messages: " +
                                    golden["refused"].get<std::string>()))
            << where << ": " << error;
      } else {
        EXPECT_TRUE(error.starts_with("T: line ")) << where << ": " << error << text;
      }
    }
  }
  EXPECT_GT(texts, 300);
}

TEST(ChatTemplate, ErrorsNameTheTemplateAndItsLine) {
  EXPECT_EQ(refusal_of([] { ChatTemplate("\n{% if %}", "a.jinja"); }),
            "a.jinja: line 2: '%}' where an expression is expected");
  const ChatTemplate chat("\n\n{{ raise_exception('no ' + messages[0].role) }}", "a.jinja");
  EXPECT_EQ(refusal_of([&] { chat.render({.messages = hello()}); }),
            "a.jinja: line 3: the template refuses these messages: no user");
}

TEST(ChatTemplate, ErrorsAreOneLineThatATerminalDoesNotObey) {
  const ChatTemplate chat(
      "{{ raise_exception('\\nno\\x1b[2J \\x9b2J \u00e9' ~ messages[0].content) }}", "a.jinja");
  EXPECT_EQ(refusal_of([&] { chat.render({.messages = hello()}); }),
            "a.jinja: line 1: the template refuses these messages:  no?[2J ?2J \u00e9Hello");
  EXPECT_EQ(refusal_of([] { ChatTemplate("{{ a '\x1b\n' }}", "a.jinja"); }),
            "a.jinja: line 1: '? ' where '}}' is expected");
  std::string accents;
  for (int i = 0; i < 60; ++i) accents += "\u00e9";
  const std::string error =
      refusal_of([&] { ChatTemplate("{{ a '" + accents + "' }}", "a.jinja"); });
  EXPECT_EQ(valid_utf8_prefix(error), error.size()) << error;
}

TEST(ChatTemplate, RequestsThatAreNotMessagesAreRefused) {
  const ChatTemplate chat("x", "a.jinja");
  EXPECT_EQ(refusal_of([&] { chat.render({.messages = "Hello"}); }),
            "chat: messages is not a list");
  EXPECT_EQ(refusal_of([&] { chat.render({.messages = ordered_json::array({1})}); }),
            "chat: messages[0] is not an object");
  EXPECT_EQ(refusal_of([&] { chat.render({.messages = hello(), .tools = 1}); }),
            "chat: tools is not a list");
  EXPECT_EQ(refusal_of([&] { chat.render({.messages = hello(), .extras = 1}); }),
            "chat: extras are not an object");
}

TEST(ChatTemplate, ExtrasReplaceSpecialTokensButNeverTheMessages) {
  const ChatTemplate chat("{{ bos_token }}{{ messages|length }}{{ tools }}{{ documents }}", "a",
                          {{"bos_token", "<s>"}});
  EXPECT_EQ(chat.render({.messages = hello()}), "<s>1NoneNone");
  const ordered_json extras = {{"bos_token", "<b>"}, {"messages", ordered_json::array()}};
  EXPECT_EQ(chat.render({.messages = hello(), .extras = extras}), "<b>1NoneNone");
}

TEST(ChatTemplateLoader, AFolderWithoutTemplateHasNone) {
  const harness::TemporaryFolder folder;
  EXPECT_FALSE(load_chat_template(folder.path()).has_value());
  folder.spill("tokenizer_config.json", R"({"chat_template": null, "bos_token": "<s>"})");
  EXPECT_FALSE(load_chat_template(folder.path()).has_value());
}

TEST(ChatTemplateLoader, SpecialTokensAreTextsOrObjects) {
  const harness::TemporaryFolder folder;
  folder.spill("tokenizer_config.json",
               R"({"chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}",
            "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false},
            "pad_token": null})");
  EXPECT_EQ(load_chat_template(folder.path())->render({.messages = hello()}), "<s></s>False");
}

TEST(ChatTemplateLoader, NamedTemplatesAreChosenByTheRequestsTools) {
  const harness::TemporaryFolder folder;
  folder.spill("tokenizer_config.json",
               R"({"chat_template": [{"name": "default", "template": "plain"},
                              {"name": "tool_use", "template": "tools {{ tools|length }}"}]})");
  const auto chat = load_chat_template(folder.path());
  EXPECT_EQ(chat->render({.messages = hello()}), "plain");
  EXPECT_EQ(chat->render({.messages = hello(), .tools = hello()}), "tools 1");
}

TEST(ChatTemplateLoader, FilesWinOverTheConfiguration) {
  const harness::TemporaryFolder folder;
  folder.spill("tokenizer_config.json", R"({"chat_template": "config", "bos_token": "<s>"})");
  folder.spill("chat_template.jinja", "file {{ bos_token }}\n");
  EXPECT_EQ(load_chat_template(folder.path())->render({.messages = hello()}), "file <s>");
  std::filesystem::create_directory(folder / "additional_chat_templates");
  folder.spill("additional_chat_templates/tool_use.jinja", "file with tools");
  const auto chat = load_chat_template(folder.path());
  EXPECT_EQ(chat->render({.messages = hello(), .tools = hello()}), "file with tools");
  EXPECT_EQ(chat->render({.messages = hello()}), "file <s>");
}

TEST(ChatTemplateLoader, ErrorsNameTheFileAndTheField) {
  const harness::TemporaryFolder folder;
  const std::string path = folder / "tokenizer_config.json";
  const std::string long_template =
      R"({"chat_template": ")" + std::string((1 << 20) + 1, 'x') + "\"}";
  const std::pair<const char*, const char*> cases[] = {
      {"{", ": "},
      {"[]", ": not a JSON object"},
      {R"({"chat_template": 1})",
       ": chat_template is neither a text nor a list of {name, template}"},
      {R"({"chat_template": [{"name": "default"}]})",
       ": chat_template[0] lacks a text \"name\" or \"template\""},
      {R"({"chat_template": [{"name": "rag", "template": "x"}]})",
       ": chat_template has no template named \"default\""},
      {R"({"chat_template": [{"name": "default", "template": "x"},
                             {"name": "default", "template": "y"}]})",
       ": chat_template has \"default\" twice"},
      {R"({"chat_template": [{"name": "default", "template": "x"},
                             {"name": "\u001b[2J", "template": "y"},
                             {"name": "\u001b[2J", "template": "y"}]})",
       ": chat_template has \"?[2J\" twice"},
      {long_template.c_str(), ": chat_template has 1048577 bytes; at most 1048576 are read"},
      {R"({"chat_template": "x", "bos_token": 1})",
       ": bos_token is neither a text nor an object with a text \"content\""},
      {R"({"chat_template": "{% if %}"})",
       ": chat_template: line 1: '%}' where an expression is expected"},
  };
  for (const auto& [config, message] : cases) {
    folder.spill("tokenizer_config.json", config);
    const std::string error = refusal_of([&] { load_chat_template(folder.path()); });
    EXPECT_TRUE(error.starts_with(path + message)) << error;
  }
}

}  // namespace
}  // namespace metala

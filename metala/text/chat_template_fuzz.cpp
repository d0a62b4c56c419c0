// Any bytes as a chat template: refused with an Error, or rendered with one, within small limits.
#include <cstddef>
#include <cstdint>
#include <string>

#include "metala/base/error.h"
#include "metala/text/chat_template.h"

namespace {

// A conversation with something of everything that templates look at.
metala::ChatRequest request() {
  metala::ChatRequest request;
  request.messages = nlohmann::ordered_json::parse(R"([
      {"role": "system", "content": " Be brief. "},
      {"role": "user", "content": [{"type": "text", "text": "caf\u00e9"}]},
      {"role": "assistant", "content": "", "tool_calls": [
          {"id": "1", "function": {"name": "f", "arguments": {"x": [1, 2.5, null, true]}}}]},
      {"role": "tool", "content": "<think>4</think>5"}])");
  request.tools = nlohmann::ordered_json::parse(R"([{"type": "function", "function": {
      "name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "array"}}}}}])");
  return request;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const metala::ChatRequest everything = request();
  const metala::jinja::RenderOptions options{{.steps = 20'000, .bytes = 1 << 20}, 0};
  try {
    const std::string source(reinterpret_cast<const char*>(data), size);
    const metala::ChatTemplate chat(source, "fuzz", {{"bos_token", "<s>"}});
    chat.render(everything, options);
  } catch (const metala::Error&) {
  }
  return 0;
}

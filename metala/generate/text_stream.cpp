#include "metala/generate/text_stream.h"

#include <algorithm>

namespace metala {
namespace {

// Length of the longest end of `text` that is a proper beginning of `stop`.
std::size_t overlap(const std::string& text, const std::string& stop) {
  std::size_t n = std::min(text.size(), stop.size() - 1);
  for (; n > 0; --n) {
    if (text.compare(text.size() - n, n, stop, 0, n) == 0) break;
  }
  return n;
}

}  // namespace

std::string TextStream::push(std::int32_t id) {
  const std::string text =
      utf8_.push(begins_ ? tokenizer_->first_bytes(id) : tokenizer_->bytes(id));
  begins_ = begins_ && !tokenizer_->begins_text(id);
  return release(tokenizer_->cleans_up_spaces() ? clean_up_.push(text) : text, false);
}

std::string TextStream::flush() {
  const std::string text = utf8_.flush();
  if (!tokenizer_->cleans_up_spaces()) return release(text, true);
  std::string last = clean_up_.push(text);
  last += clean_up_.flush();
  return release(last, true);
}

std::string TextStream::release(const std::string& text, bool all) {
  if (stopped_) return {};
  held_ += text;
  std::size_t end = std::string::npos;
  std::size_t keep = 0;
  for (const auto& stop : stops_) {
    if (stop.empty()) continue;
    end = std::min(end, held_.find(stop));
    if (!all) keep = std::max(keep, overlap(held_, stop));
  }
  if (end != std::string::npos) {
    stopped_ = true;
    std::string before = held_.substr(0, end);
    held_.clear();
    return before;
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

}  // namespace metala

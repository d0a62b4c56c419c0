#include "metala/data/prepare.h"

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "metala/base/error.h"
#include "metala/base/ordered_pipeline.h"
#include "metala/data/dataset_info.h"
#include "metala/data/token_writer.h"
#include "metala/io/file.h"
#include "metala/io/input_stream.h"
#include "metala/io/json.h"

namespace metala {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::size_t most_examples = 5;
constexpr const char* mixed =
    "documents with labels and documents without cannot be one dataset; prepare them apart and "
    "blend them";

std::string note_path(const std::string& prefix) {
  return prefix + ".prepare.json";
}

// What must be the same when a job goes on.
ordered_json fingerprint(const PrepareOptions& o) {
  ordered_json j;
  j["text_field"] = o.documents.text_field;
  j["replace_invalid"] = o.documents.replace_invalid;
  j["format"] = static_cast<int>(o.documents.format);
  j["tokenizer"] = o.tokenizer.name;
  if (o.tokenizer.name == "sentencepiece") j["vocabulary"] = o.tokenizer.vocabulary;
  j["append_end"] = o.append_end;
  for (const auto& file : document_files(o.inputs, o.documents.format)) {
    j["files"].push_back({file.path, file.bytes});
  }
  return j;
}

ordered_json as_json(const PrepareReport& r) {
  ordered_json j;
  j["documents"] = r.documents;
  j["tokens"] = r.tokens;
  j["empty"] = r.empty;
  j["text_bytes"] = r.text_bytes;
  j["consumed"] = r.consumed;
  j["malformed"] = r.malformed;
  j["examples"] = r.examples;
  return j;
}

PrepareReport report_from(const nlohmann::json& j) {
  PrepareReport r;
  j.at("documents").get_to(r.documents);
  j.at("tokens").get_to(r.tokens);
  j.at("empty").get_to(r.empty);
  j.at("text_bytes").get_to(r.text_bytes);
  j.at("consumed").get_to(r.consumed);
  j.at("malformed").get_to(r.malformed);
  j.at("examples").get_to(r.examples);
  return r;
}

// A block's documents as tokens, and what it adds to the report.
struct EncodedBlock {
  std::vector<std::int32_t> tokens, labels;  // labels: none, or as many
  std::vector<std::size_t> ends;             // of each document, in `tokens`
  PrepareReport adds;
  DocumentPosition end;
};

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const PrepareEvents& events)
      : o_(options), events_(events) {}

  PrepareReport run() {
    require(o_.threads >= 1, "data: {} threads; wanted 1 or more", o_.threads);
    refuse_what_is_there();
    if (o_.resume && fs::exists(note_path(o_.prefix))) {
      go_on();
    } else {
      begin();
    }
    if (o_.append_end) {
      require(tokenizer_->eos() >= 0,
              "the tokenizer ({}) has no end token to close documents with; pass --no-end",
              tokenizer_->description());
    }
    const TokenType type = token_type_for(tokenizer_->size());
    writer_.emplace(o_.prefix, type, TokenPosition{report_.documents, report_.tokens});
    if (labelled_) open_labels();
    try {
      read_and_write();
    } catch (...) {
      try {
        note();
      } catch (const Error&) {  // the older note still holds
      }
      throw;
    }
    report_.finished = !stopped_;
    if (stopped_) {
      note();
    } else {
      finish();
    }
    return report_;
  }

 private:
  void refuse_what_is_there() const {
    if (o_.overwrite) return;
    require(!fs::exists(o_.prefix + ".idx"),
            "{}.idx: is there already; choose another --output, or pass --overwrite", o_.prefix);
    require(o_.resume || !fs::exists(note_path(o_.prefix)),
            "{}: an unfinished dataset is there; pass --resume to go on with it, or --overwrite",
            o_.prefix);
  }

  void begin() {
    tokenizer_ = choose_tokenizer(o_.tokenizer, o_.inputs, o_.documents);
    std::error_code failure;
    const std::string folder = unfinished_tokenizer();
    fs::remove_all(folder, failure);
    fs::create_directories(folder, failure);
    require(!failure, "{}: cannot create: {}", folder, failure.message());
    tokenizer_->save(folder);
  }

  // Where the tokenizer waits for the end of the job: a dataset that is overwritten keeps its own
  // until then.
  std::string unfinished_tokenizer() const { return tokenizer_folder(o_.prefix) + ".partial"; }

  void publish_tokenizer() const {
    const std::string from = unfinished_tokenizer(), to = tokenizer_folder(o_.prefix);
    if (!fs::exists(from)) return;  // this job was stopped after it, and resumed
    std::error_code failure;
    fs::remove_all(to, failure);
    fs::rename(from, to, failure);
    require(!failure, "{}: cannot rename: {}", from, failure.message());
  }

  void go_on() {
    const std::string path = note_path(o_.prefix);
    constexpr std::size_t largest = std::size_t{256} << 20;
    const auto note = parse_json(read_file(path, largest), path);
    try {
      const nlohmann::json before = note.at("options");
      const nlohmann::json now = fingerprint(o_);
      for (const auto& [key, value] : now.items()) {
        require(before.value(key, nlohmann::json()) == value,
                "{}: was begun with other {}; resume with the same inputs and options", o_.prefix,
                key);
      }
      report_ = report_from(note.at("report"));
      note.at("position").at("file").get_to(position_.file);
      note.at("position").at("offset").get_to(position_.offset);
      note.at("position").at("line").get_to(position_.line);
      labelled_ = note.value("labels", false);
    } catch (const nlohmann::json::exception& e) {
      fail("{}: is damaged: {}; pass --overwrite to begin again", path, e.what());
    }
    const std::string waiting = unfinished_tokenizer();
    tokenizer_ = open_tokenizer(fs::exists(waiting) ? waiting : tokenizer_folder(o_.prefix));
  }

  void read_and_write() {
    DocumentReader reader(document_files(o_.inputs, o_.documents.format), position_);
    const auto take = [&](DocumentBlock& block) {
      if (events_.interrupted && events_.interrupted()) {
        stopped_ = true;
        return false;
      }
      return reader.next(block);
    };
    ordered_pipeline<DocumentBlock, EncodedBlock>(
        o_.threads, take, [&](DocumentBlock block) { return encoded(block); },
        [&](EncodedBlock block) { write(block); });
  }

  EncodedBlock encoded(const DocumentBlock& block) const {
    EncodedBlock out;
    out.end = block.end;
    out.adds.consumed = block.consumed;
    const auto malformed = [&](Malformed kind, const std::string& message) {
      ++out.adds.malformed[static_cast<std::size_t>(kind)];
      if (out.adds.examples.size() < most_examples) out.adds.examples.push_back(message);
    };
    const auto take = [&](const Document& document) {
      if (document.text.empty() && document.ids.empty()) {
        ++out.adds.empty;
        return;
      }
      const bool labelled = !document.ids.empty();
      require(out.ends.empty() || labelled == !out.labels.empty(), "{}: {}", block.path, mixed);
      if (labelled) {
        add_labelled(document, block.path, out);
      } else {
        const auto ids = tokenizer_->encode(document.text);
        out.tokens.insert(out.tokens.end(), ids.begin(), ids.end());
        out.adds.text_bytes += document.text.size();
      }
      if (o_.append_end) out.tokens.push_back(tokenizer_->eos());
      out.ends.push_back(out.tokens.size());
    };
    if (o_.skip_malformed) {
      for_each_document(block, o_.documents, take, malformed);
    } else {
      for_each_document(block, o_.documents, take);
    }
    return out;
  }

  // Its ids, its labels where they are looked up, and the end token's.
  void add_labelled(const Document& document, const std::string& path, EncodedBlock& out) const {
    const auto check = [&](const char* field, const std::vector<std::int32_t>& numbers) {
      for (const auto n : numbers) {
        require(n < tokenizer_->size(),
                "{}: {} hold {}; the tokenizer ({}) has ids from 0 to {}; name theirs with "
                "--tokenizer",
                path, field, n, tokenizer_->description(), tokenizer_->size() - 1);
      }
    };
    check("ids", document.ids);
    check("labels", document.labels);
    out.tokens.insert(out.tokens.end(), document.ids.begin(), document.ids.end());
    out.labels.push_back(-100);
    out.labels.insert(out.labels.end(), document.labels.begin(), document.labels.end());
    if (!o_.append_end) {
      require(out.labels.back() == -100,
              "{}: a document's last label is {}, and there is no token after it to hold it; leave "
              "--no-end out",
              path, out.labels.back());
      out.labels.pop_back();
    }
    for (const auto id : document.ids) out.adds.text_bytes += tokenizer_->bytes(id).size();
  }

  void open_labels() {
    const std::string prefix = labels_prefix(o_.prefix);
    require(o_.overwrite || o_.resume || !fs::exists(prefix + ".idx"),
            "{}.idx: is there already; choose another --output, or pass --overwrite", prefix);
    labels_.emplace(prefix, TokenType::i32, TokenPosition{report_.documents, report_.tokens});
  }

  void write(const EncodedBlock& block) {
    if (!block.ends.empty()) {
      const bool labelled = !block.labels.empty();
      if (report_.documents == 0 && labelled && !labels_) open_labels();
      require(labelled == labels_.has_value(), "{}: {}", o_.prefix, mixed);
    }
    std::size_t begin = 0;
    for (const std::size_t end : block.ends) {
      writer_->add(std::span(block.tokens).subspan(begin, end - begin));
      if (labels_) labels_->add(std::span(block.labels).subspan(begin, end - begin));
      begin = end;
    }
    report_.documents = writer_->position().sequences;
    report_.tokens = writer_->position().tokens;
    report_.empty += block.adds.empty;
    report_.text_bytes += block.adds.text_bytes;
    report_.consumed = block.adds.consumed;
    for (std::size_t i = 0; i < report_.malformed.size(); ++i) {
      report_.malformed[i] += block.adds.malformed[i];
    }
    for (const auto& message : block.adds.examples) {
      if (report_.examples.size() < most_examples) report_.examples.push_back(message);
    }
    position_ = block.end;
    if (events_.progress) events_.progress(report_);
    if (report_.text_bytes - noted_ >= o_.note_every) note();
  }

  void note() {
    writer_->sync();
    if (labels_) labels_->sync();
    noted_ = report_.text_bytes;
    ordered_json j;
    j["options"] = fingerprint(o_);
    j["report"] = as_json(report_);
    j["position"] = {
        {"file", position_.file}, {"offset", position_.offset}, {"line", position_.line}};
    if (labels_) j["labels"] = true;
    write_file_atomically(note_path(o_.prefix),
                          j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  }

  void finish() {
    require(report_.documents > 0, "{}: the inputs hold no document{}", o_.prefix,
            report_.examples.empty() ? "" : " that is well formed; " + report_.examples.front());
    std::error_code ignored;
    fs::remove(o_.prefix + ".idx", ignored);  // what is replaced is whole no longer
    publish_tokenizer();
    write_dataset_info(o_.prefix, {report_.documents, report_.tokens, report_.text_bytes,
                                   tokenizer_->size(), o_.append_end ? tokenizer_->eos() : -1,
                                   tokenizer_->description(), labels_.has_value()});
    writer_->finish(labels_ ? &*labels_ : nullptr);
    fs::remove(note_path(o_.prefix), ignored);
  }

  const PrepareOptions& o_;
  const PrepareEvents& events_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<TokenWriter> writer_, labels_;
  bool labelled_ = false;  // what a noted job had written
  PrepareReport report_;
  DocumentPosition position_;
  std::uint64_t noted_ = 0;
  bool stopped_ = false;
};

}  // namespace

std::int64_t PrepareReport::left_out() const {
  return std::accumulate(malformed.begin(), malformed.end(), empty);
}

std::uint64_t prepare_bytes(const PrepareOptions& o) {
  std::uint64_t total = 0;
  for (const auto& file : document_files(o.inputs, o.documents.format)) {
    if (file.path == InputStream::standard_input) return 0;
    total += file.bytes;
  }
  return total;
}

PrepareReport prepare(const PrepareOptions& options, const PrepareEvents& events) {
  return Preparation(options, events).run();
}

}  // namespace metala

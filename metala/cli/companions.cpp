#include "metala/cli/companions.h"

#include <cstddef>
#include <filesystem>

#include "metala/io/file.h"

namespace metala::cli {

Companions read_companions(const std::string& folder) {
  constexpr std::size_t largest = std::size_t{16} << 20;
  Companions found;
  for (const char* name : {"generation_config.json", "chat_template.jinja", "chat_template.json"}) {
    const std::string path = folder + "/" + name;
    if (std::filesystem::is_regular_file(path)) found.emplace(name, read_file(path, largest));
  }
  return found;
}

void write_companions(const Companions& files, const std::string& folder) {
  for (const auto& [name, text] : files) write_file_atomically(folder + "/" + name, text);
}

}  // namespace metala::cli
